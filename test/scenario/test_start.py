# SPDX-License-Identifier: ISC
"""SER starts with what the specification allows and refuses to start, saying why, with anything else."""
from __future__ import annotations

import http.server
import os
import re
import ssl
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import pytest

from clients import TcpClient, TlsClient, failed_handshake
from ser import TLS_SO

NOBODY = 65534


# -- start errors: parameter, file or value, reason, all in one line ---------------------------


@dataclass
class Bad:
    name: str
    params: Callable  # certs, folder -> parameters
    want: tuple[str, ...]  # regular expressions that one line of the log must match


def _file(param: str, get: Callable) -> Callable:
    return lambda certs, tmp: certs.server_params(**{param: str(get(certs, tmp))})


def _value(**values) -> Callable:
    return lambda certs, tmp: certs.server_params(**values)


def _text(tmp: Path, text: str) -> Path:
    path = tmp / "file.pem"
    path.write_text(text)
    path.chmod(0o644)
    return path


BAD = [
    Bad("key_of_another_certificate", _file("private_key", lambda c, t: c.key("client")),
        ("private_key", r"client\.key", r"match|belong")),
    Bad("key_of_another_type", _file("private_key", lambda c, t: c.key("server-rsa")),
        ("private_key", r"server-rsa\.key", r"match|belong|type")),
    Bad("certificate_missing", _file("certificate", lambda c, t: t / "none.pem"),
        ("certificate", r"none\.pem", "No such file")),
    Bad("key_missing", _file("private_key", lambda c, t: t / "none.key"),
        ("private_key", r"none\.key", "No such file")),
    Bad("ca_list_missing", _file("ca_list", lambda c, t: t / "none-ca.pem"),
        ("ca_list", r"none-ca\.pem", "No such file")),
    Bad("certificate_is_folder", _file("certificate", lambda c, t: t),
        ("certificate", "directory")),
    Bad("certificate_empty", _file("certificate", lambda c, t: c.pem("empty")),
        ("certificate", r"empty\.pem", "(?i)empty|no certificate")),
    Bad("key_empty", _file("private_key", lambda c, t: c.pem("empty")),
        ("private_key", r"empty\.pem", "(?i)empty|no (private )?key")),
    Bad("ca_list_empty", _file("ca_list", lambda c, t: c.pem("empty")),
        ("ca_list", r"empty\.pem", "(?i)empty|no (CA|certificate)")),
    Bad("certificate_is_text", _file("certificate", lambda c, t: _text(t, "hello\n")),
        ("certificate", r"file\.pem", "(?i)no certificate|PEM")),
    Bad("certificate_is_broken", _file("certificate", lambda c, t: _text(t, "-----BEGIN CERTIFICATE-----\nMIIB\n"
                                                                        "-----END CERTIFICATE-----\n")),
        ("certificate", r"file\.pem")),
    Bad("key_file_without_key", _file("private_key", lambda c, t: c.pem("server")),
        ("private_key", r"server\.pem", "(?i)no (private )?key|no .*key")),
    Bad("key_encrypted", _file("private_key", lambda c, t: c.key("server-encrypted")),
        ("private_key", r"server-encrypted\.key", "(?i)encrypted")),
    Bad("ca_list_without_certificate", _file("ca_list", lambda c, t: c.key("ca")),
        ("ca_list", r"ca\.key", "(?i)no (CA|certificate)")),
    Bad("ca_list_without_ca", _file("ca_list", lambda c, t: c.pem("client")),
        ("ca_list", r"client\.pem", "(?i)CA")),
    Bad("method_unknown", _value(tls_method="TLSv9"), ("tls_method", "TLSv9")),
    Bad("method_not_in_library_ssl2", _value(tls_method="SSLv2"), ("tls_method", "SSLv2")),
    Bad("method_not_in_library_ssl3", _value(tls_method="SSLv3"), ("tls_method", "SSLv3")),
    Bad("cipher_unknown", _value(cipher_list="NO-SUCH-CIPHER"), ("cipher_list", "NO-SUCH-CIPHER")),
    Bad("cipher_unknown_13", _value(cipher_list="TLS_AES_128_GCM_SHA256:TLS_NO_SUCH_SUITE"),
        ("cipher_list", "TLS_NO_SUCH_SUITE")),
    Bad("send_timeout_negative", _value(send_timeout=-1), ("send_timeout", "-1")),
    Bad("handshake_timeout_negative", _value(handshake_timeout=-5), ("handshake_timeout", "-5")),
    Bad("connection_timeout_negative", _value(connection_timeout=-2), ("connection_timeout", "-2")),
    Bad("verify_depth_negative", _value(verify_depth=-1), ("verify_depth", "-1")),
    Bad("low_mem_threshold1_negative", _value(low_mem_threshold1=-2), ("low_mem_threshold1", "-2")),
    Bad("config_missing", lambda c, t: c.server_params(config=str(t / "none.cfg")),
        ("config", r"none\.cfg", "No such file")),
]


