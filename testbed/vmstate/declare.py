"""What device state is made of: `VmState` of `Field`s, each coded by an `Info`.

The Python counterparts of QEMU's VMStateDescription, VMStateField and VMStateInfo
(`include/migration/vmstate.h`). A declaration is a frozen value. The state itself is any object
with attributes; a field's name says where its value is, as in C: `queue.rptr`,
`channels[0].irq_disabled`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, TypeVar

T = TypeVar("T")
Story = Generator[None, None, T]
"""A part of a loader: reads top to bottom, yields where bytes are missing, returns a `T`."""

State = Any
"""An object with attributes: of a device, or of a part of it."""


class Node(list[tuple[str, Any]]):
    """A JSON object, whose keys may come more than once: a described list repeats them."""


class FixedNodes(list[Node]):
    """Descriptions that do not change any more: their text is made once."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        super().__init__(nodes)
        self.texts: dict[str, str] = {}
        """By what separates things in it."""


class FieldNodes(list[Node]):
    """Descriptions of the fields of a VMSD."""

    def __init__(self) -> None:
        super().__init__()
        self.fixed: list[tuple[int, FixedNodes]] = []
        """From where on they are these, in order."""

    def add_fixed(self, nodes: FixedNodes) -> None:
        """Append these."""
        self.fixed.append((len(self), nodes))
        self += nodes


ELEMENTS_MAX = 1 << 20
"""Of an array or list; 50 000 seen (`e1000`). QEMU has no bound but its memory."""
FIELD_BYTES_MAX = 64 << 20
"""Of one buffer or bitmap; 256 KiB seen. QEMU has no bound but its memory."""
NAME_BYTES_MAX = 255
"""Of a subsection's name: one byte on the wire says how many."""


class Source(Protocol):
    """Where a loader reads: the counterpart of QEMU's QEMUFile, `migration/qemu-file.c`."""

    error: int
    """The first error, a negative errno; 0 for none. A read or peek beyond the end sets it."""

    def read(self, count: int) -> Story[bytes]:
        """The next `count` bytes; fewer only at the end of the stream."""

    def peek(self, count: int, *, skip: int = 0) -> Story[bytes]:
        """`count` bytes from `skip` bytes ahead, without reading them; fewer only at the end."""

    def in_hand(self) -> memoryview:
        """What came and was not read yet, uncopied; to be released before anything else is done."""

    def skip(self, count: int) -> None:
        """Have read the next `count` of the bytes in hand."""


class Loader(Protocol):
    """What an `Info` loads with."""

    source: Source

    def read(self, count: int) -> Story[bytes]:
        """The next `count` bytes; what lies beyond the end reads as zeros, as in QEMU."""

    def load(self, vmstate: VmState, state: State, version_id: int) -> Story[None]:
        """Load a whole VMSD, its subsections included."""


class Saver(Protocol):
    """What an `Info` saves with."""

    data: bytearray
    """What was saved so far: append to it."""

    def save(self, vmstate: VmState, state: State, node: Node | None) -> None:
        """Save a whole VMSD, its subsections included, and describe it in `node`."""


class Element(NamedTuple):
    """One value of a field, on its way."""

    field: Field
    size: int
    """In bytes, or as the `Info` has it."""
    value: Any
    """To save; or what is there before loading, None if the `Info` does not use it."""
    node: Node | None = None
    """The description of the field, to which an `Info` may add; None if none is wanted."""


class Coding(NamedTuple):
    """How a field can be coded together with its neighbours."""

    code: str
    """`struct`'s, of one value: a number, or bytes (`s`); or of none (`x`)."""
    size: int
    """In bytes; any bytes of this size are a value."""
    decode: Callable[[Any], Any] | None = None
    """What the state has for a value that was loaded, if not the value itself."""
    encode: Callable[[Any], Any] | None = None
    """And back; bytes of another size are none that can be coded so."""


class Info:
    """How one kind of element lies in the stream; subclasses may be open-coded."""

    name: str
    """The `type` in a vmdesc."""
    uses_current = True
    """Whether loading needs what the state has before."""
    memory_bytes = 0
    """What `-dump-vmstate` calls its size: that of the C type."""

    def put(self, saver: Saver, element: Element) -> None:
        """Save a value."""
        raise NotImplementedError

    def get(self, loader: Loader, element: Element) -> Story[Any]:
        """Load a value; returns what to store.

        Raises:
            VmStateFailed: it may not be.
        """
        raise NotImplementedError

    def coding(self, field: Field) -> Coding | None:  # noqa: ARG002
        """How a field without `num_field` and `size_field` is coded, to the effects of `put` and
        `get`; None if these have more to decide or may refuse."""
        return None


