# SPDX-License-Identifier: ISC
"""What many domains with certificates of their own cost: start, memory, handshakes, reload.

Each module runs with one domain and with many, of the same files. The peer gets fewer, since its start and its
reload take minutes with as many; figures per domain stand beside each other. A reload counts only when the
server then presents what the changed files say.
"""
from __future__ import annotations

import os
import socket
import ssl
import statistics
import subprocess
import sys
import time
from pathlib import Path

from measure import HANDSHAKES, LIMIT, VARIANTS, Bench, Client
from report import middle, ratio
from servers import Ser, ServerError

FEWEST, MOST = 10, 50_000
BATCH = 250  # handshakes per measurement
PASS_SECONDS = 12  # no more measurements of a pass after these
PASSES = (  # in each every domain is visited once, as far as time allows, always in the same order
    ("TLS 1.3, first visits", HANDSHAKES[0]),
    ("TLS 1.3, later visits", HANDSHAKES[0]),
    ("TLS 1.2, later visits", HANDSHAKES[1]),
)
RENEWED, RENAMED = 5, 7  # domains whose certificate, whose section is changed
RELOADS = ("one certificate changed", "nothing changed", "one line of tls.cfg changed")
REPEATS = 3  # of each reload, if that takes no more than QUICK seconds
QUICK = 3.0
SETTLED = 2.5  # seconds after which a file's times are beyond doubt
# The peer keeps everything in shared memory, after a reload twice.
PEER_SHARED_MB = 2

SECTION = """\
[server:{address}]
{name}method = TLSv1.2+
certificate = {folder}/{number:05d}.pem
private_key = {folder}/{number:05d}.key
"""

CONFIG_DOMAINS = """\
loadmodule "{module}"
modparam("tls", "config", "{config}")
modparam("tls", "connection_timeout", 3600)
"""


class OverTime(Exception):
    """The part's time is over."""


def host_name(number: int) -> str:
    return f"d{number:05d}.bench.invalid"


def tls_cfg(folder: Path, count: int, renamed: str = "") -> str:
    """The default domain and count others; renamed: what the domain RENAMED is called now."""
    parts = [SECTION.format(address="default", name="", folder=folder, number=0), "[client:default]\n"]
    for i in range(count):
        name = renamed if renamed and i == RENAMED else host_name(i)
        parts.append(SECTION.format(address="any", name=f"server_name = {name}\n", folder=folder, number=i))
    return "\n".join(parts)


def issue(bench: Bench, folder: Path, first: int, count: int) -> None:
    subprocess.run([str(bench.build / "issue"), str(folder), str(first), str(count)], check=True)


def issue_all(bench: Bench, folder: Path, count: int) -> float:
    """Makes the certificates that are not there yet from a run before; the last one is the mark of a whole set."""
    since = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    last = folder / f"{count - 1:05d}.pem"
    source = Path(__file__).with_name("issue.c")
    if not last.exists() or last.stat().st_mtime < source.stat().st_mtime:
        print(f"issuing {count} certificates", file=sys.stderr, flush=True)
        issue(bench, folder, 0, count)
    return time.monotonic() - since


