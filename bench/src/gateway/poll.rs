//! Edge-triggered epoll, by numbers: what client, server and bare relay wait with.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::{
    event::{
        Timespec,
        epoll::{self, CreateFlags, Event, EventData, EventFlags},
    },
    io::Errno,
};

/// Events of one wait.
const EVENTS: usize = 256;

/// What has happened to a descriptor.
#[derive(Clone, Copy)]
pub(super) struct Happened {
    /// As it was added.
    pub(super) number: u64,
    /// There may be something to read, its end or an error.
    pub(super) readable: bool,
    /// There may be room to write, or it is connected, or an error.
    pub(super) writable: bool,
    /// The peer has ended, or there is an error: what is read must be read to its end.
    pub(super) ended: bool,
}

pub(super) struct Poll {
    epoll: OwnedFd,
}

impl Poll {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
        })
    }

    /// Waits for both directions of `socket`, each time anew that something changes.
    pub(super) fn add(&self, socket: impl AsFd, number: u64) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(
            &self.epoll,
            socket,
            EventData::new_u64(number),
            flags,
        )?)
    }

    /// Waits for something to read or to accept, for as long as there is some.
    pub(super) fn add_listener(&self, socket: impl AsFd, number: u64) -> io::Result<()> {
        let data = EventData::new_u64(number);
        Ok(epoll::add(&self.epoll, socket, data, EventFlags::IN)?)
    }

    /// What has happened, in place of what is in `into`; nothing after `limit`.
    pub(super) fn wait(&self, limit: Option<Duration>, into: &mut Vec<Happened>) -> io::Result<()> {
        into.clear();
        let limit = limit.map(|limit| Timespec {
            tv_sec: limit.as_secs() as i64,
            tv_nsec: limit.subsec_nanos().into(),
        });
        let mut room = [const { MaybeUninit::<Event>::uninit() }; EVENTS];
        let events = match epoll::wait(&self.epoll, &mut room, limit.as_ref()) {
            Ok((events, _)) => events,
            Err(Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        into.extend(events.iter().map(|event| {
            let (flags, data) = (event.flags, event.data);
            let failed = flags.intersects(EventFlags::ERR | EventFlags::HUP);
            let ended = failed || flags.contains(EventFlags::RDHUP);
            Happened {
                number: data.u64(),
                readable: ended || flags.contains(EventFlags::IN),
                writable: failed || flags.contains(EventFlags::OUT),
                ended,
            }
        }));
        Ok(())
    }
}
