"""A run told in a few lines: what a person who watched it would remember."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from testbed.log import Event, Log

LINES_MAX = 40


def story(log: Log) -> Iterator[str]:
    """The lines, each with its time in seconds; at most `LINES_MAX`."""
    announcements = 0
    told = 0
    for event in sorted(log, key=lambda event: event.at_s):
        if event.kind == "frame":
            if event.facts["port"] != "destination":
                continue
            announcements += "rarp" in event.facts
            if announcements != 1:
                continue
        text = _told(event)
        if text is None:
            continue
        told += 1
        if told > LINES_MAX:
            yield "         ..."
            return
        yield f"{event.at_s:7.3f}  {event.actor:<11}  {text}"
    if announcements:
        many = f"{announcements} announcement{'s' * (announcements != 1)}"
        yield f"{'':7}  {'switch':<11}  {many} came in from the destination"


def _told(event: Event) -> str | None:
    tell = TELLERS.get(event.kind)
    return tell(event.facts) if tell is not None else None


def _guest(facts: Any) -> str | None:
    return {"STOP": "the guest stops", "RESUME": "the guest runs"}.get(facts["event"])


def _process(facts: Any) -> str | None:
    if facts["asked"]:
        return None
    return f"its process ends: {facts.get('signal') or facts['status']}"


def _frame(facts: Any) -> str | None:
    return f"RARP for {facts['source']} comes in from the destination" if "rarp" in facts else None


def _announce_fault(facts: Any) -> str:
    if facts["what"] == "forge":
        return f"a forged announcement of {facts['mac']} at the {facts['port']}'s port"
    changed = f" at byte {facts['offset']}" if facts["what"] == "alter" else ""
    return f"announcement {facts['nth']}: {facts['what']}{changed}"


def _memory(facts: Any) -> str:
    said = f"guest memory: {facts['pages']} pages, {'intact' if facts['intact'] else 'NOT intact'}"
    if unknown := facts.get("others_unknown"):
        said += f"; of {unknown} others it is not known what was sent"
    return said


def _unchecked(facts: Any) -> str:
    return f"{facts['what'].replace('_', ' ')} not checked: {facts['why']}"


def _devices(facts: Any) -> str:
    count = len(facts["differences"])
    if not count and not facts.get("content", True):
        return "device state: all sections are there; of a guest that ran no content is compared"
    return f"device state: {f'{count} differences' if count else 'as the source sent it'}"


def _ready(facts: Any) -> str:
    name = "the model of QEMU" if facts["kind"] == "model" else "QEMU"
    machine = f", machine {facts['machine']}" if "machine" in facts else ""
    return f"is {name} {'.'.join(map(str, facts['version']))}{machine}"


def _toxiproxy(facts: Any) -> str:
    toxics = ", ".join(toxic["name"] for toxic in facts["toxics"]) or "no toxics"
    return f"leads through Toxiproxy {facts['version']} at {facts['server']}: {toxics}"


TELLERS: dict[str, Callable[[Any], str | None]] = {
    "endpoint-ready": _ready,
    "toxiproxy": _toxiproxy,
    "migration-status": lambda facts: facts["status"],
    "wait-ended": lambda facts: f"no longer waits for {facts['what']}: {facts['why']}",
    "wait-expired": lambda facts: f"waited for {facts['what']}, which did not come",
    "qmp-event": _guest,
    "connection-opened": lambda facts: f"connection {facts['connection']}",
    "fault-struck": lambda facts: (
        f"{facts['fault']} strikes: {facts['action']} at the {facts['element']}"
    ),
    "stderr": lambda facts: f"says: {facts['text']}",
    "process-ended": _process,
    "announce-fault": _announce_fault,
    "link-up": lambda facts: f"the destination's uplink comes up; {facts['lost']} frames were lost",
    "frame": _frame,
    "forwarding": lambda facts: f"has the guest's MAC at the {facts['guest'] or 'port of nobody'}",
    "memory-checked": _memory,
    "device-state-checked": _devices,
    "unchecked": _unchecked,
    "outage": lambda facts: f"frames for the guest went astray for {facts['total_s']:g} s",
}
