"""What processes use, by /proc: CPU, peak memory, descriptors."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
UTIME = 11
"""Where utime, stime, cutime and cstime begin in /proc/PID/stat, behind the name (proc(5))."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Of a process and all below it."""

    cpu_s: float  # in user mode and in the kernel, of children that ended too
    peak_bytes: int  # the sum of their peaks of resident memory
    descriptors: int


def usage(pid: int) -> Usage:
    """What a process and all below it have used so far, and have open now."""
    cpu_s, peak_bytes, descriptors = 0.0, 0, 0
    for each in (pid, *_descendants(pid)):
        folder = Path("/proc", str(each))
        try:
            times = (folder / "stat").read_text().rpartition(")")[2].split()[UTIME : UTIME + 4]
            peak_bytes += _peak_bytes((folder / "status").read_text())
            descriptors += len(os.listdir(folder / "fd"))
        except OSError:  # it ended meanwhile
            continue
        cpu_s += sum(map(int, times)) / TICKS_PER_S
    return Usage(cpu_s, peak_bytes, descriptors)


def _descendants(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [each for child in text.split() for each in (int(child), *_descendants(int(child)))]


def _peak_bytes(status: str) -> int:
    lines = (line.split() for line in status.splitlines())
    return next((int(words[1]) * 1024 for words in lines if words[0] == "VmHWM:"), 0)
