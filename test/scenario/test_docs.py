# SPDX-License-Identifier: ISC
"""What the documents show is true: SER loads every configuration in them, replies of commands are as they
stand there, and `make doc` builds all of them. (tools/lint-docs compares them with the code's tables;
test_howto.py runs the how-to for certificates.)"""
from __future__ import annotations

import re
import ssl
import subprocess

import pytest

from certs import V
from clients import TlsClient
from docs import DOC, PARAM, Block, DocSer, Files, Places, blocks, doc_ser, readme_blocks
from ser import ASAN, SLOW, TOP, Config

PAGES = sorted(path for path in DOC.glob("*.md"))
ALL = [block for page in PAGES for block in blocks(page)] + readme_blocks()
# What the documents' routes use of the host, beside what every SER of the tests has.
MODULES = ("nathelper", "ctl", "sanity")
CTL = ('modparam("ctl", "binrpc", "unix:@DIR@/ctl")\nmodparam("nathelper", "received_avp", "$avp(received)")\n'
       'modparam("registrar", "received_avp", "$avp(received)")\n')


def whole(block: Block) -> bool:
    """It has its own listen and loadmodule lines, or is even all of a ser.cfg."""
    return ("loadmodule" in block.text and "listen=tls" in block.text) or "request_route" in block.text


# What a block with all of its routes leaves out because it is the same everywhere.
BEFORE = """enable_tls=yes
listen=tls:127.0.0.1:5061
loadmodule "tls.so"
loadmodule "kex.so"
loadmodule "tm.so"
loadmodule "sl.so"
loadmodule "rr.so"
loadmodule "pv.so"
loadmodule "textops.so"
loadmodule "siputils.so"
loadmodule "usrloc.so"
loadmodule "registrar.so"
loadmodule "xlog.so"
"""


def of_kind(kind: str, more: str = "") -> list[Block]:
    return [block for block in ALL if block.kind == kind and block.more == more]


WHOLE = [block for block in of_kind("ser.cfg") if whole(block)]
PARTS = [block for block in of_kind("ser.cfg") if not whole(block)]


def names_set(block: Block) -> set[str]:
    """What a block defines that must not be defined twice."""
    return {m[0] for m in PARAM.findall(block.text)} | set(re.findall(r"^((?:event_)?route\[.*?\])", block.text, re.M))


# Examples of parameters that are right by themselves but not together.
APART = ({"tls_method", "min_version", "max_version"}, {"security_level", "certificate2"}, {"cipher_list", "ciphersuites"})


def clash(names: set[str], others: set[str]) -> bool:
    return bool(names & others) or any(names & few and others & few for few in APART)


def grouped(parts: list[Block]) -> list[list[Block]]:
    """As few groups as it takes that no parameter is set twice in one; config is no other's neighbour."""
    groups: list[list[Block]] = []
    for block in parts:
        names = names_set(block)
        for group in groups:
            others = set().union(*map(names_set, group))
            if not clash(names, others) and ("config" in names) == ("config" in others):
                group.append(block)
                break
        else:
            groups.append([block])
    return groups


@pytest.fixture
def files(certs):
    return Files(certs)


def ended_well(ser: DocSer) -> None:
    ser.assert_healthy()
    ser.stop()


@pytest.mark.parametrize("block", WHOLE, ids=str)
def test_whole_configuration(certs, files, block):
    """SER starts with it and answers over TLS."""
    if block.file == "certificates.md":
        pytest.skip("test_howto.py starts SER with it, after the commands that make its files")
    places = Places()
    # The sections beside it in the same part of the document.
    near = [other.text for other in of_kind("tls.cfg") if (other.file, other.heading) == (block.file, block.heading)]
    text = block.text if "listen=" in block.text else BEFORE + block.text
    ser = doc_ser(text, places=places, named=files)
    if near and '"config"' in block.text:
        sections = ser.fill(near[0])
        files.make(sections, ser.dir)
        files.content = keep_tls_cfg(files, sections)
    ser.start()
    address, port = listening(text, places)
    context = certs.client_context("client", verify=False)
    with TlsClient(port, context, name="example.org", addr=address) as client:
        if "sl_send_reply" in text or "request_route" not in text:
            assert client.ask().status in (200, 400, 403, 404)
    ended_well(ser)


