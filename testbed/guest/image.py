"""The guest's boot image with its parameters filled in."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

PAGE_BYTES = 4096
FIRST_PAGE = 256
"""The workload begins at 1 MiB: what lies below is the BIOS's and the image's own."""
TOP_PAGES = 256
"""Left alone at the end of memory, where SeaBIOS keeps its tables."""
LOW_MEMORY_BYTES_MAX = 2 << 30
"""A PC's low memory ends between 2 and 3.5 GiB, by machine type; the image is a 32-bit one."""
RATE_MAX = 10_000_000
PARAMETERS = struct.Struct("<8sIIII")
PARAMETERS_AT = 8
MAGIC = b"TBGUEST1"


@dataclass(frozen=True, slots=True)
class GuestSpec:
    """What the guest does with its memory.

    Args:
        memory_bytes: of the machine.
        working_set_bytes: how much of it the guest stamps; None: all but what the firmware needs.
        pages_per_second: the rate at which it dirties pages, at most what the CPU can do.
        seed: of the pattern; two guests with different seeds have no page in common.
    """

    memory_bytes: int
    working_set_bytes: int | None = None
    pages_per_second: int = 1000
    seed: int = 1

    @property
    def page_count(self) -> int:
        """Pages that the guest stamps, from `FIRST_PAGE` on."""
        usable = min(self.memory_bytes, LOW_MEMORY_BYTES_MAX) // PAGE_BYTES
        available = usable - FIRST_PAGE - TOP_PAGES
        if self.working_set_bytes is None:
            return available
        return min(self.working_set_bytes // PAGE_BYTES, available)

    def __post_init__(self) -> None:
        if self.page_count < 1:
            raise ValueError(
                f"a guest of {self.memory_bytes} bytes has no room for a working set: "
                f"{(FIRST_PAGE + TOP_PAGES) * PAGE_BYTES} bytes are not the workload's"
            )
        if not 0 <= self.pages_per_second <= RATE_MAX:
            raise ValueError(f"pages_per_second must be 0 to {RATE_MAX}")


@cache
def _template() -> bytes:
    return files(__package__).joinpath("boot.bin").read_bytes()


def boot_image(spec: GuestSpec) -> bytes:
    """The image of a disk that boots the guest with these parameters."""
    image = bytearray(_template())
    assert image[PARAMETERS_AT : PARAMETERS_AT + len(MAGIC)] == MAGIC
    PARAMETERS.pack_into(
        image,
        PARAMETERS_AT,
        MAGIC,
        spec.seed & 0xFFFFFFFF,
        FIRST_PAGE,
        spec.page_count,
        spec.pages_per_second,
    )
    # A disk smaller than a cylinder has a geometry that some BIOSes refuse.
    return bytes(image.ljust(1 << 20, b"\0"))
