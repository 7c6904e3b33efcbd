//! The public names of Encrypted Client Hello (RFC 9849 section 4): what a client asks for in the
//! clear when the name that it means is encrypted.
//!
//! Whoever lets a connection to such a name pass does not know where it leads: to any site of that
//! provider. So a wildcard is not enough; a rule has to name it. Names that a provider also serves
//! sites under, as some do, are not here, since nobody could tell the two apart.

use super::host::HostName;

/// Each as it stands in the ECH configurations that its provider publishes in DNS.
const PUBLIC_NAMES: [&str; 5] = [
    // Cloudflare, for all of its customers.
    "cloudflare-ech.com",
    // Meta.
    "ech-public.atmeta.com",
    // Sites to try ECH with.
    "cover.defo.ie",
    "public.tls-ech.dev",
    "tls-outer.browserleaks.com",
];

/// Whether a name is a known public name.
pub fn is_public_name(name: &HostName) -> bool {
    PUBLIC_NAMES.contains(&name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_canonical() {
        for name in PUBLIC_NAMES {
            assert!(
                is_public_name(&HostName::from_text(name).unwrap()),
                "{name}"
            );
        }
        assert!(!is_public_name(
            &HostName::from_text("a.cloudflare-ech.com").unwrap()
        ));
    }
}
