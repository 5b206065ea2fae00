"""The rule by which the guest stamps its pages, as constants; `boot.asm` has the same ones.

Word i (u32, little-endian) of page p holds `p * FILL_START + seed + i * FILL_STEP`, but for words
0 to 2: the pass that last stamped the page, p, and a check word of both, which is the pattern's
word 0 xor `pass * CHECK_FACTOR`; all modulo 2^32. The state page says, in one store, which page is
next and which pass it gets; so at any instant pages before it carry that pass, all others the one
before, and a page that does not is stale, lost or damaged. The one that is next may be in between:
its pass is written before its check word, and both before the state. The image itself is never
written to.
"""

from __future__ import annotations

import struct

PAGE_BYTES = 4096
FIRST_PAGE = 256
"""The workload begins at 1 MiB: what lies below is the firmware's and the image's own."""
WORDS = PAGE_BYTES // 4
PASS_WORD, PAGE_WORD, CHECK_WORD, PATTERN_WORD = 0, 1, 2, 3
FILL_START = 0x9E3779B1
FILL_STEP = 0x01000193
CHECK_FACTOR = 0x85EBCA6B

IMAGE_AT = 0x7C00
"""Where the image lies in the guest's memory; it is never written to there."""
PARAMETERS = struct.Struct("<8sIIII")  # magic, seed, first page, page count, pages a second
PARAMETERS_AT = 8
"""From the image's first byte on."""
MAGIC = b"TBGUEST1"

STATE_AT = 0x10000
STATE = struct.Struct("<8sIII")  # magic, index, pass, ticks
STATE_MAGIC = b"TBGSTATE"
"""There from the moment on when all pages are filled."""
STATE_WORDS_BYTES = STATE.size + 4
"""From the state page's first byte on: all that the guest writes there but its stack; the last word
counts polls of COM1."""
STACK_BYTES = 256
"""At the state page's end. The guest needs some 80 (`boot.asm`: a line being printed, a tick)."""
TICKS_PER_SECOND = 100
TICKS_PER_LINE = 10
