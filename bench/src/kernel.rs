//! The object's programs and maps, filled for one endpoint under test, many beside it and very many
//! direct entries. Attached to nothing and pinned nowhere.

use std::{
    fs,
    os::fd::{AsFd as _, BorrowedFd},
    path::Path,
    sync::OnceLock,
};

use anyhow::{Context as _, Result};
use aya::{
    Btf, Ebpf, EbpfLoader, Pod,
    maps::{Map, lpm_trie::Key},
    programs::{CgroupSkb, SchedClassifier},
};
use egress_agent::enforcer::{
    OBJECT,
    direct::{DirectEntry, Given},
    own,
};
use egress_common::{
    address::Address,
    endpoint::{Endpoint, HAS_LINK, Link, MAX_ENDPOINTS, PRIVATE_LOOPBACK},
    maps::{self, AddressKey, Config, OWN},
};

use crate::{bpf, scene};

/// The port of the entries that fill the tables; they are UDP's.
pub(crate) const PORT: u16 = 4_000;

const UDP: u8 = 17;

/// What was read in place of this build's object.
static OTHER: OnceLock<Vec<u8>> = OnceLock::new();

/// Loads another object from now on.
pub(crate) fn use_object(path: &Path) -> Result<()> {
    let object = fs::read(path);
    let object = object.with_context(|| format!("could not read {}", path.display()))?;
    OTHER
        .set(object)
        .map_err(|_object| anyhow::anyhow!("an object was chosen already"))
}

/// What the tables are filled with.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    /// Direct entries of single addresses, beside the scene's.
    pub(crate) hosts: u32,
    /// Direct entries of networks, all of one size.
    pub(crate) networks: u32,
    /// Endpoints, the one under test included.
    pub(crate) endpoints: u32,
}

pub(crate) struct Kernel {
    ebpf: Ebpf,
    /// The direct entries of the endpoint under test.
    pub(crate) direct: Given,
}

impl Kernel {
    /// Loads and fills. The endpoint under test has the interface of this index.
    pub(crate) fn new(size: Size, interface: u32) -> Result<Self> {
        let btf = Btf::from_sys_fs().context("the kernel's BTF")?;
        let mut loader = EbpfLoader::new();
        // As the agent does where nobody asks for more.
        loader
            .btf(Some(&btf))
            .override_global("AYA_LOG_LEVEL", &0_u8, true);
        let mut ebpf = loader
            .load(OTHER.get().map_or(OBJECT, Vec::as_slice))
            .context("could not load the object")?;
        for name in ["egress_link_out", "egress_link_in"] {
            let program = ebpf
                .program_mut(name)
                .context("the object has no such program")?;
            let program: &mut SchedClassifier = program.try_into()?;
            program.load()?;
        }
        for name in ["egress_skb_egress", "gateway_skb_ingress"] {
            let program = ebpf
                .program_mut(name)
                .context("the object has no such program")?;
            let program: &mut CgroupSkb = program.try_into()?;
            program.load()?;
        }
        for endpoint in [0, scene::ID] {
            own::give(&ebpf, endpoint).context("could not make an endpoint's maps")?;
        }
        let given = Given::new(&ebpf, scene::SET, &entries(size));
        let direct = given.context("could not fill a set of direct entries")?;
        let kernel = Self { ebpf, direct };
        kernel.set_scene(interface)?;
        kernel.add_endpoints(size.endpoints - 1)?;
        Ok(kernel)
    }

