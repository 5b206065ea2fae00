"""The load loop: sections, footers and commands, each checked and refused as QEMU does.

Source: QEMU `migration/savevm.c`, `qemu_loadvm_state` and what it calls, early 2017 and 7.2.
"""

from __future__ import annotations

import errno

from testbed.vmstate import Incoming, Story, VmStateFailed, load
from testbed.wire.element import SectionType
from testbed.wire.structs import IDS, MAGIC, VERSION

from .incoming import MigrationIncoming, counted_string, number, numbers
from .incoming_commands import Quit, command
from .registry import Entry

VERSION_COMPAT = 2
EINVAL, ENOTSUP, EIO = -errno.EINVAL, -errno.ENOTSUP, -errno.EIO
FOOTER = int(SectionType.FOOTER)
VMDESC_PIECE_BYTES = 0x1000


def load_machine(mis: MigrationIncoming) -> Story[int]:
    """`qemu_loadvm_state`: a whole stream. Returns 0, or -errno after saying why."""
    file, machine = mis.file, mis.machine
    blocked = machine.registry.blocked()
    if blocked is not None:
        mis.say(blocked)
        return EINVAL
    refused = yield from _header(mis)
    if refused:
        return refused
    ret = yield from load_elements(mis, file)
    if mis.listening:
        return ret  # the listen thread is still reading
    if not ret:
        ret = file.error
    if not ret and machine.sends_vmdesc:
        yield from _vmdesc(mis)
    return ret


def _header(mis: MigrationIncoming) -> Story[int]:
    """Magic, version, configuration; 0, or -errno after saying why."""
    file, machine = mis.file, mis.machine
    if (yield from number(file, 4)) != MAGIC:
        mis.say("Not a migration stream")
        return EINVAL
    version = yield from number(file, 4)
    if version == VERSION_COMPAT:
        mis.say("SaveVM v2 format is obsolete and don't work anymore")
        return ENOTSUP
    if version != VERSION:
        mis.say("Unsupported migration stream version")
        return ENOTSUP
    if not machine.has_configuration:
        return 0
    if (yield from number(file, 1)) != SectionType.CONFIGURATION:
        mis.say("Configuration section missing")
        return EINVAL
    try:
        yield from load(machine.configuration, machine.configuration_state, 0, file)
    except VmStateFailed as failed:
        return _told(mis, failed)
    for line in machine.configuration_state.warnings:
        mis.say(line)
    return 0


def load_elements(mis: MigrationIncoming, file: Incoming) -> Story[int]:
    """`qemu_loadvm_state_main`: elements until EOF, an error, or RUN in a package.

    Returns 0, -errno after saying why, or `QUIT`. An error is the file's from then on.
    """
    try:
        yield from _elements(mis, file)
    except Quit:
        return QUIT
    except VmStateFailed as failed:
        _told(mis, failed)
        file.error = file.error or failed.ret
        return failed.ret
    return 0


QUIT = 1
"""`LOADVM_QUIT`: all layers of nested loops end, without an error."""


def _told(mis: MigrationIncoming, failed: VmStateFailed) -> int:
    for line in failed.lines:
        mis.say(line)
    return failed.ret


def _elements(mis: MigrationIncoming, file: Incoming) -> Story[None]:
    while True:
        kind = yield from number(file, 1)
        if mis.profile.notices_short_reads:
            _check(file)
        match kind:
            case SectionType.EOF:
                return
            case SectionType.START | SectionType.FULL:
                yield from _start_full(mis, file)
            case SectionType.PART | SectionType.END:
                yield from _part_end(mis, file)
            case SectionType.COMMAND:
                yield from _command(mis, file)
            case _:
                raise VmStateFailed(EINVAL, f"Unknown savevm section type {kind}")


def _command(mis: MigrationIncoming, file: Incoming) -> Story[None]:
    event = "qemu_loadvm_state_section_command"
    try:
        yield from command(mis, file, load_elements)
    except VmStateFailed as failed:
        mis.trace(event, f"{failed.ret}")
        raise
    except Quit:
        mis.trace(event, f"{QUIT}")
        raise
    mis.trace(event, "0")


def _check(file: Incoming, *lines: str) -> None:
    if file.error:
        raise VmStateFailed(file.error, *(line.format(file.error) for line in lines))


