"""One proxy of the API: its settings, its toxics, and the proxy itself while it is enabled."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from testbed.fault.engine import FaultEngine
from testbed.fault.plan import Fault, Side
from testbed.log import Event
from testbed.proxy import Proxy
from testbed.proxy.address import parse_address, resolve
from testbed.proxy.connection import Connection
from testbed.proxy.listener import error_text
from testbed.proxy.shaping import Stage

from . import errors
from .metrics import Tally
from .migration_fault import fault_of
from .toxics import TOXICS_MAX, Toxic

OWNER = "toxics"
"""Whose the stages are, in a connection's lines."""


@dataclass(slots=True)
class _Drawn:
    """What chance has said of one toxic on one connection: once, for as long as both last."""

    luck: float  # from 0 to 1; it acts if this is below its toxicity
    live: bool  # the connection was there before the toxic


@dataclass(slots=True)
class _Touched:
    """A connection, and what is drawn for it by the toxics' names."""

    connection: Connection
    drawn: dict[str, _Drawn] = field(default_factory=dict)


class Proxied(ABC):
    """A proxy by its name.

    Args:
        name: of the proxy.
        listen: where it listens, as somebody asked for it.
        upstream: where it goes on to.
        seed: of everything that is random in it, together with its name.
        faults: that it has besides those of toxics.
    """

    def __init__(
        self, name: str, listen: str, upstream: str, *, seed: int, faults: tuple[Fault, ...] = ()
    ) -> None:
        self.name = name
        self.listen = self.asked = listen
        self.upstream = upstream
        self.tally = Tally()
        self.toxics: list[Toxic] = []
        self._seed = seed
        self._faults = faults
        self._proxy: Proxy | None = None
        self._touched: dict[int, _Touched] = {}
        self._rearm = False

    @property
    @abstractmethod
    def enabled(self) -> bool:
        """It listens."""

    @abstractmethod
    async def start(self) -> None:
        """Listen, with what is set; nothing if it does already.

        Raises:
            ApiError: 500, with the operating system's words.
        """

    @abstractmethod
    async def stop(self) -> None:
        """Stop listening, and reset all connections; nothing if it does not listen."""

    @abstractmethod
    async def change(self, listen: str, upstream: str, *, enabled: bool) -> None:
        """Have these addresses, and listen or not. What is refused changes nothing.

        Raises:
            ApiError: 409, it may not be elsewhere; 500, with the operating system's words.
        """

    @abstractmethod
    async def restore(self) -> None:
        """Listen again after a change that failed; the log says if that cannot be."""

    @abstractmethod
    async def close(self) -> None:
        """Stop; it is not needed any more.

        Raises:
            ApiError: 409, it is.
        """

    @abstractmethod
    async def release(self) -> None:
        """The control server ends."""

    async def is_at(self, listen: str, upstream: str) -> bool:
        """True if it has those addresses, by whatever name.

        Raises:
            ApiError: 500, a name cannot be resolved.
        """
        return upstream == self.upstream and await self.listens_at(listen)

    async def listens_at(self, listen: str) -> bool:
        """True if that is where it listens, by whatever name.

        Raises:
            ApiError: 500, a name cannot be resolved.
        """
        if listen in (self.listen, self.asked):
            return True
        return not set(await _places(listen)).isdisjoint(await _places(self.listen))

    def to_json(self) -> dict[str, Any]:
        """As the API shows it."""
        return {
            "name": self.name,
            "listen": self.listen,
            "upstream": self.upstream,
            "enabled": self.enabled,
            "toxics": [toxic.to_json() for toxic in self.shown_toxics()],
        }

    # Toxics

    def toxic(self, name: str) -> Toxic:
        """The toxic of that name.

        Raises:
            ApiError: 404.
        """
        for toxic in self.toxics:
            if toxic.name == name:
                return toxic
        raise errors.no_toxic()

    def shown_toxics(self) -> list[Toxic]:
        """Those of the client's bytes first, as Toxiproxy has them."""
        return sorted(self.toxics, key=lambda toxic: toxic.toward is Side.SOURCE)

    @property
    def taken(self) -> set[str]:
        """Names that no other toxic may have."""
        return {other.name for other in self.toxics} | {fault.name for fault in self._faults}

    def add(self, toxic: Toxic) -> Toxic:
        """Have one more.

        Raises:
            ApiError: 409, its name is taken, or there are too many.
        """
        if toxic.name in self.taken:
            raise errors.toxic_exists()
        if len(self.toxics) >= TOXICS_MAX:
            raise errors.too_many("toxics", TOXICS_MAX)
        self.toxics.append(toxic)
        self._changed(toxic)
        return toxic

    def replace(self, toxic: Toxic) -> Toxic:
        """Have this one in place of the one of its name."""
        before = self.toxic(toxic.name)
        self.toxics[self.toxics.index(before)] = toxic
        if toxic != before:
            self._changed(toxic)
        return toxic

    def remove(self, name: str) -> None:
        """Have it no more.

        Raises:
            ApiError: 404.
        """
        toxic = self.toxic(name)
        self.toxics.remove(toxic)
        for touched in self._touched.values():
            touched.drawn.pop(name, None)
        self._changed(toxic)

    def check_toxics(self, toxics: Iterable[Toxic]) -> None:
        """See if it could have these, and no others.

        Raises:
            ApiError: 409, two have one name, a name is taken, or there are too many.
        """
        names = {fault.name for fault in self._faults}
        for number, toxic in enumerate(toxics):
            if toxic.name in names:
                raise errors.toxic_exists()
            if number >= TOXICS_MAX:
                raise errors.too_many("toxics", TOXICS_MAX)
            names.add(toxic.name)

    def set_toxics(self, toxics: Iterable[Toxic]) -> None:
        """Have these, and no others; see `check_toxics`."""
        for toxic in tuple(self.toxics):
            self.remove(toxic.name)
        for toxic in toxics:
            self.add(toxic)

    def _changed(self, toxic: Toxic) -> None:
        if toxic.is_fault:
            self._rearm = True
            self._arm()
        else:
            for touched in self._touched.values():
                self._touch(touched, live=True, toward=toxic.toward)

    # Connections

    def _came(self, connection: Connection) -> None:
        touched = self._touched[connection.number] = _Touched(connection)
        self.tally.came(connection)
        for toward in (Side.DESTINATION, Side.SOURCE):
            self._touch(touched, live=False, toward=toward)

    def _touch(self, touched: _Touched, *, live: bool, toward: Side) -> None:
        """Give a connection the stages that it has to have toward that side."""
        stages: list[Stage] = []
        for toxic in self.toxics:
            if toxic.toward is not toward or toxic.is_fault:
                continue
            if toxic.name not in touched.drawn:
                key = f"{self._seed} {self.name} {touched.connection.number} {toxic.name}"
                luck = random.Random(key).random()  # noqa: S311 it must be the same every time
                touched.drawn[toxic.name] = _Drawn(luck, live)
            drawn = touched.drawn[toxic.name]
            if drawn.luck < toxic.toxicity:
                stages += toxic.stages(live=drawn.live)
        touched.connection.set_stages(toward, stages, owner=OWNER)

    def _event(self, event: Event) -> None:
        """An event of the proxy, to be counted."""
        self.tally.event(event)
        if event.kind == "connection-ended":
            self._touched.pop(event.facts["connection"], None)
            self._arm()

    # Faults

    def _engine(self) -> FaultEngine:
        self._rearm = False
        ours = (fault_of(one.name, one.attributes) for one in self.toxics if one.is_fault)
        return FaultEngine((*self._faults, *ours), seed=self._seed)

    def _arm(self) -> None:
        """Have the engine that goes with the toxics: not while connections are open."""
        if self._rearm and self._proxy is not None and not self._touched:
            self._proxy.rearm(self._engine())


async def _places(address: str) -> list[Any]:
    try:
        return await resolve(parse_address(address), listen=True)
    except OSError as error:
        raise errors.failed(f"{address}: {error_text(error)}") from error
