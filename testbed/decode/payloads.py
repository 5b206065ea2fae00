"""Payloads of commands and messages, in named parts; what does not fit comes as hex.

Layouts: QEMU `migration/savevm.c`, `migration/migration.c`, 2.8 to 11.1.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

from testbed.wire.element import Command, CommandType, Message, MessageType

HEX_BYTES_MAX = 64
Parts = dict[str, Any]


class _Misfit(Exception):
    """The payload is not what its number says."""


def command_parts(command: Command) -> Parts:
    """What a command carries, by name."""
    return _parts(COMMANDS, command.command, command.payload)


def message_parts(message: Message) -> Parts:
    """What a message of the return path carries, by name."""
    parts = _parts(MESSAGES, message.type, message.payload)
    if message.bitmap:
        bits = message.bitmap[8:-8]
        parts |= {"bitmap_bytes": len(bits), "received_pages": int.from_bytes(bits).bit_count()}
    return parts


def shortened(data: bytes) -> str:
    """Bytes in hex, the first ones of many."""
    more = f"... ({len(data)} bytes)" if len(data) > HEX_BYTES_MAX else ""
    return data[:HEX_BYTES_MAX].hex() + more


def _parts(known: Mapping[int, Callable[[bytes], Parts]], number: int, payload: bytes) -> Parts:
    read = known.get(number)
    try:
        if read is not None:
            return read(payload)
    except (_Misfit, struct.error):
        pass
    return {"payload": shortened(payload)} if payload else {}


def _value(payload: bytes) -> Parts:
    (value,) = struct.unpack(">I", payload)
    return {"value": value}


def _advise(payload: bytes) -> Parts:
    if not payload:
        return {}
    page_sizes, target_page_bytes = struct.unpack(">QQ", payload)
    return {"page_sizes": page_sizes, "target_page_bytes": target_page_bytes}


def _discard(payload: bytes) -> Parts:
    block, rest = _counted(payload[1:])
    if payload[0] or rest[:1] != b"\0" or len(rest) % 16 != 1:
        raise _Misfit
    ranges = list(struct.iter_unpack(">QQ", rest[1:]))
    return {"block": block, "ranges": ranges, "discarded_bytes": sum(size for _, size in ranges)}


def _packaged(payload: bytes) -> Parts:
    (size,) = struct.unpack(">I", payload)
    return {"package_bytes": size}


def _block(payload: bytes) -> Parts:
    block, rest = _counted(payload)
    if rest:
        raise _Misfit
    return {"block": block}


def _pages(payload: bytes) -> Parts:
    offset, size = struct.unpack(">QI", payload)
    return {"offset_bytes": offset, "requested_bytes": size}


def _pages_id(payload: bytes) -> Parts:
    return _pages(payload[:12]) | _block(payload[12:])


def _counted(data: bytes) -> tuple[str, bytes]:
    if not data or len(data) < 1 + data[0]:
        raise _Misfit
    return data[1 : 1 + data[0]].decode("latin-1"), data[1 + data[0] :]


COMMANDS: Mapping[int, Callable[[bytes], Parts]] = {
    CommandType.PING: _value,
    CommandType.POSTCOPY_ADVISE: _advise,
    CommandType.POSTCOPY_RAM_DISCARD: _discard,
    CommandType.PACKAGED: _packaged,
    CommandType.RECV_BITMAP: _block,
}
MESSAGES: Mapping[int, Callable[[bytes], Parts]] = {
    MessageType.SHUT: _value,
    MessageType.PONG: _value,
    MessageType.REQ_PAGES_ID: _pages_id,
    MessageType.REQ_PAGES: _pages,
    MessageType.RECV_BITMAP: _block,
    MessageType.RESUME_ACK: _value,
}
