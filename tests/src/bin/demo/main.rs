//! `cargo xtask demo`: two pods, a node and an internet, with real programs on the way between.
//!
//! The show runs in a child. When it ends, is interrupted, or takes too long, the parent clears
//! whatever is left.
#![allow(clippy::print_stdout, reason = "the demo is what it prints")]

mod acts;
mod screen;

use std::{
    env,
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use egress_tests::{exec, scratch};

/// Marks the child.
const SHOW: &str = "--show";

/// The show takes some 15 seconds; a machine that is ten times slower is still in time.
const PATIENCE: Duration = Duration::from_secs(150);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    let result = if env::args().nth(1).as_deref() == Some(SHOW) {
        acts::show()
    } else {
        supervise()
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the show, and clears up after it however it ends. Returns whether all was as it should be.
fn supervise() -> Result<bool> {
    let interrupted = interrupted as extern "C" fn(i32) as libc::sighandler_t;
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler stores to an atomic, which is all that it may do.
        unsafe { libc::signal(signal, interrupted) };
    }
    let mut show = Command::new(env::current_exe().context("could not find this program")?);
    show.arg(SHOW);
    // SAFETY: prctl(2) with integers alone, which is safe between fork and exec.
    unsafe {
        show.pre_exec(
            || match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            },
        );
    }
    let mut show = show.spawn().context("could not start the show")?;
    let begun = Instant::now();
    let ended = loop {
        if let Some(status) = show.try_wait().context("could not wait for the show")? {
            break Ok(status.success());
        }
        let late = begun.elapsed() > PATIENCE;
        if late || INTERRUPTED.load(Ordering::Relaxed) {
            // It may have ended in this moment.
            show.kill().ok();
            show.wait().context("could not wait for the show")?;
            break Err(if late {
                "it took too long"
            } else {
                "interrupted"
            });
        }
        thread::sleep(Duration::from_millis(20));
    };
    if ended.is_err() {
        exec::clear_stale().context("clearing up")?;
    }
    scratch::clear_stale().context("clearing up")?;
    match ended {
        Ok(as_it_should) => Ok(as_it_should),
        Err(why) => bail!("{why}; everything it made is gone"),
    }
}

extern "C" fn interrupted(_signal: i32) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}
