"""Messages of the return path, as the source takes them: which of them it refuses, in which words.

Source: QEMU `migration/migration.c`, `source_return_path_thread`, early 2017 and 7.2.
"""

from __future__ import annotations

from collections.abc import Callable

from testbed.model.profile import Profile
from testbed.wire.element import Message, MessageType
from testbed.wire.reader import Story
from testbed.wire.return_path import MESSAGE_BYTES_MAX, ReturnPath
from testbed.wire.structs import MESSAGE

LENGTHS = {
    MessageType.SHUT: 4,
    MessageType.PONG: 4,
    MessageType.REQ_PAGES: 12,
    MessageType.RESUME_ACK: 4,
}
"""Of the payloads; the others' vary."""
LENGTH_OF_THE_OTHERS = (1 << 64) - 1
"""As the text shows it: -1, printed as a size."""


class Answers(ReturnPath):
    """The return path as a source reads it: refused is what QEMU refuses, as soon as it can.

    QEMU looks at type and length before it reads what they announce, and at a bitmap's block and
    size before it reads the bitmap: it does not wait for bytes that a peer may never send.

    Args:
        profile: of which version.
        bitmap_bytes: of the bitmap that a RECV_BITMAP announces, None if there is no such block;
            without it there are no bitmaps, as in no recovery.
    """

    def __init__(
        self, profile: Profile, bitmap_bytes: Callable[[Message], int | None] | None = None
    ) -> None:
        self._profile, self._bitmap_bytes = profile, bitmap_bytes
        super().__init__()
        self.has_bitmaps = bitmap_bytes is not None

    def _message(self) -> Story[None]:
        reader = self._reader
        kind, length = MESSAGE.unpack((yield from reader.peek(MESSAGE.size, "message")))
        if _wrong_header(kind, length, self._profile) is not None:
            raise reader.wrong("message", "one that is known, of its length", f"{kind}, {length}")
        if kind == MessageType.RECV_BITMAP and length and self.has_bitmaps:
            assert self._bitmap_bytes is not None
            inside = "message RECV_BITMAP"
            payload = yield from reader.peek(length, inside, skip=MESSAGE.size)
            ours = self._bitmap_bytes(Message(kind, payload))
            if ours is None:
                raise reader.wrong(inside, "a known block", repr(payload))
            size = yield from reader.u64(inside, skip=MESSAGE.size + length)
            if size != ours:
                raise reader.wrong(inside, f"a bitmap of {ours} bytes", f"{size}")
        yield from super()._message()


def cut_bitmap(raw: bytes) -> Message | None:
    """A RECV_BITMAP that is whole but for its bitmap, with as much of that as came; or None."""
    if len(raw) < MESSAGE.size:
        return None
    kind, length = MESSAGE.unpack_from(raw)
    end = MESSAGE.size + length
    if kind != MessageType.RECV_BITMAP or not 0 < length <= len(raw) - MESSAGE.size:
        return None
    return Message(kind, raw[MESSAGE.size : end], raw[end:])


def wrong_message(message: Message, profile: Profile) -> str | None:
    """What is wrong with a message's type or length, in QEMU's words; they lack a blank."""
    kind, length = message.type, len(message.payload)
    wrong = _wrong_header(kind, length, profile)
    if wrong is not None:
        return wrong
    if kind == MessageType.REQ_PAGES_ID and not _has_name(message.payload):
        return _wrong_length(kind, length, 12 + 1)
    if kind == MessageType.RECV_BITMAP and not length:
        return "source_return_path_thread: missing block name"
    return None


def wrong_bytes(raw: bytes, profile: Profile) -> str | None:
    """What is wrong with bytes that are no whole message; None: there is no text for it."""
    if len(raw) < MESSAGE.size:
        return None
    kind, length = MESSAGE.unpack_from(raw)
    wrong = _wrong_header(kind, length, profile)
    if wrong is not None or len(raw) >= MESSAGE.size + length:
        return wrong
    got = len(raw) - MESSAGE.size
    return f"RP: Failed reading data for message {kind:#06x} read {got} expected {length}"


def _wrong_header(kind: int, length: int, profile: Profile) -> str | None:
    if not 0 < kind < profile.messages_end:
        return f"RP: Received invalid message {kind:#06x} length {length:#06x}"
    expected = LENGTHS.get(MessageType(kind))
    if expected in (None, length) and length <= MESSAGE_BYTES_MAX:
        return None
    return _wrong_length(kind, length, LENGTH_OF_THE_OTHERS if expected is None else expected)


def _wrong_length(kind: int, length: int, expected: int) -> str:
    name = MessageType(kind).name
    said = f"RP: Received '{name}' message ({kind:#06x}) withincorrect length {length}"
    return f"{said} expecting {expected}"


def _has_name(payload: bytes) -> bool:
    return len(payload) > 12 and len(payload) == 13 + payload[12]
