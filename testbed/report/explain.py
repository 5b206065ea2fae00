"""What a scenario will do, in plain words, for who wants to know whether that is meant.

Lines with an indent; `wrapped` makes text of them. Nothing is run, and nothing is judged.
"""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from testbed.endpoint.command_line import SANDBOX, Inherited, command_line
from testbed.endpoint.program import DEFAULT_PROFILE, qemu
from testbed.fault import plan
from testbed.fault.sentence import fault_sentence, listed, size_words, time_words
from testbed.guest import GuestSpec
from testbed.guest.rule import PAGE_BYTES
from testbed.scenario.faults_file import FaultsFile
from testbed.scenario.run import Settings, lab_plan
from testbed.scenario.scenario import Scenario

from .expectations import expectations
from .undertakings import network_words, step_words
from .words import printable

WIDTH = 100
DESCRIPTORS = Inherited(qmp=3, serial=4, boot=(5, 6), tap=7)
"""As a run might have them."""


@dataclass(frozen=True, slots=True)
class Line:
    """A paragraph: so many levels in, with a mark before it if it has one."""

    level: int
    text: str
    mark: str = ""


def wrapped(lines: Iterable[Line], width: int = WIDTH) -> Iterator[str]:
    """The lines as text, none wider than `width` where blanks allow."""
    for line in lines:
        indent = "  " * line.level
        yield from textwrap.wrap(
            printable(f"{line.mark}{line.text}"),
            width,
            initial_indent=indent,
            subsequent_indent=indent + " " * len(line.mark),
            break_long_words=False,
            break_on_hyphens=False,
        )


def explained(scenario: Scenario) -> Iterator[Line]:
    """All that there is to say of a scenario before it is run."""
    model = scenario.model
    yield Line(0, f"{scenario.name}: {model.mode}")
    yield Line(1, " ".join(model.description.split()))
    yield from _section("Who takes part", _machines(scenario))
    yield from _section("What a QEMU is started with", _started(scenario))
    yield from _section("What is done", _numbered(map(step_words, scenario.steps)))
    yield Line(1, f"The whole run ends within {time_words(model.deadline)}.")
    yield from _section("What goes wrong", _what_goes_wrong(scenario))
    yield from _section("What must come of it", _listed(_must_come(scenario)))
    for variant in scenario.variants:
        yield from _variant(scenario, variant.when.model_dump(exclude_none=True), variant.scenario)
    yield from _section("What it needs", _listed(_needs(scenario)))


def explained_faults(file: FaultsFile) -> Iterator[Line]:
    """All that there is to say of a file of faults."""
    yield Line(0, f"{file.path.name}: faults for `testbed proxy` and `testbed replay`")
    if file.description is not None:
        yield Line(1, " ".join(file.description.split()))
    yield from _section("What goes wrong", _faults(file.faults, file.seed))


def _section(title: str, lines: Iterable[Line]) -> Iterator[Line]:
    yield Line(0, title)
    yield from lines


def _listed(texts: Iterable[str]) -> Iterator[Line]:
    return (Line(1, text, "- ") for text in texts)


def _numbered(texts: Iterable[str]) -> Iterator[Line]:
    return (Line(1, text, f"{number}. ") for number, text in enumerate(texts, 1))


def _machines(scenario: Scenario) -> Iterator[Line]:
    model, guest = scenario.model, scenario.model.guest
    stamps = "and is idle"
    if guest.working_set and guest.pages_per_second:
        rate = f"{guest.pages_per_second} pages a second"
        stamped = min(guest.working_set, GuestSpec(guest.memory).page_count * PAGE_BYTES)
        stamps = f"and stamps {size_words(stamped)} of it over and over, {rate}"
    yield Line(
        1,
        f"the guest: machine {guest.machine}, {guest.cpus} CPU{'s' * (guest.cpus != 1)}, "
        f"{guest.nic} with MAC {guest.mac}; it has {size_words(guest.memory)} of memory, {stamps}",
        "- ",
    )
    wanted = model.requires.endpoint
    both = f"models of QEMU {DEFAULT_PROFILE}, unless --endpoint or --profile says otherwise"
    if wanted is not None:
        both = "real QEMUs" if wanted == "qemu" else "models of QEMU"
    yield Line(1, f"source and destination: {both}; a proxy is between them", "- ")
    for side in (model.source, model.destination):
        own = [
            f"{name} {printable(value)}"
            for name, value in side.model_dump(exclude_none=True, exclude={"paused"}).items()
        ]
        if own:
            name = "source" if side is model.source else "destination"
            yield Line(1, f"the {name} otherwise: {listed(own)}", "- ")
    if model.destination.paused:
        yield Line(1, "the destination never starts the guest (-S)", "- ")
    said = [f"{name} {'on' if on else 'off'}" for name, on in scenario.capabilities.items()]
    said += [f"{name} {value}" for name, value in model.parameters.items()]
    if said:
        yield Line(1, f"on both sides: {', '.join(said)}", "- ")
    if model.toxiproxy is not None:
        toxics = [f"{each.type} ({each.stream})" for each in model.toxiproxy.toxics]
        having = f", with {listed(toxics)}" if toxics else ""
        server = f"the Toxiproxy server at {model.toxiproxy.server}{having}"
        yield Line(1, f"{server}: the connections pass through it, too", "- ")
    if model.network.probe is not None:
        every = time_words(model.network.probe.every)
        yield Line(1, f"a client that probes the guest's MAC every {every}", "- ")


