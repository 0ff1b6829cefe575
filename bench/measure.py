# SPDX-License-Identifier: ISC
"""The rounds: which side does what, in which order, and what was measured."""
from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from servers import Floor, Ser, Server, ServerError, charged_ns

PARALLEL = 8  # connections at a time: enough to keep a server busy, few enough for every backlog
KEPT = 64  # connections that get one request each in a turn
WARM_UP = 200
LIMIT = 60  # seconds for one measurement
HANDSHAKE_TURN = 20  # handshakes that one side gets in a row
SETTLED = 0.001  # seconds after which a server has done with the last of these
SAME_START = 4  # rounds that one start of the servers serves

SIDES = ("ours", "peer", "tcp", "floor", "floor-tcp")

# what a client offers: name -> (version, suite); a server has no choice
VARIANTS = {
    "TLS 1.3 AES-128": ("1.3", "TLS_AES_128_GCM_SHA256"),
    "TLS 1.3 AES-256": ("1.3", "TLS_AES_256_GCM_SHA384"),
    "TLS 1.2 AES-128": ("1.2", "ECDHE-ECDSA-AES128-GCM-SHA256"),
}
HANDSHAKES = ("TLS 1.3 AES-128", "TLS 1.2 AES-128")
REQUESTS = tuple(VARIANTS)


def fingerprint(path: str) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
    except OSError:
        return "absent"


@dataclass
class Cell:
    """All that was measured for one quantity, variant and side; a round that failed is None."""

    rounds: list[dict | None] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def joined(parts: list[dict | None]) -> dict | None:
    """The measurement that these are parts of; there is none when any of them failed."""
    whole = [p for p in parts if p is not None]
    if len(whole) < len(parts):
        return None
    sums = {name: sum(p[name] for p in whole) for name in ("done", "wall_ns", "client_cpu_ns")}
    return dict(whole[0], **sums, us=sum(p["us"] for p in whole) / len(whole))


