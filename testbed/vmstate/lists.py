"""Values that are made of VMSDs without being structs: temporaries, lists, trees.

Their elements are loaded as of the version_id of the field, which so has to lie within the range
of the elements' VMSD. Source: QEMU `migration/vmstate-types.c`, `get_tmp` to `put_qlist`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .declare import ELEMENTS_MAX, Element, Field, Info, Loader, Saver, State, Story, VmState
from .failure import EINVAL, VmStateFailed
from .scalars import UINT32, UINT64

NEXT, LAST = b"\1", b"\0"


class Temporary(Info):
    """A state that is made for the while; its `parent` is the state whose field this is.

    The hooks of its VMSD carry over what is there and what is in the stream.
    """

    name = "tmp"

    def put(self, saver: Saver, element: Element) -> None:
        """Save a temporary."""
        field = element.field
        saver.save(_vmstate(field), self._made(field, element.value), element.node)

    def get(self, loader: Loader, element: Element) -> Story[Any]:
        """Load a temporary."""
        field = element.field
        temporary = self._made(field, element.value)
        yield from loader.load(_vmstate(field), temporary, field.version_id)

    def _made(self, field: Field, parent: State) -> State:
        assert field.make is not None
        temporary = field.make()
        temporary.parent = parent
        return temporary


@dataclass(frozen=True)
class Queue(Info):
    """A list of states: a mark before each, another after the last."""

    name: str

    def put(self, saver: Saver, element: Element) -> None:
        """Save the elements."""
        for each in element.value:
            saver.data += NEXT
            saver.save(_vmstate(element.field), each, element.node)
        saver.data += LAST

    def get(self, loader: Loader, element: Element) -> Story[Any]:
        """Load the elements behind those that are there, which mostly are none."""
        field, states = element.field, list(element.value)
        vmstate = _vmstate(field)
        _check_version(field, vmstate)
        assert field.make is not None
        while (yield from loader.read(1)) != LAST:
            _check_count(len(states))
            states.append(field.make())
            yield from loader.load(vmstate, states[-1], field.version_id)
        return states


@dataclass(frozen=True)
class Tree(Info):
    """A dict of states: their number, then as a list, a key before each.

    Keys are integers (be64, QEMU's "direct" keys), or states with a VMSD of their own, which have
    to be hashable. They come in the order of the dict: its owner keeps it as QEMU's tree would be.
    """

    name = "gtree"
    key_vmstate: VmState | None
    make_key: Callable[[], State] | None

    def put(self, saver: Saver, element: Element) -> None:
        """Save number, keys and values."""
        saver.data += UINT32.pack([len(element.value)])
        for key, each in element.value.items():
            saver.data += NEXT
            if self.key_vmstate is None:
                saver.data += UINT64.pack([key])
            else:
                saver.save(self.key_vmstate, key, element.node)
            saver.save(_vmstate(element.field), each, element.node)
        saver.data += LAST

    def get(self, loader: Loader, element: Element) -> Story[Any]:
        """Load keys and values, as many as it says."""
        field, tree, count = element.field, dict(element.value), 0
        for vmstate in filter(None, (self.key_vmstate, field.vmstate)):
            _check_version(field, vmstate)
        (expected,) = UINT32.unpack((yield from loader.read(4)))
        assert field.make is not None
        while (yield from loader.read(1)) != LAST:
            count += 1
            if count > expected:
                break
            _check_count(count)
            key = yield from self._key(loader, field)
            tree[key] = field.make()
            yield from loader.load(_vmstate(field), tree[key], field.version_id)
        if count != expected:
            line = f"{field.name} inconsistent stream when loading the gtree"
            raise VmStateFailed(EINVAL, line)
        return tree

    def _key(self, loader: Loader, field: Field) -> Story[Any]:
        if self.key_vmstate is None:
            return UINT64.unpack((yield from loader.read(8)))[0]
        assert self.make_key is not None
        key = self.make_key()
        yield from loader.load(self.key_vmstate, key, field.version_id)
        return key


def _vmstate(field: Field) -> VmState:
    assert field.vmstate is not None, f"{field.name} has elements without a VMSD"
    return field.vmstate


def _check_version(field: Field, vmstate: VmState) -> None:
    if field.version_id > vmstate.version_id:
        raise VmStateFailed(EINVAL, f"{vmstate.name} too new")
    if field.version_id < vmstate.minimum_version_id:
        raise VmStateFailed(EINVAL, f"{vmstate.name} too old")


def _check_count(count: int) -> None:
    if count > ELEMENTS_MAX:
        raise VmStateFailed(EINVAL, f"{count} elements; at most {ELEMENTS_MAX}")


TMP = Temporary()
QTAILQ = Queue("qtailq")
QLIST = Queue("qlist")
