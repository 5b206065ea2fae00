"""Messages of the return path, as the source takes them: which of them it refuses, in which words.

Source: QEMU `migration/migration.c`, `source_return_path_thread`, 7.2.
"""

from __future__ import annotations

from testbed.wire.element import Message, MessageType

MESSAGES_END = 7
"""The first message of the return path that is unknown: `MIG_RP_MSG_MAX` of 7.2."""
LENGTHS = {
    MessageType.SHUT: 4,
    MessageType.PONG: 4,
    MessageType.REQ_PAGES: 12,
    MessageType.RESUME_ACK: 4,
}
"""Of the payloads; the others' vary."""


def wrong_message(message: Message) -> str | None:
    """What is wrong with a message's type or length, in QEMU's words; they lack a blank."""
    kind, length = message.type, len(message.payload)
    if not 0 < kind < MESSAGES_END:
        return f"Received invalid message {kind:#06x} length {length:#06x}"
    expected = LENGTHS.get(MessageType(kind))
    short_id = kind == MessageType.REQ_PAGES_ID and not _has_name(message.payload)
    if (expected is None or length == expected) and not short_id:
        return None
    said = f"Received '{message.name}' message ({kind:#06x}) withincorrect length {length}"
    return f"{said} expecting {expected if expected is not None else 12 + 1}"


def _has_name(payload: bytes) -> bool:
    return len(payload) > 12 and len(payload) == 13 + payload[12]
