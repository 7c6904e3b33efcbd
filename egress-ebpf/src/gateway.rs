//! The gateway's side: origins are published where packets leave an endpoint, attached to the
//! socket that the gateway accepts, and read by socket option. Who is no endpoint is dropped.

use crate::{context::Skb, diagnose, maps, report};
use aya_ebpf::{
    bindings::{BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, bpf_sock},
    helpers::bpf_ktime_get_coarse_ns,
    programs::{SkBuffContext, SockOpsContext, SockoptContext},
};
use egress_common::{
    address::Address,
    attempt::{Attempt, TCP, UDP},
    endpoint::{Endpoint, Gateway, HAS_LINK},
    event::KIND_DROPPED,
    maps::Config,
    origin::{
        ORIGIN_LEVEL, ORIGIN_OF_CONNECTION, ORIGIN_OF_DATAGRAM, Origin, OriginQuery, Published,
    },
    packet::parse_ip,
    process::Process,
    socket::{NOT_REDIRECTED, Socket},
    verdict::{DropReason, Layer},
};

/// How long a datagram may take from the endpoint's link to the gateway: 5 s, in nanoseconds, as
/// long as a resolver waits before it asks again (resolv.conf(5)).
const DATAGRAM_NS: u64 = 5_000_000_000;

/// Publishes whose packet this is, if it opens something with the gateway. False where that
/// failed, and the packet must not go on.
#[inline(never)]
pub(crate) fn publish(
    attempt: &Attempt,
    endpoint: &Endpoint,
    gateway: &Gateway,
    socket: Option<&Socket>,
) -> bool {
    if !publishes(attempt, gateway) {
        return true;
    }
    let (process, destination, port) = match socket {
        Some(socket) if socket.redirected != NOT_REDIRECTED => {
            (socket.process, socket.destination, socket.port)
        }
        Some(socket) => (
            socket.process,
            attempt.destination,
            attempt.destination_port,
        ),
        None => (
            Process::UNKNOWN,
            attempt.destination,
            attempt.destination_port,
        ),
    };
    let published = Published {
        source: query(attempt.source, attempt.source_port, attempt.protocol),
        reserved: 0,
        origin: Origin {
            process,
            destination,
            port,
            protocol: attempt.protocol,
            flags: 0,
            endpoint: endpoint.id,
            // SAFETY: no pointers.
            published_ns: unsafe { bpf_ktime_get_coarse_ns() },
        },
    };
    let published = maps::publish_origin(&published)
        // Its addresses are not its own alone.
        && (endpoint.has(HAS_LINK) || maps::publish_port(&published.source, endpoint.id));
    if !published {
        diagnose::not_published(endpoint.id);
    }
    published
}

/// Whether the packet opens something with the gateway.
#[inline(always)]
pub(crate) fn publishes(attempt: &Attempt, gateway: &Gateway) -> bool {
    (attempt.opens() || attempt.protocol == UDP) && gateway.is_at(&attempt.destination)
}

#[inline(always)]
fn query(address: Address, port: u16, protocol: u8) -> OriginQuery {
    OriginQuery {
        address,
        port,
        protocol,
        reserved: 0,
    }
}

/// `skb ingress` of the gateway's cgroup: whether the packet reaches it.
#[inline(always)]
pub(crate) fn passes(ctx: &SkBuffContext) -> bool {
    let skb = Skb(ctx.skb.skb);
    let Some(config) = maps::config() else {
        return false;
    };
    let mut attempt = Attempt::call(Layer::Gateway, 0, Address::UNSPECIFIED, 0);
    let is_read = parse_ip(&skb, 0, &mut attempt).is_ok();
    if !config.gateway.is_at(&attempt.destination) {
        return true;
    }
    // What cannot be read, the endpoints' hooks have denied already; the stack would take it.
    let known = is_read && (!opens_service(&attempt, config) || is_published(&attempt));
    if !known {
        report::report(
            ctx,
            0,
            &attempt,
            DropReason::NoEndpoint,
            None,
            skb.interface(),
            KIND_DROPPED,
        );
    }
    known
}

/// Whether a packet to the gateway's address opens a connection to a service, or is a datagram to
/// its port.
#[inline(always)]
fn opens_service(attempt: &Attempt, config: &Config) -> bool {
    let is_service = config.gateway.serves(attempt.destination_port);
    is_service && (attempt.protocol != TCP || attempt.opens())
}

