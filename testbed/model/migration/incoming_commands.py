"""The commands of the stream: their lengths, their states, what they do to a destination.

Source: QEMU `migration/savevm.c`, `loadvm_process_command` and what it calls, early 2017 and 7.2.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from testbed.vmstate import Incoming, Story, VmStateFailed
from testbed.wire import build
from testbed.wire.element import CommandType

from .effects import GuestMayRun, Status
from .incoming import MigrationIncoming, PostcopyState, counted_string, get, number

EINVAL, EAGAIN, ERANGE = -errno.EINVAL, -errno.EAGAIN, -errno.ERANGE
FAILED = -1
DISCARD_BYTES_MIN = 20
RANGE_BYTES = 16
LENGTHS = {
    CommandType.OPEN_RETURN_PATH: 0,
    CommandType.PING: 4,
    CommandType.POSTCOPY_LISTEN: 0,
    CommandType.POSTCOPY_RUN: 0,
    CommandType.POSTCOPY_RESUME: 0,
    CommandType.PACKAGED: 4,
    CommandType.ENABLE_COLO: 0,
    CommandType.SWITCHOVER_START: 0,
}
"""Of the payloads; the others' vary."""
Loop = Callable[[MigrationIncoming, Incoming], Story[int]]
"""What loads the elements of a package."""


class Quit(Exception):
    """RUN came: every loop that reads a package or what it came in ends, without an error."""


def command(mis: MigrationIncoming, file: Incoming, loop: Loop) -> Story[None]:
    """Read a command and carry it out.

    Raises:
        VmStateFailed: it is unknown, of a wrong length, or not to be carried out now.
        Quit: it was RUN, or ended a package that had one.
    """
    kind = yield from number(file, 2)
    length = yield from number(file, 2)
    if mis.profile.notices_short_reads and file.error:
        raise VmStateFailed(file.error)
    _check_number(mis, kind, length)
    _check_length(mis, CommandType(kind), length)
    match kind:
        case CommandType.OPEN_RETURN_PATH:
            _open_return_path(mis)
        case CommandType.PING:
            yield from _ping(mis, file)
        case CommandType.PACKAGED:
            yield from _packaged(mis, file, loop)
        case CommandType.POSTCOPY_ADVISE:
            yield from _advise(mis, file, length)
        case CommandType.POSTCOPY_LISTEN:
            _listen(mis)
        case CommandType.POSTCOPY_RUN:
            _run(mis)
        case CommandType.POSTCOPY_RAM_DISCARD:
            yield from _discard(mis, file, length)
        case CommandType.POSTCOPY_RESUME:
            _resume(mis)
        case CommandType.RECV_BITMAP:
            yield from _recv_bitmap(mis, file, length)


def _check_number(mis: MigrationIncoming, kind: int, length: int) -> None:
    known = CommandType.INVALID < kind < mis.profile.commands_end
    if mis.profile.traces_numbers:
        mis.trace("loadvm_process_command", f"com={kind:#x} len={length}")
    elif known:
        mis.trace("loadvm_process_command", f"com={_name(CommandType(kind))} len={length}")
    if not known:
        raise VmStateFailed(EINVAL, f"MIG_CMD {kind:#x} unknown (len {length:#x})")


def _check_length(mis: MigrationIncoming, kind: CommandType, length: int) -> None:
    expected = LENGTHS.get(kind)
    if kind is CommandType.POSTCOPY_ADVISE:
        expected = mis.profile.advise_bytes
    if expected is not None and length != expected:
        said = f"received with bad length - expecting {expected}, got {length}"
        raise VmStateFailed(ERANGE, f"{_name(kind)} {said}")


def _name(kind: CommandType) -> str:
    """As `mig_cmd_args` has it, which has none for `ENABLE_COLO`."""
    return "(null)" if kind is CommandType.ENABLE_COLO else kind.name


def _open_return_path(mis: MigrationIncoming) -> None:
    if mis.answers:
        # Not really a problem, so it goes on.
        mis.say("CMD_OPEN_RETURN_PATH called when RP already open")
        return
    if not mis.can_answer:
        raise VmStateFailed(FAILED, "CMD_OPEN_RETURN_PATH failed")
    mis.answers = True


def _ping(mis: MigrationIncoming, file: Incoming) -> Story[None]:
    value = yield from number(file, 4)
    mis.trace("loadvm_process_command_ping", f"{value:#x}")
    if not mis.answers:
        raise VmStateFailed(FAILED, f"CMD_PING ({value:#x}) received with no return path")
    mis.answer(build.pong(value))


def _packaged(mis: MigrationIncoming, file: Incoming, loop: Loop) -> Story[None]:
    """Read all of the package, then load it: the main channel may be another one's by then."""
    length = yield from number(file, 4)
    if length > mis.profile.package_bytes_max:
        raise VmStateFailed(FAILED, f"Unreasonably large packaged state: {length}")
    data = yield from file.read(length)
    if len(data) != length:
        said = f"Buffer receive fail ret={len(data)} length={length}"
        raise VmStateFailed(EAGAIN, f"CMD_PACKAGED: {said}")
    inside = Incoming(data, ended=True)
    ret = yield from loop(mis, inside)
    if ret < 0:
        raise VmStateFailed(ret)
    if ret > 0:
        raise Quit


