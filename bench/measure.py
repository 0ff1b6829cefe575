# SPDX-License-Identifier: ISC
"""The rounds: which side does what, in which order, and what was measured."""
from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from servers import Floor, Ser, Server, ServerError

PARALLEL = 8  # connections at a time: enough to keep a server busy, few enough for every backlog
KEPT = 16  # connections that requests are spread over
WARM_UP = 200
LIMIT = 60  # seconds for one measurement

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

    def keep(self, count: int, links: int) -> subprocess.Popen[str]:
        """Returns when the connections are open; they stay so until the client's input ends."""
        process = subprocess.Popen(
            [*self.command, "-m", "keep", "-n", str(count), "-k", str(links)],
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
        """Has the requests of keep() sent, once more each time."""
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

    def attempt(self, key: tuple[str, str, str], work) -> None:
        """One measurement; what goes wrong is this side's result of this round, and it starts anew."""
        cell = self.cells.setdefault(key, Cell())
        side = key[2]
        if side in self.broken:
            cell.rounds.append(None)
            return
        try:
            if side not in self.servers:
                self.launch(side)
            cell.rounds.append(work(self.servers[side], key[1]))
        except (ServerError, OSError, subprocess.TimeoutExpired) as e:
            cell.rounds.append(None)
            cell.failures.append(self.diagnose(side, e))
            self.drop(side)

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

    def connections(self, server: Server, variant: str) -> dict:
        before = server.quiet_cpu_ns()
        found = self.client(server, variant).connect(self.options.handshakes)
        used = server.quiet_cpu_ns() - before
        self.served[server.name] += found["done"]
        return dict(found, us=used / found["done"] / 1000)

    def requests(self, server: Server, variant: str) -> dict:
        """Client and server on processors of their own: where the scheduler puts them is worth 10%.

        Handshakes are measured without that, since waking the engine on another processor is part of their cost.
        """
        key = (server.name, variant)
        if key not in self.kept:
            self.kept[key] = self.client(server, variant).keep(self.options.requests, KEPT)
            self.served[server.name] += KEPT
            os.sched_setaffinity(self.kept[key].pid, self.client_processors)
        server.bind(self.server_processors)
        before = server.quiet_cpu_ns()
        found = Client.again(self.kept[key])
        used = server.quiet_cpu_ns() - before
        server.bind(self.processors)
        return dict(found, us=used / found["done"] / 1000)

    def idle(self, server: Server, variant: str) -> dict:
        """Memory of connections that had one request each and are silent now."""
        links = self.options.idle
        before = server.memory()
        process = self.client(server, variant).keep(0, links)
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
        for variant in HANDSHAKES:
            for side in self.sides:
                self.attempt(("connection", variant, side), self.connections)
        for variant in REQUESTS:
            for side in self.sides:
                self.attempt(("request", variant, side), self.requests)

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
            self.round()
            self.rounds += 1
        self.stop()
        for number in range(self.options.memory_rounds):
            print(f"memory round {number + 1} of {self.options.memory_rounds}", file=sys.stderr, flush=True)
            for side in self.sides:
                self.attempt(("idle", HANDSHAKES[0], side), self.idle)
                self.drop(side)
