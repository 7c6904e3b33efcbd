//! What the guest tells on its second serial line: each test program before it runs, at the end the
//! status, and what was to be recorded after it.

/// Before a test program's name.
const RUNNING: &str = "running ";

/// Before the status.
const STATUS: &str = "status ";

/// What was told so far.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// Test programs, in the order in which they were begun.
    begun: Vec<String>,
    /// 0 where all tests passed; none before the end.
    pub(super) status: Option<i32>,
    /// The verifier's budget, if it was to be recorded.
    pub(super) budget: String,
}

impl Told {
    /// Reads what there is by now.
    pub(super) fn of(text: &str) -> Self {
        let mut told = Self::default();
        for line in text.lines() {
            if told.status.is_some() {
                told.budget.extend([line, "\n"]);
            } else if let Some(name) = line.strip_prefix(RUNNING) {
                told.begun.push(name.to_owned());
            } else if let Some(status) = line.strip_prefix(STATUS) {
                told.status = status.parse().ok();
            }
        }
        told
    }

    /// How far it came, for people.
    pub(super) fn progress(&self) -> String {
        match self.begun.split_last() {
            None => "no test program was begun".to_owned(),
            Some((last, [])) => format!("it was in {last}, the first test program"),
            Some((last, before)) => format!("it was in {last}, after {}", before.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_comes_after_the_programs_and_before_the_budget() {
        let told = Told::of("running object\nrunning budget\nstatus 1\n# Instructions\na 7\n");
        assert_eq!(told.status, Some(1));
        assert_eq!(told.begun, ["object", "budget"]);
        assert_eq!(told.budget, "# Instructions\na 7\n");
    }

    #[test]
    fn without_a_status_it_says_how_far_it_came() {
        assert_eq!(Told::of("").progress(), "no test program was begun");
        let first = Told::of("running object\n");
        assert_eq!(first.progress(), "it was in object, the first test program");
        let third = Told::of("running object\nrunning life\nrunning dns\n");
        assert_eq!(third.status, None);
        assert_eq!(third.progress(), "it was in dns, after object, life");
    }
}
