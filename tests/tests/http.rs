//! Plain HTTP through the gateway, with real clients and real bytes.

use anyhow::{Result, ensure};
use egress_tests::{
    agent::{Agent, Config},
    internet::{self, address4, addresses},
    records::Record,
    scene::Scene,
};

/// Rules beside the default ones.
fn rules(rules: &str) -> Config {
    Config::default().and_policy(rules)
}

const PLAIN: &str = "    - http: { hosts: [status.test, \"*.cdn.test\"], methods: [GET, POST], paths: [\"/\", \"/v1/*\", \"/bytes/*\"] }\n";
const ORIGINATED: &str = "    - http: { hosts: [status.test], originateTLS: true }\n";

/// Sends these bytes to port 80 of the host and prints all that comes back.
const RAW: &str = "
import socket, sys
stream = socket.create_connection((sys.argv[1], 80), 5)
stream.settimeout(10)
stream.sendall(sys.argv[2].encode('latin-1').decode('unicode_escape').encode('latin-1'))
while True:
    data = stream.recv(65536)
    if not data:
        break
    sys.stdout.buffer.write(data)
";

/// Two requests on one connection, and what they answer.
const SESSION: &str = "
import http.client, sys
connection = http.client.HTTPConnection('status.test', timeout=10)
for path in sys.argv[1:]:
    connection.request('POST', path, body=(part for part in [b'a', b'b']), encode_chunked=True)
    answer = connection.getresponse()
    print(answer.status, answer.read().decode())
";

/// A WebSocket, as far as a server that echoes frames needs one.
const WEBSOCKET: &str = "
import socket
stream = socket.create_connection(('status.test', 80), 5)
stream.settimeout(10)
stream.sendall(b'GET /ws HTTP/1.1\\r\\nHost: status.test\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\\r\\nSec-WebSocket-Version: 13\\r\\n\\r\\n')
head = b''
while b'\\r\\n\\r\\n' not in head:
    head += stream.recv(4096)
print(head.split(b'\\r\\n')[0].decode())
stream.sendall(b'\\x81\\x05hello')
print(stream.recv(4096))
";

fn python(scene: &Scene, arguments: &[&str]) -> Result<String> {
    let line: Vec<_> = ["python3", "-c"].iter().chain(arguments).copied().collect();
    scene.pod.run(&line)?.ok()
}

fn raw(scene: &Scene, host: &str, bytes: &str) -> Result<String> {
    python(scene, &[RAW, host, bytes])
}

fn request(agent: &Agent<'_>, wanted: impl Fn(&Record) -> bool) -> Result<Record> {
    let of_kind = |record: &Record| record.kind() == "http.request" && wanted(record);
    agent.records.wait_for("the record of a request", of_kind)
}

/// Packets to port 80 or 443 of the host, whoever sent them.
fn reached(scene: &Scene, host: &str) -> Result<usize> {
    let mut count = 0;
    for address in addresses(host) {
        let packets = scene.arrived(address)?;
        count += packets
            .iter()
            .filter(|it| matches!(it.port, 80 | 443))
            .count();
    }
    Ok(count)
}

#[test]
fn curl_gets_an_allowed_page_by_plain_http() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&rules(PLAIN))?;
    for family in ["-4", "-6"] {
        let page = scene
            .curl(&[family, "http://status.test/?token=secret"])?
            .ok()?;
        ensure!(page.contains("host=status.test name=-"), "{page}");
        for address in scene.pod.addresses() {
            ensure!(!page.contains(&format!("peer={address}")), "{page}");
        }
    }
    let record = request(&agent, |_| true)?;
    ensure!(record.endpoint() == "shop/orders", "{record:?}");
    ensure!(record.text("/process/command") == "curl", "{record:?}");
    ensure!(record.text("/server_name") == "status.test", "{record:?}");
    ensure!(record.text("/method") == "GET", "{record:?}");
    ensure!(record.text("/path") == "/", "{record:?}");
    ensure!(record.number("/status") == 200, "{record:?}");
    ensure!(
        record.text("/rule") == "EgressPolicy shop/orders egress[1]",
        "{record:?}"
    );
    ensure!(!record.0.to_string().contains("secret"), "{record:?}");
    let page = scene.curl(&["http://www.cdn.test/bytes/8388608"])?.ok()?;
    ensure!(page.len() == 8_388_608, "{} bytes", page.len());
    let large = request(&agent, |it| it.number("/bytes_received") == 8_388_608)?;
    ensure!(large.text("/close_reason") == "eof", "{large:?}");
    agent.records.expect_no_report()
}

