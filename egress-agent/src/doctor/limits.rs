//! Bounds that the kernel puts on the gateway and the enforcer.

use std::thread;

use rustix::process::{Resource, Rlimit, getrlimit};

use super::{Check, line_of, privilege};
use crate::gateway::{protocol::Limits, splice::pipe::PIPE};

/// Bytes of a page; where they are larger, there is room for more.
const PAGE: u64 = 4 << 10;

pub(super) fn checks() -> Vec<Check> {
    let files = getrlimit(Resource::Nofile);
    let locked = getrlimit(Resource::Memlock);
    vec![descriptors(&files, may_raise()), pipes(), memory(&locked)]
}

/// The gateway's limit is raised where that may be done; otherwise it is the agent's hard one.
fn descriptors(limit: &Rlimit, may_raise: bool) -> Check {
    const NAME: &str = "descriptors";
    let workers = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let limits = Limits::default();
    let wanted = limits.descriptors(workers);
    let Some(maximum) = limit.maximum else {
        return Check::ok(NAME, "RLIMIT_NOFILE is without bound");
    };
    if maximum >= wanted {
        return Check::ok(NAME, format!("RLIMIT_NOFILE is at most {maximum}"));
    }
    if may_raise {
        let found =
            format!("RLIMIT_NOFILE is at most {maximum}, raised to {wanted} for the gateway");
        return Check::ok(NAME, found);
    }
    let connections = limits.within(maximum, workers).connections;
    Check::warning(
        NAME,
        format!("RLIMIT_NOFILE is at most {maximum}"),
        &format!("the gateway serves {connections} connections at once"),
        &format!(
            "raise the hard limit to {wanted} (LimitNOFILE=, ulimit -Hn), or give CAP_SYS_RESOURCE"
        ),
    )
}

/// Whether this process may give its child more descriptors than it has itself (capabilities(7)).
fn may_raise() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    privilege::effective().is_some_and(|set| set & (1 << CAP_SYS_RESOURCE) != 0)
}

/// An unprivileged user's pipes are shrunk beyond this many pages (pipe(7)).
fn pipes() -> Check {
    const NAME: &str = "pipes";
    const PATH: &str = "/proc/sys/fs/pipe-user-pages-soft";
    let pages = line_of(PATH).and_then(|text| text.parse::<u64>().ok());
    match pages {
        None => Check::warning(
            NAME,
            format!("{PATH} cannot be read"),
            "how many bulk transfers can use splice(2) is not known",
            "mount /proc",
        ),
        Some(0) => Check::ok(NAME, "no bound on a user's pipes"),
        Some(pages) => {
            let count = pages * PAGE / PIPE as u64;
            let found = format!(
                "{pages} pages: {count} pipes of {} KiB for the gateway",
                PIPE >> 10
            );
            match count {
                64.. => Check::ok(NAME, found),
                _ => Check::warning(
                    NAME,
                    found,
                    "more bulk transfers than that copy instead of splice(2)",
                    "sysctl fs.pipe-user-pages-soft=16384",
                ),
            }
        }
    }
}

/// Maps are charged to the memory cgroup since 5.11; perf buffers still count here.
fn memory(limit: &Rlimit) -> Check {
    const NAME: &str = "locked memory";
    match limit.maximum {
        Some(bytes) => Check::ok(
            NAME,
            format!(
                "RLIMIT_MEMLOCK is at most {} KiB; maps do not count",
                bytes >> 10
            ),
        ),
        None => Check::ok(NAME, "RLIMIT_MEMLOCK is without bound"),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Status, *};

    #[test]
    fn few_descriptors_are_named() {
        let limit = |maximum| Rlimit {
            current: maximum,
            maximum,
        };
        let status = |maximum, may_raise| descriptors(&limit(maximum), may_raise).status;
        assert_eq!(status(Some(1_024), false), Status::Warning);
        assert_eq!(status(Some(1_024), true), Status::Ok);
        assert_eq!(status(Some(1 << 20), false), Status::Ok);
        assert_eq!(status(None, false), Status::Ok);
    }
}
