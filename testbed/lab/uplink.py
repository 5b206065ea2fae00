"""The destination's uplink: what becomes of its announcements there, and when it passes frames.

Nothing here does I/O: frames and states come in, verdicts and frames to be sent go out. What was
done is in the log as `announce-fault`: `nth`, `what`, and for what changed bytes `offset`, `before`
and `after` (hexadecimal). A forged frame has nothing before, a lost one nothing after.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any, TypeVar

from testbed.fault.plan import Side, StatePlace
from testbed.log import Log
from testbed.netns.interposer import Direction, Drop, Instead, Outgoing, Pass, Verdict
from testbed.netns.rarp import is_rarp, rarp_frame

from .announce import EVERY, Alteration, AnnounceFaults, Forged, Port

LOST_LOGGED_MAX = 100
"""Frames, other than announcements, that the log names as lost while the uplink was down."""
DONE = {"drop": "dropped", "delay": "delayed", "duplicate": "duplicated", "alter": "altered"}
LINK_DOWN = "the uplink was down"

T = TypeVar("T")
Key = tuple[str, int]
"""What is done, and the number that the scenario gives it."""


class UplinkRule:
    """The interposer's rule: acts on the destination's announcements, passes all else.

    `count` of them have come, those included that went no further.

    Args:
        faults: what is done.
        log: where it is written.
        ports: what is written to for a frame to come in at a port of the switch.
    """

    def __init__(self, faults: AnnounceFaults, log: Log, ports: Mapping[Port, int]) -> None:
        self._faults = faults
        self._log = log
        self._ports = ports
        self._numbers: dict[str, Collection[int]] = {
            "drop": faults.drop,
            # No time at all takes one out of a delay of all others.
            "delay": [number for number, delay_s in faults.delay_s.items() if delay_s],
            "duplicate": faults.copies,
            "alter": faults.alter,
        }
        self._random = random.Random(faults.seed)  # noqa: S311 - repeatable on purpose
        self._is_up = faults.link_up is None
        self._lost = 0  # both ways
        self._kept_off = False  # one that came from the destination was lost
        self._seen: Counter[Key] = Counter()  # how often the state of each came
        self._struck: set[Key] = set()
        self._missed: dict[Key, str] = {}  # why, of what had its announcement
        self.count = 0

    def __call__(self, direction: Direction, frame: bytes) -> Verdict:
        """Say what goes on in place of `frame`."""
        if direction is not Direction.A_TO_B or not is_rarp(frame):
            return Pass() if self._is_up else self._lose(direction, frame)
        self.count += 1
        before = self._forged_beside("before")
        kept, after_s = self._kept(frame)
        frames = (*before, *kept, *self._forged_beside("after"))
        if frames == (Outgoing(frame),) and not after_s:
            return Pass()
        return Instead(frames, after_s) if frames else Drop()

    def observed(self, side: Side, event: str, status: str | None = None) -> list[Outgoing]:
        """Take in what QMP reported; the frames that are to be sent for it."""
        return [
            frame
            for number, forged in enumerate(self._faults.forge)
            if forged.at and self._reached(("forge", number), forged.at, side, event, status)
            for frame in self._forged(number, forged)
        ]

    def link_due_in_s(self, side: Side, event: str, status: str | None = None) -> float | None:
        """The seconds after which the link comes up, if what QMP reported is what it waits for."""
        due = self._faults.link_up
        if due and self._reached(("link-up", EVERY), due.at, side, event, status):
            return due.after_s
        return None

    def bring_link_up(self) -> None:
        """From now on frames pass."""
        self._is_up = True
        if self._kept_off:
            self._struck.add(("link-up", EVERY))
        else:
            self._missed["link-up", EVERY] = "nothing came from the destination before it came up"
        self._log.write("switch", "link-up", port=Port.DESTINATION, lost=self._lost)

    def _reached(
        self, key: Key, place: StatePlace, side: Side, event: str, status: str | None
    ) -> bool:
        wanted = ("MIGRATION", place.status) if place.status else (place.event, None)
        if place.side is not side or wanted != (event, status if place.status else None):
            return False
        self._seen[key] += 1
        return self._seen[key] == place.occurrence

    # What becomes of an announcement

    def _kept(self, frame: bytes) -> tuple[tuple[Outgoing, ...], float]:
        """What goes on of the announcement that has just come, and how much later."""
        if not self._is_up:
            self._lost += 1
            self._kept_off = True
            self._did("link-down", offset=0, before=frame.hex(), after="")
            for what, numbers in self._numbers.items():
                for number in {self.count, EVERY} & set(numbers):
                    self._missed[what, number] = LINK_DOWN
            return (), 0.0
        if self._is_dropped(frame):
            return (), 0.0
        altered = self._altered(frame)
        delayed, after_s = self._entry(self._faults.delay_s, 0.0)
        if after_s:
            self._strike(("delay", delayed), for_s=after_s)
        duplicated, copies = self._entry(self._faults.copies, 0)
        if copies:
            self._strike(("duplicate", duplicated), copies=copies)
        return (Outgoing(altered),) * (1 + copies), after_s

    def _is_dropped(self, frame: bytes) -> bool:
        lost = {"offset": 0, "before": frame.hex(), "after": ""}
        for number in (self.count, EVERY):
            if number in self._faults.drop:
                self._strike(("drop", number), **lost)
                return True
        share = self._faults.drop_share
        if share is None:
            return False
        drawn = self._random.random()
        if drawn < share:
            self._struck.add(("share", EVERY))
            self._did("drop", share=share, seed=self._faults.seed, drawn=round(drawn, 6), **lost)
        return drawn < share

    def _altered(self, frame: bytes) -> bytes:
        number, alterations = self._entry(self._faults.alter, ())
        for each in alterations:
            end = each.offset + len(each.data)
            before = frame[each.offset : end]
            if end > len(frame):
                self._missed["alter", number] = f"it has only {len(frame)} bytes"
            elif before == each.data:
                self._missed["alter", number] = "its bytes were the same already"
            else:
                frame = frame[: each.offset] + each.data + frame[end:]
                self._strike(("alter", number), **_changed(each, before))
        return frame

    def _entry(self, table: Mapping[int, T], nothing: T) -> tuple[int, T]:
        """What a table has for the present announcement, and the number that it stands under."""
        number = self.count if self.count in table else EVERY
        return number, table.get(number, nothing)

    # Forged ones

    def _forged_beside(self, where: str) -> list[Outgoing]:
        """Those that stand right before, or right after, the present announcement."""
        return [
            frame
            for number, forged in enumerate(self._faults.forge)
            if getattr(forged, where) == self.count
            for frame in self._forged(number, forged)
        ]

    def _forged(self, number: int, forged: Forged) -> Iterator[Outgoing]:
        if forged.port is Port.DESTINATION and not self._is_up:
            self._missed["forge", number] = LINK_DOWN
            return
        frame = rarp_frame(forged.mac)
        facts = {"port": forged.port, "mac": forged.mac, "offset": 0, "before": ""}
        self._strike(("forge", number), **facts, after=frame.hex())
        yield Outgoing(frame, self._ports[forged.port])

    # While the link is down

    def _lose(self, direction: Direction, frame: bytes) -> Verdict:
        """A frame other than an announcement is lost."""
        self._lost += 1
        self._kept_off |= direction is Direction.A_TO_B
        if self._lost <= LOST_LOGGED_MAX:
            self._log.write(
                "switch",
                "frame-lost",
                toward="switch" if direction is Direction.A_TO_B else "destination",
                source=frame[6:12].hex(":"),
                destination=frame[:6].hex(":"),
                ethertype=f"0x{frame[12:14].hex()}",
                length=len(frame),
            )
        return Drop()

    # What was done, and what was not

    def _strike(self, key: Key, **facts: Any) -> None:
        self._struck.add(key)
        self._did(key[0], **facts)

    def _did(self, what: str, **facts: Any) -> None:
        self._log.write("switch", "announce-fault", nth=self.count, what=what, **facts)

    def note_unfired(self) -> None:
        """Write down how many announcements came and what was not done to any; no more come."""
        drawn = self._faults.drop_share is not None
        self._log.write(
            "switch",
            "announce-totals",
            count=self.count,
            unfired=[*self._not_done()],
            **({"share": self._faults.drop_share, "seed": self._faults.seed} if drawn else {}),
        )

    def _not_done(self) -> Iterator[str]:
        faults = self._faults
        for what, numbers in self._numbers.items():
            for number in sorted(numbers):
                if (what, number) not in self._struck:
                    which = f"announcement {number} was not" if number else "no announcement was"
                    yield f"{which} {DONE[what]}: {self._why((what, number))}"
        if faults.drop_share is not None and ("share", EVERY) not in self._struck:
            chance = f", and chance spared each (seed {faults.seed})" if self.count else ""
            yield f"no announcement was dropped: {self._why(('share', EVERY))}{chance}"
        for number, forged in enumerate(faults.forge):
            if ("forge", number) not in self._struck:
                yield f"the {forged} was not sent: {self._why(('forge', number), forged.at)}"
        if faults.link_up and ("link-up", EVERY) not in self._struck:
            what = "kept nothing off" if self._is_up else "did not come up"
            yield f"the uplink {what}: {self._why(('link-up', EVERY), faults.link_up.at)}"

    def _why(self, key: Key, at: StatePlace | None = None) -> str:
        if key in self._missed:
            return self._missed[key]
        if at is None:
            return f"{self.count} came" if self.count else "none came"
        if self._seen[key] >= at.occurrence:
            return "the run ended before that"
        return f"the {at.side} said {at.status or at.event} {self._seen[key]} times"


def _changed(alteration: Alteration, before: bytes) -> dict[str, Any]:
    """How an alteration stands in the log."""
    named = {"field": alteration.name} if alteration.name else {}
    return {
        **named,
        "offset": alteration.offset,
        "before": before.hex(),
        "after": alteration.data.hex(),
    }
