# SPDX-License-Identifier: ISC
"""SIP peers for the scenario tests: over TLS, plain TCP, UDP and secure WebSocket.

Every wait is bounded by a timeout; a peer that goes away gives ConnectionError or ssl.SSLError,
one that stays silent gives TimeoutError. RawTls hands out the bytes of the wire, Records13 makes
and reads single TLS 1.3 records, so that a test decides about every byte; Endpoint is the SIP
server that SER connects to; Tool wraps a command that is talked to.
"""
from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import os
import re
import select
import socket
import ssl
import struct
import subprocess
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Sequence

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from certs import DOMAIN
from ser import SLOW, wait_until

TIMEOUT = 5.0 * SLOW
_serial = itertools.count(1)


# -- SIP ------------------------------------------------------------------------------------


@dataclass
class Message:
    start: str
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def status(self) -> int:
        return int(self.start.split()[1]) if self.start.startswith("SIP/2.0 ") else 0

    @property
    def method(self) -> str:
        return self.start.split()[0]

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def get(self, name: str) -> str | None:
        values = self.all(name)
        return values[0] if values else None

    @property
    def call_id(self) -> str | None:
        return self.get("Call-ID")


def take_message(buffer: bytearray) -> Message | None:
    """Removes one whole SIP message from the front of the buffer, if there is one."""
    while buffer.startswith(b"\r\n"):
        del buffer[:2]
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    lines = bytes(buffer[:end]).decode("utf-8", "replace").split("\r\n")
    headers = [(k.strip(), v.strip()) for k, _, v in (line.partition(":") for line in lines[1:])]
    message = Message(lines[0], headers, b"")
    size = int(message.get("Content-Length") or message.get("l") or 0)
    if len(buffer) < end + 4 + size:
        return None
    message.body = bytes(buffer[end + 4:end + 4 + size])
    del buffer[:end + 4 + size]
    return message


