"""Declarations compiled: neighbouring fields that always have the same bytes are coded at once.

Field by field is how QEMU codes state, how it waits, and how it fails; `load.py` and `save.py` do
it. A run does the same for many fields whose coding nothing can interfere with: all of their bytes
are in hand, no hook and no test comes between them, and their values have the sizes declared. It
does nothing at all where it is not so, and leaves the fields to those two.
"""

from __future__ import annotations

import struct
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, repeat
from operator import attrgetter, itemgetter, setitem
from typing import Any, NamedTuple

from .declare import (
    Coding,
    Exists,
    Field,
    FixedNodes,
    Source,
    State,
    VmState,
    int32,
    path_steps,
    walk,
)

RUN_BYTES_MAX = 1 << 16
"""Of one run: it waits for all of them to be in hand."""
RUN_VALUES_MAX = 1 << 12
"""Values of one run; what has more is coded element by element, each a run of its own."""
PLANS_MAX = 8
"""Of a declaration, one for each version_id; a peer names that of a section."""
SUBSECTION = 0x05
"""`QEMU_VM_SUBSECTION`, before a subsection's name."""
HEAD_BYTES = 2
"""That, and the length of the name."""
UNUSUAL = (AssertionError, AttributeError, LookupError, TypeError, ValueError, OverflowError)
"""What comes of a value that is not as declared; who codes field by field tells what it is."""

Steps = tuple[str | int, ...]
exhaust = deque[None](maxlen=0).extend
"""Runs through an iterator for its effects."""


class Leaf(NamedTuple):
    """A value: its number in the run, where its owner is, and its place in that."""

    number: int
    owner: Steps
    place: str | int


class Row:
    """Values that follow each other and have one owner."""

    def __init__(self, numbers: slice, owner: Steps, places: Sequence[str | int]) -> None:
        self.numbers = numbers
        self._owner, self._places = owner, places  # all of them attributes, or all of them indices
        self._fetch, self._store = _access(*places)
        self._is_one = len(places) == 1

    def load(self, state: State, values: Sequence[Any]) -> None:
        """Have the state hold these."""
        owner = walk(state, self._owner) if self._owner else state
        exhaust(map(self._store, repeat(owner), self._places, values))

    def save(self, state: State) -> Sequence[Any]:
        """What the state holds."""
        found = self._fetch(walk(state, self._owner) if self._owner else state)
        return (found,) if self._is_one else found


class Column:
    """The same value of each struct of an array."""

    def __init__(self, numbers: slice, array: Steps, length: int, leaf: Leaf) -> None:
        self.numbers = numbers
        self._array, self._length, self._leaf = array, length, leaf  # that of an element
        self._fetch, self._store = _access(leaf.place)

    def moved(self, by: int, prefix: Steps) -> Column:
        """The same of a larger run, whose state has this one's at `prefix`."""
        return Column(_moved(self.numbers, by), prefix + self._array, self._length, self._leaf)

    def load(self, state: State, values: Sequence[Any]) -> None:
        """Have the state hold these."""
        exhaust(map(self._store, self._owners(state), repeat(self._leaf.place), values))

    def save(self, state: State) -> Sequence[Any]:
        """What the state holds."""
        return list(map(self._fetch, self._owners(state)))

    def _owners(self, state: State) -> Sequence[Any]:
        elements, owner = walk(state, self._array)[: self._length], self._leaf.owner
        return [walk(each, owner) for each in elements] if owner else elements


