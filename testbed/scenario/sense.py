"""What a scenario may say word by word, and still makes no sense as a whole."""

from __future__ import annotations

from collections.abc import Iterator

from testbed.fault import plan

from . import places, schema
from .fault_sense import Finding, fault_problems, places_of
from .faults import place_of
from .machine_sense import guest_problems
from .model import Model, did_you_mean
from .network_sense import network_problems
from .qapi import CAPABILITIES, KNOWN_VERSIONS, PARAMETERS
from .scenario import Scenario
from .sentences import THE_KEY
from .units import VersionRange

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
MULTIFD_CHANNELS = 2
"""What the parameter multifd-channels is unless it is set. QEMU `migration/options.c`."""


def problems(scenario: Scenario) -> Iterator[Finding]:
    """Every impossible combination, with the path of keys that it shows at."""
    yield from guest_problems(scenario.model)
    yield from _faults(scenario)
    network = network_problems(scenario.model.network, scenario.model.mode)
    yield from ((("network", *at), why) for at, why in network)
    yield from _steps(scenario)
    yield from _expectations(scenario)
    yield from _unchecked(scenario)
    yield from _names(scenario.model)
    model = scenario.model
    if model.mode == "precopy" and model.capabilities.get("postcopy-ram"):
        yield ("capabilities", "postcopy-ram"), "the scenario's `mode` is precopy"
    if model.mode == "postcopy" and model.capabilities.get("postcopy-ram") is False:
        yield ("capabilities", "postcopy-ram"), "the scenario's `mode` is postcopy, it needs this"


def _names(model: schema.ScenarioModel) -> Iterator[Finding]:
    """Names of capabilities and parameters that no QEMU has.

    What is for later versions only may say those that these will have.
    """
    versions = VersionRange.parse(model.requires.qemu)
    if not any(versions.matches(each) for each in KNOWN_VERSIONS):
        return
    for name in model.capabilities:
        if name not in (*CAPABILITIES, *model.requires.capabilities):
            said = f"no capability of QEMU 2.9 to 11.1{did_you_mean(name, CAPABILITIES)}"
            yield ("capabilities", name, THE_KEY), said
    for name in model.parameters:
        if name not in PARAMETERS:
            said = f"no migration parameter of QEMU 2.9 to 11.1{did_you_mean(name, PARAMETERS)}"
            yield ("parameters", name, THE_KEY), said


def _unchecked(scenario: Scenario) -> Iterator[Finding]:
    steps = {step.name for step in scenario.steps}
    for what in ("memory", "device_state"):
        asked = getattr(scenario.model.expect, what) is not None or f"check_{what}" in steps
        if asked and getattr(scenario.model.unchecked, what) is not None:
            yield ("unchecked", what), f"the scenario checks it: `check_{what}` or `expect.{what}`"


def _faults(scenario: Scenario) -> Iterator[Finding]:
    model = scenario.model
    yield from ((("faults", *at), why) for at, why in fault_problems(scenario.faults, model.faults))
    attempts = sum(step.name in ("migrate", "retry") for step in scenario.steps)
    connections = connections_max(scenario)
    for number, (fault, written) in enumerate(zip(scenario.faults, model.faults, strict=True)):
        where = ("faults", number)
        if fault.attempt is not None and fault.attempt > attempts:
            yield (*where, "attempt"), f"the steps have {attempts} attempts (migrate, retry)"
        if fault.connection is not None and fault.connection > connections:
            yield (*where, "connection"), _too_many(connections)
        for at, place in places_of(written):
            yield from (((*where, *at), why) for why in _never(place, scenario))


def _never(at: Model, scenario: Scenario) -> Iterator[str]:
    """Why no migration of this scenario has that place."""
    place = place_of(at)
    if isinstance(place, plan.ConnectionPlace):
        if place.number > (most := connections_max(scenario)):
            yield _too_many(most)
        return
    why = _no_channel(place, scenario)
    if why is None and scenario.model.mode == "precopy":
        why = _needs_postcopy(at)
    if why is not None:
        yield why


def _no_channel(place: plan.Place, scenario: Scenario) -> str | None:
    """Why the place's channel is not there."""
    capabilities, parameters = scenario.capabilities, scenario.parameters
    channel = getattr(place, "channel", plan.Channel.MAIN)
    if isinstance(place, plan.MessagePlace):
        channel = plan.Channel.RETURN_PATH
    match channel:
        case plan.Channel.RETURN_PATH:
            if scenario.model.mode == "precopy" and not capabilities.get("return-path"):
                return "without the capability return-path nothing ever comes on the return path"
        case plan.Channel.MULTIFD:
            number = getattr(place, "number", None) or 1
            if not (most := _multifd_channels(scenario)):
                return "without the capability multifd there is no such channel"
            if number > most:
                return f"there are {most} multifd channels (the parameter multifd-channels)"
        case plan.Channel.PREEMPT if not capabilities.get("postcopy-preempt"):
            return "without the capability postcopy-preempt there is no such channel"
        case plan.Channel.TLS if not parameters.get("tls-creds"):
            return "without the parameter tls-creds nothing is encrypted"
    return None


def connections_max(scenario: Scenario) -> int:
    """The most connections that an attempt of this scenario opens."""
    recoveries = sum(step.name == "recover" for step in scenario.steps)
    each = 1 + scenario.capabilities.get("postcopy-preempt", False)
    return each * (1 + recoveries) + _multifd_channels(scenario)


def _multifd_channels(scenario: Scenario) -> int:
    if not scenario.capabilities.get("multifd"):
        return 0
    count = scenario.parameters.get("multifd-channels", MULTIFD_CHANNELS)
    return count if isinstance(count, int) else MULTIFD_CHANNELS  # QEMU refuses anything else


def _too_many(connections: int) -> str:
    return f"an attempt of this scenario opens {connections} at most"


def _needs_postcopy(at: Model) -> str | None:
    match at:
        case places.CommandAt(command=name) if name in POSTCOPY_COMMANDS:
            return f"{name} never passes in a scenario whose `mode` is precopy"
        case places.MessageAt(message=name) if name in POSTCOPY_MESSAGES:
            return f"{name} never comes in a scenario whose `mode` is precopy"
        case places.PageAt(phase="postcopy"):
            return "there is no postcopy phase in a scenario whose `mode` is precopy"
        case places.StateAt(state=str(status)) if status.startswith("postcopy-"):
            return f"no side is ever {status} in a scenario whose `mode` is precopy"
    return None


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


def _times(expect: schema.Expect, deadline_s: float) -> Iterator[Finding]:
    for key, times in (("outage", expect.outage), ("total_time", expect.total_time)):
        if times is None:
            continue
        if times.max is not None and times.max < times.min:
            yield ("expect", key), "`max` is less than `min`: nothing takes so long"
        if (times.min if times.max is None else times.max) >= deadline_s:
            yield ("expect", key), f"the run's `deadline` is {deadline_s:g} s"


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
    yield from _times(expect, model.deadline)
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
