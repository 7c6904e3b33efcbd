//! The programs in this kernel, attached to nothing and pinned nowhere: what `BPF_PROG_TEST_RUN`
//! makes of a frame, and what was counted. All of it goes with the value.

use std::collections::BTreeMap;

use aya::{
    Btf, Ebpf, EbpfLoader, Pod, TestRun as _, TestRunOptions,
    maps::{Array, ArrayOfMaps, HashMap, LpmTrie, MapData, PerCpuArray, lpm_trie::Key},
    programs::{CgroupSkb, SchedClassifier},
};
use egress_agent::enforcer::{
    OBJECT,
    direct::{DirectEntry, Given},
    own,
};
use egress_common::{
    address::Address,
    endpoint::Endpoint,
    event::{ReportKey, ReportWindow},
    maps::{self, AddressKey, Config, MAX_COUNTERS, OWN, counter},
    origin::{Origin, OriginQuery, Published},
    verdict::DropReason,
};
use ipnet::IpNet;

use crate::{
    frame::{at, patched},
    scene,
};

/// The device on which test runs take place unless a context names another: the loopback device,
/// which is the first one of every network namespace.
pub(crate) const INTERFACE: u32 = 1;

/// What was counted, by endpoint and a reason's number (0 for what was allowed).
pub(crate) type Counts = BTreeMap<(u32, u8), u64>;

pub(crate) struct Kernel(Ebpf);

impl Kernel {
    /// Loads the programs that this suite runs, and fills the maps with the scene, the endpoint
    /// as given. No cgroup is an endpoint's yet.
    pub(crate) fn with(endpoint: Endpoint) -> Self {
        let mut kernel = Self::empty();
        kernel.set_endpoint(endpoint);
        kernel.set_config(0);
        kernel.insert(maps::LINKS, INTERFACE, scene::link());
        kernel.set_roles();
        kernel.set_networks();
        kernel.set_direct();
        kernel
    }

    /// Loads the programs, with nothing in the maps.
    pub(crate) fn empty() -> Self {
        let btf = Btf::from_sys_fs().expect("the kernel's BTF");
        let mut ebpf = EbpfLoader::new()
            .btf(Some(&btf))
            .load(OBJECT)
            .expect("root, to make maps");
        for name in ["egress_link_out", "egress_link_in"] {
            let program = ebpf.program_mut(name).unwrap();
            let program: &mut SchedClassifier = program.try_into().unwrap();
            program.load().expect("root, to load a program");
        }
        for name in ["egress_skb_egress", "gateway_skb_ingress"] {
            let program = ebpf.program_mut(name).unwrap();
            let program: &mut CgroupSkb = program.try_into().unwrap();
            program.load().expect("root, to load a program");
        }
        for endpoint in [0, scene::ID] {
            own::give(&ebpf, endpoint).expect("root, to make maps");
        }
        Self(ebpf)
    }

    /// What the programs say, to be polled; they say everything, since nobody set a level.
    pub(crate) fn log<L: log::Log>(&mut self, to: L) -> aya_log::EbpfLogger<L> {
        aya_log::EbpfLogger::init_with_logger(&mut self.0, to).expect("the object logs")
    }

    /// Whether the frame leaves the endpoint's link.
    pub(crate) fn link_out(&self, frame: &[u8]) -> bool {
        const NEXT: u32 = -1_i32 as u32;
        const DROP: u32 = 2;
        match self.classify("egress_link_out", frame) {
            NEXT => true,
            DROP => false,
            other => panic!("{other} is no verdict of TC's that is used here"),
        }
    }

    /// Shows a frame to the program that sees what goes to the endpoint.
    pub(crate) fn link_in(&self, frame: &[u8]) {
        self.classify("egress_link_in", frame);
    }

    /// Whether the frame's packet leaves the endpoint's socket.
    pub(crate) fn skb_egress(&self, frame: &[u8]) -> bool {
        self.filter("egress_skb_egress", frame)
    }

    /// Whether the frame's packet reaches the gateway's socket.
    pub(crate) fn gateway_ingress(&self, frame: &[u8]) -> bool {
        self.filter("gateway_skb_ingress", frame)
    }

    fn classify(&self, name: &str, frame: &[u8]) -> u32 {
        let program: &SchedClassifier = self.0.program(name).unwrap().try_into().unwrap();
        program.test_run(input(frame)).unwrap().return_value
    }

    /// These programs begin at the packet, so what its frame calls a short one is nothing to them.
    fn filter(&self, name: &str, frame: &[u8]) -> bool {
        const EXPERIMENT: [u8; 2] = [0x88, 0xb5];
        let mut frame = frame.to_vec();
        if is_refused(&frame) {
            frame = patched(frame, at::ETHERTYPE, &EXPERIMENT);
        }
        let program: &CgroupSkb = self.0.program(name).unwrap().try_into().unwrap();
        match program.test_run(input(&frame)).unwrap().return_value {
            1 => true,
            0 => false,
            other => panic!("{other} is no verdict of a cgroup's hook"),
        }
    }

    /// What is counted of nobody, the endpoint and an empty slot.
    pub(crate) fn counts(&self) -> Counts {
        self.nonzero(0..counter(3, 0))
    }

    /// What is counted of whomever.
    pub(crate) fn all_counts(&self) -> Counts {
        self.nonzero(0..MAX_COUNTERS)
    }