def _start_full(mis: MigrationIncoming, file: Incoming) -> Story[None]:
    section_id = yield from number(file, 4)
    idstr = yield from counted_string(file)
    if idstr is None:
        raise VmStateFailed(EINVAL, f"Unable to read ID string for section {section_id}")
    instance_id, version_id = yield from numbers(file, IDS)
    if mis.profile.notices_short_reads:
        _check(file, "qemu_loadvm_section_start_full: Failed to read instance/version ID: {}")
    said = f"{section_id}({idstr}) {instance_id} {version_id}"
    mis.trace("qemu_loadvm_state_section_startfull", said)
    # Before 5.0 an instance_id was an int, to be printed and compared.
    entry = mis.machine.registry.find(idstr, instance_id)
    if entry is None:
        entry = mis.machine.registry.find(idstr, _signed(instance_id))
    if entry is None:
        shown = instance_id if mis.profile.notices_short_reads else _signed(instance_id)
        line = f"Unknown savevm section or instance '{idstr}' {shown}{mis.profile.setup_advice}"
        raise VmStateFailed(EINVAL, line)
    if version_id > entry.version_id:
        said = f"version {_signed(version_id)} for '{idstr}' v{entry.version_id}"
        raise VmStateFailed(EINVAL, f"savevm: unsupported {said}")
    if mis.machine.is_xen and entry.is_ram:
        raise VmStateFailed(EINVAL, f"loadvm: {idstr} RAM loading not allowed on Xen")
    mis.begun(entry, section_id, version_id)
    try:
        yield from _payload(entry, file, version_id)
    except VmStateFailed as failed:
        line = f"error while loading state for instance {instance_id:#x} of device '{idstr}'"
        raise failed.within(line) from failed
    yield from _footer(mis, file, entry, section_id)


def _part_end(mis: MigrationIncoming, file: Incoming) -> Story[None]:
    section_id = yield from number(file, 4)
    if mis.profile.notices_short_reads:
        _check(file, "qemu_loadvm_section_part_end: Failed to read section ID: {}")
    mis.trace("qemu_loadvm_state_section_partend", f"{section_id}")
    found = mis.begun_as(section_id)
    if found is None:
        raise VmStateFailed(EINVAL, f"Unknown savevm section {_signed(section_id)}")
    entry, version_id = found
    try:
        yield from _payload(entry, file, version_id)
    except VmStateFailed as failed:
        line = f"error while loading state section id {_signed(section_id)}({entry.idstr})"
        raise failed.within(line) from failed
    yield from _footer(mis, file, entry, section_id)


def _payload(entry: Entry, file: Incoming, version_id: int) -> Story[None]:
    """`vmstate_load`: by its VMSD, or by its own code."""
    if entry.vmstate is not None:
        yield from load(entry.vmstate, entry.state, version_id, file)
        return
    handler = entry.live or entry.old_style
    assert handler is not None, "an entry has one of the three"
    yield from handler.load(file, version_id)


def _footer(mis: MigrationIncoming, file: Incoming, entry: Entry, section_id: int) -> Story[None]:
    """`check_section_footer`: whatever is wrong with it is EINVAL."""
    if not mis.machine.has_footers:
        return
    mark = yield from number(file, 1)
    if mis.profile.notices_short_reads and file.error:
        said = f"check_section_footer: Read section footer failed: {file.error}"
        raise VmStateFailed(EINVAL, said)
    if mark != FOOTER:
        raise VmStateFailed(EINVAL, f"Missing section footer for {entry.idstr}")
    found = yield from number(file, 4)
    if found != section_id:
        said = f"read {found:#x} expected {section_id:#x}"
        line = f"Mismatched section id in footer for {entry.idstr} - {said}"
        raise VmStateFailed(EINVAL, line)


def _vmdesc(mis: MigrationIncoming) -> Story[None]:
    """Read on through the vmdesc: a source that still writes must not find the socket closed."""
    file = mis.file
    kind = yield from number(file, 1)
    if kind != SectionType.VMDESCRIPTION:
        # The machine is loaded: no reason to fail.
        mis.say(f"Expected vmdescription section, but got {kind}")
        return
    left = yield from number(file, 4)
    while left and not file.error:
        yield from file.read(min(left, VMDESC_PIECE_BYTES))
        left -= min(left, VMDESC_PIECE_BYTES)


def _signed(value: int) -> int:
    """What `%d` makes of a be32."""
    return value - (1 << 32) if value >> 31 else value
