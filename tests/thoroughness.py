"""How much of the same a test tries: usually enough to find what it once found, or far more.

`ALL_EXAMPLES=1` in the environment, as `scripts/test-all` has it, is for the latter.
"""

from __future__ import annotations

import os
from typing import TypeVar

T = TypeVar("T")

ALL_EXAMPLES = os.environ.get("ALL_EXAMPLES") == "1"


def usually(usual: T, *, thoroughly: T) -> T:
    """The first, or the second where tests may take their time."""
    return thoroughly if ALL_EXAMPLES else usual
