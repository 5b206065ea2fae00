"""Expected texts are held against links, which QEMU tells in lines or, since 10.2, in one line."""

import time

import pytest

from testbed.scenario.links import LINKS_MAX, links, missing

# As real QEMUs said it: a stream that was cut in the state of the CPU.
CASCADE = (
    "Failed to load cpu:env.eip",
    "error while loading state for instance 0x0 of device 'cpu'",
    "load of migration failed: Input/output error",
)  # 10.0
CHAIN = (
    "-mon chardev=qmp,mode=control: warning: '-mon' is deprecated",
    "load of migration failed: Invalid argument: error while loading state for instance 0x0 of "
    "device 'cpu': Failed to load cpu state: stream error: -5",
)  # 11.1
FAILED = ["Failed to load cpu", "error while loading state .* 'cpu'", "load of migration failed"]


@pytest.mark.parametrize("said", [CASCADE, CHAIN])
@pytest.mark.parametrize(
    ("patterns", "lacking"),
    [
        (FAILED, []),
        (FAILED[1:], []),
        (["^error while loading state for instance 0x0 of device 'cpu'$"], []),
        (["^Failed to load cpu"], []),
        (["^load of migration failed$"], []),
        (["load of migration failed: (Input/output error|Invalid argument)"], []),
        (["^cpu"], ["^cpu"]),
        (["nothing of the kind"], ["nothing of the kind"]),
        # A cause stands before what it causes, and two are two links.
        (FAILED[::-1], FAILED[1::-1]),
        (["error while", "error while"], ["error while"]),
    ],
)
def test_a_pattern_matches_a_link_whichever_way_it_is_told(said, patterns, lacking) -> None:
    assert missing(patterns, said) == lacking


def test_nothing_that_was_said_has_no_link() -> None:
    assert list(links([])) == []
    assert missing([], []) == []
    assert missing(["a"], []) == ["a"]


def test_the_links_of_a_line_come_from_the_inside() -> None:
    assert list(links(["a: b: c"])) == [("c", ""), ("b", ": c"), ("a", ": b: c")]


def test_a_line_of_joints_costs_no_more_than_so_many_links() -> None:
    line = ": " * 2048
    assert len(list(links([line]))) == LINKS_MAX
    began = time.process_time()
    assert missing(["(a|b)*c"], [line] * 10) == ["(a|b)*c"]
    assert time.process_time() - began < 5  # CPU time, of some 50 ms
