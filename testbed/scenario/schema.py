"""The scenario language: what a file may say. `docs/scenarios.md` is its reference.

Models hold what is written; `Scenario.plan_faults` gives the values that the fault engine takes.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
)

from .units import ByVersion, Duration, HexBytes, Size, VersionRange

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
SideName = Literal["source", "destination"]
Sides = Literal["source", "destination", "both"]
Positive = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]


def _regex(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return value


def _range(value: str) -> str:
    VersionRange.parse(value)
    return value


def _by_version(value: Any) -> Any:
    texts = value.values() if isinstance(value, dict) else [value]
    for text in texts:
        if isinstance(text, str):
            _regex(text)
        elif text is not None:
            raise ValueError(f"expected a regular expression or null, got {text!r}")
    for key in value if isinstance(value, dict) else ():
        VersionRange.parse(str(key))
    return value


def _listed(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


Regex = Annotated[str, AfterValidator(_regex)]
Range = Annotated[str, AfterValidator(_range)]
RegexByVersion = Annotated[ByVersion, BeforeValidator(_by_version)]
OneOrMore = BeforeValidator(_listed)
Names = Annotated[list[str], OneOrMore]


class Model(BaseModel):
    """All of the language is strict: no unknown keys, no guessed types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


# Machines


class Guest(Model):
    """The machine that migrates, and its workload."""

    machine: str = "pc"
    memory: Size = 64 << 20
    cpus: Annotated[int, Field(ge=1, le=16)] = 1
    working_set: Size | None = 16 << 20
    pages_per_second: Annotated[int, Field(ge=0, le=10_000_000)] = 1000
    nic: str = "virtio-net-pci"
    mac: Annotated[str, Field(pattern=r"^([0-9a-f]{2}:){5}[0-9a-f]{2}$")] = "52:54:00:12:34:56"
    devices: list[str] = []
    arguments: list[str] = []


class SideMachine(Model):
    """What one side has otherwise than `guest` says."""

    machine: str | None = None
    devices: list[str] | None = None
    arguments: list[str] | None = None


class DestinationMachine(SideMachine):
    """The destination's; `paused` starts it with -S, so that the guest never runs there."""

    paused: bool = False


class Requires(Model):
    """What a scenario needs of both binaries."""

    qemu: Range = "*"


# Where faults strike


class SectionAt(Model):
    """A section, or a part, field or byte of it."""

    section: str
    kind: Literal["start", "part", "end", "full"] | None = None
    instance: Natural | None = None
    occurrence: Positive = 1
    part: Literal["section", "header", "payload", "footer"] = "section"
    field: str | None = None
    byte: int | None = None


class PageAt(Model):
    """The record of a page of a RAM block, or the nth page record of that block."""

    block: str = "pc.ram"
    page: Natural | None = None
    page_record: Positive | None = None
    phase: Literal["precopy", "postcopy"] | None = None
    occurrence: Positive = 1
    field: Literal["record", "idstr", "data"] | None = None
    byte: int | None = None


class CommandAt(Model):
    """A command by QEMU's name."""

    command: str
    occurrence: Positive = 1
    field: Literal["type", "command", "length", "payload"] | None = None
    byte: int | None = None


class MessageAt(Model):
    """A message of the return path by QEMU's name."""

    message: str
    occurrence: Positive = 1
    field: Literal["type", "length", "payload"] | None = None
    byte: int | None = None


class ElementAt(Model):
    """An element that is there once."""

    element: Literal["file-header", "configuration", "eof", "vmdesc"]
    field: str | None = None
    byte: int | None = None


class OffsetAt(Model):
    """A byte of a direction."""

    offset: Natural
    direction: Literal["forward", "return-path"] = "forward"


class StateAt(Model):
    """A migration status or an event that QMP reports."""

    side: SideName
    state: str | None = None
    event: str | None = None
    occurrence: Positive = 1


PLACES = {
    "section": SectionAt,
    "page": PageAt,
    "page_record": PageAt,
    "command": CommandAt,
    "message": MessageAt,
    "element": ElementAt,
    "offset": OffsetAt,
    "state": StateAt,
    "event": StateAt,
}


def _kind(table: dict[str, type[Model]]) -> Any:
    """A discriminator that picks a model by the key that names it."""

    def pick(value: Any) -> str | None:
        keys = value if isinstance(value, dict) else value.model_fields_set
        return next((name for name in table if name in keys), None)

    return Discriminator(
        pick,
        custom_error_type="unknown_form",
        custom_error_message=f"expected a mapping with one of {', '.join(table)}",
    )


