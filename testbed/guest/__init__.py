"""The guest: a boot image that stamps its pages by a rule, and the check of its memory.

Knows nothing of migration: what it holds is memory at one instant.
"""

from .image import GuestSpec, boot_image
from .memory import MemoryReport, PageFinding, check_memory
from .serial import stamps_said

__all__ = [
    "GuestSpec",
    "MemoryReport",
    "PageFinding",
    "boot_image",
    "check_memory",
    "stamps_said",
]
