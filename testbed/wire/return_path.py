"""The return path: messages from the destination, on the main channel's connection.

Source: QEMU `migration/migration.c`, `source_return_path_thread`, 2.8 to 11.1.
"""

from __future__ import annotations

from . import spans
from .channel import Channel
from .element import Message, MessageType
from .reader import Story
from .structs import BITMAP_END_MARK, MESSAGE, U64
from .tally import Tally

MESSAGE_BYTES_MAX = 512
"""Of a payload: QEMU refuses more (`buf` in `source_return_path_thread`)."""
BITMAP_BYTES_MAX = 1 << 30
"""Of a received bitmap: one bit a page, so 32 TiB of RAM in one block, the most that hosts have.
QEMU compares it with the block's own size."""


class ReturnPath(Channel):
    """Parses the return path incrementally; see `Channel` for feeding and ending it.

    Nothing announces its end, so `end` returns an `Opaque` only for what was cut in two. A type
    that nobody knows is a `Message` all the same: its length says where it ends.
    """

    def __init__(self) -> None:
        self.has_bitmaps = True
        """RECV_BITMAP has one behind it. A source that is in no recovery refuses the message, and
        does not look at what follows."""
        self._tally = Tally()
        super().__init__()

    def seen(self) -> str:
        """What passed, for a message: `PONG x4, REQ_PAGES_ID, REQ_PAGES x87, SHUT`."""
        return str(self._tally)

    def recovered(self) -> ReturnPath:
        """A parser for the return path of the recovery connection; it goes on counting."""
        channel = ReturnPath()
        channel._tally = self._tally.copy()
        return channel

    def _story(self) -> Story[None]:
        while (yield from self._reader.more()):
            yield from self._message()

    def _message(self) -> Story[None]:
        reader = self._reader
        kind, length = MESSAGE.unpack((yield from reader.peek(MESSAGE.size, "message")))
        inside = f"payload of message {Message(kind, b'').name}"
        if length > MESSAGE_BYTES_MAX:
            raise reader.wrong(inside, f"at most {MESSAGE_BYTES_MAX} bytes", f"{length}")
        payload = yield from reader.peek(length, inside, skip=MESSAGE.size)
        bitmap = b""
        bits = -1
        if kind == MessageType.RECV_BITMAP and self.has_bitmaps:
            bitmap = yield from self._bitmap(MESSAGE.size + length)
            bits = len(bitmap) - 2 * U64.size
        message = Message(kind, payload, bitmap)
        self._context.occurrence = self._tally.named(message)
        size = MESSAGE.size + length + len(bitmap)
        self._emit(message, size, spans.message(length, bits))

    def _bitmap(self, skip: int) -> Story[bytes]:
        """Return size, bits and end mark, which a message's length does not count."""
        reader, inside = self._reader, "bitmap of message RECV_BITMAP"
        size = yield from reader.u64(inside, skip=skip)
        if size > BITMAP_BYTES_MAX:
            raise reader.wrong(inside, f"at most {BITMAP_BYTES_MAX} bytes", f"{size}", skip=skip)
        mark_at = skip + U64.size + size
        mark = yield from reader.u64(inside, skip=mark_at)
        if mark != BITMAP_END_MARK:
            raise reader.wrong(inside, f"{BITMAP_END_MARK:#x}", f"{mark:#x}", skip=mark_at)
        return (yield from reader.peek(size + 2 * U64.size, inside, skip=skip))
