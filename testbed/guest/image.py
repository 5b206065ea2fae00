"""The guest's boot image with its parameters filled in."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from .rule import FIRST_PAGE, MAGIC, PAGE_BYTES, PARAMETERS, PARAMETERS_AT

TOP_PAGES = 256
"""Left alone at the end of memory, where SeaBIOS keeps its tables and those of ACPI."""
LOW_MEMORY_BYTES_MAX = 2 << 30
"""Pages above are not stamped. A PC's low memory ends there at the earliest: q35 with 2.75 GiB or
more (QEMU `hw/i386/pc_q35.c`, `pc_q35_init`); `pc` has 3 GiB (`hw/i386/pc_piix.c`)."""
RESERVED_BYTES = (FIRST_PAGE + TOP_PAGES) * PAGE_BYTES
"""Of any machine's memory: what the workload leaves alone."""
RATE_MAX = 10_000_000
"""More than a CPU can do: a guest with this rate stamps without a rest."""
DISK_BYTES = 1 << 20
"""SeaBIOS reads the image by cylinder, head and sector: a smaller disk has no cylinder."""


@dataclass(frozen=True, slots=True)
class GuestSpec:
    """What the guest does with its memory.

    Args:
        memory_bytes: of the machine.
        working_set_bytes: how much of it the guest stamps, at most; None: all but what the
            firmware needs.
        pages_per_second: the rate at which it stamps pages, 0 to `RATE_MAX`. A CPU that is too
            slow for it never rests.
        seed: of the pattern, its low 32 bits; guests with different ones differ in every page.

    Raises:
        ValueError: no page is left to stamp, or the rate is out of its bounds.
    """

    memory_bytes: int
    working_set_bytes: int | None = None
    pages_per_second: int = 1000
    seed: int = 1

    def __post_init__(self) -> None:
        if self.working_set_bytes is not None and self.working_set_bytes < PAGE_BYTES:
            raise ValueError(
                f"a working set of {self.working_set_bytes} bytes: at least {PAGE_BYTES}"
            )
        if self.page_count < 1:
            raise ValueError(
                f"a guest of {self.memory_bytes} bytes has no room for a working set: "
                f"{RESERVED_BYTES} bytes are not the workload's"
            )
        if not 0 <= self.pages_per_second <= RATE_MAX:
            raise ValueError(f"{self.pages_per_second} pages a second: 0 to {RATE_MAX}")

    @property
    def page_count(self) -> int:
        """Pages that the guest stamps, from `FIRST_PAGE` on."""
        usable = min(self.memory_bytes, LOW_MEMORY_BYTES_MAX) // PAGE_BYTES
        available = usable - FIRST_PAGE - TOP_PAGES
        if self.working_set_bytes is None:
            return available
        return min(self.working_set_bytes // PAGE_BYTES, available)


@cache
def _template() -> bytes:
    from importlib.resources import files  # slow, and who only knows the rule never needs it

    return files(__package__).joinpath("boot.bin").read_bytes()


def loaded_image(spec: GuestSpec) -> bytes:
    """The image as it lies in memory: code, and the parameters of `spec`."""
    image = bytearray(_template())
    assert image[PARAMETERS_AT : PARAMETERS_AT + len(MAGIC)] == MAGIC
    parameters = (spec.seed & 0xFFFFFFFF, FIRST_PAGE, spec.page_count, spec.pages_per_second)
    PARAMETERS.pack_into(image, PARAMETERS_AT, MAGIC, *parameters)
    return bytes(image)


def boot_image(spec: GuestSpec) -> bytes:
    """The image of a disk that boots the guest: as raw as it comes, read only if wished."""
    return loaded_image(spec).ljust(DISK_BYTES, b"\0")