class DomainSer(Ser):
    """SER with sections of tls.cfg for so many names."""

    module_config = CONFIG_DOMAINS

    def __init__(self, bench: Bench, side: str, module: str, folder: Path, count: int) -> None:
        super().__init__(side, bench.binary, bench.mpath, module, Path(), Path(), bench.options.readers, 1024)
        self.count = count
        self.files = folder
        self.config = folder / f"tls-{side}-{count}.cfg"
        self.values["config"] = self.config
        if side == "peer":
            self.shared_mb += PEER_SHARED_MB * count
        self.write_config()

    def write_config(self, renamed: str = "") -> None:
        new = self.config.with_suffix(".new")
        new.write_text(tls_cfg(self.files, self.count, renamed), encoding="utf-8")
        new.rename(self.config)

    def expect(self, name: str, number: int) -> None:
        """A client that asks for name has to get that number's certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with socket.create_connection(("127.0.0.1", self.port), timeout=LIMIT) as s:
            with context.wrap_socket(s, server_hostname=name) as tls:
                found = tls.getpeercert(binary_form=True)
        if found != ssl.PEM_cert_to_DER_cert((self.files / f"{number:05d}.pem").read_text()):
            raise ServerError(f"a client that asks for {name} gets another certificate")


class NamesClient(Client):
    """Asks for one name after the other."""

    def __init__(self, program: Path, server: DomainSer, variant: str) -> None:
        version, suite = VARIANTS[variant]
        self.command = [str(program), "-p", str(server.port), "-w", str(LIMIT)]
        self.command += ["-t", version, "-s", suite, "-d", str(server.count)]


class Side:
    """One module's measurements; found is what the report gets, as far as it came."""

    def __init__(self, bench: Bench, name: str, module: str, count: int, folder: Path, deadline: float) -> None:
        self.bench = bench
        self.name = name
        self.deadline = deadline
        self.one = DomainSer(bench, name, module, folder, 1)
        self.many = DomainSer(bench, name, module, folder, count)
        self.found: dict = {"domains": count, "handshakes": {}, "reloads": {}}

    def left(self) -> float:
        seconds = self.deadline - time.monotonic()
        if seconds <= 0:
            raise OverTime("the time of this part is over")
        return seconds

    def start(self, server: DomainSer) -> float:
        """Seconds until SER answers, clients of the last domain included."""
        server.start_timeout = self.left()
        since = time.monotonic()
        server.start()
        server.expect(host_name(server.count - 1), server.count - 1)
        return time.monotonic() - since

    def start_both(self) -> None:
        time.sleep(max(0.0, SETTLED - (time.time() - self.many.config.stat().st_mtime)))
        ready_one = self.start(self.one)
        ready = self.start(self.many)
        memory, memory_one = (s.memory()["pss_without_files"] for s in (self.many, self.one))
        count = self.found["domains"]
        self.found.update(
            processes=len(self.many.pids), ready_one=ready_one, ready=ready, ready_each=(ready - ready_one) / (count - 1),
            memory_one=memory_one, memory=memory, memory_each=(memory - memory_one) / (count - 1),
        )

    def batch(self, server: DomainSer, variant: str, first: int) -> float:
        """Server CPU per connection, in us."""
        before = server.quiet_cpu_ns()
        done = NamesClient(self.bench.build / "load", server, variant).connect(BATCH, "-f", str(first))["done"]
        return (server.quiet_cpu_ns() - before) / done / 1000

    def handshakes(self) -> None:
        for title, variant in PASSES:
            rounds: dict[str, list[float | None]] = {"one": [], "many": []}
            end = time.monotonic() + min(PASS_SECONDS, self.left())
            self.batch(self.one, variant, 0)  # not counted: one domain has only one first visit
            for first in range(0, self.found["domains"], BATCH):
                if first and time.monotonic() > end:
                    break
                rounds["one"].append(self.batch(self.one, variant, first))
                rounds["many"].append(self.batch(self.many, variant, first))
            self.found["handshakes"][title] = dict(rounds, ratio=ratio(rounds["many"], rounds["one"]))

    def change(self, what: str, turn: int) -> tuple[str, int]:
        """Changes a file; returns the name that clients then ask for, and the number that they get."""
        if what == RELOADS[0]:
            issue(self.bench, self.many.files, RENEWED, 1)
            return host_name(RENEWED), RENEWED
        if what == RELOADS[2]:
            self.many.write_config(f"renamed{turn}.bench.invalid")
            return f"renamed{turn}.bench.invalid", RENAMED
        return host_name(RENEWED), RENEWED

    def reload(self, what: str) -> None:
        times = self.found["reloads"].setdefault(what, [])
        for turn in range(REPEATS):
            if turn and times[0] > QUICK:
                break
            name, number = self.change(what, turn)
            if what == RELOADS[1]:
                time.sleep(max(0.0, SETTLED - (time.time() - self.many.config.stat().st_mtime)))
            since = time.monotonic()
            self.many.rpc("tls.reload", self.left())
            times.append(time.monotonic() - since)
            self.many.expect(name, number)
        self.found["memory_reloaded"] = self.many.memory()["pss_without_files"]

    def reloads(self) -> None:
        for what in RELOADS:
            longest = max((t for times in self.found["reloads"].values() for t in times), default=0.0)
            if self.left() < 1.2 * longest:
                raise OverTime(f"no time left for more reloads, the last one took {longest:.0f} s")
            self.reload(what)

    def run(self) -> None:
        try:
            self.start_both()
            self.handshakes()
            self.one.stop()
            self.reloads()
        finally:
            self.one.stop()
            self.many.stop()


