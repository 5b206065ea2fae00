"""The scenario language: what a file may say. `docs/scenarios.md` is its reference.

Models hold what is written; `strikes.py` has that of a fault, `scenario.py` what a run makes of
them. What single words may be is said here, what makes no sense together in `sense.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from .model import UNSAID as UNSAID  # what holds a scenario's words against a run uses these too
from .model import Model as Model
from .model import (
    Natural,
    Positive,
    by_type,
    did_you_mean,
    got,
    listed,
    matching,
)
from .network import GuestOrMac, Network, PortName
from .patterns import Glob, checked
from .places import CommandName, MessageName, SectionKind
from .qapi import Hyphened, MigrationStatus, RunState
from .strikes import FaultModel
from .toxiproxy import Toxiproxy
from .units import ByVersion, Duration, Mac, Range, Size, SomeTime, VersionRange
from .when import When as When  # what plays a scenario asks it
from .when import WhenSaid

Verdict = Literal[
    "completed",
    "recovered",
    "failed-clean",
    "paused-recoverable",
    "source-lost",
    "split-brain",
    "guest-lost",
    "corrupt",
    "hang",
    "crash",
]
BAD_VERDICTS = ("source-lost", "split-brain", "guest-lost", "corrupt", "hang", "crash")


def _by_version(value: Any) -> Any:
    """A regular expression or null, or one of these for each range of versions."""
    if isinstance(value, dict) and not value:
        raise ValueError("expected a range of versions as a key, got an empty mapping")
    for text in value.values() if isinstance(value, dict) else [value]:
        if isinstance(text, str):
            checked(text)
        elif text is not None:
            raise ValueError(f"expected a regular expression or null{got(text)}")
    for key in value if isinstance(value, dict) else ():
        if not isinstance(key, str):
            raise ValueError(f'expected a range of versions such as ">=10", in quotes{got(key)}')
        VersionRange.parse(key)
    return value


Regex = Annotated[str, AfterValidator(checked)]
RegexByVersion = Annotated[ByVersion, BeforeValidator(_by_version)]
OneOrMore = BeforeValidator(listed)
Statuses = Annotated[list[MigrationStatus], OneOrMore, Field(min_length=1)]
RunStates = Annotated[list[RunState], OneOrMore, Field(min_length=1)]
Word = Annotated[str, Field(min_length=1)]
ExitStatus = Annotated[int, Field(ge=-64, le=255)]
"""Of a process; negative: the signal that ended it, of Linux's 64."""


def _in_order(value: Any) -> Any:
    if isinstance(value, Count) and value.max is not None and value.min > value.max:
        raise ValueError("nothing is both: `min` is more than `max`")
    return value


# Machines


class Guest(Model):
    """The machine that migrates, and its workload."""

    machine: Word = "pc"
    memory: Size = 64 << 20
    cpus: Annotated[int, Field(ge=1, le=16)] = 1
    working_set: Size | None = 16 << 20
    pages_per_second: Natural = 1000
    nic: Word = "virtio-net-pci"
    mac: Mac = "52:54:00:12:34:56"
    devices: list[Word] = Field(default_factory=list)
    arguments: list[str] = Field(default_factory=list)


class SideMachine(Model):
    """What one side has otherwise than `guest` says."""

    machine: Word | None = None
    devices: list[Word] | None = None
    arguments: list[str] | None = None


class DestinationMachine(SideMachine):
    """The destination's; `paused` starts it with -S, so that the guest never runs there."""

    paused: bool = False


class Requires(Model):
    """What a scenario needs of both endpoints."""

    qemu: Range = "*"
    endpoint: Literal["model", "qemu"] | None = None
    capabilities: list[Hyphened] = Field(default_factory=list)


# Steps


class WaitForGuest(Model):
    """Until the guest has filled its working set, and gone over it so many times."""

    passes: Natural = 0
    within: SomeTime = 30.0


class Migrate(Model):
    """QMP `migrate` on the source."""


class PagesPassed(Model):
    """So many page records through the proxy."""

    pages: Positive


class StartPostcopy(Model):
    """QMP `migrate-start-postcopy` on the source, once precopy is under way."""

    after: PagesPassed | None = None
    within: SomeTime = 20.0


class Wait(Model):
    """Until both sides are as said; without a word of either: until both have settled."""

    source: Statuses | None = None
    destination: Statuses | None = None
    source_exit: ExitStatus | None = None
    destination_exit: ExitStatus | None = None
    within: SomeTime = 20.0
    on_expiry: Literal["cancel", "go_on"] | None = None


class Cancel(Model):
    """QMP `migrate_cancel` on the source."""


class Recover(Model):
    """Recover a paused postcopy migration over a new connection."""


class Retry(Model):
    """A new destination, and a second, clean migration that must complete."""

    within: SomeTime = 20.0


class Settle(Model):
    """Observe on for a time, for what is on a schedule of its own: announcements."""

    for_: SomeTime = Field(alias="for")


class CheckMemory(Model):
    """Check the guest's memory where the guest is."""


class CheckDeviceState(Model):
    """Compare the destination's device state with what the source sent."""


STEPS: dict[str, type[Model]] = {
    "wait_for_guest": WaitForGuest,
    "migrate": Migrate,
    "start_postcopy": StartPostcopy,
    "wait": Wait,
    "cancel": Cancel,
    "recover": Recover,
    "retry": Retry,
    "settle": Settle,
    "check_memory": CheckMemory,
    "check_device_state": CheckDeviceState,
}


