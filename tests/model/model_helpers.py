"""A small machine to load into, and streams for it."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from testbed.model.migration.configuration import Configuration, configuration
from testbed.model.migration.destination import Destination
from testbed.model.migration.effects import (
    Became,
    Exit,
    GuestMayRun,
    HangUp,
    ResumeGuest,
    Say,
    Send,
    StopGuest,
)
from testbed.model.migration.incoming import Machine
from testbed.model.migration.outgoing import Outgoing
from testbed.model.migration.registry import Registry
from testbed.model.migration.source import Parameters, Source
from testbed.model.profile import PROFILES
from testbed.vmstate import Manner, VmState, VmStateFailed, fields
from testbed.wire import ReturnPath, build, build_section, encode
from testbed.wire.element import (
    Command,
    CommandType,
    EndOfStream,
    FileHeader,
    SectionType,
    VmDescription,
)
from testbed.wire.element import (
    Configuration as ConfigurationElement,
)

MACHINE = "pc-i440fx-7.2"
RAM_ID, TIMER_ID, SERIAL_ID = 2, 0, 7
EOS = (0x10).to_bytes(8, "big")


@dataclass
class Timer:
    ticks: int = 0
    clock: int = 0


TIMER = VmState(
    "timer",
    version_id=2,
    minimum_version_id=1,
    fields=(
        fields.int64("cpu_ticks_offset", attribute="ticks"),
        fields.unused(8),
        fields.int64("cpu_clock_offset", attribute="clock", version_id=2),
    ),
)
"""As QEMU has it: `softmmu/cpu-timers.c`, 7.2."""


class Ram:
    """Records of EOS alone, and notes of what postcopy does."""

    target_page_bytes = host_page_bytes = page_sizes = 4096

    def __init__(self):
        self.done = []

    def load(self, source, version_id):
        if version_id != 4:
            raise VmStateFailed(-22)
        record = (yield from source.read(8)).ljust(8, b"\0")
        if record != EOS:
            raise VmStateFailed(-22, f"Unknown combination of migration flags: {record[-1]:#x}")

    # As a source: some rounds of sections, each with nothing but EOS

    postcopiable = True
    rounds = 3

    def is_active(self):
        return True

    def setup(self):
        return EOS

    def iterate(self, _most_bytes):
        self.rounds -= 1
        return EOS, not self.rounds

    def complete(self, *, postcopy):
        self.done.append("complete postcopy" if postcopy else "complete")
        return [EOS]

    def pending_bytes(self, _enough_bytes):
        return 1000 * self.rounds

    def cleanup(self):
        self.done.append("cleanup")

    def discards(self):
        return [build.discard("pc.ram", [(0x1000, 0x2000)])]

    def request(self, block, offset, _size):
        if block not in (None, "pc.ram"):
            return f"ram_save_queue_pages no block '{block}'"
        self.done.append(("requested", offset))
        return None

    def requests_bitmaps(self):
        return [build.recv_bitmap("pc.ram")]

    def bitmap_bytes(self, message):
        return 8 if message.payload == b"\6pc.ram" else None

    def reload_bitmap(self, message):
        if message != build.received_bitmap("pc.ram", b"\1"):
            return "ram_dirty_bitmap_reload: ramblock 'pc.ram' bitmap size mismatch (0x0 != 0x8)"
        self.rounds = 2
        return None

    # As a destination

    def advise(self):
        self.done.append("advise")

    def end(self):
        self.done.append("end")

    def prepare_discard(self):
        self.done.append("prepare")

    def discard(self, block, start, length):
        if block != "pc.ram":
            line = f"ram_discard_range: Failed to find block '{block}'"
            raise VmStateFailed(-1, line)
        self.done.append((start, length))

    def listen(self):
        self.done.append("listen")

    def want(self, missing):
        return build.request_pages(missing.offset_bytes, missing.size_bytes)

    def requested_again(self):
        return [build.request_pages(0x1000, 0x1000, "pc.ram")]

    def received_bitmap(self, block):
        return build.received_bitmap(block, b"\1") if block == "pc.ram" else None


class Old:
    """Five bytes."""

    payload = b""
    described = None

    def save(self):
        return self.payload

    def load(self, source, _version_id):
        self.payload = yield from source.read(5)
        if source.error:
            raise VmStateFailed(source.error)


@dataclass
class Bed:
    """A destination, what it loads into, and all that it did."""

    profile: str = "7.2"
    postcopy: bool = True
    can_answer: bool = True
    configured: Configuration = field(default_factory=lambda: Configuration(MACHINE))
    beside: VmState | None = None  # of one device more
    ram: Any = field(default_factory=Ram)

    def __post_init__(self):
        self.timer, self.serial, self.effects = Timer(), Old(), []
        self.registry = Registry()
        self.registry.register(TIMER, self.timer)
        self.registry.register_live("ram", 0, 4, self.ram)
        self.registry.register_old_style("serial", 1, 3, self.serial)
        if self.beside is not None:
            self.registry.register(self.beside, object())
        profile = PROFILES[self.profile]
        self.machine = Machine(
            MACHINE,
            self.registry,
            self.ram,
            configuration(profile),
            self.configured,
            postcopy_enabled=self.postcopy,
        )
        self.destination = Destination(self.machine, profile, can_answer=self.can_answer)
        self.effects += self.destination.begin()

    def feed(self, *chunks, end=False):
        for chunk in chunks:
            self.effects += self.destination.feed(chunk)
        if end:
            self.effects += self.destination.end()
        return self

    def of(self, kind):
        return [effect for effect in self.effects if isinstance(effect, kind)]

    @property
    def said(self):
        return [effect.line for effect in self.of(Say)]

    @property
    def statuses(self):
        return [str(effect.status) for effect in self.of(Became)]

    @property
    def exit_status(self):
        return next((effect.status for effect in self.of(Exit)), None)

    @property
    def answers(self):
        parser = ReturnPath()
        found = parser.feed(b"".join(effect.data for effect in self.of(Send)))
        return [str(each.value.name) for each in found]

    @property
    def runs(self):
        return len(self.of(GuestMayRun))

    @property
    def hung_up(self):
        return len(self.of(HangUp))


def head(machine=MACHINE):
    return encode(FileHeader(0x5145564D, 3)) + encode(ConfigurationElement(machine))


def ram(kind=SectionType.PART, version_id=4, payload=EOS):
    return build_section(kind, RAM_ID, "ram", 0, version_id, payload)


def timer(ticks=1, clock=2, *, version_id=2):
    payload = ticks.to_bytes(8, "big") + bytes(8) + clock.to_bytes(8, "big")
    return build_section(SectionType.FULL, TIMER_ID, "timer", 0, version_id, payload)


def serial(payload=b"abcde"):
    return build_section(SectionType.FULL, SERIAL_ID, "serial", 1, 3, payload)


EOF = encode(EndOfStream())
VMDESC = encode(VmDescription(b'{"page_size": 4096, "devices": []}'))
OPEN = encode(Command(CommandType.OPEN_RETURN_PATH, b""))
LISTEN = encode(Command(CommandType.POSTCOPY_LISTEN, b""))
RUN = encode(Command(CommandType.POSTCOPY_RUN, b""))
RESUME = encode(Command(CommandType.POSTCOPY_RESUME, b""))
ADVISE = encode(build.advise(4096, 4096))
SETUP = ram(SectionType.START)
LIVE = SETUP + ram() + ram(SectionType.END)
PRECOPY = head() + LIVE + timer() + serial() + EOF + VMDESC


def ping(value):
    return encode(build.ping(value))


def packaged(*inside):
    data = b"".join(inside)
    return encode(Command(CommandType.PACKAGED, len(data).to_bytes(4, "big"))) + data


PACKAGE = packaged(LISTEN, timer(), serial(), ping(3), RUN)
TO_POSTCOPY = head() + OPEN + ping(1) + ADVISE + SETUP + ram()
DISCARD = encode(build.discard("pc.ram", [(0x1000, 0x2000)]))
POSTCOPY = TO_POSTCOPY + DISCARD + ping(2) + PACKAGE + ping(4) + ram() + ram(SectionType.END) + EOF


def outgoing(profile, ram=None):
    """A machine to be sent, whose state is that of PRECOPY."""
    registry, ram, old = Registry(), ram or Ram(), Old()
    old.payload = b"abcde"
    registry.register(TIMER, Timer(1, 2))
    registry.register_live("ram", 0, 4, ram)
    registry.register_old_style("serial", 1, 3, old)
    manner = Manner.QEMU_7_2 if profile.pauses else Manner.QEMU_2_9
    sent = Configuration(MACHINE)
    return Outgoing(registry, ram, configuration(profile), sent, manner=manner)


@dataclass
class Pair:
    """A source and a destination in one process, on a clock of their own.

    After `cut` bytes forward the connection is lost, for both at once.
    """

    profile: str = "7.2"
    postcopy: bool = False
    return_path: bool = True
    cut: int | None = None
    rams: tuple[Any, Any] | None = None  # of source and destination
    bytes_per_s: int = 20_000

    def __post_init__(self):
        profile = PROFILES[self.profile]
        ours, theirs = self.rams or (Ram(), Ram())
        self.bed = Bed(self.profile, postcopy=self.postcopy, ram=theirs)
        self.bed.registry.unregister(self.bed.serial)
        self.bed.registry.register_old_style("serial", 1, 3, self.bed.serial)
        self.machine = outgoing(profile, ours)
        parameters = Parameters(
            return_path=self.return_path,
            postcopy=self.postcopy,
            max_bandwidth_bytes=self.bytes_per_s,
        )
        self.source = Source(self.machine, self.machine.ram, profile, parameters)
        self.source.start_postcopy_at_once = self.postcopy
        self.now_s = 0.0
        self.forward = b""
        self.effects = []
        self.connected = True
        self.runs_at = {"source"}
        self.queue, self.draining = deque(), False

    def run(self, turns=500):
        """Until both are done, or nothing happens any more."""
        self._do(self.source.begin(self.now_s))
        return self.go_on(turns)

    def go_on(self, turns=500):
        for _ in range(turns):
            if self.source.is_over or not (self.connected or self.source.has_written_all):
                break
            self.guest()
            before = self._progress()
            self.now_s = max(self.now_s, self.source.next_at_s)
            self._do(self.source.advance(self.now_s))
            if before == self._progress():
                break
        return self

    def _progress(self):
        source = self.source
        return len(self.forward), source.status, source.next_at_s, source.has_written_all

    def guest(self):
        """What the guest does in each turn."""

    def recover(self):
        self.connected, self.cut = True, None
        self._arrived(self.bed.destination.recover())
        self._do(self.source.recover())
        return self.go_on()

    # Everything that happens is queued: nobody acts while another one still does

    def _do(self, effects):
        self.queue += [("source", effect) for effect in effects]
        self._drain()

    def _arrived(self, effects):
        self.queue += [("destination", effect) for effect in effects]
        self._drain()

    def _drain(self):
        if self.draining:
            return
        self.draining = True
        while self.queue:
            side, effect = self.queue.popleft()
            if side == "source":
                self.effects.append(effect)
                self._of_source(effect)
            else:
                self.bed.effects.append(effect)
                self._of_destination(effect)
        self.draining = False

    def _of_source(self, effect):
        match effect:
            case Send(data):
                self._carry(data)
            case StopGuest():
                self.runs_at.discard("source")
            case ResumeGuest():
                self.runs_at.add("source")
            case HangUp():
                self._lose(source=False)

    def _of_destination(self, effect):
        match effect:
            case Send(data) if self.connected:
                self._do(self.source.back(data))
            case GuestMayRun():
                self.runs_at.add("destination")
            case Exit():
                self.runs_at.discard("destination")
                self._lose(destination=False)
            case HangUp():
                self._lose(destination=False)

    def _carry(self, data):
        if not self.connected:
            return
        left = len(data) if self.cut is None else self.cut - len(self.forward)
        self.forward += data[:left]
        self._arrived(self.bed.destination.feed(data[:left]))
        if left < len(data):
            self._lose()

    def _lose(self, *, source=True, destination=True):
        """The connection is gone, for who does not know it yet."""
        if not self.connected:
            return
        self.connected = False
        if destination:
            self._arrived(self.bed.destination.end())
        if source:
            self._do(self.source.back_ended())
            if not self.source.is_over and not self.source.has_written_all:
                self._do(self.source.write_failed(-32, "Broken pipe"))

    @property
    def statuses(self):
        return [str(effect.status) for effect in self.effects if isinstance(effect, Became)]

    @property
    def said(self):
        return [effect.line for effect in self.effects if isinstance(effect, Say)]
