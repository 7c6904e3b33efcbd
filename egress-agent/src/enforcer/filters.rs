//! The enforcer's filters on links, on kernels without TCX: attached, looked at, mended.

use std::os::fd::AsFd;

use crate::enforcer::{
    Enforcer,
    attach::{AttachError, pin_name},
    bpffs,
    clsact::{self, Side},
    tamper::{Fault, has_interface},
};

/// A filter that is attached, and what it should be.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    /// The endpoint's name.
    endpoint: String,
    program: &'static str,
    side: Side,
    pub(super) interface: u32,
}

impl Enforcer {
    pub(super) fn attach_filters(
        &mut self,
        sides: &[(&'static str, Side)],
        name: &str,
        interface: u32,
    ) -> Result<(), AttachError> {
        for (program, side) in sides {
            let filter = clsact::name_of(&bpffs::link(&self.pins, &pin_name(name, program)));
            let placed = Placed {
                endpoint: name.to_owned(),
                program,
                side: *side,
                interface,
            };
            self.attach_filter(&filter, &placed)?;
            self.filters.insert(filter, placed);
        }
        Ok(())
    }

    fn attach_filter(&self, filter: &str, placed: &Placed) -> Result<(), AttachError> {
        let fd = self.program_fd(placed.program)?;
        let attached = clsact::attach(filter, fd.as_fd(), placed.interface, placed.side);
        attached.map_err(|source| AttachError::Attach {
            program: placed.program,
            target: format!("interface {}", placed.interface),
            source,
        })
    }

    /// Looks whether each filter is there and has our program, and puts it back where not. A filter
    /// whose interface has gone was not taken away by anybody.
    pub(super) fn mend_filters(&self) -> Vec<Fault> {
        let there = self.filters.iter();
        let there = there.filter(|(_, placed)| has_interface(placed.interface));
        let faults = there.filter_map(|(filter, placed)| {
            let what = match clsact::program(filter, placed.interface, placed.side) {
                Ok(Some(id)) if Some(id) == self.program_id(placed.program) => return None,
                Ok(Some(_other)) => "its filter had another program",
                Ok(None) => "it was detached",
                Err(_unreadable) => "its filter cannot be read",
            };
            let again = self.attach_filter(filter, placed);
            Some(Fault {
                endpoint: Some(placed.endpoint.clone()),
                what: format!("{}: {what}", placed.program),
                failed: again.err().map(|error| error.to_string()),
            })
        });
        faults.collect()
    }

    fn program_id(&self, program: &str) -> Option<u32> {
        Some(self.ebpf.program(program)?.info().ok()?.id())
    }
}