def request(method: str = "OPTIONS", uri: str = f"sip:{DOMAIN}", *, transport: str = "TLS",
            via: str = "127.0.0.1:9", call_id: str | None = None, cseq: int = 1, body: bytes = b"",
            headers: Sequence[str] = (), to: str | None = None) -> bytes:
    serial = next(_serial)
    call_id = call_id or f"{os.getpid()}-{serial}-{time.monotonic_ns()}@test"
    lines = [
        f"{method} {uri} SIP/2.0",
        f"Via: SIP/2.0/{transport} {via};branch=z9hG4bK{os.getpid()}.{serial}.{time.monotonic_ns()};rport",
        f"From: <sip:tester@{DOMAIN}>;tag={hashlib.md5(call_id.encode()).hexdigest()[:12]}",
        f"To: {to or f'<{uri}>'}",
        f"Call-ID: {call_id}",
        f"CSeq: {cseq} {method}",
        "Max-Forwards: 70",
        f"Contact: <sip:tester@{via};transport={transport.lower()}>",
        *headers,
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def sized_request(uri: str, size: int, *, echo: bool = False, **more) -> bytes:
    """An OPTIONS of exactly size bytes, made so by its body."""
    headers = ["Content-Type: application/octet-stream"] + (["X-Echo: yes"] if echo else [])
    call_id = f"sized-{os.getpid()}-{next(_serial)}-{time.monotonic_ns()}@test"
    length = size
    for _ in range(6):
        probe = request("OPTIONS", uri, call_id=call_id, body=b"x" * length, headers=headers, **more)
        if len(probe) == size:
            break
        length -= len(probe) - size
    assert len(probe) == size, (len(probe), size)
    head, _, _ = probe.partition(b"\r\n\r\n")
    return head + b"\r\n\r\n" + bytes(33 + i * 7 % 90 for i in range(length))


# -- stream clients -------------------------------------------------------------------------


def rst(sock: socket.socket) -> None:
    """Closes with a reset instead of a FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class StreamClient:
    """What the clients of all stream transports share."""

    transport = "TCP"
    sock: socket.socket

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.local_port: int = self.sock.getsockname()[1]
        self.local = f"127.0.0.1:{self.local_port}"

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def _more(self, timeout: float) -> bytes:
        self.sock.settimeout(max(timeout, 0.001))
        return self.sock.recv(65536)

    def recv(self, timeout: float = TIMEOUT) -> Message:
        """The next SIP message."""
        end = time.monotonic() + timeout
        while True:
            message = take_message(self.buffer)
            if message is not None:
                return message
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"no message within {timeout:g} s; so far: {bytes(self.buffer)[:200]!r}")
            data = self._more(left)
            if not data:
                raise ConnectionResetError("closed by SER")
            self.buffer += data

    def build(self, method: str = "OPTIONS", uri: str = f"sip:{DOMAIN}", **more) -> bytes:
        return request(method, uri, transport=self.transport, via=self.local, **more)

    def ask(self, method: str = "OPTIONS", uri: str | None = None, timeout: float = TIMEOUT, **more) -> Message:
        """Sends a request; returns the final reply to it."""
        data = self.build(method, uri or self.ser_uri, **more)
        call_id = re.search(rb"Call-ID: (\S+)", data)[1].decode()
        self.send(data)
        while True:
            reply = self.recv(timeout)
            if reply.call_id == call_id and reply.status >= 200:
                return reply

    def closed_by_ser(self, timeout: float = TIMEOUT) -> bool:
        """True when the connection is over within the time, whichever way."""
        end = time.monotonic() + timeout
        try:
            while time.monotonic() < end:
                if not self._more(end - time.monotonic()):
                    return True
        except (TimeoutError, socket.timeout):
            return False
        except OSError:
            return True
        return False

    def fin(self) -> None:
        self.sock.close()

    def rst(self) -> None:
        rst(self.sock)

    close = fin

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class TcpClient(StreamClient):
    def __init__(self, port: int, timeout: float = TIMEOUT, uri_port: int | None = None):
        self.sock = socket.create_connection(("127.0.0.1", port), timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.ser_uri = f"sip:127.0.0.1:{uri_port or port};transport=tcp"
        super().__init__()


class TlsClient(StreamClient):
    """SIP over TLS as a polite client speaks it."""

    transport = "TLS"

    def __init__(self, port: int, context: ssl.SSLContext, *, addr: str = "127.0.0.1", name: str | None = DOMAIN,
                 session: ssl.SSLSession | None = None, timeout: float = TIMEOUT):
        self.tcp = socket.create_connection((addr, port), timeout)
        self.tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.ser_uri = f"sip:{'[' + addr + ']' if ':' in addr else addr}:{port};transport=tls"
        self.local_port = self.tcp.getsockname()[1]
        try:
            self.sock = context.wrap_socket(self.tcp, server_hostname=name, session=session)
        except BaseException as problem:
            problem.local_port = self.local_port  # type: ignore[attr-defined]
            self.tcp.close()
            raise
        super().__init__()

    @property
    def tls(self) -> ssl.SSLSocket:
        assert isinstance(self.sock, ssl.SSLSocket)
        return self.sock

    def version(self) -> str | None:
        return self.tls.version()

    def suite(self) -> str:
        return self.tls.cipher()[0]

    def fin(self) -> None:
        self.sock.close()

    def close(self) -> None:
        """close_notify, then FIN."""
        try:
            self.sock.settimeout(0.3)
            self.tls.unwrap()
        except (OSError, ValueError):
            pass
        self.sock.close()


def failed_handshake(port: int, context: ssl.SSLContext, *, name: str | None = DOMAIN,
                     timeout: float = TIMEOUT) -> tuple[int, str]:
    """A connection that SER must refuse: the local port and the reason as this side saw it.

    With TLS 1.3 a client believes that it is connected before the server has looked at its certificate,
    so the refusal may come with the first read.
    """
    try:
        client = TlsClient(port, context, name=name, timeout=timeout)
    except (OSError, ssl.SSLError) as problem:
        return problem.local_port, str(problem)  # type: ignore[attr-defined]
    with client:
        try:
            client.ask(timeout=timeout)
        except (OSError, ssl.SSLError) as problem:
            assert not isinstance(problem, TimeoutError), "neither refused nor answered"
            return client.local_port, str(problem)
    raise AssertionError("SER answered on a connection that it must refuse")


class UdpClient:
    def __init__(self, port: int):
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.connect(("127.0.0.1", port))
        self.local = f"127.0.0.1:{self.sock.getsockname()[1]}"

    def build(self, method: str, uri: str, **more) -> bytes:
        return request(method, uri, transport="UDP", via=self.local, **more)

    def send(self, data: bytes) -> None:
        self.sock.send(data)

    def recv(self, timeout: float = TIMEOUT) -> Message:
        self.sock.settimeout(timeout)
        message = take_message(bytearray(self.sock.recv(65536)))
        assert message is not None
        return message

    def ask(self, method: str, uri: str, timeout: float = TIMEOUT, **more) -> Message:
        data = self.build(method, uri, **more)
        call_id = re.search(rb"Call-ID: (\S+)", data)[1].decode()
        self.send(data)
        end = time.monotonic() + timeout
        while True:
            reply = self.recv(max(end - time.monotonic(), 0.001))
            if reply.call_id == call_id and reply.status >= 200:
                return reply

    def close(self) -> None:
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


# -- TLS by hand ----------------------------------------------------------------------------

ALERT_NAMES = {
    0: "close_notify", 10: "unexpected_message", 20: "bad_record_mac", 22: "record_overflow",
    40: "handshake_failure", 42: "bad_certificate", 43: "unsupported_certificate",
    44: "certificate_revoked", 45: "certificate_expired", 46: "certificate_unknown",
    47: "illegal_parameter", 48: "unknown_ca", 50: "decode_error", 51: "decrypt_error",
    70: "protocol_version", 71: "insufficient_security", 80: "internal_error", 90: "user_canceled",
    100: "no_renegotiation", 109: "missing_extension", 112: "unrecognized_name", 116: "certificate_required",
}
CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, APPLICATION = 20, 21, 22, 23


def split_records(data: bytes) -> list[tuple[int, bytes]]:
    """(type, payload) of the whole records in data."""
    records = []
    while len(data) >= 5:
        size = int.from_bytes(data[3:5], "big")
        if len(data) < 5 + size:
            break
        records.append((data[0], data[5:5 + size]))
        data = data[5 + size:]
    return records


def record(kind: int, payload: bytes, version: int = 0x0303) -> bytes:
    return struct.pack("!BHH", kind, version, len(payload)) + payload


def read_all(sock: socket.socket, timeout: float = TIMEOUT) -> tuple[bytes, bool]:
    """Everything until the peer closes or the time is over, and whether it closed."""
    data, end = b"", time.monotonic() + timeout
    while time.monotonic() < end:
        sock.settimeout(max(end - time.monotonic(), 0.001))
        try:
            got = sock.recv(65536)
        except (TimeoutError, socket.timeout):
            return data, False
        except OSError:
            return data, True
        if not got:
            return data, True
        data += got
    return data, False


def clear_alerts(data: bytes) -> list[str]:
    """Names of the unencrypted alerts among the records in data."""
    return [ALERT_NAMES.get(payload[1], str(payload[1]))
            for kind, payload in split_records(data) if kind == ALERT and len(payload) == 2]


class RawTls(StreamClient):
    """A TLS client that hands out the bytes of the wire; nothing is sent unless the test sends it."""

    transport = "TLS"

    def __init__(self, port: int, context: ssl.SSLContext, *, name: str | None = DOMAIN,
                 session: ssl.SSLSession | None = None, timeout: float = TIMEOUT):
        self.sock = socket.create_connection(("127.0.0.1", port), timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.ser_uri = f"sip:127.0.0.1:{port};transport=tls"
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.ssl = context.wrap_bio(self.incoming, self.outgoing, server_hostname=name, session=session)
        self.complete = False
        self.wire_in = bytearray()  # everything that SER sent, as it came
        super().__init__()

    def flight(self) -> bytes:
        """The next bytes that the client has to send in the handshake, b"" when it waits or is complete."""
        if not self.complete:
            try:
                self.ssl.do_handshake()
                self.complete = True
            except ssl.SSLWantReadError:
                pass
        return self.outgoing.read()

    def feed(self, timeout: float = TIMEOUT) -> bytes:
        """Reads once from the wire into the TLS machine."""
        self.sock.settimeout(max(timeout, 0.001))
        data = self.sock.recv(65536)
        if not data:
            raise ConnectionResetError("closed by SER")
        self.wire_in += data
        self.incoming.write(data)
        return data

    def handshake(self, put: Callable[[bytes], None] | None = None) -> "RawTls":
        """Runs the handshake; put sends the bytes of each flight."""
        put = put or self.sock.sendall
        while True:
            data = self.flight()
            if data:
                put(data)
            if self.complete:
                return self
            self.feed()

    def seal(self, data: bytes) -> bytes:
        """The records that carry data."""
        self.ssl.write(data)
        return self.outgoing.read()

    def send(self, data: bytes) -> None:
        self.sock.sendall(self.seal(data))

    def close_notify(self) -> bytes:
        try:
            self.ssl.unwrap()
        except ssl.SSLError:
            pass
        return self.outgoing.read()

    def _more(self, timeout: float) -> bytes:
        while True:
            try:
                return self.ssl.read(65536)
            except ssl.SSLWantReadError:
                pending = self.outgoing.read()  # such as the answer to a key update
                if pending:
                    self.sock.sendall(pending)
                self.feed(timeout)


def trickle(sock: socket.socket, data: bytes, step: int = 1, pause: float = 0.0) -> None:
    """Sends data in pieces that arrive one by one."""
    for at in range(0, len(data), step):
        sock.sendall(data[at:at + step])
        if pause:
            time.sleep(pause)


def half_wrong(attempt: Callable[[int, bool], bool]) -> list[str]:
    """Six threads with twelve connections each, of which every other is right: those that attempt() returns False for."""
    wrong: list[str] = []

    def run(seed: int) -> None:
        for turn in range(12):
            if not attempt(turn, (seed + turn) % 2 == 1):
                wrong.append(f"{seed}.{turn}")

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return wrong


def _expand_label(secret: bytes, label: str, size: int, digest: str) -> bytes:
    name = b"tls13 " + label.encode()
    info = struct.pack("!HB", size, len(name)) + name + b"\0"
    return hmac.new(secret, info + b"\x01", digest).digest()[:size]


class Direction13:
    """One direction's traffic keys of TLS 1.3 (RFC 8446, sections 5.2, 5.3, 7.2)."""

    def __init__(self, secret: bytes, suite: str):
        self.digest = "sha384" if suite.endswith("SHA384") else "sha256"
        self.suite = suite
        self.secret = secret
        self._derive()

    def _derive(self) -> None:
        size = 16 if "AES_128" in self.suite else 32
        key = _expand_label(self.secret, "key", size, self.digest)
        self.aead = ChaCha20Poly1305(key) if "CHACHA20" in self.suite else AESGCM(key)
        self.iv = _expand_label(self.secret, "iv", 12, self.digest)
        self.sequence = 0

    def update(self) -> None:
        self.secret = _expand_label(self.secret, "traffic upd", hashlib.new(self.digest).digest_size, self.digest)
        self._derive()

    def _nonce(self) -> bytes:
        nonce = bytes(a ^ b for a, b in zip(self.iv, self.sequence.to_bytes(12, "big")))
        self.sequence += 1
        return nonce

    def seal(self, kind: int, payload: bytes, padding: int = 0) -> bytes:
        inner = payload + bytes([kind]) + bytes(padding)
        head = struct.pack("!BHH", APPLICATION, 0x0303, len(inner) + 16)
        return head + self.aead.encrypt(self._nonce(), inner, head)

    def open(self, payload: bytes) -> tuple[int, bytes]:
        head = struct.pack("!BHH", APPLICATION, 0x0303, len(payload))
        inner = self.aead.decrypt(self._nonce(), payload, head).rstrip(b"\0")
        return inner[-1], inner[:-1]


def _prf(secret: bytes, label: str, seed: bytes, size: int, digest: str) -> bytes:
    """RFC 5246, section 5."""
    seed = label.encode() + seed
    out, link = b"", seed
    while len(out) < size:
        link = hmac.digest(secret, link, digest)
        out += hmac.digest(secret, link + seed, digest)
    return out[:size]


class Direction12:
    """A client's or a server's keys of TLS 1.2 with an AEAD suite (RFC 5246, 5288, 7905)."""

    def __init__(self, master: bytes, suite: str, client_random: bytes, server_random: bytes, *, client: bool):
        self.chacha = "CHACHA20" in suite
        size, salt = 16 if "AES128" in suite else 32, 12 if self.chacha else 4
        digest = "sha384" if suite.endswith("SHA384") else "sha256"
        block = _prf(master, "key expansion", server_random + client_random, 2 * (size + salt), digest)
        at = 0 if client else 1
        key = block[at * size:(at + 1) * size]
        self.iv = block[2 * size + at * salt:][:salt]
        self.aead = ChaCha20Poly1305(key) if self.chacha else AESGCM(key)
        self.sequence = 0

    def _about(self, kind: int, size: int) -> bytes:
        """What a record is authenticated with beside its content; the next one has another number."""
        self.sequence += 1
        return struct.pack("!QBHH", self.sequence - 1, kind, 0x0303, size)

    def seal(self, kind: int, payload: bytes) -> bytes:
        number = self.sequence.to_bytes(12 if self.chacha else 8, "big")
        about = self._about(kind, len(payload))
        if self.chacha:
            nonce = bytes(a ^ b for a, b in zip(self.iv, number))
            return record(kind, self.aead.encrypt(nonce, payload, about))
        return record(kind, number + self.aead.encrypt(self.iv + number, payload, about))

    def open(self, kind: int, payload: bytes) -> bytes:
        """The content of a record."""
        explicit, sealed = (b"", payload) if self.chacha else (payload[:8], payload[8:])
        number = self.sequence.to_bytes(12, "big")
        nonce = self.iv + explicit if explicit else bytes(a ^ b for a, b in zip(self.iv, number))
        return self.aead.decrypt(nonce, sealed, self._about(kind, len(sealed) - 16))


@contextmanager
def logged_secrets(make_context: Callable[..., ssl.SSLContext], low: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, **more):
    """A client's context for one handshake, and a dict that has its secrets afterwards."""
    secrets: dict[str, bytes] = {}
    with tempfile.NamedTemporaryFile(suffix=".keylog") as keylog:
        context = make_context(keylog=Path(keylog.name), low=low, **more)
        yield context, secrets
        text = Path(keylog.name).read_text()
    context.keylog_filename = None
    for line in text.splitlines():
        if line and not line.startswith("#"):
            label, _, secret = line.split()
            secrets[label] = bytes.fromhex(secret)


class Records13(StreamClient):
    """A TLS 1.3 connection whose records the test makes and reads itself, after a normal handshake."""

    transport = "TLS"

    def __init__(self, port: int, make_context: Callable[..., ssl.SSLContext], **more):
        with logged_secrets(make_context, **more) as (context, secrets):
            raw = RawTls(port, context).handshake()
        suite = raw.ssl.cipher()[0]
        self.sock, self.ser_uri = raw.sock, raw.ser_uri
        self.write = Direction13(secrets["CLIENT_TRAFFIC_SECRET_0"], suite)
        self.read = Direction13(secrets["SERVER_TRAFFIC_SECRET_0"], suite)
        self.wire = bytearray(raw.incoming.read())
        self.key_updates: list[int] = []  # request_update values that SER sent
        self.alerts: list[str] = []
        self.tickets = 0
        self.records = 0
        super().__init__()

    def send_record(self, kind: int, payload: bytes, padding: int = 0) -> None:
        self.sock.sendall(self.write.seal(kind, payload, padding))

    def send(self, data: bytes) -> None:
        for at in range(0, len(data), 16384):
            self.send_record(APPLICATION, data[at:at + 16384])

    def key_update(self, ask_back: bool) -> bytes:
        """The bytes of a KeyUpdate; what follows it is sealed with the new key."""
        data = self.write.seal(HANDSHAKE, bytes([24, 0, 0, 1, int(ask_back)]))
        self.write.update()
        return data

    def next_record(self, timeout: float) -> tuple[int, bytes]:
        end = time.monotonic() + timeout
        while True:
            if len(self.wire) >= 5:
                size = 5 + int.from_bytes(self.wire[3:5], "big")
                if len(self.wire) >= size:
                    kind, payload = self.wire[0], bytes(self.wire[5:size])
                    del self.wire[:size]
                    self.records += 1
                    return self.read.open(payload) if kind == APPLICATION else (kind, payload)
            self.sock.settimeout(max(end - time.monotonic(), 0.001))
            data = self.sock.recv(65536)
            if not data:
                raise ConnectionResetError("closed by SER")
            self.wire += data

    def _more(self, timeout: float) -> bytes:
        while True:
            kind, payload = self.next_record(timeout)
            if kind == APPLICATION and payload:
                return payload
            if kind == ALERT:
                self.alerts.append(ALERT_NAMES.get(payload[1], str(payload[1])))
                return b""
            if kind == HANDSHAKE and payload[0] == 24:
                self.key_updates.append(payload[4])
                self.read.update()
            elif kind == HANDSHAKE and payload[0] == 4:
                self.tickets += 1


# -- secure WebSocket -----------------------------------------------------------------------


class WssClient(TlsClient):
    """SIP over a WebSocket over TLS (RFC 6455, RFC 7118), as little of it as SER needs."""

    transport = "WSS"

    def __init__(self, port: int, context: ssl.SSLContext, **more):
        super().__init__(port, context, **more)
        self.ser_uri = f"sip:127.0.0.1:{port};transport=ws"
        self.frames = bytearray()
        nonce = base64.b64encode(os.urandom(16))
        self.sock.sendall(
            b"GET / HTTP/1.1\r\nHost: " + DOMAIN.encode() + b"\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nOrigin: https://" + DOMAIN.encode() + b"\r\nSec-WebSocket-Protocol: sip\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + nonce + b"\r\nContent-Length: 0\r\n\r\n")
        while b"\r\n\r\n" not in self.frames:
            self._pull(TIMEOUT)
        head, _, rest = bytes(self.frames).partition(b"\r\n\r\n")
        self.frames = bytearray(rest)
        want = base64.b64encode(hashlib.sha1(nonce + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        assert head.startswith(b"HTTP/1.1 101") and want in head, head

    def _pull(self, timeout: float) -> None:
        data = super()._more(timeout)
        if not data:
            raise ConnectionResetError("closed by SER")
        self.frames += data

    @staticmethod
    def frame(payload: bytes, opcode: int = 1, final: bool = True) -> bytes:
        size = len(payload)
        head = bytes([opcode | (0x80 if final else 0)])
        if size < 126:
            head += bytes([0x80 | size])
        elif size < 65536:
            head += struct.pack("!BH", 0x80 | 126, size)
        else:
            head += struct.pack("!BQ", 0x80 | 127, size)
        mask = os.urandom(4)
        return head + mask + bytes(byte ^ mask[i & 3] for i, byte in enumerate(payload))

    def send(self, data: bytes) -> None:
        self.sock.sendall(self.frame(data))

    def _take_frame(self) -> tuple[int, bytes] | None:
        data = self.frames
        if len(data) < 2:
            return None
        size, at = data[1] & 0x7F, 2
        if size >= 126:
            width = 2 if size == 126 else 8
            if len(data) < 2 + width:
                return None
            size, at = int.from_bytes(data[2:2 + width], "big"), 2 + width
        if len(data) < at + size:
            return None
        opcode, payload = data[0] & 15, bytes(data[at:at + size])
        del data[:at + size]
        return opcode, payload

    def _more(self, timeout: float) -> bytes:
        while True:
            got = self._take_frame()
            if got is None:
                self._pull(timeout)
            elif got[0] == 9:
                self.sock.sendall(self.frame(got[1], 10))
            elif got[0] == 8:
                return b""
            elif got[0] in (1, 2) and got[1]:
                return got[1]

    def ping(self, payload: bytes = b"still there?", timeout: float = TIMEOUT) -> bytes:
        self.sock.sendall(self.frame(payload, 9))
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            got = self._take_frame()
            if got is None:
                self._pull(end - time.monotonic())
            elif got[0] == 10:
                return got[1]
        raise TimeoutError("no pong")


# -- the SIP server that SER connects to ----------------------------------------------------

SDP = (b"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
       b"m=audio 4000 RTP/AVP 0\r\n")


def answer(message: Message, status: str = "200 OK", contact: str = "", body: bytes = b"") -> bytes:
    lines = [f"SIP/2.0 {status}"]
    lines += [f"Via: {via}" for via in message.all("Via")]
    lines += [f"Record-Route: {route}" for route in message.all("Record-Route")]
    to = message.get("To") or ""
    lines += [f"From: {message.get('From')}", f"To: {to if 'tag=' in to else to + ';tag=endpoint'}",
              f"Call-ID: {message.call_id}", f"CSeq: {message.get('CSeq')}"]
    if contact:
        lines.append(f"Contact: <{contact}>")
    if body:
        lines.append("Content-Type: application/sdp")
    lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@dataclass
class Arrival:
    """One connection that SER opened to an Endpoint."""

    sock: socket.socket
    peer_port: int
    tls: ssl.SSLSocket | None = None
    error: str = ""
    closed: bool = False
    messages: list[Message] = field(default_factory=list)


class Endpoint:
    """A SIP server over TLS (context None: plain TCP) on a free port, with a thread per connection.

    delay: seconds before it begins the handshake; silent: never does; deaf: handshakes and never reads;
    chunk: sends its answers, and the handshake's bytes through a socketpair-less path, in pieces of so
    many bytes.
    """

    def __init__(self, context: ssl.SSLContext | None, *, delay: float = 0, silent: bool = False,
                 deaf: bool = False, chunk: int = 0, close_after: int = 0, user: str = "callee"):
        self.context, self.delay, self.silent, self.deaf = context, delay, silent, deaf
        self.chunk, self.close_after = chunk, close_after
        self.status = "200 OK"
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        if deaf:
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.port: int = self.listener.getsockname()[1]
        transport = "tls" if context else "tcp"
        self.uri = f"sip:{user}@127.0.0.1:{self.port};transport={transport}"
        self.arrivals: list[Arrival] = []
        self.lock = threading.Lock()
        self.over = threading.Event()
        self.threads: list[threading.Thread] = []
        self._spawn(self._accept)

    def _spawn(self, target: Callable, *args) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self.threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        self.listener.settimeout(0.1)
        while not self.over.is_set():
            try:
                sock, peer = self.listener.accept()
            except (TimeoutError, socket.timeout):
                continue
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            arrival = Arrival(sock, peer[1])
            with self.lock:
                self.arrivals.append(arrival)
            self._spawn(self._serve, arrival)

    def _serve(self, arrival: Arrival) -> None:
        try:
            if self.over.wait(self.delay) or self.silent:
                self.over.wait()
                return
            arrival.sock.settimeout(20 * SLOW)
            stream = arrival.sock
            if self.context is not None:
                stream = arrival.tls = self.context.wrap_socket(arrival.sock, server_side=True)
            if self.deaf:
                self.over.wait()
                return
            self._talk(arrival, stream)
        except (OSError, ssl.SSLError, ValueError) as problem:
            arrival.error = str(problem)
        finally:
            arrival.closed = True
            (arrival.tls or arrival.sock).close()

    def _talk(self, arrival: Arrival, stream: socket.socket) -> None:
        buffer = bytearray()
        stream.settimeout(0.2)
        while not self.over.is_set():
            try:
                data = stream.recv(65536)
            except (TimeoutError, socket.timeout):
                continue
            if not data:
                return
            buffer += data
            while (message := take_message(buffer)) is not None:
                with self.lock:
                    arrival.messages.append(message)
                self._respond(stream, message)
                if self.close_after and len(arrival.messages) >= self.close_after:
                    return

    def _respond(self, stream: socket.socket, message: Message) -> None:
        if message.status or message.method == "ACK":
            return
        body = SDP if message.method == "INVITE" else b""
        contact = self.uri if message.method in ("INVITE", "REGISTER") else ""
        reply = answer(message, self.status, contact=contact, body=body)
        stream.settimeout(20 * SLOW)
        for at in range(0, len(reply), self.chunk or len(reply)):
            stream.sendall(reply[at:at + (self.chunk or len(reply))])
        stream.settimeout(0.2)

    def messages(self, method: str | None = None) -> list[Message]:
        with self.lock:
            return [m for a in self.arrivals for m in a.messages if method is None or m.method == method]

    def wait_messages(self, count: int, method: str | None = None, timeout: float = TIMEOUT) -> list[Message]:
        wait_until(lambda: len(self.messages(method)) >= count, timeout / SLOW,
                   f"{count} messages at the endpoint (there are {len(self.messages(method))})")
        return self.messages(method)

    def close(self) -> None:
        self.over.set()
        self.listener.close()
        for arrival in list(self.arrivals):
            try:
                arrival.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in self.threads:
            thread.join(2)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


# -- other people's programs ----------------------------------------------------------------


class Tool:
    """A command with its standard input open; all it says is collected in text."""

    def __init__(self, command: Sequence[str | Path], env: dict[str, str] | None = None):
        self.command = [str(word) for word in command]
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, bufsize=0, env=env)
        self.data = bytearray()

    @property
    def text(self) -> str:
        return self.data.decode("utf-8", "replace")

    def _read(self, timeout: float) -> bool:
        """False at the end of the output."""
        out = self.process.stdout
        if select.select([out], [], [], max(timeout, 0))[0]:
            got = os.read(out.fileno(), 65536)
            self.data += got
            return bool(got)
        return True

    def write(self, data: bytes) -> None:
        self.process.stdin.write(data)

    def wait_for(self, pattern: str, timeout: float = TIMEOUT, since: int = 0) -> re.Match[str]:
        regex = re.compile(pattern, re.M)
        end = time.monotonic() + timeout
        while True:
            match = regex.search(self.text, since)
            if match:
                return match
            left = end - time.monotonic()
            if left <= 0 or not self._read(left):
                match = regex.search(self.text, since)
                if match:
                    return match
                raise AssertionError(f"no {pattern!r} from {self.command[0]}:\n{self.text[-3000:]}")

    def finish(self, timeout: float = TIMEOUT) -> int:
        """Closes the input and waits for the end."""
        if self.process.stdin and not self.process.stdin.closed:
            try:
                self.process.stdin.close()
            except BrokenPipeError:
                pass
        end = time.monotonic() + timeout
        while time.monotonic() < end and self._read(end - time.monotonic()):
            pass
        try:
            return self.process.wait(max(end - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.command[0]} did not end:\n{self.text[-2000:]}") from None

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(2)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(2)
        for stream in (self.process.stdin, self.process.stdout):
            if stream and not stream.closed:
                try:
                    stream.close()
                except BrokenPipeError:
                    pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()


def openssl_client(port: int, folder, *args: str | Path) -> Tool:
    return Tool(["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-CAfile", folder.calist,
                 "-servername", DOMAIN, "-verify_return_error", "-verify_hostname", DOMAIN, *args])


def gnutls_client(port: int, folder, *args: str | Path) -> Tool:
    return Tool(["gnutls-cli", "--x509cafile", folder.calist, "--sni-hostname", DOMAIN,
                 "--verify-hostname", DOMAIN, "-p", str(port), *args, "127.0.0.1"])


def sipsak(port: int, folder, *args: str | Path) -> Tool:
    """sipsak through SER as its outbound proxy.

    With TLS 1.2: sipsak 0.9.8 takes the session ticket of TLS 1.3 for an error. It also makes
    the port a part of the name that it verifies, so the URI must not have one.
    """
    policy = folder.path / "gnutls-tls12"
    policy.write_text("[overrides]\ndisabled-version = tls1.3\n")
    return Tool(["sipsak", "--transport=tls", f"--tls-ca-cert={folder.calist}", "-v", "-v", "-i",
                 "-p", f"127.0.0.1:{port}", *args],
                env=dict(os.environ, GNUTLS_SYSTEM_PRIORITY_FILE=str(policy)))


class Baresip(Tool):
    """A baresip user agent registered over TLS, without sound hardware."""

    def __init__(self, directory: Path, folder, ser_port: int, user: str, *commands: str,
                 answer: bool = False, outbound: str = "", seconds: int = 30):
        directory.mkdir(parents=True, exist_ok=True)
        pem = directory / "cert.pem"
        pem.write_text(folder.pem("server").read_text() + folder.key("server").read_text())
        modules = ("account", "g711", "aubridge", "menu", "uuid")
        (directory / "config").write_text("\n".join([
            "sip_listen\t127.0.0.1:0", f"sip_certificate\t{pem}", f"sip_cafile\t{folder.calist}",
            "audio_player\taubridge,x", "audio_source\taubridge,x", "audio_alert\taubridge,x",
            "rtp_ports\t20000-29999", "net_interface\t127.0.0.1",
            "module_path\t/usr/lib/baresip/modules",
            *(f"module{'_app' if name in ('account', 'menu') else ''}\t{name}.so" for name in modules), ""]))
        (directory / "accounts").write_text(
            f"<sip:{user}@127.0.0.1:{ser_port};transport=tls>;regint=60;auth_pass=none"
            f"{';answermode=auto' if answer else ''}"
            f"{f';outbound={chr(34)}{outbound}{chr(34)}' if outbound else ''}\n")
        (directory / "contacts").write_text("")
        words: list[str] = []
        for command in commands:
            words += ["-e", command]
        super().__init__(["baresip", "-f", str(directory), "-s", "-t", str(seconds), *words])


def linphonec(directory: Path, folder, ser_port: int, user: str) -> Tool:
    """linphonec that registers over TLS as soon as it runs and trusts the demo CA only.

    By name: its TLS library does not look at addresses in a certificate.
    """
    (directory / ".local/share/linphone").mkdir(parents=True, exist_ok=True)
    rc = directory / "linphonerc"
    rc.write_text("\n".join([
        "[sip]", "verify_server_certs=1", "verify_server_cn=1", f"root_ca={folder.calist}",
        "sip_port=0", "sip_tcp_port=0", "sip_tls_port=-1", "default_proxy=0", "use_ipv6=0",
        "[proxy_0]", f"reg_proxy=<sip:localhost:{ser_port};transport=tls>",
        f"reg_identity=sip:{user}@localhost", "reg_expires=60", "reg_sendregister=1", "publish=0", ""]))
    return Tool(["linphonec", "-c", rc], env=dict(os.environ, HOME=str(directory)))