@dataclass(slots=True)
class Shape:
    """What a run is made of, while it is put together."""

    code: str = ""
    size: int = 0
    codings: list[Coding] = field(default_factory=list)
    """Of its values, in order."""
    leaves: list[Leaf] = field(default_factory=list)
    columns: list[Column] = field(default_factory=list)
    arrays: list[tuple[Steps, int]] = field(default_factory=list)
    """Of structs, and how many those have to be."""
    ends: list[tuple[int, bytes]] = field(default_factory=list)
    """Offsets behind structs, where a loader looks for a subsection, and how its name begins."""

    def add(self, other: Shape, prefix: Steps = ()) -> bool:
        """Append another one, whose state is at `prefix` of ours; not if that is too much."""
        if not self._has_room(other):
            return False
        at = len(self.codings)
        self.leaves += [Leaf(at + n, prefix + owner, place) for n, owner, place in other.leaves]
        self.columns += [each.moved(at, prefix) for each in other.columns]
        self.arrays += [(prefix + array, length) for array, length in other.arrays]
        self._append(other)
        return True

    def add_array(self, inner: Shape, array: Steps, length: int) -> bool:
        """Append structs that are the elements of an array, and have no arrays themselves."""
        if inner.arrays or not inner.leaves or not self._has_room(inner, length):
            return False
        at, stride = len(self.codings), len(inner.codings)
        numbers = slice(at, at + stride * length, stride)
        self.arrays.append((array, length))
        if length > len(inner.leaves):
            self.columns += [
                Column(_moved(numbers, leaf.number), array, length, leaf) for leaf in inner.leaves
            ]
        else:
            self.leaves += [
                Leaf(begin + n, (*array, index, *owner), place)
                for index, begin in enumerate(range(at, at + stride * length, stride))
                for n, owner, place in inner.leaves
            ]
        for _ in range(length):
            self._append(inner)
        return True

    def _has_room(self, other: Shape, times: int = 1) -> bool:
        values = len(self.codings) + times * len(other.codings)
        return values <= RUN_VALUES_MAX and self.size + times * other.size <= RUN_BYTES_MAX

    def _append(self, other: Shape) -> None:
        self.ends += [(self.size + end, name) for end, name in other.ends]
        self.code += other.code
        self.size += other.size
        self.codings += other.codings


class Run:
    """Fields that are coded at once, or not at all."""

    def __init__(self, shape: Shape) -> None:
        self.nodes: dict[Any, FixedNodes] = {}
        """How they are described, by manner, once they were."""
        self._codec = struct.Struct(f">{shape.code}")
        # In the order of the stream: what is stored twice is what came last.
        parts: list[Row | Column] = [*_rows(shape.leaves), *shape.columns]
        parts.sort(key=lambda part: part.numbers.start)
        self._parts = [(part.numbers, part.load, part.save) for part in parts]
        self._arrays, self._ends, codings = shape.arrays, shape.ends, shape.codings
        self._behind = [end for end, _ in shape.ends]
        self._decode = [(n, each.decode) for n, each in enumerate(codings) if each.decode]
        self._encode = [(n, each.encode) for n, each in enumerate(codings) if each.encode]
        self._sizes = [(n, each.size) for n, each in enumerate(codings) if each.code[-1] == "s"]
        self._unset: list[Any] = [None] * len(codings)
        # Behind a struct that comes last, the loader looks at the next byte.
        self._wanted = max([shape.size, *(end + 1 for end, _ in shape.ends)])

    def load(self, state: State, source: Source) -> bool:
        """Load all; false if it cannot be done at once, and then nothing is done."""
        if source.error:
            return False
        with source.in_hand() as view:
            if len(view) < self._wanted:
                return False
            if SUBSECTION in map(view.__getitem__, self._behind):  # of which there are hundreds
                for end, name in self._ends:
                    if view[end] == SUBSECTION and _may_begin_subsection(view[end:], name):
                        return False
            values: Sequence[Any] = self._codec.unpack_from(view)
        for array, length in self._arrays:
            if len(walk(state, array)) < length:
                return False
        if self._decode:
            values = list(values)
            for number, decode in self._decode:
                values[number] = decode(values[number])
        for numbers, put, _ in self._parts:
            put(state, values[numbers])
        source.skip(self._codec.size)
        return True

    def save(self, state: State) -> bytes | None:
        """All of their bytes; None if they cannot be had at once."""
        values = self._unset.copy()
        try:
            for numbers, _, fetch in self._parts:
                values[numbers] = fetch(state)
            for number, encode in self._encode:
                values[number] = encode(values[number])
            for number, size in self._sizes:
                if len(values[number]) != size:
                    return None
            return self._codec.pack(*values)
        except (struct.error, *UNUSUAL):
            return None


class Step(NamedTuple):
    """A part of a VMSD: fields that are all there or are not, with their names in a vmdesc."""

    fields: tuple[tuple[Field, str], ...]
    exists: Exists | None
    """Whether they are; None: they are."""
    must_exist: bool
    run: Run | None
    """How they are coded at once; None: they never are."""


def plan(vmstate: VmState, version_id: int) -> tuple[Step, ...]:
    """What a section of that version has of a VMSD, in order."""
    found: tuple[Step, ...] | None = vmstate.plans.get(version_id)
    if found is None:
        if len(vmstate.plans) >= PLANS_MAX:
            vmstate.plans.clear()
        found = vmstate.plans[version_id] = tuple(_steps(vmstate, version_id))
    return found


