"""The configuration section: what both machines must have alike, and how QEMU says what differs.

Source: QEMU `migration/savevm.c`, `vmstate_configuration` and its subsections, early 2017 and 7.2.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from uuid import UUID

from testbed.model.profile import Profile
from testbed.vmstate import Element, Info, Loader, Saver, Story, VmState, VmStateFailed, fields

EINVAL = -errno.EINVAL
CAPABILITIES_CHECKED = ("x-ignore-shared",)
"""Those that a stream names and that must be alike on both sides; 7.2."""
CAPABILITIES_MAX = 256
"""Of a stream: QEMU has a few dozen, and no bound."""


@dataclass(slots=True)
class Configuration:
    """QEMU's SaveState, as far as it is sent: what came, and what the machine has itself."""

    machine: str  # the versioned name
    page_bits: int = 12
    page_bits_min: int = 12  # of the CPU: what is sent is more
    capabilities_on: frozenset[str] = frozenset()
    guest_uuid: UUID | None = None  # with `-uuid`, and sent with the capability validate-uuid
    sends_uuid: bool = False

    length: int = 0
    name: bytes = b""
    target_page_bits: int = 0
    caps_count: int = 0
    capabilities: list[str] = field(default_factory=list)
    uuid: list[int] = field(default_factory=lambda: [0] * 16)
    warnings: list[str] = field(default_factory=list)  # of what came, but is no reason to fail


def configuration(profile: Profile) -> VmState:
    """The VMSD; its state is a `Configuration`."""
    since_then = (CAPABILITIES, GUEST_UUID) if profile.pauses else ()
    return VmState(
        "configuration",
        version_id=1,
        fields=(
            fields.uint32("len", attribute="length"),
            fields.vbuffer("name", "length"),
        ),
        subsections=(TARGET_PAGE_BITS, *since_then),
        pre_save=_pre_save,
        pre_load=_pre_load,
        post_load=_post_load,
    )


def _pre_save(state: Configuration) -> None:
    state.name = state.machine.encode()
    state.length = len(state.name)
    state.target_page_bits = state.page_bits
    state.capabilities = sorted(state.capabilities_on & set(CAPABILITIES_CHECKED))
    state.caps_count = len(state.capabilities)
    state.uuid = list(UUID(int=0).bytes if state.guest_uuid is None else state.guest_uuid.bytes)


def _pre_load(state: Configuration) -> None:
    # Without the subsection the source has the smallest pages that its CPU can have.
    state.target_page_bits = state.page_bits_min
    state.caps_count, state.capabilities = 0, []


def _post_load(state: Configuration, _version_id: int) -> None:
    name, nul, _ = state.name.partition(b"\0")
    # As in C, as many characters as were received: a prefix of the own name will do.
    if not (state.machine.encode() + b"\0").startswith(name + nul):
        said = f"Machine type received is '{name.decode('latin-1')}' and local is"
        raise VmStateFailed(EINVAL, f"{said} '{state.machine}'")
    if state.target_page_bits != state.page_bits:
        said = f"Received TARGET_PAGE_BITS is {state.target_page_bits} but local is"
        raise VmStateFailed(EINVAL, f"{said} {state.page_bits}")
    _check_capabilities(state)


def _check_capabilities(state: Configuration) -> None:
    for name in CAPABILITIES_CHECKED:
        local, remote = name in state.capabilities_on, name in state.capabilities
        if local != remote:
            said = f"Capability {name} is {_switch(local)}, but received capability is"
            raise VmStateFailed(EINVAL, f"{said} {_switch(remote)}")


def _switch(on: bool) -> str:
    return "on" if on else "off"


class _CapabilityName(Info):
    """A capability by its name: be8 length, characters."""

    name = "capability"
    uses_current = False
    memory_bytes = 4

    def put(self, saver: Saver, element: Element) -> None:
        name = element.value.encode()
        saver.data += bytes([len(name)]) + name

    def get(self, loader: Loader, element: Element) -> Story[str]:
        del element
        length = (yield from loader.read(1))[0]
        name = (yield from loader.read(length)).split(b"\0")[0].decode("latin-1")
        if name not in QAPI_CAPABILITIES:
            raise VmStateFailed(EINVAL, f"Received unknown capability {name}")
        return name


QAPI_CAPABILITIES = frozenset(
    (
        *("xbzrle", "rdma-pin-all", "auto-converge", "zero-blocks", "compress", "events"),
        *("postcopy-ram", "x-colo", "release-ram", "block", "return-path", "multifd"),
        *("pause-before-switchover", "dirty-bitmaps", "postcopy-blocktime", "late-block-activate"),
        *("x-ignore-shared", "validate-uuid", "background-snapshot", "zero-copy-send"),
        "postcopy-preempt",
    )
)
"""`MigrationCapability` of QAPI, 7.2: the names that a destination knows."""


def _not_too_many(state: Configuration, _version_id: int) -> bool:
    return state.caps_count <= CAPABILITIES_MAX


def _uuid_received(state: Configuration, _version_id: int) -> None:
    received = UUID(bytes=bytes(state.uuid))
    if state.guest_uuid is None:
        said = f"warning: UUID is received {received}, but local uuid isn't set"
        state.warnings.append(said)
        return
    if received != state.guest_uuid:
        said = f"UUID received is {received} and local is {state.guest_uuid}"
        raise VmStateFailed(EINVAL, said)


TARGET_PAGE_BITS = VmState(
    "configuration/target-page-bits",
    version_id=1,
    minimum_version_id=1,
    needed=lambda state: state.page_bits > state.page_bits_min,
    fields=(fields.uint32("target_page_bits"),),
)
CAPABILITIES = VmState(
    "configuration/capabilities",
    version_id=1,
    minimum_version_id=1,
    needed=lambda state: bool(state.capabilities_on & set(CAPABILITIES_CHECKED)),
    fields=(
        fields.uint32("caps_count"),
        fields.validate("a count that can be", _not_too_many),
        fields.varray(fields.single("capabilities", _CapabilityName()), "caps_count"),
    ),
)
GUEST_UUID = VmState(
    "configuration/uuid",
    version_id=1,
    minimum_version_id=1,
    needed=lambda state: state.sends_uuid and state.guest_uuid is not None,
    post_load=_uuid_received,
    fields=(fields.array(fields.uint8("uuid"), 16),),
)
