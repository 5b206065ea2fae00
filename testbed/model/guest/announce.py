"""Self-announcement: RARP frames by which switches learn where a machine's addresses are now.

Frames go out at the backend, not through the guest, and on the real-time clock. A destination
announces when all is loaded, just before the guest may run, and in postcopy at RUN; `announce-self`
does so whenever it is asked. While the guest does not run the backend keeps the frames: those of a
destination with `-S` go out at `cont`, all that were due at once (measured on 5.2, 7.2 and 11.1).

Source: QEMU `net/announce.c`, `announce_self_create`, `qemu_announce_self_once`,
`qemu_announce_timer_step`, `qmp_announce_self`, since 4.0; early 2017 `migration/savevm.c` has the
same frames and what are the defaults here, and no command.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

MAC_BYTES = 6
BROADCAST = b"\xff" * MAC_BYTES
ETHERTYPE_RARP = b"\x80\x35"
REQUEST_REVERSE = bytes.fromhex("0001080006040003")
"""Ethernet, IPv4, the lengths of their addresses, the opcode (RFC 903)."""
NO_IP = bytes(4)
FRAME_BYTES = 60
"""Ethernet's minimum without the checksum, which hardware adds."""
TIMERS_MAX = 64
"""Of `Announcements`; QEMU has as many as were asked for."""


@dataclass(frozen=True, slots=True)
class AnnounceParameters:
    """`AnnounceParameters` of QAPI: `rounds` of frames, and the time from one to the next.

    That is `initial_ms` at first, and `step_ms` more each time, up to `max_ms`; a time below zero
    is `max_ms` too.
    """

    initial_ms: int = 50
    max_ms: int = 550
    rounds: int = 5
    step_ms: int = 100


def announcement(mac: bytes) -> bytes:
    """The frame that announces a MAC, 60 bytes."""
    assert len(mac) == MAC_BYTES, "a MAC has six bytes"
    body = REQUEST_REVERSE + mac + NO_IP + mac + NO_IP
    return (BROADCAST + mac + ETHERTYPE_RARP + body).ljust(FRAME_BYTES, b"\0")


class Announcer:
    """One timer: it announces all of its MACs in each round, in order.

    Args:
        macs: six bytes each.
        parameters: how often, and when.
    """

    def __init__(self, macs: Sequence[bytes], parameters: AnnounceParameters | None = None) -> None:
        self.next_at_s: float | None = None
        """When the next round is due; None: there is none."""
        self._frames = [announcement(mac) for mac in macs]
        self._parameters = parameters or AnnounceParameters()
        self._sent = 0  # rounds

    def begin(self, now_s: float) -> None:
        """Begin, or begin anew: the first round is due at once."""
        self._sent = 0
        self.next_at_s = now_s if self._parameters.rounds else None

    def advance(self, now_s: float) -> list[bytes]:
        """The frames of a round that is due, one for each MAC; empty if none is.

        The next one counts from now: one that is late makes those behind it later, too.
        """
        if self.next_at_s is None or now_s < self.next_at_s:
            return []
        wait_ms = self._parameters.initial_ms + self._sent * self._parameters.step_ms
        if not 0 <= wait_ms <= self._parameters.max_ms:
            wait_ms = self._parameters.max_ms
        self._sent += 1
        is_last = self._sent == self._parameters.rounds
        self.next_at_s = None if is_last else now_s + wait_ms / 1000
        return list(self._frames)


class Announcements:
    """All timers of a machine: that of migrations, and those of `announce-self` by their id.

    Args:
        nics: MACs by the names of QEMU's network clients, in the order of their creation. A NIC's
            name is its device's id, or its model and a number, as in `virtio-net-pci.0`.
    """

    def __init__(self, nics: Mapping[str, bytes]) -> None:
        self._nics = nics
        self._timers: dict[str | None, tuple[list[str], Announcer]] = {}

    @property
    def next_at_s(self) -> float | None:
        """When a round is due; None: none is."""
        times = (announcer.next_at_s for _, announcer in self._timers.values())
        return min((at_s for at_s in times if at_s is not None), default=None)

    def begin(
        self,
        now_s: float,
        parameters: AnnounceParameters | None = None,
        *,
        interfaces: Collection[str] | None = None,
        timer: str | None = None,
    ) -> None:
        """Begin to announce; the first round is due at once.

        Args:
            now_s: the time.
            parameters: how often, and when.
            interfaces: the NICs that are announced, and no others; one that is not there is
                nothing. None: all.
            timer: the id that `announce-self` was given, "" if it had none; None: a migration's.
                One that still runs is replaced.

        Raises:
            ValueError: so many run already.
        """
        if timer not in self._timers and len(self._timers) >= TIMERS_MAX:
            raise ValueError(f"{TIMERS_MAX} announcements at once are enough")
        names = [name for name in self._nics if interfaces is None or name in interfaces]
        announcer = Announcer([self._nics[name] for name in names], parameters)
        announcer.begin(now_s)
        self._timers[timer] = names, announcer
        self._forget()

    def advance(self, now_s: float) -> list[tuple[str, bytes]]:
        """The frames that are due, each with the name of the NIC that sends it."""
        due: list[tuple[str, bytes]] = []
        for names, announcer in self._timers.values():
            due += zip(names, announcer.advance(now_s), strict=False)
        self._forget()
        return due

    def _forget(self) -> None:
        """Drop the timers that are done."""
        running = self._timers.items()
        self._timers = {timer: both for timer, both in running if both[1].next_at_s is not None}