def keep_tls_cfg(files: Files, text: str):
    old = files.content
    return lambda kind, encrypted: text.encode() if kind == "tls.cfg" else old(kind, encrypted)


def listening(text: str, places: Places) -> tuple[str, int]:
    found = re.search(r"^listen=tls:(\S+?):(\d+)", text, re.M)
    assert found, f"no listen=tls:ADDRESS:PORT in {text}"
    return places.address(found[1]).strip("[]"), places.port(found[1], found[2])


@pytest.mark.parametrize("group", grouped(PARTS), ids=lambda group: f"{group[0]}+{len(group) - 1}")
def test_parameters_and_routes(certs, files, group):
    """SER starts with them, and has the values that they say."""
    text = "\n".join(block.text for block in group)
    top = "\n".join(line for line in text.splitlines() if re.match(r"(modparam|loadmodule)\b", line))
    rest = "\n".join(line for line in text.splitlines() if line not in top.splitlines())
    ser = DocSer(Config(tls={"tls_log": 1}, modules=MODULES, raw=CTL + top, events=rest), named=files).start()
    options = ser.rpc("tls.options")
    renamed = {"private": "private_key", "ssl_freelist_max_len": "ssl_freelist_max"}
    for name, value in PARAM.findall(ser.fill(top)):
        field = renamed.get(name, name.removeprefix("tls_"))
        if field in options:
            assert str(options[field]) == value.strip('"'), f"{name} of {[str(b) for b in group]}"
    ended_well(ser)


def test_statements_of_routes(certs):
    """All at once, each in a route of its own: SER takes them."""
    routes = [f"route[DOC{n}] {{\n{block.text}\n}}\n" for n, block in enumerate(of_kind("ser.cfg", "route"))]
    assert routes
    ser = DocSer(Config(tls=certs.server_params(xavp_cfg="tls"), modules=MODULES, raw=CTL, events="\n".join(routes)),
                 places=Places()).start()
    ended_well(ser)


def test_scripts(certs):
    """The host's Lua reads them."""
    texts = [block.text for block in of_kind("lua")]
    assert texts
    ser = DocSer(Config(tls=certs.server_params(), modules=("app_lua",), files={"doc.lua": "\n".join(texts)},
                        raw='modparam("app_lua", "load", "@DIR@/doc.lua")\n')).start()
    ended_well(ser)


@pytest.fixture(scope="module")
def site(certs):
    """A SER that listens at every address that a document has a server section for."""
    places = Places()
    found = {}
    for block in of_kind("tls.cfg"):
        for address, port in re.findall(r"^\[s\w*:(\d[\d.]*|\[[0-9a-f:]+\])(?::(\d+))?\]", block.text, re.M):
            port = port if port not in ("", "0") else "5061"
            found[places.address(address), places.port(address, port)] = None
    listen = "".join(f"listen=tls:{address}:{port}\n" for address, port in found)
    ser = DocSer(Config(tls={"config": "tls.cfg"}, core=listen, raw="", modules=("ctl",)),
                 places=places, named=Files(certs))
    (ser.dir / "tls.cfg").write_text("[server:default]\ncertificate = cert.pem\n")
    ser.start()
    yield ser
    ser.stop()


