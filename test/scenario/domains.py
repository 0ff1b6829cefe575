# SPDX-License-Identifier: ISC
"""A SER whose domains come from tls.cfg, which tests replace by a reload: faster than a SER for each.

load() puts a text in place and reloads it, which must succeed; fault() calls a command that must fail;
visit() tells which section a client meets.
"""
from __future__ import annotations

import ast
import re
import ssl
import time
from pathlib import Path

import pytest

from certs import DOMAIN, Folder
from clients import TlsClient
from ser import Pool, Ser

OK = "Ok. TLS configuration reloaded."


def section(head: str, **settings: object) -> str:
    """The text of a section; an empty value clears."""
    return "\n".join([f"[{head}]", *(f"{key} = {value}" for key, value in settings.items()), ""])


def own(certs: Folder, name: str = "server", **more: object) -> dict[str, object]:
    """The settings of a section that shows one of the folder's certificates."""
    return {"certificate": certs.pem(name), "private_key": certs.key(name), **more}


def base(certs: Folder, **more: object) -> str:
    """A [server:default]."""
    return section("server:default", **own(certs, **more))


def site(pool: Pool, certs: Folder, *, fresh: bool = False, cfg: str = "", tls: dict | None = None, **more) -> Ser:
    """A SER with tls.cfg beside its ser.cfg."""
    files = {"tls.cfg": cfg or base(certs), **more.pop("files", {})}
    make = pool.fresh if fresh else pool.get
    ser = make(tls={"config": "tls.cfg", "tls_log": 1} | (tls or {}), files=files, **more)
    return ser.start() if fresh else ser


def put(ser: Ser, *texts: str, name: str = "tls.cfg") -> Path:
    path = ser.dir / name
    path.write_text(ser.fill("\n".join(texts)))
    return path


def load(ser: Ser, *texts: str) -> None:
    put(ser, *texts)
    assert ser.rpc("tls.reload") == OK


def one_domain(certs: Folder, name: str) -> tuple[str, str]:
    """A domain of that name, beside the default one."""
    return base(certs), section("server:any", server_name=name, server_name_mode=0, **own(certs))


def replace_domain(ser: Ser, certs: Folder) -> None:
    """The only domain is gone and another one is new, which nobody uses."""
    load(ser, base(certs))
    time.sleep(1.5)  # once a second the engine frees what nobody uses
    load(ser, *one_domain(certs, "other.example.net"))
    rows = {row["name"]: int(row["connections"]) for row in ser.rpc("tls.domains")}
    assert rows["server:any other.example.net"] == 0, rows


def fault(ser: Ser, method: str, *params: object) -> str:
    """The text of the fault that a command must give, whose code must be 500."""
    with pytest.raises(AssertionError) as caught:
        got = ser.rpc(method, *params)
        pytest.fail(f"{method} succeeded: {got}")
    text = str(caught.value)
    assert text.startswith(f"{method}: {{"), text
    error = ast.literal_eval(text[len(method) + 2:].splitlines()[0])
    assert error["code"] == 500, error
    return error["message"]


def check(ser: Ser, *texts: str, name: str = "checked.cfg") -> tuple[str, list[str]]:
    """Result and messages of tls.check on a text."""
    got = ser.rpc("tls.check", str(put(ser, *texts, name=name)))
    return got["result"], got["messages"]


def errors(ser: Ser, *texts: str) -> list[str]:
    """The errors of a text that must have some, without the folder's name."""
    result, messages = check(ser, *texts)
    assert result != "Ok", f"this must be an error: {texts}"
    found = [m.removeprefix("error: ").replace(f"{ser.dir}/", "") for m in messages if m.startswith("error: ")]
    assert found, messages
    return found


def warnings(ser: Ser, *texts: str) -> list[str]:
    result, messages = check(ser, *texts)
    assert result == "Ok", messages
    return [m.removeprefix("warning: ") for m in messages]


def line_of(text: str, pattern: str) -> int:
    """The number of the first line that matches."""
    for number, line in enumerate(text.splitlines(), 1):
        if re.search(pattern, line):
            return number
    raise AssertionError(f"no line has {pattern!r}")


def met(ser: Ser, port: int, context: ssl.SSLContext, name: str | None = DOMAIN, **more) -> dict[str, str]:
    """The log line of a connection that must be established and answered."""
    with TlsClient(port, context, name=name, **more) as client:
        assert client.ask().status == 200
        line = ser.wait_established(client.local_port)
    return line


def visit(ser: Ser, certs: Folder, name: str | None = DOMAIN, port: int = 0, addr: str = "127.0.0.1", **more) -> str:
    """The name of the section that a client meets that asks for name."""
    context = certs.client_context(verify=False, **more)
    return met(ser, port or ser.tls_port, context, name, addr=addr)["domain"]
