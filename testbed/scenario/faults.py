"""From the faults that a file states to those that the fault engine takes."""

from __future__ import annotations

from testbed.fault import plan
from testbed.wire import build_command, build_section
from testbed.wire.element import SectionType

from . import schema


def plan_fault(model: schema.FaultModel, number: int, where: str) -> plan.Fault:
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


def _place(at: schema.Model) -> plan.Place:
    match at:
        case schema.SectionAt():
            return plan.SectionPlace(
                at.section, at.kind, at.instance, at.occurrence, at.part, at.field, at.byte
            )
        case schema.PageAt():
            return plan.PagePlace(
                at.block, at.page, at.page_record, at.occurrence, at.phase, at.field, at.byte
            )
        case schema.CommandAt():
            return plan.CommandPlace(at.command, at.occurrence, at.field, at.byte)
        case schema.MessageAt():
            return plan.MessagePlace(at.message, at.occurrence, at.field, at.byte)
        case schema.ElementAt():
            return plan.ElementPlace(at.element, at.field, at.byte)
        case schema.OffsetAt():
            return plan.OffsetPlace(at.offset, at.direction == "return-path")
        case schema.StateAt():
            return plan.StatePlace(plan.Side(at.side), at.state, at.event, at.occurrence)
    raise AssertionError(at)


def _action(do: schema.Model) -> plan.Action:
    match do:
        case schema.CloseIt(close=on):
            return plan.Close(plan.Side(on.side))
        case schema.ResetIt(reset=on):
            return plan.Reset(plan.Side(on.side))
        case schema.BlackholeIt(blackhole=dark):
            return plan.Blackhole(plan.Side(dark.toward), dark.swallow)
        case schema.StallIt(stall=stall):
            return plan.Stall(stall.for_, plan.Side(stall.toward))
        case schema.TruncateIt():
            return plan.Truncate()
        case schema.SetIt(set=value):
            return plan.SetField(_value(value))
        case schema.FlipIt(flip=mask):
            return plan.FlipBits(mask)
        case schema.InsertIt(insert=new):
            return plan.Insert(_bytes(new))
        case schema.DeleteIt():
            return plan.Delete()
    raise AssertionError(do)


def _value(value: int | str | schema.RawBytes) -> int | bytes:
    match value:
        case schema.RawBytes(hex=raw):
            return raw
        case str():
            return value.encode()
    return value


def _bytes(new: schema.NewElement) -> bytes:
    if new.hex is not None:
        return new.hex
    if new.command is not None:
        payload = new.payload.hex if new.payload is not None else b""
        return build_command(new.command, payload, length=new.length)
    assert new.section is not None
    section = new.section
    return build_section(
        SectionType[section.type.upper()],
        section.id,
        section.idstr,
        section.instance,
        section.version,
        section.payload.hex if section.payload is not None else b"",
        footer=section.footer,
    )
