"""Capabilities and parameters of migrations: names, defaults, what goes together; pure.

A parameter of a capability that the model lacks is kept, and has no effect, as in QEMU while that
capability is off. Source of names, defaults and texts: `qapi/migration.json` and
`migration/migration.c` of 2.9 and of 7.2, which was asked itself (`test_qmp_migration_live.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from testbed.model.profile import Profile

from .error import CommandError
from .schema import (
    BOOL,
    INT,
    SIZE,
    STR,
    STR_OR_NULL,
    UINT8,
    UINT32,
    UINT64,
    Array,
    Enum,
    Struct,
    Type,
)

CAPABILITIES_2_9 = (
    *("xbzrle", "rdma-pin-all", "auto-converge", "zero-blocks", "compress", "events"),
    *("postcopy-ram", "x-colo", "release-ram"),
)
CAPABILITIES_7_2 = (
    *CAPABILITIES_2_9,
    *("block", "return-path", "pause-before-switchover", "multifd", "dirty-bitmaps"),
    *("postcopy-blocktime", "late-block-activate", "x-ignore-shared", "validate-uuid"),
    *("background-snapshot", "zero-copy-send", "postcopy-preempt"),
)
"""`MigrationCapability`, in its order."""

SUPPORTED = frozenset(
    (
        *("xbzrle", "events", "postcopy-ram", "return-path", "validate-uuid"),
        # They are about block devices that are migrated, or activated; none is here, so the model
        # does all that there is to do.
        *("zero-blocks", "late-block-activate"),
    )
)
"""Those that the model carries out. Another one is refused, so that nobody believes in it."""

AGAINST_BACKGROUND_SNAPSHOT = (
    *("postcopy-ram", "dirty-bitmaps", "postcopy-blocktime", "late-block-activate"),
    *("return-path", "multifd", "pause-before-switchover", "auto-converge", "release-ram"),
    *("rdma-pin-all", "compress", "xbzrle", "x-colo", "validate-uuid", "zero-copy-send"),
)
"""In the order in which the first one is named: `check_caps_background_snapshot`."""


class Parameter(NamedTuple):
    """One parameter."""

    name: str
    type: Type
    default: Any
    expects: str = ""
    """What QEMU says of a value out of range, which it calls by its name in C."""
    low: int = 0
    high: int = (1 << 64) - 1
    unit: str = ""  # in what the human monitor shows
    applied: bool = True
    """Or what is set is forgotten: so it is with two of 7.2, whatever the value."""

    @property
    def refusal(self) -> CommandError:
        """What is said of a value out of range."""
        return CommandError(f"Parameter '{self.name.replace('-', '_')}' expects {self.expects}")


def _percent(name: str, default: int, most: int = 99) -> Parameter:
    expects = f"an integer in the range of 1 to {most}"
    return Parameter(name, UINT8, default, expects, 1, most)


def _threads(name: str, default: int) -> Parameter:
    return Parameter(name, UINT8, default, "a value between 1 and 255", 1)


def _announce(name: str, type_: Type, default: int, most: int, unit: str = "ms") -> Parameter:
    # A step must be 1 at least; the text says otherwise.
    low = int(name == "announce-step")
    return Parameter(name, type_, default, f"a value between 0 and {most}", low, most, unit)


BITMAP = Struct({"name": STR, "alias": STR, "*transform": Struct({"*persistent": BOOL})})
MAPPING = Array(Struct({"node-name": STR, "alias": STR, "bitmaps": Array(BITMAP)}))

PARAMETERS_7_2 = (
    _announce("announce-initial", SIZE, 50, 100000),
    _announce("announce-max", SIZE, 550, 100000),
    _announce("announce-rounds", SIZE, 5, 1000, unit=""),
    _announce("announce-step", SIZE, 100, 10000),
    Parameter("compress-level", UINT8, 1, "a value between 0 and 9", 0, 9),
    _threads("compress-threads", 8),
    Parameter("compress-wait-thread", BOOL, default=True),
    _threads("decompress-threads", 2),
    _percent("throttle-trigger-threshold", 50, 100),
    _percent("cpu-throttle-initial", 20),
    _percent("cpu-throttle-increment", 10),
    Parameter("cpu-throttle-tailslow", BOOL, default=False),
    Parameter("tls-creds", STR_OR_NULL, ""),
    Parameter("tls-hostname", STR_OR_NULL, ""),
    Parameter("tls-authz", STR_OR_NULL, ""),
    Parameter("max-bandwidth", SIZE, 128 << 20, unit="bytes/second"),
    Parameter(
        "downtime-limit",
        UINT64,
        300,
        "an integer in the range of 0 to (2000 * 1000) ms",
        high=2000 * 1000,
        unit="ms",
    ),
    Parameter("x-checkpoint-delay", UINT32, 20000, unit="ms"),
    Parameter("block-incremental", BOOL, default=False),
    _threads("multifd-channels", 2),
    Parameter(
        "xbzrle-cache-size",
        SIZE,
        64 << 20,
        "a power of two no less than the target page size",
        unit="bytes",
    ),
    Parameter("max-postcopy-bandwidth", SIZE, 0),
    Parameter(
        "max-cpu-throttle",
        UINT8,
        99,
        "an integer in the range of cpu_throttle_initial to 99",
        high=99,
    ),
    Parameter("multifd-compression", Enum(("none", "zlib", "zstd")), "none"),
    Parameter("multifd-zlib-level", UINT8, 1, applied=False),
    Parameter("multifd-zstd-level", UINT8, 1, applied=False),
    Parameter("block-bitmap-mapping", MAPPING, None),
)
SHOWN_AFTER = {
    "max-cpu-throttle": "cpu-throttle-tailslow",
    "multifd-compression": "multifd-channels",
    "tls-authz": "max-postcopy-bandwidth",
}
"""Where `info migrate_parameters` leaves QAPI's order."""

