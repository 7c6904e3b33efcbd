//! What real clients sent first: `captured/README.md` says how it came here.

use std::{collections::BTreeMap, fs, path::Path};

use serde::Deserialize;

/// What a client sent before it waited for the server.
pub(super) struct Capture {
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
    /// What other implementations read, if it is a hello.
    pub(super) hello: Option<Hello>,
}

/// As tshark and ja4plus read it.
#[derive(Deserialize)]
pub(super) struct Hello {
    pub(super) server_name: Option<String>,
    /// The first eight.
    pub(super) alpn: Vec<String>,
    legacy_version: String,
    supported_versions: Vec<String>,
    pub(super) ech: bool,
    pub(super) ja4: String,
}

#[derive(Deserialize)]
struct Entry {
    hello: Option<Hello>,
}

impl Hello {
    /// The versions, as records show them.
    pub(super) fn versions(&self) -> Vec<&str> {
        let all = match self.supported_versions.as_slice() {
            [] => std::slice::from_ref(&self.legacy_version),
            all => all,
        };
        let shown = all.iter().map(|version| match version.as_str() {
            "0x0304" => "1.3",
            "0x0303" => "1.2",
            "0x0302" => "1.1",
            "0x0301" => "1.0",
            other => other,
        });
        shown.filter(|version| !version.ends_with('a')).collect()
    }
}

pub(super) fn all() -> Vec<Capture> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gateway/detect/captured");
    let index = fs::read_to_string(folder.join("captured.json")).unwrap();
    let index: BTreeMap<String, Entry> = serde_json::from_str(&index).unwrap();
    let read = |(name, entry): (String, Entry)| Capture {
        bytes: fs::read(folder.join(&name).with_extension("bin")).unwrap(),
        name,
        hello: entry.hello,
    };
    index.into_iter().map(read).collect()
}

/// Those that are hellos.
pub(super) fn hellos() -> impl Iterator<Item = (Capture, Hello)> {
    all().into_iter().filter_map(|mut capture| {
        let hello = capture.hello.take()?;
        Some((capture, hello))
    })
}
