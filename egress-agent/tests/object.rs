//! The BPF object's contents: these programs, these maps, and nothing else. What is new there needs
//! a line here.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};

use aya_obj::{Map, Object, generated::bpf_map_type};
use egress_agent::enforcer::{OBJECT, attach};
use egress_common::maps;
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, SectionFlags, SymbolKind};

/// Name, section, and the hook: enum bpf_attach_type in include/uapi/linux/bpf.h.
const PROGRAMS: [(&str, &str, u32); 17] = [
    ("egress_sock_create", "cgroup/sock_create", 2),
    ("egress_connect4", "cgroup/connect4", 10),
    ("egress_connect6", "cgroup/connect6", 11),
    ("egress_sendmsg4", "cgroup/sendmsg4", 14),
    ("egress_sendmsg6", "cgroup/sendmsg6", 15),
    ("egress_recvmsg4", "cgroup/recvmsg4", 19),
    ("egress_recvmsg6", "cgroup/recvmsg6", 20),
    ("egress_getpeername4", "cgroup/getpeername4", 29),
    ("egress_getpeername6", "cgroup/getpeername6", 30),
    ("egress_skb_egress", "cgroup_skb/egress", 1),
    ("egress_skb_ingress", "cgroup_skb/ingress", 0),
    ("egress_link_out", "classifier", 46),
    ("egress_link_in", "classifier", 47),
    ("gateway_skb_ingress", "cgroup_skb/ingress", 0),
    ("gateway_sock_ops", "sockops", 3),
    ("gateway_getsockopt", "cgroup/getsockopt", 21),
    ("gateway_setsockopt", "cgroup/setsockopt", 22),
];

/// Sections that the kernel gets besides the programs': functions that these call, the maps in
/// both styles, the licence, and constants, which are a map. Other data sections would be maps, too.
const OTHER_SECTIONS: [&str; 5] = [".text", ".maps", "maps", "license", ".rodata"];

/// What a map is made of: type, bytes of a key, bytes of a value, entries.
type Shape = (bpf_map_type, u32, u32, u32);

/// The perf event array gets an entry per CPU at load; socket storage has no bound of its own.
const MAPS: [(&str, Shape); 21] = {
    use bpf_map_type::{
        BPF_MAP_TYPE_ARRAY as ARRAY, BPF_MAP_TYPE_ARRAY_OF_MAPS as ARRAY_OF_MAPS,
        BPF_MAP_TYPE_HASH as HASH, BPF_MAP_TYPE_LPM_TRIE as LPM_TRIE,
        BPF_MAP_TYPE_PERCPU_ARRAY as PER_CPU_ARRAY,
        BPF_MAP_TYPE_PERF_EVENT_ARRAY as PERF_EVENT_ARRAY, BPF_MAP_TYPE_SK_STORAGE as SK_STORAGE,
    };
    [
        ("CONFIG", (ARRAY, 4, 56, 1)),
        ("ENDPOINTS", (ARRAY, 4, 32, 1_024)),
        ("CGROUPS", (HASH, 8, 4, 4_096)),
        ("LINKS", (HASH, 4, 64, 1_024)),
        ("ADDRESSES", (HASH, 20, 1, 16_384)),
        ("DIRECT4", (ARRAY_OF_MAPS, 4, 4, 2_048)),
        ("DIRECT6", (ARRAY_OF_MAPS, 4, 4, 2_048)),
        ("NETWORKS", (LPM_TRIE, 20, 1, 4_096)),
        ("REACH", (LPM_TRIE, 20, 1, 65_536)),
        ("NAMED", (ARRAY, 4, 8_192, 1)),
        ("REPLIES", (LPM_TRIE, 28, 1, 65_536)),
        ("OWNERS", (HASH, 16, 4, 16_384)),
        ("PORTS", (ARRAY, 4, 4, 131_072)),
        ("FLOWS", (ARRAY_OF_MAPS, 4, 4, 1_024)),
        ("OPENING", (ARRAY_OF_MAPS, 4, 4, 1_024)),
        ("ORIGINS", (ARRAY_OF_MAPS, 4, 4, 1_024)),
        ("SOCKETS", (SK_STORAGE, 4, 240, 0)),
        ("ACCEPTED", (SK_STORAGE, 4, 72, 0)),
        ("COUNTERS", (PER_CPU_ARRAY, 4, 8, 65_536)),
        ("REPORTS", (ARRAY_OF_MAPS, 4, 4, 1_024)),
        ("EVENTS", (PERF_EVENT_ARRAY, 4, 4, 0)),
    ]
};

/// What each endpoint has for itself, as the enforcer makes it.
const PER_ENDPOINT: [(&str, Shape); 4] = {
    use bpf_map_type::{BPF_MAP_TYPE_HASH as HASH, BPF_MAP_TYPE_LRU_HASH as LRU_HASH};
    [
        (maps::FLOWS, (HASH, 24, 16, maps::MAX_FLOWS)),
        (maps::OPENING, (LRU_HASH, 24, 16, maps::MAX_OPENING)),
        (maps::ORIGINS, (LRU_HASH, 20, 96, maps::MAX_ORIGINS)),
        (maps::REPORTS, (HASH, 24, 24, maps::MAX_REPORTS)),
    ]
};

/// What each agent has for itself: the level and texts of aya-log, and the ring for what is said.
const NOT_PINNED: [&str; 2] = [".rodata", "AYA_LOGS"];

/// Bytes of keys and values that all maps hold together when they are full, counting one CPU, without
/// the kernel's own overhead per entry and what comes by endpoint and by set.
const MEMORY_BUDGET: u64 = 8 << 20;