#[test]
fn curl_is_told_why_a_request_is_denied() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&rules(PLAIN))?;
    scene.capture.clear();
    for (line, reason) in [
        (&["http://status.test/v2"][..], "path_not_allowed"),
        (
            &["--path-as-is", "http://status.test/v1/../v2"],
            "path_not_allowed",
        ),
        (
            &["--path-as-is", "http://status.test/v1/%2e%2e/v2"],
            "path_encoded_dots",
        ),
        (&["http://status.test/v1/a%2fb"], "path_encoded_slash"),
        (
            &["-X", "DELETE", "http://status.test/v1/a"],
            "method_not_allowed",
        ),
        (&["-d", "x=1", "http://allowed.test/"], "host_not_allowed"),
        (
            &["-H", "Host: attacker.test", "http://status.test/"],
            "host_not_allowed",
        ),
        (&["-H", "Host:", "http://status.test/"], "http_no_host"),
        (&["--http2", "http://status.test/"], "http_h2c_upgrade"),
        (&["--http2-prior-knowledge", "http://status.test/"], ""),
    ] {
        let denied = scene.curl(line)?;
        ensure!(denied.stdout.contains(reason), "{line:?} {}", denied.text());
        if !reason.is_empty() {
            ensure!(
                denied.stdout.contains("shop/orders"),
                "{line:?} {}",
                denied.text()
            );
            request(&agent, |it| it.reason() == reason && it.verdict() == "deny")?;
        }
    }
    request(&agent, |it| it.reason() == "http_h2c_prior_knowledge")?;
    for host in ["status.test", "allowed.test", "attacker.test"] {
        ensure!(reached(&scene, host)? == 0, "{host} was reached");
    }
    Ok(())
}

#[test]
fn a_forged_host_leads_to_where_the_name_lives() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&rules(PLAIN))?;
    scene.capture.clear();
    let attacker = address4("attacker.test");
    let to = format!("status.test:80:{attacker}");
    let page = scene
        .curl(&["--resolve", &to, "http://status.test/"])?
        .ok()?;
    let there = addresses("status.test")
        .iter()
        .any(|it| page.contains(&format!("server={it} ")));
    ensure!(there, "{page}");
    scene.expect_nothing(attacker.into())?;
    let record = request(&agent, |_| true)?;
    ensure!(record.0["mismatch"] == true, "{record:?}");
    ensure!(record.is_to(attacker.into()), "{record:?}");
    Ok(())
}

#[test]
fn the_gateway_starts_tls_for_plain_requests() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&rules(ORIGINATED))?;
    scene.capture.clear();
    let page = scene.curl(&["http://status.test/"])?.ok()?;
    ensure!(page.contains("host=status.test name=status.test"), "{page}");
    let record = request(&agent, |_| true)?;
    ensure!(record.0["originated_tls"] == true, "{record:?}");
    ensure!(record.text("/upstream").ends_with(":443"), "{record:?}");
    for address in addresses("status.test") {
        let plain = scene.arrived(address)?;
        ensure!(plain.iter().all(|it| it.port != 80), "{plain:?}");
    }
    let python = python(&scene, &[SESSION, "/", "/x"])?;
    ensure!(
        python.contains("200 hello host=status.test name=status.test"),
        "{python}"
    );
    agent.records.expect_no_report()
}

#[test]
fn a_python_session_keeps_its_connection_and_each_request_is_judged() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&rules(PLAIN))?;
    let said = python(&scene, &[SESSION, "/", "/v1/a", "/v2"])?;
    let statuses: Vec<_> = said.lines().filter_map(|it| it.get(..4)).collect();
    ensure!(
        statuses.contains(&"200 ") && statuses.contains(&"404 "),
        "{said}"
    );
    ensure!(
        said.contains("403 egress-agent: shop/orders may not POST"),
        "{said}"
    );
    let denied = request(&agent, |it| it.text("/path") == "/v2")?;
    ensure!(denied.reason() == "path_not_allowed", "{denied:?}");
    let first = request(&agent, |it| it.text("/path") == "/")?;
    ensure!(first.number("/bytes_sent") == 2, "{first:?}");
    ensure!(
        first.number("/connection") == denied.number("/connection"),
        "one connection: {first:?} {denied:?}"
    );
    Ok(())
}

