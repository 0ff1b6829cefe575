# SPDX-License-Identifier: ISC
"""Runs a SER with the TLS module under test.

A caller may rely on: free loopback ports, a folder of its own per instance,
bounded waits, and stop() raising an AssertionError when anything about the
run was unhealthy (exit status, crashed or left-over processes, bug reports in
the log, sanitizer reports, core files). All that the tests know about the
text of the module's log lines stands in this file.
"""
from __future__ import annotations

import fcntl
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import termios
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Iterable, Iterator, Mapping, Sequence

TOP = Path(__file__).resolve().parents[2]
CFG_TEMPLATE = Path(__file__).with_name("cfg") / "ser.cfg.in"

ASAN = os.environ.get("ASAN", "0") not in ("", "0")
SER_BIN = os.environ.get("SER_BIN") or shutil.which("kamailio") or "/usr/sbin/kamailio"
TLS_SO = Path(os.environ.get("TLS_SO") or (TOP / ("build/asan/tls.so" if ASAN else "tls.so"))).resolve()
# Factor on waits, for a machine that is busy or does more work per step.
SLOW = float(os.environ.get("TLS_TEST_SLOW") or 1) * (4 if ASAN else 1)
FIRST_TICK = 0.25  # seconds in which the host's timer has ticked, every 62.5 ms, on a busy machine, too

# Log lines of the module. Every failed or refused connection gives one line at warning level,
# every established one a line at the level of tls_log; both carry key=value fields.
FAILURE_RE = re.compile(r"^.*WARNING: (?:tls )?.*?\btls: (?!established)(?P<text>.*\bpeer=.*)$", re.M)
ESTABLISHED_RE = re.compile(r"^.*\btls: established\b(?P<text>.*\bpeer=.*)$", re.M)
FIELD_RE = re.compile(r'([a-z_]+)=("(?:[^"\\]|\\.)*"|\S+)')

# What must never be in a log, whatever the test does. (The host itself calls it critical that its
# TCP readers end before its TCP main process does, at every stop.)
UNHEALTHY_RE = re.compile(
    r"^.*(?:\b(?:ALERT|CRITICAL|BUG): |exited by a signal|qm_debug_check_frag|"
    r"Sanitizer|runtime error:|Segmentation fault|stack smashing|double free).*$",
    re.M,
)


def host_version() -> tuple[int, ...]:
    """Of the SER under test, such as (5, 6, 3)."""
    text = subprocess.run([SER_BIN, "-v"], capture_output=True, text=True, check=True, timeout=10).stdout
    found = re.search(r"^version: \S+ (\d+)\.(\d+)\.(\d+)", text, re.M)
    assert found, text
    return tuple(int(number) for number in found.groups())


def free_port(addr: str = "127.0.0.1", kind: int = socket.SOCK_STREAM) -> int:
    """A port that nobody listens on right now, for both TCP and UDP."""
    family = socket.AF_INET6 if ":" in addr else socket.AF_INET
    for _ in range(50):
        with socket.socket(family, kind) as first:
            first.bind((addr, 0))
            port = first.getsockname()[1]
            other = socket.SOCK_DGRAM if kind == socket.SOCK_STREAM else socket.SOCK_STREAM
            with socket.socket(family, other) as second:
                try:
                    second.bind((addr, port))
                except OSError:
                    continue
                return port
    raise RuntimeError("no free port")


def wait_until(probe: Callable[[], object], timeout: float, what: str, step: float = 0.02):
    """Returns probe()'s first true value; raises AssertionError after timeout seconds."""
    end = time.monotonic() + timeout * SLOW
    while True:
        got = probe()
        if got:
            return got
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout * SLOW:g} s: {what}")
        time.sleep(step)


def stat_fields(path: Path) -> list[str]:
    """What proc(5)'s stat tells behind the name, the state first; nothing when the process has ended."""
    try:
        return path.read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return []


def thread_states(pid: int) -> set[str]:
    """The letters of proc(5) of a process's threads: R, S, T for a stopped one, Z for a dead one."""
    return {fields[0] for stat in Path(f"/proc/{pid}/task").glob("*/stat") if (fields := stat_fields(stat))}


def parse_fields(text: str) -> dict[str, str]:
    """The key=value fields of a log line, quotes removed."""
    return {key: value.strip('"') for key, value in FIELD_RE.findall(text)}


