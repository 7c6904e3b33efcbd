//! Envoy: `tls_inspector`, and one chain for all names.

use std::{net::SocketAddr, process::Command};

use anyhow::Result;
use serde_json::{Value, json};

use super::{Setting, WORKERS};

pub(super) fn configure(setting: &Setting<'_>, command: &mut Command) -> Result<()> {
    // Its circuit breakers would open at 1,024 connections.
    let many = 100_000;
    let proxy = json!({
        "name": "tcp",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": "names",
            "cluster": "server",
        },
    });
    let inspector = json!({
        "name": "tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
        },
    });
    let config = json!({
        "static_resources": {
            "listeners": [{
                "name": "names",
                "address": address(setting.listen),
                "listener_filters": [inspector],
                "filter_chains": [{
                    "filter_chain_match": { "server_names": setting.names },
                    "filters": [proxy],
                }],
            }],
            "clusters": [{
                "name": "server",
                "type": "STATIC",
                "connect_timeout": "5s",
                "circuit_breakers": { "thresholds": [{
                    "max_connections": many, "max_pending_requests": many, "max_requests": many,
                }] },
                "load_assignment": {
                    "cluster_name": "server",
                    "endpoints": [{ "lb_endpoints": [{
                        "endpoint": { "address": address(setting.upstream) },
                    }] }],
                },
            }],
        },
    });
    let file = setting.write("envoy.json", &config.to_string())?;
    command
        .arg("-c")
        .arg(file)
        .args(["--concurrency", &WORKERS.to_string()])
        .args(["--disable-hot-restart", "--log-level", "error"]);
    Ok(())
}

fn address(of: SocketAddr) -> Value {
    json!({ "socket_address": { "address": of.ip().to_string(), "port_value": of.port() } })
}
