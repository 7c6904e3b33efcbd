//! The contexts' address fields, by family, and packets as bytes.

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock, bpf_sock_addr},
    helpers::bpf_skb_load_bytes,
    programs::SockAddrContext,
};
use core::mem::MaybeUninit;
use egress_common::{address::Address, packet::Bytes};

/// How a sock_addr context of one family holds the address. The verifier wants each field read
/// and written by itself and in its own width, hence the volatile accesses.
pub(crate) trait Family {
    /// The address, whatever the hook means by it.
    fn address(ctx: &SockAddrContext) -> Address;
    /// Writes it; an IPv6 context takes IPv4 in mapped form.
    fn set_address(ctx: &SockAddrContext, address: &Address);
}

pub(crate) struct V4;
pub(crate) struct V6;

impl Family for V4 {
    #[inline(always)]
    fn address(ctx: &SockAddrContext) -> Address {
        // SAFETY: the context is valid for the whole program.
        let ip = unsafe { (&raw const (*ctx.sock_addr).user_ip4).read_volatile() };
        Address::v4(ip.to_ne_bytes())
    }

    #[inline(always)]
    fn set_address(ctx: &SockAddrContext, address: &Address) {
        let [.., ip] = address.words();
        // SAFETY: as above.
        unsafe { (&raw mut (*ctx.sock_addr).user_ip4).write_volatile(ip) };
    }
}

impl Family for V6 {
    #[inline(always)]
    fn address(ctx: &SockAddrContext) -> Address {
        // SAFETY: as above.
        unsafe {
            let ip = (&raw const (*ctx.sock_addr).user_ip6).cast::<u32>();
            Address::from_words([
                ip.read_volatile(),
                ip.add(1).read_volatile(),
                ip.add(2).read_volatile(),
                ip.add(3).read_volatile(),
            ])
        }
    }

    #[inline(always)]
    fn set_address(ctx: &SockAddrContext, address: &Address) {
        let [a, b, c, d] = address.words();
        // SAFETY: as above.
        unsafe {
            let ip = (&raw mut (*ctx.sock_addr).user_ip6).cast::<u32>();
            ip.write_volatile(a);
            ip.add(1).write_volatile(b);
            ip.add(2).write_volatile(c);
            ip.add(3).write_volatile(d);
        }
    }
}

/// The port of a sock_addr context, host byte order.
#[inline(always)]
pub(crate) fn port(ctx: &SockAddrContext) -> u16 {
    // SAFETY: the context is valid for the whole program.
    let port = unsafe { (&raw const (*ctx.sock_addr).user_port).read_volatile() };
    u16::from_be(port as u16)
}

/// Writes the port of a sock_addr context.
#[inline(always)]
pub(crate) fn set_port(ctx: &SockAddrContext, port: u16) {
    // SAFETY: as above.
    unsafe { (&raw mut (*ctx.sock_addr).user_port).write_volatile(port.to_be().into()) };
}

/// The IP protocol of a sock_addr context.
#[inline(always)]
pub(crate) fn protocol(ctx: &SockAddrContext) -> u32 {
    // SAFETY: as above.
    unsafe { (&raw const (*ctx.sock_addr).protocol).read_volatile() }
}

/// The socket of a sock_addr context.
#[inline(always)]
pub(crate) fn sock(ctx: *mut bpf_sock_addr) -> *mut bpf_sock {
    // SAFETY: as above.
    unsafe { (*ctx).__bindgen_anon_1.sk }
}

/// The port that the socket of a sock_addr context is bound to, host byte order; 0 where it is to
/// none.
#[inline(always)]
pub(crate) fn local_port(ctx: &SockAddrContext) -> u16 {
    let sk = sock(ctx.sock_addr);
    if sk.is_null() {
        return 0;
    }
    // SAFETY: the context's own socket.
    unsafe { (&raw const (*sk).src_port).read_volatile() as u16 }
}

/// A packet.
pub(crate) struct Skb(pub(crate) *mut __sk_buff);

impl Skb {
    /// The index of the interface that it is on.
    #[inline(always)]
    pub(crate) fn interface(&self) -> u32 {
        // SAFETY: the context is valid for the whole program.
        unsafe { (&raw const (*self.0).ifindex).read_volatile() }
    }

    /// Whether the first VLAN tag was already taken off.
    #[inline(always)]
    pub(crate) fn has_vlan(&self) -> bool {
        // SAFETY: as above.
        unsafe { (&raw const (*self.0).vlan_present).read_volatile() != 0 }
    }

    /// Its socket, or null.
    #[inline(always)]
    pub(crate) fn sock(&self) -> *mut bpf_sock {
        // SAFETY: as above.
        unsafe { (*self.0).__bindgen_anon_2.sk }
    }
}

/// Bytes that are read a word at a time.
#[repr(C, align(8))]
struct Aligned<const N: usize>(MaybeUninit<[u8; N]>);

impl Bytes for Skb {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        const WORD: usize = size_of::<u32>();
        const HALF: usize = size_of::<u16>();
        let mut bytes = Aligned(MaybeUninit::<[u8; N]>::uninit());
        let to = bytes.0.as_mut_ptr().cast::<u8>();
        // SAFETY: between the two ends, which the verifier checks, there are N bytes. A packet's
        // words lie anywhere, and the kernel refuses the program where the machine cannot read them
        // there. The helper writes all N bytes or fails.
        unsafe {
            let data = (&raw const (*self.0).data).read_volatile() as usize as *const u8;
            let end = (&raw const (*self.0).data_end).read_volatile() as usize as *const u8;
            let from = data.add(offset as usize);
            if from.add(N) <= end {
                let mut at = 0;
                while at + WORD <= N {
                    let word = from.add(at).cast::<u32>().read_volatile();
                    to.add(at).cast::<u32>().write(word);
                    at += WORD;
                }
                if at + HALF <= N {
                    let half = from.add(at).cast::<u16>().read_volatile();
                    to.add(at).cast::<u16>().write(half);
                    at += HALF;
                }
                if at < N {
                    to.add(at).write(from.add(at).read_volatile());
                }
            // Not linear, or not there.
            } else if bpf_skb_load_bytes(self.0.cast(), offset, to.cast(), N as u32) != 0 {
                return None;
            }
            // Whatever reads the bytes shall read them from memory, a field at a time: the compiler
            // would take the words apart into bytes, and put fields together out of those. Not an
            // empty line, since the kernel wants another instruction for each line of the source.
            core::arch::asm!("{0} = {0}", inout(reg) to => _, options(nostack));
            Some(bytes.0.assume_init())
        }
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        // SAFETY: the context is valid for the whole program.
        unsafe { (&raw const (*self.0).len).read_volatile() }
    }
}
