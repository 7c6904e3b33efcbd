#!/usr/bin/env python3
"""Captures what real clients send first, and what others read in it.

    sudo python3 capture.py [NAME ...]

Runs each client in a network namespace that has nothing but loopback, where api.repo.test is
127.0.0.1 and this listens; writes NAME.bin, and the entry of NAME in captured.json. README.md
says what has to be installed.
"""

import datetime
import json
import os
import pathlib
import queue
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading

HERE = pathlib.Path(__file__).resolve().parent
INDEX = HERE / "captured.json"
HOST = "api.repo.test"
PORTS = [80, 443]
QUIET = 0.5  # seconds without a byte: the client waits for the server
ALPN = 8  # as many protocols as a record shows
PATIENCE = 60  # seconds until a client must have sent something

GO = """package main
import ("crypto/tls"; "net/http")
func main() {
    transport := http.DefaultTransport.(*http.Transport)
    transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
    http.Get("https://api.repo.test/")
}
"""
JAVA = """import java.net.URI;
import java.net.http.*;
public class Get {
    public static void main(String[] arguments) throws Exception {
        var request = HttpRequest.newBuilder(URI.create("https://api.repo.test/")).build();
        HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.discarding());
    }
}
"""
FIREFOX = """user_pref("network.captive-portal-service.enabled", false);
user_pref("network.connectivity-service.enabled", false);
user_pref("network.trr.mode", 5);
"""
CHROMIUM = (
    "chromium --headless --no-sandbox --disable-gpu --user-data-dir={dir}/profile {url}"
)

# Name: how the client says its version, and the command.
CLIENTS = {
    "curl": ("curl --version", "curl -sk https://API.repo.test/"),
    "curl_tls12": ("curl --version", "curl -sk --tls-max 1.2 https://api.repo.test/"),
    "curl_http1_only": ("curl --version", "curl -sk --http1.1 https://api.repo.test/"),
    "git_gnutls": ("git --version", "git ls-remote https://api.repo.test/x"),
    "wget": ("wget --version", "wget -qO- --no-check-certificate https://api.repo.test/"),
    "gnutls": ("gnutls-cli --version", "gnutls-cli --insecure api.repo.test"),
    "openssl": ("openssl version", "openssl s_client -connect api.repo.test:443"),
    "openssl_alpn": (
        "openssl version",
        "openssl s_client -connect api.repo.test:443 -alpn imap,h2",
    ),
    "openssl_tls12": ("openssl version", "openssl s_client -connect api.repo.test:443 -tls1_2"),
    "openssl_tls10": (
        "openssl version",
        "openssl s_client -connect api.repo.test:443 -tls1 -cipher ALL:@SECLEVEL=0",
    ),
    "openssl_noname": (
        "openssl version",
        "openssl s_client -connect api.repo.test:443 -noservername",
    ),
    "openssl_split": (
        "openssl version",
        'openssl s_client -connect api.repo.test:443 -alpn "$(printf x%0200d, $(seq 90))h2"',
    ),
    "python": (
        "python3 --version",
        "python3 -c 'import urllib.request as u; u.urlopen(\"https://api.repo.test/\")'",
    ),
    "node": ("echo Node.js $(node --version)", "node -e 'fetch(\"https://api.repo.test/\")'"),
    "node_https": (
        "echo Node.js $(node --version)",
        "node -e 'require(\"https\").get(\"https://api.repo.test/\")'",
    ),
    "go": ("go version", "go run {dir}/get.go"),
    "java": ("java -version", "java {dir}/Get.java"),
    "chromium": ("chromium --version", CHROMIUM.replace("{url}", "https://api.repo.test/")),
    "firefox": (
        "firefox-esr --version",
        "firefox-esr --headless --no-remote --profile {dir} https://api.repo.test/",
    ),
    "http_curl": ("curl --version", "curl -s http://api.repo.test/path?query"),
    "http_curl_post": ("curl --version", "curl -s -d a=b http://api.repo.test/path"),
    "http_curl_10": ("curl --version", "curl -s --http1.0 http://api.repo.test/"),
    "http_wget": ("wget --version", "wget -qO- http://api.repo.test/"),
    "http_python": (
        "python3 --version",
        "python3 -c 'import urllib.request as u; u.urlopen(\"http://api.repo.test/\")'",
    ),
    "http_node": ("echo Node.js $(node --version)", "node -e 'fetch(\"http://api.repo.test/\")'"),
    "http_chromium": ("chromium --version", CHROMIUM.replace("{url}", "http://api.repo.test/")),
    "http_proxy_curl": (
        "curl --version",
        "curl -s -x http://api.repo.test:80 http://other.test/",
    ),
    "connect_curl": ("curl --version", "curl -s -x http://api.repo.test:80 https://other.test/"),
    "h2_curl": (
        "curl --version",
        "curl -s --http2-prior-knowledge http://api.repo.test/",
    ),
    "h2c_curl": ("curl --version", "curl -s --http2 http://api.repo.test/"),
    "opaque_ssh": ("ssh -V", "ssh -p 443 api.repo.test"),
}


