"""What an endpoint still holds of a migration that is over: sockets of its connections.

Linux `proc(5)`: `/proc/PID/fd` names the inode of each socket, `/proc/PID/net/tcp` its state.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

CONNECTED = {"01": "ESTABLISHED", "08": "CLOSE_WAIT"}
"""States of a TCP socket whose process has not given it up (`include/net/tcp_states.h`)."""


def open_connections(pid: int) -> list[str]:
    """Return the TCP connections that a process holds open, as `LOCAL to REMOTE STATE`.

    Addresses are as the kernel prints them, hexadecimal. A process that has ended has none.
    """
    inodes = set()
    with suppress(OSError):  # it ends meanwhile
        for fd in os.scandir(f"/proc/{pid}/fd"):
            with suppress(OSError):  # closed meanwhile
                target = os.readlink(fd.path)
                if target.startswith("socket:["):
                    inodes.add(target[len("socket:[") : -1])
    found = []
    for table in ("tcp", "tcp6"):
        with suppress(OSError):  # it ends meanwhile, or the kernel has no IPv6
            for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                words = line.split()
                local, remote, state, inode = words[1], words[2], words[3], words[9]
                if inode in inodes and state in CONNECTED:
                    found.append(f"{local} to {remote} {CONNECTED[state]}")
    return found
