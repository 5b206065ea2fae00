"""The actions of the fault language: what happens where a fault strikes.

Models hold what is written; `faults.py` makes of them the actions of `testbed/fault/plan.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from .model import Model, Natural, SideName, Sides, by_type, did_you_mean, got, keyed
from .places import U32, CommandName, MessageName, PageNumber, SectionKind, StreamPlace
from .units import Duration, HexBytes, SomeSize, SomeTime, shown

U16 = Annotated[int, Field(ge=0, lt=1 << 16)]
Byte = Annotated[int, Field(ge=0, lt=1 << 8)]
PAGE_BYTES = 4096
"""Of a page record that a file makes: x86's target page."""


class OnSide(Model):
    """Which side of the connection."""

    side: Sides = "both"


class Toward(Model):
    """Which direction: what goes toward that side."""

    toward: Sides = "both"


class TowardOne(Model):
    """One direction: what goes toward that side."""

    toward: SideName


class Dark(Toward):
    """A link that passes nothing."""

    swallow: bool = False


class Pause(Toward):
    """A link that passes nothing for a time."""

    for_: SomeTime = Field(alias="for")


class Refusal(Model):
    """Nobody listens, for a time or for good."""

    for_: SomeTime | None = Field(default=None, alias="for")


class Late(Toward):
    """What comes later than it would."""

    delay: SomeTime
    jitter: Duration = 0.0


class Rate(Toward):
    """Bytes a second."""

    rate: SomeSize


class Segments(Toward):
    """Small segments, and a pause between them."""

    size: SomeSize
    variation: Natural = 0
    delay: Duration = 0.0


class SignalTo(Model):
    """A signal to the process of a side."""

    side: SideName
    signal: Literal["KILL", "STOP", "CONT"]


class RawBytes(Model):
    """Bytes as they are."""

    hex: HexBytes


def _in_a_page(value: RawBytes) -> RawBytes:
    if len(value.hex) > PAGE_BYTES:
        raise ValueError(f"expected {PAGE_BYTES} bytes or less, a page{got(len(value.hex))}")
    return value


class NewSection(Model):
    """A section to be put in."""

    type: SectionKind = "full"
    id: U32
    idstr: Annotated[str, Field(min_length=1, max_length=255)]
    instance: U32 = 0
    version: U32 = 1
    payload: RawBytes | None = None
    footer: bool = True


class NewPage(Model):
    """The record of a page to be put in: bytes from its beginning, the rest of it zero."""

    block: Annotated[str, Field(min_length=1, max_length=255)] = "pc.ram"
    page: PageNumber
    data: Annotated[RawBytes, AfterValidator(_in_a_page)] | None = None


class NewBytes(RawBytes):
    """Bytes to be put in, whatever they are."""


class NewCommand(Model):
    """A command to be put in; `length` is what it claims, if that is not its payload's."""

    command: Annotated[
        U16 | CommandName,
        by_type("a command by QEMU's name, or its number", {int: U16, str: CommandName}),
    ]
    payload: RawBytes | None = None
    length: U16 | None = None


class NewMessage(Model):
    """A message of the return path to be put in; `length` is what it claims."""

    message: Annotated[
        U16 | MessageName,
        by_type("a message by QEMU's name, or its number", {int: U16, str: MessageName}),
    ]
    payload: RawBytes | None = None
    length: U16 | None = None


class NewSectionElement(Model):
    """A section to be put in."""

    section: NewSection


class NewPageElement(Model):
    """A page record to be put in."""

    page: NewPage


NEW: dict[str, type[Model]] = {
    "hex": NewBytes,
    "command": NewCommand,
    "message": NewMessage,
    "section": NewSectionElement,
    "page": NewPageElement,
}
New = Annotated[
    NewBytes | NewCommand | NewMessage | NewSectionElement | NewPageElement,
    keyed(NEW, "what to put in"),
]


class CloseIt(Model):
    """`close`: FIN."""

    close: OnSide


class ResetIt(Model):
    """`reset`: RST."""

    reset: OnSide


class HalfCloseIt(Model):
    """`half_close`: FIN toward one side, the other direction goes on."""

    half_close: TowardOne


class BlackholeIt(Model):
    """`blackhole`: the connection stays, nothing passes."""

    blackhole: Dark


class StallIt(Model):
    """`stall`: nothing passes for a time."""

    stall: Pause


class TruncateIt(Model):
    """`truncate`: the stream ends here."""

    truncate: Literal[True]


class RefuseIt(Model):
    """`refuse`: nobody listens when the connection comes."""

    refuse: Refusal


class DelayAcceptIt(Model):
    """`delay_accept`: the connection waits before anything of it is read."""

    delay_accept: SomeTime