_RANGE = "is invalid, it should be in the range of {} to {}"
PARAMETERS_2_9 = (
    Parameter("compress-level", INT, 1, _RANGE.format(0, 9), 0, 9),
    Parameter("compress-threads", INT, 8, _RANGE.format(1, 255), 1, 255),
    Parameter("decompress-threads", INT, 2, _RANGE.format(1, 255), 1, 255),
    Parameter("cpu-throttle-initial", INT, 20, "an integer in the range of 1 to 99", 1, 99),
    Parameter("cpu-throttle-increment", INT, 10, "an integer in the range of 1 to 99", 1, 99),
    Parameter("tls-creds", STR, ""),
    Parameter("tls-hostname", STR, ""),
    Parameter(
        "max-bandwidth",
        INT,
        32 << 20,
        f"an integer in the range of 0 to {(1 << 64) - 1} bytes/second",
        unit="bytes/second",
    ),
    Parameter(
        "downtime-limit",
        INT,
        300,
        "an integer in the range of 0 to 2000000 milliseconds",
        high=2000 * 1000,
        unit="milliseconds",
    ),
    Parameter("x-checkpoint-delay", INT, 200, "is invalid, it should be positive"),
)


class Settings:
    """What is set, for both directions of migration; it outlives them.

    Args:
        profile: whose names, defaults and texts.
        target_page_bytes: of the machine.
    """

    def __init__(self, profile: Profile, *, target_page_bytes: int = 4096) -> None:
        modern = profile.pauses
        names = CAPABILITIES_7_2 if modern else CAPABILITIES_2_9
        self.parameters: tuple[Parameter, ...] = PARAMETERS_7_2 if modern else PARAMETERS_2_9
        self.xbzrle_cache_bytes_2_9 = 64 << 20
        """2.9 has it beside the parameters."""
        self.target_page_bytes = target_page_bytes
        self._modern = modern
        self._capabilities = dict.fromkeys(names, False)
        self._values = {parameter.name: parameter.default for parameter in self.parameters}

    # Capabilities

    @property
    def capabilities(self) -> Mapping[str, bool]:
        """All that there are, in QAPI's order."""
        return self._capabilities

    def has(self, capability: str) -> bool:
        """Whether a capability is on; one that the profile does not know is off."""
        return self._capabilities.get(capability, False)

    def set_capabilities(self, changes: Iterable[tuple[str, bool]]) -> None:
        """Turn some on and others off, all of them or none.

        Args:
            changes: of those that there are; the last one of a name counts.

        Raises:
            CommandError: they do not go together, or the model does not carry one out.
        """
        asked = dict(changes)
        wanted = self._capabilities | asked
        conflict = _conflict(wanted) if self._modern else None
        if conflict is not None:
            raise CommandError(conflict)
        for name in asked:
            if wanted[name] and name not in SUPPORTED:
                raise CommandError(f"{name} is not supported by this model")
        self._capabilities = wanted

    # Parameters

    def __getitem__(self, name: str) -> Any:
        """A parameter's value: of the type that QAPI says."""
        return self._values[name]

    def get(self, name: str, default: Any) -> Any:
        """A parameter's value, or `default` where the profile has no such parameter."""
        return self._values.get(name, default)

    @property
    def xbzrle_cache_bytes(self) -> int:
        """Room of the cache, whichever way it is set."""
        size: int = self.get("xbzrle-cache-size", self.xbzrle_cache_bytes_2_9)
        return size

    def all_parameters(self) -> dict[str, Any]:
        """What `query-migrate-parameters` answers: a mapping that was never set is not told."""
        return {name: value for name, value in self._values.items() if value is not None}

    def set_parameters(self, changes: Mapping[str, Any]) -> frozenset[str]:
        """Set some, all of them or none; return the names of those that are set now.

        Args:
            changes: by name, of the right types.

        Raises:
            CommandError: a value is out of range, does not go together with another, or asks for
                what the model does not do.
        """
        changes = {name: "" if value is None else value for name, value in changes.items()}
        wanted = self._values | changes
        by_check = sorted(self.parameters, key=lambda each: each.name.startswith("announce"))
        for parameter in by_check:
            if parameter.expects and not self._is_right(parameter, wanted):
                raise parameter.refusal
        for name in ("tls-creds", "block-bitmap-mapping"):
            if changes.get(name):
                raise CommandError(f"{name} is not supported by this model")
        applied = {each.name for each in self.parameters if each.applied}
        self._values |= {name: changes[name] for name in applied & changes.keys()}
        return frozenset(applied & changes.keys())

    def _is_right(self, parameter: Parameter, wanted: Mapping[str, Any]) -> bool:
        value: int = wanted[parameter.name]
        if not parameter.low <= value <= parameter.high:
            return False
        match parameter.name:
            case "xbzrle-cache-size":
                return value >= self.target_page_bytes and value & (value - 1) == 0
            case "max-cpu-throttle":
                at_least: int = wanted["cpu-throttle-initial"]
                return value >= at_least
        return True


