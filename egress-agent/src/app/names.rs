//! What the maps do not hold of the endpoints: their names. In a file, for `status`.

use std::{fs, io, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::app::{lock, plan::Plan};

/// What the file holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Names {
    /// The version of the file.
    pub schema: String,
    /// Every endpoint.
    pub endpoints: Vec<Named>,
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
pub fn write(instance: &str, plan: &Plan) -> io::Result<()> {
    let endpoints = plan.endpoints.iter().map(|endpoint| Named {
        id: endpoint.state.id,
        name: endpoint.name.clone(),
        waits_for: endpoint.waits_for(),
    });
    let names = Names {
        schema: "egress-agent.dev/names/v1".to_owned(),
        endpoints: endpoints.collect(),
    };
    let path = path(instance);
    let new = path.with_extension("json~");
    fs::write(&new, serde_json::to_vec(&names)?)?;
    fs::rename(new, path)
}

/// Reads it; nothing where it is not there.
pub fn read(instance: &str) -> Names {
    let read = fs::read(path(instance)).ok();
    read.and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default()
}

/// Removes it, if it is there.
pub fn remove(instance: &str) {
    drop(fs::remove_file(path(instance)));
}
