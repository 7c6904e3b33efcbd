//! What the fuzzers begin with: the packets of the tests, captured hellos, a few queries.

use std::{fs, path::Path};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query},
    rr::{Name, RecordType},
};

use crate::{packet, packets::table};

/// Names a directory, to which a target writes its seeds before it reads its corpus.
pub const DIRECTORY: &str = "EGRESS_FUZZ_SEEDS";

/// Writes seeds to the directory that the environment names, if it does.
///
/// # Panics
/// Where that fails.
pub fn write(seeds: impl FnOnce() -> Vec<Vec<u8>>) {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    for (number, seed) in seeds().into_iter().enumerate() {
        let file = Path::new(&directory).join(format!("seed-{number:04}"));
        fs::write(&file, seed).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    }
}

/// For the target `packet`: each packet of the tests in the usual world.
pub fn packets() -> Vec<Vec<u8>> {
    let cases = table::packets().into_iter().chain(table::frames());
    cases
        .map(|case| [&[packet::FRAME, 0], &case.frame[..]].concat())
        .collect()
}

/// For the target `client_hello`: what real clients sent, and lists of names.
pub fn client_hellos() -> Vec<Vec<u8>> {
    let hellos = captured(true).chain(name_lists());
    hellos.chain(odd_records()).map(in_reads).collect()
}

/// For the target `request_line`: what real clients sent without TLS.
pub fn request_lines() -> Vec<Vec<u8>> {
    captured(false).map(in_reads).collect()
}

fn in_reads(bytes: Vec<u8>) -> Vec<u8> {
    [vec![0, 9], bytes].concat()
}

/// What was captured, hellos or all else.
fn captured(hellos: bool) -> impl Iterator<Item = Vec<u8>> {
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../src/gateway/detect/captured"
    );
    let files = fs::read_dir(folder).unwrap_or_else(|e| panic!("{folder}: {e}"));
    let paths = files.map(|file| file.unwrap().path());
    let captured = paths.filter(|path| path.extension().is_some_and(|kind| kind == "bin"));
    let contents = captured.map(|path| fs::read(path).unwrap());
    contents.filter(move |bytes| (bytes[0] == 22) == hellos)
}

/// Hellos in records of another version, and behind a warning.
fn odd_records() -> impl Iterator<Item = Vec<u8>> {
    let of_major = |major| {
        name_lists().map(move |mut hello| {
            hello[1] = major;
            hello
        })
    };
    let warning = [21, 3, 1, 0, 2, 1, 90];
    let behind = name_lists().map(move |hello| [&warning[..], &hello].concat());
    of_major(0).chain(of_major(2)).chain(behind)
}

/// No, one, two and three names; then two extensions of one name each.
fn name_lists() -> impl Iterator<Item = Vec<u8>> {
    let list = |names: &[&str]| {
        let entry = |name: &&str| [&[0, 0, name.len() as u8], name.as_bytes()].concat();
        let entries: Vec<u8> = names.iter().flat_map(entry).collect();
        let [outer, inner] = [entries.len() + 2, entries.len()].map(|length| length as u8);
        [&[0, 0, 0, outer, 0, inner], &entries[..]].concat()
    };
    let names = ["a.test", "b.test", "c.test"];
    let lists = (0..=names.len()).map(move |count| list(&names[..count]));
    let twice = [list(&names[..1]), list(&names[1..2])].concat();
    lists.chain([twice]).map(|extensions| hello(&extensions))
}

/// The shortest hello of one record with extensions of less than 200 bytes.
fn hello(extensions: &[u8]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0, 0, extensions.len() as u8]);
    body.extend(extensions);
    let [record, message] = [body.len() + 4, body.len()].map(|length| length as u8);
    [&[22, 3, 1, 0, record, 1, 0, 0, message], &body[..]].concat()
}

/// For the target `http`: requests of every framing, and some that are refused.
pub fn requests() -> Vec<Vec<u8>> {
    [
        "GET /a/../b?c=1 HTTP/1.1\r\nHost: A.test.:80\r\nConnection: x, close\r\nX: y\r\n\r\nGET",
        "GET http://a.test/%41 HTTP/1.0\r\nHost: a.test\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\nabcGET",
        "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0a\r\n0123456789\r\n0\r\nX: 1\r\n\r\nGET",
        "GET / HTTP/1.1\r\nHost: a.test\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding : chunked\r\nContent-Length: 3\r\n\r\nabc",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ]
    .iter()
    .map(|request| [&[0, 9], request.as_bytes()].concat())
    .collect()
}

/// For the target `dns`: questions of the usual types, with and without EDNS.
pub fn queries() -> Vec<Vec<u8>> {
    let types = [
        RecordType::A,
        RecordType::AAAA,
        RecordType::HTTPS,
        RecordType::TXT,
    ];
    let mut seeds = Vec::new();
    for (number, kind) in types.into_iter().enumerate() {
        let name = Name::from_ascii("Api.repo.test.").unwrap();
        let mut message = Message::new(number as u16, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(name, kind));
        message.metadata.recursion_desired = true;
        seeds.push([vec![2], message.to_vec().unwrap()].concat());
        message.set_edns(Edns::new());
        seeds.push([vec![200], message.to_vec().unwrap()].concat());
    }
    seeds
}
