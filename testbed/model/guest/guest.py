"""The guest of the testbed, run without a CPU: what `boot.asm` does to memory and says on COM1.

All that it knows is in guest memory, where the boot image has it: a guest that comes in a
migration, from a model or from a real QEMU, goes on from there, and one that is sent goes on there.
What it still owes is in a register (esi), and lost where nobody takes it over: a second's work at
most. A guest that was sent while it filled its pages fills them again, with the same.

Time, serial line and the wait for pages are the caller's: nothing here waits or does more than some
milliseconds of work at once.

Source: `testbed/guest/boot.asm` and `rule.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from testbed.guest.rule import (
    CHECK_FACTOR,
    FILL_START,
    FIRST_PAGE,
    IMAGE_AT,
    MAGIC,
    PAGE_BYTES,
    PARAMETERS,
    PARAMETERS_AT,
    STATE,
    STATE_AT,
    STATE_MAGIC,
    TICKS_PER_LINE,
    TICKS_PER_SECOND,
)
from testbed.model.migration.memory import Block, Memory, Missing

from .pattern import STAMP, filled_pages

RAM = "pc.ram"
"""The main memory of `pc` and `q35`."""
SECTOR_BYTES = 512
IMAGE_BYTES = 3 * SECTOR_BYTES
"""The boot sector, and the two that it reads behind itself."""
SIGNATURE = b"\x55\xaa"
"""At the end of a sector that a BIOS boots."""
FILLED_AT_ONCE = 128
STAMPED_AT_ONCE = 1000
"""Pages of one `advance`: each takes some milliseconds."""
TICKS_AT_ONCE = TICKS_PER_SECOND
"""A guest that was kept from running makes up for so many ticks; a timer's are lost as well."""
TICK_S = 1 / TICKS_PER_SECOND
U32 = 0xFFFFFFFF
STARTED = b"guest started\n"


class Turn(NamedTuple):
    """What came of an `advance`."""

    serial: bytes = b""
    """Said on COM1."""
    missing: Missing | None = None
    """The page that the guest waits for: once it came, it has something to do again."""
    resets: bool = False
    """It made the machine reset, and boots again."""


@dataclass(frozen=True, slots=True)
class Registers:
    """Of the CPU where it rests in the loop `run` of `boot.asm`; each is a u32."""

    index: int  # ebx
    pass_number: int  # ecx
    ticks: int  # edi
    owed: int  # esi: hundredths of a page


@dataclass(frozen=True, slots=True)
class Pace:
    """What a machine makes of its guest: whether it executes, and how often its timer ticks."""

    tick_s: float | None = TICK_S
    """From one interrupt of the timer to the next; None: none comes."""
    first_tick_s: float = TICK_S
    """Until the first one, from when the guest runs."""
    executes: bool = True
    """The CPU is in the guest's code, and not halted for ever."""
    deaf: bool = False
    """The CPU takes no interrupt, whatever the guest sets its timer to."""
    ends_by_tick: bool = False
    """The first interrupt goes where no handler is: a triple fault, which resets the machine."""


class _Parameters(NamedTuple):
    seed: int
    first_page: int
    page_count: int
    rate: int  # pages a second


class _Seen(NamedTuple):
    """What memory says of the guest; without registers it is yet to be filled."""

    parameters: _Parameters
    registers: Registers | None


