//! What is printed.

use serde_json::{Value, json};

/// Whether something is as cheap as it should be.
pub(crate) struct Mark {
    most: f64,
    met: bool,
}

impl Mark {
    /// At most so much.
    pub(crate) fn new(value: f64, most: f64) -> Self {
        Self {
            most,
            met: value <= most,
        }
    }

    pub(crate) fn json(&self) -> Value {
        json!({ "most": (self.most * 10.0).round() / 10.0, "met": self.met })
    }

    fn text(&self) -> String {
        let verdict = if self.met { "met" } else { "MISSED" };
        format!("{verdict} (at most {})", crate::figures::short(self.most))
    }
}

/// A table, printed as it grows.
pub(crate) struct Table {
    met: usize,
    missed: Vec<String>,
    title: String,
}

impl Table {
    pub(crate) fn new() -> Self {
        Self {
            met: 0,
            missed: Vec::new(),
            title: String::new(),
        }
    }

    /// Begins a part.
    pub(crate) fn title(&mut self, title: &str) {
        title.clone_into(&mut self.title);
        println!("\n{title}");
    }

    /// A line of it.
    pub(crate) fn row(&mut self, name: &str, cells: &[String], mark: Option<&Mark>) {
        print!("  {name:<44}");
        for cell in cells {
            print!(" {cell:<26}");
        }
        match mark {
            Some(mark) => println!(" {}", mark.text()),
            None => println!(),
        }
        match mark {
            Some(mark) if mark.met => self.met += 1,
            Some(_) => self.missed.push(format!("{name} ({})", self.title)),
            None => {}
        }
    }

    /// How many marks were met, and which were not.
    pub(crate) fn end(&self) {
        println!("\n{} marks met, {} missed", self.met, self.missed.len());
        for missed in &self.missed {
            println!("  missed: {missed}");
        }
    }
}
