"""What a machine saves and loads: its entries, in the order of the stream.

Source: QEMU `migration/savevm.c`, `SaveState` and `SaveStateEntry`, `register_savevm_live` to
`vmstate_unregister`, `find_se`; `exec.c`, `qemu_ram_set_idstr`; 2.9 to 7.2.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from testbed.vmstate import Node, Source, State, Story, VmState

IDSTR_CHARACTERS_MAX = 255
"""QEMU has it in 256 bytes, the last one a NUL; what is longer is cut."""
COMPUTED = -1
"""As an instance_id: the next one that is free."""


class RegistryError(Exception):
    """An entry that cannot be registered; the text is QEMU's."""


class OldStyle(Protocol):
    """State that is saved and loaded by code, without a VMSD."""

    described: Node | None
    """Its entry in a vmdesc, if more is known of it than the size."""

    def save(self) -> bytes:
        """The payload of its FULL section."""

    def load(self, source: Source, version_id: int) -> Story[None]:
        """Load a payload.

        Raises:
            VmStateFailed: it may not be loaded.
        """


class Live(Protocol):
    """State that is sent while the guest runs: SaveVMHandlers of `ram` and the like.

    What it writes goes between header and footer of a section.
    """

    postcopiable: bool
    """It can go on after the guest has moved: it has `save_live_complete_postcopy`."""

    def is_active(self) -> bool:
        """Whether it has anything to send in this migration."""

    def setup(self) -> bytes:
        """The payload of its START section."""

    def iterate(self, most_bytes: int) -> tuple[bytes, bool]:
        """The payload of a PART section, of about so many bytes; true if nothing is left."""

    def complete(self, *, postcopy: bool) -> Iterable[bytes]:
        """The payload of its END section, in pieces: all that is left."""

    def pending_bytes(self, enough_bytes: float) -> int:
        """An estimate of what is left; it need not look closer if that is enough already."""

    def cleanup(self) -> None:
        """The migration is over, however it ended."""

    def load(self, source: Source, version_id: int) -> Story[None]:
        """Load the payload of any of its sections; see `OldStyle.load`."""


class Compat(NamedTuple):
    """What an entry with a device path was called before there were paths."""

    idstr: str
    instance_id: int


@dataclass(slots=True, eq=False)
class Entry:
    """A SaveStateEntry. Either `vmstate` with `state`, or `old_style`, or `live`."""

    idstr: str
    instance_id: int
    version_id: int
    section_id: int
    alias_id: int = -1
    compat: Compat | None = None
    vmstate: VmState | None = None
    state: State = None
    old_style: OldStyle | None = None
    live: Live | None = None
    early: bool = False
    """It is saved before the first pages are: `early_setup` of a VMSD; since 8.1."""

    @property
    def priority(self) -> int:
        """The higher, the earlier it stands; live and old-style entries have the default."""
        return 0 if self.vmstate is None else self.vmstate.priority

    @property
    def is_ram(self) -> bool:
        """QEMU's word for every live entry; Xen saves none of them."""
        return self.live is not None

    def is_called(self, idstr: str, instance_id: int) -> bool:
        """Whether a section of that name and instance is this entry's."""
        if self.idstr == idstr and instance_id in (self.instance_id, self.alias_id):
            return True
        # A stream from before there were device paths.
        compat = self.compat
        if compat is None or compat.idstr != idstr:
            return False
        return instance_id in (compat.instance_id, self.alias_id)