def _started(scenario: Scenario) -> Iterator[Line]:
    """Every argument that a run gives: a scenario can have programs run by them."""
    plan = lab_plan(scenario, Settings(qemu(), qemu()), Path(), "tcg")
    for side, own in (("source", plan.source), ("destination", plan.destination)):
        argv = command_line(
            own.program.command,
            own.machine,
            DESCRIPTORS,
            accelerator="tcg",
            incoming=side == "destination",
        )
        yield Line(1, f"{side}: {shlex.join(argv)}", "- ")
    if scenario.model.expect.retry is not None:
        retried = "the destination of the retry: as the source, with the destination's last"
        yield Line(1, f"{retried} arguments (-trace, -incoming)", "- ")
    yield Line(
        1,
        "A model takes the same. Descriptors (fd=) have other numbers; an alias such as pc is the "
        "newest machine that both sides have, if --machine names no other; the accelerator is kvm "
        f"where that works, or as --accel says. --untrusted adds {shlex.join(SANDBOX)}, and allows "
        "no arguments of the scenario's own.",
    )


def _what_goes_wrong(scenario: Scenario) -> Iterator[Line]:
    model = scenario.model
    network = list(network_words(model.network))
    if not scenario.faults and not network:
        yield Line(1, "nothing: no fault is injected", "- ")
    yield from _faults(scenario.faults, model.seed)
    yield from _listed(network)


def _faults(faults: Iterable[plan.Fault], seed: int) -> Iterator[Line]:
    chance = False
    for fault in faults:
        yield Line(1, f"{fault.name}: {fault_sentence(fault)}", "- ")
        chance = chance or _left_to_chance(fault)
    if chance:
        yield Line(1, f"what is left to chance is drawn from seed {seed} (--seed)", "- ")


def _left_to_chance(fault: plan.Fault) -> bool:
    if any(isinstance(each, plan.Chance) for each in fault.conditions):
        return True
    match fault.action:
        case plan.Latency(jitter_s=spread) | plan.Slice(variation_bytes=spread):
            return spread > 0
    return False


def _must_come(scenario: Scenario) -> Iterator[str]:
    """What is asserted, and what always is."""
    yield from expectations(scenario.model.expect)
    if scenario.faults:
        yield "every fault has struck"
    if scenario.model.expect.verdict != "split-brain":
        yield "the guest never ran on both sides at once"


def _variant(scenario: Scenario, when: dict[str, str], played: Scenario) -> Iterator[Line]:
    """What is otherwise between certain versions: only what differs."""
    sides = {"either": "either side", "source": "the source", "destination": "the destination"}
    between = listed([f"{sides[side]} is QEMU {versions}" for side, versions in when.items()])
    yield Line(0, f"If {between}")
    otherwise = [
        *_changed(scenario.capabilities, played.capabilities, {True: "on", False: "off"}),
        *_changed(scenario.model.parameters, played.model.parameters, {}),
    ]
    if otherwise:
        yield Line(1, f"on both sides: {', '.join(otherwise)}", "- ")
    if played.steps != scenario.steps:
        yield Line(1, "is done instead:", "- ")
        steps = _numbered(map(step_words, played.steps))
        yield from (Line(2, line.text, line.mark) for line in steps)
    if played.model.expect != scenario.model.expect:
        yield Line(1, "must come of it instead:", "- ")
        yield from (Line(2, text, "- ") for text in _must_come(played))


def _changed(
    usual: dict[str, object] | dict[str, bool],
    there: dict[str, object] | dict[str, bool],
    words: dict[object, str],
) -> Iterator[str]:
    for name in [*usual, *(name for name in there if name not in usual)]:
        if name not in there:
            yield f"{name} not set"
        elif name not in usual or there[name] != usual[name]:
            yield f"{name} {words.get(there[name], there[name])}"


def _needs(scenario: Scenario) -> Iterator[str]:
    requires = scenario.model.requires
    yield "root, or user namespaces that this system allows (`testbed doctor` tries it)"
    if scenario.model.mode == "postcopy" and requires.endpoint != "model":
        yield "on real QEMUs: userfaultfd, which root has, or vm.unprivileged_userfaultfd=1 gives"
    if requires.qemu != "*":
        yield f"QEMU {requires.qemu} on both sides"
    if requires.endpoint == "qemu":
        yield "real QEMUs on both sides: --endpoint qemu"
    if requires.endpoint == "model":
        yield "models on both sides"