    /// What is counted of the endpoint under one number.
    pub(crate) fn count(&self, number: u8) -> u64 {
        self.slot(counter(scene::ID, number))
    }

    fn nonzero(&self, slots: std::ops::Range<u32>) -> Counts {
        let reasons = DropReason::COUNT as u32;
        slots
            .map(|slot| ((slot / reasons, (slot % reasons) as u8), self.slot(slot)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    fn slot(&self, slot: u32) -> u64 {
        let map = self.0.map(maps::COUNTERS).unwrap();
        let map: PerCpuArray<&MapData, u64> = map.try_into().unwrap();
        map.get(&slot, 0).unwrap().iter().sum()
    }

    /// The report window of a key, if one is open.
    pub(crate) fn report(&self, key: &ReportKey) -> Option<ReportWindow> {
        let reports: HashMap<_, ReportKey, ReportWindow> = self.own(maps::REPORTS, key.endpoint);
        reports.get(key, 0).ok()
    }

    /// Notes an origin of the endpoint by hand.
    pub(crate) fn publish(&mut self, published: Published) {
        let mut origins = self.origins();
        origins.insert(published.source, published, 0).unwrap();
    }

    /// What is published for a source.
    pub(crate) fn origin(&self, source: &OriginQuery) -> Option<Origin> {
        let published = self.origins().get(source, 0).ok();
        published.map(|published| published.origin)
    }

    /// Forgets what was published for a source, if anything was.
    pub(crate) fn forget_origin(&mut self, source: &OriginQuery) {
        // Never published is as good.
        self.origins().remove(source).ok();
    }

    fn origins(&self) -> HashMap<MapData, OriginQuery, Published> {
        self.own(maps::ORIGINS, scene::ID)
    }

    fn own<K: Pod, V: Pod>(&self, name: &str, endpoint: u32) -> HashMap<MapData, K, V> {
        let outer: ArrayOfMaps<&MapData, HashMap<MapData, K, V>> =
            self.0.map(name).unwrap().try_into().unwrap();
        outer.get(&endpoint, 0).unwrap()
    }
}

/// How the maps are written: as `enforcer/state.rs` does.
impl Kernel {
    pub(crate) fn set_endpoint(&mut self, endpoint: Endpoint) {
        self.set(maps::ENDPOINTS, scene::ID, endpoint);
    }

    /// `levels` has bit n set where an endpoint's cgroup lies n levels deep.
    pub(crate) fn set_config(&mut self, levels: u32) {
        let config = Config {
            gateway: scene::gateway(),
            cgroup_levels: levels,
            reserved: 0,
            generation: 1,
        };
        self.set(maps::CONFIG, 0, config);
    }

    pub(crate) fn insert<K: Pod, V: Pod>(&mut self, name: &str, key: K, value: V) {
        let map = self.0.map_mut(name).unwrap();
        let mut map: HashMap<&mut MapData, K, V> = map.try_into().unwrap();
        map.insert(key, value, 0).unwrap();
    }

    fn set<V: Pod>(&mut self, name: &str, index: u32, value: V) {
        let map = self.0.map_mut(name).unwrap();
        let mut map: Array<&mut MapData, V> = map.try_into().unwrap();
        map.set(index, value, 0).unwrap();
    }

    fn insert_network<K: Pod>(&mut self, name: &str, key: &Key<K>, value: u8) {
        let map = self.0.map_mut(name).unwrap();
        let mut map: LpmTrie<&mut MapData, K, u8> = map.try_into().unwrap();
        map.insert(key, value, 0).unwrap();
    }

    fn set_roles(&mut self) {
        for (text, role) in scene::ROLES {
            let key = AddressKey {
                endpoint: scene::ID,
                address: scene::address(text),
            };
            self.insert(maps::ADDRESSES, key, role);
            if role & OWN != 0 {
                self.insert(maps::OWNERS, key.address, scene::ID);
            }
        }
    }

    fn set_networks(&mut self) {
        for (text, class) in scene::NETWORKS {
            let network = scene::network(text);
            let address = Address::from(network.network());
            let key = Key::new(bits(&network), address);
            self.insert_network(maps::NETWORKS, &key, class as u8);
        }
    }

    fn set_direct(&self) {
        let mut sets = BTreeMap::<_, Vec<_>>::new();
        for (set, protocol, text, port) in scene::DIRECT {
            let network = scene::network(text);
            sets.entry(set).or_default().push(DirectEntry {
                network,
                protocol,
                port,
            });
        }
        for (set, entries) in sets {
            Given::new(&self.0, set, &entries).unwrap();
        }
    }
}

/// The kernel runs nothing on a frame that calls itself IP and is shorter than the IP header
/// (EINVAL, `bpf_prog_test_run_skb` in net/bpf/test_run.c).
pub(crate) fn is_refused(frame: &[u8]) -> bool {
    let least = match frame[at::ETHERTYPE..at::VERSION] {
        [0x08, 0x00] => at::TRANSPORT4,
        [0x86, 0xdd] => at::TRANSPORT6,
        _ => at::VERSION,
    };
    frame.len() < least
}

fn input(frame: &[u8]) -> TestRunOptions<'_> {
    TestRunOptions {
        data_in: Some(frame),
        ..TestRunOptions::default()
    }
}

/// The prefix length in the mapped form.
fn bits(network: &IpNet) -> u32 {
    let mapped = network.max_prefix_len() == 32;
    u32::from(network.prefix_len()) + if mapped { 96 } else { 0 }
}