fn elf() -> object::File<'static> {
    object::File::parse(OBJECT).unwrap()
}

fn object() -> Object {
    Object::parse(OBJECT).unwrap()
}

fn shape(map: &Map) -> Shape {
    let kind = bpf_map_type::try_from(map.map_type()).ok();
    let kind = kind.expect("a map type that the loader knows");
    (kind, map.key_size(), map.value_size(), map.max_entries())
}

/// Of keys and values when it is full.
fn bytes(map: &Map) -> u64 {
    u64::from(map.max_entries()) * u64::from(map.key_size() + map.value_size())
}

/// Every function outside `.text` is a program, whether or not a loader knows its kind.
#[test]
fn these_programs() {
    let elf = elf();
    let found: BTreeSet<_> = elf
        .symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.is_definition())
        .filter_map(|symbol| {
            let section = elf.section_by_index(symbol.section_index()?).unwrap();
            Some((symbol.name().unwrap(), section.name().unwrap()))
        })
        .filter(|(_, section)| *section != ".text")
        .collect();
    let wanted = PROGRAMS.map(|(name, section, _)| (name, section));
    assert_eq!(found, BTreeSet::from(wanted));
}

#[test]
fn the_loader_sees_every_program() {
    let object = object();
    let found: BTreeSet<_> = object.programs.keys().map(String::as_str).collect();
    assert_eq!(found, PROGRAMS.map(|(name, ..)| name).into());
}

#[test]
fn every_program_has_its_hook() {
    let wanted = PROGRAMS.map(|(name, _, hook)| (name, hook));
    let hooks: Vec<_> = attach::hooks().collect();
    assert_eq!(hooks.len(), PROGRAMS.len(), "one hook twice: {hooks:?}");
    assert_eq!(BTreeSet::from_iter(hooks), wanted.into());
}

#[test]
fn these_maps() {
    let object = object();
    let found: BTreeMap<_, _> = object
        .maps
        .iter()
        .map(|(name, map)| (name.as_str(), shape(map)))
        .collect();
    for (name, wanted) in MAPS {
        assert_eq!(found.get(name), Some(&wanted), "{name}");
    }
    let names: BTreeSet<_> = found.into_keys().collect();
    let wanted = MAPS.iter().map(|(name, _)| *name);
    assert_eq!(names, wanted.chain(NOT_PINNED).collect());
}

#[test]
fn every_map_is_pinned() {
    let pinned: BTreeSet<_> = maps::PINNED.iter().copied().collect();
    assert_eq!(pinned, MAPS.map(|(name, _)| name).into());
}

#[test]
fn full_maps_stay_in_the_budget() {
    let object = object();
    let all: u64 = object.maps.values().map(bytes).sum();
    assert!(all <= MEMORY_BUDGET, "{all} bytes of {MEMORY_BUDGET}");
}

#[test]
fn tables_of_direct_entries_may_be_of_any_size() {
    use bpf_map_type::BPF_MAP_TYPE_ARRAY as ARRAY;
    for (name, bytes) in [(maps::DIRECT4, 64), (maps::DIRECT6, 192)] {
        let inner = object().maps[name].inner().expect("a map in a map");
        assert_eq!(shape(&inner), (ARRAY, 4, bytes, 1));
        assert_eq!(inner.map_flags(), maps::TABLE);
    }
}

/// Bytes of keys and values in an endpoint's own maps when they are full.
const BUDGET_OF_AN_ENDPOINT: u64 = 512 << 10;

#[test]
fn each_endpoint_has_maps_of_its_own() {
    let object = object();
    let inner = |name: &str| object.maps[name].inner().expect("a map in a map");
    for (name, wanted) in PER_ENDPOINT {
        assert_eq!(shape(&inner(name)), wanted, "{name}");
    }
    assert_eq!(PER_ENDPOINT.map(|(name, _)| name), maps::PER_ENDPOINT);
    let all: u64 = maps::PER_ENDPOINT
        .map(|name| bytes(&inner(name)))
        .iter()
        .sum();
    assert!(all <= BUDGET_OF_AN_ENDPOINT, "{all} bytes");
}

#[test]
fn the_kernel_gets_nothing_else() {
    /// SHF_ALLOC (the System V ABI): what is part of the image.
    const ALLOC: u64 = 2;
    let elf = elf();
    let is_part = |flags| matches!(flags, SectionFlags::Elf { sh_flags } if sh_flags & ALLOC != 0);
    let found: BTreeSet<_> = elf
        .sections()
        .filter(|section| is_part(section.flags()))
        .map(|section| section.name().unwrap())
        .collect();
    let programs = PROGRAMS.iter().map(|(_, section, _)| *section);
    assert_eq!(found, programs.chain(OTHER_SECTIONS).collect());
}

/// The kernel hands helpers such as `bpf_sk_storage_get` to GPL-compatible programs alone, and
/// knows this text as one of those (license_is_gpl_compatible in include/linux/license.h).
#[test]
fn the_licence_is_compatible_with_the_gpl() {
    let object = object();
    assert_eq!(object.license.as_c_str(), c"Dual MIT/GPL");
    for (name, program) in &object.programs {
        assert_eq!(program.license, object.license, "{name}");
    }
}

#[test]
fn type_information_is_there() {
    let object = object();
    assert!(object.btf.is_some(), "no .BTF: socket storage needs it");
    assert!(object.btf_ext.is_some(), "no .BTF.ext");
}
