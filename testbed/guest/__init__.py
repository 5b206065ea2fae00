"""The guest: a boot image that stamps its pages by a rule, and the check of its memory.

Knows nothing of migration: what it holds is memory at one instant.
"""

from typing import TYPE_CHECKING

from .image import GuestSpec, boot_image
from .serial import stamps_said

if TYPE_CHECKING:
    from .memory import MemoryReport, PageFinding, check_memory
else:

    def __getattr__(name: str) -> object:
        """Import the check when it is asked for: numpy, which it needs, takes 0.1 s."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from . import memory

        return getattr(memory, name)


__all__ = [
    "GuestSpec",
    "MemoryReport",
    "PageFinding",
    "boot_image",
    "check_memory",
    "stamps_said",
]