/// Whether the packet's origin was published just now.
#[inline(always)]
fn is_published(attempt: &Attempt) -> bool {
    // SAFETY: no pointers.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    let key = query(attempt.source, attempt.source_port, attempt.protocol);
    maps::origin(&key).is_some_and(|origin| now.saturating_sub(origin.published_ns) < DATAGRAM_NS)
}

/// `sock_ops` of the gateway's cgroup: before `accept` can return, the new socket gets its origin.
#[inline(always)]
pub(crate) fn established(ctx: &SockOpsContext) {
    /// AF_INET (include/linux/socket.h).
    const INET: u32 = 2;
    if ctx.op() != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB {
        return;
    }
    // SAFETY: the context is valid for the whole program. Every field is read, and before any
    // branch: LLVM would else join two reads into one of a computed offset, which the verifier
    // refuses.
    let (family, ip4, ip6, port, sk) = unsafe {
        let ops = ctx.ops;
        let ip = (&raw const (*ops).remote_ip6).cast::<u32>();
        (
            (&raw const (*ops).family).read_volatile(),
            (&raw const (*ops).remote_ip4).read_volatile(),
            [
                ip.read_volatile(),
                ip.add(1).read_volatile(),
                ip.add(2).read_volatile(),
                ip.add(3).read_volatile(),
            ],
            (&raw const (*ops).remote_port).read_volatile(),
            (*ops).__bindgen_anon_2.sk,
        )
    };
    let port = u32::from_be(port) as u16;
    let address = if family == INET {
        Address::v4(ip4.to_ne_bytes())
    } else {
        Address::from_words(ip6)
    };
    let key = query(address, port, TCP);
    if let Some(origin) = maps::origin(&key) {
        // SAFETY: the context's own socket.
        if !unsafe { maps::attach_origin(sk, &origin) } {
            diagnose::not_attached(origin.endpoint);
        }
        maps::consume_origin(&key);
    }
}

/// `getsockopt` of the gateway's cgroup: hands out the origin attached to the socket. Without one
/// the kernel's own answer stands: there is no such option.
#[inline(always)]
pub(crate) fn answer(ctx: &SockoptContext) {
    // SAFETY: the context is valid for the whole program.
    unsafe {
        let opt = ctx.sockopt;
        let name = (&raw const (*opt).optname).read_volatile();
        if (&raw const (*opt).level).read_volatile() != ORIGIN_LEVEL
            || (name != ORIGIN_OF_CONNECTION && name != ORIGIN_OF_DATAGRAM)
        {
            return;
        }
        let Some(origin) = maps::accepted(sock(ctx)) else {
            return;
        };
        let start = (*opt).__bindgen_anon_2.optval;
        let end = (*opt).__bindgen_anon_3.optval_end;
        if start.add(size_of::<Origin>()) > end {
            return;
        }
        start.cast::<Origin>().write(*origin);
        // Each by itself, as the verifier wants it.
        (&raw mut (*opt).optlen).write_volatile(size_of::<Origin>() as i32);
        (&raw mut (*opt).retval).write_volatile(0);
    }
}

/// `setsockopt` of the gateway's cgroup: a question for the origin of a datagram. False, and the
/// caller gets EPERM, where there is none.
#[inline(always)]
pub(crate) fn ask(ctx: &SockoptContext) -> bool {
    // SAFETY: the context is valid for the whole program.
    unsafe {
        let opt = ctx.sockopt;
        if (&raw const (*opt).level).read_volatile() != ORIGIN_LEVEL {
            return true;
        }
        let start = (*opt).__bindgen_anon_2.optval;
        let end = (*opt).__bindgen_anon_3.optval_end;
        if (&raw const (*opt).optname).read_volatile() != ORIGIN_OF_DATAGRAM
            || start.add(size_of::<OriginQuery>()) > end
        {
            return false;
        }
        let key = start.cast::<OriginQuery>().read();
        let Some(origin) = maps::origin(&key) else {
            return false;
        };
        if !maps::attach_origin(sock(ctx), &origin) {
            diagnose::not_attached(origin.endpoint);
            return false;
        }
        // The kernel's own handler is left out.
        (&raw mut (*opt).optlen).write_volatile(-1);
        true
    }
}

#[inline(always)]
unsafe fn sock(ctx: &SockoptContext) -> *mut bpf_sock {
    // SAFETY: the context is valid for the whole program.
    unsafe { (*ctx.sockopt).__bindgen_anon_1.sk }
}
