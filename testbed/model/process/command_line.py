"""QEMU's command line, as far as the model has what it is about; nothing is opened here.

An option that QEMU has and the model does not is refused as QEMU refuses what it does not know:
what would be ignored in silence would be missed later. Texts: QEMU `softmmu/vl.c`,
`util/qemu-option.c` (7.2), each checked with the real one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

SUFFIXES = {suffix: 1 << 10 * power for power, suffix in enumerate("bkmgtpe")}
SIZE = re.compile(r"(\d{1,19})(\.\d{1,19})?([bkmgtpe]?)", re.IGNORECASE)
SIZE_ADVICE = (
    "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n"
    "and exabytes, respectively."
)
MEMORY_BYTES = 128 << 20
"""Without `-m`."""
MEMORY_UNIT = 8192
CPUS_MAX = 16
WITHOUT_VALUE = frozenset(
    (
        *("nodefaults", "no-user-config", "no-reboot", "no-shutdown", "nographic", "S"),
        *("only-migratable", "enable-kvm", "version", "help", "h"),
    )
)
WITH_VALUE = frozenset(
    (
        *("accel", "add-fd", "chardev", "cpu", "device", "display", "drive", "dump-vmstate"),
        *("global", "incoming", "loadvm", "m", "M", "machine", "mon", "monitor", "name"),
        *("netdev", "pidfile", "profile", "qmp", "rtc", "sandbox", "serial", "smp", "trace"),
        *("uuid", "vga"),
    )
)
ONLY_NONE = {"display": "none", "vga": "none", "monitor": "none"}
"""Of these the model has none; whoever wants one is told."""


class Usage(Exception):
    """A command line that cannot be.

    Args:
        texts: QEMU's, each without the program's name; there may be newlines in one.
    """

    def __init__(self, *texts: str) -> None:
        super().__init__(*texts)
        self.texts = texts


@dataclass(frozen=True, slots=True)
class Option:
    """One option with a list of values: `-device virtio-net-pci,netdev=net0`."""

    text: str  # as it was given, for messages
    first: str = ""  # what stands without a key, before all others
    values: dict[str, str] = field(default_factory=dict)

    def refused(self, *why: str) -> Usage:
        """The error of this option, said in one or more lines."""
        return Usage(*(f"{self.text}: {each}" for each in why))

    def is_on(self, key: str, *, usual: bool = False) -> bool:
        """A switch that was checked."""
        return self.values[key] == "on" if key in self.values else usual

    def number(self, key: str) -> int | None:
        """A descriptor's or a set's number; None if it is not given."""
        value = self.values.get(key)
        if value is None:
            return None
        if not value.isdigit():
            raise self.refused(f"Parameter '{key}' expects a number")
        return int(value)


@dataclass(slots=True)
class CommandLine:
    """What a command line asks for."""

    profile: str = "7.2"
    machine: str = "pc"
    machine_options: dict[str, str] = field(default_factory=dict)
    memory_bytes: int = MEMORY_BYTES
    cpus: int = 1
    name: str | None = None
    uuid: UUID | None = None
    paused: bool = False
    only_migratable: bool = False
    incoming: str | None = None
    loadvm: str | None = None
    dump_vmstate: Option | None = None
    pidfile: str | None = None
    serial: Option | None = None
    chardevs: list[Option] = field(default_factory=list)
    monitors: list[Option] = field(default_factory=list)
    qmp: list[Option] = field(default_factory=list)
    fds: list[Option] = field(default_factory=list)
    drives: list[Option] = field(default_factory=list)
    devices: list[Option] = field(default_factory=list)
    netdevs: list[Option] = field(default_factory=list)
    traces: list[Option] = field(default_factory=list)
    globals: dict[str, str] = field(default_factory=dict)
    asks: str | None = None  # `version`, `help`, `machines`: to be told, and nothing else


def parse(arguments: Sequence[str]) -> CommandLine:
    """Read a command line.

    Args:
        arguments: without the program's name.

    Raises:
        Usage: it cannot be.
    """
    found = CommandLine()
    for name, given, value in _options(arguments):
        text = f"{given} {value}" if value else given
        if name in LISTS:
            option = listed(text, value)
            LISTS[name](found).append(checked(option, KEYS[name]) if name in KEYS else option)
        else:
            _take(found, name, text, value)
    return found


def _options(arguments: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Name, what was typed for it, and value, of each option."""
    rest = iter(arguments)
    for given in rest:
        name = given.removeprefix("-").removeprefix("-")
        if name == given:
            raise Usage(f"{given}: the model boots no image that is named so; use -drive")
        if name in WITHOUT_VALUE:
            yield name, given, ""
        elif name in WITH_VALUE:
            value = next(rest, USUAL.get(name))
            if value is None:
                raise Usage(f"{given}: requires an argument")
            yield name, given, value
        else:
            raise Usage(f"{given}: invalid option")


