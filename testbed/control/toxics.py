"""Toxics as values: what a body says, what the API shows, and the stages that they are.

Types, attributes, units and defaults are those of Shopify/toxiproxy 2.12.0, `toxics/`. One type is
ours: `migration_fault`, whose attributes are a fault of the scenario language.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, replace
from typing import Any

from testbed.fault.plan import Side
from testbed.proxy.shaping import (
    Bandwidth,
    Latency,
    LimitData,
    ResetPeer,
    Slicer,
    SlowClose,
    Stage,
    Timeout,
)

from . import errors
from .body import Fields, shown
from .migration_fault import fault_of

MIGRATION_FAULT = "migration_fault"
TOXICS_MAX = 64
"""Of one proxy."""
NAME_CHARACTERS_MAX = 200

ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "latency": ("latency", "jitter"),
    "bandwidth": ("rate",),
    "slow_close": ("delay",),
    "timeout": ("timeout",),
    "reset_peer": ("timeout",),
    "slicer": ("average_size", "size_variation", "delay"),
    "limit_data": ("bytes",),
    "noop": (),
}
"""By type, all whole numbers, 0 where nothing is said."""

TOWARD = {"upstream": Side.DESTINATION, "downstream": Side.SOURCE}
"""Which side bytes go to, by stream: the client is the source, the server the destination."""


@dataclass(frozen=True, slots=True)
class Toxic:
    """One toxic of a proxy."""

    name: str
    type: str
    stream: str
    toxicity: float
    attributes: Mapping[str, Any]

    @classmethod
    def parse(cls, value: Any, path: str = "", *, taken: Container[str] = ()) -> Toxic:
        """What the body of a request that adds a toxic says.

        Args:
            value: the body, or a part of it.
            path: of the part.
            taken: names that it may not have.

        Raises:
            ApiError: 400, with the field that is wrong; 409, its name is taken.
        """
        fields = Fields(value, path)
        kind, stream = fields.text("type"), fields.text("stream", "downstream")
        toxicity, said = fields.number("toxicity", 1), fields.mapping("attributes")
        name = fields.text("name")
        if stream.lower() not in TOWARD:
            raise errors.invalid_stream()
        if kind not in ATTRIBUTES and kind != MIGRATION_FAULT:
            raise errors.invalid_type()
        name = name or f"{kind}_{stream}"
        check_name(name, path)
        if name in taken:
            raise errors.toxic_exists()
        toxic = cls(name, kind, stream, toxicity, {})
        return replace(toxic, attributes=toxic._attributes(said, path)).checked(path)

    def updated(self, value: Any) -> Toxic:
        """With what the body of an update says: attributes and toxicity, each if it is there.

        Raises:
            ApiError: 400, with the field that is wrong.
        """
        fields = Fields(value)
        toxicity, said = fields.number("toxicity", self.toxicity), fields.mapping("attributes")
        return replace(self, toxicity=toxicity, attributes=self._attributes(said)).checked()

    def to_json(self) -> dict[str, Any]:
        """As the API shows it."""
        return {
            "attributes": dict(self.attributes),
            "name": self.name,
            "type": self.type,
            "stream": self.stream,
            "toxicity": self.toxicity,
        }

    @property
    def toward(self) -> Side:
        """The side that what it touches goes to."""
        return TOWARD[self.stream.lower()]

    @property
    def is_fault(self) -> bool:
        """It is the fault engine's, and no stage."""
        return self.type == MIGRATION_FAULT

    def stages(self, *, live: bool) -> list[Stage]:
        """What it is in a line; nothing for one that leaves all as it is.

        Args:
            live: it came to a connection that was there before.
        """
        stage = STAGES.get(self.type)
        return [] if stage is None else [stage(self, live)]

    def _attributes(self, said: Mapping[str, Any], path: str = "") -> Mapping[str, Any]:
        """Those that it has, with what is said over them."""
        if self.is_fault:
            return {**self.attributes, **said}
        fields = Fields(said, _under(path, "attributes"))
        return {
            name: fields.integer(name, self.attributes.get(name, 0))
            for name in ATTRIBUTES[self.type]
        }

    def checked(self, path: str = "") -> Toxic:
        """This one, if it makes sense; `path` is where in the body it stands.

        Raises:
            ApiError: 400, it does not.
        """
        if self.is_fault:
            if self.toxicity != 1:
                why = f"expected 1 for a {MIGRATION_FAULT}, got {shown(self.toxicity)}"
                raise errors.bad_body(
                    f"{_under(path, 'toxicity')}: {why}; its attribute `when` can have a `chance`"
                )
            fault_of(self.name, self.attributes, _under(path, "attributes"))
        if self.type == "slicer":
            average, variation = self._whole("average_size"), self._whole("size_variation")
            at = _under(path, "attributes")
            if average < 1:
                why = f"expected 1 or more, got {average}"
                raise errors.bad_body(f"{at}.average_size: {why}")
            if not 0 <= variation < average:
                why = f"expected 0 to {average - 1}, less than average_size, got {variation}"
                raise errors.bad_body(f"{at}.size_variation: {why}")
        return self

    def _whole(self, name: str) -> int:
        return int(self.attributes[name])

    def seconds(self, name: str, per_second: int = 1000) -> float:
        """A time that is an attribute; Toxiproxy takes one below zero for zero."""
        return self.amount(name) / per_second

    def amount(self, name: str) -> int:
        """A number that is an attribute, none below zero."""
        return max(0, self._whole(name))


def _under(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def check_name(name: str, path: str) -> None:
    """Refuse a name that would spoil an address or a log.

    Raises:
        ApiError: 400.
    """
    if len(name) > NAME_CHARACTERS_MAX or not name.isprintable():
        where = _under(path, "name")
        what = f"a text of at most {NAME_CHARACTERS_MAX} printable characters"
        raise errors.bad_body(f"{where}: expected {what}, got {shown(name)}")


def _latency(toxic: Toxic, _live: bool) -> Stage:
    delay_s, jitter_s = toxic.seconds("latency"), toxic.seconds("jitter")
    return Latency(delay_s, jitter_s, name=toxic.name)


def _bandwidth(toxic: Toxic, _live: bool) -> Stage:
    return Bandwidth(toxic.amount("rate") * 1000, name=toxic.name)


def _slow_close(toxic: Toxic, _live: bool) -> Stage:
    return SlowClose(toxic.seconds("delay"), name=toxic.name)


def _timeout(toxic: Toxic, _live: bool) -> Stage:
    return Timeout(toxic.seconds("timeout"), name=toxic.name)


def _reset_peer(toxic: Toxic, live: bool) -> Stage:
    return ResetPeer(toxic.seconds("timeout"), awaits_bytes=not live, name=toxic.name)


def _slicer(toxic: Toxic, _live: bool) -> Stage:
    average, variation = toxic.amount("average_size"), toxic.amount("size_variation")
    return Slicer(average, variation, toxic.seconds("delay", 1_000_000), name=toxic.name)


def _limit_data(toxic: Toxic, _live: bool) -> Stage:
    return LimitData(toxic.amount("bytes"), name=toxic.name)


STAGES: Mapping[str, Callable[[Toxic, bool], Stage]] = {
    "latency": _latency,
    "bandwidth": _bandwidth,
    "slow_close": _slow_close,
    "timeout": _timeout,
    "reset_peer": _reset_peer,
    "slicer": _slicer,
    "limit_data": _limit_data,
}