def _one_line_has(log: str, patterns: tuple[str, ...]) -> bool:
    return any(all(re.search(p, line) for p in patterns)
               for line in log.splitlines() if re.search(r"\b(ERROR|CRITICAL): ", line))


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_refuses_to_start(pool, certs, tmp_path, bad):
    log = pool.fresh(tls=bad.params(certs, tmp_path)).start_failure()
    assert _one_line_has(log, bad.want), f"no single error line with {bad.want}:\n{log}"


@pytest.mark.parametrize("param", ["certificate", "private_key", "ca_list"])
def test_unreadable_file(pool, certs, param):
    source = {"certificate": certs.pem("server"), "private_key": certs.key("server"), "ca_list": certs.calist}[param]
    ser = pool.fresh(tls=certs.server_params(**{param: "secret.pem"}), files={"secret.pem": source},
                     user=NOBODY if os.getuid() == 0 else None)
    original = ser.write_cfg

    def write_and_lock() -> None:
        original()
        (ser.dir / "secret.pem").chmod(0)

    ser.write_cfg = write_and_lock
    log = ser.start_failure()
    assert _one_line_has(log, (param, r"secret\.pem", "Permission denied")), log


def test_every_problem_is_told_at_once(pool, certs):
    log = pool.fresh(tls=certs.server_params(ca_list="/none.pem", cipher_list="NO-SUCH-CIPHER")).start_failure()
    assert _one_line_has(log, ("ca_list", r"none\.pem")), log
    assert _one_line_has(log, ("cipher_list", "NO-SUCH-CIPHER")), log


def test_refuses_without_the_default_certificate(pool):
    log = pool.fresh(tls={}).start_failure()
    assert _one_line_has(log, ("certificate", r"cert\.pem", "No such file")), log


# -- what starts --------------------------------------------------------------------------------


def _talks(ser, certs, **more) -> None:
    with TlsClient(ser.tls_port, certs.client_context(**more)) as client:
        assert client.ask().status == 200


def test_expired_certificate_warns_and_starts(pool, certs):
    ser = pool.fresh(tls=certs.server_params("server-expired")).start()
    _talks(ser, certs, verify=False)
    ser.wait_log(r"WARNING: .*server-expired\.pem.*expired", 1)


@pytest.mark.parametrize("method", ["TLSv1", "TLSv1.0+", "TLSv1.1", "SSLv23"])
def test_old_method_warns_and_starts(pool, certs, method):
    ser = pool.fresh(tls=certs.server_params(tls_method=method)).start()
    ser.wait_log(rf"WARNING: .*tls_method.*{re.escape(method)}", 1)


def test_key_in_the_certificate_file_by_default_beside_ser_cfg(pool, certs):
    ser = pool.fresh(tls={}, files={"cert.pem": certs.pem("cert")}).start()
    _talks(ser, certs)


def test_paths_relative_to_ser_cfg_and_to_the_working_directory(pool, certs):
    ser = pool.fresh(tls={"certificate": "sub/server.pem", "private_key": "./server.key"}, work_dir="work",
                     files={"sub/server.pem": certs.pem("server"), "work/server.key": certs.key("server")}).start()
    _talks(ser, certs)


def test_a_relative_name_that_is_not_there_says_from_where(pool, certs):
    ser = pool.fresh(tls={"certificate": str(certs.pem("server")), "private_key": "./nowhere.key"}, work_dir="work")
    text = ser.start_failure()
    assert f"cannot read file './nowhere.key' of the working directory {ser.dir}/work: No such file" in text