@pytest.mark.parametrize("block", of_kind("tls.cfg") + of_kind("tls.cfg", "keys"), ids=str)
def test_sections(site, certs, block):
    """A running SER takes it in place of what it had."""
    if block.file == "certificates.md" and block.heading != "A public CA":
        pytest.skip("test_howto.py starts SER with it, after the commands that make its files")
    text = site.fill(block.text if block.more != "keys" else f"[server:default]\ncertificate = cert.pem\n"
                     f"[server:any]\nserver_name = example.org\n[client:any]\nserver_name = example.net\n{block.text}")
    Files(certs).make(text, site.dir)
    (site.dir / "tls.cfg").write_text(text)
    assert site.rpc("tls.reload") == "Ok. TLS configuration reloaded."


# ---- what recipes promise

def put_recipe(site: DocSer, certs, heading: str, **changes: str) -> None:
    text = next(block.text for block in of_kind("tls.cfg") if block.heading == heading)
    for old, new in changes.items():
        text = text.replace(old, new)
    text = text.replace("/etc/ssl/certs/ca-certificates.crt", "public.pem")
    text = site.fill(text)
    Files(certs).make(text, site.dir)
    (site.dir / "tls.cfg").write_text(text)
    assert site.rpc("tls.reload") == "Ok. TLS configuration reloaded."


def knock(site: DocSer, port: str, context) -> bool:
    """Whether SER answers a client there."""
    try:
        with TlsClient(site.places.port("192.0.2.1", port), context, name="example.org", addr="127.0.0.1") as client:
            return client.ask().status == 200
    except (ssl.SSLError, ConnectionError, AssertionError):
        return False


def test_recipe_mutual_tls(site, certs):
    put_recipe(site, certs, "A carrier trunk with mutual TLS")
    assert knock(site, "5061", certs.client_context(verify=False))
    assert knock(site, "5071", certs.client_context("client", verify=False))
    assert not knock(site, "5071", certs.client_context(verify=False))
    assert not knock(site, "5071", certs.client_context("foreign-client", verify=False))


def test_recipe_names(site, certs):
    put_recipe(site, certs, "A trunk whose names are verified")
    right = certs.authority().issue("carrier", "DNS:carrier.example", "URI:sip:carrier.example")
    assert knock(site, "5071", with_certificate(certs, right))
    wrong = certs.authority().issue("carrier", "DNS:carrier.example.net")
    assert not knock(site, "5071", with_certificate(certs, wrong))
    assert not knock(site, "5071", certs.client_context("client", verify=False))


def with_certificate(certs, issued) -> ssl.SSLContext:
    context = certs.client_context(verify=False)
    context.load_cert_chain(issued.pem, issued.key)
    return context


def test_recipe_old_phones(site, certs):
    put_recipe(site, certs, "Old phones")
    old = certs.client_context(verify=False, legacy=True, high=V.TLSv1)
    assert knock(site, "5081", old)
    assert not knock(site, "5061", old)
    rsa = certs.client_context(verify=False, high=V.TLSv1_2, ciphers="aRSA")
    assert knock(site, "5061", rsa)


# ---- replies of commands

KAMCMD = re.compile(r"^# kamcmd (tls\.\w+)(.*)$", re.M)


def sample(command: str) -> str:
    """The reply of a command in doc/rpc.md, the first one."""
    for block in blocks(DOC / "rpc.md", "rpc"):
        match = KAMCMD.search(block.text)
        if match and match[1] == command:
            return block.text[match.end():]
    raise AssertionError(f"doc/rpc.md has no sample of {command}")


def sample_fields(command: str) -> list[list[str]]:
    """Names of the fields, of each record."""
    records = re.findall(r"^\{\n(.*?)^\}", sample(command), re.M | re.S)
    assert records, f"the sample of {command} has no record"
    return [re.findall(r"^\t(\w+):", record, re.M) for record in records]