class Client:
    """The load client's side of one measurement."""

    def __init__(self, program: Path, server: Server, variant: str, cert: Path) -> None:
        self.command = [str(program), "-p", str(server.port), "-w", str(LIMIT)]
        if server.tls:
            version, suite = VARIANTS[variant]
            self.command += ["-t", version, "-s", suite, "-c", str(cert)]

    @staticmethod
    def result(text: str) -> dict:
        try:
            found = json.loads(text)
        except ValueError as e:
            raise ServerError("the load client gave no result") from e
        if found["failed"] or found["error"]:
            raise ServerError(f"client: {found['error']}, after {found['done']} of this measurement")
        if found["resumed"]:
            raise ServerError(f"{found['resumed']} of the handshakes were not full ones")
        return found

    def connect(self, count: int, *more: str) -> dict:
        done = subprocess.run(
            [*self.command, *more, "-m", "connect", "-n", str(count), "-k", str(PARALLEL)],
            stdout=subprocess.PIPE, text=True, check=False, timeout=LIMIT + 30,
        )
        return self.result(done.stdout)

    def keep(self, links: int) -> subprocess.Popen[str]:
        """Returns when the connections are open; they stay so until the client's input ends."""
        process = subprocess.Popen(
            [*self.command, "-m", "keep", "-k", str(links)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        if line.strip() != "ready":
            process.wait()
            self.result(line)
        return process

    @classmethod
    def again(cls, process: subprocess.Popen[str]) -> dict:
        """One request on each connection of keep().

        The client sleeps while the server works. If it took each answer at once, whether the server had to wake it
        would count more than TLS does: 20 us of a request, on loopback, and less often for a client that still
        decrypts the answer before.
        """
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write("\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # what it left in its output says why
        return cls.result(process.stdout.readline())


class Bench:
    """One run; cells[quantity, variant, side] fill up round by round."""

    def __init__(self, options: argparse.Namespace, binary: str, mpath: str, build: Path) -> None:
        self.options = options
        self.binary = binary
        self.mpath = mpath
        self.build = build
        self.cert, self.key = build / "cert.pem", build / "key.pem"
        self.sides = [s for s in SIDES if not options.only or s in options.only.split(",")]
        self.servers: dict[str, Server] = {}
        self.kept: dict[tuple[str, str], subprocess.Popen[str]] = {}  # clients with open connections
        self.threads: dict[str, list[Path]] = {}  # of the sides' servers
        self.order = random.Random(0)
        self.cells: dict[tuple[str, str, str], Cell] = {}
        self.idle_us: dict[str, float] = {}
        self.broken: dict[str, str] = {}  # sides that do not even start: why
        self.served: dict[str, int] = {}  # handshakes since the side's start
        self.modules = {s: (p, fingerprint(p)) for s, p in (("ours", options.module), ("peer", options.peer))}
        self.started = time.time()
        self.rounds = 0  # of CPU measurements, finished
        self.processors = os.sched_getaffinity(0)
        self.client_processors = {max(self.processors)}
        self.server_processors = self.processors - self.client_processors or self.processors

    def server(self, side: str) -> Server:
        o = self.options
        if side == "floor":
            return Floor(side, self.build / "floor", self.cert, self.key)
        if side == "floor-tcp":
            return Floor(side, self.build / "floor", None, None)
        module = {"ours": os.path.abspath(o.module), "peer": o.peer, "tcp": None}[side]
        if module is not None and not os.path.exists(module):
            raise ServerError(f"{module} does not exist")
        return Ser(side, self.binary, self.mpath, module, self.cert, self.key, o.readers, o.idle + 1024)

    def cell(self, key: tuple[str, str, str]) -> Cell:
        return self.cells.setdefault(key, Cell())

    def client(self, server: Server, variant: str) -> Client:
        return Client(self.build / "load", server, variant, self.cert)

    def launch(self, side: str) -> Server:
        """A fresh, warmed-up server."""
        server = self.server(side)
        self.servers[side] = server
        server.start()
        self.served[side] = 0
        for variant in HANDSHAKES if server.tls else HANDSHAKES[:1]:
            self.client(server, variant).connect(WARM_UP)
            self.served[side] += WARM_UP
        server.quiet_cpu_ns()
        return server

    def drop(self, side: str) -> None:
        for key in [k for k in self.kept if k[0] == side]:
            self.kept.pop(key).communicate()
        server = self.servers.pop(side, None)
        if server is not None:
            server.stop()

    def stop(self) -> None:
        for side in list(self.servers):
            self.drop(side)

    def attempt(self, key: tuple[str, str, str], work) -> dict | None:
        """One measurement; what goes wrong is noted with its cell, and the side starts anew."""
        side = key[2]
        if side in self.broken:
            return None
        try:
            if side not in self.servers:
                self.launch(side)
            return work(self.servers[side], key[1])
        except (ServerError, OSError, subprocess.TimeoutExpired) as e:
            self.cell(key).failures.append(self.diagnose(side, e))
            self.drop(side)
        return None

    def measure_in_turns(self, quantity: str, variant: str, turns: int, begin, work) -> None:
        """One result for each side, of many short turns that come in random order.

        What else the machine does comes and goes many times in a second, and may double a cost; this way it
        meets all sides alike. No side has two turns in a row: it would find its caches warm.
        """
        parts: dict[str, list[dict | None]] = {side: [] for side in self.sides}
        for side in self.sides:
            if self.attempt((quantity, variant, side), begin) is None:
                parts[side].append(None)
        last = ""
        for _ in range(turns):
            order = self.order.sample(self.sides, len(self.sides))
            if order[0] == last:
                order.append(order.pop(0))
            last = order[-1]
            for side in order:
                if None not in parts[side]:
                    parts[side].append(self.attempt((quantity, variant, side), work))
        for side, found in parts.items():
            if None not in found and self.attempt((quantity, variant, side), self.end) is None:
                found.append(None)
            self.cell((quantity, variant, side)).rounds.append(joined(found))

    def diagnose(self, side: str, error: Exception) -> str:
        """A dead server is a better explanation than what its client saw."""
        server = self.servers.get(side)
        if server is not None and server.main is not None:
            time.sleep(0.5)
            try:
                server.check()
            except ServerError as e:
                error = e
        text = f"{error} (about {self.served.get(side, 0)} handshakes after its start)"
        print(f"  {side}: {text}", file=sys.stderr, flush=True)
        return text

    def begin(self, server: Server, processors: set[int]) -> dict:
        server.bind(processors)
        self.threads[server.name] = server.threads()
        return {}

    def begin_connections(self, server: Server, variant: str) -> dict:
        """Handshakes run on all processors, since waking the engine on another one is part of their cost."""
        return self.begin(server, self.processors)

    def end(self, server: Server, variant: str) -> dict:
        if set(server.threads()) != set(self.threads[server.name]):
            raise ServerError("has other threads than at the start of this measurement")
        return {}

    def connections(self, server: Server, variant: str) -> dict:
        threads = self.threads[server.name]
        before = charged_ns(threads)
        found = self.client(server, variant).connect(HANDSHAKE_TURN)
        used = server.quiet_cpu_ns(threads) - before
        self.served[server.name] += found["done"]
        return dict(found, us=used / found["done"] / 1000)

    def begin_requests(self, server: Server, variant: str) -> dict:
        """Client and server on processors of their own: where the scheduler puts them is worth 10%."""
        key = (server.name, variant)
        if key not in self.kept:
            self.kept[key] = self.client(server, variant).keep(KEPT)
            self.served[server.name] += KEPT
            os.sched_setaffinity(self.kept[key].pid, self.client_processors)
        return self.begin(server, self.server_processors)

    def requests(self, server: Server, variant: str) -> dict:
        threads = self.threads[server.name]
        before = charged_ns(threads)
        found = Client.again(self.kept[server.name, variant])
        time.sleep(SETTLED)
        return dict(found, us=(charged_ns(threads) - before) / found["done"] / 1000)

    def idle(self, server: Server, variant: str) -> dict:
        """Memory of connections that had one request each and are silent now."""
        links = self.options.idle
        before = server.memory()
        process = self.client(server, variant).keep(links)
        try:
            server.quiet_cpu_ns()
            after = server.memory()
        finally:
            process.communicate()
        return {name: (after[name] - before[name]) / links for name in before}

    def probe(self) -> None:
        """Starts every side once: one that cannot is out, with its reason; idle CPU is shown beside the rest."""
        for side in self.sides:
            try:
                server = self.launch(side)
                before, since = server.quiet_cpu_ns(), time.monotonic()
                time.sleep(1.0)
                self.idle_us[side] = (server.cpu_ns() - before) / 1000 / (time.monotonic() - since)
            except (ServerError, OSError, subprocess.TimeoutExpired) as e:
                self.broken[side] = str(e)
                print(f"  {side}: {e}", file=sys.stderr, flush=True)
                self.drop(side)

    def round(self) -> None:
        turns = self.options.handshakes // HANDSHAKE_TURN
        for variant in HANDSHAKES:
            self.measure_in_turns("connection", variant, turns, self.begin_connections, self.connections)
        turns = self.options.requests // KEPT
        for variant in REQUESTS:
            self.measure_in_turns("request", variant, turns, self.begin_requests, self.requests)

    def run(self) -> None:
        wanted = self.options.rounds
        self.probe()
        while self.rounds < wanted:
            spent = time.time() - self.started
            if self.options.seconds and spent > self.options.seconds and self.rounds:
                print(f"a busy machine: {self.rounds} rounds instead of {wanted}", file=sys.stderr, flush=True)
                break
            if self.rounds % 10 == 0:
                print(f"CPU round {self.rounds + 1} of {wanted}", file=sys.stderr, flush=True)
            if self.rounds and self.rounds % SAME_START == 0:
                self.stop()  # where a start puts its memory is worth some percent, so there are many
            self.round()
            self.rounds += 1
        self.stop()
        for number in range(self.options.memory_rounds):
            print(f"memory round {number + 1} of {self.options.memory_rounds}", file=sys.stderr, flush=True)
            for side in self.sides:
                key = ("idle", HANDSHAKES[0], side)
                self.cell(key).rounds.append(self.attempt(key, self.idle))
                self.drop(side)