Place = Annotated[
    Annotated[SectionAt, Tag("section")]
    | Annotated[PageAt, Tag("page")]
    | Annotated[PageAt, Tag("page_record")]
    | Annotated[CommandAt, Tag("command")]
    | Annotated[MessageAt, Tag("message")]
    | Annotated[ElementAt, Tag("element")]
    | Annotated[OffsetAt, Tag("offset")]
    | Annotated[StateAt, Tag("state")]
    | Annotated[StateAt, Tag("event")],
    _kind(PLACES),
]

# What they do there


class OnSide(Model):
    """Which side of the connection."""

    side: Sides = "both"


class Dark(Model):
    """A link that passes nothing."""

    toward: Sides = "both"
    swallow: bool = False


class Pause(Model):
    """A link that passes nothing for a time."""

    for_: Duration = Field(alias="for")
    toward: Sides = "both"


class RawBytes(Model):
    """Bytes as they are."""

    hex: HexBytes


class NewSection(Model):
    """A section to be put in."""

    type: Literal["start", "part", "end", "full"] = "full"
    id: Annotated[int, Field(ge=0, lt=1 << 32)]
    idstr: Annotated[str, Field(min_length=1, max_length=255)]
    instance: Annotated[int, Field(ge=0, lt=1 << 32)] = 0
    version: Annotated[int, Field(ge=0, lt=1 << 32)] = 1
    payload: RawBytes | None = None
    footer: bool = True


class NewElement(Model):
    """What is put in: one of bytes, a command, a section."""

    hex: HexBytes | None = None
    command: Annotated[int, Field(ge=0, lt=1 << 16)] | None = None
    payload: RawBytes | None = None
    length: Annotated[int, Field(ge=0, lt=1 << 16)] | None = None
    section: NewSection | None = None


class CloseIt(Model):
    """`close`: FIN."""

    close: OnSide


class ResetIt(Model):
    """`reset`: RST."""

    reset: OnSide


class BlackholeIt(Model):
    """`blackhole`: the connection stays, nothing passes."""

    blackhole: Dark


class StallIt(Model):
    """`stall`: nothing passes for a time."""

    stall: Pause


class TruncateIt(Model):
    """`truncate`: the stream ends here."""

    truncate: Literal[True]


class SetIt(Model):
    """`set`: another value."""

    set: int | str | RawBytes


class FlipIt(Model):
    """`flip`: XOR with a mask."""

    flip: HexBytes


class InsertIt(Model):
    """`insert`: something more."""

    insert: NewElement


class DeleteIt(Model):
    """`delete`: take it out."""

    delete: Literal[True]


ACTIONS = {
    "close": CloseIt,
    "reset": ResetIt,
    "blackhole": BlackholeIt,
    "stall": StallIt,
    "truncate": TruncateIt,
    "set": SetIt,
    "flip": FlipIt,
    "insert": InsertIt,
    "delete": DeleteIt,
}
ACTION_WORDS = {"close": {}, "reset": {}, "blackhole": {}, "truncate": True, "delete": True}


def _action(value: Any) -> Any:
    """A plain word is the action with its defaults."""
    if isinstance(value, str) and value in ACTION_WORDS:
        return {value: ACTION_WORDS[value]}
    if isinstance(value, str):
        raise ValueError(f"expected one of {', '.join(ACTIONS)}, got {value!r}")
    return value


Action = Annotated[
    Annotated[CloseIt, Tag("close")]
    | Annotated[ResetIt, Tag("reset")]
    | Annotated[BlackholeIt, Tag("blackhole")]
    | Annotated[StallIt, Tag("stall")]
    | Annotated[TruncateIt, Tag("truncate")]
    | Annotated[SetIt, Tag("set")]
    | Annotated[FlipIt, Tag("flip")]
    | Annotated[InsertIt, Tag("insert")]
    | Annotated[DeleteIt, Tag("delete")],
    _kind(ACTIONS),
    BeforeValidator(_action),
]


class FaultModel(Model):
    """One fault."""

    name: str | None = None
    at: Place
    do: Action
    point: Literal["before", "after"] = "before"
    attempt: Positive = 1
    connection: Positive | None = None


# The network


