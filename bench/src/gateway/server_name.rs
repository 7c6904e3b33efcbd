//! The server name of a hello in one record, and nothing else of it: as little as a relay can do.

/// The extension `server_name` (RFC 6066 section 3), and its type of name.
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;

/// The name of a complete hello (RFC 8446 section 4.1.2); `None` where it has none.
pub(super) fn server_name(record: &[u8]) -> Option<&[u8]> {
    // The record's and the message's header, the version and the random.
    let mut rest = record.get(5 + 4 + 2 + 32..)?;
    let session = rest.split_off_first()?;
    rest = rest.get(usize::from(*session)..)?;
    let ciphers = number(&mut rest)?;
    rest = rest.get(usize::from(ciphers)..)?;
    let compressions = rest.split_off_first()?;
    rest = rest.get(usize::from(*compressions)..)?;
    let _all_extensions = number(&mut rest)?;
    loop {
        let kind = number(&mut rest)?;
        let length = number(&mut rest)?;
        let mut extension = rest.split_off(..usize::from(length))?;
        if kind == SERVER_NAME {
            let _list = number(&mut extension)?;
            let kind = extension.split_off_first()?;
            let length = number(&mut extension)?;
            let name = extension.get(..usize::from(length))?;
            return (*kind == HOST_NAME).then_some(name);
        }
    }
}

fn number(bytes: &mut &[u8]) -> Option<u16> {
    let (number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u16::from_be_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::wire::hello;

    #[test]
    fn the_name_is_found_and_nothing_in_what_is_cut_off() {
        let hello = hello("denied.bench.test").unwrap();
        assert_eq!(server_name(&hello), Some(&b"denied.bench.test"[..]));
        for length in 0..40 {
            assert_eq!(server_name(&hello[..length]), None);
        }
    }
}
