"""The source of a migration: the time and what comes back in, effects out; no sockets, no clock.

Source: QEMU `migration/migration.c`, `migration_thread`, `postcopy_start`, `migration_completion`,
`source_return_path_thread`; early 2017 and 7.2.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from testbed.model.profile import Profile
from testbed.wire import build, encode
from testbed.wire.element import Command, CommandType, Element, Message, MessageType, Opaque

from .effects import Became, Effect, HangUp, ResumeGuest, Say, Send, Status, StopGuest
from .messages import Answers, cut_bitmap, wrong_bytes, wrong_message
from .outgoing import Outgoing
from .registry import Entry

WINDOW_S = 0.1
"""The rate limit counts anew in each; QEMU's `BUFFER_DELAY`."""
TURN_BYTES_MAX = 1 << 20
"""Of one turn: whoever drives it must get to do something else between two of them."""
URGENT_BYTES = 1
"""Of a turn for pages that were asked for: the first host page of them is sent whole."""
BUFFER_BYTES = 32768
"""What is smaller is collected; QEMU's `IO_BUF_SIZE`."""
EIO = -errno.EIO
FOR_A_COMMAND = (Status.POSTCOPY_PAUSED, Status.POSTCOPY_RECOVER, Status.CANCELLING)
"""What it is in until somebody acts: CANCELLING as well, if a paused migration is cancelled."""


class Requests(Protocol):
    """What the RAM handler does with what the destination asks for."""

    def request(self, block: str | None, offset_bytes: int, size_bytes: int) -> str | None:
        """Have these pages sent before others; None as the block: that of the last request.

        Returns why that cannot be, in QEMU's words; None if it can.
        """

    def requests_bitmaps(self) -> list[Command]:
        """RECV_BITMAP for each block, for a recovery."""

    def bitmap_bytes(self, message: Message) -> int | None:
        """Of the bitmap of the block that a RECV_BITMAP names; None: there is no such block."""

    def reload_bitmap(self, message: Message) -> str | None:
        """Take as dirty what the destination has not received; why it cannot be, or None.

        A bitmap that was cut short is refused, too.
        """


@dataclass(frozen=True, slots=True)
class Parameters:
    """Of the migration, as QMP sets them."""

    max_bandwidth_bytes: int = 128 << 20
    max_postcopy_bandwidth_bytes: int = 0  # no limit
    downtime_limit_s: float = 0.3
    return_path: bool = False
    postcopy: bool = False


