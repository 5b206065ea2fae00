"""What our proxy costs, beside no proxy, socat, HAProxy with and without splicing, and nginx.

In three network namespaces in a row (source, proxy, destination) each peer is started anew for each
measurement, in turn with all others, round by round. `no proxy` is the source's connection routed
by the namespace in the middle, over the same links. Ours is `testbed proxy`: `armed` with a fault
that waits for a section which never comes, `watched` with none, so that it only tells what passes.
`passing` is with `--unread`, where it does neither. Figures are
medians of the rounds, ratios medians of each round's ratio.

    throughput    a stream full of pages, from a source to a sink that copy nothing
    multifd       the same on 8 multifd channels beside the main one, all together
    memory        peak memory through a long stream, 100 GiB (5 GiB)
    postcopy      from REQ_PAGES_ID to the page, one after the other, on a connection without others
    connections   connect and close, 10,000 times (200), and what stays open
    migration     precopy, a real QEMU to a real QEMU, 1 GiB (128 MiB) of random pages under TCG

In brackets: with `--quick`.

Facts about the machine that matter: the two ends, their kernel work and the proxy share its CPUs,
so with two of them a proxy that takes less CPU is also faster, and what else runs shows (`load`
says how much did). The kernel charges what it does for a connection to whoever runs just then, so
CPU seconds count some of the ends' work, for all peers alike. What comes and goes between the
namespaces is segments of up to 64 KiB that no wire ever cuts.

usage: python benchmarks/proxy.py [PART...] [--quick] [--rounds N] [--peer NAME] [--json FILE]

As root, or where user namespaces are allowed. Peers: apt-get install socat haproxy nginx-light
libnginx-mod-stream; one that is missing is said to be. Exit status: 0, 1 if a peer that is there
failed, 3 if the system refused a namespace.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from proxies.parts import PARTS, Part, Scale
from proxies.peers import PEERS

from testbed.netns.inside import FOLDER, SandboxSide
from testbed.netns.sandbox import Sandbox, SandboxRefused

READ_BYTES = 1 << 16
QUICK_ROUNDS, FULL_ROUNDS = 1, 5
FAILED, LACKS = 1, 3
SBIN = "/usr/sbin"
"""Debian has HAProxy and nginx where only root's PATH leads."""


def main() -> int:
    """Measure in a sandbox, print, and write what came of it."""
    arguments = _arguments()
    os.environ["PATH"] += os.pathsep + SBIN
    parts = [PARTS[name] for name in arguments.parts or PARTS]
    rounds = arguments.rounds or (QUICK_ROUNDS if arguments.quick else FULL_ROUNDS)
    scale = Scale(arguments.quick, rounds, tuple(arguments.peer))

    def work(side: SandboxSide) -> int:
        found, failed = asyncio.run(_measure(parts, scale))
        side.write(json.dumps(found).encode())
        return FAILED if failed else 0

    try:
        sandbox = Sandbox.start(work)
    except SandboxRefused as refused:
        print(f"the system refused a namespace: {refused}; run as root", file=sys.stderr)
        return LACKS
    with sandbox:
        answer = b"".join(iter(lambda: os.read(sandbox.fd, READ_BYTES), b""))
        status = sandbox.wait()
        print(sandbox.failure, end="", file=sys.stderr)
    if arguments.json is not None and answer:
        arguments.json.write_text(json.dumps(json.loads(answer), indent=2) + "\n")
    return status


async def _measure(parts: Sequence[Part], scale: Scale) -> tuple[dict[str, Any], bool]:
    machine = {
        "cpus": os.cpu_count(),
        "cpu": _cpu(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }
    print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    found, failed = {}, False
    for part in parts:
        print(f"\n{part.name}: {part.title(scale)}", flush=True)
        measured = await part.measure(scale, FOLDER)
        print(measured.text, flush=True)
        found[part.name] = measured.figures
        failed |= measured.failed
    return {"machine": machine, "scale": asdict(scale), "parts": found}, failed


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if "model name" in line), "?")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="small amounts, one round")
    parser.add_argument("--rounds", type=int, help=f"{FULL_ROUNDS} if not --quick")
    names = [peer.name for peer in PEERS]
    parser.add_argument(
        "--peer", action="append", default=[], metavar="NAME", help=f"only it: {', '.join(names)}"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    arguments = parser.parse_args()
    for kind, given, known in (("part", arguments.parts, PARTS), ("peer", arguments.peer, names)):
        if unknown := sorted(set(given) - set(known)):
            parser.error(f"no {kind} {', '.join(unknown)}; there are {', '.join(known)}")
    return arguments


if __name__ == "__main__":
    raise SystemExit(main())
