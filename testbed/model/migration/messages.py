"""Messages of the return path, as the source takes them: which of them it refuses, in which words.

Source: QEMU `migration/migration.c`, `source_return_path_thread`, early 2017 and 7.2.
"""

from __future__ import annotations

from testbed.model.profile import Profile
from testbed.wire.element import Message, MessageType
from testbed.wire.return_path import MESSAGE_BYTES_MAX
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
