//! What the audience sees: headings, commands, records, and the table at the end.

use std::io::IsTerminal as _;

use egress_tests::records::Record;

/// The terminal; colour only on one.
pub(crate) struct Screen {
    colour: bool,
    outcomes: Vec<Outcome>,
}

/// One line of the table.
pub(crate) struct Outcome {
    /// What was tried.
    pub(crate) tried: &'static str,
    /// What should happen.
    pub(crate) should: &'static str,
    /// What did.
    pub(crate) did: String,
    /// Whether that is the same.
    pub(crate) ok: bool,
}

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const CYAN: &str = "36";

impl Screen {
    pub(crate) fn new() -> Self {
        Self {
            colour: std::io::stdout().is_terminal(),
            outcomes: Vec::new(),
        }
    }

    /// A part of the show.
    pub(crate) fn heading(&self, text: &str) {
        println!("\n{}", self.paint(BOLD, &format!("━━ {text} ━━")));
    }

    /// A line of narration.
    pub(crate) fn tell(&self, text: &str) {
        println!("{text}");
    }

    /// The next thing to try, and the command as one would type it.
    pub(crate) fn command(&self, pod: &str, title: &str, line: &str) {
        println!("\n{}", self.paint(BOLD, title));
        println!("  {} {}", self.paint(CYAN, &format!("{pod} $")), line);
    }

    /// What a program printed: its last lines.
    pub(crate) fn output(&self, text: &str) {
        self.last_lines(text, 2);
    }

    /// The last `count` lines of what a program printed, blank ones left out.
    pub(crate) fn last_lines(&self, text: &str, count: usize) {
        let lines: Vec<&str> = text
            .lines()
            .map(str::trim)
            .filter(|l| !l.is_empty())
            .collect();
        for line in lines.iter().skip(lines.len().saturating_sub(count)) {
            println!("    {}", self.paint(DIM, &shortened(line, 100)));
        }
    }

    /// A record of the agent's, in one line.
    pub(crate) fn record(&self, record: &Record) {
        println!("  {} {}", self.paint(YELLOW, "record"), described(record));
    }

    /// What came of it, kept for the table.
    pub(crate) fn outcome(&mut self, outcome: Outcome) {
        let mark = self.mark(outcome.ok);
        println!("  {mark} {}", outcome.did);
        self.outcomes.push(outcome);
    }

    /// The table; returns whether every line of it is as it should be.
    pub(crate) fn table(&self) -> bool {
        self.heading("What was tried, what should happen, what did");
        let width = |field: fn(&Outcome) -> &str| {
            self.outcomes
                .iter()
                .map(|o| field(o).chars().count())
                .max()
                .unwrap_or_default()
        };
        let (tried, should, did) = (width(|o| o.tried), width(|o| o.should), width(|o| &o.did));
        let header = format!(
            "   {:tried$}  {:should$}  {:did$}",
            "tried", "should", "did"
        );
        println!("{}", self.paint(DIM, header.trim_end()));
        for outcome in &self.outcomes {
            let Outcome {
                tried: what,
                should: wanted,
                did: happened,
                ok,
            } = outcome;
            let line = format!(
                "{} {what:tried$}  {wanted:should$}  {happened:did$}",
                self.mark(*ok)
            );
            println!(" {}", line.trim_end());
        }
        let failed = self.outcomes.iter().filter(|o| !o.ok).count();
        let verdict = match failed {
            0 => self.paint(
                GREEN,
                &format!("all {} as they should be", self.outcomes.len()),
            ),
            _ => self.paint(RED, &format!("{failed} of {} differ", self.outcomes.len())),
        };
        println!("\n{verdict}");
        failed == 0
    }

    fn mark(&self, ok: bool) -> String {
        if ok {
            self.paint(GREEN, "✓")
        } else {
            self.paint(RED, "✗")
        }
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{colour}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// `bypass shop/orders attack[4711] udp 198.51.100.7:4000 deny direct_udp at sendmsg`.
fn described(record: &Record) -> String {
    let process = match record.number("/process/pid") {
        0 => "(a frame: no socket, no process)".to_owned(),
        pid => format!("{}[{pid}]", record.text("/process/command")),
    };
    let mut parts = vec![
        record.kind().to_owned(),
        record.endpoint().to_owned(),
        process,
    ];
    parts.push(record.text("/protocol").to_owned());
    parts.push(match record.number("/port") {
        0 => record.text("/destination").to_owned(),
        port => format!("{}:{port}", record.text("/destination")),
    });
    for pointer in ["/server_name", "/name", "/verdict", "/reason"] {
        parts.push(record.text(pointer).to_owned());
    }
    if let Some(upstream) = Some(record.text("/upstream")).filter(|text| !text.is_empty()) {
        parts.push(format!("→ {upstream}"));
    }
    if record.kind() == "connection.close" {
        let (sent, received) = (
            record.number("/bytes_sent"),
            record.number("/bytes_received"),
        );
        parts.push(format!("{sent} bytes out, {received} in"));
    }
    parts.retain(|part| !part.is_empty());
    parts.join(" ")
}

fn shortened(line: &str, most: usize) -> String {
    if line.chars().count() <= most {
        return line.to_owned();
    }
    let kept: String = line.chars().take(most - 1).collect();
    format!("{kept}…")
}
