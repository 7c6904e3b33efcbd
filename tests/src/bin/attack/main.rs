//! Ways around an egress gateway, one a subcommand, to be run inside a pod. Prints `ok after N ms`
//! or the error's name, and ends with 0 or 1 accordingly.
#![allow(
    clippy::print_stdout,
    reason = "a command-line tool: what it prints is its result"
)]

mod calls;
mod datagram;
mod flood;
mod frame;
mod packet;
mod raw;
mod ring;
mod socket;
mod stream;
mod xdp;

use std::{
    io::{self, BufRead as _},
    net::{IpAddr, SocketAddr},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let begun = Instant::now();
    let result = make(&arguments);
    let millis = begun.elapsed().as_millis();
    match result {
        Ok(()) => {
            println!("ok after {millis} ms");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let name = error.downcast_ref::<io::Error>().map_or("failed", name);
            println!("{name} after {millis} ms: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn make(arguments: &[&str]) -> Result<()> {
    match arguments {
        ["udp", to, text] => Ok(datagram::send(address(to)?, text)?),
        ["udp-connect", to] => Ok(datagram::connect(address(to)?)?),
        ["udp-connected", to, text] => Ok(datagram::send_connected(address(to)?, text)?),
        ["udp-elsewhere", first, to] => Ok(datagram::elsewhere(address(first)?, address(to)?)?),
        ["udp-many", to, count] => Ok(datagram::send_many(address(to)?, number(count)?)?),
        ["udp-flood", to, millis] => {
            let sent = datagram::flood(address(to)?, Duration::from_millis(number(millis)?))?;
            println!("sent {sent}");
            Ok(())
        }
        ["udp-sweep", to, count] => {
            println!("sent {}", flood::sweep(ip(to)?, number(count)?)?);
            Ok(())
        }
        ["syns", from, to, count] => {
            let (from, to) = (from.parse()?, to.parse()?);
            Ok(flood::syns(from, to, number(count)?)?)
        }
        ["udp-held", to] => Ok(datagram::held(address(to)?, wait)?),
        ["udp-lite", to] => Ok(calls::lite(address(to)?)?),
        ["udp-lite-connected", to] => Ok(calls::lite_connected(address(to)?)?),
        ["udp-ring", to] => Ok(calls::by_ring(address(to)?)?),
        ["udp-segments", to] => Ok(calls::segments(address(to)?)?),
        ["udp-sendfile", to] => Ok(calls::send_file(address(to)?)?),
        ["udp-splice", to] => Ok(calls::splice(address(to)?)?),
        ["udp-transparent", from, to] => Ok(calls::transparent(ip(from)?, address(to)?)?),
        ["udp-zerocopy", to] => Ok(calls::zero_copy(address(to)?)?),
        ["tcp", to] => Ok(stream::connect(address(to)?)?),
        ["tcp-from", port, to] => Ok(stream::connect_from(number(port)?, address(to)?)?),
        ["tcp-fastopen", to] => Ok(stream::fast_open(address(to)?)?),
        ["tcp-multipath", to] => Ok(stream::multipath(address(to)?)?),
        ["tcp-repair", to] => Ok(stream::repaired(address(to)?)?),
        ["tcp-ring", to] => Ok(stream::by_ring(address(to)?)?),
        ["tcp-transparent", from, to] => Ok(stream::transparent(ip(from)?, address(to)?)?),
        ["tcp-held", to] => Ok(stream::held(address(to)?, wait)?),
        ["ping", to] => Ok(raw::ping(ip(to)?, libc::SOCK_DGRAM)?),
        ["ping-raw", to] => Ok(raw::ping(ip(to)?, libc::SOCK_RAW)?),
        ["icmp-error", to] => Ok(raw::icmp_error(ip(to)?)?),
        ["raw", to, protocol] => Ok(raw::send(ip(to)?, number(protocol)?)?),
        ["raw-header", from, to, port] => {
            Ok(raw::send_with_header(ip(from)?, ip(to)?, number(port)?)?)
        }
        ["frame-bytes", interface, hex] => Ok(frame::send_bytes(interface, hex)?),
        [kind, interface, next_hop, from, to, port] => {
            let (from, to, port) = (ip(from)?, ip(to)?, number(port)?);
            let datagram = packet::udp(from, to, port);
            Ok(match *kind {
                "frame" => frame::send(interface, next_hop, to, &datagram),
                "frame-cooked" => frame::send_cooked(interface, next_hop, to, &datagram),
                "frame-unqueued" => frame::send_unqueued(interface, next_hop, to, &datagram),
                "frame-ring" => frame::send_by_ring(interface, next_hop, to, &datagram),
                "frame-xdp" => frame::send_by_xdp(interface, next_hop, to, &datagram),
                "frame-segments" => {
                    let datagram = packet::udp_with(from, to, port, &[b'x'; 3_000]);
                    frame::send_segments(interface, next_hop, to, &datagram, 1_000)
                }
                other => bail!("no such attack: {other}"),
            }?)
        }
        other => bail!("no such attack: {other:?}"),
    }
}

/// Says that everything is open, and waits for a line.
fn wait() -> io::Result<()> {
    println!("open");
    io::stdin()
        .lock()
        .read_line(&mut String::new())
        .map(|_length| ())
}

fn address(text: &str) -> Result<SocketAddr> {
    text.parse()
        .with_context(|| format!("{text} is no address with a port"))
}

fn ip(text: &str) -> Result<IpAddr> {
    text.parse()
        .with_context(|| format!("{text} is no address"))
}

fn number<T: TryFrom<u64>>(text: &str) -> Result<T> {
    let number: u64 = text
        .parse()
        .with_context(|| format!("{text} is no number"))?;
    T::try_from(number)
        .ok()
        .with_context(|| format!("{text} is too large"))
}

/// The symbolic name of the errors that tests ask for.
fn name(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => "EPERM",
        Some(libc::EACCES) => "EACCES",
        Some(libc::ECONNREFUSED) => "ECONNREFUSED",
        Some(libc::ECONNRESET) => "ECONNRESET",
        Some(libc::EHOSTUNREACH) => "EHOSTUNREACH",
        Some(libc::ENETUNREACH) => "ENETUNREACH",
        Some(libc::ETIMEDOUT) => "ETIMEDOUT",
        Some(_) => "error",
        None if error.kind() == io::ErrorKind::TimedOut => "ETIMEDOUT",
        None => "error",
    }
}
