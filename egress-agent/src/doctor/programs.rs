//! The agent's own programs in this kernel: loaded, attached to a scratch link, heard.

use super::{
    Check, line_of,
    veth::{self, Failure},
};
use crate::enforcer::{EnforcerError, clsact::Links, probe::Probe};

pub(super) fn checks() -> Vec<Check> {
    let mut probe = match Probe::load() {
        Ok(probe) => probe,
        Err(error) => return vec![not_loaded(&error), pair_alone()],
    };
    let mut checks = programs(&probe);
    checks.push(compiled(&probe));
    checks.push(events(&mut probe));
    checks.extend(links(&probe));
    checks
}

fn not_loaded(error: &EnforcerError) -> Check {
    let found = match error {
        // Without the advice to ask the doctor.
        EnforcerError::Load(source) => with_sources(source),
        EnforcerError::Bpffs(_)
        | EnforcerError::Btf(_)
        | EnforcerError::Program { .. }
        | EnforcerError::Missing(_)
        | EnforcerError::Attach(_)
        | EnforcerError::Map { .. }
        | EnforcerError::Perf { .. }
        | EnforcerError::Namespace(_)
        | EnforcerError::Pin { .. }
        | EnforcerError::Full(_) => with_sources(error),
    };
    Check::missing(
        "BPF programs",
        found,
        "nothing can be enforced",
        "mend what is missing above, or boot a kernel of 6.6 or newer",
    )
}

/// An error with what is behind it, in one line.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    in_one_line(&text)
}

/// The first line, and of a verifier's log the last one that says anything: why it gave up.
fn in_one_line(text: &str) -> String {
    const LOG: &str = "Verifier output:";
    const STATISTICS: [&str; 4] = [
        "processed ",
        "verification time",
        "stack depth",
        "peak_states",
    ];
    let Some((head, log)) = text.split_once(LOG) else {
        return text.lines().next().unwrap_or_default().to_owned();
    };
    let says = |line: &&str| !line.is_empty() && !STATISTICS.iter().any(|s| line.starts_with(s));
    let why = log.lines().map(str::trim).rfind(says).unwrap_or_default();
    format!("{head}{LOG} {why}")
}

fn programs(probe: &Probe) -> Vec<Check> {
    if probe.refused().is_empty() {
        let found = format!("all {} load", probe.count());
        return vec![Check::ok("BPF programs", found)];
    }
    let refused = probe.refused().iter().map(|(name, error)| {
        Check::missing(
            "BPF programs",
            format!("{name}: {}", with_sources(error)),
            "nothing can be enforced",
            "boot a kernel of 6.6 or newer; where it is that, report this line as a bug",
        )
    });
    refused.collect()
}

/// Whether the kernel made machine code of them.
fn compiled(probe: &Probe) -> Check {
    const NAME: &str = "BPF JIT";
    match probe.is_compiled() {
        Some(true) => Check::ok(NAME, "programs are compiled"),
        Some(false) => Check::warning(
            NAME,
            format!(
                "programs are interpreted (bpf_jit_enable {})",
                line_of("/proc/sys/net/core/bpf_jit_enable").unwrap_or_default()
            ),
            "every packet of an endpoint costs several times more",
            "sysctl net.core.bpf_jit_enable=1",
        ),
        None => Check::warning(
            NAME,
            "the kernel does not tell",
            "whether programs are compiled is not known",
            "sysctl net.core.bpf_jit_enable=1",
        ),
    }
}

fn events(probe: &mut Probe) -> Check {
    const NAME: &str = "perf events";
    match probe.open_events() {
        Ok(()) => Check::ok(NAME, "a buffer can be opened"),
        Err(error) => Check::missing(
            NAME,
            with_sources(&error),
            "what is denied cannot be reported",
            "run as root; raise RLIMIT_MEMLOCK or kernel.perf_event_mlock_kb where memory is short",
        ),
    }
}

fn links(probe: &Probe) -> Vec<Check> {
    match veth::with_pair(|| probe.attach_link(veth::HOST)) {
        Err(failure) => vec![pair_failed(&failure)],
        Ok(attached) => vec![Check::ok("veth", PAIR), attached_link(attached)],
    }
}

const PAIR: &str = "a pair can be made in a network namespace of its own";

fn pair_alone() -> Check {
    match veth::with_pair(|| ()) {
        Ok(()) => Check::ok("veth", PAIR),
        Err(failure) => pair_failed(&failure),
    }
}

fn pair_failed(failure: &Failure) -> Check {
    const CONSEQUENCE: &str = "`exec` cannot give its command a network of its own";
    match failure {
        Failure::Namespace(error) => Check::warning(
            "veth",
            format!("no network namespace: {error}"),
            CONSEQUENCE,
            "run as root, on a kernel with CONFIG_NET_NS=y",
        ),
        Failure::Links(error) => Check::warning(
            "veth",
            format!("no pair of links: {error}"),
            CONSEQUENCE,
            "run as root, on a kernel with CONFIG_VETH (modprobe veth)",
        ),
    }
}

fn attached_link(attached: std::io::Result<Links>) -> Check {
    const NAME: &str = "links";
    match attached {
        Ok(Links::Tcx) => Check::ok(NAME, "programs attach by TCX"),
        Ok(Links::Clsact) => Check::warning(
            NAME,
            "no TCX in this kernel; programs attach as filters of clsact",
            "they enforce the same, but whoever administrates the node's network (tc) can remove \
             them for a second, or pass by them unseen, which TCX does not allow",
            "boot a kernel of 6.6 or newer",
        ),
        Err(error) => Check::missing(
            NAME,
            with_sources(&error),
            "programs cannot attach to links, so frames of AF_PACKET sockets would pass",
            "boot a kernel of 6.6 or newer, or load the modules sch_ingress and cls_bpf",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_verifiers_log_the_reason_is_told() {
        let log =
            "EACCES. Verifier output: 0: R1=ctx()\n1: r0 = 1\nR1 type=inv\nprocessed 3 insns\n\n";
        assert_eq!(in_one_line(log), "EACCES. Verifier output: R1 type=inv");
        assert_eq!(in_one_line("one\ntwo"), "one");
    }
}