def suite_key(name: str) -> str:
    """The same for OpenSSL's and the RFCs' name of a cipher suite."""
    key = re.sub(r"^TLS_(?=.*_WITH_)|[-_]|WITH|CBC", "", name.upper())
    return key.removesuffix("SHA256") if "POLY1305" in key else key


def version_key(name: str) -> str:
    """TLSv1, TLSv1.0 and 0301 are the same."""
    hexes = {"0301": "TLSV1.0", "0302": "TLSV1.1", "0303": "TLSV1.2", "0304": "TLSV1.3"}
    key = name.upper().strip("X")
    return hexes.get(key.removeprefix("0X"), "TLSV1.0" if key == "TLSV1" else key)


def port_of(address: str) -> int:
    return int(address.rsplit(":", 1)[1])


@dataclass
class Config:
    """What differs between the instances that tests ask for."""

    tls: Mapping[str, object] = field(default_factory=dict)  # parameters of the module
    enable_tls: bool = True
    load_tls: bool = True
    tls_first: bool = True  # load the module before (or after) all the others
    tls_addrs: Sequence[str] = ("127.0.0.1",)
    tcp: bool = True
    udp: bool = True
    children: int = 1  # UDP workers
    readers: int = 2  # TCP readers
    modules: Sequence[str] = ()  # more modules of the host to load
    params: Sequence[tuple[str, str, object]] = ()  # parameters of other modules
    core: str = ""  # more lines of the core section
    route: str = ""  # text at the start of the request route
    events: str = ""  # more routes
    native: bool = True  # False: none but those; a script in another language routes
    debug: int = 2
    shm_mb: int = 64
    pkg_mb: int = 8
    user: int | None = None  # run as this uid
    files: Mapping[str, Path | str] = field(default_factory=dict)  # copies or texts put beside ser.cfg
    tls_path: str = ""  # what loadmodule says; default: the absolute path of the module under test
    work_dir: str = ""  # working directory, below the folder of ser.cfg
    env: Mapping[str, str] = field(default_factory=dict)  # more of the environment
    terminal: int | None = None  # descriptor of a terminal that it is started on
    raw: str = ""  # lines after the module parameters, as an operator would write them
    preload: str = ""  # a library for LD_PRELOAD


BASE_MODULES = (
    "kex", "cfg_rpc", "jsonrpcs", "tm", "sl", "rr", "pv", "textops", "siputils",
    "xlog", "usrloc", "registrar",
)


def _param_line(module: str, name: str, value: object) -> str:
    text = str(value) if isinstance(value, int) else '"' + str(value).replace('"', '\\"') + '"'
    return f'modparam("{module}", "{name}", {text})'


