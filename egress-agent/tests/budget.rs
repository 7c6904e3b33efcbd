//! The verifier's budget: how many instructions it walks for each program, by kernel. It gives up
//! at a million, and long before that each start costs time. Needs root.
//!
//! `budget/<major>.<minor>.txt` holds what was recorded; a kernel without a file of its own is held
//! to the newest one. `UPDATE_BUDGET=1` records anew: `UPDATE_BUDGET=1 cargo test -p egress-agent
//! --test budget` for this kernel, and `UPDATE_BUDGET=1 cargo xtask test --kernel 6.1 budget` for
//! one of the matrix.
//!
//! The depth of the stack is not recorded: the kernel tells it in the verifier's log alone, which
//! aya asks for only when a program was refused. Too deep a stack is such a refusal.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

use egress_agent::enforcer::probe::Probe;

/// How much a program may grow until somebody must have a look: by a tenth.
const TOLERANCE: u32 = 10;

/// Instructions by program.
type Table = BTreeMap<String, u32>;

/// Major and minor.
type Version = (u32, u32);

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/budget")
}

fn this_kernel() -> Version {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    version(&release).unwrap()
}

/// `(6, 12)` of `6.12.txt` and of `6.12.117+deb12-cloud-amd64`.
fn version(text: &str) -> Option<Version> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next()?.parse().ok();
    Some((next()?, next()?))
}

fn file(version: Version) -> PathBuf {
    folder().join(format!("{}.{}.txt", version.0, version.1))
}

/// The kernel whose record holds for this one: its own, or the newest.
fn recorded(kernel: Version) -> Version {
    let files = fs::read_dir(folder()).unwrap();
    let versions = files.filter_map(|entry| version(entry.unwrap().file_name().to_str()?));
    let versions: Vec<_> = versions.collect();
    match versions.contains(&kernel) {
        true => kernel,
        false => versions.into_iter().max().expect("a record"),
    }
}

fn read(version: Version) -> Table {
    let text = fs::read_to_string(file(version)).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let entries = lines.map(|line| {
        let (name, count) = line.split_once(' ').unwrap();
        (name.to_owned(), count.trim().parse().unwrap())
    });
    entries.collect()
}

fn write(version: Version, table: &Table) {
    let mut text = String::from("# Instructions that the verifier walks: see ../budget.rs.\n");
    for (name, count) in table {
        text.push_str(&format!("{name} {count}\n"));
    }
    fs::write(file(version), text).unwrap();
}

/// What this kernel's verifier did.
fn measured() -> Table {
    let probe = Probe::load().expect("root, to load programs");
    assert!(probe.refused().is_empty(), "{:?}", probe.refused());
    let counts = probe.verified_instructions();
    assert_eq!(counts.len(), probe.count(), "{counts:?}");
    counts
}

#[test]
fn no_program_grows_unseen() {
    let kernel = this_kernel();
    let measured = measured();
    if env::var_os("UPDATE_BUDGET").is_some() {
        return write(kernel, &measured);
    }
    let of = recorded(kernel);
    let budget = read(of);
    let names = |table: &Table| table.keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        names(&measured),
        names(&budget),
        "record with UPDATE_BUDGET=1"
    );
    let grown = measured.iter().filter(|(name, count)| {
        let budget = budget[*name];
        **count > budget + budget / TOLERANCE
    });
    let grown: Vec<_> = grown
        .map(|(name, count)| format!("{name}: {count}, recorded {}", budget[name]))
        .collect();
    assert!(
        grown.is_empty(),
        "the verifier walks more than a tenth further than recorded for Linux {}.{}: {grown:#?}; \
         make them smaller, or say in the commit why not and record with UPDATE_BUDGET=1",
        of.0,
        of.1,
    );
}

#[test]
fn versions() {
    assert_eq!(version("6.12.117+deb12-cloud-amd64\n"), Some((6, 12)));
    assert_eq!(version("6.1.txt"), Some((6, 1)));
    assert_eq!(version("README"), None);
    assert_eq!(recorded((6, 1)), (6, 1));
    assert!(recorded((5, 4)) >= (6, 12), "the newest");
}
