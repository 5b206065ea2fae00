"""What a scenario may say word by word, and still makes no sense as a whole."""

from __future__ import annotations

from collections.abc import Iterator

from testbed.fault.engine import validate_fault
from testbed.fault.place import on_return_path

from . import schema, strikes
from .model import Model
from .scenario import Scenario

POSTCOPY_COMMANDS = (
    "POSTCOPY_ADVISE",
    "POSTCOPY_LISTEN",
    "POSTCOPY_RUN",
    "POSTCOPY_RAM_DISCARD",
    "POSTCOPY_RESUME",
    "PACKAGED",
    "RECV_BITMAP",
)
POSTCOPY_MESSAGES = ("REQ_PAGES", "REQ_PAGES_ID", "RECV_BITMAP", "RESUME_ACK")
Finding = tuple[tuple[str | int, ...], str]


def problems(scenario: Scenario) -> Iterator[Finding]:
    """Every impossible combination, with the path of keys that it shows at."""
    yield from _faults(scenario)
    yield from _steps(scenario)
    yield from _expectations(scenario)
    model = scenario.model
    if model.mode == "precopy" and model.capabilities.get("postcopy-ram"):
        yield ("capabilities", "postcopy-ram"), "the scenario's `mode` is precopy"
    if model.mode == "postcopy" and model.capabilities.get("postcopy-ram") is False:
        yield ("capabilities", "postcopy-ram"), "the scenario's `mode` is postcopy, it needs this"


def _faults(scenario: Scenario) -> Iterator[Finding]:
    model = scenario.model
    attempts = sum(step.name in ("migrate", "retry") for step in scenario.steps)
    has_return_path = model.mode == "postcopy" or scenario.capabilities.get("return-path", False)
    names: set[str] = set()
    for number, (fault, written) in enumerate(zip(scenario.faults, model.faults, strict=True)):
        at: tuple[str | int, ...] = ("faults", number)
        nonsense = validate_fault(fault)
        if nonsense:
            yield at, nonsense
        if fault.name in names:
            yield (*at, "name"), f"another fault is named {fault.name!r} already"
        names.add(fault.name)
        if fault.attempt > attempts:
            yield (*at, "attempt"), f"the steps have {attempts} attempts (migrate, retry)"
        if on_return_path(fault.place) and not has_return_path:
            why = "without the capability return-path nothing ever comes on the return path"
            yield (*at, "at"), why
        if model.mode == "precopy":
            yield from ((((*at, "at")), why) for why in _needs_postcopy(written.at))
        if isinstance(written.at, strikes.PageAt) and (
            (written.at.page is None) == (written.at.page_record is None)
        ):
            yield (*at, "at"), "say which: `page` (by its number), or `page_record` (the nth)"
        if isinstance(written.at, strikes.StateAt) and (
            (written.at.state is None) == (written.at.event is None)
        ):
            yield (*at, "at"), "say which: `state` (a migration status), or `event`"


def _needs_postcopy(at: Model) -> Iterator[str]:
    match at:
        case strikes.CommandAt(command=name) if name in POSTCOPY_COMMANDS:
            yield f"{name} never passes in a scenario whose `mode` is precopy"
        case strikes.MessageAt(message=name) if name in POSTCOPY_MESSAGES:
            yield f"{name} never comes in a scenario whose `mode` is precopy"
        case strikes.PageAt(phase="postcopy"):
            yield "there is no postcopy phase in a scenario whose `mode` is precopy"


def _steps(scenario: Scenario) -> Iterator[Finding]:
    names = [step.name for step in scenario.steps]
    migrating = False
    for number, name in enumerate(names):
        at = ("steps", number)
        if scenario.model.mode == "precopy" and name in ("start_postcopy", "recover"):
            yield at, f"{name} needs a scenario whose `mode` is postcopy"
        if name == "migrate" and migrating:
            yield at, "a scenario migrates once; a second attempt is `retry`"
        if name in ("wait", "recover", "retry", "cancel", "start_postcopy") and not migrating:
            yield at, f"{name} comes before `migrate`"
        migrating = migrating or name == "migrate"
    if not migrating:
        yield ("steps",), "no `migrate` step: nothing would happen"


def _expectations(scenario: Scenario) -> Iterator[Finding]:
    model, expect = scenario.model, scenario.model.expect
    names = [step.name for step in scenario.steps]
    bad = expect.verdict in schema.BAD_VERDICTS
    if bad and expect.known_outcome is None:
        why = "a bad outcome is expected: say in `known_outcome` why this is known"
        yield ("expect", "verdict"), why
    if not bad and expect.known_outcome is not None:
        yield ("expect", "known_outcome"), f"{expect.verdict} is a good outcome"
    if (expect.retry is not None) != ("retry" in names):
        yield ("expect",), "`retry` is both a step and an expectation, or neither"
    if expect.outage is not None and model.network.probe is None:
        yield ("expect", "outage"), "only `network.probe` measures an outage"
    if expect.device_state is not None and not model.destination.paused:
        why = "only a destination that never ran can be compared: `destination.paused: true`"
        yield ("expect", "device_state"), why
    if expect.memory is not None and "check_memory" not in names:
        yield ("expect", "memory"), "no step `check_memory`"
    if expect.device_state is not None and "check_device_state" not in names:
        yield ("expect", "device_state"), "no step `check_device_state`"
    for number, wire in enumerate(expect.wire):
        if [wire.section, wire.command, wire.message].count(None) != 2:
            yield ("expect", "wire", number), "say which: `section`, `command` or `message`"
    if expect.announce is not None and (expect.announce.schedule is None) != (
        expect.announce.tolerance is None
    ):
        why = "a `schedule` has a `tolerance`: no two machines agree to the microsecond"
        yield ("expect", "announce"), why