Exists = Callable[[State, int], bool]
"""`field_exists`: whether a state has a field in a section of that version_id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One entry of a VMSD; `fields.py` has a constructor for each kind.

    Either `info` codes its elements, or each is a struct that `vmstate` declares (some infos,
    as those of lists, need a `vmstate` too).
    """

    name: str
    info: Info | None = None
    vmstate: VmState | None = None
    version_id: int = 0
    exists: Exists | None = None
    """If given it alone decides; else the field is in sections of at least its version_id."""
    size: int = 0
    """Of an element: bytes in memory, or of a buffer; a factor, if there is a `size_field`."""
    size_field: str | None = None
    """Where the state has the size of a buffer in bytes, of a bitmap in bits."""
    num: int | None = None
    """Number of elements of an array; a factor, if there is a `num_field`."""
    num_field: str | None = None
    """Where the state has the number of elements."""
    pointers: bool = False
    """The elements of an array may be None."""
    must_exist: bool = False
    """No bytes: `exists` is a test that the state has to pass."""
    struct_version_id: int | None = None
    """Version of a struct that is not its VMSD's own; None if it is."""
    make: Callable[[], State] | None = None
    """Makes an element, where loading has to allocate them; None: they are there."""
    attribute: str | None = None
    """Where the state has the value, if not at `name`; empty: the value is the state itself."""
    told_as: str | None = None
    """What errors call it, if not `name`: a vmdesc numbers the fields of one name (`config[0]`)."""

    @property
    def path(self) -> str:
        """Where the state has its value."""
        return self.name if self.attribute is None else self.attribute

    @property
    def is_array(self) -> bool:
        """Whether its value is a list."""
        return self.num is not None or self.num_field is not None

    @property
    def uses_current(self) -> bool:
        """Whether loading an element needs the one that is there."""
        return self.info is None or self.info.uses_current or self.pointers

    @property
    def is_struct(self) -> bool:
        """Whether its elements are described by a VMSD alone."""
        return self.info is None

    @property
    def type_name(self) -> str:
        """The `type` in a vmdesc."""
        if self.info is not None:
            return self.info.name
        return "struct" if self.struct_version_id is None else "vstruct"

    def exists_in(self, state: State, version_id: int) -> bool:
        """Whether a section of that version has it."""
        if self.exists is not None:
            return self.exists(state, version_id)
        return self.version_id <= version_id

    def count(self, state: State) -> int:
        """How many elements it has: in C an int, so 2^31 and more are none."""
        num = 1 if self.num is None else self.num
        if self.num_field is None:
            return num
        return max(0, int32(read_path(state, self.num_field) * num))

    def element_size(self, state: State) -> int:
        """The size of an element: in C an int, so it may be negative."""
        if self.size_field is None:
            return self.size
        return int32(read_path(state, self.size_field) * (self.size or 1))


@dataclass(frozen=True, slots=True)
class VmState:
    """A VMSD: the declaration of a device's state, of a part of it, or of a subsection.

    Hooks raise `VmStateFailed` to refuse. A subsection's name begins with its parent's.
    """

    name: str
    version_id: int = 0
    minimum_version_id: int = 0
    fields: tuple[Field, ...] = ()
    subsections: tuple[VmState, ...] = ()
    needed: Callable[[State], bool] | None = None
    pre_save: Callable[[State], None] | None = None
    post_save: Callable[[State], None] | None = None
    """Runs after fields and subsections, whether they could be saved or not."""
    pre_load: Callable[[State], None] | None = None
    post_load: Callable[[State, int], None] | None = None
    unmigratable: bool = False
    """A device of it blocks migration."""
    priority: int = 0
    """The higher, the earlier among the device sections."""
    plans: dict[int, tuple[Any, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """By version_id, as `compile.py` makes them; no part of the declaration."""

    def __post_init__(self) -> None:
        """State what a declaration has to keep."""
        for each in self.subsections:
            ours = each.name.startswith(self.name) and each.name != self.name
            assert ours, f"{each.name} would not be loaded: it does not begin with {self.name}"
            assert len(each.name.encode()) <= NAME_BYTES_MAX, f"{each.name}: name too long"

    def is_needed(self, state: State) -> bool:
        """Whether the stream has it, as a section or as a subsection."""
        return self.needed is None or self.needed(state)


def int32(value: int) -> int:
    """What C makes of a number that it stores in an int."""
    return (value + (1 << 31)) % (1 << 32) - (1 << 31)


STEP = re.compile(r"(?:\.|->|^)([A-Za-z_]\w*)|\[(\d+)\]")


@lru_cache(4096)
def path_steps(path: str) -> tuple[str | int, ...]:
    """The attributes (str) and indices (int) that a path is made of."""
    steps: list[str | int] = []
    at = 0
    while at < len(path):
        found = STEP.match(path, at)
        assert found, f"{path!r} is no path to an attribute"
        steps.append(found[1] or int(found[2]))
        at = found.end()
    return tuple(steps)


def walk(state: State, steps: Iterable[str | int]) -> Any:
    """What is there, from the state on."""
    for step in steps:
        state = state[step] if isinstance(step, int) else getattr(state, step)
    return state


def read_path(state: State, path: str) -> Any:
    """What the state has at `path`; the state itself for an empty one."""
    return walk(state, path_steps(path))


def write_path(state: State, path: str, value: Any) -> None:
    """Have the state hold `value` at `path`, which is not empty."""
    *steps, last = path_steps(path)
    owner = walk(state, steps)
    if isinstance(last, int):
        owner[last] = value
    else:
        setattr(owner, last, value)
