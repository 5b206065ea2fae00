"""The library of scenarios, and which pairs of endpoints can play what of it."""

from __future__ import annotations

from pathlib import Path

from testbed.endpoint.program import model, qemu
from testbed.scenario.load import load
from testbed.scenario.run import Settings, other_endpoint

LIBRARY = sorted((Path(__file__).parents[2] / "scenarios").rglob("*.yaml"))
SCENARIOS = {path: load(path) for path in LIBRARY}


def is_for(path: Path, options: tuple[str, ...]) -> bool:
    """Whether a scenario can be played by a pair: the command would leave it out otherwise."""
    said = dict(zip(options[::2], options[1::2], strict=True))
    both = said.get("--endpoint", "model")
    sides = (
        qemu() if said.get(name, both) == "qemu" else model(said.get("--profile", "7.2"))
        for name in ("--source", "--destination")
    )
    return other_endpoint(SCENARIOS[path], Settings(*sides)) is None
