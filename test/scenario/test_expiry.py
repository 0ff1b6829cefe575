# SPDX-License-Identifier: ISC
"""Certificates that end soon: warnings at the start and at a reload, the counters, tls.info."""
from __future__ import annotations

import datetime
import time

from certs import write
from domains import base, load, section, site
from ser import ASAN
from test_counters import counters


def _issue(certs, days: float, cn: str):
    authority = certs.authority("ca")
    usual, authority.days = authority.days, datetime.timedelta(days=days)
    try:
        return authority.issue(cn, "DNS:ser.example.org")
    finally:
        authority.days = usual


def test_start_and_reload_warn(pool, certs):
    short = _issue(certs, 5.5, "short")
    ser = pool.fresh(tls={"certificate": str(short.pem), "private_key": str(short.key)}).start()
    line = rf"WARNING: .*tls: server:default: parameter certificate: file '{short.pem}': certificate 'CN=short' " \
           r"of domain server:default and 1 more expires in 5 days$"
    ser.wait_log(line)
    assert ser.log().count("expires in") == 1, "both roles show it: one line"
    now = counters(ser)
    assert now["certificate_days_left"] == 5
    assert abs(now["certificate_expires"] - time.time() - 5.5 * 86400) < 3600


def test_reload_warns_of_what_has_not_changed(pool, certs):
    ser = site(pool, certs)
    assert 290 < counters(ser)["certificate_days_left"] < 3700
    short = _issue(certs, 13.5, "soon")
    text = [base(certs), section("server:any", server_name="a.example.org", certificate=short.pem,
                                 private_key=short.key)]
    for _ in range(2):
        mark = ser.mark()
        load(ser, *text)
        ser.wait_log(r"tls.cfg:\d+: certificate: file '\S+': certificate 'CN=soon' of domain server:any a.example.org "
                     r"expires in 13 days$", since=mark)
        assert counters(ser)["certificate_days_left"] == 13
    load(ser, base(certs))
    assert counters(ser)["certificate_days_left"] > 290


def test_an_expired_one_counts_as_no_day(pool, certs):
    ser = site(pool, certs)
    gone = _issue(certs, -0.01, "gone")
    load(ser, base(certs), section("server:any", server_name="a.example.org", certificate=gone.pem,
                                   private_key=gone.key))
    assert counters(ser)["certificate_days_left"] == 0
    write(gone.pem, gone.pem.read_bytes())
    load(ser, base(certs))


def test_info(pool, certs):
    ser = pool.get(tls=certs.server_params(engine_threads=3))
    info = ser.rpc("tls.info")
    assert list(info)[:3] == ["max_connections", "opened_connections", "clear_text_write_queued_bytes"]
    assert info["engine_threads"] == 3 and info["domains"] == 2
    # The sanitizers' allocator tells nothing of itself.
    assert ASAN or 100 < info["engine_heap_kb"] < 100_000
    assert info["openssl"].startswith("OpenSSL ") and info["openssl_built_with"].startswith("OpenSSL ")
    assert "workarounds" in info
