"""What is measured: no proxy, the proxies that Debian has, and ours in three states.

All but `no proxy` listen at the same address and connect on to the destination. They have their own
defaults but for what the name says; HAProxy and nginx use as many threads or workers as there are
CPUs.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from testbed.netns.topology import DESTINATION_ADDRESS, PROXY_SOURCE_ADDRESS

from .network import PORT, Network, Unmeasured, running
from .processes import Usage, usage

READY_WITHIN_S = 20.0
ASKED_EVERY_S = 0.01
LISTEN = f"{PROXY_SOURCE_ADDRESS}:{PORT}"
UPSTREAM = f"{DESTINATION_ADDRESS}:{PORT}"
NGINX_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")

HAPROXY = """\
defaults
  mode tcp
  timeout connect 10s
  timeout client 1h
  timeout server 1h
listen migration
  bind {listen}
{options}  server destination {upstream}
"""
SPLICE = "".join(
    f"  option {option}\n" for option in ("splice-auto", "splice-request", "splice-response")
)
NGINX = """\
load_module {module};
daemon off;
pid {folder}/nginx.pid;
worker_processes auto;
user root;
events {{ worker_connections 8192; }}
stream {{ server {{ listen {listen} backlog=4096; proxy_pass {upstream}; }} }}
"""
ARMED = """\
faults:
  - name: later
    at: {section: "*/virtio-net", kind: full}
    do: reset
"""
"""A trigger that waits for a section which none of the streams here has."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Something on the way from the source to the destination; `command` makes its command line.

    `command` is told a folder for its files; None: nothing is there, the namespace routes.
    """

    name: str
    command: Callable[[Path], Sequence[str]] | None = None
    package: str = ""  # of Debian
    needs: Path | None = None  # a file without which it does not work

    @property
    def address(self) -> str:
        """Where the source connects to; the port is `PORT`."""
        return DESTINATION_ADDRESS if self.command is None else PROXY_SOURCE_ADDRESS

    def missing(self) -> str | None:
        """Say how to get it, if it is not there."""
        if not self.package:
            return None
        program = self.package.partition("-")[0].split()[0]
        if shutil.which(program) and (self.needs is None or self.needs.exists()):
            return None
        return f"missing; on Debian: apt-get install {self.package}"


class Started:
    """A peer that runs."""

    def __init__(self, peer: Peer, pid: int | None) -> None:
        self.peer = peer
        self.pid = pid

    def usage(self) -> Usage:
        """What it has used until now; nothing of no proxy."""
        return Usage(0.0, 0, 0) if self.pid is None else usage(self.pid)


@asynccontextmanager
async def started(peer: Peer, net: Network, folder: Path) -> AsyncIterator[Started]:
    """Run a peer in the middle of the network, once it listens.

    Raises:
        Unmeasured: it ended, or did not listen in time.
    """
    if peer.command is None:
        yield Started(peer, None)
        return
    said = folder / "said"
    with _emptied(said) as file:
        async with running(net.proxy, peer.command(folder), said=file) as process:
            bound = time.monotonic() + READY_WITHIN_S
            # A connection to try it would reach the destination: the kernel is asked.
            while not (ready := net.listens(PROXY_SOURCE_ADDRESS, PORT)):
                if process.returncode is not None or time.monotonic() > bound:
                    break
                await asyncio.sleep(ASKED_EVERY_S)
            if not ready:
                raise Unmeasured(f"{peer.name} does not listen at {LISTEN}:\n{_text(said)}")
            yield Started(peer, process.pid)


def _emptied(path: Path) -> IO[bytes]:
    return path.open("wb")


def _text(path: Path) -> str:
    return path.read_text(errors="replace").strip()


def _socat(*options: str) -> Callable[[Path], Sequence[str]]:
    listen = f"TCP-LISTEN:{PORT},bind={PROXY_SOURCE_ADDRESS},fork,reuseaddr,backlog=4096"
    # A direction that has ended must not end the other one after half a second.
    return lambda _folder: ("socat", "-t", "600", *options, listen, f"TCP:{UPSTREAM}")


def _haproxy(options: str) -> Callable[[Path], Sequence[str]]:
    def command(folder: Path) -> Sequence[str]:
        file = folder / "haproxy.cfg"
        file.write_text(HAPROXY.format(listen=LISTEN, upstream=UPSTREAM, options=options))
        return "haproxy", "-db", "-q", "-f", str(file)

    return command


def _nginx(folder: Path) -> Sequence[str]:
    file = folder / "nginx.conf"
    module = NGINX_MODULE
    file.write_text(NGINX.format(folder=folder, listen=LISTEN, upstream=UPSTREAM, module=module))
    return "nginx", "-p", str(folder), "-e", "stderr", "-c", str(file)


def _ours(*options: str, faults: str = "") -> Callable[[Path], Sequence[str]]:
    def command(folder: Path) -> Sequence[str]:
        command = [sys.executable, "-m", "testbed", "proxy"]
        command += ["--listen", LISTEN, "--upstream", UPSTREAM, *options]
        if faults:
            file = folder / "faults.yaml"
            file.write_text(faults)
            command += ["--faults", str(file)]
        return command

    return command


DIRECT = Peer("no proxy")
HAPROXY_PLAIN = Peer("haproxy", _haproxy(""), "haproxy")
HAPROXY_SPLICE = Peer("haproxy, splice", _haproxy(SPLICE), "haproxy")
ARMED_PEER = Peer("ours, armed", _ours(faults=ARMED))
WATCHED = Peer("ours, watched", _ours())
PASSING = Peer("ours, passing", _ours("--unread"))
OURS = (ARMED_PEER, WATCHED, PASSING)
PEERS = (
    DIRECT,
    Peer("socat", _socat(), "socat"),
    Peer("socat -b 65536", _socat("-b", "65536"), "socat"),
    HAPROXY_PLAIN,
    HAPROXY_SPLICE,
    Peer("nginx", _nginx, "nginx-light libnginx-mod-stream", NGINX_MODULE),
    *OURS,
)
