//! What the agent and PID 1 of a command say to each other: JSON, one message a line, over a Unix
//! stream. The stream is also the command's lifeline: when the agent's end closes, PID 1 ends.

use std::{
    ffi::OsString,
    io::{self, BufRead, Write},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Exit status where the agent itself failed, as of `timeout`, `docker` and `env`.
pub const AGENT_FAILED: u8 = 125;
/// Exit status where the command was found but cannot be executed (POSIX, Shell Command Language,
/// 2.8.2).
pub const NOT_EXECUTABLE: u8 = 126;
/// Exit status where there is no such command (as above).
pub const NOT_FOUND: u8 = 127;

/// All that PID 1 needs to know.
#[derive(Debug, Serialize, Deserialize)]
pub struct Spec {
    /// The program and its arguments, never empty.
    pub command: Vec<OsString>,
    /// The whole environment.
    pub environment: Vec<(OsString, OsString)>,
    /// The working directory, absolute.
    pub directory: OsString,
    /// Whom it runs as.
    pub credentials: Credentials,
    /// What it sees.
    pub view: View,
}

/// Whom the command runs as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// The user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
    /// Supplementary group ids.
    pub groups: Vec<u32>,
}

/// What is different in the command's view of the file system. Paths are absolute.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// Sockets of processes outside: each is covered.
    pub sockets: Vec<OsString>,
    /// Directories that hold nothing but such sockets: each is covered as a whole.
    pub directories: Vec<OsString>,
    /// Files below /run that are there again in the new /run, with their content.
    pub files: Vec<(OsString, Vec<u8>)>,
}

/// From PID 1, once.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromInit {
    /// The command runs; its exit status will be that of PID 1.
    Started,
    /// It does not, and PID 1 ends.
    Failed {
        /// [`AGENT_FAILED`], [`NOT_EXECUTABLE`] or [`NOT_FOUND`].
        status: u8,
        /// One line: what, and what to do.
        message: String,
    },
}

/// Writes one message.
///
/// # Errors
/// The other side has gone.
pub fn write_message<T: Serialize>(stream: &mut impl Write, message: &T) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// Reads one message; `None` at the end of the stream.
///
/// # Errors
/// Reading fails, or the line is no message.
pub fn read_message<T: DeserializeOwned>(stream: &mut impl BufRead) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    if stream.read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&line)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    #[test]
    fn whatever_a_path_or_argument_may_hold_arrives() {
        let odd = OsString::from_vec(b"a\xff\n\"b".to_vec());
        let view = View {
            sockets: vec![odd.clone()],
            files: vec![(odd, vec![0, 255])],
            ..View::default()
        };
        let mut bytes = Vec::new();
        write_message(&mut bytes, &view).unwrap();
        assert_eq!(
            bytes.iter().filter(|byte| **byte == b'\n').count(),
            1,
            "one message, one line"
        );
        let read: Option<View> = read_message(&mut bytes.as_slice()).unwrap();
        assert_eq!(read, Some(view));
    }
}
