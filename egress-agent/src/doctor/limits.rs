//! Bounds that the kernel puts on the gateway and the enforcer.

use rustix::process::{Resource, Rlimit, getrlimit};

use super::{Check, line_of};
use crate::gateway::{protocol::Limits, splice::pipe::PIPE};

/// Bytes of a page; where they are larger, there is room for more.
const PAGE: u64 = 4 << 10;

pub(super) fn checks() -> Vec<Check> {
    let files = getrlimit(Resource::Nofile);
    let locked = getrlimit(Resource::Memlock);
    vec![descriptors(&files), pipes(), memory(&locked)]
}

/// The gateway raises its own limit to the hard one; each connection has two sockets.
fn descriptors(limit: &Rlimit) -> Check {
    const NAME: &str = "descriptors";
    let wanted = Limits::default().connections as u64 * 2;
    match limit.maximum {
        Some(maximum) if maximum <= wanted => Check::warning(
            NAME,
            format!("RLIMIT_NOFILE is at most {maximum}"),
            &format!(
                "the gateway serves about {} connections at once",
                maximum / 2
            ),
            &format!("raise the hard limit above {wanted} (LimitNOFILE=, ulimit -Hn)"),
        ),
        Some(maximum) => Check::ok(NAME, format!("RLIMIT_NOFILE is at most {maximum}")),
        None => Check::ok(NAME, "RLIMIT_NOFILE is without bound"),
    }
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
        assert_eq!(descriptors(&limit(Some(1_024))).status, Status::Warning);
        assert_eq!(descriptors(&limit(Some(20_000))).status, Status::Ok);
        assert_eq!(descriptors(&limit(None)).status, Status::Ok);
    }
}
