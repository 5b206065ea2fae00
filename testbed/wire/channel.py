"""What the parsers of all channels share: bytes in, elements out, one story that can pause."""

from __future__ import annotations

from collections.abc import Generator
from mmap import mmap

from .element import Certainty, Element, Opaque, RunElement, Span, Value
from .error import Cut, StreamError
from .reader import Context, Reader, Story

AFTER_THE_END = "after the end"


class Channel:
    """An incremental parser of one direction of one connection; subclasses tell the story.

    The elements that `feed`, `silence` and `end` return lie back to back from offset 0: the sum
    of their lengths and `pending` is `fed`, always. An impossible byte never raises: from there
    on each chunk is one `Opaque` element, whose `why` tells offset, inside, expected and got.
    """

    def __init__(self) -> None:
        self._reader = Reader()
        self._out: list[Element] = []
        self._emitted = 0
        self._context = Context()
        self._script = self._guarded()
        self._resume()

    @property
    def fed(self) -> int:
        """Bytes fed so far."""
        return self._reader.fed

    @property
    def pending(self) -> int:
        """Bytes fed that belong to no element returned yet."""
        return self._reader.fed - self._emitted

    def feed(self, data: bytes) -> list[Element]:
        """Take bytes in the order of the channel; return the elements that they complete."""
        assert not self._reader.ended, "fed after the end"
        if data and self._reader.feed(data):
            return self._resume()
        return []

    def feed_window(self, data: mmap, start: int, end: int) -> list[Element]:
        """Take `data[start:end]`, as if it were fed, but nothing is copied.

        What is left over is put in front of the next window, over what is in `data[:start]`; so
        this buffer must stay as it is until the next bytes were fed, and not be theirs.
        """
        return self._resume() if self._reader.window(data, start, end) else []

    def silence(self) -> list[Element]:
        """The peer has been silent: decide what only the absence of bytes could decide."""
        if self._reader.ended:
            return []
        self._reader.merge()
        self._reader.silent = True
        elements = self._resume()
        self._reader.silent = False
        return elements

    def end(self) -> list[Element]:
        """The connection ended: return what that decides.

        Unless the channel was complete, the last element is an `Opaque` that says what was cut
        and what was expected; it is empty if the cut lies exactly between two elements, or if what
        cannot be was the last thing that came.
        """
        if self._reader.ended:
            return []
        self._reader.merge()
        self._reader.ended = True
        return self._resume()

    def _resume(self) -> list[Element]:
        next(self._script, None)
        elements = self._out.copy()
        self._out.clear()
        if elements:
            self._emitted = elements[-1].end
        return elements

    def _guarded(self) -> Generator[None, None, None]:
        why, told = AFTER_THE_END, True
        try:
            yield from self._story()
        except Cut as error:
            self._opaque(str(error))
            return
        except StreamError as error:
            self._gave_up()
            why, told = str(error), False
        while True:
            # What went wrong is told even if not a byte is left to tell it of.
            if self._reader.available or self._reader.held or (self._reader.ended and not told):
                self._opaque(why)
                told = True
            if self._reader.ended:
                return
            yield from self._reader.wait(1)

    def _story(self) -> Story[None]:
        """Read the channel from its first byte to its end, emitting elements."""
        raise NotImplementedError

    def _gave_up(self) -> None:
        """What follows cannot be parsed."""

    def _opaque(self, why: str) -> None:
        """Emit all that is held and in hand, up to the limit, as one opaque element."""
        self._context.section, self._context.occurrence = None, 1
        self._emit(Opaque(why), self._reader.available)

    def _emit(
        self,
        value: Value,
        size_bytes: int,
        spans: tuple[Span, ...] = (),
        certainty: Certainty = Certainty.EXACT,
    ) -> None:
        """Emit what is held and the next `size_bytes` bytes as one element of the context."""
        context = self._context
        offset = self._reader.offset - len(self._reader.held)
        raw = self._reader.take(size_bytes)
        self._out.append(
            Element(
                offset,
                raw,
                value,
                spans,
                context.section,
                context.occurrence,
                context.in_package,
                certainty,
            )
        )

    def _emit_run(self, value: Value, size_bytes: int) -> None:
        """Emit the next `size_bytes` bytes, which are in hand, as one element without a copy."""
        offset = self._reader.offset
        self._reader.pos += size_bytes
        section = self._context.section
        self._out.append(RunElement(offset, b"", value, (), section, length=size_bytes))
