//! The checks as people read them: one line each, in columns.

use super::{Check, Status, can_run};

/// Select Graphic Rendition (ECMA-48 section 8.3.117).
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const RED: &str = "\x1b[1;31m";
const PLAIN: &str = "\x1b[0m";

/// Every check on a line of its own, and a last line that says what it comes to.
pub fn text(checks: &[Check], colour: bool) -> String {
    let width = checks.iter().map(|c| c.name.chars().count()).max();
    let width = width.unwrap_or_default();
    let mut lines: Vec<String> = checks.iter().map(|c| line(c, width, colour)).collect();
    lines.push(String::new());
    lines.push(summary(checks));
    lines.join("\n") + "\n"
}

/// `warning  name  what was found - its consequence - its mend`.
fn line(check: &Check, width: usize, colour: bool) -> String {
    let status = format!("{:<7}", check.status.name());
    let status = match colour {
        true => format!("{}{status}{PLAIN}", paint(check.status)),
        false => status,
    };
    let parts = [
        Some(&check.found),
        check.consequence.as_ref(),
        check.mend.as_ref(),
    ];
    let parts: Vec<&str> = parts.into_iter().flatten().map(String::as_str).collect();
    format!("{status}  {:<width$}  {}", check.name, parts.join(" - "))
}

const fn paint(status: Status) -> &'static str {
    match status {
        Status::Ok => GREEN,
        Status::Warning => YELLOW,
        Status::Missing => RED,
    }
}

fn summary(checks: &[Check]) -> String {
    let count = |status| checks.iter().filter(|c| c.status == status).count();
    let (missing, warnings) = (count(Status::Missing), count(Status::Warning));
    match can_run(checks) {
        true => format!("The agent can run here; warnings: {warnings}."),
        false => {
            format!("The agent cannot run here; missing: {missing}, warnings: {warnings}.")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks() -> Vec<Check> {
        vec![
            Check::ok("kernel", "6.12.0"),
            Check::warning("bpf lsm", "not usable", "less is refused", "boot with it"),
        ]
    }

    #[test]
    fn one_aligned_line_each() {
        let expected = "\
ok       kernel   6.12.0
warning  bpf lsm  not usable - less is refused - boot with it

The agent can run here; warnings: 1.
";
        assert_eq!(text(&checks(), false), expected);
    }

    #[test]
    fn what_is_missing_decides() {
        let mut checks = checks();
        checks.push(Check::missing(
            "btf",
            "none",
            "nothing loads",
            "boot another",
        ));
        assert!(!can_run(&checks));
        let text = text(&checks, false);
        assert!(text.ends_with("The agent cannot run here; missing: 1, warnings: 1.\n"));
    }

    #[test]
    fn colour_only_where_it_is_asked_for() {
        assert!(!text(&checks(), false).contains('\x1b'));
        let coloured = text(&checks(), true);
        assert!(coloured.starts_with("\x1b[32mok     \x1b[0m  kernel "));
        // Without its colours it is the same text.
        let stripped = [GREEN, YELLOW, RED, PLAIN]
            .iter()
            .fold(coloured, |text, code| text.replace(code, ""));
        assert_eq!(stripped, text(&checks(), false));
    }
}
