//! nginx: `ssl_preread` and a map of names; large buffers where there are many bytes.

use std::process::Command;

use anyhow::Result;

use super::{Setting, WORKERS};

pub(super) fn configure(setting: &Setting<'_>, command: &mut Command) -> Result<()> {
    let mut names = String::new();
    for name in setting.names {
        names.push_str(name);
        names.push_str(" server;\n");
    }
    let buffer = if setting.bulk { "256k" } else { "16k" };
    let text = format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n\
         daemon off;\n\
         user root;\n\
         worker_processes {WORKERS};\n\
         worker_rlimit_nofile 20000;\n\
         pid nginx.pid;\n\
         error_log stderr crit;\n\
         events {{ worker_connections 10000; }}\n\
         stream {{\n\
         map_hash_max_size 262144;\n\
         map_hash_bucket_size 128;\n\
         map $ssl_preread_server_name $to {{\n\
         default \"\";\n\
         {names}\
         }}\n\
         upstream server {{ server {}; }}\n\
         server {{\n\
         listen {} reuseport;\n\
         ssl_preread on;\n\
         proxy_pass $to;\n\
         proxy_buffer_size {buffer};\n\
         proxy_timeout 1h;\n\
         }}\n\
         }}\n",
        setting.upstream, setting.listen,
    );
    let file = setting.write("nginx.conf", &text)?;
    command.arg("-p").arg(&setting.folder).arg("-c").arg(file);
    Ok(())
}
