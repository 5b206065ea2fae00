"""Kills a run at random moments, a hundred times, and counts what is left.

SIGKILL goes to the command, its guard or the run's PID 1, in turn, at a random moment between its
start and its end. Counted after each: processes, namespaces, links, mounts and named or listening
sockets of the host, files in its temporary folders; what was not there before is a leftover.

usage: python benchmarks/cleanup.py [--kills N] [--seed N]        (as root)
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
SCENARIO = "scenarios/postcopy_drop.yaml"
RUN_S = 2.5
GONE_S = 5.0
TCP_LISTEN = "0A"
FOLDERS = (Path("/tmp"), Path("/dev/shm"), Path("/run"), Path("/var/tmp"))


def children(pid: int) -> list[int]:
    """PIDs of a process's children."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(word) for word in text.split()]


def descendants(pid: int) -> list[int]:
    """PIDs of all processes below one."""
    return [each for child in children(pid) for each in (child, *descendants(child))]


def alive(pid: int) -> bool:
    """True if the process is there and no zombie of ours."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def sockets() -> set[str]:
    """Named Unix sockets and listening TCP sockets of the host."""
    unix = Path("/proc/net/unix").read_text().splitlines()[1:]
    tcp = Path("/proc/net/tcp").read_text().splitlines()[1:]
    named = {words[7] for line in unix if len(words := line.split()) > 7}
    return named | {words[1] for line in tcp if (words := line.split())[3] == TCP_LISTEN}


def census() -> dict[str, set[str]]:
    """What is on the host now."""
    namespaces = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            namespaces.add(os.readlink(process / "ns/net"))
            namespaces.add(os.readlink(process / "ns/mnt"))
        except OSError:
            continue
    return {
        "namespace": namespaces,
        "link": set(os.listdir("/sys/class/net")),
        "mount": set(Path("/proc/self/mountinfo").read_text().splitlines()),
        "socket": sockets(),
        "file": {str(path) for folder in FOLDERS if folder.is_dir() for path in folder.iterdir()},
    }


def kill_once(victim: int, after_s: float) -> tuple[str, list[int]]:
    """Start a run, kill a process of it, and return whom and all PIDs that it had."""
    command = subprocess.Popen(
        [sys.executable, "-m", "testbed", "run", SCENARIO],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(after_s)
    line = [command.pid, *descendants(command.pid)]
    target = line[min(victim, len(line) - 1)]
    name = ("command", "guard", "PID 1")[line.index(target)] if line.index(target) < 3 else "other"
    # A process forked since is a descendant too: the census of namespaces sees what it is in.
    os.kill(target, signal.SIGKILL)
    command.wait()
    return name, line


def main() -> None:
    """Kill, count, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    leftovers: Counter[str] = Counter()
    killed: Counter[str] = Counter()
    longest = 0.0
    for number in range(arguments.kills):
        before = census()
        name, pids = kill_once(number % 3, chance.uniform(0.0, RUN_S))
        killed[name] += 1
        began = time.monotonic()
        while time.monotonic() - began < GONE_S:
            left = {kind: now - before[kind] for kind, now in census().items()}
            running = [pid for pid in pids if alive(pid)]
            if not running and not any(left.values()):
                break
            time.sleep(0.01)
        longest = max(longest, time.monotonic() - began)
        for kind, names in {**left, "process": {str(pid) for pid in running}}.items():
            leftovers[kind] += len(names)
            for each in sorted(names):
                print(f"kill {number}: left {kind} {each}")
    print(
        f"seed {arguments.seed}: {sum(killed.values())} kills "
        f"({', '.join(f'{count} of {name}' for name, count in killed.items())}), "
        f"{sum(leftovers.values())} leftovers, the longest took {longest * 1000:.0f} ms to go"
    )
    raise SystemExit(bool(sum(leftovers.values())))


if __name__ == "__main__":
    main()
