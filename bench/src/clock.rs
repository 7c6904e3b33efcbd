//! Processor time, and which processor.

use std::io;

use anyhow::{Context as _, Result};

/// Of this thread, in nanoseconds; what the kernel does for it in softirq counts where it is done
/// at once.
pub(crate) fn of_thread() -> f64 {
    read(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// Of this process, in nanoseconds.
pub(crate) fn of_process() -> f64 {
    read(libc::CLOCK_PROCESS_CPUTIME_ID)
}

fn read(clock: libc::clockid_t) -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel writes a timespec; these clocks are always there.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

/// Keeps this thread on one processor, of those that there are.
pub(crate) fn pin(number: usize) -> Result<()> {
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    set(|it| it == number % count)
}

/// Lets it run anywhere again.
pub(crate) fn unpin() -> Result<()> {
    set(|_| true)
}

fn set(wanted: impl Fn(usize) -> bool) -> Result<()> {
    // SAFETY: all zeroes is an empty set.
    let mut processors: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for number in (0..libc::CPU_SETSIZE as usize).filter(|number| wanted(*number)) {
        // SAFETY: a number below the set's size.
        unsafe { libc::CPU_SET(number, &mut processors) };
    }
    // SAFETY: the set is as large as is said, and 0 is this thread.
    match unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const processors) }
    {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).context("could not choose a processor"),
    }
}