def main():
    if "CAPTURE_INSIDE" not in os.environ:
        os.environ["CAPTURE_INSIDE"] = "yes"
        command = [sys.executable, __file__, *sys.argv[1:]]
        os.execvp("unshare", ["unshare", "--net", "--mount", *command])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.NamedTemporaryFile("w") as hosts:
        hosts.write(f"127.0.0.1 localhost {HOST}\n")
        hosts.flush()
        subprocess.run(["mount", "--bind", hosts.name, "/etc/hosts"], check=True)
        received = queue.Queue()
        for port in PORTS:
            threading.Thread(target=listen, args=(port, received), daemon=True).start()
        for name in sys.argv[1:] or CLIENTS:
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
                capture(name, directory, received)


def listen(port, received):
    listener = socket.create_server(("127.0.0.1", port))
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=read, args=(connection, received), daemon=True).start()


def read(connection, received):
    data = b""
    connection.settimeout(PATIENCE)
    try:
        while part := connection.recv(65536):
            data += part
            connection.settimeout(QUIET)
    except OSError:
        pass
    connection.close()
    if data:
        received.put(data)


def capture(name, directory, received):
    version, command = CLIENTS[name]
    prepare(name, directory)
    command = command.replace("{dir}", directory)
    while not received.empty():
        received.get()
    client = subprocess.Popen(
        command,
        shell=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "HOME": directory, "GIT_SSL_NO_VERIFY": "1"},
    )
    try:
        data = received.get(timeout=PATIENCE)
    except queue.Empty:
        sys.exit(f"{name}: nothing was received")
    finally:
        os.killpg(client.pid, signal.SIGKILL)
        client.wait()
    (HERE / f"{name}.bin").write_bytes(data)
    entry = {
        "client": first_line(version),
        "date": datetime.date.today().isoformat(),
        "command": CLIENTS[name][1].replace("{dir}/", "").replace("{dir}", "DIRECTORY"),
    }
    if data[0] == 22:
        entry["hello"] = expected(data)
    index = json.loads(INDEX.read_text()) if INDEX.exists() else {}
    index[name] = entry
    lines = [f"{json.dumps(key)}: {json.dumps(index[key])}" for key in sorted(index)]
    INDEX.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{name}: {len(data)} bytes, {entry.get('hello', {}).get('ja4', data[:24])}")


def prepare(name, directory):
    path = pathlib.Path(directory)
    if name == "go":
        (path / "get.go").write_text(GO)
    if name == "java":
        (path / "Get.java").write_text(JAVA)
    if name == "firefox":
        (path / "user.js").write_text(FIREFOX)


def first_line(version):
    told = subprocess.run(version, shell=True, capture_output=True, text=True)
    lines = (told.stdout + told.stderr).splitlines()
    # A start script may complain first.
    return next(line for line in lines if re.search(r"\d\.\d", line)).strip()


def expected(data):
    """What tshark and ja4plus read in a hello."""
    from ja4plus.fingerprinters.ja4 import generate_ja4
    from ja4plus.utils.tls_utils import parse_tls_handshake
    from scapy.all import IP, TCP, Ether, Raw, wrpcap

    fields = {
        "server_name": "tls.handshake.extensions_server_name",
        "alpn": "tls.handshake.extensions_alpn_str",
        "legacy_version": "tls.handshake.version",
        "supported_versions": "tls.handshake.extensions.supported_version",
        "extensions": "tls.handshake.extension.type",
    }
    with tempfile.NamedTemporaryFile(suffix=".pcap") as packets:
        wrpcap(packets.name, Ether() / IP() / TCP(sport=40000, dport=443, flags="PA") / Raw(data))
        command = ["tshark", "-r", packets.name, "-T", "fields", "-E", "aggregator= "]
        for field in fields.values():
            command += ["-e", field]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    read = dict(zip(fields, told.rstrip("\n").split("\t"), strict=True))
    return {
        "server_name": read["server_name"] or None,
        "alpn": read["alpn"].split()[:ALPN],
        "legacy_version": read["legacy_version"],
        "supported_versions": read["supported_versions"].split(),
        "ech": str(0xFE0D) in read["extensions"].split(),
        # ja4plus reads one record.
        "ja4": generate_ja4(parse_tls_handshake(one_record(data))),
    }


def one_record(data):
    message = b""
    while data:
        length = int.from_bytes(data[3:5], "big")
        message += data[5 : 5 + length]
        data = data[5 + length :]
    return b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message


if __name__ == "__main__":
    main()
