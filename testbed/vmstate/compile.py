"""Declarations compiled: neighbouring fields that always have the same bytes are coded at once.

Field by field is how QEMU codes state, how it waits, and how it fails; `load.py` and `save.py` do
it. A run does the same for many fields whose coding nothing can interfere with: all of their bytes
are in hand, no hook and no test comes between them, and their values have the sizes declared. It
does nothing at all where it is not so, and leaves the fields to those two.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, repeat
from operator import getitem, setitem
from typing import Any, NamedTuple

from .declare import Coding, Exists, Field, Source, State, VmState, int32, path_steps, walk

RUN_BYTES_MAX = 1 << 16
"""Of one run: it waits for all of them to be in hand."""
RUN_LEAVES_MAX = 1 << 12
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


class Leaf(NamedTuple):
    """A value: where its owner is, from the state on; its place in that; how it is coded."""

    owner: Steps
    place: str | int
    coding: Coding


@dataclass(slots=True)
class Shape:
    """What a run is made of, while it is put together."""

    code: list[str] = field(default_factory=list)
    size: int = 0
    leaves: list[Leaf] = field(default_factory=list)
    arrays: list[tuple[Steps, int]] = field(default_factory=list)
    """Lists of structs, and how many elements they have to have."""
    ends: list[tuple[int, bytes]] = field(default_factory=list)
    """Offsets behind structs, where a loader looks for a subsection, and how its name begins."""

    def add(self, other: Shape, prefix: Steps = ()) -> bool:
        """Append another one, whose state is at `prefix` of ours; false if that is too much."""
        if self.size + other.size > RUN_BYTES_MAX:
            return False
        if len(self.leaves) + len(other.leaves) > RUN_LEAVES_MAX:
            return False
        at = self.size
        self.code += other.code
        self.size += other.size
        self.leaves += [each._replace(owner=prefix + each.owner) for each in other.leaves]
        self.arrays += [(prefix + steps, count) for steps, count in other.arrays]
        self.ends += [(at + end, name) for end, name in other.ends]
        return True


class Run:
    """Fields that are coded at once, or not at all."""

    def __init__(self, shape: Shape) -> None:
        self.nodes: dict[Any, list[Any]] = {}
        """How they are described, by manner, once they were."""
        self._codec = struct.Struct(f">{''.join(shape.code)}")
        self._groups = [
            (owner, isinstance(places[0], int), places) for owner, places in _grouped(shape.leaves)
        ]
        codings = [leaf.coding for leaf in shape.leaves]
        self._decode = [(n, each.decode) for n, each in enumerate(codings) if each.decode]
        self._encode = [(n, each.encode) for n, each in enumerate(codings) if each.encode]
        self._sizes = [(n, each.size) for n, each in enumerate(codings) if each.code[-1] == "s"]
        self._arrays, self._ends = shape.arrays, shape.ends
        # Behind a struct that comes last, the loader looks at the next byte.
        self._wanted = max([shape.size, *(end + 1 for end, _ in shape.ends)])

    def load(self, state: State, source: Source) -> bool:
        """Load all; false if it cannot be done at once, and then nothing is done."""
        if source.error:
            return False
        with source.in_hand() as view:
            if len(view) < self._wanted:
                return False
            for end, name in self._ends:
                if view[end] == SUBSECTION and _may_begin_subsection(view[end:], name):
                    return False
            if any(len(walk(state, steps)) < count for steps, count in self._arrays):
                return False
            values: Sequence[Any] = self._codec.unpack_from(view)
        if self._decode:
            values = list(values)
            for number, decode in self._decode:
                values[number] = decode(values[number])
        left = iter(values)
        for steps, is_list, places in self._groups:
            store: Callable[[Any, Any, Any], None] = setitem if is_list else setattr
            owner = walk(state, steps) if steps else state
            for place, value in zip(places, left):  # noqa: B905 -- the rest is for other owners
                store(owner, place, value)
        source.skip(self._codec.size)
        return True

    def save(self, state: State) -> bytes | None:
        """All of their bytes; None if they cannot be had at once."""
        values: list[Any] = []
        try:
            if any(len(walk(state, steps)) < count for steps, count in self._arrays):
                return None
            for steps, is_list, places in self._groups:
                fetch: Callable[[Any, Any], Any] = getitem if is_list else getattr
                values += map(fetch, repeat(walk(state, steps) if steps else state), places)
            for number, encode in self._encode:
                values[number] = encode(values[number])
            if any(len(values[number]) != size for number, size in self._sizes):
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
    shape, steps = Shape(), path_steps(each.path)
    if each.info is None:
        return _structs(each, steps)
    coding = each.info.coding(each)
    if coding is None or not 0 <= coding.size <= RUN_BYTES_MAX:
        return None
    if coding.code[-1] != "x":
        if not steps:
            return None
        shape.leaves.append(Leaf(steps[:-1], steps[-1], coding))
    shape.code.append(coding.code)
    shape.size = coding.size
    return shape


def _structs(each: Field, steps: Steps) -> Shape | None:
    assert each.vmstate is not None, "a struct has a VMSD"
    inner = _struct(each.vmstate, each.struct_version_id)
    if inner is None or not each.is_array:
        return _at(inner, steps)
    count = each.num
    if not steps or type(count) is not int or not 0 <= count <= RUN_LEAVES_MAX:
        return None
    shape = Shape(arrays=[(steps, count)])
    return shape if all(shape.add(inner, (*steps, index)) for index in range(count)) else None


def _at(inner: Shape | None, steps: Steps) -> Shape | None:
    shape = Shape()
    return shape if inner is not None and shape.add(inner, steps) else None


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


def _grouped(leaves: Sequence[Leaf]) -> Iterator[tuple[Steps, list[Any]]]:
    """Places that follow each other in one owner."""
    for (owner, _), same in groupby(leaves, lambda leaf: (leaf.owner, type(leaf.place))):
        yield owner, [leaf.place for leaf in same]


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