class Announce(Model):
    """What the interposer does to the destination's announcements, counted from 1."""

    drop: Literal["all"] | list[Positive] = []
    delay: dict[Positive, Duration] = {}
    duplicate: list[Positive] = []


class ProbeModel(Model):
    """The client's probe of the guest's MAC."""

    every: Duration = 0.005


class Network(Model):
    """The guest network."""

    announce: Announce = Announce()
    probe: ProbeModel | None = None


# Steps


class WaitForGuest(Model):
    """Until the guest has filled its working set, and gone over it so many times."""

    passes: Natural = 0
    within: Duration = 30.0


class Migrate(Model):
    """QMP `migrate` on the source."""


class PagesPassed(Model):
    """So many page records through the proxy."""

    pages: Positive


class StartPostcopy(Model):
    """QMP `migrate-start-postcopy` on the source, once precopy is under way."""

    after: PagesPassed | None = None
    within: Duration = 20.0


class Wait(Model):
    """Until both sides are as said; without a word of either: until both have settled."""

    source: Names | None = None
    destination: Names | None = None
    source_exit: int | None = None
    destination_exit: int | None = None
    within: Duration = 20.0
    on_expiry: Literal["cancel", "go_on"] | None = None


class Cancel(Model):
    """QMP `migrate_cancel` on the source."""


class Recover(Model):
    """Recover a paused postcopy migration over a new connection."""


class Retry(Model):
    """A new destination, and a second, clean migration that must complete."""

    within: Duration = 20.0


class Settle(Model):
    """Observe on for a time, for what is on a schedule of its own: announcements."""

    for_: Duration = Field(alias="for")


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
        raise ValueError("expected a step: a word, or a mapping with one key")
    ((name, content),) = value.items()
    if content is None:
        content = {}
    if name == "settle" and not isinstance(content, dict):
        content = {"for": content}
    return {name: content}


Step = Annotated[StepModel, BeforeValidator(_step)]

# Expectations


class SideExpectation(Model):
    """What one side must have come to, at the end of the first attempt."""

    status: Names | None = None
    statuses: list[str] | None = None
    run_state: Names | None = None
    exit: Literal["running"] | int | None = None
    error: RegexByVersion = "*unsaid*"
    stderr: Annotated[list[RegexByVersion], OneOrMore] = []
    no_stderr: Regex | None = None


class Count(Model):
    """How many."""

    min: Natural = 0
    max: Natural | None = None


class WireExpectation(Model):
    """What the proxy must have seen pass."""

    section: str | None = None
    kind: Literal["start", "part", "end", "full"] | None = None
    command: str | None = None
    message: str | None = None
    count: Natural | Count = Count(min=1)


class AnnounceExpectation(Model):
    """The announcements that must have come to the switch from the destination."""

    count: Natural | None = None
    mac: str | None = None  # "guest", or an address
    layout: Literal["qemu"] | None = None
    schedule: list[Duration] | None = None
    tolerance: Duration | None = None


class ForwardingExpectation(Model):
    """At which port the switch must have the guest's MAC."""

    before: SideName | None = None
    after: SideName | None = None


class OutageExpectation(Model):
    """For how long frames for the guest must have gone astray."""

    min: Duration = 0.0
    max: Duration | None = None


class Expect(Model):
    """All that is asserted."""

    verdict: Verdict
    known_outcome: str | None = None
    source: SideExpectation = SideExpectation()
    destination: SideExpectation = SideExpectation()
    running: Literal["source", "destination", "both", "none"] | None = None
    memory: Literal["intact", "corrupt"] | None = None
    device_state: Literal["equal", "differs"] | None = None
    retry: Literal["completed"] | None = None
    wire: list[WireExpectation] = []
    announce: AnnounceExpectation | None = None
    forwarding: ForwardingExpectation | None = None
    outage: OutageExpectation | None = None


UNSAID = "*unsaid*"
"""An `error` that a scenario does not speak of; null speaks: no error."""


class ScenarioModel(Model):
    """A scenario file."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")] | None = None
    description: str
    mode: Literal["precopy", "postcopy"]
    requires: Requires = Requires()
    seed: Natural = 1
    deadline: Duration = 120.0
    guest: Guest = Guest()
    source: SideMachine = SideMachine()
    destination: DestinationMachine = DestinationMachine()
    capabilities: dict[str, bool] = {}
    parameters: dict[str, Any] = {}
    faults: list[FaultModel] = []
    network: Network = Network()
    steps: list[Step] | None = None
    expect: Expect