def described(command: str) -> dict[str, str]:
    """Names of fields to types, as the text says: lines `- a, b (d, s): ...` or rows `| a, b | d | ... |`."""
    text = (DOC / "rpc.md").read_text(encoding="utf-8")
    part = re.split(r"^## ", text.split(f"\n## {command}\n", 1)[1], flags=re.M)[0]
    found = {}
    for names, types in re.findall(r"^(?:- |\| )([a-z_0-9, ]+?) ?(?:\(|\| )([ds](?:, [ds])*)(?:\)| \|)", part, re.M):
        for name, kind in zip(names.split(", "), types.split(", ")):
            found[name] = kind
    return found


def kinds(record: dict) -> dict[str, str]:
    return {name: "d" if isinstance(value, int) else "s" for name, value in record.items()}


@pytest.fixture(scope="module")
def talking(certs):
    """A SER with a domain from tls.cfg and one connection."""
    cfg = (f"[server:default]\ncertificate = {certs.pem('server')}\nprivate_key = {certs.key('server')}\n"
           "[client:any]\nserver_id = carrier\n")
    ser = DocSer(Config(tls={"config": "tls.cfg", "tls_log": 1}, files={"tls.cfg": cfg}, modules=("ctl",),
                        raw='modparam("ctl", "binrpc", "unix:@DIR@/ctl")\n')).start()
    with TlsClient(ser.tls_port, certs.client_context()) as client:
        assert client.ask().status == 200
        ser.wait_established(client.local_port)
        yield ser
    ser.stop()


@pytest.mark.parametrize("command", ["tls.list", "tls.info", "tls.options", "tls.domains"])
def test_replies_are_as_documented(talking, command):
    """Fields, their order and types: of the reply, of the sample, and of the text."""
    got = talking.rpc(command)
    records = got if isinstance(got, list) else [got]
    for record, want in zip(records, sample_fields(command)):
        assert list(record) == want
    told = described(command)
    if command == "tls.options":
        assert not told
        return
    assert kinds(records[0]) == told and list(records[0]) == list(told)


def test_the_reply_of_check(talking):
    talking.dir.joinpath("x.cfg").write_text("[server:default]\nmethod = TLSv1\ncertificate = cert.pem\n")
    got = talking.rpc("tls.check", str(talking.dir / "x.cfg"))
    assert list(got) == sample_fields("tls.check")[0]


def test_kamcmd_prints_what_the_samples_show(talking):
    """Beside names and order also its form: tabs, braces, one field a line."""
    done = subprocess.run(["kamcmd", "-s", f"unix:{talking.dir}/ctl", "tls.list"], capture_output=True, text=True,
                          check=True, timeout=10 * SLOW)
    def form(text: str) -> str:
        return re.sub(r"(?m)^(\t\w+:).*$", r"\1", text.strip())
    assert form(done.stdout) == form(sample("tls.list"))


def test_reload_and_kill_reply_as_documented(talking):
    assert talking.rpc("tls.reload") == sample("tls.reload").strip()
    assert talking.rpc("tls.kill", 999999) == sample("tls.kill").strip().splitlines()[-1]


# ---- make doc

@pytest.mark.skipif(ASAN, reason="has nothing to do with the module")
def test_make_doc():
    """HTML and man pages of all documents, whose links lead somewhere."""
    subprocess.run(["make", "-s", "-j2", "doc"], cwd=TOP, check=True, timeout=200 * SLOW, capture_output=True)
    made = TOP / "build" / "doc"
    for page in PAGES:
        html = (made / f"{page.stem}.html").read_text()
        for target in re.findall(r'href="([^"#:]+)', html):
            assert (made / target).exists() or (DOC / target).resolve().exists(), f"{page.stem}.html: {target}"
        man = (made / "man" / f"tls-{page.stem}.7").read_text()
        title = re.search(r"^# (.*)$", page.read_text(), re.M)[1]
        head = re.search(r"^\.TH (.*)$", man, re.M)[1].replace("\\", "")
        assert title.split(",")[0] in head and '"7"' in head and re.search(r"^\.(SH|PP)", man, re.M), f"tls-{page.stem}.7"