class Guest:
    """One guest; it does nothing until `resume`, and is then to be advanced at `next_at_s`.

    Args:
        memory: of the machine.
    """

    def __init__(self, memory: Memory) -> None:
        self.next_at_s: float | None = None
        """When it has something to do again; None: it is stopped, halted, or waits for a page."""
        self.ran = False
        """It executed since it booted, or since its memory was loaded."""
        self._memory = memory
        self._disk = b""
        self._is_running = False
        self._boots = False  # when it runs next
        self._is_halted = True
        self._filled = 0  # pages
        self._owed = 0  # hundredths of a page
        self._pace = Pace()
        self._next_tick_s = 0.0
        self._first_tick_s: float | None = None

    # What happens to the machine

    def boot(self, image: bytes) -> None:
        """Power on; memory stays as it is until the guest runs.

        Args:
            image: what the disk begins with; empty where there is no disk. What has no guest of
                the testbed in it halts for ever.
        """
        self._disk = image[:IMAGE_BYTES]
        self.reset()

    def reset(self) -> None:
        """Boot again, from the same disk."""
        self._begin(boots=True)

    def loaded(self, pace: Pace | None = None) -> None:
        """A migration, or `loadvm`, put another memory there: go on from it.

        Args:
            pace: what the machine that came with it makes of the guest; None: it goes on as ever.
        """
        self._begin(boots=False, pace=pace or Pace())

    def _begin(self, *, boots: bool, pace: Pace | None = None) -> None:
        self._pace = pace or Pace()
        self._first_tick_s = None if pace is None else pace.first_tick_s
        self._boots, self._is_halted, self.ran = boots, not self._pace.executes, False
        self._filled = self._owed = 0
        if self._is_running:
            self.next_at_s = None if self._is_halted else self._next_tick_s

    def resume(self, now_s: float) -> None:
        """The CPU runs from now on."""
        if not self._is_running:
            self._is_running = True
            if self._first_tick_s is None:
                self._first_tick_s = self._pace.tick_s or 0.0
            self._next_tick_s, self._first_tick_s = now_s + self._first_tick_s, None
            self.next_at_s = None if self._is_halted else now_s

    def stop(self) -> None:
        """The CPU stands still."""
        self._is_running, self.next_at_s = False, None

    def advance(self, now_s: float) -> Turn:
        """Do what is due, and no more than some milliseconds of it."""
        if not self._is_running or self._is_halted:
            return Turn()
        block = self._memory.find(RAM)
        if block is None:
            return self._halt()
        if self._boots:
            return self._boot(block, now_s)
        seen = self._look(block)
        if isinstance(seen, Missing):
            return self._wait(seen)
        if seen is None:
            return self._halt()
        self.ran = True
        if seen.registers is None:
            return self._fill(block, seen.parameters, now_s)
        return self._run(block, seen.parameters, seen.registers, now_s)

    def place(self) -> None:
        """Have in memory what the firmware will read from the disk: it may be sent before it runs.

        Of what is no guest of the testbed nothing is placed.
        """
        block = self._memory.find(RAM)
        if block is not None and block.used_bytes >= FIRST_PAGE * PAGE_BYTES and self._is_ours:
            self._memory.write(block, IMAGE_AT, self._disk)

    @property
    def begins(self) -> bool:
        """It is in memory, and its pages are not filled: who loads it has to begin anew."""
        block = self._memory.find(RAM)
        if block is None or (self._is_halted and not self._boots):
            return False
        seen = self._look(block)
        return isinstance(seen, _Seen) and seen.registers is None

    def registers(self) -> Registers | None:
        """The CPU's, with the guest at rest in its loop; None: it is not there."""
        block = self._memory.find(RAM)
        if self._boots or self._is_halted or block is None:
            return None
        seen = self._look(block)
        return seen.registers if isinstance(seen, _Seen) else None

    # What the CPU does

    def _wait(self, missing: Missing, serial: bytes = b"") -> Turn:
        self.next_at_s = None
        return Turn(serial, missing)

    def _halt(self) -> Turn:
        self._is_halted, self.next_at_s = True, None
        return Turn()

    def _boot(self, block: Block, now_s: float) -> Turn:
        """The firmware's work, and the image's up to the first thing that it says."""
        self.ran = True
        boots = self._disk[SECTOR_BYTES - len(SIGNATURE) : SECTOR_BYTES] == SIGNATURE
        is_guest = self._is_ours
        image = self._disk if is_guest else self._disk[:SECTOR_BYTES]
        if not boots or block.used_bytes < FIRST_PAGE * PAGE_BYTES:
            return self._halt()
        missing = self._memory.write(block, IMAGE_AT, image)
        if missing is None and is_guest:
            missing = self._memory.write(block, STATE_AT, bytes(PAGE_BYTES))
        if missing is not None:
            return self._wait(missing)
        if not is_guest:
            return self._halt()
        self._boots, self.next_at_s = False, now_s
        return Turn(STARTED)

    @property
    def _is_ours(self) -> bool:
        return self._disk[PARAMETERS_AT:].startswith(MAGIC) and len(self._disk) == IMAGE_BYTES

    def _look(self, block: Block) -> _Seen | Missing | None:
        """What is in memory; None: no guest of ours, or one that cannot go on."""
        if block.used_bytes < FIRST_PAGE * PAGE_BYTES:
            return None
        image = self._memory.read(block, IMAGE_AT + PARAMETERS_AT, PARAMETERS.size)
        if isinstance(image, Missing):
            return image
        magic, *values = PARAMETERS.unpack(image)
        found = _Parameters(*values)
        end = (found.first_page + found.page_count) * PAGE_BYTES
        if magic != MAGIC or not found.page_count:
            return None
        if found.first_page < FIRST_PAGE or end > block.used_bytes:
            return None  # it would write over itself, or where nothing is
        state = self._memory.read(block, STATE_AT, STATE.size)
        if isinstance(state, Missing):
            return state
        magic, index, pass_number, ticks = STATE.unpack(state)
        if magic != STATE_MAGIC:
            return _Seen(found, None)
        if index >= found.page_count:
            return None
        return _Seen(found, Registers(index, pass_number, ticks, self._owed))

    def _fill(self, block: Block, parameters: _Parameters, now_s: float) -> Turn:
        """The next pages; after the last one the state says that all are filled."""
        count = min(FILLED_AT_ONCE, parameters.page_count - self._filled)
        first = parameters.first_page + self._filled
        pages = filled_pages(first, count, parameters.seed)
        missing = self._memory.write(block, first * PAGE_BYTES, pages)
        if missing is not None:
            return self._wait(missing)
        self._filled += count
        self.next_at_s = now_s
        if self._filled < parameters.page_count:
            return Turn()
        missing = self._memory.write(block, STATE_AT, STATE.pack(STATE_MAGIC, 0, 1, 0))
        assert missing is None, "the state was read just now"
        self._pace = Pace(tick_s=None if self._pace.deaf else TICK_S)  # it sets its timer now
        self._next_tick_s = now_s + TICK_S
        self.next_at_s = self._next_tick_s
        return Turn(_line("guest filled", parameters.page_count) + _line("guest stamps", 0))

    def _run(
        self, block: Block, parameters: _Parameters, registers: Registers, now_s: float
    ) -> Turn:
        index, pass_number, ticks = registers.index, registers.pass_number, registers.ticks
        owed, said = registers.owed, b""
        came = self._ticks(now_s)
        if came and self._pace.ends_by_tick:
            self.reset()
            return Turn(resets=True)
        for _ in range(came):
            ticks = (ticks + 1) & U32
            owed = min(owed + parameters.rate, parameters.rate * TICKS_PER_SECOND, U32)
            if ticks % TICKS_PER_LINE == 0:
                stamps = ((pass_number - 1) & U32) * parameters.page_count + index
                said += _line("guest stamps", stamps)

        missing, seed, write = None, parameters.seed, self._memory.write
        for _ in range(min(owed // TICKS_PER_SECOND, STAMPED_AT_ONCE)):
            number = parameters.first_page + index
            check = ((number * FILL_START + seed) ^ (pass_number * CHECK_FACTOR)) & U32
            missing = write(block, number * PAGE_BYTES, STAMP.pack(pass_number, number, check))
            if missing is not None:
                break
            owed -= TICKS_PER_SECOND
            index += 1
            if index == parameters.page_count:
                index, pass_number = 0, (pass_number + 1) & U32

        self._owed = owed
        reached = Registers(index, pass_number, ticks, owed)
        if reached != registers:
            # Nobody looks at memory between the stamps of one turn: it is said once for all.
            state = STATE.pack(STATE_MAGIC, index, pass_number, ticks)
            unread = write(block, STATE_AT, state)
            assert unread is None, "the state was read just now"
        if missing is not None:
            return self._wait(missing, said)
        rests_until_s = None if self._pace.tick_s is None else self._next_tick_s
        self.next_at_s = now_s if owed >= TICKS_PER_SECOND else rests_until_s
        return Turn(said)

    def _ticks(self, now_s: float) -> int:
        """How many of the timer's ticks have come."""
        count, tick_s = 0, self._pace.tick_s
        if tick_s is None:
            return 0
        while now_s >= self._next_tick_s and count < TICKS_AT_ONCE:
            self._next_tick_s += tick_s
            count += 1
        if now_s >= self._next_tick_s:
            self._next_tick_s = now_s + tick_s
        return count


def _line(text: str, number: int) -> bytes:
    return f"{text} {number:016x}\n".encode()
