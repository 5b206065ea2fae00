"""From the faults that a file states to those that the fault engine takes."""

from __future__ import annotations

from testbed.fault import plan
from testbed.wire import build_command, build_section
from testbed.wire.element import SectionType

from . import strikes
from .model import Model


def plan_fault(model: strikes.FaultModel, number: int, where: str) -> plan.Fault:
    """The fault that a file states as its `number`th, at `where` (file:line:column)."""
    return plan.Fault(
        place=_place(model.at),
        action=_action(model.do),
        name=model.name or f"fault_{number}",
        point=plan.Point(model.point),
        attempt=model.attempt,
        connection=model.connection,
        where=where,
    )


def _place(at: Model) -> plan.Place:
    match at:
        case strikes.SectionAt():
            return plan.SectionPlace(
                at.section, at.kind, at.instance, at.occurrence, at.part, at.field, at.byte
            )
        case strikes.PageAt():
            return plan.PagePlace(
                at.block, at.page, at.page_record, at.occurrence, at.phase, at.field, at.byte
            )
        case strikes.CommandAt():
            return plan.CommandPlace(at.command, at.occurrence, at.field, at.byte)
        case strikes.MessageAt():
            return plan.MessagePlace(at.message, at.occurrence, at.field, at.byte)
        case strikes.ElementAt():
            return plan.ElementPlace(at.element, at.field, at.byte)
        case strikes.OffsetAt():
            return plan.OffsetPlace(
                at.offset,
                plan.Channel.RETURN_PATH if at.direction == "return-path" else plan.Channel.MAIN,
            )
        case strikes.StateAt():
            return plan.StatePlace(plan.Side(at.side), at.state, at.event, at.occurrence)
    raise AssertionError(at)


def _action(do: Model) -> plan.Action:
    match do:
        case strikes.CloseIt(close=on):
            return plan.Close(plan.Side(on.side))
        case strikes.ResetIt(reset=on):
            return plan.Reset(plan.Side(on.side))
        case strikes.BlackholeIt(blackhole=dark):
            return plan.Blackhole(plan.Side(dark.toward), dark.swallow)
        case strikes.StallIt(stall=stall):
            return plan.Stall(stall.for_, plan.Side(stall.toward))
        case strikes.TruncateIt():
            return plan.Truncate()
        case strikes.SetIt(set=value):
            return plan.SetField(_value(value))
        case strikes.FlipIt(flip=mask):
            return plan.FlipBits(mask)
        case strikes.InsertIt(insert=new):
            return plan.Insert(_bytes(new))
        case strikes.DeleteIt():
            return plan.Delete()
    raise AssertionError(do)


def _value(value: int | str | strikes.RawBytes) -> int | bytes:
    match value:
        case strikes.RawBytes(hex=raw):
            return raw
        case str():
            return value.encode()
    return value


def _bytes(new: Model) -> bytes:
    match new:
        case strikes.NewBytes(hex=raw):
            return raw
        case strikes.NewCommand():
            return build_command(new.command, _payload(new.payload), length=new.length)
        case strikes.NewSectionElement(section=section):
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


def _payload(raw: strikes.RawBytes | None) -> bytes:
    return b"" if raw is None else raw.hex