class Ser:
    """One SER. start() or start_failure(), then stop()."""

    _serial = itertools.count()

    def __init__(self, config: Config):
        self.config = config
        # Short: a unix socket's path has room for 107 characters.
        self.dir = Path(tempfile.mkdtemp(prefix="ser-", dir=os.environ.get("TLS_TEST_TMP", "/tmp")))
        self.cfg = self.dir / "ser.cfg"
        self.log_path = self.dir / "ser.log"
        self.rpc_path = self.dir / "rpc"
        self.process: subprocess.Popen[bytes] | None = None
        self.exit_status: int | None = None
        self.tls_ports = [free_port(addr.strip("[]")) for addr in config.tls_addrs]
        self.tls_port = self.tls_ports[0] if self.tls_ports else 0
        self.tcp_port = free_port()
        self.udp_port = free_port()
        self._pids: set[int] = set()
        self._engine_was_stopped = False
        self._may_stop = 0.0
        self.test_mark = 0  # where the log of the running test begins: ports are used again
        self._forgiven: list[re.Pattern[str]] = []

    # -- starting ---------------------------------------------------------------------------

    def _listen_lines(self) -> Iterable[str]:
        if self.config.enable_tls and self.config.load_tls:
            for addr, port in zip(self.config.tls_addrs, self.tls_ports):
                yield f"listen=tls:{addr}:{port}"
        if self.config.tcp:
            yield f"listen=tcp:127.0.0.1:{self.tcp_port}"
        if self.config.udp:
            yield f"listen=udp:127.0.0.1:{self.udp_port}"

    def _module_lines(self) -> Iterable[str]:
        config = self.config
        tls = [f'loadmodule "{config.tls_path or TLS_SO}"'] if config.load_tls else []
        others = [f'loadmodule "{name}.so"' for name in (*config.modules, *BASE_MODULES)]
        yield from tls + others if config.tls_first else others + tls
        yield _param_line("jsonrpcs", "transport", 4)
        yield _param_line("jsonrpcs", "dgram_socket", self.rpc_path)
        yield _param_line("tm", "fr_timer", 4000)
        if config.load_tls:
            for name, value in config.tls.items():
                values = value if isinstance(value, (list, tuple)) else [value]
                yield from (_param_line("tls", name, one) for one in values)
        for module, name, value in config.params:
            yield _param_line(module, name, value)
        yield self.fill(config.raw)

    def fill(self, text: str) -> str:
        """Text of a test with the instance's own folder and ports put in."""
        return text.replace("@DIR@", str(self.dir)).replace("@TLS_PORT@", str(self.tls_port))

    def _readable_module(self) -> None:
        """Another user may not get to where the module under test is."""
        copy = self.dir / "tls.so"
        if not copy.exists():
            shutil.copy(TLS_SO, copy)
            copy.chmod(0o644)
        self.config.tls_path = str(copy)

    def write_cfg(self) -> None:
        config = self.config
        have_tls = config.load_tls and config.enable_tls
        text = CFG_TEMPLATE.read_text()
        if not config.native:
            text = text[:text.index("request_route {")] + "@EVENTS@\n"
        for key, value in {
            "ENABLE_TLS": "enable_tls=yes" if config.enable_tls else "disable_tls=yes",
            "LISTEN": "\n".join(self._listen_lines()),
            "CHILDREN": config.children,
            "READERS": config.readers,
            "DEBUG": config.debug,
            "CORE": config.core,
            "MODULES": "\n".join(self._module_lines()),
            "VERIFIED": "is_peer_verified()" if have_tls else "0 == 1",
            "ROUTE": config.route,
            "EVENTS": config.events,
        }.items():
            text = text.replace(f"@{key}@", str(value))
        self.cfg.write_text(text)
        for name, source in config.files.items():
            target = self.dir / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(source, str):
                target.write_text(self.fill(source))
            else:
                shutil.copy(source, target)
                os.chmod(target, 0o644)
        self.work_dir.mkdir(exist_ok=True)

    @property
    def work_dir(self) -> Path:
        return self.dir / self.config.work_dir

    def _environment(self) -> dict[str, str]:
        env = dict(os.environ, LC_ALL="C", **self.config.env)
        if ASAN:
            libs = [
                subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True,
                               check=True).stdout.strip()
                for name in ("libasan.so", "libubsan.so")
            ]
            log = self.dir / "sanitizer"
            env["LD_PRELOAD"] = ":".join(libs)
            # The host keeps its memory until the end and has its own signal handlers.
            env["ASAN_OPTIONS"] = (
                f"log_path={log}:detect_leaks=0:abort_on_error=0:allocator_may_return_null=1:"
                "handle_segv=1:disable_coredump=0"
            )
            env["UBSAN_OPTIONS"] = f"log_path={log}:print_stacktrace=1:halt_on_error=0"
        if self.config.preload:
            env["LD_PRELOAD"] = ":".join(filter(None, (env.get("LD_PRELOAD"), self.config.preload)))
        return env

    def _take_terminal(self) -> None:
        """In the child, which has a session of its own: makes the terminal the one that /dev/tty means."""
        fcntl.ioctl(self.config.terminal, termios.TIOCSCTTY, 0)

    def _spawn(self) -> None:
        assert TLS_SO.exists() or not self.config.load_tls, f"no module at {TLS_SO}"
        if self.config.load_tls and self.config.user is not None and not self.config.tls_path:
            self._readable_module()
        self.write_cfg()
        if self.config.user is not None:
            for path in (self.dir, *self.dir.rglob("*")):
                os.chown(path, self.config.user, -1)
        command = [
            SER_BIN, "-f", str(self.cfg), "-DD", "-E", "-m", str(self.config.shm_mb),
            "-M", str(self.config.pkg_mb), "-w", str(self.work_dir), "-P", str(self.dir / "pid"),
        ]
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.dir, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, env=self._environment(), user=self.config.user,
                preexec_fn=self._take_terminal if self.config.terminal is not None else None,
            )

    def start(self, timeout: float = 10) -> "Ser":
        for attempt in range(3):
            self._spawn()
            try:
                wait_until(self._listening, timeout, "SER to listen")
            except AssertionError:
                if "address already in use" in self.log().lower() and attempt < 2:
                    self._kill()
                    self.__renew_ports()
                    continue
                self._kill()
                self.exit_status = -1
                raise AssertionError(f"SER did not start\n{self.tail()}") from None
            break
        self._pids = set(self.session_pids())
        self._make_stop_safe()
        return self

    def _make_stop_safe(self) -> None:
        """The host's handler of SIGTERM takes the lock of cfg_update(), which a process takes as well before its first
        event or tick: the signal then finds the lock taken, for ever. So TCP main gets an event, if SER listens
        for it (an example's may not), and the timer its first tick."""
        if f"listen=tcp:127.0.0.1:{self.tcp_port}\n" in self.cfg.read_text():
            with socket.create_connection(("127.0.0.1", self.tcp_port), timeout=5 * SLOW) as sock:
                sock.sendall(b"\r\n\r\n")
                assert sock.recv(2) == b"\r\n"
            self.wait_connections(0)
        self._may_stop = time.monotonic() + FIRST_TICK

    def __renew_ports(self) -> None:
        self.tls_ports = [free_port(addr.strip("[]")) for addr in self.config.tls_addrs]
        self.tls_port = self.tls_ports[0] if self.tls_ports else 0
        self.tcp_port, self.udp_port = free_port(), free_port()
        self.log_path.unlink()

    def _listening(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError("it ended")
        if not self.rpc_path.exists():
            return False
        try:
            roles = [entry["DSC"] for entry in self.rpc("core.psx", timeout=0.5)]
        except (OSError, AssertionError):
            return False
        return any("tcp main" in role for role in roles)

    def start_failure(self, timeout: float = 10) -> str:
        """Starts a SER that must refuse to start; returns its log."""
        self._spawn()
        assert self.process is not None
        try:
            status = self.process.wait(timeout * SLOW)
        except subprocess.TimeoutExpired:
            self._kill()
            self.exit_status = -1
            raise AssertionError(f"SER started although it must not\n{self.tail()}") from None
        finally:
            self._kill()
        self.exit_status = status
        assert status > 0, f"SER ended with status {status}\n{self.tail()}"
        left = self.session_pids()
        assert not left, f"processes left: {left}"
        problems = self._log_problems(start_failed=True)
        assert not problems, "\n".join(problems)
        return self.log()

    # -- looking ----------------------------------------------------------------------------

    def log(self) -> str:
        try:
            return self.log_path.read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def tail(self, lines: int = 60) -> str:
        return "\n".join(self.log().splitlines()[-lines:])

    def mark(self) -> int:
        """A place in the log, for the functions below that look at what came after it."""
        return len(self.log())

    def wait_log(self, pattern: str, timeout: float = 5, since: int = 0) -> re.Match[str]:
        regex = re.compile(pattern, re.M)
        return wait_until(lambda: regex.search(self.log(), since), timeout,
                          f"{pattern!r} in the log:\n{self.log()[since:][-4000:]}")

    def failures(self, peer_port: int | None = None) -> list[dict[str, str]]:
        """Fields of this test's lines about failed or refused connections, of one peer's port or all."""
        found = [dict(parse_fields(m["text"]), line=m[0])
                 for m in FAILURE_RE.finditer(self.log(), self.test_mark)]
        return [f for f in found if peer_port is None or port_of(f.get("peer", ":0")) == peer_port]

    def wait_failure(self, peer_port: int, timeout: float = 5) -> dict[str, str]:
        """The ONE line about the failed connection of this peer."""
        wait_until(lambda: self.failures(peer_port), timeout,
                   f"a line about the failed connection of port {peer_port}")
        time.sleep(0.05)
        found = self.failures(peer_port)
        assert len(found) == 1, f"{len(found)} lines instead of one: {found}"
        return found[0]

    def established(self, peer_port: int | None = None) -> list[dict[str, str]]:
        found = [dict(parse_fields(m["text"]), line=m[0])
                 for m in ESTABLISHED_RE.finditer(self.log(), self.test_mark)]
        return [f for f in found if peer_port is None or port_of(f.get("peer", ":0")) == peer_port]

    def wait_established(self, peer_port: int, timeout: float = 5) -> dict[str, str]:
        return wait_until(lambda: self.established(peer_port), timeout,
                          f"a line about the established connection of port {peer_port}")[0]

    def rpc(self, method: str, *params: object, timeout: float = 5):
        """Calls a command; returns its result, raises AssertionError on a fault."""
        request = json.dumps({"jsonrpc": "2.0", "method": method, "params": list(params), "id": 1})
        mine = self.dir / f"rpc.{os.getpid()}.{next(self._serial)}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.bind(str(mine))
            mine.chmod(0o777)  # SER may have changed its user
            try:
                sock.settimeout(timeout * SLOW)
                sock.sendto(request.encode(), str(self.rpc_path))
                answer = json.loads(sock.recv(1 << 20))
            finally:
                mine.unlink()
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def processes(self) -> dict[int, str]:
        """pid -> what the process is for."""
        return {int(entry["PID"]): entry["DSC"] for entry in self.rpc("core.psx")}

    def pids_of(self, role: str) -> list[int]:
        return [pid for pid, text in self.processes().items() if role in text]

    def engine_pid(self) -> int:
        pids = self.pids_of("tls engine")
        assert len(pids) == 1, f"one 'tls engine' process expected: {self.processes()}"
        return pids[0]

    @contextmanager
    def engine_stopped(self) -> Iterator[int]:
        """The engine does nothing meanwhile; gives its pid."""
        pid = self.engine_pid()
        self._engine_was_stopped = True
        os.kill(pid, signal.SIGSTOP)
        try:
            wait_until(lambda: thread_states(pid) == {"T"}, 5, "the engine to stop")
            yield pid
        finally:
            os.kill(pid, signal.SIGCONT)

    def shm_used(self) -> int:
        return int(self.rpc("core.shmmem")["used"])

    def shm_free(self) -> int:
        return int(self.rpc("core.shmmem")["free"])

    def connections(self) -> list[dict]:
        got = self.rpc("core.tcp_list")
        return [c for c in (got if isinstance(got, list) else [got]) if c]

    def connection_count(self) -> int:
        return int(self.rpc("core.tcp_info")["opened_connections"])

    def wait_connections(self, count: int, timeout: float = 5) -> None:
        wait_until(lambda: self.connection_count() == count, timeout,
                   f"{count} connections (there are {self.connection_count()})", step=0.05)

    @staticmethod
    def memory_kb(pid: int, key: str = "Pss") -> int:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        match = re.search(rf"^{key}:\s+(\d+) kB", text, re.M)
        assert match is not None
        return int(match[1])

    def session_pids(self) -> list[int]:
        """All live processes that this SER started, found by their session."""
        assert self.process is not None
        found = []
        for entry in os.listdir("/proc"):
            fields = stat_fields(Path(f"/proc/{entry}/stat")) if entry.isdigit() else []
            if fields and int(fields[3]) == self.process.pid and fields[0] not in "ZX":
                found.append(int(entry))
        return found

    def alive(self) -> bool:
        return (self.process is not None and self.process.poll() is None
                and not self._pids - set(self.session_pids()))

    def assert_healthy(self) -> None:
        gone = self._pids - set(self.session_pids())
        assert not gone, f"processes that ended: {sorted(gone)}\n{self.tail()}"
        problems = self._log_problems()
        assert not problems, "\n".join(problems)

    # -- stopping ---------------------------------------------------------------------------

    def forgive(self, pattern: str) -> None:
        """A line that this test provokes on purpose and that stop() shall not complain about."""
        self._forgiven.append(re.compile(pattern))

    def _log_problems(self, start_failed: bool = False) -> list[str]:
        problems = []
        for match in UNHEALTHY_RE.finditer(self.log()):
            line = match[0]
            if "receive_fd(): EOF on" in line:
                continue
            if start_failed and "exited by a signal" not in line and "CRITICAL" in line:
                continue  # the host reports a configuration that it cannot use so
            if not any(regex.search(line) for regex in self._forgiven):
                problems.append(f"log: {line}")
        return problems + self._crash_problems()

    def _crash_problems(self) -> list[str]:
        """What no test provokes."""
        reports = [f"{report.name}: {report.read_text(errors='replace')[:6000]}"
                   for report in self.dir.glob("sanitizer*")]
        return reports + [f"core file: {core}" for core in self.work_dir.glob("core*")]

    def _kill(self) -> None:
        assert self.process is not None
        for pid in self.session_pids():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            pass

    def wait_end(self, timeout: float = 10) -> int:
        """For a test that has ended SER in its own way: waits until all of it is gone."""
        assert self.process is not None
        try:
            self.exit_status = self.process.wait(timeout * SLOW)
            wait_until(lambda: not self.session_pids(), 5, "the other processes to end")
        finally:
            self._kill()
        problems = self._crash_problems()
        assert not problems, "\n".join(problems)
        return self.exit_status

    def _terminate(self, timeout: float) -> int:
        """The host's main process remembers one signal and loses a second that comes before it has looked: SIGTERM
        behind the SIGCHLD of an engine that was stopped and goes on. Only such a SER is told again."""
        assert self.process is not None
        time.sleep(max(0.0, self._may_stop - time.monotonic()))
        self.process.send_signal(signal.SIGTERM)
        if self._engine_was_stopped:
            try:
                return self.process.wait(SLOW)
            except subprocess.TimeoutExpired:
                self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def stop(self, timeout: float = 10) -> None:
        """Ends SER politely; raises AssertionError when the run was not healthy."""
        if self.process is None or self.exit_status is not None:
            self.remove()
            return
        problems = []
        gone = self._pids - set(self.session_pids())
        if gone and self.process.poll() is None:
            problems.append(f"processes that ended before the stop: {sorted(gone)}")
        if self.process.poll() is not None:
            problems.append("SER had ended before the stop")
        try:
            self.exit_status = self._terminate(timeout * SLOW)
            if self.exit_status != 0:
                problems.append(f"exit status {self.exit_status}")
        except subprocess.TimeoutExpired:
            self.exit_status = -1
            problems.append(f"still running {timeout * SLOW:g} s after SIGTERM")
        left = self.session_pids()
        if left:
            problems.append(f"processes left: {left}")
        self._kill()
        problems += self._log_problems()
        if problems:
            raise AssertionError("\n".join(problems))
        self.remove()

    def remove(self) -> None:
        if not os.environ.get("TLS_TEST_KEEP"):
            shutil.rmtree(self.dir, ignore_errors=True)


class Pool:
    """SERs by configuration: get() shares one within a test module, fresh() does not."""

    def __init__(self, limit: int = 3):
        self.limit = limit
        self.shared: dict[str, Ser] = {}
        self.singles: list[Ser] = []
        self.problems: list[str] = []

    def get(self, **settings) -> Ser:
        key = repr(sorted(settings.items(), key=lambda item: item[0]))
        ser = self.shared.pop(key, None)
        if ser is not None and not ser.alive():
            self._stop(ser)
            ser = None
        if ser is None:
            while len(self.shared) >= self.limit:
                self._stop(self.shared.pop(next(iter(self.shared))))
            ser = self.fresh(**settings).start()
            self.singles.remove(ser)
        self.shared[key] = ser
        return ser

    def fresh(self, **settings) -> Ser:
        """A SER for one test, not yet started; the end of the test stops it."""
        ser = Ser(Config(**settings))
        self.singles.append(ser)
        return ser

    def begin_test(self) -> None:
        for ser in self.shared.values():
            ser.test_mark = ser.mark()

    def everyone(self) -> list[Ser]:
        return [*self.shared.values(), *self.singles]

    def _stop(self, ser: Ser) -> None:
        try:
            ser.stop()
        except AssertionError as problem:
            self.problems.append(f"{ser.dir}: {problem}\n{ser.tail(30)}")
            ser.remove()

    def stop_singles(self) -> None:
        while self.singles:
            self._stop(self.singles.pop())
        self.raise_problems()

    def check_shared(self) -> None:
        """Ends every shared SER that is not well any more, so that one test only has to tell of it."""
        for key, ser in list(self.shared.items()):
            try:
                ser.assert_healthy()
            except AssertionError:
                self._stop(self.shared.pop(key))
        self.raise_problems()

    def stop_all(self) -> None:
        for key in list(self.shared):
            self._stop(self.shared.pop(key))
        self.stop_singles()

    def raise_problems(self) -> None:
        problems, self.problems = self.problems, []
        if problems:
            raise AssertionError("\n".join(problems))