USUAL = {"dump-vmstate": "-"}
"""What an option may leave out where it is the last one; QEMU wants all of them."""

LISTS: dict[str, Callable[[CommandLine], list[Option]]] = {
    "chardev": lambda found: found.chardevs,
    "mon": lambda found: found.monitors,
    "qmp": lambda found: found.qmp,
    "add-fd": lambda found: found.fds,
    "drive": lambda found: found.drives,
    "device": lambda found: found.devices,
    "netdev": lambda found: found.netdevs,
    "trace": lambda found: found.traces,
}
"""Options that may be given several times."""


def _take(found: CommandLine, name: str, text: str, value: str) -> None:
    if name in PLAIN:
        setattr(found, PLAIN[name], value)
    elif name in FLAGS:
        setattr(found, FLAGS[name], True)
    elif name in ("version", "help", "h"):
        found.asks = found.asks or ("version" if name == "version" else "help")
    elif name in TAKERS:
        TAKERS[name](found, text, value)
    elif value != ONLY_NONE.get(name, value):
        raise Usage(f"{text}: the model has only `{ONLY_NONE[name]}`")


PLAIN = {
    "profile": "profile",
    "incoming": "incoming",
    "loadvm": "loadvm",
    "pidfile": "pidfile",
}
FLAGS = {"S": "paused", "only-migratable": "only_migratable"}


def _take_machine(found: CommandLine, text: str, value: str) -> None:
    option = listed(text, value)
    values = dict(option.values)
    found.machine = option.first or values.pop("type", found.machine)
    if found.machine in ("help", "?"):
        found.asks = found.asks or "machines"
    found.machine_options |= values


def check_machine(line: CommandLine, name: str) -> None:
    """Check what is to be said in the words of the machine type with that versioned name.

    Raises:
        Usage: it has no such property, or not so many CPUs.
    """
    for key, given in line.machine_options.items():
        if key not in MACHINE_OPTIONS and (key, line.profile) != CONFIG_SECTION:
            raise Usage(f"Property '{name}-machine.{key}' not found")
        if key != "accel" and given not in SWITCH:
            raise Usage(f"Parameter '{key}' expects 'on' or 'off'")
    if not 0 <= line.cpus <= CPUS_MAX:
        said = f"Invalid SMP CPUs {line.cpus}. The max CPUs supported by machine"
        raise Usage(f"{said} '{name}' is {CPUS_MAX}")
    line.cpus = max(1, line.cpus)


MACHINE_OPTIONS = ("accel", "suppress-vmdesc", "graphics", "usb")
CONFIG_SECTION = ("enforce-config-section", "2.9")
"""An option, and the profile that has it."""


def _take_global(found: CommandLine, text: str, value: str) -> None:
    key, equals, set_to = value.partition("=")
    if not equals or "." not in key:
        raise Usage(f"{text}: Invalid parameter '{value}'")
    driver, _, name = key.partition(".")
    if driver != "migration":
        raise Usage(f"{text}: the model has {', '.join(GLOBALS)}")
    if key not in GLOBALS:
        raise Usage(f"can't apply global {value}: Property '{key}' not found")
    if set_to not in SWITCH:
        raise Usage(f"can't apply global {value}: Parameter '{name}' expects 'on' or 'off'")
    found.globals[key] = set_to


GLOBALS = (
    "migration.send-configuration",
    "migration.send-section-footer",
    "migration.store-global-state",
)
"""What old machine types switch off: QEMU `hw/core/machine.c`, `hw_compat_2_3`."""


SWITCH = ("on", "off")


class Keys(NamedTuple):
    """The keys that an option takes."""

    first: str
    """The one that what stands without a key is for."""
    known: tuple[str, ...]
    switches: tuple[str, ...] = ()
    """Of them, those that are on or off."""
    unknown: str = "Invalid parameter '{key}'"
    """What is said of a `key` that is not known."""


