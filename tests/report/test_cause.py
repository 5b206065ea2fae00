"""A migration that the destination refused is told as that, first and in its own words."""

import pytest
from report_helpers import WHERE, result

from testbed.log import Log
from testbed.report.cause import refusal
from testbed.report.words import failure_lines, reason_line
from testbed.scenario.result import Check

# As QEMU 11.1 refuses a virtio-net of 10.0.
NEW = (
    "-mon chardev=qmp,mode=control: warning: '-mon' is deprecated, use '-object'",
    "VQ 0 vring.num 1024 exceeds allocated max 256",
    "load of migration failed: Invalid argument: error while loading state for instance 0x0 of "
    "device '0000:00:02.0/virtio-net': Failed to load element of type virtio for virtio",
)
OLD = (
    "Failed to load cpu:env.eip",
    "error while loading state for instance 0x0 of device 'cpu'",
    "load of migration failed: Input/output error",
)
CHAIN = ("load of migration failed: Invalid argument: Unknown section type 85",)
VERDICT = Check("expect.verdict", False, "completed", "failed-clean", WHERE)
RETRY = Check("expect.retry", False, "completed", "failed-clean", WHERE)
STDERR = Check("expect.destination.stderr", False, "this", "that", WHERE)
QUEUE = "the destination refused the migration: VQ 0 vring.num 1024 exceeds allocated max 256"


def log_of(*attempts):
    log = Log()
    log.write("destination", "stderr", line="before it began", text="before it began")
    for number, lines in enumerate(attempts, 1):
        log.write("run", "attempt-began", attempt=number)
        for line in lines:
            log.write("destination", "stderr", line=f"qemu: {line}", text=line)
        log.write("source", "stderr", line="qemu: no", text="load of migration failed: not mine")
    return log


@pytest.mark.parametrize(
    ("attempts", "checks", "said"),
    [
        ([NEW], [VERDICT], f"{QUEUE} (loading 0000:00:02.0/virtio-net)"),
        (
            [OLD],
            [VERDICT],
            "the destination refused the migration: Failed to load cpu:env.eip",
        ),
        ([CHAIN], [VERDICT], f"the destination refused the migration: {CHAIN[0]}"),
        (
            [OLD, NEW],
            [RETRY],
            "the destination of the retry refused the migration: VQ 0 vring.num 1024 exceeds "
            "allocated max 256 (loading 0000:00:02.0/virtio-net)",
        ),
        ([OLD], [STDERR], None),  # it was to refuse, with other words
        ([OLD, ()], [RETRY], None),
        ([("a warning: of a kind",)], [VERDICT], None),
        ([], [VERDICT], None),
    ],
)
def test_the_first_cause_is_the_destinations_own(attempts, checks, said) -> None:
    assert refusal(result(*checks, log=log_of(*attempts))) == said


def test_it_is_told_before_all_checks() -> None:
    given = result(VERDICT, RETRY, log=log_of(NEW))
    assert reason_line(given) == f"{QUEUE} (loading 0000:00:02.0/virtio-net)"
    assert next(iter(failure_lines(given))) == f"{QUEUE} (loading 0000:00:02.0/virtio-net)"


def test_a_run_that_passed_refused_nothing() -> None:
    assert refusal(result(log=log_of(OLD))) is None
