# SPDX-License-Identifier: ISC
"""The OpenSSL library at run time: which one will do, what is worked around, what an operator sees of it."""
from __future__ import annotations

import re
import subprocess

import pytest

from certs import V
from clients import RawTls, TlsClient, failed_handshake

# Says that the library is another one, takes something away from it, or tells what is asked of it.
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>

#ifdef NUMBER
unsigned long OpenSSL_version_num(void);
unsigned long OpenSSL_version_num(void)
{
	return NUMBER;
}

const char *OpenSSL_version(int type);
const char *OpenSSL_version(int type)
{
	return TEXT;
}
#elif defined(TELL)
#include <stdio.h>

void SSL_CTX_set_keylog_callback(void *ctx, void *callback);
void SSL_CTX_set_keylog_callback(void *ctx, void *callback)
{
	/* The module's own copy: the host loads it where RTLD_NEXT does not look. */
	void *libssl = dlopen("libssl.so.3", RTLD_LAZY | RTLD_NOLOAD);
	void (*real)(void *, void *) = dlsym(libssl, "SSL_CTX_set_keylog_callback");

	fprintf(stderr, "the key log is used\n");
	real(ctx, callback);
}
#elif defined(NO_MD5_SHA1)
int EVP_DigestInit_ex(void *ctx, const void *md, void *engine);
int EVP_DigestInit_ex(void *ctx, const void *md, void *engine)
{
	void *libcrypto = dlopen("libcrypto.so.3", RTLD_LAZY | RTLD_NOLOAD);
	int (*real)(void *, const void *, void *) = dlsym(libcrypto, "EVP_DigestInit_ex");
	const void *(*md5_sha1)(void) = dlsym(libcrypto, "EVP_md5_sha1");

	return md == md5_sha1() ? 0 : real(ctx, md, engine);
}
#elif defined(OTHER_FINISHED)
/* Whatever else is sealed reaches OpenSSL behind something else, or through another kind of BIO. */
int BIO_write(void *bio, const void *data, int len);
int BIO_write(void *bio, const void *data, int len)
{
	void *libcrypto = dlopen("libcrypto.so.3", RTLD_LAZY | RTLD_NOLOAD);
	int (*real)(void *, const void *, int) = dlsym(libcrypto, "BIO_write");
	int (*type_of)(void *) = dlsym(libcrypto, "BIO_method_type");
	const unsigned char *record = data;
	unsigned char other[74];

	if ((len != 58 && len != 74) || record[0] != 23 || type_of(bio) != 0x401)
		return real(bio, data, len);
	for (int i = 0; i < len; i++)
		other[i] = record[i] ^ (i == len - 1);
	return real(bio, other, len);
}
#elif defined(KILL)
#include <signal.h>

void SSL_CTX_set_msg_callback(void);
void SSL_CTX_set_msg_callback(void)
{
	raise(SIGKILL);
}
#else
const void *LACKS(void);
const void *LACKS(void)
{
	return NULL;
}
#endif
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shim")
    source = folder / "shim.c"
    source.write_text(SHIM)

    def build(name: str, *defines: str) -> str:
        target = folder / f"{name}.so"
        subprocess.run(["gcc", "-shared", "-fPIC", *defines, "-o", target, source], check=True)
        return str(target)

    folder.chmod(0o755)
    return build


# A library that is left with no algorithm.
BASE_ONLY = """\
openssl_conf = start
[start]
providers = providers
[providers]
base = base
[base]
activate = 1
"""


def test_what_is_worked_around_is_told(pool, certs):
    ser = pool.fresh(tls=certs.server_params()).start()
    line = ser.wait_log(r"NOTICE.*tls: OpenSSL [0-9.]+ .*, workarounds: (.*)$")[1]
    ids = ser.rpc("tls.info")["workarounds"].split(", ")
    assert "1491" in ids and "6109" in ids and "1204" not in ids and "1467" not in ids, ids
    assert [part.split(" (")[0] for part in line.split("), ")] == ids
    assert ser.log().count("workarounds: ") == 1


@pytest.mark.parametrize("number,text", [("0x30500050UL", "OpenSSL 3.5.5 made up"),
                                         ("0x1010117fUL", "OpenSSL 1.1.1w made up")])
def test_another_line_of_versions_is_refused(pool, certs, shim, number, text):
    preload = shim("v" + number, f"-DNUMBER={number}", f'-DTEXT="{text}"')
    log = pool.fresh(tls=certs.server_params(), preload=preload).start_failure()
    line = next(line for line in log.splitlines() if text in line)
    for want in ("ERROR", "compiled with OpenSSL", "compile it again", "tls_force_run"):
        assert want in line, line


def test_force_run_overrides_and_warns(pool, certs, shim):
    text = "OpenSSL 3.5.4 made up"
    preload = shim("forced", "-DNUMBER=0x30500040UL", f'-DTEXT="{text}"')
    ser = pool.fresh(tls=certs.server_params(tls_force_run=11), preload=preload).start()
    line = ser.wait_log(rf"WARNING.*{text}.*$")[0]
    assert "compiled with OpenSSL" in line and "tls_force_run is set" in line
    info = ser.rpc("tls.info")
    assert info["openssl"] == text and info["openssl_built_with"] != text
    assert "CVE-2025-66199" in info["workarounds"]
    with TlsClient(ser.tls_port, certs.client_context()) as client:
        assert client.ask().status == 200


