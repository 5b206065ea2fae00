"""How a main channel begins: file header, configuration and its subsections.

Source: QEMU `migration/savevm.c`, `qemu_loadvm_state_header` and `vmstate_configuration`.
"""

from __future__ import annotations

from . import spans
from .element import (
    Configuration,
    ConfigurationSubsection,
    FileHeader,
    SectionType,
)
from .mapped import MappedFile
from .ram import Ram
from .reader import Emit, Reader, Story
from .structs import FILE_HEADER, MAGIC, U32, VERSION

MACHINE_BYTES_MAX = 1024
"""Of a machine type's name; real ones have some 20. QEMU allows a be32 of it."""
CAPABILITIES_MAX = 256
"""Of a configuration; QEMU 11.1 knows about 30."""
UUID_BYTES = 16


def read_head(reader: Reader, ram: Ram, emit: Emit) -> Story[str | None]:
    """Emit what precedes the first element; tell `ram` what it says about pages and blocks.

    Returns the machine type, or None if there is no configuration.

    Raises:
        StreamError: another magic or version, or a subsection whose length nobody knows.
    """
    inside = "file header"
    magic = yield from reader.u32(inside)
    if magic != MAGIC:
        raise reader.wrong(inside, f"magic {MAGIC:#x}", f"{magic:#x}")
    header = FileHeader(*FILE_HEADER.unpack((yield from reader.peek(FILE_HEADER.size, inside))))
    emit(header, FILE_HEADER.size, spans.FILE_HEADER)
    if header.version != VERSION:
        raise reader.wrong(inside, f"version {VERSION}", f"{header.version}")
    if (yield from reader.u8("configuration")) != SectionType.CONFIGURATION:
        return None
    machine = yield from _configuration(reader, emit)
    # 0x05 begins no element, so what follows here can only be the configuration's.
    while (yield from reader.u8("section type")) == SectionType.SUBSECTION:
        yield from _subsection(reader, ram, emit)
    return machine


def _configuration(reader: Reader, emit: Emit) -> Story[str]:
    inside = "configuration"
    length = yield from reader.u32(inside, skip=1)
    if length > MACHINE_BYTES_MAX:
        raise reader.wrong(inside, f"a name of at most {MACHINE_BYTES_MAX} bytes", f"{length}")
    machine = (yield from reader.peek(length, inside, skip=5)).decode("latin-1")
    emit(Configuration(machine), 5 + length, spans.configuration(length))
    return machine


def _subsection(reader: Reader, ram: Ram, emit: Emit) -> Story[None]:
    inside = "configuration's subsection"
    length = yield from reader.u8(inside, skip=1)
    name = (yield from reader.peek(length, inside, skip=2)).decode("latin-1")
    version_id = yield from reader.u32(inside, skip=2 + length)
    start = 6 + length
    match name:
        case "configuration/target-page-bits":
            bits = yield from reader.u32(inside, skip=start)
            size = U32.size
            if not ram.set_page_bytes(1 << min(bits, 64)):
                raise reader.wrong(inside, "bits of a target page", f"{bits}")
        case "configuration/capabilities":
            size = yield from _capabilities(reader, ram, start)
        case "configuration/uuid":
            size = UUID_BYTES
        case _:
            raise reader.wrong(inside, "a subsection of known length", repr(name))
    payload = yield from reader.peek(size, inside, skip=start)
    value = ConfigurationSubsection(name, version_id, payload)
    emit(value, start + size, spans.subsection(length, size))


def _capabilities(reader: Reader, ram: Ram, start: int) -> Story[int]:
    """Read the list of capabilities `start` bytes ahead; return its size in bytes."""
    inside = "configuration's capabilities"
    count = yield from reader.u32(inside, skip=start)
    if count > CAPABILITIES_MAX:
        raise reader.wrong(inside, f"at most {CAPABILITIES_MAX}", f"{count}")
    size = U32.size
    for _ in range(count):
        length = yield from reader.u8(inside, skip=start + size)
        name = yield from reader.peek(length, inside, skip=start + size + 1)
        ram.has_addresses |= name == b"x-ignore-shared"
        if name == b"mapped-ram":
            ram.mapped = MappedFile()
        size += 1 + length
    return size
