//! Looks whether what was attached and written is still there, and mends it. Whoever can change
//! it is root of the node, and could end the agent as well; but accidents, other tools and half a
//! privilege do not do it unseen.

use std::{
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use aya::programs::Program;

use crate::enforcer::{
    Enforcer,
    attach::{Hook, LINK_HOOKS, pin},
    load_program, sys,
};

/// A link that is attached, and what it should be.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) link: OwnedFd,
    pub(super) id: u32,
    /// The endpoint's name, or `gateway`.
    pub(super) name: String,
    pub(super) hook: Hook,
    pub(super) place: Place,
    /// As the kernel tells it.
    pub(super) target: u64,
    pub(super) program_id: u32,
}

impl Held {
    /// Whether it is attached, runs what it should and is pinned there.
    fn is_so(&self, path: &Path) -> bool {
        let info = sys::link_info(self.link.as_fd());
        let is_attached = info.is_ok_and(|info| {
            info.target() == self.target
                && info.attach_type() == self.hook.1
                && info.program == self.program_id
        });
        let pinned = || sys::get(path).and_then(|link| sys::id(link.as_fd()));
        is_attached && pinned().is_ok_and(|id| id == self.id)
    }
}

/// What is attached to.
#[derive(Debug, Clone)]
pub(super) enum Place {
    Cgroup(PathBuf),
    Interface(u32),
}

impl Place {
    /// Whether it is still what it was when the link was attached.
    fn is_there(&self, target: u64) -> bool {
        match self {
            Self::Cgroup(path) => fs::metadata(path).is_ok_and(|found| found.ino() == target),
            Self::Interface(index) => has_interface(*index),
        }
    }
}

pub(super) fn has_interface(index: u32) -> bool {
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    );
    socket.is_ok_and(|socket| rustix::net::netdevice::index_to_name(socket, index).is_ok())
}

/// Something that was not as it should be.
#[derive(Debug)]
pub struct Fault {
    /// Whose, where it is one endpoint's: its name, or `gateway`.
    pub endpoint: Option<String>,
    /// What was found.
    pub what: String,
    /// Why it is still so; `None` where it was mended.
    pub failed: Option<String>,
}

impl Enforcer {
    /// Looks at everything that this enforcer has attached, pinned and written, and mends what is
    /// another. Call it every second, once all is attached; it takes bounded time.
    pub fn mend(&mut self) -> Vec<Fault> {
        let mut faults = self.mend_links();
        faults.extend(self.mend_order());
        faults.extend(self.mend_filters());
        faults.extend(self.mend_own());
        faults.extend(self.written.mend_pins(&self.pins));
        let mut changed = self.written.mend();
        changed.extend(self.mend_direct());
        // What was allowed by what was strange is not allowed any longer.
        if !changed.is_empty()
            && let Err(error) = self.forget_decisions()
        {
            changed.push(Fault {
                endpoint: None,
                what: "what sockets remember to be allowed could not be taken back".into(),
                failed: Some(error.to_string()),
            });
        }
        faults.extend(changed);
        faults
    }

    fn mend_links(&mut self) -> Vec<Fault> {
        // Of thousands of links, all but a few are as they should be.
        let other = self.held.iter().filter(|(path, held)| !held.is_so(path));
        let pins: Vec<PathBuf> = other.map(|(path, _)| path.clone()).collect();
        let faults = pins.into_iter().filter_map(|pin| self.mend_link(&pin));
        faults.collect()
    }

