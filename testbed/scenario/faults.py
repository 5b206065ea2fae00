"""From the faults that a file states to those that the fault engine takes."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum

from testbed.fault import plan
from testbed.fault.validate import ELSEWHERE
from testbed.wire import build_command, build_message, build_section, encode
from testbed.wire.build import page
from testbed.wire.element import CommandType, MessageType, SectionType

from . import actions, places
from .conditions import ConditionsModel
from .model import Model
from .strikes import FaultModel


def plan_fault(model: FaultModel, number: int, where: str) -> plan.Fault:
    """The fault that a file states as its `number`th, at `where` (file:line:column)."""
    return plan.Fault(
        place=place_of(model.at),
        action=_action(model.do),
        name=fault_name(model, number),
        point=plan.Point(model.point),
        attempt=None if model.attempt == "every" else model.attempt,
        connection=model.connection,
        times=None if model.times == "every" else model.times,
        conditions=tuple(_conditions(model.when)),
        everywhere=model.connections == "all",
        where=where,
    )


def fault_name(model: FaultModel, number: int) -> str:
    """What it is called: by the file, or by its number."""
    return model.name or f"fault_{number}"


def place_of(at: Model) -> plan.Place:
    """The place that a file states."""
    match at:
        case places.ConnectionAt():
            return plan.ConnectionPlace(at.connection)
        case places.StateAt():
            return plan.StatePlace(
                plan.Side(at.side), at.state, at.event, at.occurrence, *channel_of(at.channel)
            )
    return _in_stream(at)


def channel_of(name: str) -> tuple[plan.Channel, int | None]:
    """A channel, and its number if it is one of several, of a word such as `multifd-2`."""
    kind, _, number = name.rpartition("-")
    if number.isdecimal():
        return plan.Channel(kind), int(number)
    return plan.Channel(name), None


def _in_stream(at: Model) -> plan.StreamPlace:
    match at:
        case places.SectionAt():
            return plan.SectionPlace(
                at.section, at.kind, at.instance, at.occurrence, at.part, at.field, at.byte
            )
        case places.PageAt():
            return plan.PagePlace(
                at.block,
                at.page,
                at.page_record,
                at.occurrence,
                at.phase,
                at.field,
                at.byte,
                plan.Channel(at.channel),
            )
        case places.BlockAt():
            return plan.BlockPlace(at.block, at.passed, at.share)
        case places.CommandAt():
            return plan.CommandPlace(at.command, at.occurrence, at.field, at.byte)
        case places.MessageAt():
            return plan.MessagePlace(at.message, at.occurrence, at.field, at.byte)
        case places.ElementAt():
            usual, *_ = ELSEWHERE.get(at.element, (plan.Channel.MAIN,))
            channel, number = channel_of(at.channel) if at.channel else (usual, None)
            return plan.ElementPlace(
                at.element, at.field, at.byte, at.name, at.occurrence, channel, number
            )
        case places.OffsetAt():
            return plan.OffsetPlace(at.offset, *channel_of(at.channel))
    raise AssertionError(at)


def _conditions(when: ConditionsModel) -> Iterator[plan.Condition]:
    yield from map(plan.AfterFault, when.after or ())
    if when.reached is not None:
        yield plan.Reached(tuple(map(place_of, when.reached)))
    if when.until is not None:
        yield plan.Before(place_of(when.until))
    if when.vcpus is not None:
        yield plan.Vcpus(when.vcpus == "running")
    if when.chance is not None:
        yield plan.Chance(when.chance)


def _action(do: Model) -> plan.Action:
    match do:
        case actions.CloseIt(close=on):
            return plan.Close(plan.Side(on.side))
        case actions.ResetIt(reset=on):
            return plan.Reset(plan.Side(on.side))
        case actions.HalfCloseIt(half_close=direction):
            return plan.HalfClose(plan.Side(direction.toward))
        case actions.BlackholeIt(blackhole=dark):
            return plan.Blackhole(plan.Side(dark.toward), dark.swallow)
        case actions.TruncateIt():
            return plan.Truncate()
        case actions.RefuseIt(refuse=refusal):
            return plan.Refuse(refusal.for_)
        case actions.DelayAcceptIt(delay_accept=for_s):
            return plan.DelayAccept(for_s)
        case actions.TarpitIt():
            return plan.Tarpit()
        case actions.SignalIt(signal=to):
            return plan.Signal(plan.Side(to.side), to.signal)
    return _on_time(do) or _on_content(do)


def _on_time(do: Model) -> plan.Action | None:
    match do:
        case actions.StallIt(stall=stall):
            return plan.Stall(stall.for_, plan.Side(stall.toward))
        case actions.LatencyIt(latency=late):
            return plan.Latency(late.delay, late.jitter, plan.Side(late.toward))
        case actions.BandwidthIt(bandwidth=limit):
            return plan.Bandwidth(limit.rate, plan.Side(limit.toward))
        case actions.SliceIt(slice=cut):
            return plan.Slice(cut.size, cut.variation, cut.delay, plan.Side(cut.toward))
        case actions.RestoreIt(restore=direction):
            return plan.Restore(plan.Side(direction.toward))
    return None


def _on_content(do: Model) -> plan.Action:
    match do:
        case actions.SetIt(set=value):
            return plan.SetField(_value(value))
        case actions.FlipIt(flip=mask):
            return plan.FlipBits(mask)
        case actions.InsertIt(insert=new):
            return plan.Insert(_bytes(new))
        case actions.DeleteIt():
            return plan.Delete()
        case actions.DuplicateIt():
            return plan.Duplicate()
        case actions.SwapIt():
            return plan.Swap()
        case actions.ReplayIt(replay=at):
            return plan.Replay(_in_stream(at))
        case actions.StalePageIt():
            return plan.StalePage()
    raise AssertionError(do)


def _value(value: int | str | actions.RawBytes) -> int | bytes:
    match value:
        case actions.RawBytes(hex=raw):
            return raw
        case str():
            return value.encode()
    return value


def _bytes(new: Model) -> bytes:
    match new:
        case actions.NewBytes(hex=raw):
            return raw
        case actions.NewCommand():
            number = _number(CommandType, new.command)
            return build_command(number, _payload(new.payload), length=new.length)
        case actions.NewMessage():
            number = _number(MessageType, new.message)
            return build_message(number, _payload(new.payload), length=new.length)
        case actions.NewPageElement(page=record):
            data = _payload(record.data).ljust(actions.PAGE_BYTES, b"\0")
            return encode(page(record.block, record.page * actions.PAGE_BYTES, data))
        case actions.NewSectionElement(section=section):
            return build_section(
                SectionType[section.type.upper()],
                section.id,
                section.idstr,
                section.instance,
                section.version,
                _payload(section.payload),
                footer=section.footer,
            )
    raise AssertionError(new)


def _number(numbers: type[IntEnum], named: int | str) -> int:
    """The number of a name of QEMU's, or that which is written."""
    if isinstance(named, int):
        return named
    return int(named, 16) if named.startswith("0x") else numbers[named].value


def _payload(raw: actions.RawBytes | None) -> bytes:
    return b"" if raw is None else raw.hex
