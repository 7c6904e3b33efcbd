//! Perf events out of the kernel, decoded, with the lost ones counted.

use crate::enforcer::{
    Enforcer, EnforcerError, bpffs,
    own::{self, Closed},
    state::failed,
};
use aya::maps::{
    Map, MapData, PerfEventArray,
    perf::{PerfEvent, PerfEventArrayBuffer},
};
use egress_common::{event::Event, maps};
use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    time::Duration,
};
use tokio::{
    io::unix::AsyncFd,
    sync::{mpsc, watch},
};

/// Pages of one CPU's buffer: 64 of 4 KiB hold some 2,000 events. A power of two
/// (perf_event_open(2)), and small enough for 8 MiB of locked memory on many CPUs.
pub(super) const PAGES: usize = 64;
/// How long an event may be on its way into a buffer that has been replaced.
const UNDER_WAY: Duration = Duration::from_millis(10);

/// What a buffer gives.
#[derive(Debug, Clone, Copy)]
pub enum Report {
    /// The first attempt of a key and window.
    Denied(Event),
    /// So many events found no room.
    Lost(u64),
    /// Something that is no event; the object and the agent do not fit each other.
    Malformed(usize),
}

impl Enforcer {
    /// Opens the buffers of all CPUs, in the place of whoever's there are, and forwards what they
    /// hold, until the receiver is gone. Those that it had itself are emptied and closed. Within a
    /// tokio runtime.
    pub fn forward_events(
        &mut self,
        to: mpsc::UnboundedSender<Report>,
    ) -> Result<(), EnforcerError> {
        // Not the map of the load: the kernel takes the buffers away with the descriptor that put
        // them there, and these may have to be put there again.
        let map = MapData::from_pin(bpffs::map(&self.pins, maps::EVENTS));
        let map = Map::PerfEventArray(map.map_err(failed(maps::EVENTS))?);
        let mut array = PerfEventArray::try_from(map).map_err(failed(maps::EVENTS))?;
        let cpus = aya::util::online_cpus().map_err(|(_, error)| EnforcerError::Perf {
            cpu: 0,
            source: Box::new(error),
        })?;
        let (current, replaced) = watch::channel(());
        self.forwarding = Some(current);
        for cpu in cpus {
            let buffer = array
                .open(cpu, Some(PAGES))
                .map_err(|error| EnforcerError::Perf {
                    cpu,
                    source: Box::new(error),
                })?;
            // SAFETY: the descriptor is the buffer's own from here until the drop of both.
            let buffer = unsafe { AsyncFd::register(Buffer(buffer)) };
            let buffer = buffer.map_err(|error| EnforcerError::Perf {
                cpu,
                source: Box::new(error),
            })?;
            tokio::spawn(forward(buffer, to.clone(), replaced.clone()));
        }
        Ok(())
    }

    /// Closes the windows that are over and gives what they come to. `now_ns` is `CLOCK_BOOTTIME`.
    pub fn close_windows(&mut self, now_ns: u64) -> Result<Vec<Closed>, EnforcerError> {
        let mut closed = std::mem::take(&mut self.closed);
        for own in self.own.values_mut() {
            closed.extend(own.close(now_ns).map_err(own::failed(maps::REPORTS))?);
        }
        Ok(closed)
    }

    /// Gives what open windows hold so far, and closes them all: for the end.
    pub fn close_all_windows(&mut self) -> Result<Vec<Closed>, EnforcerError> {
        self.close_windows(u64::MAX)
    }
}

struct Buffer(PerfEventArrayBuffer<MapData>);

impl AsRawFd for Buffer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for Buffer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

async fn forward(
    mut buffer: AsyncFd<Buffer>,
    to: mpsc::UnboundedSender<Report>,
    mut replaced: watch::Receiver<()>,
) {
    loop {
        let is_last = tokio::select! {
            _replaced = replaced.changed() => true,
            ready = buffer.readable_mut() => match ready {
                Ok(mut ready) => {
                    ready.clear_ready();
                    false
                }
                Err(_closed) => return,
            },
        };
        if is_last {
            tokio::time::sleep(UNDER_WAY).await;
        }
        let mut open = true;
        buffer.get_mut().0.for_each(|event| {
            open &= to.send(decode(event)).is_ok();
        });
        if is_last || !open {
            return;
        }
    }
}

fn decode(event: PerfEvent<'_>) -> Report {
    match event {
        PerfEvent::Sample { head, tail } => {
            let mut bytes = [0_u8; size_of::<Event>()];
            // The kernel pads a sample to eight bytes.
            let length = head.len() + tail.len();
            if length < bytes.len() || length > bytes.len() + 8 {
                return Report::Malformed(length);
            }
            for (to, from) in bytes.iter_mut().zip(head.iter().chain(tail)) {
                *to = *from;
            }
            // SAFETY: `Event` is Pod, and there are as many bytes as it has.
            Report::Denied(unsafe { bytes.as_ptr().cast::<Event>().read_unaligned() })
        }
        PerfEvent::Lost { count } => Report::Lost(count),
    }
}
