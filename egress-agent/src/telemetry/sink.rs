//! Where records are written: one JSON line each to a file or a pipe, a readable line to a
//! terminal. A write that fails loses the record, and the loss is counted.

use crate::telemetry::record::{Event, Lost, Record};
use std::{
    fs::{File, OpenOptions},
    io::{self, IsTerminal, Write},
    path::Path,
};

/// An open sink.
pub struct Sink {
    to: Box<dyn Write + Send>,
    readable: bool,
    lost: u64,
}

impl Sink {
    /// Standard output.
    pub fn stdout() -> Self {
        let stdout = io::stdout();
        let readable = stdout.is_terminal();
        Self {
            to: Box::new(stdout),
            readable,
            lost: 0,
        }
    }

    /// Appends to a file, readable by its owner alone.
    pub fn file(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::OpenOptionsExt;
        let mut options = OpenOptions::new();
        let file: File = options.append(true).create(true).mode(0o640).open(path)?;
        Ok(Self {
            to: Box::new(file),
            readable: false,
            lost: 0,
        })
    }

    /// Writes a record, and before it how many could not be written.
    pub fn write(&mut self, record: &Record) {
        if self.lost > 0 {
            let lost = Record::now(Event::Lost(Lost {
                source: "sink".to_owned(),
                count: self.lost,
            }));
            if self.put(&lost).is_ok() {
                self.lost = 0;
            }
        }
        if self.put(record).is_err() {
            self.lost += 1;
        }
    }

    fn put(&mut self, record: &Record) -> io::Result<()> {
        let line = if self.readable {
            format!("{record}\n")
        } else {
            let mut line = serde_json::to_string(record)?;
            line.push('\n');
            line
        };
        self.to.write_all(line.as_bytes())?;
        self.to.flush()
    }
}
