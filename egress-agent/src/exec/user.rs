//! Whom a command runs as, and the environment that goes with that.

use std::{
    ffi::{CString, OsStr, OsString},
    path::PathBuf,
};

use nix::unistd::{Gid, Uid, User as Account, getgrouplist, getgroups};
use thiserror::Error;

use super::protocol::Credentials;

/// There is no such user.
#[derive(Debug, Error)]
pub enum UserError {
    /// By name or number.
    #[error("--user {0}: there is no such user; see `getent passwd`")]
    Unknown(String),
    /// sudo's own variables make no sense.
    #[error("SUDO_UID={0:?} is no user id: say --user NAME")]
    Sudo(String),
    /// The user database.
    #[error("cannot read the user database: {0}")]
    Database(#[from] nix::Error),
}

/// Whom the command runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The ids.
    pub credentials: Credentials,
    /// Name, home and shell, where these replace those of the environment.
    account: Option<(String, PathBuf, PathBuf)>,
}

impl User {
    /// `name` (or number) where it is given; else who called sudo; else the caller.
    ///
    /// # Errors
    /// There is no such user.
    pub fn of(name: Option<&str>) -> Result<Self, UserError> {
        if let Some(name) = name {
            let account = match name.parse() {
                Ok(uid) => Account::from_uid(Uid::from_raw(uid))?,
                Err(_) => Account::from_name(name)?,
            };
            let account = account.ok_or_else(|| UserError::Unknown(name.to_owned()))?;
            return Self::of_account(account);
        }
        match std::env::var("SUDO_UID") {
            Ok(text) => {
                let uid = text.parse().map_err(|_error| UserError::Sudo(text))?;
                match Account::from_uid(Uid::from_raw(uid))? {
                    Some(account) => Self::of_account(account),
                    None => Ok(Self::without_account(uid)),
                }
            }
            Err(_) => Self::caller(),
        }
    }

    fn of_account(account: Account) -> Result<Self, UserError> {
        // A user name of the database holds no NUL.
        let name = CString::new(account.name.as_str()).unwrap_or_default();
        let groups = getgrouplist(&name, account.gid)?;
        Ok(Self {
            credentials: Credentials {
                uid: account.uid.as_raw(),
                gid: account.gid.as_raw(),
                groups: groups.into_iter().map(Gid::as_raw).collect(),
            },
            account: Some((account.name, account.dir, account.shell)),
        })
    }

    /// A number that no account has; its group is the number itself.
    fn without_account(uid: u32) -> Self {
        Self {
            credentials: Credentials {
                uid,
                gid: uid,
                groups: Vec::new(),
            },
            account: None,
        }
    }

    fn caller() -> Result<Self, UserError> {
        Ok(Self {
            credentials: Credentials {
                uid: Uid::current().as_raw(),
                gid: Gid::current().as_raw(),
                groups: getgroups()?.into_iter().map(Gid::as_raw).collect(),
            },
            account: None,
        })
    }

    /// The environment: the caller's, with name, home and shell of this user, and without what
    /// sudo says of itself.
    pub fn environment(
        &self,
        of_caller: impl Iterator<Item = (OsString, OsString)>,
    ) -> Vec<(OsString, OsString)> {
        let Some((name, home, shell)) = &self.account else {
            return of_caller.collect();
        };
        let own: [(&str, &OsStr); 4] = [
            ("USER", name.as_ref()),
            ("LOGNAME", name.as_ref()),
            ("HOME", home.as_ref()),
            ("SHELL", shell.as_ref()),
        ];
        let kept = of_caller.filter(|(key, _)| {
            !key.as_encoded_bytes().starts_with(b"SUDO_")
                && key != "MAIL"
                && own.iter().all(|(name, _)| key != name)
        });
        let own = own.iter().map(|(key, value)| (key.into(), value.into()));
        kept.chain(own).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_name_and_by_number() {
        let root = User::of(Some("root")).unwrap();
        assert_eq!((root.credentials.uid, root.credentials.gid), (0, 0));
        assert_eq!(User::of(Some("0")).unwrap(), root);
        let error = User::of(Some("nobody-at-all")).unwrap_err().to_string();
        assert!(error.contains("--user nobody-at-all"), "{error}");
    }

    #[test]
    fn the_environment_becomes_the_users() {
        let user = User::of(Some("nobody")).unwrap();
        let caller = [
            ("HOME", "/root"),
            ("SUDO_UID", "1000"),
            ("PATH", "/bin"),
            ("USER", "root"),
        ];
        let environment = user.environment(caller.into_iter().map(|(k, v)| (k.into(), v.into())));
        let of = |key: &str| {
            let mut all = environment.iter().filter(|(name, _)| name == key);
            let value = all
                .next()
                .map(|(_, value)| value.to_string_lossy().into_owned());
            assert!(all.next().is_none(), "{key} twice");
            value
        };
        assert_eq!(of("USER").as_deref(), Some("nobody"));
        assert_eq!(of("PATH").as_deref(), Some("/bin"));
        assert_eq!(of("SUDO_UID"), None);
        assert_ne!(of("HOME").as_deref(), Some("/root"));
    }
}
