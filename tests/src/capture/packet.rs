//! A frame, read as far as tests ask.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// A captured frame.
#[derive(Clone, PartialEq, Eq)]
pub struct Packet {
    /// The whole of it, from the Ethernet header on.
    pub frame: Vec<u8>,
    /// The Ethernet type, host byte order.
    pub ethertype: u16,
    /// Where it is an IP packet.
    pub source: Option<IpAddr>,
    /// Where it is an IP packet.
    pub destination: Option<IpAddr>,
    /// The IP protocol or first next header; 0 where there is none.
    pub protocol: u8,
    /// TCP's or UDP's source port; 0 where there is none.
    pub source_port: u16,
    /// TCP's or UDP's destination port; 0 where there is none.
    pub port: u16,
}

impl Packet {
    pub(super) fn parse(frame: Vec<u8>) -> Self {
        let ethertype = number(&frame, 12).unwrap_or_default();
        let mut packet = Self {
            ethertype,
            source: None,
            destination: None,
            protocol: 0,
            source_port: 0,
            port: 0,
            frame,
        };
        packet.read_ip();
        packet
    }

    /// Whether the bytes occur in it.
    pub fn contains(&self, bytes: &[u8]) -> bool {
        self.frame
            .windows(bytes.len())
            .any(|window| window == bytes)
    }

    fn read_ip(&mut self) -> Option<()> {
        let transport = match i32::from(self.ethertype) {
            libc::ETH_P_IP => {
                self.source = Some(v4(&self.frame, 26)?);
                self.destination = Some(v4(&self.frame, 30)?);
                self.protocol = *self.frame.get(23)?;
                14 + usize::from(self.frame[14] & 0xf) * 4
            }
            libc::ETH_P_IPV6 => {
                self.source = Some(v6(&self.frame, 22)?);
                self.destination = Some(v6(&self.frame, 38)?);
                self.protocol = *self.frame.get(20)?;
                54
            }
            _ => return None,
        };
        if [libc::IPPROTO_TCP, libc::IPPROTO_UDP].contains(&i32::from(self.protocol)) {
            self.source_port = number(&self.frame, transport)?;
            self.port = number(&self.frame, transport + 2)?;
        }
        Some(())
    }
}

impl fmt::Debug for Packet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Some(source), Some(destination)) = (self.source, self.destination) else {
            return write!(formatter, "ethertype {:#06x}", self.ethertype);
        };
        write!(
            formatter,
            "{source}.{} > {destination}.{} protocol {} ({} bytes)",
            self.source_port,
            self.port,
            self.protocol,
            self.frame.len()
        )
    }
}

fn number(frame: &[u8], at: usize) -> Option<u16> {
    let bytes = frame.get(at..at + 2)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

fn v4(frame: &[u8], at: usize) -> Option<IpAddr> {
    let bytes: [u8; 4] = frame.get(at..at + 4)?.try_into().ok()?;
    Some(Ipv4Addr::from(bytes).into())
}

fn v6(frame: &[u8], at: usize) -> Option<IpAddr> {
    let bytes: [u8; 16] = frame.get(at..at + 16)?.try_into().ok()?;
    Some(Ipv6Addr::from(bytes).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_datagram_is_read() {
        let mut frame = vec![0; 14 + 20 + 8];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14] = 0x45;
        frame[23] = 17;
        frame[26..30].copy_from_slice(&[10, 1, 0, 5]);
        frame[30..34].copy_from_slice(&[203, 0, 113, 9]);
        frame[34..38].copy_from_slice(&[0x30, 0x39, 0, 53]);
        let packet = Packet::parse(frame);
        assert_eq!(packet.source, Some(Ipv4Addr::new(10, 1, 0, 5).into()));
        assert_eq!((packet.source_port, packet.port), (12345, 53));
    }

    #[test]
    fn a_frame_cut_anywhere_is_read_without_a_panic() {
        for length in 0..60 {
            let mut frame = vec![0x86; length];
            if length > 13 {
                frame[13] = 0xdd;
            }
            Packet::parse(frame);
        }
    }
}