def run(bench: Bench) -> dict:
    """Both sides' numbers; failures and what was cut off, by side."""
    options, since = bench.options, time.monotonic()
    folder = bench.build / "domains"
    part: dict = {"issuing": issue_all(bench, folder, max(options.domains, options.peer_domains)), "sides": {}}
    part.update(failures={}, cut_off={})
    plan = (("ours", os.path.abspath(options.module), options.domains), ("peer", options.peer, options.peer_domains))
    for name, module, count in plan:
        if name not in bench.sides:
            continue
        print(f"{count} domains: {name}", file=sys.stderr, flush=True)
        side = Side(bench, name, module, count, folder, since + options.domains_seconds)
        try:
            side.run()
        except OverTime as e:
            part["cut_off"][name] = str(e)
        except (ServerError, OSError, subprocess.SubprocessError) as e:
            over = time.monotonic() >= side.deadline
            part["cut_off" if over else "failures"][name] = str(e)
        part["sides"][name] = side.found
    part["seconds"] = time.monotonic() - since
    return part


def print_row(name: str, values: list[float | None], scale: float, digits: int, target: str, rate: bool) -> None:
    texts = ["-" if v is None else f"{v / scale:,.{digits}f}" for v in values]
    both = rate and None not in values and values[1]
    quotient = f"{values[0] / values[1]:.4f}" if both else ""
    print(f"  {name:54}{texts[0]:>13}{texts[1]:>13}{quotient:>10}  {target}")


def print_table(part: dict) -> None:
    sides = [part["sides"].get(name, {}) for name in ("ours", "peer")]
    counts = [f"{s['domains']:,}" if s else "-" for s in sides]
    print(f"\nMany domains, each with its own certificate ({part['seconds']:.0f} s)")
    print(f"  {'':54}{'this module':>13}{'peer':>13}{'ratio':>10}  target of this module")
    print(f"  {'domains':54}{counts[0]:>13}{counts[1]:>13}")
    for key, name, scale, digits, target, rate in (
        ("ready", "ready after (s)", 1, 2, "<= 10", False),
        ("ready_each", "  per domain (ms)", 0.001, 3, "", True),
        ("memory", "memory in all, PSS without files (MB)", 1e6, 1, "<= 300", False),
        ("memory_each", "  per domain (KB)", 1000, 1, "", True),
        ("memory_reloaded", "  after the reloads (MB)", 1e6, 1, "<= 300", False),
    ):
        print_row(name, [s.get(key) for s in sides], scale, digits, target, rate)
    for what in RELOADS:
        times = [s.get("reloads", {}).get(what) for s in sides]
        print_row(f"tls.reload, {what} (s)", [statistics.median(t) if t else None for t in times], 1, 3, "<= 2", False)
    for title, _ in PASSES:
        found = [s.get("handshakes", {}).get(title) for s in sides]
        print_row(f"{title}: CPU per connection (us)",
                  [middle(f["many"])["median"] if f else None for f in found], 1, 1, "", False)
        print_row("  to that with one domain", [f["ratio"]["median"] if f else None for f in found], 1, 3, "<= 1.10", False)
    for kind, text in (("failures", "failed"), ("cut_off", "cut off")):
        for name, why in part[kind].items():
            print(f"  {'this module' if name == 'ours' else 'peer'}: {text}: {why.splitlines()[0]}")
