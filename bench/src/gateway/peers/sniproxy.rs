//! sniproxy: a table of regular expressions, one process of one thread.

use std::{fmt::Write as _, process::Command};

use anyhow::Result;

use super::Setting;

pub(super) fn configure(setting: &Setting<'_>, command: &mut Command) -> Result<()> {
    let (listen, to) = (setting.listen, setting.upstream);
    let mut text = format!(
        "user root\n\
         listener {} {} {{\n\
         proto tls\n\
         table names\n\
         }}\n\
         table names {{\n",
        listen.ip(),
        listen.port(),
    );
    for name in setting.names {
        writeln!(text, "^{}$ {to}", name.replace('.', "\\."))?;
    }
    text.push_str("}\n");
    let file = setting.write("sniproxy.conf", &text)?;
    command.arg("-f").arg("-c").arg(file);
    Ok(())
}
