"""A proxy that somebody else runs, such as that of a command."""

from __future__ import annotations

from testbed.fault.plan import Fault
from testbed.log import Event, Log
from testbed.proxy import Proxy
from testbed.proxy.address import parse_address

from . import errors
from .proxied import Proxied


class AdoptedProxied(Proxied):
    """One that somebody else runs, such as that of a command.

    Args:
        proxy: that runs.
        log: where it writes.
        faults: those of its engine.
    """

    def __init__(
        self, name: str, proxy: Proxy, *, seed: int, log: Log, faults: tuple[Fault, ...]
    ) -> None:
        listen, upstream = str(proxy.address), str(proxy.upstream)
        super().__init__(name, listen, upstream, seed=seed, faults=faults)
        self._proxy: Proxy = proxy
        self._enabled = True
        proxy.on_connection = self._came
        self._stop_listening = log.listen(self._of_log)

    @property
    def enabled(self) -> bool:
        """It listens, as far as we know."""
        return self._enabled

    async def start(self) -> None:
        """Have it listen again."""
        if not self._enabled:
            self._enabled = True
            self._proxy.reopen()

    async def stop(self) -> None:
        """Have it refuse connections, and reset those that are open."""
        if self._enabled:
            self._enabled = False
            self._proxy.retire()
            self._proxy.abort()

    async def change(self, listen: str, upstream: str, *, enabled: bool) -> None:
        """Have it go on to another place; where it listens stays."""
        if not await self.is_at(listen, upstream):
            if listen not in (self.listen, self.asked):
                raise errors.not_ours(self.name, "listens where it was told to")
            self._proxy.upstream = parse_address(upstream)
            self._proxy.abort()
            self.upstream = upstream
        await (self.start() if enabled else self.stop())

    async def restore(self) -> None:
        """Have it listen again."""
        await self.start()

    async def close(self) -> None:
        """Refuse: it is not ours."""
        raise errors.not_ours(self.name, "cannot be deleted; it can be disabled")

    async def release(self) -> None:
        """Leave it as it is."""
        self._stop_listening()
        self._proxy.on_connection = None

    def _of_log(self, event: Event) -> None:
        if event.actor == "proxy" and "proxy" not in event.facts:
            self._event(event)
