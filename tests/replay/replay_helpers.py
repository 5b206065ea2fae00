"""Recordings to replay, made of the recorded streams of real QEMUs."""

import lzma
from functools import lru_cache
from pathlib import Path

import pytest

from testbed.fault.plan import Side
from testbed.proxy.recording import FolderRecorder

DATA = Path(__file__).parents[1] / "data"
PRECOPY = DATA / "qemu7.2-precopy.c0.fwd.bin.xz"
CHUNK_BYTES = 1 << 16

KINDS = {
    "precopy": ("precopy.c0",),
    "multifd": ("multifd.c0", "multifd.c1", "multifd.c2"),
    "postcopy": ("postcopy.c0",),
    "preempt": ("preempt.c0", "preempt.c1"),
    "recover": ("recover.c0", "recover.rec.c0"),
}
"""The connections of each kind of migration, in the order in which they were opened."""


@lru_cache
def recorded(name: str, direction: str = "fwd") -> bytes:
    """What a direction of a connection of QEMU 7.2 carried."""
    path = DATA / f"qemu7.2-{name}.{direction}.bin.xz"
    return lzma.decompress(path.read_bytes()) if path.exists() else b""


def recording(folder: Path, kind: str) -> str:
    """A folder as `testbed proxy --record` writes it; all connections but a recovery come first."""
    recorder = FolderRecorder(folder, on_stopped=pytest.fail)
    connections = list(enumerate(KINDS[kind], 1))
    for number, name in connections:
        if ".rec." not in name:
            recorder.opened(number)
    for number, name in connections:
        if ".rec." in name:
            recorder.opened(number)
        data = recorded(name)
        for start in range(0, len(data), CHUNK_BYTES):
            recorder.received(number, Side.SOURCE, data[start : start + CHUNK_BYTES])
        if back := recorded(name, "ret"):
            recorder.received(number, Side.DESTINATION, back)
        recorder.ended(number, "FIN")
    recorder.close()
    return str(folder)
