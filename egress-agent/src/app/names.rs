//! What the maps do not hold of the endpoints and the gateway: names, and what holds its process. In a
//! file, for `status`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::app::{instance::Contained, lock, plan::Plan};

/// What the file holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Names {
    /// The version of the file.
    pub schema: String,
    /// Every endpoint.
    pub endpoints: Vec<Named>,
    /// What the gateway is held by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Contained>,
}

/// One endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Named {
    /// Its number.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// What is configured of it and not there.
    pub waits_for: Vec<String>,
}

/// The file of an instance.
fn path(instance: &str) -> PathBuf {
    lock::folder().join(format!("{instance}.json"))
}

/// Writes it anew, in one step.
///
/// # Errors
/// The folder cannot be written.
pub fn write(instance: &str, plan: &Plan, gateway: Contained) -> io::Result<()> {
    let endpoints = plan.endpoints.iter().map(|endpoint| Named {
        id: endpoint.state.id,
        name: endpoint.name.clone(),
        waits_for: endpoint.waits_for(),
    });
    let names = Names {
        schema: "egress-agent.dev/names/v1".to_owned(),
        endpoints: endpoints.collect(),
        gateway: Some(gateway),
    };
    let path = path(instance);
    fs::write(new(&path), serde_json::to_vec(&names)?)?;
    fs::rename(new(&path), path)
}

/// Where it is written before it is in its place.
fn new(path: &Path) -> PathBuf {
    path.with_extension("json~")
}

/// Reads it; nothing where it is not there.
pub fn read(instance: &str) -> Names {
    let read = fs::read(path(instance)).ok();
    read.and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default()
}

/// Removes it, if it is there.
pub fn remove(instance: &str) {
    let path = path(instance);
    // An agent that was killed while it wrote has left the other.
    for path in [new(&path), path] {
        drop(fs::remove_file(path));
    }
}
