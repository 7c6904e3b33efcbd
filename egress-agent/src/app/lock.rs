//! One agent an instance: a lock file for each, held as long as its agent lives.

use rustix::fs::FlockOperation;
use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// Where the lock files are.
const FOLDER: &str = "/run/egress-agent";

/// The lock cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody has it.
    #[error("another agent runs instance {0}: stop it first, or give this one another `instance`")]
    Taken(String),
    /// A file or folder.
    #[error("{path}: {source}: run as root")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A held lock; dropped, it is free again.
#[derive(Debug)]
pub struct Lock {
    _file: File,
    path: PathBuf,
}

impl Lock {
    /// Takes the lock of an instance.
    ///
    /// # Errors
    /// Another agent holds it, or there can be no file.
    pub fn take(instance: &str) -> Result<Self, LockError> {
        let path = Path::new(FOLDER).join(format!("{instance}.lock"));
        loop {
            let failed = |source| LockError::File {
                path: path.clone(),
                source,
            };
            fs::create_dir_all(FOLDER).map_err(failed)?;
            let mut options = File::options();
            let opened = options.create(true).truncate(false).write(true).open(&path);
            let file = match opened {
                // The last holder has removed the folder in between.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened.map_err(failed)?,
            };
            if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                return Err(LockError::Taken(instance.to_owned()));
            }
            // Or the file: then this is the lock of nothing any more.
            let locked = file.metadata().map_err(failed)?.ino();
            if fs::metadata(&path).is_ok_and(|current| current.ino() == locked) {
                return Ok(Self { _file: file, path });
            }
        }
    }

    /// The same, from somebody who is about to let go.
    ///
    /// # Errors
    /// It does not, for ten seconds.
    pub async fn wait(instance: &str) -> Result<Self, LockError> {
        const TRIES: u32 = 500;
        for _ in 0..TRIES {
            match Self::take(instance) {
                Err(LockError::Taken(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
                other => return other,
            }
        }
        Self::take(instance)
    }

    /// Removes the file, and the folder with the last one; then lets go.
    pub fn remove(self) {
        drop(fs::remove_file(&self.path));
        drop(fs::remove_dir(FOLDER));
    }
}

/// Where what tells of running instances is.
pub fn folder() -> &'static Path {
    Path::new(FOLDER)
}

/// Whether somebody holds the lock of an instance.
pub fn is_held(instance: &str) -> bool {
    let path = Path::new(FOLDER).join(format!("{instance}.lock"));
    File::open(path)
        .is_ok_and(|file| rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_err())
}

/// The instances that have a lock file, held or not.
pub fn instances() -> Vec<String> {
    let entries = fs::read_dir(FOLDER).into_iter().flatten();
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names
        .filter_map(|name| Some(name.strip_suffix(".lock")?.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let name = format!("lock-test-{}", std::process::id());
        let lock = Lock::take(&name).unwrap();
        assert!(matches!(Lock::take(&name), Err(LockError::Taken(_))));
        assert!(instances().contains(&name));
        drop(lock);
        Lock::take(&name).unwrap().remove();
        assert!(!instances().contains(&name));
    }
}
