//! TLS that the gateway starts: with full verification, for the host that the request names.

use std::{io, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::upstream::Io;
use crate::{gateway::connection::NoUpstream, policy::host::HostName};

/// What is spoken inside.
const ALPN: &[u8] = b"http/1.1";

/// What every connection is made by. `roots` are PEM; what cannot be read among them is left out,
/// and without any no server is trusted.
pub fn config(roots: &str) -> Arc<ClientConfig> {
    let mut store = RootCertStore::empty();
    let certificates = CertificateDer::pem_slice_iter(roots.as_bytes());
    store.add_parsable_certificates(certificates.flatten());
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has cipher suites for the default versions")
        .with_root_certificates(store)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A session of one endpoint would be known again from another.
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

pub(super) async fn connect(
    config: &Arc<ClientConfig>,
    name: &HostName,
    stream: TcpStream,
) -> Result<Box<dyn Io>, NoUpstream> {
    let name = ServerName::try_from(name.as_str().to_owned())
        .map_err(|_none| NoUpstream::Failed("tls_certificate"))?;
    let connector = TlsConnector::from(config.clone());
    match connector.connect(name, stream).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) => Err(NoUpstream::Failed(reason(&error))),
    }
}

fn reason(error: &io::Error) -> &'static str {
    let error = error.get_ref().and_then(|it| it.downcast_ref());
    match error.is_some_and(|it| matches!(it, rustls::Error::InvalidCertificate(_))) {
        true => "tls_certificate",
        false => "tls_failed",
    }
}
