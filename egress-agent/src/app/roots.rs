//! The authorities that the gateway trusts where it starts TLS: read here, since the gateway sees
//! no files of the node.

use std::{fs, path::Path};

use anyhow::{Context, bail};
use rustls::pki_types::{CertificateDer, pem::PemObject};

/// Where distributions keep the node's own: Debian, Fedora, openSUSE, Alpine.
const SYSTEM: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The configured file, or else the node's, as PEM. Empty where the node has none: then no server
/// is trusted.
///
/// # Errors
/// The configured file cannot be read, or holds no certificate.
pub fn read(configured: Option<&Path>) -> anyhow::Result<String> {
    let Some(path) = configured else {
        let found = SYSTEM.iter().find_map(|path| fs::read_to_string(path).ok());
        return Ok(found.unwrap_or_default());
    };
    let text = fs::read_to_string(path).with_context(|| {
        format!(
            "gateway.roots: {}: check the path and its permissions",
            path.display()
        )
    })?;
    let certificates = CertificateDer::pem_slice_iter(text.as_bytes());
    match certificates.flatten().next() {
        Some(_) => Ok(text),
        None => bail!(
            "gateway.roots: {}: no certificate in it; write them in PEM",
            path.display()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_an_error() {
        let path = std::env::temp_dir().join(format!("egress-roots-{}", std::process::id()));
        fs::write(&path, "nothing").unwrap();
        let error = read(Some(&path)).unwrap_err().to_string();
        fs::remove_file(&path).unwrap();
        assert!(error.contains("no certificate"), "{error}");
        let error = read(Some(&path)).unwrap_err().to_string();
        assert!(error.contains("check the path"), "{error}");
    }
}
