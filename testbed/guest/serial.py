"""What the guest says on COM1: `guest started`, `guest filled N`, and ten times a second
`guest stamps N`; N has 16 hexadecimal digits.
"""

from __future__ import annotations

import re

_STAMPS = re.compile(r"guest stamps ([0-9a-f]{16})$")
STARTED = "guest started"


def stamps_said(line: str) -> int | None:
    """How many stamps the guest says it has written since its pages are filled.

    None: the line says something else. Firmware writes to the line before the guest does.
    """
    found = _STAMPS.search(line)
    return None if found is None else int(found[1], 16)


def start_said(line: str) -> bool:
    """True if the guest says that it begins, after a boot or a reset."""
    return line.endswith(STARTED)