#[test]
fn a_websocket_by_python() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&rules(
        "    - http: { hosts: [status.test], paths: [\"/ws\"], websocket: true }\n",
    ))?;
    let said = python(&scene, &[WEBSOCKET])?;
    ensure!(said.starts_with("HTTP/1.1 101 "), "{said}");
    ensure!(said.contains("b'\\x81\\x05hello'"), "{said}");
    let record = request(&agent, |_| true)?;
    ensure!(record.0["websocket"] == true, "{record:?}");
    ensure!(record.number("/bytes_sent") == 7, "{record:?}");
    agent.records.expect_no_report()
}

/// The raw bytes of each way to smuggle; behind each there is a request that must arrive nowhere.
#[test]
fn what_could_be_read_in_two_ways_reaches_nobody() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&rules(PLAIN))?;
    scene.capture.clear();
    let smuggled = "GET /v2 HTTP/1.1\\r\\nHost: status.test\\r\\n\\r\\n";
    let post = |fields: &str, body: &str| {
        format!("POST /v1/a HTTP/1.1\\r\\nHost: status.test\\r\\n{fields}\\r\\n{body}")
    };
    for (reason, bytes) in [
        ("http_length_and_encoding", post("Content-Length: 6\\r\\nTransfer-Encoding: chunked\\r\\n", &format!("0\\r\\n\\r\\n{smuggled}"))),
        ("http_length_and_encoding", post("Transfer-Encoding: chunked\\r\\nContent-Length: 4\\r\\n", &format!("29\\r\\n{smuggled}0\\r\\n\\r\\n"))),
        ("http_encoding_of_bodiless", format!("GET /v1/a HTTP/1.1\\r\\nHost: status.test\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n0\\r\\n\\r\\n{smuggled}")),
        ("http_transfer_encoding", post("Transfer-Encoding: xchunked\\r\\n", smuggled)),
        ("http_several_lengths", post("Content-Length: 0\\r\\nContent-Length: 40\\r\\n", smuggled)),
        ("http_length", post("Content-Length: +40\\r\\n", smuggled)),
        ("http_length", post("Content-Length: -1\\r\\n", smuggled)),
        ("http_bare_lf", format!("POST /v1/a HTTP/1.1\\r\\nHost: status.test\\nContent-Length: 40\\r\\n\\r\\n{smuggled}")),
        ("http_obs_fold", post("X: a\\r\\n Content-Length: 40\\r\\n", smuggled)),
        ("http_nul", post("X: \\x00\\r\\n", smuggled)),
        ("http_space_before_colon", post("Content-Length : 40\\r\\n", smuggled)),
        ("http_h2c_prior_knowledge", "PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n".to_owned()),
        ("http_h2c_upgrade", "GET / HTTP/1.1\\r\\nHost: status.test\\r\\nConnection: Upgrade, HTTP2-Settings\\r\\nUpgrade: h2c\\r\\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\\r\\n\\r\\n".to_owned()),
        ("http_several_hosts", "GET / HTTP/1.1\\r\\nHost: status.test\\r\\nHost: attacker.test\\r\\n\\r\\n".to_owned()),
        ("http_host_disagrees", "GET http://www.cdn.test/ HTTP/1.1\\r\\nHost: status.test\\r\\n\\r\\n".to_owned()),
        ("http_connect", "CONNECT status.test:443 HTTP/1.1\\r\\nHost: status.test:443\\r\\nContent-Length: 40\\r\\n\\r\\n".to_owned()),
    ] {
        let answer = raw(&scene, "status.test", &bytes)?;
        ensure!(answer.starts_with("HTTP/1.1 400 "), "{bytes}: {answer}");
        ensure!(answer.contains(reason), "{bytes}: {answer}");
        ensure!(answer.matches("HTTP/1.1 ").count() == 1, "{bytes}: {answer}");
        request(&agent, |it| it.reason() == reason && it.number("/status") == 400)?;
    }
    ensure!(
        reached(&scene, "status.test")? == 0,
        "the server was reached"
    );
    Ok(())
}

