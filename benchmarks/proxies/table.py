"""Figures of rounds made into what a person reads, and into what a program does."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Figures = Mapping[str, float]
"""What one measurement found, by name, with its unit last."""
LACKING = "-"


@dataclass(frozen=True, slots=True)
class Column:
    """One figure of each peer: the median of all rounds.

    With `over` it is the ratio to that peer's in the same round, or with `less` the difference:
    a machine that swings does so for both.
    """

    key: str  # in JSON
    title: str
    figure: str  # of `Figures`
    scale: float = 1.0
    digits: int = 2
    over: str | None = None
    less: str | None = None

    def of(self, peer: str, rounds: Sequence[Mapping[str, Figures]]) -> float | None:
        """The figure of a peer; None if there is none to hold it against."""
        found = []
        for figures in rounds:
            value = figures[peer][self.figure]
            other = self.over or self.less
            if other is not None:
                if other not in figures:
                    return None
                theirs = figures[other][self.figure]
                if self.over is not None and not theirs:
                    return None
                value = value / theirs if self.over else value - theirs
            found.append(value * self.scale)
        return statistics.median(found)


def table(
    columns: Sequence[Column],
    rounds: Sequence[Mapping[str, Figures]],
    absent: Mapping[str, str],
) -> tuple[str, dict[str, dict[str, object]]]:
    """A table of all peers, and the same by peer and key.

    Args:
        columns: from left to right.
        rounds: of each round, the figures of each peer that has them.
        absent: peers without figures, and why that is.
    """
    found: dict[str, dict[str, object]] = {}
    lines = [["", *(column.title for column in columns)]]
    for peer in rounds[0]:
        values = {column.key: column.of(peer, rounds) for column in columns}
        found[peer] = dict(values)
        texts = [
            _text(value, column) for value, column in zip(values.values(), columns, strict=True)
        ]
        lines.append([peer, *texts])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
        for line in lines
    )
    for peer, why in absent.items():
        found[peer] = {"absent": why}
        text += f"\n{peer.ljust(widths[0])}  {why}"
    return text, found


def _text(value: float | None, column: Column) -> str:
    return LACKING if value is None else f"{value:.{column.digits}f}"
