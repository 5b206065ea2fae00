"""What happens at a proxy, a line for each thing that a person would want to know."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from testbed.log import Event

from .picture import size
from .words import printable, shortened

LINE_MAX = 400
OUTCOMES = {
    "whole": "the stream was whole",
    "cut": "the stream was cut",
    "paused": "lost in postcopy, and not recovered",
    "refused": "the destination refused",
    "encrypted": "encrypted: how it ended cannot be seen",
}
CHANNELS = {
    "main": "the main channel",
    "recovery": "a recovery of the main channel",
    "multifd": "a multifd channel",
    "preempt": "the postcopy-preempt channel",
    "tls": "encrypted (TLS)",
}


class Journal:
    """Turns events into lines.

    Args:
        began: when the log did, by the clock on the wall.
    """

    def __init__(self, began: datetime) -> None:
        self._began = began

    def line(self, event: Event) -> str | None:
        """The event on a line, without its end; None if a person need not know."""
        tell = TELLERS.get(event.kind)
        text = tell(event.facts) if tell is not None else None
        if text is None:
            return None
        if event.actor == "nbd":
            text = f"NBD: {text}"
        elif "proxy" in event.facts:  # of one that the control server has made
            text = f"proxy {event.facts['proxy']}: {text}"
        at = self._began + timedelta(seconds=event.at_s)
        return shortened(f"{at:%Y-%m-%d %H:%M:%S}.{at:%f}"[:23] + f"  {printable(text)}", LINE_MAX)


def _on(facts: Mapping[str, Any]) -> str:
    return f"connection {facts['connection']}"


def _opened(facts: Mapping[str, Any]) -> str:
    peer = f" from {facts['peer']}" if facts.get("peer") else ""
    return f"{_on(facts)}{peer}"


def _identified(facts: Mapping[str, Any]) -> str | None:
    channel = CHANNELS.get(facts["channel"])
    return f"{_on(facts)} is {channel}" if channel is not None else None  # a stray is told


def _ended(facts: Mapping[str, Any]) -> str:
    by = {"fault": "by a fault", "proxy": "by the proxy"}.get(
        facts["ended_by"], f"by the {facts['ended_by']}"
    )
    forward, back = size(facts["bytes_forward"]), size(facts["bytes_back"])
    return f"{_on(facts)} ended {by} ({facts['how']}); {forward} to the destination, {back} back"


def _struck(facts: Mapping[str, Any]) -> str:
    where = f", connection {facts['connection']}" if facts.get("connection") else ""
    at = f" at the {facts['element']}" if facts.get("element") else ""
    offset = f", offset {facts['offset']}" if facts.get("offset") is not None else ""
    changed = ""
    if facts.get("before") or facts.get("after"):
        changed = f": {facts.get('before') or 'nothing'} -> {facts.get('after') or 'nothing'}"
    return f"fault {facts['fault']} strikes: {facts['action']}{at}{where}{offset}{changed}"


def _migration_ended(facts: Mapping[str, Any]) -> str:
    forward = size(facts["bytes_forward"])
    return (
        f"migration {facts['migration']} is over: {OUTCOMES[facts['outcome']]}; "
        f"{forward} in {facts['took_s']:.1f} s"
    )


def _message(facts: Mapping[str, Any]) -> str | None:
    if facts["message"] != "SHUT":
        return None
    value = facts["value"]
    said = "it has all" if value == 0 else f"it failed ({value})"
    return f"{_on(facts)}: the destination shuts the return path: {said}"


TELLERS: dict[str, Callable[[Mapping[str, Any]], str | None]] = {
    "listening": lambda facts: f"listening on {facts['address']}, going on to {facts['upstream']}",
    "accept-paused": lambda facts: f"no connection can be taken for now: {facts['error']}",
    "connections-surplus": lambda facts: (
        f"too many connections, {facts['open']} are open: {facts['reset']} were reset, and "
        f"{facts['evicted']} that had said nothing made room"
    ),
    "connection-broke": lambda facts: (
        f"{_on(facts)} is reset by an error of the testbed's own: {facts['error']}"
    ),
    "broke": lambda facts: f"an error of the testbed's own: {facts['error']}",
    "proxy-broke": lambda facts: f"it ends by an error of the testbed's own: {facts['error']}",
    "proxy-not-restored": lambda facts: f"it is not as it was: {facts['error']}",
    "stray-connection": lambda facts: (
        f"{_on(facts)} is not a migration's: {facts['what']}; {facts['meaning']}"
    ),
    "seed": lambda facts: f"seed {facts['seed']}",
    "control-started": lambda facts: (
        f"control: listening on {facts['address']}, seed {facts['seed']}"
    ),
    "recording": lambda facts: f"recording into {facts['folder']}",
    "json-log-dropped": lambda facts: (
        f"{facts['file']}: {facts['events']} events could not be written in time"
    ),
    "json-log-ended": lambda facts: f"{facts['file']}: no more is written: {facts['why']}",
    "recording-ended": lambda facts: f"the recording has ended: {facts['why']}",
    "connection-opened": _opened,
    "connection-identified": _identified,
    "connection-ended": _ended,
    "upstream-refused": lambda facts: (
        f"{_on(facts)} cannot go on to {facts['address']}: {facts['error']}"
    ),
    "message": _message,
    "fault-struck": _struck,
    "fault-unfired": lambda facts: facts["sentence"],
    "migration-began": lambda facts: f"migration {facts['migration']} begins",
    "migration-ended": _migration_ended,
    "stopping": lambda facts: facts["sentence"],
}
