"""How far a long file is, on a terminal; nothing elsewhere, and nothing for short ones."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

AFTER_S = 0.5


@contextmanager
def progress(name: str, total_bytes: int | None) -> Iterator[Callable[[int], None]]:
    """Give a function to be told the bytes read so far; the bar is gone when the block ends.

    The bar is on standard error. What is printed meanwhile to the same terminal stays above it.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    began = time.monotonic()
    bar: Progress | None = None
    with ExitStack() as stack:

        def tell(fed_bytes: int) -> None:
            nonlocal bar
            if bar is None and time.monotonic() - began >= AFTER_S:
                bar = stack.enter_context(_bar())
                bar.add_task(name, total=total_bytes)
            if bar is not None:
                bar.update(bar.task_ids[0], completed=fed_bytes)

        yield tell


def _bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    return Progress(
        *columns,
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
        redirect_stderr=False,
    )