    /// A program's descriptor.
    pub(crate) fn program(&self, name: &str) -> Result<BorrowedFd<'_>> {
        let program = self
            .ebpf
            .program(name)
            .context("the object has no such program")?;
        Ok(program.fd()?.as_fd())
    }

    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "every other type is not written here"
    )]
    fn map(&self, name: &str) -> Result<BorrowedFd<'_>> {
        match self.ebpf.map(name).context("the object has no such map")? {
            Map::Array(data) | Map::HashMap(data) | Map::LpmTrie(data) => Ok(data.fd().as_fd()),
            _ => anyhow::bail!("{name} is of another type"),
        }
    }

    /// Makes a cgroup the endpoint's, with these flags.
    pub(crate) fn set_cgroup(&self, cgroup: u64, level: u32, flags: u8) -> Result<()> {
        self.set(maps::CGROUPS, &cgroup, &scene::ID)?;
        self.set_config(1 << level)?;
        let endpoint = Endpoint {
            flags,
            cgroup,
            ..scene::endpoint()
        };
        self.set(maps::ENDPOINTS, &scene::ID, &endpoint)
    }

    fn set_config(&self, cgroup_levels: u32) -> Result<()> {
        let config = Config {
            gateway: scene::gateway(),
            cgroup_levels,
            reserved: 0,
            generation: 1,
        };
        self.set(maps::CONFIG, &0_u32, &config)
    }

    fn set_scene(&self, interface: u32) -> Result<()> {
        self.set_config(0)?;
        let endpoint = Endpoint {
            flags: HAS_LINK | PRIVATE_LOOPBACK,
            ..scene::endpoint()
        };
        self.set(maps::ENDPOINTS, &scene::ID, &endpoint)?;
        self.set(maps::LINKS, &interface, &scene::link())?;
        for (text, role) in scene::ROLES {
            let key = AddressKey {
                endpoint: scene::ID,
                address: scene::address(text),
            };
            self.set(maps::ADDRESSES, &key, &role)?;
            if role & OWN != 0 {
                self.set(maps::OWNERS, &key.address, &scene::ID)?;
            }
        }
        for (text, class) in scene::NETWORKS {
            let network = scene::network(text);
            let key = Key::new(bits(&network), Address::from(network.network()));
            self.set(maps::NETWORKS, &key, &(class as u8))?;
        }
        Ok(())
    }

    /// Others beside the one under test.
    fn add_endpoints(&self, count: u32) -> Result<()> {
        for id in (1..MAX_ENDPOINTS)
            .filter(|id| *id != scene::ID)
            .take(count as usize)
        {
            self.set(
                maps::ENDPOINTS,
                &id,
                &Endpoint {
                    id,
                    ..scene::endpoint()
                },
            )?;
            let [_, _, high, low] = id.to_be_bytes();
            let link = Link {
                endpoint: id,
                mac: [2, 0, 1, 0, high, low],
                ..scene::link()
            };
            self.set(maps::LINKS, &(100_000 + id), &link)?;
            let own = AddressKey {
                endpoint: id,
                address: Address::v4([10, 2, high, low]),
            };
            self.set(maps::ADDRESSES, &own, &OWN)?;
        }
        Ok(())
    }

    fn set<K: Pod, V: Pod>(&self, name: &str, key: &K, value: &V) -> Result<()> {
        let written = bpf::update(self.map(name)?, raw(key), raw(value));
        written.with_context(|| format!("could not write to {name}"))
    }
}

/// The n-th address that has an entry of its own: all over 11.0.0.0/8, none twice.
pub(crate) fn host(n: u32) -> [u8; 4] {
    let [_, b, c, d] = scattered(n).to_be_bytes();
    [11, b, c, d]
}

/// The n-th network that has an entry, four addresses: all over 128.0.0.0/6, none twice.
pub(crate) fn network(n: u32) -> [u8; 4] {
    (0x8000_0000 | scattered(n) << 2).to_be_bytes()
}

/// An odd factor makes 24 bits of 24 bits, each once.
fn scattered(n: u32) -> u32 {
    n.wrapping_mul(0x9e_3779) & 0xff_ffff
}

/// The direct entries of the endpoint under test.
fn entries(size: Size) -> Vec<DirectEntry> {
    let hosts = (0..size.hosts).map(|n| entry(host(n), 32));
    let networks = (0..size.networks).map(|n| entry(network(n), NETWORK_BITS));
    let own = scene::DIRECT.iter().filter(|(set, ..)| *set == scene::SET);
    let own = own.map(|(_, protocol, text, port)| DirectEntry {
        network: scene::network(text),
        protocol: *protocol,
        port: *port,
    });
    own.chain(hosts).chain(networks).collect()
}

/// The prefix length of the networks.
pub(crate) const NETWORK_BITS: u8 = 30;

/// An entry for a network.
pub(crate) fn entry(address: [u8; 4], bits: u8) -> DirectEntry {
    let network = ipnet::Ipv4Net::new(address.into(), bits).expect("no more than 32 bits");
    DirectEntry {
        network: network.into(),
        protocol: UDP,
        port: PORT,
    }
}

fn bits(network: &ipnet::IpNet) -> u32 {
    let mapped = if network.max_prefix_len() == 32 {
        96
    } else {
        0
    };
    u32::from(network.prefix_len()) + mapped
}

/// A value's bytes.
pub(crate) fn raw<T: Pod>(value: &T) -> &[u8] {
    // SAFETY: Pod has no padding, so that all its bytes are initialised.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}