@dataclass(slots=True)
class Registry:
    """The entries of one machine, in the order in which they are saved."""

    entries: list[Entry] = field(default_factory=list)
    next_section_id: int = 0
    _blocks: dict[object, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def register_live(
        self,
        idstr: str,
        instance_id: int,
        version_id: int,
        live: Live,
        *,
        device_path: str | None = None,
    ) -> Entry:
        """`register_savevm_live`: state that is sent while the guest runs.

        Raises:
            RegistryError: the path is too long.
        """
        entry = self._entry(idstr, instance_id, version_id, device_path)
        entry.live = live
        return self._insert(entry)

    def register_old_style(
        self,
        idstr: str,
        instance_id: int,
        version_id: int,
        old_style: OldStyle,
        *,
        device_path: str | None = None,
    ) -> Entry:
        """`register_savevm`: state that is saved and loaded by code; raises the same."""
        entry = self._entry(idstr, instance_id, version_id, device_path)
        entry.old_style = old_style
        return self._insert(entry)

    def register(
        self,
        vmstate: VmState,
        state: State,
        instance_id: int = COMPUTED,
        *,
        device_path: str | None = None,
        alias_id: int = -1,
        required_for_version: int = 0,
    ) -> Entry:
        """`vmstate_register_with_alias_id`: state that a VMSD describes.

        Args:
            vmstate: the declaration.
            state: what it describes.
            instance_id: or `COMPUTED`.
            device_path: of its device on the bus, such as `0000:00:03.0`.
            alias_id: an instance_id that older versions gave it.
            required_for_version: the last version_id that needs the alias.

        Raises:
            RegistryError: the path is too long.
        """
        needed = alias_id == -1 or required_for_version >= vmstate.minimum_version_id
        assert needed, f"nobody needs an alias for {vmstate.name} any more"
        entry = self._entry(vmstate.name, instance_id, vmstate.version_id, device_path)
        entry.alias_id, entry.vmstate, entry.state = alias_id, vmstate, state
        return self._insert(entry)

    def unregister(self, what: object) -> None:
        """Take out every entry of a state, a live handler or old-style code."""
        self.entries = [
            entry
            for entry in self.entries
            if what is not entry.live
            and what is not entry.old_style
            and (entry.vmstate is None or what is not entry.state)
        ]

    def find(self, idstr: str, instance_id: int) -> Entry | None:
        """`find_se`: whose section that is, by name, alias, or what it was called once."""
        # Most entries are nowhere near that name, and it is quick to see.
        near = (each for each in self.entries if idstr in each.idstr)
        return next((each for each in near if each.is_called(idstr, instance_id)), None)

    def blocked(self) -> str | None:
        """Why the machine cannot be migrated or saved, in QEMU's words; None if it can."""
        first = next(self.unmigratable(), None)
        return None if first is None else f"State blocked by non-migratable device '{first}'"

    def unmigratable(self) -> Iterator[str]:
        """The idstrs of devices that keep the machine where it is, in order."""
        for entry in self.entries:
            if entry.vmstate is not None and entry.vmstate.unmigratable:
                yield entry.idstr

    # RAM blocks

    def register_ram(self, block: object, name: str, device_path: str | None = None) -> str:
        """`vmstate_register_ram`: the idstr of a RAM block; without a path a global one.

        Raises:
            RegistryError: another block has that idstr.
        """
        assert block not in self._blocks, "a block is registered once"
        idstr = name if device_path is None else f"{device_path}/{name}"
        idstr = idstr[:IDSTR_CHARACTERS_MAX]
        if idstr in self._blocks.values():
            raise RegistryError(f'RAMBlock "{idstr}" already registered, abort!')
        self._blocks[block] = idstr
        return idstr

    def unregister_ram(self, block: object) -> None:
        """`vmstate_unregister_ram`: its idstr is free again."""
        self._blocks.pop(block, None)

    # Inside

    def _entry(
        self, idstr: str, instance_id: int, version_id: int, device_path: str | None
    ) -> Entry:
        section_id, self.next_section_id = self.next_section_id, self.next_section_id + 1
        compat = None
        name = idstr
        if device_path is not None:
            if len(device_path) + 1 > IDSTR_CHARACTERS_MAX:
                raise RegistryError(f"Path too long for VMState ({device_path})")
            name = f"{device_path}/{idstr}"
            number = self._next_compat(idstr) if instance_id == COMPUTED else instance_id
            compat = Compat(idstr[:IDSTR_CHARACTERS_MAX], number)
            instance_id = COMPUTED
        name = name[:IDSTR_CHARACTERS_MAX]
        if instance_id == COMPUTED:
            instance_id = self._next_instance(name)
        assert compat is None or not instance_id, f"two devices at {device_path}"
        return Entry(name, instance_id, version_id, section_id, compat=compat)

    def _next_instance(self, idstr: str) -> int:
        used = (entry.instance_id for entry in self.entries if entry.idstr == idstr)
        return max((0, *(number + 1 for number in used)))

    def _next_compat(self, idstr: str) -> int:
        used = (entry.compat for entry in self.entries if entry.compat is not None)
        return max((0, *(each.instance_id + 1 for each in used if each.idstr == idstr)))

    def _insert(self, entry: Entry) -> Entry:
        """Behind those of its priority and of higher ones."""
        at = next(
            (n for n, each in enumerate(self.entries) if each.priority < entry.priority),
            len(self.entries),
        )
        self.entries.insert(at, entry)
        return entry
