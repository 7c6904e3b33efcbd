//! The programs' own diagnostics, by aya-log. Each is of something that fails closed for want of
//! memory or of an entry, and that a report alone would not explain. Functions of their own, so
//! that the texts cost the programs' stack frames nothing.

use aya_log_ebpf::{debug, warn};

/// A socket of the endpoint gets no storage: it may not be, or its call fails.
#[inline(never)]
pub(crate) fn no_storage(endpoint: u32) {
    warn!(
        (),
        "endpoint {}: no memory for a socket's storage", endpoint
    );
}

/// A packet to the gateway is dropped, since nobody could tell the gateway whose it is.
#[inline(never)]
pub(crate) fn not_published(endpoint: u32) {
    warn!((), "endpoint {}: no room to publish an origin", endpoint);
}

/// A connection is accepted of which the gateway cannot learn whose it is, and closes it.
#[inline(never)]
pub(crate) fn not_attached(endpoint: u32) {
    warn!((), "endpoint {}: no memory for an origin", endpoint);
}

/// A frame comes by an interface that the maps do not know, or before there is a configuration.
#[inline(never)]
pub(crate) fn unknown_link(interface: u32) {
    debug!(
        (),
        "interface {}: no link, endpoint or configuration", interface
    );
}
