"""Variants: a scenario's own words put in place of others, for the versions that they are for.

A variant's key of `capabilities`, `parameters` and `expect` stands in place of the scenario's, as a
whole; null takes it away. Its `steps` stand in place of all steps. What comes of that is checked
as any scenario is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KEYED = ("capabilities", "parameters", "expect")
KeyPath = tuple[str | int, ...]


def merged(written: Mapping[str, Any], number: int) -> dict[str, Any]:
    """The file's plain values as they are under its `number`th variant, counted from 0."""
    variant = written["variants"][number]
    whole = {key: value for key, value in written.items() if key != "variants"}
    for name in KEYED:
        changed = {**(written.get(name) or {}), **(variant.get(name) or {})}
        whole[name] = {key: value for key, value in changed.items() if value is not None}
    if variant.get("steps") is not None:
        whole["steps"] = variant["steps"]
    return whole


def where_written(variant: Mapping[str, Any], number: int, at: KeyPath) -> KeyPath | None:
    """Where in the file a path of the merged scenario is, if the variant is what says it."""
    if not at or at[0] not in (*KEYED, "steps") or variant.get(at[0]) is None:
        return None
    if at[0] in KEYED and len(at) > 1 and at[1] not in variant[at[0]]:
        return None
    return ("variants", number, *at)