class TarpitIt(Model):
    """`tarpit`: the connection is taken and never read."""

    tarpit: Literal[True]


class LatencyIt(Model):
    """`latency`: everything comes later."""

    latency: Late


class BandwidthIt(Model):
    """`bandwidth`: so many bytes a second."""

    bandwidth: Rate


class SliceIt(Model):
    """`slice`: small segments."""

    slice: Segments


class RestoreIt(Model):
    """`restore`: rate and time as if no fault had touched them."""

    restore: Toward


class SignalIt(Model):
    """`signal`: to the process of an endpoint."""

    signal: SignalTo


class SetIt(Model):
    """`set`: another value."""

    set: Annotated[
        int | str | RawBytes,
        by_type('a number, a text, or {hex: "00ff"}', {int: int, str: str, dict: RawBytes}),
    ]


class FlipIt(Model):
    """`flip`: XOR with a mask."""

    flip: HexBytes


class InsertIt(Model):
    """`insert`: something more."""

    insert: New


class DeleteIt(Model):
    """`delete`: take it out."""

    delete: Literal[True]


class DuplicateIt(Model):
    """`duplicate`: have it twice."""

    duplicate: Literal[True]


class SwapIt(Model):
    """`swap`: exchange it with the next of its kind."""

    swap: Literal[True]


class ReplayIt(Model):
    """`replay`: put in again what passed at an earlier place."""

    replay: StreamPlace


class StalePageIt(Model):
    """`stale_page`: the page as it was sent the time before."""

    stale_page: Literal[True]


AnyAction = (
    CloseIt
    | ResetIt
    | HalfCloseIt
    | BlackholeIt
    | StallIt
    | TruncateIt
    | RefuseIt
    | DelayAcceptIt
    | TarpitIt
    | LatencyIt
    | BandwidthIt
    | SliceIt
    | RestoreIt
    | SignalIt
    | SetIt
    | FlipIt
    | InsertIt
    | DeleteIt
    | DuplicateIt
    | SwapIt
    | ReplayIt
    | StalePageIt
)
ACTIONS: dict[str, type[Model]] = {
    "close": CloseIt,
    "reset": ResetIt,
    "half_close": HalfCloseIt,
    "blackhole": BlackholeIt,
    "truncate": TruncateIt,
    "refuse": RefuseIt,
    "delay_accept": DelayAcceptIt,
    "tarpit": TarpitIt,
    "stall": StallIt,
    "latency": LatencyIt,
    "bandwidth": BandwidthIt,
    "slice": SliceIt,
    "restore": RestoreIt,
    "signal": SignalIt,
    "set": SetIt,
    "flip": FlipIt,
    "insert": InsertIt,
    "delete": DeleteIt,
    "duplicate": DuplicateIt,
    "swap": SwapIt,
    "replay": ReplayIt,
    "stale_page": StalePageIt,
}
ACTION_WORDS: dict[str, Any] = {
    **{word: {} for word in ("close", "reset", "blackhole", "refuse", "restore")},
    **dict.fromkeys(("truncate", "tarpit", "delete", "duplicate", "swap", "stale_page"), True),
}
"""Those that are said by one word, and what it stands for."""
ACTION_EXAMPLES = {
    "half_close": "{half_close: {toward: destination}}",
    "delay_accept": "{delay_accept: 500ms}",
    "stall": "{stall: {for: 500ms, toward: both}}",
    "latency": "{latency: {delay: 50ms, jitter: 10ms, toward: both}}",
    "bandwidth": "{bandwidth: {rate: 10M, toward: destination}}",
    "slice": "{slice: {size: 100, variation: 10, delay: 1ms}}",
    "signal": "{signal: {side: destination, signal: KILL}}",
    "set": "{set: 0x7d}",
    "flip": '{flip: "80"}',
    "insert": '{insert: {hex: "00"}}',
    "replay": "{replay: {section: timer}}",
}
"""All others, as somebody would write them."""


def _action(value: Any) -> Any:
    """A plain word is the action with its defaults."""
    if not isinstance(value, str):
        return value
    if value in ACTION_WORDS:
        return {value: ACTION_WORDS[value]}
    if value in ACTIONS:
        raise ValueError(f"{value} needs values, such as {ACTION_EXAMPLES[value]}")
    if hint := did_you_mean(value, ACTIONS):
        raise ValueError(f"no action {shown(value)}{hint}")
    raise ValueError(f"expected one of {', '.join(ACTIONS)}{got(value)}")


Action = Annotated[AnyAction, keyed(ACTIONS, "an action"), BeforeValidator(_action)]
