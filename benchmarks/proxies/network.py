"""Three namespaces in a row: the source, the proxy between, the destination.

::

    source ----10.77.0.0/30---- proxy ----10.77.1.0/30---- destination

As in a run of the testbed (`netns/topology.py`), but for the guest's network, and that the one in
the middle routes: so the way without a proxy crosses the same links.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from testbed.netns import links
from testbed.netns.namespace import Namespace
from testbed.netns.topology import (
    DESTINATION_ADDRESS,
    PROXY_DESTINATION_ADDRESS,
    PROXY_SOURCE_ADDRESS,
    SOURCE_ADDRESS,
)

PORT = 4444
"""Of the destination, and of the peers."""
LINE_BYTES_MAX = 1 << 20
WITHIN_S = 900.0
"""For 100 GiB; what breaks is seen before."""
SETTINGS = {
    "ipv4/ip_forward": "1",
    # Thousands of connections from one address to one other.
    "ipv4/ip_local_port_range": "1024 65535",
    "ipv4/tcp_tw_reuse": "1",
    "core/somaxconn": "4096",
}
TIME_WAIT = "06"
"""Of a socket, in /proc/net/tcp."""
LISTENS = "0A"


class Unmeasured(Exception):
    """Something could not be measured: one line that says why, and what was said."""


@dataclass(frozen=True, slots=True)
class Network:
    """The three namespaces; made by `Network.create`, gone when that block ends."""

    source: Namespace
    proxy: Namespace
    destination: Namespace

    @classmethod
    @asynccontextmanager
    async def create(cls) -> AsyncIterator[Network]:
        """Build it.

        Raises:
            OSError: the environment refused a namespace.
            pyroute2.NetlinkError: it refused a link.
        """
        async with AsyncExitStack() as stack:
            net = cls(
                *[
                    await stack.enter_async_context(Namespace.create(label))
                    for label in ("source", "proxy", "destination")
                ]
            )
            await net._join()
            yield net

    async def _join(self) -> None:
        await links.veth(self.source, "migration", self.proxy, "source")
        await links.veth(self.proxy, "destination", self.destination, "migration")
        await links.address(self.source, "migration", f"{SOURCE_ADDRESS}/30")
        await links.address(self.proxy, "source", f"{PROXY_SOURCE_ADDRESS}/30")
        await links.address(self.proxy, "destination", f"{PROXY_DESTINATION_ADDRESS}/30")
        await links.address(self.destination, "migration", f"{DESTINATION_ADDRESS}/30")
        await links.route(self.source, "10.77.1.0/30", PROXY_SOURCE_ADDRESS)
        await links.route(self.destination, "10.77.0.0/30", PROXY_DESTINATION_ADDRESS)
        self._settle()

    def _settle(self) -> None:
        for namespace in (self.source, self.proxy, self.destination):
            with namespace.entered():
                for name, value in SETTINGS.items():
                    Path("/proc/sys/net", name).write_text(value)

    def sockets(self) -> int:
        """TCP sockets of the proxy's namespace, but those that listen or only wait for time."""
        return sum(state not in (LISTENS, TIME_WAIT) for _, state in self._sockets())

    def listens(self, host: str, port: int) -> bool:
        """True if somebody listens there in the proxy's namespace."""
        there = f"{int.from_bytes(map(int, host.split('.')), 'little'):08X}:{port:04X}"
        return (there, LISTENS) in self._sockets()

    def arrived_bytes(self) -> int:
        """Bytes of frames that the destination has got so far."""
        with self.destination.entered():
            lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
        found = [line.partition(":")[2].split() for line in lines if "migration:" in line]
        return int(found[0][0])

    def _sockets(self) -> list[tuple[str, str]]:
        """Local address and state of each TCP socket there, as the kernel writes them."""
        with self.proxy.entered():
            lines = Path("/proc/thread-self/net/tcp").read_text().splitlines()[1:]
        return [(words[1], words[3]) for line in lines if (words := line.split())]


@asynccontextmanager
async def running(
    namespace: Namespace, command: Sequence[str], *, said: IO[bytes] | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a command inside; it is killed when the block ends, with all that it has started.

    Args:
        namespace: of its network.
        command: and its arguments.
        said: a file for all that it says; None: standard output is a pipe, errors are shown.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=said or asyncio.subprocess.PIPE,
        stderr=said,
        preexec_fn=namespace.enter_in_child,
        limit=LINE_BYTES_MAX,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        # The group: nginx and socat have children that would outlive them. And not `process.kill`,
        # which looks first whether it has ended, and so takes the exit status away from the event
        # loop's own watcher.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        if process.stdin is not None:
            process.stdin.close()


async def line_of(
    process: asyncio.subprocess.Process, *beside: asyncio.subprocess.Process
) -> dict[str, Any]:
    """The next line of JSON that a process says.

    Args:
        process: an end of the measured way.
        beside: other ends; when one of them fails, so does this.

    Raises:
        Unmeasured: it ended instead, an end beside it failed, or all took longer than the bound.
    """
    assert process.stdout is not None
    reading = asyncio.ensure_future(process.stdout.readline())
    endings = [asyncio.ensure_future(each.wait()) for each in beside]
    try:
        async with asyncio.timeout(WITHIN_S):
            for ending in asyncio.as_completed([reading, *endings]):
                got = await ending
                if isinstance(got, int) and got:
                    raise Unmeasured(f"an end of the measured way ended with {got}")
                if not isinstance(got, int):
                    break
    except TimeoutError:
        raise Unmeasured(f"an end of the measured way said nothing for {WITHIN_S:g} s") from None
    finally:
        for each in (reading, *endings):
            each.cancel()
    line = reading.result()
    if not line:
        raise Unmeasured(f"an end of the measured way ended with {await process.wait()}")
    facts: dict[str, Any] = json.loads(line)
    return facts
