# SPDX-License-Identifier: ISC
"""Medians, ratios and tables of what the rounds measured."""
from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from math import comb
from pathlib import Path

from measure import HANDSHAKES, REQUESTS, SAME_START, SIDES, VARIANTS, Bench, Cell, fingerprint

TITLES = {
    "ours": "this module",
    "peer": "the distribution's module",
    "tcp": "plain TCP in SER",
    "floor": "bare OpenSSL server",
    "floor-tcp": "the same without TLS",
}
MEMORY = ("shm_real_used", "pss_without_files")


def command_line(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except OSError:
        return ""
    return (done.stdout.splitlines() or [""])[0].strip()


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def values(cell: Cell | None, what: str) -> list[float | None]:
    return [r.get(what) if r else None for r in cell.rounds] if cell else []


def middle(numbers: list[float | None]) -> dict | None:
    """Median and quartiles, or None when there is any round without a number."""
    known = [n for n in numbers if n is not None]
    if not known or len(known) < len(numbers):
        return None
    cuts = statistics.quantiles(known, n=4, method="inclusive") if len(known) > 1 else known * 3
    return {"low": cuts[0], "median": cuts[1], "high": cuts[2]}


def interval(ratios: dict[int, float], same_start: int) -> tuple[float, float] | None:
    """Of the median, with 95% at least, whatever the distribution (sign test); None with too few starts.

    It is made of the starts' medians, since rounds of one start resemble each other. ratios: by the number of the
    round; same_start: rounds that one start of the servers serves.
    """
    starts: dict[int, list[float]] = {}
    for number, value in ratios.items():
        starts.setdefault(number // same_start, []).append(value)
    medians, count = sorted(map(statistics.median, starts.values())), len(starts)
    outside = 0  # that many on either side may be left out
    while sum(comb(count, k) for k in range(outside + 1)) / 2 ** count <= 0.025:
        outside += 1
    return (medians[outside - 1], medians[-outside]) if outside else None


def ratio(above: list[float | None], *below: list[float | None], same_start: int = SAME_START) -> dict | None:
    """Median of the rounds' ratios; rounds that lack a part are left out, and counted by "rounds"."""
    rows = enumerate(zip(above, *below))
    found = {n: r[0] / sum(r[1:]) for n, r in rows if None not in r and sum(r[1:]) > 0}
    if not found:
        return None
    return dict(middle(list(found.values())), interval=interval(found, same_start), rounds=len(found))


def difference(above: list[float | None], below: list[float | None]) -> dict | None:
    found = [a - b for a, b in zip(above, below) if a is not None and b is not None]
    if not found:
        return None
    return dict(middle(found), rounds=len(found))


class Maker:
    """Turns a run's cells into the lines that are printed and stored."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.lines: list[dict] = []

    def get(self, quantity: str, variant: str, side: str, what: str = "us") -> list[float | None]:
        return values(self.bench.cells.get((quantity, variant, side)), what)

    def line(self, name: str, found: dict | None, target: str, unit: str = "") -> None:
        self.lines.append({"name": name, "value": found, "target": target, "unit": unit})

    def handshakes(self) -> None:
        for v in HANDSHAKES:
            tls, parts = v[:7], {s: self.get("connection", v, s) for s in SIDES}
            both = (parts["floor"], parts["tcp"])
            self.line(f"{tls} handshake: this module / (floor + plain TCP)", ratio(parts["ours"], *both), "<= 1.00")
            self.line(f"{tls} handshake: peer / (floor + plain TCP)", ratio(parts["peer"], *both), "")
            net = [a - b if a and b else None for a, b in zip(parts["floor"], parts["floor-tcp"])]
            self.line(f"{tls} handshake: this module / (floor's TLS alone + plain TCP)",
                      ratio(parts["ours"], net, parts["tcp"]), "")
            self.line(f"{tls} handshake: this module / peer", ratio(parts["ours"], parts["peer"]), "")

    def requests(self) -> None:
        for v in REQUESTS:
            parts = {s: self.get("request", v, s) for s in SIDES}
            self.line(f"{v} request: this module / plain TCP", ratio(parts["ours"], parts["tcp"]), "<= 1.05")
            self.line(f"{v} request: peer / plain TCP", ratio(parts["peer"], parts["tcp"]), "")
            self.line(f"{v} request: this module / peer", ratio(parts["ours"], parts["peer"]), "")

    def memory(self) -> None:
        v = HANDSHAKES[0]
        for what, name, target in ((MEMORY[0], "shared memory", "<= 1024"), (MEMORY[1], "memory in all", "<= 2048")):
            parts = {s: self.get("idle", v, s, what) for s in SIDES}
            for side, wanted in (("ours", target), ("peer", "")):
                title = "this module" if side == "ours" else "peer"
                self.line(f"idle connection, {name}: {title} - plain TCP",
                          difference(parts[side], parts["tcp"]), wanted, "B")
            self.line(f"idle connection, {name}: this module / peer",
                      ratio(parts["ours"], parts["peer"], same_start=1), "")


def summary(bench: Bench) -> dict:
    maker = Maker(bench)
    maker.handshakes()
    maker.requests()
    maker.memory()
    options = bench.options
    cells = [
        {"quantity": q, "variant": v, "side": s, "rounds": c.rounds, "failures": c.failures,
         "cpu_us": middle(values(c, "us"))}
        for (q, v, s), c in bench.cells.items()
    ]
    ours = [c for c in cells if c["side"] == "ours" and c["failures"]]
    return {
        "host": {
            "processor": processor(), "processors": os.cpu_count(), "kernel": platform.release(),
            "openssl": command_line("openssl", "version"), "ser": command_line(bench.binary, "-v"),
            "load_average": os.getloadavg()[0], "seconds": round(time.time() - bench.started),
        },
        "modules": {s: {"file": path, "sha256": before, "changed_meanwhile": before != fingerprint(path)}
                    for s, (path, before) in bench.modules.items()},
        "counts": dict(
            {n: getattr(options, n) for n in ("memory_rounds", "handshakes", "requests", "idle", "readers")},
            rounds=bench.rounds,
        ),
        "variants": VARIANTS, "sides": bench.sides, "broken": bench.broken,
        "idle_cpu_us_per_s": bench.idle_us, "cells": cells, "ratios": maker.lines,
        "ours_failed": bool(ours) or "ours" in bench.broken,
    }


def write_json(result: dict, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def cell_text(result: dict, quantity: str, variant: str, side: str, what: str, digits: int) -> str:
    """A number, or why there is none: a side that died in any round gets no number."""
    if side in result["broken"]:
        return "not run"
    for c in result["cells"]:
        if (c["quantity"], c["variant"], c["side"]) == (quantity, variant, side):
            found = middle([r.get(what) if r else None for r in c["rounds"]])
            if found:
                return f"{found['median']:,.{digits}f}"
            bad = sum(r is None for r in c["rounds"])
            return f"failed {bad}/{len(c['rounds'])}" if bad else "-"
    return "-"


def print_table(result: dict, title: str, columns: list[tuple[str, str, str, str, int]]) -> None:
    print(f"\n{title}")
    print(f"  {'':26}" + "".join(f"{head:>18}" for head, *_ in columns))
    for side in result["sides"]:
        texts = [cell_text(result, q, v, side, what, digits) for _, q, v, what, digits in columns]
        print(f"  {TITLES[side]:26}" + "".join(f"{t:>18}" for t in texts))


def print_caveats(result: dict) -> None:
    for side, module in result["modules"].items():
        if module["changed_meanwhile"]:
            print(f"\n{TITLES[side]}: its file changed during the run, the numbers are of more than one build")
    seen = [(s, "does not start: " + why) for s, why in result["broken"].items()]
    for c in result["cells"]:
        seen += [(c["side"], f"{c['quantity']}, {c['variant']}: {text}") for text in c["failures"]]
    if seen:
        print("\nWithout a number")
    for side, text in seen:
        print(f"  {TITLES[side]}: {text}")


def print_head(result: dict) -> None:
    host, counts = result["host"], result["counts"]
    print(f"{host['processors']} x {host['processor']}, {host['openssl']}; {host['ser']}")
    print(f"{counts['readers']} TCP reader(s), ECDSA P-256, X25519; {host['seconds']} s, "
          f"load average {host['load_average']:.1f}.")


def print_tables(result: dict) -> None:
    counts = result["counts"]
    print(f"Medians of {counts['rounds']} interleaved rounds ({counts['memory_rounds']} for memory); "
          f"servers start anew every {SAME_START} rounds.")
    print("95% interval: of the median, by how the starts differ (sign test); it takes six starts at least.")
    print_table(result, "Server CPU per connection: connect, full handshake, one request, close (us)",
                [(v[:7], "connection", v, "us", 1) for v in HANDSHAKES])
    print_table(result, "Server CPU per request over kept connections (us)",
                [(v, "request", v, "us", 2) for v in REQUESTS])
    v = HANDSHAKES[0]
    print_table(result, f"Memory per idle connection after one request, {v} (bytes)",
                [("shared memory", "idle", v, MEMORY[0], 0), ("in all (PSS)", "idle", v, MEMORY[1], 0)])
    print(f"\n{'Ratios':68}{'median':>9}{'95% interval':>18}{'quartiles':>18}  target")
    for line in result["ratios"]:
        found, digits = line["value"], 0 if line["unit"] else 3
        if not found:
            print(f"  {line['name']:66}{'-':>9}{'':>36}  {line['target']}")
            continue
        spread = f"{found['low']:,.{digits}f} .. {found['high']:,.{digits}f}"
        limits = "{:.3f} .. {:.3f}".format(*found["interval"]) if found.get("interval") else ""
        print(f"  {line['name']:66}{found['median']:>9,.{digits}f}{limits:>18}{spread:>18}  {line['target']}")
    print_caveats(result)