def test_intermediate_is_sent(pool, certs):
    ser = pool.fresh(tls=certs.server_params("server-chain")).start()
    _talks(ser, certs)


def test_ipv6(pool, certs):
    ser = pool.fresh(tls=certs.server_params(), tls_addrs=("127.0.0.1", "[::1]")).start()
    with TlsClient(ser.tls_ports[1], certs.client_context(), addr="::1") as client:
        assert client.ask().status == 200


def test_disabled_module_loads_and_ser_works(pool, certs):
    ser = pool.fresh(enable_tls=False, tls=certs.server_params()).start()
    with TcpClient(ser.tcp_port) as client:
        assert client.ask().status == 200


def test_disabled_module_needs_no_files(pool):
    ser = pool.fresh(enable_tls=False).start()
    with TcpClient(ser.tcp_port) as client:
        assert client.ask().status == 200


def test_without_a_tls_listener_ser_works(pool, certs):
    ser = pool.fresh(tls=certs.server_params(), tls_addrs=()).start()
    with TcpClient(ser.tcp_port) as client:
        assert client.ask().status == 200


def test_drops_privileges(pool, certs):
    """Keys that only root reads are no hindrance when SER changes its user."""
    if os.getuid() != 0:
        pytest.skip("needs root")
    ser = pool.fresh(tls=certs.server_params(private_key="locked.key"), core="user=nobody",
                     files={"locked.key": certs.key("server")})
    original = ser.write_cfg

    def write_and_lock() -> None:
        original()
        (ser.dir / "locked.key").chmod(0o400)
        ser.dir.chmod(0o777)

    ser.write_cfg = write_and_lock
    ser.start()
    _talks(ser, certs)


def test_exported_symbols():
    lines = subprocess.run(["nm", "-D", "--defined-only", str(TLS_SO)], capture_output=True, text=True,
                           check=True).stdout.splitlines()
    names = {line.split()[-1].split("@")[0] for line in lines}
    if any(name.startswith("__asan") or name.startswith("__odr_asan") for name in names):
        pytest.skip("a sanitized module exports more")
    assert names == {"mod_register", "exports", "module_version", "module_flags"}


# -- beside other users of OpenSSL ----------------------------------------------------------------

NEIGHBOURS = ("crypto", "auth_identity", "http_client", "db_mysql", "db_postgres", "xhttp", "websocket")


@pytest.mark.parametrize("first", [True, False], ids=["tls_first", "tls_last"])
def test_load_order(pool, certs, first):
    ser = pool.fresh(tls=certs.server_params(), tls_first=first, modules=NEIGHBOURS, events="event_route[xhttp:request] {\n\txhttp_reply(\"404\", \"No\", \"\", \"\");\n}",
                     params=[("auth_identity", "certificate_path", str(certs.pem("server"))),
                             ("auth_identity", "privatekey_path", str(certs.key("server")))]).start()
    for _ in range(20):
        _talks(ser, certs)


@pytest.mark.parametrize("first", [True, False], ids=["tls_first", "tls_last"])
def test_curl_in_the_same_process(pool, certs, first):
    """An HTTPS query by each request's own process, while TLS connections come and go."""

    class Hello(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, *_):
            pass

    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hello)
    web.socket = certs.server_context().wrap_socket(web.socket, server_side=True)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    try:
        ser = pool.fresh(
            tls=certs.server_params(), tls_first=first, modules=("http_client",), readers=3,
            params=[("http_client", "cacert", str(certs.calist))],
            route='if (is_method("OPTIONS")) {\n'
                  f'\thttp_client_query("https://127.0.0.1:{web.server_port}/", "$var(body)");\n'
                  '\tappend_to_reply("X-Web: $var(body)\\r\\n");\n}').start()
        for _ in range(15):
            with TlsClient(ser.tls_port, certs.client_context()) as client:
                reply = client.ask()
                assert (reply.status, reply.get("X-Web")) == (200, "hello")
    finally:
        web.shutdown()
        web.server_close()


# -- the examples of the specification, as written there; only their folder is moved --------------

