"""What a real Toxiproxy answered, against the control server: the same, but for what says why."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from control_helpers import served
from toxiproxy_table import Row, load, own_host, play

from testbed.proxy.address import TcpAddress

REFUSED = '{"error":"bad request body: '


def meaning(text: str) -> Any:
    """A body to compare: JSON with its order and its numbers as they are written.

    Toxiproxy has a `Logger` in each proxy, with nothing in it, by accident.
    """
    try:
        value = json.loads(
            text,
            object_pairs_hook=lambda pairs: [pair for pair in pairs if pair[0] != "Logger"],
            parse_int=lambda number: ("number", number),
            parse_float=lambda number: ("number", number),
        )
    except ValueError:
        return text
    return value, text.endswith("\n")


def difference(row: Row, got: Row) -> str:
    """What is not as it should be; empty: nothing."""
    head, text = row.get("ours", row["answer"]), row.get("ours_says", row["says"])
    if "ours_says" not in row and text.startswith(REFUSED):
        same = got["says"].startswith(REFUSED) and got["says"] > REFUSED
    else:
        same = meaning(got["says"]) == meaning(text)
    if same and got["answer"] == head:
        return ""
    asked = f"{row['request']} {row.get('body', '')}"
    return f"{asked}\n  expected {head}: {text}\n  got {got['answer']}: {got['says']}"


async def test_answers_are_toxiproxys() -> None:
    """All, as each request finds what those before it left."""
    rows = load()
    async with served() as at:
        address = at.control.address
        assert isinstance(address, TcpAddress)
        got = await asyncio.to_thread(lambda: [*play(address, rows, own_host(1))])
    wrong = [difference(*pair) for pair in zip(rows, got, strict=True)]
    assert "\n".join(filter(None, wrong)) == ""


def test_what_differs_says_why() -> None:
    for row in load():
        ours = row.get("ours", row["answer"]), row.get("ours_says", row["says"])
        differs = ours != (row["answer"], row["says"])
        assert differs == ("why" in row) == bool(row.keys() & {"ours", "ours_says"}), row["request"]
