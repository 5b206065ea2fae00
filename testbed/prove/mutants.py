"""A scenario without one of the things by which it disturbs a migration, for each of them.

A fault is whatever a scenario does beyond having both sides migrate: a fault of its list, a fault
on announcements, a toxic, what one side's machine has otherwise than the other's, a `cancel`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from testbed.scenario import schema
from testbed.scenario.network import Announce, ShareOf
from testbed.scenario.scenario import Scenario

KeyPath = tuple[str | int, ...]
Update = dict[str, Any]
MACHINE = ("machine", "devices", "arguments")


@dataclass(frozen=True, slots=True)
class Mutant:
    """A scenario without one fault: `without` names it, `where` is its file:line:column."""

    without: str
    where: str
    scenario: Scenario


def mutants(scenario: Scenario) -> Iterator[Mutant]:
    """Every scenario that lacks one fault of this one; none if it has no fault."""
    for number, fault in enumerate(scenario.faults):
        faults = scenario.faults[:number] + scenario.faults[number + 1 :]
        written = [*scenario.model.faults]
        del written[number]
        lacking = _changed(scenario, {"faults": written})
        variants = tuple(
            replace(each, scenario=replace(each.scenario, faults=faults))
            for each in lacking.variants
        )
        yield Mutant(
            fault.name,
            scenario.where(("faults", number)),
            replace(lacking, faults=faults, variants=variants),
        )
    for without, at, update in _updates(scenario.model):
        yield Mutant(without, scenario.where(at), _changed(scenario, update))
    yield from _without_cancel(scenario)


def _changed(scenario: Scenario, update: Update) -> Scenario:
    """The scenario, under each of its variants as well, with other values of some keys."""

    def change(each: Scenario) -> Scenario:
        return replace(each, model=each.model.model_copy(update=update))

    variants = tuple(replace(each, scenario=change(each.scenario)) for each in scenario.variants)
    return replace(change(scenario), variants=variants)


def _updates(model: schema.ScenarioModel) -> Iterator[tuple[str, KeyPath, Update]]:
    """What has no place in the list of faults: its name, where it is, what is without it."""
    network = model.network
    update: Update
    for without, at, announce in _announcements(network.announce):
        update = {"network": network.model_copy(update={"announce": announce})}
        yield without, ("network", "announce", *at), update
    if network.link_up is not None:
        update = {"network": network.model_copy(update={"link_up": None})}
        yield "link_up", ("network", "link_up"), update
    if model.toxiproxy is not None:
        for number, toxic in enumerate(model.toxiproxy.toxics):
            toxics = [*model.toxiproxy.toxics]
            del toxics[number]
            update = {"toxiproxy": model.toxiproxy.model_copy(update={"toxics": toxics})}
            name = toxic.name or f"{toxic.type}_{toxic.stream}"
            yield f"the toxic {name}", ("toxiproxy", "toxics", number), update
    for side in ("source", "destination"):
        machine: schema.SideMachine = getattr(model, side)
        for key in MACHINE:
            if getattr(machine, key) is not None:
                update = {side: machine.model_copy(update={key: None})}
                yield f"the {side}'s own {key}", (side, key), update


def _announcements(announce: Announce) -> Iterator[tuple[str, KeyPath, Announce]]:
    drop = announce.drop
    if isinstance(drop, str | ShareOf):
        share = f"a share of {drop.share * 100:.10g}%" if isinstance(drop, ShareOf) else "all"
        yield f"drop {share}", ("drop",), announce.model_copy(update={"drop": []})
    else:
        for index, dropped in enumerate(drop):
            others = [each for each in drop if each != dropped]
            yield f"drop {dropped}", ("drop", index), announce.model_copy(update={"drop": others})
    for key, nth, at, rest in _numbered(announce):
        yield f"{key} {nth}", (key, at), announce.model_copy(update={key: rest})
    for number, forged in enumerate(announce.forge):
        forge = [*announce.forge]
        del forge[number]
        without = f"forge {number + 1}, at the {forged.port}'s port"
        yield without, ("forge", number), announce.model_copy(update={"forge": forge})


def _numbered(announce: Announce) -> Iterator[tuple[str, str | int, str | int, Any]]:
    """Each entry of what is stated by numbers: key, number, where it is, the others of its key."""
    for nth, delay_s in announce.delay.items():
        if delay_s:  # none is an exception from `all`, and does nothing
            yield "delay", nth, nth, _all_but(announce.delay, nth)
    duplicate = announce.duplicate
    if isinstance(duplicate, dict):
        yield from (("duplicate", nth, nth, _all_but(duplicate, nth)) for nth in duplicate)
    else:
        for index, nth in enumerate(duplicate):
            yield "duplicate", nth, index, [each for each in duplicate if each != nth]
    for nth in announce.alter:
        yield "alter", nth, nth, _all_but(announce.alter, nth)


def _all_but(table: Mapping[str | int, Any], nth: str | int) -> dict[str | int, Any]:
    return {each: value for each, value in table.items() if each != nth}


def _without_cancel(scenario: Scenario) -> Iterator[Mutant]:
    """The scenario whose steps have no `cancel`, if they have one."""
    written = scenario.model.steps or []
    at = next((number for number, step in enumerate(written) if step.cancel is not None), None)
    if at is None:
        return
    change = _without_step("cancel")
    variants = tuple(replace(each, scenario=change(each.scenario)) for each in scenario.variants)
    yield Mutant(
        "cancel", scenario.where(("steps", at)), replace(change(scenario), variants=variants)
    )


def _without_step(name: str) -> Callable[[Scenario], Scenario]:
    def change(scenario: Scenario) -> Scenario:
        steps = [step for step in scenario.model.steps or [] if step.name != name]
        return replace(scenario, model=scenario.model.model_copy(update={"steps": steps}))

    return change