def _advise(mis: MigrationIncoming, file: Incoming, length: int) -> Story[None]:
    before, mis.postcopy = mis.postcopy, PostcopyState.ADVISE
    if before is not PostcopyState.NONE:
        said = f"in wrong postcopy state ({before:d})"
        raise VmStateFailed(FAILED, f"CMD_POSTCOPY_ADVISE {said}")
    if mis.profile.advise_bytes is None:
        if length not in (0, RANGE_BYTES):
            line = f"CMD_POSTCOPY_ADVISE invalid length ({length})"
            raise VmStateFailed(EINVAL, line)
        if length == 0 and mis.machine.postcopy_enabled:
            line = "RAM postcopy is enabled but have 0 byte advise"
            raise VmStateFailed(EINVAL, line)
        if length == 0:
            return  # for dirty bitmaps alone
        if not mis.machine.postcopy_enabled:
            line = "RAM postcopy is disabled but have 16 byte advise"
            raise VmStateFailed(EINVAL, line)
    yield from _page_sizes(mis, file)


def _page_sizes(mis: MigrationIncoming, file: Incoming) -> Story[None]:
    ram = mis.machine.ram
    theirs = yield from number(file, 8)
    if mis.profile.advise_bytes is None:
        if theirs != ram.page_sizes:
            said = f"matching RAM page sizes (s={theirs:x} d={ram.page_sizes:x})"
            raise VmStateFailed(FAILED, f"Postcopy needs {said}")
    elif theirs != ram.host_page_bytes:
        said = f"matching host page sizes (s={theirs} d={ram.host_page_bytes})"
        raise VmStateFailed(FAILED, f"Postcopy needs {said}")
    theirs = yield from number(file, 8)
    if theirs != ram.target_page_bytes:
        said = f"matching target page sizes (s={theirs} d={ram.target_page_bytes})"
        raise VmStateFailed(FAILED, f"Postcopy needs {said}")
    ram.advise()


def _discard(mis: MigrationIncoming, file: Incoming, length: int) -> Story[None]:
    name = "CMD_POSTCOPY_RAM_DISCARD"
    match mis.postcopy:
        case PostcopyState.ADVISE:
            mis.machine.ram.prepare_discard()
            mis.postcopy = PostcopyState.DISCARD
        case PostcopyState.DISCARD:
            pass
        case state:
            raise VmStateFailed(FAILED, f"{name} in wrong postcopy state ({state:d})")
    if length < DISCARD_BYTES_MIN:
        raise VmStateFailed(FAILED, f"{name} invalid length ({length})")
    version = yield from number(file, 1)
    if version:
        raise VmStateFailed(FAILED, f"{name} invalid version ({version})")
    block = yield from counted_string(file)
    if block is None:
        raise VmStateFailed(FAILED, f"{name} Failed to read RAMBlock ID")
    nil = yield from number(file, 1)
    if nil:
        raise VmStateFailed(FAILED, f"{name} missing nil ({nil})")
    left = length - 3 - len(block)
    if left % RANGE_BYTES:
        raise VmStateFailed(FAILED, f"{name} invalid length ({left})")
    for _ in range(left // RANGE_BYTES):
        start = yield from number(file, 8)
        size = yield from number(file, 8)
        mis.machine.ram.discard(block, start, size)


def _listen(mis: MigrationIncoming) -> None:
    before, mis.postcopy = mis.postcopy, PostcopyState.LISTENING
    if before not in (PostcopyState.ADVISE, PostcopyState.DISCARD):
        said = f"in wrong postcopy state ({before:d})"
        raise VmStateFailed(FAILED, f"CMD_POSTCOPY_LISTEN {said}")
    if before is PostcopyState.ADVISE and (mis.machine.postcopy_enabled or not mis.profile.pauses):
        # What prepares for a DISCARD sets the state, too: so without any, RUN fails.
        mis.machine.ram.prepare_discard()
        mis.postcopy = PostcopyState.DISCARD
    mis.machine.ram.listen()
    if mis.listening:
        raise VmStateFailed(FAILED, "CMD_POSTCOPY_RAM_LISTEN already has a listen thread")
    mis.listening = True
    mis.become(Status.POSTCOPY_ACTIVE)


def _run(mis: MigrationIncoming) -> None:
    before = mis.postcopy
    wrong = before is not PostcopyState.LISTENING
    if wrong and mis.profile.pauses:  # it tests the state before it sets it
        raise VmStateFailed(FAILED, f"CMD_POSTCOPY_RUN in wrong postcopy state ({before:d})")
    mis.postcopy = PostcopyState.RUNNING
    if wrong:
        raise VmStateFailed(FAILED, f"CMD_POSTCOPY_RUN in wrong postcopy state ({before:d})")
    mis.effects.append(GuestMayRun())
    raise Quit


def _resume(mis: MigrationIncoming) -> None:
    if mis.status is not Status.POSTCOPY_RECOVER:
        mis.say("loadvm_postcopy_handle_resume: illegal resume received")
        return
    mis.become(Status.POSTCOPY_ACTIVE)
    for request in mis.machine.ram.requested_again():
        mis.answer(request)
    mis.answer(build.resume_ack())


def _recv_bitmap(mis: MigrationIncoming, file: Incoming, length: int) -> Story[None]:
    name = "loadvm_handle_recv_bitmap"
    size = yield from number(file, 1)
    data = yield from get(file, size)
    if not size or file.error:
        raise VmStateFailed(EINVAL, f"{name}: failed to read block name")
    if length != size + 1:
        raise VmStateFailed(EINVAL, f"{name}: invalid payload length ({length})")
    block = data.split(b"\0")[0].decode("latin-1")
    message = mis.machine.ram.received_bitmap(block)
    if message is None:
        raise VmStateFailed(EINVAL, f"{name}: block '{block}' not found")
    if mis.status is not Status.POSTCOPY_RECOVER:
        mis.say("migrate_send_rp_recv_bitmap: MSG_RP_RECV_BITMAP only used for recovery")
        return
    mis.answer(message)
