"""A small machine to load into, and streams for it."""

from dataclasses import dataclass, field

from testbed.model.configuration import Configuration, configuration
from testbed.model.destination import Destination
from testbed.model.incoming import Answer, Became, Exit, GuestMayRun, HangUp, Machine, Say
from testbed.model.profile import PROFILES
from testbed.model.registry import Registry
from testbed.vmstate import VmState, VmStateFailed, fields
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
    minimum_version_id=2,
    fields=(fields.int64("ticks"), fields.int64("clock")),
)


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

    def prepare_discard(self):
        self.done.append("prepare")

    def discard(self, block, start, length):
        if block != "pc.ram":
            line = f"ram_discard_range: Failed to find block '{block}'"
            raise VmStateFailed(-1, line)
        self.done.append((start, length))

    def listen(self):
        self.done.append("listen")

    def requested_again(self):
        return [build.request_pages(0x1000, 0x1000, "pc.ram")]

    def received_bitmap(self, block):
        return build.received_bitmap(block, b"\1") if block == "pc.ram" else None


class Old:
    """Five bytes."""

    payload = b""

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

    def __post_init__(self):
        self.ram, self.timer, self.serial, self.effects = Ram(), Timer(), Old(), []
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
        found = parser.feed(b"".join(effect.data for effect in self.of(Answer)))
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
    payload = ticks.to_bytes(8, "big") + clock.to_bytes(8, "big")
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
