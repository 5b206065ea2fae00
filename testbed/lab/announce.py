"""What the L2 interposer does to the destination's announcements (RARP, EtherType 0x8035).

Source of the frames: QEMU `net/announce.c`, `qemu_announce_self_iter`; they leave the destination
when loading has succeeded (precopy) or at POSTCOPY_RUN.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from netns.interposer import Delay, Direction, Drop, Duplicate, Pass, Verdict
from testbed.log import Log

ETHERTYPE_RARP = b"\x80\x35"


@dataclass(frozen=True, slots=True)
class AnnounceFaults:
    """Which announcements are hit, counted from 1 as they come from the destination."""

    drop_all: bool = False
    drop: frozenset[int] = frozenset()
    delay_s: Mapping[int, float] = field(default_factory=dict)
    duplicate: frozenset[int] = frozenset()


class AnnounceRule:
    """The interposer's rule: counts the destination's announcements, passes all else."""

    def __init__(self, faults: AnnounceFaults, log: Log) -> None:
        self._faults = faults
        self._log = log
        self.count = 0

    def __call__(self, direction: Direction, frame: bytes) -> Verdict:
        """Say what happens to `frame`."""
        if direction is not Direction.A_TO_B or frame[12:14] != ETHERTYPE_RARP:
            return Pass()
        self.count += 1
        verdict = self._decide(self.count)
        if not isinstance(verdict, Pass):
            self._log.write(
                "switch",
                "announce-hit",
                nth=self.count,
                action=type(verdict).__name__.lower(),
                mac=frame[6:12].hex(":"),
            )
        return verdict

    def _decide(self, nth: int) -> Verdict:
        if self._faults.drop_all or nth in self._faults.drop:
            return Drop()
        if nth in self._faults.delay_s:
            return Delay(self._faults.delay_s[nth])
        if nth in self._faults.duplicate:
            return Duplicate(1)
        return Pass()
