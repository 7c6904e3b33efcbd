//! One address form for both families.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IP address as the maps hold it: 16 bytes in network order, IPv4 as `::ffff:a.b.c.d`
/// (RFC 4291 section 2.5.5.2). Four words, because the kernel side compares words.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(any(test, feature = "user"), derive(Debug))]
pub struct Address([u32; 4]);

/// The third word of a mapped address: `0000:ffff`.
const MAPPED: u32 = 0x0000_ffff_u32.to_be();

/// The words of an address that are a network's, by prefix length; as many as a byte has values, so
/// that no index is out of bounds.
static MASKS: [[u32; 4]; 256] = {
    let mut masks = [[0; 4]; 256];
    let mut bits = 0;
    while bits < masks.len() {
        let mask = match bits {
            0 => 0,
            1..=128 => u128::MAX << (128 - bits),
            _ => u128::MAX,
        };
        let o = mask.to_be_bytes();
        masks[bits] = Address::v6(o).0;
        bits += 1;
    }
    masks
};

impl Address {
    /// `::`.
    pub const UNSPECIFIED: Self = Self([0; 4]);

    /// From four bytes in network order.
    #[inline(always)]
    pub const fn v4(octets: [u8; 4]) -> Self {
        Self([0, 0, MAPPED, u32::from_ne_bytes(octets)])
    }

    /// From sixteen bytes in network order; a mapped address is thereby IPv4.
    #[inline(always)]
    pub const fn v6(o: [u8; 16]) -> Self {
        Self([
            u32::from_ne_bytes([o[0], o[1], o[2], o[3]]),
            u32::from_ne_bytes([o[4], o[5], o[6], o[7]]),
            u32::from_ne_bytes([o[8], o[9], o[10], o[11]]),
            u32::from_ne_bytes([o[12], o[13], o[14], o[15]]),
        ])
    }

    /// From four words in network order, as the kernel's socket contexts hold them.
    #[inline(always)]
    pub const fn from_words(words: [u32; 4]) -> Self {
        Self(words)
    }

    /// The four words, network order.
    #[inline(always)]
    pub const fn words(&self) -> [u32; 4] {
        self.0
    }

    /// Whether this is an IPv4 address (in mapped form).
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.0[0] | self.0[1] == 0 && self.0[2] == MAPPED
    }

    /// The sixteen bytes, network order.
    #[inline(always)]
    pub const fn octets(&self) -> [u8; 16] {
        let [a, b, c, d] = self.0;
        let (a, b, c, d) = (
            a.to_ne_bytes(),
            b.to_ne_bytes(),
            c.to_ne_bytes(),
            d.to_ne_bytes(),
        );
        [
            a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1],
            d[2], d[3],
        ]
    }

    /// The first address of its network of so many bits; itself where there are more than it has.
    #[inline(always)]
    pub fn first_of(&self, bits: u8) -> Self {
        let mask = MASKS[usize::from(bits)];
        let [a, b, c, d] = self.0;
        Self([a & mask[0], b & mask[1], c & mask[2], d & mask[3]])
    }

    /// The last four bytes: the IPv4 address, where it is one.
    #[inline(always)]
    pub const fn v4_octets(&self) -> [u8; 4] {
        self.0[3].to_ne_bytes()
    }

    /// As the standard library's type, IPv4 where it is mapped.
    pub const fn to_ip(self) -> IpAddr {
        if self.is_v4() {
            let [a, b, c, d] = self.v4_octets();
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        } else {
            IpAddr::V6(Ipv6Addr::from_octets(self.octets()))
        }
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Self::v4(ip.octets()),
            IpAddr::V6(ip) => Self::v6(ip.octets()),
        }
    }
}

const _: () = assert!(size_of::<Address>() == 16 && align_of::<Address>() == 4);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_is_mapped_and_comes_back() {
        let ip: IpAddr = Ipv4Addr::new(192, 0, 2, 1).into();
        let address = Address::from(ip);
        assert!(address.is_v4());
        assert_eq!(address.to_ip(), ip);
        assert_eq!(&address.octets()[10..12], &[0xff, 0xff]);
    }

    #[test]
    fn the_first_of_a_network_has_its_bits_alone() {
        let v6 = |text: &str| Address::from(text.parse::<IpAddr>().unwrap());
        for (address, bits, first) in [
            ("10.1.2.3", 128, "10.1.2.3"),
            ("10.1.2.3", 126, "10.1.2.0"),
            ("10.1.2.3", 104, "10.0.0.0"),
            ("10.1.2.3", 96, "0.0.0.0"),
            ("2001:db8::7", 64, "2001:db8::"),
            ("2001:db8:ffff::", 33, "2001:db8:8000::"),
            ("2001:db8::7", 0, "::"),
            ("2001:db8::7", 129, "2001:db8::7"),
        ] {
            assert_eq!(v6(address).first_of(bits), v6(first), "{address}/{bits}");
        }
    }

    #[test]
    fn ipv6_stays_itself() {
        let ip: IpAddr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into();
        assert!(!Address::from(ip).is_v4());
        assert_eq!(Address::from(ip).to_ip(), ip);
    }
}
