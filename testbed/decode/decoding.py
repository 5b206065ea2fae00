"""A channel decoded: its items in order, and at the end what it was as a whole."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import Any

from testbed.wire import Layout, MainChannel, MultifdChannel, ReturnPath, StreamError
from testbed.wire.channel import AFTER_THE_END, Channel
from testbed.wire.element import (
    Element,
    Opaque,
    Payload,
    SectionHeader,
    SectionType,
    VmDescription,
)
from testbed.wire.identify import OpaqueChannel
from testbed.wire.recut import false_length, recut

from .channels import SourceChannel
from .fields import DeviceState, device_item
from .item import FORWARD, RETURN_PATH, Item
from .items import Itemiser
from .memory import Memory
from .reading import Batch, read

PAGE_BYTES = 4096
"""Of targets whose channel does not say; x86's."""
KEPT_BYTES_MAX = 512 << 20
"""Of what is kept of a stream: device state and what lies around it. Twice what one section may
have (`wire/device.py`); `pc` has 0.5 MB, pseries 2.3 MB."""
ELEMENT_BYTES = 200
"""Of an element beside its bytes."""


class Decoding:
    """Decodes one channel; what it was as a whole is known when `items` has ended.

    Args:
        channel: where the bytes come from.
        parser: of the channel.
        back: of its return path.
        fields: of which device sections, by a pattern of their idstr; None: of none.
    """

    def __init__(
        self,
        channel: SourceChannel,
        parser: Channel,
        back: ReturnPath | None = None,
        *,
        fields: str | None = None,
    ) -> None:
        self.channel = channel
        self.parser = parser
        self.memory = Memory()
        self.devices: list[DeviceState] = []
        self.broken: str | None = None  # why it is not whole
        self.fed_bytes = 0
        self._back = back
        self._fields = fields
        self.kept: list[Element] = []  # all but memory, to be cut anew if it must
        self._kept_bytes = 0
        self._listeners: list[Callable[[Element], None]] = []
        self._itemisers = {
            FORWARD: Itemiser(self.memory, described=self._described),
            RETURN_PATH: Itemiser(Memory(), RETURN_PATH),
        }

    @property
    def page_bytes(self) -> int:
        """The target page size, as far as the stream told."""
        parser = self.parser
        return parser.page_bytes if isinstance(parser, MainChannel | MultifdChannel) else PAGE_BYTES

    def listen(self, listener: Callable[[Element], None]) -> None:
        """Have each element of the channel shown to a listener as it comes."""
        self._listeners.append(listener)

    @property
    def layout(self) -> Layout | None:
        """What the vmdesc said, once it came."""
        return self.parser.layout if isinstance(self.parser, MainChannel) else None

    def items(self) -> Iterator[Item]:
        """All items, as the bytes come; the last one is the `end` item."""
        for batch in read(self.channel, self.parser, self._back):
            yield from self._batch(batch)
        for itemiser in self._itemisers.values():
            yield from itemiser.rest()
        yield from self._summary()

    def _batch(self, batch: Batch) -> Iterator[Item]:
        itemiser = self._itemisers[batch.direction]
        forward = batch.direction == FORWARD
        itemiser.page_bytes = self.page_bytes
        if forward:
            self.fed_bytes = batch.fed_bytes
        for element in batch.elements:
            if forward:
                self._note(element)
                for listener in self._listeners:
                    listener(element)
            yield from itemiser.items(element, batch.at_s)
        if batch.lost is not None and forward:
            self.broken = batch.lost

    def _note(self, element: Element) -> None:
        match element.value:
            case Opaque(why=why) if why != AFTER_THE_END and self.broken is None:
                if not isinstance(self.parser, OpaqueChannel):
                    self.broken = why
        if element.section is None or _is_full(element.section):
            self._kept_bytes += len(element.raw) + ELEMENT_BYTES
            if self._kept_bytes <= KEPT_BYTES_MAX:
                self.kept.append(element)

    def _described(self) -> dict[str, Any]:
        """What the parser made of the vmdesc that has just come."""
        if self.layout is None:
            return {"error": "\n".join(getattr(self.parser, "corrections", []))}
        assert isinstance(self.parser, MainChannel)
        return {
            "devices": len(self.layout.devices),
            "corrections": len(self.parser.corrections),
        }

    def _devices(self) -> Iterator[Item]:
        """The sections cut anew where the vmdesc denies the first cut, and the fields asked for."""
        layout = self.layout
        if isinstance(self.parser, MainChannel):
            for text in self.parser.corrections:
                yield Item("correction", facts={"why": text})
            if self.parser.corrections or self.broken is not None:
                layout = yield from self._recut()
        self.devices = [
            DeviceState(element.section, element.offset, element.value.data, element.occurrence)
            for element in self.kept
            if isinstance(element.value, Payload) and element.section is not None
        ]
        for state in self.devices:
            if self._fields is not None and state.matches(self._fields):
                yield device_item(state, layout)

    def _recut(self) -> Generator[Item, None, Layout | None]:
        """Let the true vmdesc have the last word, if there is one: what it says."""
        try:
            elements = recut(self.kept) if self._kept_bytes <= KEPT_BYTES_MAX else None
        except StreamError:
            elements = None
        if elements is None:
            if isinstance(self.parser, MainChannel):
                self.broken = self.broken or self.parser.vmdesc_error
            if self._kept_bytes <= KEPT_BYTES_MAX and (lies := false_length(self.kept)) is not None:
                self.broken = str(lies)
            return self.layout
        if self.broken is not None:
            yield Item("correction", facts={"why": f"a payload imitated a section: {self.broken}"})
        self.kept, self.broken = elements, None
        itemiser = Itemiser(Memory())
        text = b""
        for element in elements:
            if isinstance(element.value, VmDescription):
                text = element.value.text
            for item in itemiser.items(element):
                if item.kind == "section":
                    yield replace(item, kind="section-recut")
        return Layout.parse(text)

    def _summary(self) -> Iterator[Item]:
        yield from self._devices()
        for name, counts in self.memory.blocks.items():
            if counts.pages:
                yield Item("memory", facts={"block": name, **counts.facts()})
        if isinstance(self.parser, MainChannel) and self.parser.refused is not None:
            yield Item("layout-refused", facts={"why": self.parser.refused})
        facts: dict[str, Any] = {"bytes": self.fed_bytes, "whole": self.broken is None}
        if self.broken is not None:
            facts["why"] = self.broken
        yield Item("end", facts=facts)


def _is_full(section: SectionHeader | None) -> bool:
    return section is not None and section.type is SectionType.FULL
