"""A fault as a sentence of plain words: where and when it strikes, and what it does there.

`describe.py` has the short forms for the log. Here is what somebody reads who did not write the
fault, or wants to know whether it says what was meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from . import plan
from .plan import Side

HEX_SHOWN_BYTES = 12
NAMED = {
    "file-header": "the file header",
    "configuration": "the configuration",
    "eof": "the EOF byte",
    "vmdesc": "the vmdesc",
}
"""Elements that are there once."""
UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def fault_sentence(fault: plan.Fault) -> str:
    """`As the 2nd PART section of ram begins, on the second attempt, once cut has struck: ...`."""
    when = [_where(fault), *_how_often(fault), *_conditions(fault.conditions)]
    if fault.attempt != 1:
        which = "every" if fault.attempt is None else f"the {word_of(fault.attempt)}"
        when.insert(1, f"on {which} attempt")
    if fault.connection is not None:
        when.insert(1, f"on connection {fault.connection} of the attempt")
    everywhere = ", on every connection that the migration has" if fault.everywhere else ""
    return f"{', '.join(when)}: {action_words(fault.action)}{everywhere}."


def _where(fault: plan.Fault) -> str:
    place = fault.place
    if isinstance(place, plan.StatePlace):
        nth = _nth_time(place.occurrence) if fault.times == 1 else ""
        begins = "As" if fault.times == 1 else "Whenever"
        on = "" if place.channel is plan.Channel.MAIN else f" (on {_channel(place)})"
        return f"{begins} the {place.side} reports {place.status or place.event}{nth}{on}"
    if isinstance(place, plan.ConnectionPlace):
        return f"As connection {place.number} of the migration comes"
    what = place_words(place, each=fault.times != 1)
    if _on_bytes(fault.action):
        return f"At {what}"
    if fault.point is plan.Point.AFTER:
        return f"After {what}"
    return f"Just before {what}" if _is_inside(place) else f"As {what} begins"


def _on_bytes(action: plan.Action) -> bool:
    """True if it is on the bytes at the place, not between them."""
    return isinstance(action, plan.OnContent) and not isinstance(action, plan.Insert | plan.Replay)


def _is_inside(place: plan.StreamPlace) -> bool:
    """True if the place is something within an element."""
    names = ("field", "byte", "offset")
    return any(getattr(place, name, None) is not None for name in names)


def _how_often(fault: plan.Fault) -> Iterator[str]:
    if fault.times == 1:
        return
    first: int | None = getattr(fault.place, "nth", None)
    first = first or getattr(fault.place, "occurrence", 1)
    if first is not None and first > 1:
        yield f"from the {ordinal(first)} on"
    if fault.times is not None:
        yield f"{fault.times} times at most"


def _conditions(conditions: Sequence[plan.Condition]) -> Iterator[str]:
    struck = [each.fault for each in conditions if isinstance(each, plan.AfterFault)]
    once = [f"{listed(struck)} {'have' if len(struck) > 1 else 'has'} struck"] if struck else []
    once += [
        happening(place)
        for each in conditions
        if isinstance(each, plan.Reached)
        for place in each.places
    ]
    if once:
        yield f"once {listed(once)}"
    for each in conditions:
        match each:
            case plan.Before(place=place):
                yield f"as long as {happening(place, happened=False)}"
            case plan.Vcpus(running=running):
                yield f"while the guest {'runs' if running else 'stands still'} at the source"
            case plan.Chance(probability=probability):
                yield f"with a chance of {probability * 100:.10g}%"


def happening(place: plan.Place, *, happened: bool = True) -> str:
    """`10 MiB of pc.ram have passed`, `the EOF byte has not come`."""
    no = "" if happened else " not"
    match place:
        case plan.BlockPlace():
            return f"{_amount(place)} have{no} passed"
        case plan.StatePlace(side=side, occurrence=occurrence):
            said = place.status or place.event
            return f"the {side} has{no} reported {said}{_nth_time(occurrence)}"
        case plan.ConnectionPlace(number=number):
            return f"connection {number} has{no} come"
    return f"{place_words(place)} has{no} come"


def place_words(place: plan.StreamPlace, *, each: bool = False) -> str:
    """`the 2nd PART section of ram`, `byte 100 of the payload of the first FULL section of cpu`.

    Args:
        place: in the stream.
        each: it is every one of its kind that is meant, not one.
    """
    match place:
        case plan.SectionPlace():
            return _narrowed(place, _section(place, each=each))
        case plan.PagePlace():
            return _narrowed(place, _page(place, each=each))
        case plan.BlockPlace():
            return f"the page record with which {_amount(place)} have passed"
        case plan.CommandPlace(command=name):
            return _narrowed(place, f"{_which(place.occurrence, each)} command {name}")
        case plan.MessagePlace(message=name):
            which = _which(place.occurrence, each)
            return _narrowed(place, f"{which} message {name} of the return path")
        case plan.ElementPlace():
            return _narrowed(place, _element(place, each=each))
        case plan.OffsetPlace(offset=offset):
            return f"byte {offset} of {_channel(place)}"


def _section(place: plan.SectionPlace, *, each: bool) -> str:
    kind = f"{place.kind.upper()} " if place.kind else ""
    instance = "" if place.instance_id is None else f", instance {place.instance_id}"
    wild = any(sign in place.idstr for sign in "*?[")
    of = f"like {place.idstr}" if wild else f"of {place.idstr}"
    whole = f"{_which(place.occurrence, each)} {kind}section {of}{instance}"
    return whole if place.part == "section" else f"the {place.part} of {whole}"


def _page(place: plan.PagePlace, *, each: bool) -> str:
    phase = f" in {place.phase}" if place.phase else ""
    on = "" if place.channel is plan.Channel.MAIN else f" on {_channel(place)}"
    if place.page is not None:
        which = f"{_which(place.occurrence, each)} record of page {place.page}"
    else:
        which = f"{_which(place.nth or 1, each)} page record"
    return f"{which} of {place.block}{phase}{on}"


def _element(place: plan.ElementPlace, *, each: bool) -> str:
    named = f" named {place.name}" if place.name else ""
    on = "" if place.channel is plan.Channel.MAIN else f" of {_channel(place)}"
    if place.element in NAMED and place.occurrence == 1:
        return f"{NAMED[place.element]}{named}{on}"
    return f"{_which(place.occurrence, each)} {place.element}{named}{on}"


def _narrowed(
    place: plan.SectionPlace
    | plan.PagePlace
    | plan.CommandPlace
    | plan.MessagePlace
    | plan.ElementPlace,
    what: str,
) -> str:
    if place.field is not None:
        what = f"the field {place.field} of {what}"
    if place.byte is None:
        return what
    if place.byte >= 0:
        return f"byte {place.byte} of {what}"
    return f"the {'' if place.byte == -1 else f'{ordinal(-place.byte)} '}last byte of {what}"


def _amount(place: plan.BlockPlace) -> str:
    if place.share is not None:
        return f"{place.share * 100:.10g}% of the pages of {place.block}"
    return f"{size_words(place.passed_bytes or 0)} of {place.block}"


def _channel(place: plan.Place) -> str:
    number: int | None = getattr(place, "number", None)
    match getattr(place, "channel", plan.Channel.MAIN):
        case plan.Channel.MULTIFD | plan.Channel.UNKNOWN as channel:
            kind, article = f"{channel} channel", "an" if channel[0] == "u" else "a"
        case plan.Channel.TLS:
            kind, article = "TLS channel", "a"
        case plan.Channel.RETURN_PATH:
            return "the return path"
        case channel:
            return f"the {channel} channel"
    return f"{article} {kind}" if number is None else f"{kind} {number}"


def action_name(action: plan.Action) -> str:
    """Its word in the scenario language: `reset`, `half_close`, `set`."""
    name = type(action).__name__.removesuffix("Field").removesuffix("Bits")
    return re.sub(r"\B(?=[A-Z])", "_", name).lower()


def action_words(action: plan.Action) -> str:
    """What it does, as an order: `reset both sides (RST)`."""
    if isinstance(action, plan.OnContent):
        return _on_content(action)
    if isinstance(action, plan.OnTime):
        return _on_time(action)
    if isinstance(action, plan.Signal):
        return f"send SIG{action.signal} to the {action.side}'s process"
    return _on_connection(action)


def _on_connection(action: plan.OnConnection) -> str:
    match action:
        case plan.Close(side=side):
            return f"close {_sides(side)} (FIN)"
        case plan.Reset(side=side):
            return f"reset {_sides(side)} (RST)"
        case plan.HalfClose(toward=toward):
            return f"end what goes toward the {toward} (FIN); the other direction goes on"
        case plan.Blackhole(toward=toward, swallow=swallow):
            dropped = "what comes is read and dropped" if swallow else "nothing is read either"
            return f"keep the connection and pass nothing more {_ways(toward)}; {dropped}"
        case plan.Truncate():
            return "end the stream here (FIN) and drop the rest; the other direction goes on"
        case plan.Refuse(for_s=for_s):
            how_long = "any more" if for_s is None else f"for {time_words(for_s)}"
            return f"refuse it, nobody listens {how_long}"
        case plan.DelayAccept(for_s=for_s):
            return f"let it wait for {time_words(for_s)} before anything of it is read"
        case plan.Tarpit():
            return "take it, and never read from it"


def _on_content(action: plan.OnContent) -> str:
    match action:
        case plan.SetField(value=int(value)):
            return f"write {value:#x} over it"
        case plan.SetField(value=bytes(value)):
            return f"put {_bytes(value)}, in its place"
        case plan.FlipBits(mask=mask):
            return f"flip the bits {_hex(mask)} of it"
        case plan.Insert(data=data):
            return f"put in {_bytes(data)}"
        case plan.Delete():
            return "take it out"
        case plan.Duplicate():
            return "send it twice"
        case plan.Swap():
            return "exchange it with the next of its kind"
        case plan.Replay(place=place):
            return f"put in again what passed last as {place_words(place)}"
        case plan.StalePage():
            return "send the data that the page had the time before"
    raise AssertionError(action)


def _on_time(action: plan.OnTime) -> str:
    match action:
        case plan.Stall(for_s=for_s, toward=toward):
            return f"pass nothing {_ways(toward)} for {time_words(for_s)}, then go on"
        case plan.Latency(delay_s=delay_s, jitter_s=jitter_s, toward=toward):
            jitter = f", up to {time_words(jitter_s)} more or less" if jitter_s else ""
            return f"have everything {_ways(toward)} come {time_words(delay_s)} later{jitter}"
        case plan.Bandwidth(bytes_per_s=rate, toward=toward):
            return f"pass no more than {size_words(rate)} a second {_ways(toward)}"
        case plan.Slice():
            more = (
                f", up to {action.variation_bytes} more or less" if action.variation_bytes else ""
            )
            pause = f", {time_words(action.delay_s)} apart" if action.delay_s else ""
            segments = f"segments of {size_words(action.average_bytes)}{more}{pause}"
            return f"send everything {_ways(action.toward)} in {segments}"
        case plan.Restore(toward=toward):
            return f"have rate and time {_ways(toward)} as if no fault had touched them"
    raise AssertionError(action)


def _sides(side: Side) -> str:
    return "both sides" if side is Side.BOTH else f"the {side}'s side"


def _ways(toward: Side) -> str:
    return "in both directions" if toward is Side.BOTH else f"toward the {toward}"


def _which(occurrence: int, each: bool) -> str:
    return "each" if each else f"the {ordinal(occurrence)}"


def _nth_time(occurrence: int) -> str:
    return "" if occurrence == 1 else f" for the {ordinal(occurrence)} time"


def _bytes(data: bytes) -> str:
    return f"{len(data)} byte{'s' * (len(data) != 1)}, {_hex(data)}"


def _hex(data: bytes) -> str:
    more = " and so on" if len(data) > HEX_SHOWN_BYTES else ""
    return f"{data[:HEX_SHOWN_BYTES].hex(' ')}{more}"


def ordinal(number: int) -> str:
    """`first`, `2nd`, `3rd`, `11th`."""
    if number == 1:
        return "first"
    ends = {1: "st", 2: "nd", 3: "rd"}
    return f"{number}{'th' if number % 100 in (11, 12, 13) else ends.get(number % 10, 'th')}"


def word_of(number: int) -> str:
    """`first`, `second`, `third`, `4th`: where a number would look like a label."""
    return {2: "second", 3: "third"}.get(number, ordinal(number))


def size_words(size_bytes: int) -> str:
    """`10 MiB`, `1500 bytes`."""
    for unit, name in UNITS:
        if size_bytes >= unit and size_bytes % unit == 0:
            return f"{size_bytes // unit} {name}"
    return f"{size_bytes} byte{'s' * (size_bytes != 1)}"


def time_words(seconds: float) -> str:
    """`50 ms`, `2 s`."""
    return f"{seconds:.10g} s" if seconds >= 1 else f"{seconds * 1000:.10g} ms"


def listed(words: list[str]) -> str:
    """`a, b and c`."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
