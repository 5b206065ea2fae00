"""Live pairs with a fault between them: the model ends as QEMU 7.2 does, wrongly where that does.

Each row of `pairs_7_2.yaml` is run on a real pair and on a pair of models, side by side; where the
real one is in a race, both must be within what it was seen to do. Some are run between the two as
well. Of 2.9 no real one is here: `pairs_2_9.yaml` says what each side comes to and what it says.
"""

from pathlib import Path

import pytest
from pair_helpers import cases, outcomes

from testbed.endpoint.program import model, qemu

HERE = Path(__file__).parent
OF_7_2 = cases(HERE / "pairs_7_2.yaml", "7.2")
OF_2_9 = cases(HERE / "pairs_2_9.yaml", "2.9")
REAL, MODEL, OLD = qemu(), model("7.2"), model("2.9")

pytestmark = pytest.mark.live


def within_what_was_seen(case, found):
    """Check what one pair came to against what the table says of real ones."""
    assert found.verdict in case.verdicts, found
    for name, alternatives in case.seen.items():
        side = getattr(found, name)
        assert any(side.is_like(seen) for seen in alternatives), side
    if "first_line" in case.row:
        assert found.destination.stderr[0] == case.row["first_line"]


def comparable(case, found):
    """By side, what is no race."""
    sides = {"source": found.source, "destination": found.destination}
    if case.row.get("write_error") or case.mode == "postcopy":
        sides["source"] = found.source.without_write_error()
    if case.row.get("cut_anywhere"):
        sides["destination"] = found.destination.without_place()
    return {name: side for name, side in sides.items() if name not in case.seen}


@pytest.mark.parametrize("case", OF_7_2, ids=lambda case: case.id)
async def test_a_pair_of_models_ends_as_a_real_one_does(case, tmp_path):
    runs = [(case, *pair) for pair in case.pairs(REAL, MODEL)]
    found = await outcomes(runs, tmp_path)
    for each in found:
        within_what_was_seen(case, each)
        assert comparable(case, each) == comparable(case, found[0])


@pytest.mark.parametrize("name", dict.fromkeys(case.name for case in OF_2_9))
async def test_a_pair_of_models_ends_as_one_of_2_9_did(name, tmp_path):
    variants = [case for case in OF_2_9 if case.name == name]
    found = await outcomes([(case, OLD, OLD) for case in variants], tmp_path)
    for case, each in zip(variants, found, strict=True):
        within_what_was_seen(case, each)
        # It has no description of an error but of a connection that could not be made.
        assert (each.source.error_desc, each.destination.error_desc) == (None, None)
