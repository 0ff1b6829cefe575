# SPDX-License-Identifier: ISC
"""A real browser with a SIP phone in JavaScript (test/browser): Chromium without a window, and SIP.js
from npm, in the version that package-lock.json names and with the digest that stands there.

The page is served, told what to do and asked what happened over HTTP on a loopback port. The browser
has a home of its own, in which the tests' CA is trusted, and looks up the tests' domain as 127.0.0.1;
it verifies the server's certificate as it would anybody's.
"""
from __future__ import annotations

import hashlib
import json
import os
import queue
import shutil
import signal
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from certs import DOMAIN
from ser import SLOW, TOP

SOURCE = TOP / "test" / "browser"
BUILD = TOP / "build" / "browser"
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
         "--disable-default-apps", "--enable-logging=stderr", f"--host-resolver-rules=MAP {DOMAIN} 127.0.0.1")
TYPES = {".html": "text/html", ".js": "text/javascript"}


def install() -> Path:
    """The folder of the packages of test/browser, installed there if they are not the ones of its lock file."""
    names = ("package.json", "package-lock.json")
    digest = hashlib.sha256(b"".join((SOURCE / name).read_bytes() for name in names)).hexdigest()
    stamp = BUILD / "installed"
    if not stamp.exists() or stamp.read_text() != digest:
        BUILD.mkdir(parents=True, exist_ok=True)
        for name in names:
            shutil.copy(SOURCE / name, BUILD / name)
        done = subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"],
                              cwd=BUILD, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"npm cannot install the packages of {SOURCE}:\n{done.stdout}{done.stderr}"
        stamp.write_text(digest)
    return BUILD / "node_modules"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    browser: "Browser"

    def log_message(self, *_):
        pass

    def _answer(self, status: int, body: bytes = b"", kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.browser.events.put(json.loads(body))
        self._answer(204)

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == "/command":
            try:
                command = self.browser.commands.get(timeout=2)
            except queue.Empty:
                command = {}
            self._answer(200, json.dumps(command).encode())
            return
        folder = self.browser.packages if path.startswith("/sip.js/") else SOURCE
        file = folder / path.lstrip("/")
        if ".." in path or not file.is_file():
            self._answer(404)
        else:
            self._answer(200, file.read_bytes(), TYPES.get(file.suffix, "application/octet-stream"))


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A browser that ends leaves requests behind."""


class Browser:
    """A browser with the page of a phone; stop() ends it."""

    def __init__(self, folder: Path, server: str, user: str = "web", ca: Path | None = None):
        self.packages = install()
        self.events: queue.Queue[dict] = queue.Queue()
        self.commands: queue.Queue[dict] = queue.Queue()
        self.seen: list[dict] = []
        handler = type("Handler", (_Handler,), {"browser": self})
        self.http = _Server(("127.0.0.1", 0), handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.home = folder / "home"
        self.log = folder / "browser.log"
        self.home.mkdir()
        if ca is not None:
            self._trust(ca)
        query = urlencode({"aor": f"sip:{user}@{DOMAIN}", "server": server, "verbose": "yes"})
        env = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                ["chromium", *FLAGS, f"--user-data-dir={folder / 'profile'}",
                 f"http://127.0.0.1:{self.http.server_port}/phone.html?{query}"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env=env | {"HOME": str(self.home), "XDG_CONFIG_HOME": str(self.home / "config")})

    def _trust(self, ca: Path) -> None:
        store = self.home / ".pki" / "nssdb"
        store.mkdir(parents=True)
        for args in (["-N", "--empty-password"], ["-A", "-t", "C,,", "-n", "tests", "-i", str(ca)]):
            subprocess.run(["certutil", "-d", f"sql:{store}", *args], check=True, stdin=subprocess.DEVNULL,
                           capture_output=True, timeout=60)

    def do(self, what: str, **more: object) -> None:
        self.commands.put({"what": what, **more})

    def wait(self, what: str, timeout: float = 30, **want: object) -> dict:
        """The next event of that kind that has these values; others of the kind are passed over."""
        end = time.monotonic() + timeout * SLOW
        while True:
            assert self.process.poll() is None, f"the browser ended\n{self.tail()}"
            try:
                event = self.events.get(timeout=0.2)
            except queue.Empty:
                assert time.monotonic() < end, f"no event {what} {want}; so far: {self.seen}\n{self.tail()}"
                continue
            self.seen.append(event)
            assert event["what"] != "error" or what == "error", f"{event}\n{self.tail()}"
            if event["what"] == what and want.items() <= event.items():
                return event

    def tail(self, lines: int = 60) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self) -> None:
        """Ends all of the browser's processes: they are those of its session."""
        try:
            os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait(10)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait(10)
        self.http.shutdown()
        self.http.server_close()
