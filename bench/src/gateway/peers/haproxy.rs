//! HAProxy: names by a tree in a file; splicing where there are many bytes, since it splices small
//! exchanges as well, which costs it there.

use std::process::Command;

use anyhow::Result;

use super::{Setting, WORKERS};

pub(super) fn configure(setting: &Setting<'_>, command: &mut Command) -> Result<()> {
    let names = setting.write("haproxy-names", &(setting.names.join("\n") + "\n"))?;
    // 1 MiB; what it asks for by default, `splice-auto`, never splices.
    let (pipes, splice) = match setting.bulk {
        true => (
            "maxpipes 2500\ntune.pipesize 1048576",
            "option splice-request\noption splice-response",
        ),
        false => ("", ""),
    };
    let text = format!(
        "global\n\
         nbthread {WORKERS}\n\
         maxconn 4500\n\
         {pipes}\n\
         defaults\n\
         mode tcp\n\
         timeout connect 5s\n\
         timeout client 1h\n\
         timeout server 1h\n\
         {splice}\n\
         frontend names\n\
         bind {} defer-accept\n\
         tcp-request inspect-delay 5s\n\
         acl hello req.ssl_hello_type 1\n\
         acl allowed req.ssl_sni,lower -f {}\n\
         tcp-request content reject if hello !allowed\n\
         tcp-request content accept if hello\n\
         default_backend server\n\
         backend server\n\
         server server {}\n",
        setting.listen,
        names.display(),
        setting.upstream,
    );
    let file = setting.write("haproxy.cfg", &text)?;
    command.arg("-db").arg("-f").arg(file);
    Ok(())
}