    fn mend_link(&mut self, path: &Path) -> Option<Fault> {
        let held = self.held.get(path)?;
        let (program, attach_type) = held.hook;
        let fault = |what: &str, mended: Result<(), String>| {
            Some(Fault {
                endpoint: Some(held.name.clone()),
                what: format!("{program}: {what}"),
                failed: mended.err(),
            })
        };
        let text = |error: io::Error| error.to_string();
        let info = match sys::link_info(held.link.as_fd()) {
            Ok(info) => info,
            Err(error) => return fault("its link cannot be read", Err(error.to_string())),
        };
        if info.target() != held.target || info.attach_type() != attach_type {
            if !held.place.is_there(held.target) {
                // Nobody has detached it: there is nothing any more to be attached to.
                return None;
            }
            let held = self.held.remove(path)?;
            let again = self.attach_again(&held).map_err(|error| error.to_string());
            let (name, failed) = (held.name.clone(), again.err());
            if failed.is_some() {
                // To be tried again at the next look.
                self.held.insert(path.to_owned(), held);
            }
            return Some(Fault {
                endpoint: Some(name),
                what: format!("{program}: it was detached"),
                failed,
            });
        }
        if info.program != held.program_id {
            let ours = self.program_fd(program).map_err(|error| error.to_string());
            let put = ours.and_then(|ours| {
                sys::link_update(held.link.as_fd(), ours.as_fd()).map_err(text)?;
                sys::id(ours.as_fd()).map_err(text)
            });
            let what = format!("{program}: another program was in its place");
            let held = self.held.get_mut(path)?;
            let failed = put.map(|id| held.program_id = id).err();
            return Some(Fault {
                endpoint: Some(held.name.clone()),
                what,
                failed,
            });
        }
        let pinned = sys::get(path).and_then(|link| sys::id(link.as_fd()));
        if pinned.is_ok_and(|id| id == held.id) {
            return None;
        }
        let again = pin(held.link.as_fd(), path).map_err(text);
        fault("the pin of its link was gone or another's", again)
    }

    /// Whether the link programs are the first of their hooks.
    fn mend_order(&mut self) -> Vec<Fault> {
        let mut late = Vec::new();
        for (path, held) in &self.held {
            let Place::Interface(index) = held.place else {
                continue;
            };
            let Ok(ids) = sys::programs(index, held.hook.1) else {
                // The interface has gone.
                continue;
            };
            let first = ids.first();
            if first.is_some_and(|first| *first != held.program_id)
                && ids.contains(&held.program_id)
            {
                late.push(path.clone());
            }
        }
        let faults = late.into_iter().filter_map(|path| {
            let (name, program) = {
                let held = self.held.get(&path)?;
                (held.name.clone(), held.hook.0)
            };
            let failed = self.move_to_head(&path).err();
            Some(Fault {
                endpoint: Some(name),
                what: format!("{program}: another program was ahead of it"),
                failed,
            })
        });
        faults.collect()
    }

    /// Attaches ahead of all, and only then gives the old link up. The kernel takes a program once
    /// on a hook, so that it is a new copy of it.
    fn move_to_head(&mut self, path: &Path) -> Result<(), String> {
        let held = self.held.get(path).ok_or("its link has gone")?;
        let hook = LINK_HOOKS.iter().find(|hook| **hook == held.hook);
        let (program, attach_type) = *hook.ok_or("it is on no link")?;
        let Place::Interface(index) = held.place else {
            return Err("it is on no link".into());
        };
        match self.ebpf.program_mut(program) {
            Some(Program::SchedClassifier(classifier)) => {
                classifier.unload().map_err(|error| error.to_string())?;
            }
            Some(_) | None => return Err("the object has no such program".into()),
        }
        let copy = self.ebpf.program_mut(program);
        load_program(copy.ok_or("the object has no such program")?)
            .map_err(|error| error.to_string())?;
        let new = self
            .program_fd(program)
            .map_err(|error| error.to_string())?;
        let text = |error: io::Error| error.to_string();
        let link = sys::link_create(new.as_fd(), index, attach_type, sys::BEFORE).map_err(text)?;
        pin(link.as_fd(), path).map_err(text)?;
        let (id, program_id) = (
            sys::id(link.as_fd()).map_err(text)?,
            sys::id(new.as_fd()).map_err(text)?,
        );
        let held = self.held.get_mut(path).ok_or("its link has gone")?;
        (held.link, held.id, held.program_id) = (link, id, program_id);
        Ok(())
    }
}
