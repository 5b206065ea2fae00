"""All proxies of the control server. What a request asks for is done whole, or not at all."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from testbed.log import Log
from testbed.proxy.address import AddressError, parse_address

from . import errors
from .body import Fields
from .own import Opens, OwnProxied
from .proxied import Proxied
from .toxics import Toxic, check_name

PROXIES_MAX = 256
ANYWHERE = "127.0.0.1:0"
"""Where a proxy listens that says nothing of it: not where everybody can reach it."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A proxy that a body asks for."""

    name: str
    listen: str
    upstream: str
    enabled: bool | None
    toxics: tuple[Toxic, ...]

    @classmethod
    def parse(cls, value: Any, path: str = "", number: str = "") -> Wanted:
        """What a body says.

        Args:
            value: the body, or one of its items.
            path: of the item.
            number: ` at proxy N`, for Toxiproxy's words.

        Raises:
            ApiError: 400.
        """
        fields = Fields(value, path)
        name, upstream = fields.text("name"), fields.text("upstream")
        if not name:
            raise errors.missing(f"name{number}")
        if not upstream:
            raise errors.missing(f"upstream{number}")
        check_name(name, path)
        at = f"{path}." if path else ""
        toxics = tuple(
            Toxic.parse(each, f"{at}toxics[{index}]")
            for index, each in enumerate(fields.items("toxics"))
        )
        listen = fields.text("listen") or ANYWHERE
        check_address(listen, f"{at}listen")
        check_address(upstream, f"{at}upstream")
        enabled = fields.flag("enabled", True) if fields.has("enabled") else None
        return cls(name, listen, upstream, enabled, toxics)


def check_address(text: str, field: str) -> None:
    """Refuse what is no address.

    Raises:
        ApiError: 400.
    """
    try:
        parse_address(text)
    except AddressError as error:
        raise errors.bad_body(f"{field}: {error}") from error


class Collection:
    """The proxies by name.

    One change at a time: a request that changes something waits for the one before it.
    """

    def __init__(self, group: asyncio.TaskGroup, log: Log, seed: int, opens: Opens) -> None:
        self.changing = asyncio.Lock()
        self.proxies: dict[str, Proxied] = {}
        self._group = group
        self._log = log
        self._seed = seed
        self._opens = opens

    @property
    def connections(self) -> int:
        """How many are open of the proxies that the API made."""
        own = (each for each in self.proxies.values() if isinstance(each, OwnProxied))
        return sum(len(each.tally.live) for each in own)

    def get(self, name: str) -> Proxied:
        """The proxy of that name.

        Raises:
            ApiError: 404.
        """
        if name not in self.proxies:
            raise errors.no_proxy()
        return self.proxies[name]

    def add(self, proxied: Proxied) -> None:
        """Have a proxy that is there already.

        Raises:
            ApiError: 409.
        """
        if proxied.name in self.proxies:
            raise errors.proxy_exists()
        if len(self.proxies) >= PROXIES_MAX:
            raise errors.too_many("proxies", PROXIES_MAX)
        self.proxies[proxied.name] = proxied

    async def create(self, wanted: Wanted) -> Proxied:
        """Make a proxy with all its toxics, or nothing.

        Raises:
            ApiError: 409, 500.
        """
        proxied = self._made(wanted)
        self.add(proxied)
        try:
            if wanted.enabled is not False:
                await proxied.start()
        except BaseException:
            del self.proxies[wanted.name]
            raise
        return proxied

    async def update(self, proxied: Proxied, value: Any) -> Proxied:
        """Change where it listens, where it goes on to, and if it is enabled; or nothing.

        Raises:
            ApiError: 400, 409, 500.
        """
        fields = Fields(value)
        listen = fields.text("listen", proxied.listen) or ANYWHERE
        upstream = fields.text("upstream", proxied.upstream)
        enabled = fields.flag("enabled", proxied.enabled)
        check_address(listen, "listen")
        check_address(upstream, "upstream")
        await proxied.change(listen, upstream, enabled=enabled)
        return proxied

    async def delete(self, name: str) -> None:
        """Have it no more.

        Raises:
            ApiError: 404.
        """
        proxied = self.get(name)
        await proxied.close()
        del self.proxies[name]

    async def end(self) -> None:
        """Stop all that the API made, and let go of all else."""
        for proxied in self.proxies.values():
            await proxied.release()

    async def reset(self) -> None:
        """No toxics, and all enabled.

        Raises:
            ApiError: 500, one could not be started; the others are.
        """
        failed: list[errors.ApiError] = []
        for proxied in tuple(self.proxies.values()):
            proxied.set_toxics(())
            try:
                await proxied.start()
            except errors.ApiError as error:
                failed.append(error)
        if failed:
            raise failed[0]

    async def populate(self, all_wanted: list[Wanted]) -> list[Proxied]:
        """Have all of these, or what was there before.

        Raises:
            ApiError: 409, 500.
        """
        names = [wanted.name for wanted in all_wanted]
        if len(set(names)) < len(names):
            raise errors.proxy_exists()
        if len(self.proxies.keys() | set(names)) > PROXIES_MAX:
            raise errors.too_many("proxies", PROXIES_MAX)
        before = {name: self.proxies[name] for name in names if name in self.proxies}
        after: dict[str, Proxied] = {}
        for wanted in all_wanted:
            known = before.get(wanted.name)
            same = known is not None and await known.is_at(wanted.listen, wanted.upstream)
            if known is not None and same:
                known.check_toxics(wanted.toxics)
                after[wanted.name] = known
            else:
                after[wanted.name] = self._made(wanted)
        replaced = [one for name, one in before.items() if after[name] is not one]
        were_enabled = {name for name, one in before.items() if one.enabled}
        try:
            for one in replaced:
                await one.close()
            for wanted in all_wanted:
                await self._settle(after[wanted.name], wanted)
        except BaseException:
            await self._undo(before, after, were_enabled)
            raise
        for wanted in all_wanted:
            if wanted.toxics:
                after[wanted.name].set_toxics(wanted.toxics)
        self.proxies.update(after)
        return list(after.values())

    async def _settle(self, proxied: Proxied, wanted: Wanted) -> None:
        """Enabled or not, as it is wanted; one of which nothing is said stays as it was."""
        if wanted.enabled is False:
            await proxied.stop()
        elif wanted.enabled or self.proxies.get(wanted.name) is not proxied:
            await proxied.start()

    async def _undo(
        self, before: dict[str, Proxied], after: dict[str, Proxied], were_enabled: set[str]
    ) -> None:
        for name, one in after.items():
            if before.get(name) is not one:
                await one.stop()
        for name, one in before.items():
            if name not in were_enabled:
                await one.stop()
                continue
            await one.restore()

    def _made(self, wanted: Wanted) -> Proxied:
        proxied = OwnProxied(
            wanted.name,
            wanted.listen,
            wanted.upstream,
            seed=self._seed,
            group=self._group,
            log=self._log,
            opens=self._opens,
        )
        proxied.set_toxics(wanted.toxics)
        return proxied