def test_a_patch_level_makes_no_difference(pool, certs, shim):
    built = pool.fresh(tls=certs.server_params()).start().rpc("tls.info")["openssl_built_with"]
    major, minor = (int(n) for n in built.split()[1].split(".")[:2])
    number = f"0x{major:x}{minor:02x}00010UL"
    preload = shim("patch", f"-DNUMBER={number}", '-DTEXT="OpenSSL of long ago"')
    ser = pool.fresh(tls=certs.server_params(), preload=preload).start()
    with TlsClient(ser.tls_port, certs.client_context()) as client:
        assert client.ask().status == 200


def test_a_library_that_lacks_a_cipher_is_refused(pool, certs, shim):
    preload = shim("lacks", "-DLACKS=EVP_aes_128_gcm")
    log = pool.fresh(tls=certs.server_params(), preload=preload).start_failure()
    line = next(line for line in log.splitlines() if "lacks" in line)
    for want in ("ERROR", "lacks AES-128-GCM", "compiled with OpenSSL", "tls_force_run"):
        assert want in line, line
    ser = pool.fresh(tls=certs.server_params(tls_force_run=1), preload=preload).start()
    ser.wait_log(r"WARNING.*lacks AES-128-GCM.*tls_force_run is set")
    with TlsClient(ser.tls_port, certs.client_context()) as client:
        assert client.ask().status == 200


def test_a_library_without_any_digest(pool, certs, tmp_path):
    """What openssl.cnf leaves is not enough, forced or not."""
    conf = tmp_path / "openssl.cnf"
    conf.write_text(BASE_ONLY)
    tmp_path.chmod(0o755)
    for force, told in ((0, r"ERROR.*lacks .*tls_force_run"), (1, r"ERROR.*, or OpenSSL has no AES-256-CBC")):
        ser = pool.fresh(tls=certs.server_params(tls_force_run=force), env={"OPENSSL_CONF": str(conf)})
        assert re.search(told, log := ser.start_failure()), log


def test_a_library_without_chacha20_will_do(pool, certs, shim):
    """As that of a FIPS provider is."""
    ser = pool.fresh(tls=certs.server_params(), preload=shim("no_chacha", "-DLACKS=EVP_chacha20_poly1305")).start()
    with TlsClient(ser.tls_port, certs.client_context()) as client:
        assert client.ask().status == 200


def test_a_library_without_the_hash_of_old_versions(pool, certs, shim):
    """Likewise."""
    preload = shim("no_md5_sha1", "-DNO_MD5_SHA1")
    log = pool.fresh(tls=certs.server_params(tls_method="TLSv1.1"), preload=preload).start_failure()
    assert re.search(r"ERROR.*tls_method: TLSv1\.1 is not supported by OpenSSL [0-9.]+ .*: it has no MD5-SHA1", log), log
    params = certs.server_params(tls_method="TLSv1+", max_version="TLSv1.1")
    log = pool.fresh(tls=params, preload=preload).start_failure()
    assert re.search(r"ERROR.*max_version: TLSv1\.1 and what is below are not supported by OpenSSL", log), log
    ser = pool.fresh(tls=certs.server_params(tls_method="TLSv1.1+"), preload=preload).start()
    ser.wait_log(r"WARNING.*tls_method: of TLSv1\.1\+, versions below TLS 1\.2 are not supported by OpenSSL")
    with TlsClient(ser.tls_port, certs.client_context()) as client:
        assert client.ask().status == 200


# What takes the choice of a provider from the module: an operator's, or a rule for the whole machine.
DEMANDS = """\
openssl_conf = start
[start]
alg_section = algorithms
[algorithms]
default_properties = provider=default
"""


@pytest.mark.parametrize("demands", [False, True], ids=["any provider", "OpenSSL's provider"])
def test_where_the_secrets_come_from(pool, certs, shim, tmp_path, demands):
    """The key log, which takes long, is used where the library's configuration leaves no choice."""
    conf = tmp_path / "openssl.cnf"
    conf.write_text(DEMANDS if demands else "")
    tmp_path.chmod(0o755)
    ser = pool.fresh(tls=certs.server_params(), preload=shim("tell", "-DTELL"), env={"OPENSSL_CONF": str(conf)}).start()
    with TlsClient(ser.tls_port, certs.client_context()) as client:
        assert client.version() == "TLSv1.3"
        assert client.ask().status == 200
        assert ser.rpc("tls.list")[0]["path"] == "fast"
    assert ("the key log is used" in ser.log()) == demands


def test_an_engine_that_is_killed_ends_the_start(pool, certs, shim):
    """For want of memory, say: SER does not wait for it until the time for big configurations is over."""
    log = pool.fresh(tls=certs.server_params(), preload=shim("kill", "-DKILL")).start_failure()
    assert "the engine process has ended while it read the configuration" in log


def test_a_library_that_expects_another_finished(pool, certs, shim):
    """One handshake is lost to find out; then each waits for the client's."""
    ser = pool.fresh(tls=certs.server_params(), preload=shim("finished", "-DOTHER_FINISHED")).start()
    port, _ = failed_handshake(ser.tls_port, certs.client_context(low=V.TLSv1_3))
    line = ser.wait_failure(port)
    assert "expects another Finished" in line["reason"] and line["alert_sent"] == "bad_record_mac", line
    for _ in range(3):
        with RawTls(ser.tls_port, certs.client_context(low=V.TLSv1_3)) as client:
            client.sock.sendall(client.flight())
            client.feed()
            assert int(ser.rpc("tls.info")["engine_sessions"]) == 1
            client.handshake(lambda data: data and client.sock.sendall(data))
            client.send(client.build())
            assert client.recv().status == 200
    assert len(ser.failures()) == 1
