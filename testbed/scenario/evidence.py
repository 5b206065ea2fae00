"""What a run's own instruments lost, and what therefore cannot be told of it.

The capture, the probe, the interposed uplink and the log have bounds, and the kernel drops frames
that nobody takes in time. Each says so in the log. What rests on something that was lost is unknown
here: neither a pass nor a failure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from testbed.log import DROPPED, FULL, Event, Log

from .result import Check

FRAME_CHECKS = (
    "expect.announce.",
    "expect.forwarding.",
    "invariant: no frame of the guest",  # from the destination before the source stopped
    "invariant: the guest is announced",
)
"""Names, or their beginnings, of checks that rest on the frames that the capture saw."""
HARMLESS = frozenset({"frame-lost", "progress"})
"""Kinds of events that no verdict and no check is made of."""
SIDES = ("source", "destination")


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is missing of a run's evidence: a sentence for each thing, None or empty for nothing.

    `stderr` is by side; `deciding` is missing if events are that a verdict is made of; `waited` if
    what a wait was for may have come unseen; `serial` if a guest may have spoken unseen.
    """

    frames: str | None = None
    probes: str | None = None
    stderr: Mapping[str, str] = field(default_factory=dict)
    deciding: str | None = None
    waited: str | None = None
    serial: str | None = None

    @classmethod
    def of(cls, log: Log) -> Evidence:
        """What the log of a run says that was lost."""
        dropped = log.first(DROPPED)
        kinds: Mapping[str, int] = {} if dropped is None else dropped.facts["kinds"]
        deciding = {
            kind: count
            for kind, count in kinds.items()
            if kind not in HARMLESS and kind not in ("frame", "stderr")
        }
        return cls(
            _frames(log, kinds.get("frame", 0)),
            _probes(log),
            dict(_stderr(log, kinds.get("stderr", 0))),
            f"the log was full, and lost {_counted(deciding)}" if deciding else None,
            _waited(log),
            _serial_cut(log),
        )

    def why_unknown(self, verdict: str) -> str | None:
        """Why a verdict that was made of the log cannot be told; None: it can."""
        if self.deciding is not None:
            return self.deciding
        if verdict == "hang":  # it may have waited for a frame that nobody saw
            return self.waited or self.frames
        return self.serial if verdict == "guest-lost" else None

    def weighed(self, check: Check) -> Check:
        """The check as far as the evidence goes: `passed` is None where it does not."""
        if check.name.startswith(FRAME_CHECKS):
            # A frame that was seen was there, whatever else was lost.
            seen = check.name.startswith("invariant: no frame") and check.passed is False
            return check if seen else _unknown(check, self.frames)
        if check.name == "expect.outage":
            return _unknown(check, self.probes)
        for side, why in self.stderr.items():
            # A line that was found was there; one that was not may be among those that were lost.
            found = {f"expect.{side}.stderr": True, f"expect.{side}.no_stderr": False}
            if check.name in found and check.passed is not found[check.name]:
                return _unknown(check, why)
        return check


def _unknown(check: Check, why: str | None) -> Check:
    return check if why is None else replace(check, passed=None, got=f"{check.got} ({why})")


def _frames(log: Log, dropped: int) -> str | None:
    why = []
    captured = _last(log, "capture-lost")
    if captured is not None:
        why.append(f"the capture lost frames: {captured.facts['sentence']}")
    held = _last(log, "uplink-overflowed")
    if held is not None:
        why.append(f"the interposed uplink held too many frames and lost {held.facts['frames']}")
    if dropped:
        why.append(f"the log was full, and lost {dropped} frames")
    return "; ".join(why) or None


def _probes(log: Log) -> str | None:
    outage = _last(log, "outage")
    lost = 0 if outage is None else outage.facts.get("unseen", 0)
    return f"the kernel dropped {lost} frames before the probe saw them" if lost else None


def _stderr(log: Log, dropped: int) -> Iterator[tuple[str, str]]:
    for side in SIDES:
        cut = log.first("stderr-cut", side)
        if cut is not None:
            yield side, f"of its stderr only {cut.facts['lines_max']} lines were kept"
        elif dropped:
            yield side, f"the log was full, and lost {dropped} lines of stderr"


def _serial_cut(log: Log) -> str | None:
    cut = log.first("serial-cut")
    return None if cut is None else f"of the {cut.actor}'s serial line nothing more was kept"


def _waited(log: Log) -> str | None:
    """Why a wait may have missed what it was for: something was lost before it expired."""
    expired = log.first("wait-expired", "run", provided_for=None)
    for loss in (log.first(FULL), log.first("serial-cut")):
        if loss is not None and expired is not None and loss.number < expired.number:
            what = expired.facts["what"]
            return f"waited for {what}, which did not come, but the log lost events before that"
    return None


def _last(log: Log, kind: str) -> Event | None:
    return next(reversed(list(log.find(kind))), None)


def _counted(kinds: Mapping[str, int]) -> str:
    return ", ".join(f"{count} x {kind}" for kind, count in sorted(kinds.items()))
