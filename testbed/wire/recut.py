"""The device sections of a whole stream cut anew, exactly, from the vmdesc at its end.

For who has all of it: a payload can imitate a footer and a header behind it, even EOF and a vmdesc,
and a parser that goes forward believes it. What the true vmdesc says is true of all sections.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace

from . import spans
from .channel import AFTER_THE_END
from .described import CANDIDATE, CANDIDATES_MAX, Described, described_at
from .element import (
    Certainty,
    Command,
    Element,
    EndOfStream,
    Opaque,
    Payload,
    SectionFooter,
    SectionHeader,
    SectionType,
    Span,
    Value,
    VmDescription,
)
from .error import StreamError
from .layout import Layout
from .structs import SECTION, U32
from .vmdesc import TEXT_BYTES_MAX


def recut(elements: Sequence[Element]) -> list[Element]:
    """The elements of a main channel with its device sections cut as the last vmdesc says.

    Args:
        elements: back to back to the last byte of the channel, those of the device phase included;
            only those are changed, and early FULL sections if they are among them.

    Returns:
        The elements, as certain as can be: `Certainty.EXACT`. Their bytes are the same.

    Raises:
        StreamError: there is no device phase, no vmdesc that fits it, or an early FULL section is
            not as long as the vmdesc says.
    """
    first = _device_phase(elements)
    phase = elements[first:]
    if not phase:
        raise _wrong(elements[-1].end if elements else 0, "device sections", "none")
    early = [element for element in elements[:first] if _is_full(element.section)]
    data = b"".join(element.raw for element in phase)
    index = sum(isinstance(element.value, SectionHeader) for element in early)
    eof_at, layout, cuts = _find(data, index, phase[0].offset)
    _check(early, layout, phase[0].offset)
    sure = [
        replace(element, certainty=Certainty.EXACT) if _is_full(element.section) else element
        for element in elements[:first]
    ]
    return [*sure, *_Cutter(phase, data).elements(cuts, eof_at)]


def false_length(elements: Sequence[Element]) -> StreamError | None:
    """The error of a vmdesc whose text is whole, and not as long as is said before it.

    Args:
        elements: as of `recut`, which failed.
    """
    phase = elements[_device_phase(elements) :]
    data = b"".join(element.raw for element in phase)
    candidates = deque(CANDIDATE.finditer(data), CANDIDATES_MAX)
    for found in reversed(candidates):
        text_at = found.start() + 1 + SECTION.size
        said, text = int.from_bytes(found[1], "big"), data[text_at:]
        if said == len(text) or len(text) > TEXT_BYTES_MAX:
            continue
        try:
            Layout.parse(text)
        except StreamError:  # an imitation, or cut short: then its length may be true
            continue
        return StreamError(
            offset=phase[0].offset + found.start() + 1,
            inside="length of the vmdesc",
            expected=f"{len(text)}, the bytes of the text that follows",
            got=f"{said}",
        )
    return None


def _device_phase(elements: Sequence[Element]) -> int:
    """Index of the header of the first FULL section behind which no other element is live."""
    first = len(elements)
    for index in range(len(elements) - 1, -1, -1):
        element = elements[index]
        if isinstance(element.value, Command) or not (
            element.section is None or _is_full(element.section)
        ):
            break
        if isinstance(element.value, SectionHeader):
            first = index
    return first


def _find(data: bytes, index: int, offset: int) -> tuple[int, Layout, list[Described]]:
    """The last vmdesc in `data` whose devices, from `index` on, tile what precedes it."""
    candidates = deque(
        ((found.start(), found[1]) for found in CANDIDATE.finditer(data)), CANDIDATES_MAX
    )
    for eof_at, length in reversed(candidates):
        found = described_at(data, eof_at, int.from_bytes(length, "big"), index)
        if found is not None:
            return eof_at, *found
    raise _wrong(offset, "a vmdesc that tells where each section ends", "none")


def _check(early: Sequence[Element], layout: Layout, offset: int) -> None:
    """See that the sections that precede the device phase are as long as the vmdesc says."""
    cut: list[tuple[str, int, int]] = []
    for element in early:
        match element.value:
            case SectionHeader(_, _, idstr, instance_id, _):
                cut.append((idstr, instance_id, 0))
            case Payload(data):
                cut[-1] = *cut[-1][:2], len(data)
            case _:
                pass
    for why in Layout(layout.devices[: len(cut)]).disagreements(cut):
        raise _wrong(offset, "early device sections as the vmdesc has them", why)


class _Cutter:
    """Makes the elements of a device phase from its bytes."""

    def __init__(self, phase: Sequence[Element], data: bytes) -> None:
        self._data = data
        self._offset = phase[0].offset
        self._at = 0
        self._occurrences: dict[tuple[str, int], int] = {}
        for element in phase:
            if isinstance(element.value, SectionHeader):
                self._occurrences.setdefault(_key(element.value), element.occurrence)

    def elements(self, cuts: Sequence[Described], eof_at: int) -> Iterator[Element]:
        """Everything from the first of the sections to the last byte."""
        for header, start, payload, footer, end in cuts:
            occurrence = self._occurrences.setdefault(_key(header), 1)
            self._occurrences[_key(header)] += 1
            idstr_bytes = self._data[start + SECTION.size]
            yield self._element(header, payload, spans.section(idstr_bytes), header, occurrence)
            if payload < footer:
                data = self._data[payload:footer]
                yield self._element(Payload(data), footer, (), header, occurrence)
            if footer < end:
                mark = SectionFooter(header.section_id)
                yield self._element(mark, end, spans.FOOTER, header, occurrence)
        yield self._element(EndOfStream(), eof_at + 1, spans.EOF)
        text_at = eof_at + 1 + SECTION.size
        text_end = text_at + U32.unpack_from(self._data, text_at - U32.size)[0]
        text = self._data[text_at:text_end]
        yield self._element(VmDescription(text), text_end, spans.vmdesc(len(text)))
        if text_end < len(self._data):
            yield self._element(Opaque(AFTER_THE_END), len(self._data))

    def _element(
        self,
        value: Value,
        end: int,
        fields: tuple[Span, ...] = (),
        section: SectionHeader | None = None,
        occurrence: int = 1,
    ) -> Element:
        """The next element, which ends there."""
        start, self._at = self._at, end
        raw = self._data[start:end]
        return Element(self._offset + start, raw, value, fields, section, occurrence)


def _is_full(section: SectionHeader | None) -> bool:
    return section is not None and section.type is SectionType.FULL


def _key(header: SectionHeader) -> tuple[str, int]:
    return header.idstr, header.instance_id


def _wrong(offset: int, expected: str, got: str) -> StreamError:
    return StreamError(offset=offset, inside="device phase", expected=expected, got=got)
