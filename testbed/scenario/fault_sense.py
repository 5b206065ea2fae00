"""What a list of faults may say word by word, and still makes no sense, in any migration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from testbed.fault import plan
from testbed.fault.engine import validate_fault

from . import actions, places
from .model import Model, did_you_mean
from .strikes import FaultModel

KeyPath = tuple[str | int, ...]
Finding = tuple[KeyPath, str]
ONE_OF_TWO: Mapping[type[Model], tuple[str, str, str]] = {
    places.PageAt: ("page", "page_record", "`page` (by its number), or `page_record` (the nth)"),
    places.BlockAt: ("passed", "share", "`passed` (bytes), or `share` (of its pages)"),
    places.StateAt: ("state", "event", "`state` (a migration status), or `event`"),
}


def places_of(written: FaultModel) -> Iterator[tuple[KeyPath, Model]]:
    """Every place that a fault speaks of, with the path of keys to it."""
    yield ("at",), written.at
    for number, at in enumerate(written.when.reached or ()):
        yield ("when", "reached", number), at
    if written.when.until is not None:
        yield ("when", "until"), written.when.until
    if isinstance(written.do, actions.ReplayIt):
        yield ("do", "replay"), written.do.replay


def fault_problems(faults: Sequence[plan.Fault], models: Sequence[FaultModel]) -> Iterator[Finding]:
    """Every impossible fault or combination, with the path of keys from the list on.

    Args:
        faults: as planned.
        models: the same ones, as they are written.
    """
    by_name: dict[str, plan.Fault] = {}
    for number, (fault, written) in enumerate(zip(faults, models, strict=True)):
        if fault.name in by_name:
            yield (number, "name"), f"another fault is named {fault.name!r} already"
        by_name.setdefault(fault.name, fault)
        yield from (((number, *at), why) for at, why in _fault(fault, written))
    for number, fault in enumerate(faults):
        at = (number, "when", "after")
        yield from ((at, why) for why in _order(fault, by_name))
        if isinstance(fault.action, plan.Restore) and not any(map(_shapes, faults)):
            why = "nothing to restore: no fault changes rate or time (latency, bandwidth, slice)"
            yield (number, "do"), why


def _fault(fault: plan.Fault, written: FaultModel) -> Iterator[Finding]:
    unclear = [
        (at, f"say which: {words}")
        for at, place in places_of(written)
        if type(place) in ONE_OF_TWO
        for one, other, words in [ONE_OF_TWO[type(place)]]
        if (getattr(place, one) is None) == (getattr(place, other) is None)
    ]
    yield from unclear
    nonsense = validate_fault(fault)
    if nonsense and not unclear:
        yield (), nonsense
    if written.when.until is not None and written.when.until in (written.when.reached or ()):
        yield ("when", "until"), "it is among `reached`: this can never hold"


def _order(fault: plan.Fault, by_name: Mapping[str, plan.Fault]) -> Iterator[str]:
    """What is wrong with the faults that one waits for."""
    for name in _waits_for(fault):
        other = by_name.get(name)
        if name == fault.name:
            yield "a fault cannot wait for itself"
        elif other is None:
            yield f"no fault is named {name!r}{did_you_mean(name, by_name)}"
        elif (circle := _circle(fault.name, name, by_name)) is not None:
            yield f"they wait for each other, and none ever strikes: {' -> '.join(circle)}"
        elif fault.attempt is not None and other.attempt is not None:
            if other.attempt > fault.attempt:
                yield f"{name} strikes in attempt {other.attempt}, this one in {fault.attempt}"


def _waits_for(fault: plan.Fault) -> list[str]:
    return [each.fault for each in fault.conditions if isinstance(each, plan.AfterFault)]


def _circle(start: str, through: str, by_name: Mapping[str, plan.Fault]) -> list[str] | None:
    """The names from `start` by way of `through` back to itself; None if it is no circle."""
    ways = [[start, through]]
    seen = set()
    while ways:
        way = ways.pop()
        for name in _waits_for(by_name[way[-1]]) if way[-1] in by_name else ():
            if name == start:
                return [*way, name]
            if name not in seen:
                seen.add(name)
                ways.append([*way, name])
    return None


def _shapes(fault: plan.Fault) -> bool:
    return isinstance(fault.action, plan.Latency | plan.Bandwidth | plan.Slice)