class Source:
    """One outgoing migration. Every method returns the effects that it has, in order."""

    def __init__(
        self,
        machine: Outgoing,
        requests: Requests,
        profile: Profile,
        parameters: Parameters | None = None,
    ) -> None:
        self.status = Status.NONE
        self.error_desc: str | None = None
        self.start_postcopy_at_once = False
        """`migrate-start-postcopy` was asked for."""
        self.next_at_s = 0.0
        """When `advance` has something to do again, if nothing else happens."""
        self.parameters = parameters or Parameters()
        """May be replaced while it is under way."""
        self._machine, self._requests, self._profile = machine, requests, profile
        self._urgent = False  # pages were asked for: no rate limit holds them back
        self._effects: list[Effect] = []
        self._back: Answers | None = None
        self._shut: int | None = None  # what SHUT said
        self._back_failed = False
        self._failed = 0  # -errno of the connection
        self._iterated: Entry | None = None  # whose section the last turn wrote
        self._waited = False  # the turn before it was one too many for the rate limit
        self._footer = b""  # of the last PART, which goes out with what comes next
        self._guest_stopped = False
        self._starting = False  # the last turn switched to postcopy
        self._rest: Iterator[bytes] | None = None  # of the last of it, which is being sent
        self._written = False  # EOF went out: only the answer is missing
        self._window_began_s = 0.0
        self._window_bytes = 0
        self._bytes_per_s = 0.0  # as it was seen
        self._bitmaps_left = 0  # of a recovery

    @property
    def is_over(self) -> bool:
        """It came to its end, whichever."""
        return self.status in (Status.COMPLETED, Status.FAILED, Status.CANCELLED)

    @property
    def has_written_all(self) -> bool:
        """Nothing more will be written: a link that is lost now is not noticed by writing."""
        return self._written

    @property
    def waits(self) -> bool:
        """Nothing is to be done before something comes back, whatever the time."""
        if self.status in FOR_A_COMMAND:
            return True
        answered = self._back is None or self._back_failed or self._shut is not None
        return self._written and not answered and not self._failed

    @property
    def has_return_path(self) -> bool:
        """Whether it opens one: 2.9 does so for postcopy alone."""
        parameters = self.parameters
        return parameters.postcopy or (parameters.return_path and self._profile.pauses)

    def begin(self, now_s: float) -> list[Effect]:
        """The connection is there: send what begins the stream."""
        self._become(Status.SETUP)
        self._send(self._machine.header())
        if self.has_return_path:
            self._back = Answers(self._profile)
            self._send(encode(Command(CommandType.OPEN_RETURN_PATH, b"")))
            self._send(encode(build.ping(1)))
        if self.parameters.postcopy:
            self._send(self._machine.advise(self._profile))
        self._send_all(self._machine.setup())
        self._become(Status.ACTIVE)
        self._window_began_s = self.next_at_s = now_s
        return self._taken()

    def advance(self, now_s: float) -> list[Effect]:
        """One turn of the migration thread, once `next_at_s` has come."""
        self._starting = False
        self._new_window(now_s)
        if self._failed:
            self._detect()
        elif self._written:
            self._conclude()
        elif self.status in (Status.ACTIVE, Status.POSTCOPY_ACTIVE):
            if self._back_failed or self._shut is not None:  # who read it has closed the socket
                self._write_failed(EIO, os.strerror(errno.EBADF))
            elif self._rest is not None:
                self._complete_on(self._rest)
            else:
                self._iterate(now_s)
        return self._taken()

    def back(self, data: bytes) -> list[Effect]:
        """Bytes came on the return path."""
        if self._back is not None and not self._back_failed:
            self._take_messages(self._back.feed(data))
        return self._taken()

    def back_ended(self) -> list[Effect]:
        """The return path ended."""
        if self._back is not None and self._shut is None and not self._back_failed:
            self._take_messages(self._back.end())
            if not self._back_failed:
                self._bad_return_path()
        return self._taken()

    def write_failed(self, error: int, said: str, *, channel: str = "socket") -> list[Effect]:
        """What the last turn wrote cannot be sent: -errno, and what the system says of it."""
        assert error < 0, "a negative errno"
        if not self.is_over and not self._failed:
            self._write_failed(error, said, channel)
        return self._taken()

    def cancel(self) -> list[Effect]:
        """`migrate_cancel`: the guest goes on here."""
        if self.status in (Status.SETUP, Status.ACTIVE):
            self._become(Status.CANCELLING)
            self._become(Status.CANCELLED)
            self._stay()
        elif self.status is Status.POSTCOPY_ACTIVE:  # the guest may run there
            self._become(Status.CANCELLING)
            self._become(Status.CANCELLED)
            self._machine.cleanup()
            self._effects.append(HangUp())
        elif self.status in (Status.POSTCOPY_PAUSED, Status.POSTCOPY_RECOVER):
            self._become(Status.CANCELLING)  # for good: whoever would act on it waits for a link
            self._effects.append(HangUp())
        return self._taken()

    def pause(self) -> list[Effect]:
        """`migrate-pause`: as if the link were lost."""
        if self.status is Status.POSTCOPY_ACTIVE and self._profile.pauses:
            self._paused()
        return self._taken()

    def recover(self) -> list[Effect]:
        """Another connection is there, for a migration that is paused: ask what was received."""
        assert self.status is Status.POSTCOPY_PAUSED, "`migrate` with resume asks for the status"
        self._failed, self._back_failed = 0, False
        self._back = Answers(self._profile, self._requests.bitmap_bytes)
        self._shut = self._iterated = self._rest = None
        self._footer = b""
        self._become(Status.POSTCOPY_RECOVER)
        asked = self._requests.requests_bitmaps()
        self._bitmaps_left = len(asked)
        self._send_all(map(encode, asked))
        self._resume_when_known()
        return self._taken()

    # Forward

    def _iterate(self, now_s: float) -> None:
        postcopy = self.status is Status.POSTCOPY_ACTIVE
        left = URGENT_BYTES if self._urgent else self._left_of_window(postcopy)
        self._urgent = False
        if left <= 0:
            self._iterated, self._waited = None, True
            self.next_at_s = self._window_began_s + WINDOW_S
            return
        enough = 1 if postcopy else max(1, self._threshold_bytes())
        if self._machine.pending_bytes(enough) < enough:
            self._complete()
        elif not postcopy and self.start_postcopy_at_once and self.parameters.postcopy:
            self._start_postcopy()
        else:
            most = min(left, TURN_BYTES_MAX)
            sections, _ = self._machine.iterate(most, postcopy=postcopy)
            # Behind a wait QEMU writes a footer that is left over, then what an entry has to send:
            # a link that was lost meanwhile is noticed by the footer, and no entry is named.
            self._iterated = None if self._waited else self._machine.iterated
            self._waited = False
            self._send_but_footer(sections)
        self.next_at_s = now_s

    def _new_window(self, now_s: float) -> None:
        passed_s = now_s - self._window_began_s
        if now_s >= self._window_began_s + WINDOW_S:  # the very sum that `next_at_s` says
            self._bytes_per_s = self._window_bytes / passed_s
            self._window_began_s, self._window_bytes = now_s, 0

    def _left_of_window(self, postcopy: bool) -> int:
        limit = self.parameters.max_bandwidth_bytes
        if postcopy:
            limit = self.parameters.max_postcopy_bandwidth_bytes
            if not limit or not self._profile.pauses:
                return TURN_BYTES_MAX
        return int(limit * WINDOW_S) - self._window_bytes

    def _threshold_bytes(self) -> float:
        """What can be sent while the guest stands still no longer than it may."""
        return self._bytes_per_s * self.parameters.downtime_limit_s

    def _complete(self) -> None:
        """`migration_completion`: the last of it, in as many turns as it takes."""
        self._iterated = None
        if self.status is Status.POSTCOPY_ACTIVE:
            self._rest = iter(self._machine.complete_postcopy())
        else:
            self._stop_guest()
            self._rest = self._rest_of_precopy()
        self._complete_on(self._rest)

    def _rest_of_precopy(self) -> Iterator[bytes]:
        yield from self._machine.complete_live(postcopy=False)
        yield from self._machine.devices()
        yield self._machine.end()

    def _complete_on(self, rest: Iterator[bytes]) -> None:
        """Send more of it; behind the last piece the next turn concludes, once it was flushed."""
        sent_bytes = 0
        for piece in rest:
            self._send(piece)
            sent_bytes += len(piece)
            if sent_bytes >= TURN_BYTES_MAX:
                return
        self._rest = None
        self._written = True

    def _conclude(self) -> None:
        """What was written is all; without a return path nobody says whether it was loaded."""
        if self._back is not None and self._shut is None and not self._back_failed:
            return
        if self._back_failed or self._shut:
            self._fail()
            return
        self._machine.cleanup()
        self._become(Status.COMPLETED)
        self._effects.append(HangUp())

    def _start_postcopy(self) -> None:
        """`postcopy_start`: the guest stops here, and its devices go over in one piece."""
        self._become(Status.POSTCOPY_ACTIVE)
        self._stop_guest()
        self._send_all(self._machine.complete_live(postcopy=True))
        self._send_all(map(encode, self._machine.ram.discards()))
        self._send(encode(build.ping(2)))
        package = self._machine.package()
        size = int.from_bytes(package[5:9], "big")
        if size > self._profile.package_bytes_max:
            line = f"qemu_savevm_send_packaged: Unreasonably large packaged state: {size}"
            self._not_started(line)
            return
        self._send(package)
        self._send(encode(build.ping(4)))
        self._starting = True

    def _not_started(self, why: str) -> None:
        """The switch to postcopy failed, which is no pause. In 2.9 the guest goes on here, as
        nothing had yet been noted as postcopy; in 7.2 it stays stopped."""
        self._effects.append(Say(why))
        if self._profile.pauses:
            self._effects.append(Say("migration_iteration_run: postcopy failed to start"))
            self._fail()
        else:
            self._become(Status.FAILED)
            self._stay()

    # Failure

    def _write_failed(self, error: int, said: str, channel: str = "socket") -> None:
        self._failed = error
        if self._starting and self.status is Status.POSTCOPY_ACTIVE:
            self._not_started("postcopy_start: Migration stream errored")
            return
        if self._profile.tells_write_errors:
            self.error_desc = f"Unable to write to {channel}: {said}"
            if self._iterated is not None:
                section = f"{self._iterated.section_id}({self._iterated.idstr})"
                line = f"failed to save SaveStateEntry with id(name): {section}: {EIO}"
                self._effects.append(Say(line))
        self._detect()

    def _detect(self) -> None:
        """`migration_detect_error`: in postcopy a link that is lost pauses, if it can."""
        if self.status is Status.POSTCOPY_ACTIVE and self._profile.pauses:
            if not self._written:  # or it waits for SHUT, for ever
                self._paused()
        elif self.status is Status.POSTCOPY_RECOVER:
            # The migration thread waits for a bitmap or for RESUME_ACK, and nothing else wakes it
            # (`ram_dirty_bitmap_sync_all`, `postcopy_resume_handshake`, before 8.2): it stays.
            self._effects.append(HangUp())
        elif not self.is_over and self.status is not Status.POSTCOPY_PAUSED:
            self._fail()

    def _paused(self) -> None:
        self._become(Status.POSTCOPY_PAUSED)
        self._effects.append(HangUp())
        self._effects.append(Say("Detected IO failure for postcopy. Migration paused."))

    def _fail(self) -> None:
        in_postcopy = self.status is Status.POSTCOPY_ACTIVE
        self._become(Status.FAILED)
        if in_postcopy:  # the guest may run there: nobody knows
            self._machine.cleanup()
            self._effects.append(HangUp())
            return
        self._stay()

    def _stay(self) -> None:
        self._machine.cleanup()
        self._effects.append(HangUp())
        if self._guest_stopped:
            self._guest_stopped = False
            self._effects.append(ResumeGuest())
        if self.error_desc is not None:
            self._effects.append(Say(self.error_desc))

    def _stop_guest(self) -> None:
        self._guest_stopped = True
        self._effects.append(StopGuest())

    # What comes back

    def _take_messages(self, elements: list[Element]) -> None:
        for element in elements:
            if self._back_failed:
                return
            match element.value:
                case Message() as message:
                    self._message(message)
                case Opaque():
                    self._bad_return_path(self._wrong_bytes(element.raw))

    def _wrong_bytes(self, raw: bytes) -> str | None:
        """What is said of bytes that are no whole message; None: nothing is."""
        wrong = wrong_bytes(raw, self._profile)
        if wrong is None and self.status is Status.POSTCOPY_RECOVER:
            cut = cut_bitmap(raw)
            wrong = None if cut is None else self._requests.reload_bitmap(cut)
        return wrong

    def _message(self, message: Message) -> None:
        wrong = wrong_message(message, self._profile)
        if wrong is not None:
            self._bad_return_path(wrong)
            return
        value = int.from_bytes(message.payload[:4], "big")
        match message.type:
            case MessageType.SHUT:
                if value:
                    line = f"RP: Sibling indicated error {value}"
                    self._effects.append(Say(line))
                self._shut = value
                if self._written:
                    self._conclude()
            case MessageType.REQ_PAGES | MessageType.REQ_PAGES_ID:
                self._request(message)
            case MessageType.RECV_BITMAP:
                self._bitmap(message)
            case MessageType.RESUME_ACK:
                self._acknowledged(value)

    def _request(self, message: Message) -> None:
        payload = message.payload
        block = payload[13:].decode("latin-1") if len(payload) > 12 else None
        offset = int.from_bytes(payload[:8], "big")
        wrong = self._requests.request(block, offset, int.from_bytes(payload[8:12], "big"))
        if wrong is not None:
            self._bad_return_path(wrong)
        self._urgent = wrong is None

    def _bitmap(self, message: Message) -> None:
        if self.status is not Status.POSTCOPY_RECOVER:
            self._bad_return_path(f"ram_dirty_bitmap_reload: incorrect state {self.status}")
            return
        wrong = self._requests.reload_bitmap(message)
        if wrong is not None:
            self._bad_return_path(wrong)
            return
        self._bitmaps_left -= 1
        self._resume_when_known()

    def _resume_when_known(self) -> None:
        if not self._bitmaps_left:
            self._send(encode(Command(CommandType.POSTCOPY_RESUME, b"")))

    def _acknowledged(self, value: int) -> None:
        if self.status is not Status.POSTCOPY_RECOVER:
            return
        if value != 1:
            self._bad_return_path(f"migrate_handle_rp_resume_ack: illegal resume_ack value {value}")
            return
        assert self._back is not None
        self._back.has_bitmaps = False
        self._become(Status.POSTCOPY_ACTIVE)

    def _bad_return_path(self, line: str | None = None) -> None:
        """It is no longer read; in postcopy that is as good as a lost link."""
        if line is not None:
            self._effects.append(Say(line))
        in_postcopy = self.status in (Status.POSTCOPY_ACTIVE, Status.POSTCOPY_RECOVER)
        if in_postcopy and self._written and self._profile.pauses:
            return  # it waits for SHUT, for ever, and nothing more is written that could fail
        self._back_failed = True
        if in_postcopy and not self._written:
            self._detect()
        elif self._written:
            self._conclude()

    # Effects

    def _become(self, status: Status) -> None:
        self.status = status
        self._effects.append(Became(status))

    def _send(self, data: bytes) -> None:
        if data:
            self._window_bytes += len(data)
            self._effects += [Send(each) for each in (self._footer, data) if each]
            self._footer = b""

    def _send_but_footer(self, sections: list[bytes]) -> None:
        """Send sections; the footer of the last one goes out with what comes next, if it waits."""
        footer = b""
        if self._profile.footer_waits and self._machine.has_footers:
            *sections, footer = sections
        self._send_all(sections)
        self._footer = footer
        self._window_bytes += len(footer)

    def _send_all(self, pieces: Iterable[bytes]) -> None:
        for piece in pieces:
            self._send(piece)

    def _taken(self) -> list[Effect]:
        effects, self._effects = self._effects, []
        return list(_buffered(effects))


def _buffered(effects: Iterable[Effect]) -> Iterator[Effect]:
    """What is to be sent in small pieces is sent in fewer; what is large is not copied for that."""
    pieces, size = list[bytes](), 0
    for effect in effects:
        is_small = isinstance(effect, Send) and len(effect.data) < BUFFER_BYTES
        if pieces and (not is_small or size >= BUFFER_BYTES):
            yield Send(b"".join(pieces))
            pieces, size = [], 0
        if isinstance(effect, Send) and is_small:
            pieces.append(effect.data)
            size += len(effect.data)
        else:
            yield effect
    if pieces:
        yield Send(b"".join(pieces))