KEYS = {
    "chardev": Keys(
        "backend",
        ("id", "path", "host", "port", "fd", "server", "wait"),
        ("server", "wait"),
    ),
    "mon": Keys("chardev", ("mode", "pretty"), ("pretty",)),
    "add-fd": Keys("", ("fd", "set", "opaque")),
    "drive": Keys(
        "",
        ("if", "id", "file", "file.filename", "file.locking", "format", "readonly"),
        ("readonly", "file.locking"),
        unknown="Block format 'raw' does not support the option '{key}'",
    ),
    "device": Keys("driver", ()),
    "netdev": Keys("type", ("id", "fd", "vhost"), ("vhost",)),
    "m": Keys("size", ("slots", "maxmem")),
    "trace": Keys("enable", ("enable",)),
    "name": Keys("guest", ("process", "debug-threads"), ("debug-threads",)),
}
"""By option. What a device takes depends on its driver: see `devices`; for `-qmp` see `chardev`."""


def checked(option: Option, keys: Keys) -> Option:
    """The option, with what `first` may also be said by.

    Raises:
        Usage: it has keys that are unknown, or no switch where one must be.
    """
    values = dict(option.values)
    first = values.pop(keys.first, option.first)
    for key, value in values.items():
        if keys.known and key not in keys.known:
            raise option.refused(keys.unknown.format(key=key))
        if key in keys.switches and value not in SWITCH:
            raise option.refused(f"Parameter '{NAMES.get(key, key)}' expects 'on' or 'off'")
    return Option(option.text, first, values)


NAMES = {"readonly": "read-only"}
"""What messages call a key, where that is not its own name."""


def listed(text: str, value: str) -> Option:
    """`first,key=value,flag,key=a,,comma`: two commas are one, a key alone is on."""
    parts = [part.replace("\0", ",") for part in value.replace(",,", "\0").split(",")]
    first = "" if "=" in parts[0] else parts.pop(0)
    values = {}
    for part in filter(None, parts):
        key, equals, given = part.partition("=")
        values[key] = given if equals else "on"
    return Option(text, first, values)


def size(text: str, unit: str = "m") -> int | None:
    """A number with a suffix, in bytes; without a suffix it counts `unit`s. None: it is none."""
    found = SIZE.fullmatch(text)
    if found is None:
        return None
    scale = SUFFIXES[(found[3] or unit).lower()]
    if found[2] and scale == 1:
        return None
    return int(found[1]) * scale + int(float(found[2] or 0) * scale)


def _take_memory(found: CommandLine, text: str, value: str) -> None:
    option = checked(listed(text, value), KEYS["m"])
    given = size(option.first)
    if given is None or given >= 1 << 64:
        why = "Parameter 'size' expects a non-negative number below 2^64"
        raise Usage(f"{text}: {why}\n{SIZE_ADVICE}")
    found.memory_bytes = -(-given // MEMORY_UNIT) * MEMORY_UNIT or MEMORY_BYTES


def _take_cpus(found: CommandLine, text: str, value: str) -> None:
    option = listed(text, value)
    values = {"cpus": option.first or "1", **option.values}
    for key, given in values.items():
        if key not in CPU_KEYS:
            raise Usage(f"Parameter 'smp.{key}' is unexpected")
        if not NUMBER.fullmatch(given):
            raise Usage(f"Parameter 'smp.{key}' expects integer")
    found.cpus = int(values["cpus"])


CPU_KEYS = ("cpus", "maxcpus", "sockets", "dies", "clusters", "cores", "threads")
NUMBER = re.compile(r"-?\d{1,9}")


def _take_name(found: CommandLine, text: str, value: str) -> None:
    found.name = checked(listed(text, value), KEYS["name"]).first


def _take_uuid(found: CommandLine, text: str, value: str) -> None:
    if not UUID_TEXT.fullmatch(value):
        raise Usage(f"{text}: failed to parse UUID string: wrong format")
    found.uuid = UUID(value)


UUID_TEXT = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def _take_serial(found: CommandLine, text: str, value: str) -> None:
    if found.serial is not None:
        raise Usage(f"{text}: the model has one serial line")
    found.serial = Option(text, value)


def _take_dump(found: CommandLine, text: str, value: str) -> None:
    found.dump_vmstate = Option(text, value)


TAKERS: dict[str, Callable[[CommandLine, str, str], None]] = {
    "M": _take_machine,
    "machine": _take_machine,
    "m": _take_memory,
    "smp": _take_cpus,
    "name": _take_name,
    "uuid": _take_uuid,
    "serial": _take_serial,
    "dump-vmstate": _take_dump,
    "global": _take_global,
}
