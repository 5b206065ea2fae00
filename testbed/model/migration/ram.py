"""The entry `ram`: what saves it, what loads it, and the pages that a running guest waits for.

Source: QEMU `migration/ram.c`, `savevm_ram_handlers`; `migration/migration.c`,
`migrate_send_rp_req_pages`; `migration/postcopy-ram.c`; 2.9 and 7.2.
"""

from __future__ import annotations

from testbed.model.profile import Profile
from testbed.wire import build
from testbed.wire.element import Message

from .memory import Memory, Missing, packed
from .ram_load import RamLoad
from .ram_save import RamSave


class Ram(RamSave, RamLoad):
    """SaveVMHandlers of `ram`, and its part in postcopy on both sides.

    It is a `Live`, a `PostcopyRam`, a `PostcopySource` and the `Requests` of a source.
    """

    postcopiable = True

    def __init__(self, memory: Memory, profile: Profile) -> None:
        RamLoad.__init__(self, memory, profile)
        RamSave.__init__(self, memory, profile)
        self.target_page_bytes = memory.target_page_bytes
        self.host_page_bytes = memory.host_page_bytes
        self._wanted: dict[Missing, None] = {}
        self._wanted_last: str | None = None  # block of the last request

    @property
    def page_sizes(self) -> int:
        """Of all blocks, or-ed."""
        return self.memory.page_sizes

    def is_active(self) -> bool:
        """It is in every migration."""
        return True

    # Postcopy, on the destination

    def prepare_discard(self) -> None:
        """Nothing is to be done: what was received is known anyway."""

    def listen(self) -> None:
        """Pages that are missing are asked for from now on."""
        self.memory.waits = True

    def end(self) -> None:
        """The migration is over: what did not come is zero, and nobody waits for it."""
        super().end()
        self.memory.waits = False
        self._wanted.clear()
        self._wanted_last = None

    def want(self, missing: Missing) -> Message | None:
        """The request for a page that an access waits for; None if it is under way already.

        Without a return path it is not sent, but repeated once there is one again.
        """
        if missing in self._wanted:
            return None
        self._wanted[missing] = None
        return self._request_of(missing)

    def requested_again(self) -> list[Message]:
        """The requests for pages that are still missing, for a new connection; by address."""
        self._wanted_last = None
        still = [each for each in self._wanted if self._is_missing(each)]
        self._wanted = dict.fromkeys(still)
        return [self._request_of(each) for each in sorted(still, key=self._host_address)]

    def received_bitmap(self, block: str) -> Message | None:
        """Which pages of a block were received; None if there is no such block."""
        found = self.memory.find(block)
        if found is None:
            return None
        return build.received_bitmap(block, packed(found.received[: found.pages]))

    def _request_of(self, missing: Missing) -> Message:
        block = None if missing.block == self._wanted_last else missing.block
        self._wanted_last = missing.block
        return build.request_pages(missing.offset_bytes, missing.size_bytes, block)

    def _is_missing(self, missing: Missing) -> bool:
        block = self.memory.find(missing.block)
        assert block is not None, "a page is missing in a block"
        found = self.memory.missing(block, missing.offset_bytes, missing.size_bytes)
        return found is not None

    def _host_address(self, missing: Missing) -> int:
        block = self.memory.find(missing.block)
        assert block is not None, "a page is missing in a block"
        return block.host_at + missing.offset_bytes
