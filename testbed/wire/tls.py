"""A channel with TLS around it: its records, never what is in them.

Source: RFC 8446, section 5.1, and RFC 5246, section 6.2: type, version, length of the fragment.
"""

from __future__ import annotations

from . import spans
from .channel import Channel
from .element import ContentType, TlsRecord
from .reader import Story
from .structs import TLS

FRAGMENT_BYTES_MAX = (1 << 14) + 2048
"""Of TLS 1.2's ciphertext; TLS 1.3 allows 256 instead of 2048."""
TYPES = frozenset(ContentType)
MAJOR = 3
"""Of SSL 3.0 to TLS 1.3."""
INSIDE = "TLS record"


class TlsChannel(Channel):
    """Parses one direction of a TLS connection incrementally; see `Channel`.

    It may end after any record: an alert that says so is encrypted like all others. `in_runs` may
    change between two feeds: records come as `RunElement`s, without their data.
    """

    def __init__(self) -> None:
        self.in_runs = False
        super().__init__()

    def _story(self) -> Story[None]:
        while (yield from self._reader.more()):
            yield from self._record()

    def _record(self) -> Story[None]:
        reader = self._reader
        kind, version, length = TLS.unpack((yield from reader.peek(TLS.size, INSIDE)))
        if kind not in TYPES or version >> 8 != MAJOR:
            raise reader.wrong(INSIDE, "type 20 to 24, version 3.x", f"{kind}, {version:#06x}")
        if length > FRAGMENT_BYTES_MAX:
            raise reader.wrong(INSIDE, f"at most {FRAGMENT_BYTES_MAX} bytes", f"{length}", skip=3)
        if self.in_runs:
            yield from reader.need(TLS.size + length, INSIDE)
            self._emit_run(TlsRecord(kind, version, b""), TLS.size + length)
            return
        data = yield from reader.peek(length, INSIDE, skip=TLS.size)
        self._emit(TlsRecord(kind, version, data), TLS.size + length, spans.tls_record(length))