#[test]
fn in_audit_a_request_passes_and_is_recorded() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default().audit())?;
    let page = scene.curl(&["http://denied.test/"])?.ok()?;
    ensure!(page.contains("hello host=denied.test"), "{page}");
    let record = request(&agent, |_| true)?;
    ensure!(record.verdict() == "audit", "{record:?}");
    ensure!(record.reason() == "host_not_allowed", "{record:?}");
    ensure!(record.number("/status") == 200, "{record:?}");
    Ok(())
}

#[test]
fn a_rule_of_networks_lets_plain_http_pass_as_it_is() -> Result<()> {
    let scene = Scene::new()?;
    let network = internet::address4("denied.test");
    let agent = scene.enforce(&rules(&format!("    - cidrs: [{network}/32]\n")))?;
    let page = scene.curl(&["-4", &format!("http://{network}/"), "-H", "Host: own.test"])?;
    ensure!(page.stdout.contains("host=own.test"), "{}", page.text());
    let record = agent
        .records
        .wait_for("a record", |it| it.kind() == "connection.open")?;
    ensure!(
        record.text("/upstream") == format!("{network}:80"),
        "{record:?}"
    );
    agent.records.expect_no_report()
}

/// The gateway itself, as it is given to those who want a proxy.
const PROXY: &str = "http://169.254.64.1:15002";

/// What a program does that knows of a proxy by its environment.
const FETCH: &str = "
import ssl, sys, urllib.request
trusted = ssl.create_default_context(cafile=sys.argv[1])
proxies = urllib.request.ProxyHandler({'https': sys.argv[2], 'http': sys.argv[2]})
opener = urllib.request.build_opener(proxies, urllib.request.HTTPSHandler(context=trusted))
print(opener.open(sys.argv[3], timeout=10).read().decode())
";

#[test]
fn the_gateway_is_a_proxy_for_those_who_want_one() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&rules(PLAIN))?;
    scene.capture.clear();
    let page = scene.curl(&["-x", PROXY, "https://allowed.test/"])?.ok()?;
    ensure!(page.contains("name=allowed.test"), "{page}");
    let record = agent
        .records
        .wait_for("a record", |it| it.kind() == "connection.close")?;
    ensure!(record.endpoint() == "shop/orders", "{record:?}");
    ensure!(record.text("/server_name") == "allowed.test", "{record:?}");
    ensure!(record.is_to("169.254.64.1".parse()?), "{record:?}");
    let page = scene.curl(&["-x", PROXY, "http://status.test/"])?.ok()?;
    ensure!(page.contains("host=status.test name=-"), "{page}");
    let authority = scene.world.internet.authority().display().to_string();
    let page = python(&scene, &[FETCH, &authority, PROXY, "https://allowed.test/"])?;
    ensure!(page.contains("name=allowed.test"), "{page}");
    agent.records.expect_no_report()?;

    let denied = scene.curl(&["-x", PROXY, "https://denied.test/"])?;
    ensure!(denied.stderr.contains("403"), "{}", denied.text());
    request(&agent, |it| {
        it.reason() == "host_not_allowed" && it.text("/method") == "CONNECT"
    })?;
    let denied = scene.curl(&["-x", PROXY, "http://denied.test/"])?;
    ensure!(
        denied.stdout.contains("host_not_allowed"),
        "{}",
        denied.text()
    );
    ensure!(
        reached(&scene, "denied.test")? == 0,
        "denied.test was reached"
    );
    Ok(())
}

#[test]
fn a_name_inside_a_tunnel_that_was_not_asked_for_is_denied() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default())?;
    scene.capture.clear();
    let denied = scene.curl(&[
        "-x",
        PROXY,
        "--connect-to",
        "repo.test:443:allowed.test:443",
        "https://repo.test/",
    ])?;
    ensure!(!denied.status.success(), "{}", denied.text());
    let record = agent
        .records
        .wait_for("a denied connection", |it| it.verdict() == "deny")?;
    ensure!(record.reason() == "connect_disagrees", "{record:?}");
    for host in ["repo.test", "allowed.test"] {
        ensure!(reached(&scene, host)? == 0, "{host} was reached");
    }
    Ok(())
}