EXAMPLES = {
    1: 'modparam("tls", "private_key", "./andrei-test.pem")\n'
       'modparam("tls", "certificate", "./andrei-test.pem")\n'
       'modparam("tls", "ca_list", "./calist.pem")',
    2: 'modparam("tls", "tls_method", "TLSv1")',
    3: 'modparam("tls", "certificate", "@DIR@/etc/ser/my_certificate.pem")',
    4: 'modparam("tls", "private", "@DIR@/etc/ser/my_pkey.pem")',
    5: 'modparam("tls", "ca_list", "@DIR@/etc/ser/ca_list.pem")',
    6: 'modparam("tls", "verify_certificate", 1)',
    7: 'modparam("tls", "verify_depth", 9)',
    8: 'modparam("tls", "require_certificate", 1)',
    9: 'modparam("tls", "cipher_list", "HIGH")',
    10: 'modparam("tls", "send_timeout", 1)',
    11: 'modparam("tls", "handshake_timeout", 1)',
    12: 'modparam("tls", "connection_timeout", 60)',
    13: 'modparam("tls", "tls_disable_compression", 1)',
    14: '# ignore tls messages if ser is started with debug less than 10\n'
        'modparam("tls", "tls_log", 10)',
    15: 'modparam("tls", "low_mem_threshold1", -1)',
    16: 'modparam("tls", "low_mem_threshold2", -1)',
    17: 'modparam("tls", "tls_force_run", 11)',
    19: 'modparam("tls", "config", "@DIR@/etc/ser/tls.cfg")',
}

EXAMPLE_18 = """\
[server:default]
method = TLSv1
verify_certificate = no
require_certificate = no
private_key = default_key.pem
certificate = default_cert.pem
ca_list = default_ca.pem

[client:default]
verify_certificate = yes
require_certificate = yes

#more relaxed for connection on the loopback interface
[server:127.0.0.1:@TLS_PORT@]
method = SSLv23
verify_certificate = yes
require_certificate = no
private_key = local_key.pem
certificate = local_cert.pem
verify_depth = 3
ca_list = local_ca.pem
"""


def _example_files(certs) -> dict:
    both, pem, key, ca = certs.pem("cert"), certs.pem("server"), certs.key("server"), certs.calist
    return {
        "cert.pem": both, "andrei-test.pem": both, "calist.pem": ca,
        "etc/ser/my_certificate.pem": both, "etc/ser/my_pkey.pem": key, "etc/ser/ca_list.pem": ca,
        "default_key.pem": key, "default_cert.pem": pem, "default_ca.pem": ca,
        "local_key.pem": key, "local_cert.pem": pem, "local_ca.pem": ca,
        "etc/ser/tls.cfg": EXAMPLE_18,
        **{f"etc/ser/{who}_{what}.pem": source for who in ("default", "local")
           for what, source in (("key", key), ("cert", pem), ("ca", ca))},
    }


@pytest.mark.parametrize("number", EXAMPLES)
def test_example_of_the_specification(pool, certs, number):
    ser = pool.fresh(tls={}, raw=EXAMPLES[number], files=_example_files(certs)).start()
    if number == 2:
        context = certs.client_context(legacy=True, high=ssl.TLSVersion.TLSv1)
    elif number == 8:
        # Without a ca_list every verification fails, the specification says.
        failed_handshake(ser.tls_port, certs.client_context("client"))
        return
    else:
        context = certs.client_context(legacy=number == 19)
    with TlsClient(ser.tls_port, context) as client:
        assert client.ask().status == 200


def test_example_1_loadmodule_line(pool, certs):
    ser = pool.fresh(tls={}, tls_path="modules/tls/tls.so", raw=EXAMPLES[1],
                     files={"modules/tls/tls.so": TLS_SO, **_example_files(certs)}).start()
    _talks(ser, certs)


def test_example_20(pool, certs):
    ser = pool.fresh(tls=certs.server_params(ca_list=str(certs.calist), verify_certificate=1), route="""
	if (proto==TLS && !is_peer_verified()){
		sl_send_reply("400", "No certificate or verification failed");
		drop;
	}""").start()
    with TlsClient(ser.tls_port, certs.client_context()) as client:
        assert client.ask().status == 400
    with TlsClient(ser.tls_port, certs.client_context("client")) as client:
        assert client.ask().status == 200
    with TcpClient(ser.tcp_port) as client:
        assert client.ask().status == 200
