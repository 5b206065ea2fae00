"""Our proxy with nothing armed and nothing watched: `passing.py LISTEN UPSTREAM`, until killed.

`testbed proxy` tells what passes, so it always looks; a program that asks the proxy for nothing
gets this.
"""

from __future__ import annotations

import asyncio
import sys

from testbed.fault.engine import FaultEngine
from testbed.log import Log
from testbed.proxy import Proxy
from testbed.proxy.address import parse_address


async def main(listen: str, upstream: str) -> None:
    """Pass connections on, for good."""
    async with Proxy.start(
        listen=parse_address(listen),
        upstream=parse_address(upstream),
        engine=FaultEngine((), watched=False),
        log=Log(keeps=False),
    ):
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