def _steps(vmstate: VmState, version_id: int) -> Iterator[Step]:
    shape, fields = Shape(), list[tuple[Field, str]]()
    for each, name in zip(vmstate.fields, unique_names(vmstate), strict=True):
        if each.exists is None and each.version_id > version_id and not each.must_exist:
            continue
        found = _shape(each)
        if found is not None and each.exists is None and shape.add(found):
            fields.append((each, name))
            continue
        if fields:
            yield Step(tuple(fields), None, False, Run(shape))
        shape, fields = Shape(), []
        if found is not None and each.exists is None:
            shape, fields = found, [(each, name)]
        else:
            exists = each.exists_in if each.must_exist else each.exists
            run = None if found is None else Run(found)
            yield Step(((each, name),), exists, each.must_exist, run)
    if fields:
        yield Step(tuple(fields), None, False, Run(shape))


def _shape(each: Field) -> Shape | None:
    """What a field adds to a run, its `exists` aside; None if it cannot be in one."""
    is_fixed = each.num_field is None and each.size_field is None
    if not is_fixed or each.must_exist or each.pointers or each.make is not None:
        return None
    steps = path_steps(each.path)
    if each.info is None:
        return _structs(each, steps)
    coding = each.info.coding(each)
    if coding is None or not 0 <= coding.size <= RUN_BYTES_MAX:
        return None
    if coding.code[-1] == "x":
        return Shape(coding.code, coding.size)
    return (
        Shape(coding.code, coding.size, [coding], [Leaf(0, steps[:-1], steps[-1])])
        if steps
        else None
    )


def _structs(each: Field, steps: Steps) -> Shape | None:
    assert each.vmstate is not None, "a struct has a VMSD"
    inner, count, whole = _struct(each.vmstate, each.struct_version_id), each.num, Shape()
    if inner is None:
        return None
    if count is None:
        return whole if whole.add(inner, steps) else None
    if not steps or type(count) is not int or not 0 <= count <= RUN_VALUES_MAX:
        return None
    return whole if whole.add_array(inner, steps, count) else None


def _struct(vmstate: VmState, version_id: int | None) -> Shape | None:
    """What a struct adds to a run, if nothing but its fields has a say."""
    version_id = vmstate.version_id if version_id is None else version_id
    hooks = vmstate.pre_load, vmstate.post_load, vmstate.pre_save, vmstate.post_save
    is_known = vmstate.minimum_version_id <= int32(version_id) <= vmstate.version_id
    if vmstate.subsections or not is_known or any(hook is not None for hook in hooks):
        return None
    whole = Shape()
    for each in vmstate.fields:
        if each.exists is not None or each.must_exist:
            return None
        if each.version_id <= version_id:
            found = _shape(each)
            if found is None or not whole.add(found):
                return None
    whole.ends.append((whole.size, vmstate.name.encode()))
    return whole


def _may_begin_subsection(view: memoryview, name: bytes) -> bool:
    """Whether it is one of a VMSD of that name, or not enough is in hand to know."""
    if len(view) < HEAD_BYTES:
        return True
    length = view[HEAD_BYTES - 1]
    if length <= len(name):
        return False
    return len(view) < HEAD_BYTES + length or view[HEAD_BYTES : HEAD_BYTES + len(name)] == name


def _access(*places: Any) -> tuple[Any, Any]:
    """How the values there are fetched from their owner, all at once, and one is stored."""
    if isinstance(places[0], int):
        return itemgetter(*places), setitem
    return attrgetter(*places), setattr


def _moved(numbers: slice, by: int) -> slice:
    return slice(numbers.start + by, numbers.stop + by, numbers.step)


def _rows(leaves: Sequence[Leaf]) -> Iterator[Row]:
    keyed = ((leaf.number - n, leaf.owner, type(leaf.place)) for n, leaf in enumerate(leaves))
    for _, same in groupby(zip(keyed, leaves, strict=True), lambda pair: pair[0]):
        row = [leaf for _, leaf in same]
        first, owner, _ = row[0]
        numbers = slice(first, first + len(row))
        yield Row(numbers, owner, [leaf.place for leaf in row])


def unique_names(vmstate: VmState) -> list[str]:
    """The fields' names in a vmdesc: a name that more than one field has is numbered."""
    names = [each.name for each in vmstate.fields]
    if len(set(names)) == len(names):
        return names
    count, met, names = Counter(names), Counter[str](), []
    for each in vmstate.fields:
        number = met[each.name]
        met[each.name] += 1
        names.append(each.name if count[each.name] == 1 else f"{each.name}[{number}]")
    return names
