# SPDX-License-Identifier: ISC
"""Memory that runs out: the module starve of test/modules, which takes the host's shared memory away and
makes single allocations fail, and failmalloc.so, which does the latter in the engine's own heap.
"""
from __future__ import annotations

import mmap
import struct
import subprocess
import tempfile
from pathlib import Path

from ser import TOP, Ser


def build(name: str) -> Path:
    """A shared object of test/modules."""
    target = f"build/test/{name}.so"
    made = subprocess.run(["make", "-s", target], cwd=TOP, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return TOP / target


def settings(**more) -> dict:
    """What makes a SER have the module starve."""
    modules = (*more.pop("modules", ()), str(build("starve")).removesuffix(".so"))
    return {"modules": modules, **more}


def eat(ser: Ser, left_kb: int) -> int:
    """Leaves so much shared memory; returns what is left."""
    return ser.rpc("starve.eat", left_kb)


def release(ser: Ser) -> None:
    ser.rpc("starve.release")


def set_threshold(ser: Ser, number: int, kb: int) -> None:
    ser.rpc("cfg.set_now_int", "tls", f"low_mem_threshold{number}", kb)


def fail(ser: Ser, nth: int, module: str = "tls") -> None:
    """The n-th allocation of the module from now on fails; 0: none does."""
    ser.rpc("starve.fail", module, nth)


def failed(ser: Ser) -> bool:
    return ser.rpc("starve.seen")["failed"] > 0


class Heap:
    """The heap of one process that was started with failmalloc.so."""

    FIELDS = ("pid", "left", "seen", "failed", "live")

    def __init__(self) -> None:
        self.file = tempfile.NamedTemporaryFile(prefix="failmalloc-")
        self.file.truncate(4096)
        self.map = mmap.mmap(self.file.fileno(), 4096)

    def environment(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(build("failmalloc")), "FAILMALLOC": self.file.name}

    def __getitem__(self, field: str) -> int:
        return struct.unpack_from("q", self.map, 8 * self.FIELDS.index(field))[0]

    def __setitem__(self, field: str, value: int) -> None:
        struct.pack_into("q", self.map, 8 * self.FIELDS.index(field), value)

    def watch(self, pid: int) -> None:
        """Begins to count in that process."""
        for field in ("left", "seen", "failed", "live"):
            self[field] = 0
        self["pid"] = pid

    def fail(self, nth: int) -> None:
        self["left"] = 0
        self["seen"] = self["failed"] = 0
        self["left"] = nth

    def close(self) -> None:
        self.map.close()
        self.file.close()
