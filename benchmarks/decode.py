"""How fast streams are read, beside QEMU's own reader of them.

Streams are recorded here and now from a real QEMU (`migrate` to `exec:cat > file`): guests of 1 and
8 GiB full of random pages, of zero pages, of both mixed page by page, and one with many devices.
Every file is in the page cache when it is read, by us and by the peer alike.

    walk      the parser alone, in this process, reading included
    decode    `testbed decode FILE`, a whole process, start-up included
    analyze   QEMU's `scripts/analyze-migration.py` (`-d state`), a whole process

usage: python benchmarks/decode.py [--analyze FILE] [--folder DIR] [--rounds N] [--small]

Without the peer there are no ratios. It is in Debian's source package of QEMU, by
`apt-get source --download-only qemu` and `tar xf qemu_*.orig.tar.xz --wildcards '*/analyze-mig*'`.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from testbed.decode.channels import SourceChannel
from testbed.decode.reading import read
from testbed.endpoint.base import MachineSpec
from testbed.endpoint.qemu import Qemu
from testbed.log import Log
from testbed.wire import MainChannel
from testbed.wire.element import RunElement

ROOT = Path(__file__).parents[1]
MIB, GIB = 1 << 20, 1 << 30
CHUNK_BYTES = 64 * MIB
PAGE_BYTES = 4096
SEED = 1
RECORDED_S = 600
SMALL = 16 * MIB
DEVICES = (
    *("virtio-net-pci", "e1000", "e1000e", "rtl8139", "VGA", "nec-usb-xhci", "ich9-ahci"),
    *("virtio-rng-pci", "virtio-balloon-pci", "virtio-serial-pci", "virtio-scsi-pci", "lsi53c895a"),
    *("usb-tablet", "usb-kbd", "AC97,audiodev=none", "intel-hda", "piix3-usb-uhci", "pcnet"),
)


@dataclass(frozen=True, slots=True)
class Took:
    """One process: wall time, peak memory."""

    seconds: float
    peak_bytes: int


def fill(path: Path, size_bytes: int, kind: str) -> None:
    """Write guest memory: `random`, `zero`, or `mixed` at random, page by page."""
    generator = np.random.default_rng(SEED)
    with path.open("wb") as file:
        file.truncate(size_bytes)
        for start in range(0, size_bytes if kind != "zero" else 0, CHUNK_BYTES):
            count = min(CHUNK_BYTES, size_bytes - start)
            data = np.frombuffer(generator.bytes(count), np.uint8).reshape(-1, PAGE_BYTES).copy()
            if kind == "mixed":
                data[generator.random(len(data)) < 0.5] = 0
            file.seek(start)
            file.write(data.tobytes())


async def record(
    folder: Path, name: str, size_bytes: int, kind: str, devices: tuple[str, ...]
) -> Path:
    """Record the stream of a stopped guest of so much memory."""
    stream = folder / f"{name}.bin"
    log = Log()
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as memory:
        fill(Path(memory.name), size_bytes, kind)
        backend = f"memory-backend-file,id=ram,size={size_bytes},mem-path={memory.name},share=on"
        machine = MachineSpec(
            machine="pc,memory-backend=ram",
            memory_bytes=size_bytes,
            accelerator="tcg",
            devices=devices,
            arguments=("-object", backend, "-audiodev", "none,id=none"),
            paused=True,
        )
        fast = {"max-bandwidth": 1 << 40}
        async with Qemu.start("source", log=log, machine=machine, parameters=fast) as source:
            await source.command("migrate", {"uri": f"exec:cat > {stream}"})
            await log.wait(
                lambda event: (
                    event.kind == "migration-status" and event.facts["status"] == "completed"
                ),
                what="the stream to be written",
                within_s=RECORDED_S,
            )
    return stream


def walk(path: Path) -> tuple[float, int]:
    """Seconds and pages of the parser alone."""
    with path.open("rb") as file:
        began = time.perf_counter()
        pages = 0
        channel = SourceChannel(str(path), path.stat().st_size, fd=file.fileno())
        for batch in read(channel, MainChannel(in_runs=True)):
            for element in batch.elements:
                if isinstance(element, RunElement):
                    pages += len(element.value.records)
        return time.perf_counter() - began, pages


PEAK = """
import os, resource, sys, time
began = time.perf_counter()
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
seconds = time.perf_counter() - began
print(seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(status)
"""
"""Runs a command from a small process: a new one's peak begins with that of who started it."""


def took(command: list[str]) -> Took:
    """Run a command whose output nobody reads."""
    wrapped = [sys.executable, "-I", "-S", "-c", PEAK, *command]
    done = subprocess.run(
        wrapped, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    seconds, peak_kib = done.stderr.splitlines()[-1].split()
    return Took(float(seconds), int(peak_kib) * 1024)


def decode(path: Path, *options: str) -> list[str]:
    """The command that decodes a file."""
    return [sys.executable, "-m", "testbed", "decode", str(path), *options]


class Table:
    """Rows of figures, printed as they come."""

    def __init__(self, rounds: int, analyze: Path | None) -> None:
        self._rounds = rounds
        self._analyze = analyze

    def walk(self, name: str, path: Path) -> None:
        """Rates of the parser alone."""
        timed = [walk(path) for _ in range(self._rounds)]
        seconds = statistics.median(each for each, _ in timed)
        pages = timed[0][1]
        size = path.stat().st_size
        row(
            name,
            "walk",
            seconds,
            f"{size / seconds / 1e9:.1f} GB/s, {pages / seconds / 1e6:.1f} M pages/s",
        )

    def whole(self, name: str, path: Path, *options: str) -> None:
        """`testbed decode` beside the peer, in turn."""
        ours, theirs = [], []
        for _ in range(self._rounds):
            ours.append(took(decode(path, *options)))
            if self._analyze is not None:
                peer = [sys.executable, str(self._analyze), "-d", "state", "-f", str(path)]
                theirs.append(took(peer))
        seconds = statistics.median(each.seconds for each in ours)
        peak = max(each.peak_bytes for each in ours) / MIB
        title = " ".join(("decode", *options))
        row(name, title, seconds, f"{peak:.0f} MiB")
        if theirs:
            peer_s = statistics.median(each.seconds for each in theirs)
            peak = max(each.peak_bytes for each in theirs) / MIB
            row(name, "analyze", peer_s, f"{peak:.0f} MiB; {peer_s / seconds:.1f} times ours")


def row(name: str, what: str, seconds: float, more: str) -> None:
    """Print a row."""
    print(f"{name:<16} {what:<16} {seconds:9.3f} s  {more}", flush=True)


def streams(small: bool) -> Iterator[tuple[str, int, str, tuple[str, ...]]]:
    """What is recorded: name, memory, its pages, devices."""
    yield "random-16MiB", SMALL, "random", ()
    yield "devices", SMALL, "zero", DEVICES
    yield "mixed-1GiB", SMALL if small else GIB, "mixed", ()
    yield "zero-8GiB", SMALL if small else 8 * GIB, "zero", ()
    yield "random-1GiB", SMALL if small else GIB, "random", ()
    if not small:
        yield "random-8GiB", 8 * GIB, "random", ()


def main() -> None:
    """Record, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--analyze", type=Path, help="QEMU's scripts/analyze-migration.py")
    parser.add_argument("--folder", type=Path, help="of the streams; 10 GB are written there")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="16 MiB guests, to see that it works")
    arguments = parser.parse_args()
    table = Table(arguments.rounds, arguments.analyze)
    help_s = statistics.median(
        took([*decode(Path("x"))[:-1], "--help"]).seconds for _ in range(arguments.rounds)
    )
    row("-", "decode --help", help_s, "")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for name, size_bytes, kind, devices in streams(arguments.small):
            path = asyncio.run(record(Path(folder), name, size_bytes, kind, devices))
            if name == "devices":
                table.whole(name, path, "--fields")
            else:
                table.walk(name, path)
                table.whole(name, path)
            path.unlink()


if __name__ == "__main__":
    main()