def _conflict(on: Mapping[str, bool]) -> str | None:
    """`migrate_caps_check` of 7.2: why these do not go together, in QEMU's words."""
    if on["postcopy-ram"] and on["x-ignore-shared"]:
        return "Postcopy is not compatible with ignore-shared"
    if on["background-snapshot"]:
        for name in AGAINST_BACKGROUND_SNAPSHOT:
            if on[name]:
                return f"Background-snapshot is not compatible with {name}"
    if on["zero-copy-send"] and (not on["multifd"] or on["compress"] or on["xbzrle"]):
        return "Zero copy only available for non-compressed non-TLS multifd migration"
    if on["postcopy-preempt"] and not on["postcopy-ram"]:
        return "Postcopy preempt requires postcopy-ram"
    if on["postcopy-preempt"] and on["compress"]:
        return "Postcopy preempt not compatible with compress"
    if on["multifd"] and on["compress"]:
        return "Multifd is not compatible with compress"
    return None


def in_the_order_shown(parameters: Sequence[Parameter]) -> list[Parameter]:
    """Those that `info migrate_parameters` shows, in its order."""
    places = {each.name: place for place, each in enumerate(parameters)}
    for name, before in SHOWN_AFTER.items():
        if name in places:
            places[name] = places[before]
    shown = [each for each in parameters if each.applied and each.default is not None]
    return sorted(shown, key=lambda each: (places[each.name], each.name in SHOWN_AFTER))