class StepModel(Model):
    """A step: exactly one of these."""

    wait_for_guest: WaitForGuest | None = None
    migrate: Migrate | None = None
    start_postcopy: StartPostcopy | None = None
    wait: Wait | None = None
    cancel: Cancel | None = None
    recover: Recover | None = None
    retry: Retry | None = None
    settle: Settle | None = None
    check_memory: CheckMemory | None = None
    check_device_state: CheckDeviceState | None = None

    @property
    def name(self) -> str:
        """Which step it is."""
        return next(name for name in STEPS if getattr(self, name) is not None)

    @property
    def step(self) -> Model:
        """Its content."""
        content: Model = getattr(self, self.name)
        return content


def _step(value: Any) -> Any:
    """A plain word is the step with its defaults; `settle: 1s` is short for its one key."""
    if isinstance(value, str):
        value = {value: {}}
    if not isinstance(value, dict) or len(value) != 1:
        raise ValueError(f"expected a step: a word, or a mapping with one key{got(value)}")
    ((name, content),) = value.items()
    if name not in STEPS:
        raise ValueError(f"no step `{name}`{did_you_mean(str(name), STEPS)}")
    if content is None:
        content = {}
    if name == "settle" and not isinstance(content, dict):
        content = {"for": content}
    return {name: content}


Step = Annotated[StepModel, BeforeValidator(_step)]

# Expectations


class SideExpectation(Model):
    """What one side must have come to, at the end of the first attempt."""

    status: Statuses | None = None
    statuses: Statuses | None = None
    run_state: RunStates | None = None
    exit: (
        Annotated[
            Literal["running"] | ExitStatus,
            by_type("an exit status, or running", {str: Literal["running"], int: ExitStatus}),
        ]
        | None
    ) = None
    error: RegexByVersion = UNSAID
    stderr: Annotated[list[RegexByVersion], OneOrMore] = Field(default_factory=list)
    no_stderr: Regex | None = None


class Count(Model):
    """How many."""

    min: Natural = 0
    max: Natural | None = None


HowMany = Annotated[
    Natural | Count,
    by_type("a number, or {min: 1, max: 5}", {int: Natural, dict: Count}),
    AfterValidator(_in_order),
]


class WireExpectation(Model):
    """What the proxy must have seen pass."""

    section: Glob | None = None
    kind: SectionKind | None = None
    command: CommandName | None = None
    message: MessageName | None = None
    count: HowMany = Count(min=1)


class LoadedExpectation(Model):
    """How often the destination must have begun to load a section, START or FULL."""

    section: Glob
    count: HowMany = Count(min=1)


class AnnounceExpectation(Model):
    """The announcements that must have come to the switch from the destination."""

    count: HowMany | None = None
    mac: (
        Annotated[
            GuestOrMac | list[GuestOrMac],
            by_type("a MAC, or a list of them", {str: GuestOrMac, list: list[GuestOrMac]}),
        ]
        | None
    ) = None
    layout: Literal["qemu"] | None = None
    schedule: list[Duration] | None = None
    tolerance: Duration | None = None


class ForwardingExpectation(Model):
    """At which port the switch must have the guest's MAC."""

    before: PortName | None = None
    after: PortName | None = None


class TimeExpectation(Model):
    """How long something must have taken."""

    min: Duration = 0.0
    max: Duration | None = None


class OutageExpectation(TimeExpectation):
    """For how long frames for the guest must have gone astray."""


class Expect(Model):
    """All that is asserted."""

    verdict: Verdict
    known_outcome: Word | None = None
    source: SideExpectation = SideExpectation()
    destination: SideExpectation = SideExpectation()
    running: Literal["source", "destination", "both", "none"] | None = None
    memory: Literal["intact", "corrupt"] | None = None
    device_state: Literal["equal", "differs"] | None = None
    retry: Literal["completed"] | None = None
    wire: list[WireExpectation] = Field(default_factory=list)
    loaded: list[LoadedExpectation] = Field(default_factory=list)
    announce: AnnounceExpectation | None = None
    forwarding: ForwardingExpectation | None = None
    outage: OutageExpectation | None = None
    total_time: TimeExpectation | None = None


# Versions


class VariantModel(Model):
    """What is otherwise between certain versions; `variants.py` puts it in place."""

    when: WhenSaid
    capabilities: dict[Hyphened, bool | None] = Field(default_factory=dict)
    parameters: dict[Hyphened, Any] = Field(default_factory=dict)
    steps: list[Step] | None = None
    expect: dict[str, Any] = Field(default_factory=dict)


class Unchecked(Model):
    """Why what arrived is not looked at, where it is not."""

    memory: Word | None = None
    device_state: Word | None = None


class ScenarioModel(Model):
    """A scenario file."""

    name: (
        Annotated[str, AfterValidator(matching("[a-z0-9_]{1,60}", "a name of a-z, 0-9 and _"))]
        | None
    ) = None
    description: Word
    mode: Literal["precopy", "postcopy"]
    requires: Requires = Requires()
    seed: Natural = 1
    deadline: SomeTime = 120.0
    guest: Guest = Guest()
    source: SideMachine = SideMachine()
    destination: DestinationMachine = DestinationMachine()
    capabilities: dict[Hyphened, bool] = Field(default_factory=dict)
    parameters: dict[Hyphened, Any] = Field(default_factory=dict)
    faults: list[FaultModel] = Field(default_factory=list)
    network: Network = Network()
    toxiproxy: Toxiproxy | None = None
    steps: list[Step] | None = None
    unchecked: Unchecked = Unchecked()
    expect: Expect
    variants: list[VariantModel] = Field(default_factory=list)
