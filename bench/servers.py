# SPDX-License-Identifier: ISC
"""The servers of the benchmark and what they use: CPU time and memory.

A server is a session of processes of its own; everything that runs in that session is counted, threads
and processes forked later included, and everything in it is gone after stop().
"""
from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

START_TIMEOUT = 15.0
STOP_TIMEOUT = 10.0
QUIET_TIMEOUT = 10.0
QUIET_STEP = 0.004
QUIET_NS = 40_000  # per step; ten times what SER's timers use on average when nothing happens


def charged_ns(threads: list[Path]) -> int:
    """CPU time of these in ns: what the scheduler charged, not sampled ticks."""
    return sum(int(thread.read_text().split()[0]) for thread in threads)


class ServerError(Exception):
    """The server did not start or is no longer whole; the text says how one knows."""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def session_processes(sid: int) -> list[tuple[int, str]]:
    """(pid, state) of each process of a session."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            stat = Path("/proc", entry, "stat").read_text()
        except OSError:
            continue
        fields = stat[stat.rindex(")") + 2 :].split()
        if int(fields[3]) == sid:
            found.append((int(entry), fields[0]))
    return found


class Server:
    """A running server; name is what the tables call it, port where it listens."""

    def __init__(self, name: str, tls: bool) -> None:
        self.name = name
        self.tls = tls
        self.port = 0
        self.main: subprocess.Popen[str] | None = None
        self.pids: set[int] = set()

    def start(self) -> None:
        raise NotImplementedError

    def log_tail(self) -> str:
        return ""

    def check(self) -> None:
        """Raises ServerError unless every process that was there after the start still is."""
        if self.main is None:
            raise ServerError("is not running")
        code = self.main.poll()
        if code is not None:
            raise ServerError(f"exited ({code})" + self.log_tail())
        states = dict(session_processes(self.main.pid))
        for pid in self.pids:
            if states.get(pid, "Z") == "Z":
                raise ServerError(f"one of its processes ended (pid {pid})" + self.log_tail())

    def threads(self) -> list[Path]:
        """For charged_ns(): every thread that there is now."""
        self.check()
        assert self.main is not None
        return [
            Path(f"/proc/{pid}/task/{task}/schedstat")
            for pid, _ in session_processes(self.main.pid)
            for task in os.listdir(f"/proc/{pid}/task")
        ]

    def cpu_ns(self) -> int:
        """CPU time used so far."""
        return charged_ns(self.threads())

    def quiet_cpu_ns(self, threads: list[Path] | None = None) -> int:
        """CPU time of these threads, or of all, once they have finished what they were doing."""
        threads = threads or self.threads()
        deadline = time.monotonic() + QUIET_TIMEOUT
        before, calm = charged_ns(threads), 0
        while calm < 2 and time.monotonic() < deadline:
            time.sleep(QUIET_STEP)
            now = charged_ns(threads)
            calm = calm + 1 if now - before < QUIET_NS else 0
            before = now
        return before

    def bind(self, processors: set[int]) -> None:
        """Lets every thread run on these processors only."""
        self.check()
        assert self.main is not None
        for pid, _ in session_processes(self.main.pid):
            for task in os.listdir(f"/proc/{pid}/task"):
                os.sched_setaffinity(int(task), processors)

    def memory(self) -> dict[str, int]:
        """PSS in bytes, summed: in all, and without pages of files.

        The share of a library's page depends on who else has it mapped at the moment, other SERs on this
        machine included, and is no cost of a connection.
        """
        self.check()
        assert self.main is not None
        total = files = 0
        for pid, _ in session_processes(self.main.pid):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
                elif line.startswith("Pss_File:"):
                    files += int(line.split()[1])
        return {"pss": total * 1024, "pss_without_files": (total - files) * 1024}

    def stop(self) -> None:
        if self.main is None:
            return
        sid = self.main.pid
        if self.main.poll() is None:
            self.main.terminate()
            try:
                self.main.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                pass
        for pid, _ in session_processes(sid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.main.wait(STOP_TIMEOUT)
        self.main = None
        self.pids = set()


class Floor(Server):
    """The bare OpenSSL server (or, without certificate, the same over plain TCP)."""

    def __init__(self, name: str, program: Path, cert: Path | None, key: Path | None) -> None:
        super().__init__(name, cert is not None)
        self.command = [str(program)] + ([str(cert), str(key)] if cert else [])

    def start(self) -> None:
        self.main = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self.main.stdout is not None
        line = self.main.stdout.readline()
        if not line.strip().isdigit():
            raise ServerError("the floor server did not start")
        self.port = int(line)
        self.pids = {self.main.pid}


CONFIG = """\
debug=0
log_stderror=yes
children=1
tcp_children={readers}
tcp_max_connections={connections}
tcp_connection_lifetime=3600
dns=no
rev_dns=no
dns_cache_init=off
dst_blocklist_init=off
auto_aliases=no
{tls_core}
listen={proto}:127.0.0.1:{port}
mpath="{mpath}"
loadmodule "sl.so"
loadmodule "jsonrpcs.so"
modparam("jsonrpcs", "transport", 4)
modparam("jsonrpcs", "dgram_socket", "{folder}/rpc")
{tls_module}
request_route {{
	sl_send_reply("200", "OK");
	exit;
}}
"""

CONFIG_TLS_CORE = """\
enable_tls=yes
tls_max_connections={connections}"""

CONFIG_TLS_MODULE = """\
loadmodule "{module}"
modparam("tls", "tls_method", "TLSv1.2+")
modparam("tls", "certificate", "{cert}")
modparam("tls", "private_key", "{key}")
modparam("tls", "tls_disable_compression", 1)
modparam("tls", "connection_timeout", 3600)
modparam("tls", "send_close_notify", 1)
"""


class Ser(Server):
    """SER with one and the same configuration over plain TCP (module None) or with a TLS module."""

    module_config = CONFIG_TLS_MODULE
    start_timeout = START_TIMEOUT

    def __init__(
        self, name: str, binary: str, mpath: str, module: str | None, cert: Path, key: Path, readers: int,
        connections: int,
    ) -> None:
        super().__init__(name, module is not None)
        self.binary = binary
        self.shared_mb = 64 + connections * 96 // 1024
        self.values = dict(
            mpath=mpath, module=module, cert=cert, key=key, readers=readers, connections=connections
        )
        self.folder: tempfile.TemporaryDirectory[str] | None = None

    def log_tail(self) -> str:
        assert self.folder is not None
        lines = Path(self.folder.name, "log").read_text(errors="replace").splitlines()
        bad = [x for x in lines if any(level in x for level in ("ALERT", "CRITICAL", "ERROR"))]
        return "".join("\n    | " + x for x in bad[:4] or lines[-4:])

    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="ser-bench-")
        self.port = free_port()
        values = dict(self.values, folder=self.folder.name, port=self.port, proto="tls" if self.tls else "tcp")
        values["tls_core"] = CONFIG_TLS_CORE.format(**values) if self.tls else ""
        values["tls_module"] = self.module_config.format(**values) if self.tls else ""
        config = Path(self.folder.name, "ser.cfg")
        config.write_text(CONFIG.format(**values))
        command = [self.binary, "-DD", "-E", "-f", str(config), "-Y", self.folder.name]
        command += ["-m", str(self.shared_mb), "-M", "16"]
        with open(Path(self.folder.name, "log"), "w", encoding="utf-8") as log:
            self.main = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, text=True, start_new_session=True,
                cwd=self.folder.name,
            )
        self.wait_ready()
        self.pids = {pid for pid, _ in session_processes(self.main.pid)}

    def wait_ready(self) -> None:
        deadline = time.monotonic() + self.start_timeout
        while True:
            self.check()
            try:
                self.rpc("core.uptime")  # answered by a process that exists only once the sockets listen
                return
            except OSError as e:
                if time.monotonic() > deadline:
                    raise ServerError(f"does not answer after {self.start_timeout:.0f} s ({e})" + self.log_tail()) from e
            time.sleep(0.05)

    def rpc(self, method: str, timeout: float = 2.0) -> Any:
        assert self.folder is not None
        mine = str(Path(self.folder.name, "client"))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            try:
                s.bind(mine)
                s.settimeout(timeout)
                s.sendto(
                    json.dumps({"jsonrpc": "2.0", "method": method, "id": 1}).encode(),
                    str(Path(self.folder.name, "rpc")),
                )
                answer = json.loads(s.recv(65536))
            finally:
                Path(mine).unlink(missing_ok=True)
        if "result" not in answer:
            raise ServerError(f"{method}: {answer.get('error', {}).get('message', answer)}")
        return answer["result"]

    def memory(self) -> dict[str, int]:
        found = super().memory()
        shared = self.rpc("core.shmmem")
        return dict(found, shm_used=int(shared["used"]), shm_real_used=int(shared["real_used"]))

    def stop(self) -> None:
        super().stop()
        if self.folder is not None:
            self.folder.cleanup()
            self.folder = None
