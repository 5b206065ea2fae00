"""Each expectation: a log that fulfils it, one that does not, one that cannot tell."""

from pathlib import Path
from typing import Any

import pytest
from judge_helpers import EXITED, RUNS, STOPPED, Run, check, completed, scenario

from testbed.log import Event, Log
from testbed.scenario.expect import judge

MEMORY = "steps: [{migrate: {}}, {wait: {}}, {check_memory: {}}]"
DEVICES = "destination: {paused: true}\nsteps: [{migrate: {}}, {check_device_state: {}}]"
PROBE = "network: {probe: {every: 1 ms}}"


def failed() -> Run:
    run = Run().begin().says("source", "active", "failed").says("destination", "active")
    run.write("destination", "stderr", line="qemu: bad magic", text="bad magic")
    run.write("destination", "stderr", line="qemu: load failed", text="load failed")
    return run.end({**RUNS, "status": "failed", "error_desc": "Channel error: EOF"}, EXITED)


def totals(**tables: dict[str, int]) -> Run:
    empty: dict[str, dict[str, int]] = {"sections": {}, "commands": {}, "messages": {}}
    run = Run().begin().write("proxy", "stream-totals", direction="forward", **empty)
    return run.write("proxy", "stream-totals", direction="return path", **{**empty, **tables}).end(
        STOPPED, RUNS
    )


def rarps(*times: float, problem: str = "", source: str | None = None) -> Run:
    run = Run().begin().event("source", "STOP")
    for at_s in times:
        run.at(at_s)
        more = {} if source is None else {"source": source}
        run.rarp(*([problem] * bool(problem)), **more)
    return run.end(STOPPED, RUNS)


BUSY = "; for 0.2 s no probe could be sent: this machine was too busy"


def outage(total_s: float, *, until_s: float | None = 9.0, longest_gap_s: float = 0.005) -> Run:
    facts = {"total_s": total_s, "wrong_s": total_s, "nowhere_s": 0.0, "until_s": until_s}
    facts["longest_gap_s"] = longest_gap_s
    return completed().write("client", "outage", **facts)


def took(total_s: float) -> Run:
    run = Run().at(5.0).begin().says("source", "active").at(5.0 + total_s)
    run.says("source", "completed").says("destination", "completed")
    return run.end(STOPPED, {**RUNS, "status": "completed"})


def loads(times: int) -> Run:
    """A run whose destination loads the timer so often, and once more in a second attempt."""
    run = Run().begin()
    facts = {"kind": "start or full", "section": "timer", "instance": 0, "version": 2}
    for _ in range(times):
        run.write("destination", "section-loaded", **facts)
    run.write("proxy", "sections-sent", begun=[["timer", 0, 2]], parts={}, unread=None)
    run.write("destination", "sections-loaded", traced=True, cut=False, parts={})
    run.end(STOPPED, {**RUNS, "status": "completed"}).begin()
    return run.write("destination", "section-loaded", **facts).end(STOPPED, RUNS)


def seen_at(before: str | None, after: str | None) -> Run:
    run = Run().write("switch", "forwarding", when="before", guest=before).begin()
    run.write("switch", "forwarding", when="after", guest=None)
    return run.write("switch", "forwarding", when="after", guest=after).end(STOPPED, RUNS)


PASSED, FAILED, UNKNOWN = True, False, None
GOOD = "verdict: completed"
BAD = "verdict: failed-clean"

# (what the file expects, what else the file says, the log, check, passed, got)
CASES: list[tuple[str, str, Run, str, bool | None, str]] = [
    (GOOD, "", completed(), "verdict", PASSED, "completed"),
    (BAD, "", completed(), "verdict", FAILED, "completed"),
    (f"{GOOD}, running: destination", "", completed(), "running", PASSED, "destination"),
    (f"{GOOD}, running: source", "", completed(), "running", FAILED, "destination"),
    (f"{BAD}, running: source", "", failed(), "running", PASSED, "source"),
    (
        "verdict: guest-lost, known_outcome: so it is, running: none",
        "",
        Run().begin().end(STOPPED, EXITED),
        "running",
        PASSED,
        "none",
    ),
    (f"{BAD}, source: {{status: failed}}", "", failed(), "source.status", PASSED, "failed"),
    (
        f"{BAD}, source: {{status: [completed, failed]}}",
        "",
        failed(),
        "source.status",
        PASSED,
        "failed",
    ),
    (f"{BAD}, source: {{status: active}}", "", failed(), "source.status", FAILED, "failed"),
    # A side that has exited has said its last status before.
    (
        f"{BAD}, destination: {{status: active}}",
        "",
        failed(),
        "destination.status",
        PASSED,
        "active",
    ),
    (
        f"{BAD}, source: {{statuses: [active, failed]}}",
        "",
        failed(),
        "source.statuses",
        PASSED,
        "active failed",
    ),
    (
        f"{BAD}, source: {{statuses: [failed, active]}}",
        "",
        failed(),
        "source.statuses",
        FAILED,
        "active failed",
    ),
    (
        f"{BAD}, source: {{run_state: [running, paused]}}",
        "",
        failed(),
        "source.run_state",
        PASSED,
        "running",
    ),
    (
        f"{BAD}, destination: {{run_state: inmigrate}}",
        "",
        failed(),
        "destination.run_state",
        FAILED,
        "ended",
    ),
    (f"{BAD}, destination: {{exit: 1}}", "", failed(), "destination.exit", PASSED, "1"),
    (
        f"{BAD}, destination: {{exit: running}}",
        "",
        failed(),
        "destination.exit",
        FAILED,
        "1",
    ),
    (f"{BAD}, source: {{exit: running}}", "", failed(), "source.exit", PASSED, "running"),
    (
        f"{BAD}, source: {{error: Channel error}}",
        "",
        failed(),
        "source.error",
        PASSED,
        "Channel error: EOF",
    ),
    (f"{BAD}, source: {{error: null}}", "", failed(), "source.error", FAILED, "Channel error: EOF"),
    (f"{GOOD}, source: {{error: null}}", "", completed(), "source.error", PASSED, "no error"),
    (
        f'{BAD}, source: {{error: {{"<8": never, ">=8": "^Chan.*EOF$"}}}}',
        "",
        failed(),
        "source.error",
        PASSED,
        "Channel error: EOF",
    ),
    (
        f"{BAD}, destination: {{stderr: [magic, load]}}",
        "",
        failed(),
        "destination.stderr",
        PASSED,
        "bad magic | load failed",
    ),
    (
        f"{BAD}, destination: {{stderr: [magic, nothing]}}",
        "",
        failed(),
        "destination.stderr",
        FAILED,
        "bad magic | load failed",
    ),
    (
        f"{BAD}, destination: {{no_stderr: load}}",
        "",
        failed(),
        "destination.no_stderr",
        FAILED,
        "load failed",
    ),
    (
        f"{BAD}, destination: {{no_stderr: error}}",
        "",
        failed(),
        "destination.no_stderr",
        PASSED,
        "none",
    ),
    (
        f"{GOOD}, memory: intact",
        MEMORY,
        completed().memory(intact=True),
        "memory",
        PASSED,
        "intact",
    ),
    (
        f"{GOOD}, memory: intact",
        MEMORY,
        completed().memory(intact=False, findings=("page 3",)),
        "memory",
        FAILED,
        "corrupt (page 3)",
    ),
    (
        f"{GOOD}, memory: intact",
        MEMORY,
        completed(),
        "memory",
        UNKNOWN,
        "it was never looked at",
    ),
    (
        f"{GOOD}, memory: intact",
        MEMORY,
        completed().write("destination", "save-failed", error="no space left"),
        "memory",
        UNKNOWN,
        "no space left",
    ),
    (
        f"{GOOD}, device_state: equal",
        DEVICES,
        completed().devices(),
        "device_state",
        PASSED,
        "equal",
    ),
    (
        f"{GOOD}, device_state: equal",
        DEVICES,
        completed().devices("cpu"),
        "device_state",
        FAILED,
        "differs (cpu)",
    ),
    (
        f"{GOOD}, device_state: differs",
        DEVICES,
        completed(),
        "device_state",
        UNKNOWN,
        "it was never looked at",
    ),
    (
        f"{GOOD}, wire: [{{message: PONG, count: 3}}]",
        "",
        totals(messages={"PONG": 3}),
        "wire.0",
        PASSED,
        "3 x PONG",
    ),
    (
        f"{GOOD}, wire: [{{command: PING, count: {{min: 1, max: 2}}}}]",
        "",
        totals(commands={"PING": 3}),
        "wire.0",
        FAILED,
        "3 x PING",
    ),
    (
        f"{GOOD}, wire: [{{section: '*/virtio-net', kind: full}}]",
        "",
        totals(sections={"FULL 0000:00:02.0/virtio-net": 1, "PART ram": 9}),
        "wire.0",
        PASSED,
        "1 x */virtio-net of kind full",
    ),
    (
        f"{GOOD}, wire: [{{section: ram, kind: end, count: 0}}]",
        "",
        totals(sections={"PART ram": 9}),
        "wire.0",
        PASSED,
        "0 x ram of kind end",
    ),
    (f"{GOOD}, announce: {{count: 2}}", "", rarps(1, 2), "announce.count", PASSED, "2"),
    (f"{GOOD}, announce: {{count: 2}}", "", rarps(1), "announce.count", FAILED, "1"),
    (
        f"{GOOD}, announce: {{mac: guest}}",
        "",
        rarps(1),
        "announce.mac",
        PASSED,
        "52:54:00:12:34:56",
    ),
    (
        f"{GOOD}, announce: {{mac: guest}}",
        "",
        rarps(1, source="52:54:00:00:00:99"),
        "announce.mac",
        FAILED,
        "52:54:00:00:00:99",
    ),
    (f"{GOOD}, announce: {{layout: qemu}}", "", rarps(1), "announce.layout", PASSED, "as QEMU's"),
    (
        f"{GOOD}, announce: {{layout: qemu}}",
        "",
        rarps(1, problem="60 bytes"),
        "announce.layout",
        FAILED,
        "60 bytes",
    ),
    (
        f"{GOOD}, announce: {{schedule: [0 ms, 50 ms], tolerance: 10 ms}}",
        "",
        rarps(1, 1.055),
        "announce.schedule",
        PASSED,
        "0, 55 ms",
    ),
    (
        f"{GOOD}, announce: {{schedule: [0 ms, 50 ms], tolerance: 10 ms}}",
        "",
        rarps(1, 1.065),
        "announce.schedule",
        FAILED,
        "0, 65 ms",
    ),
    (
        f"{GOOD}, announce: {{schedule: [0 ms, 50 ms], tolerance: 10 ms}}",
        "",
        rarps(),
        "announce.schedule",
        FAILED,
        " ms",
    ),
    (
        f"{GOOD}, forwarding: {{before: source, after: destination}}",
        "",
        seen_at("source", "destination"),
        "forwarding.after",
        PASSED,
        "destination",
    ),
    (
        f"{GOOD}, forwarding: {{before: source}}",
        "",
        seen_at(None, None),
        "forwarding.before",
        FAILED,
        "nowhere",
    ),
    (
        f"{GOOD}, forwarding: {{after: destination}}",
        "",
        completed(),
        "forwarding.after",
        UNKNOWN,
        "it was never looked at",
    ),
    (
        f"{GOOD}, outage: {{max: 1 s}}",
        PROBE,
        outage(0.5),
        "outage",
        PASSED,
        "0.5 s (0.5 to the wrong host, 0 lost)",
    ),
    (
        f"{GOOD}, outage: {{max: 0 s}}",
        PROBE,
        outage(0.5),
        "outage",
        FAILED,
        "0.5 s (0.5 to the wrong host, 0 lost)",
    ),
    (
        f"{GOOD}, outage: {{min: 1 s}}",
        PROBE,
        outage(0.5),
        "outage",
        FAILED,
        "0.5 s (0.5 to the wrong host, 0 lost)",
    ),
    *(
        (
            f"{GOOD}, outage: {{{bound}}}",
            PROBE,
            outage(0.5, until_s=None),
            "outage",
            passed,
            "0.5 s (0.5 to the wrong host, 0 lost) until the run ended, and still so",
        )
        for bound, passed in [
            ("max: 1s", UNKNOWN),
            ("max: 400ms", FAILED),
            ("min: 400ms", PASSED),
            ("min: 1s", UNKNOWN),
            ("min: 400ms, max: 1s", UNKNOWN),
        ]
    ),
    *(
        (
            f"{GOOD}, outage: {{{bound}}}",
            PROBE,
            outage(0.5, longest_gap_s=0.2),
            "outage",
            passed,
            "0.5 s (0.5 to the wrong host, 0 lost)" + BUSY * (passed is UNKNOWN),
        )
        for bound, passed in [
            ("max: 1s", PASSED),
            ("max: 400ms", UNKNOWN),
            ("max: 200ms", FAILED),
            ("min: 600ms", UNKNOWN),
            ("min: 1s", FAILED),
        ]
    ),
    (f"{GOOD}, outage: {{max: 1 s}}", PROBE, completed(), "outage", UNKNOWN, "no probe was sent"),
    (f"{GOOD}, total_time: {{min: 2s}}", "", took(2.0), "total_time", PASSED, "2.000 s"),
    (f"{GOOD}, total_time: {{min: 2s}}", "", took(1.9), "total_time", FAILED, "1.900 s"),
    (f"{GOOD}, total_time: {{max: 2s}}", "", took(2.1), "total_time", FAILED, "2.100 s"),
    (
        f"{BAD}, total_time: {{max: 2s}}",
        "",
        Run().begin().says("source", "failed").end(RUNS, EXITED),
        "total_time",
        FAILED,
        "the source never completed",
    ),
    (f"{GOOD}, loaded: [{{section: timer}}]", "", loads(1), "loaded.0", PASSED, "1 x timer"),
    (f"{GOOD}, loaded: [{{section: 't*', count: 2}}]", "", loads(2), "loaded.0", PASSED, "2 x t*"),
    (
        f"{GOOD}, loaded: [{{section: timer, count: 2}}]",
        "",
        loads(1),
        "loaded.0",
        FAILED,
        "1 x timer",
    ),
    (f"{GOOD}, loaded: [{{section: rtc, count: 0}}]", "", loads(1), "loaded.0", PASSED, "0 x rtc"),
    (
        f"{GOOD}, loaded: [{{section: timer}}]",
        "",
        Run().begin().end(STOPPED, {**RUNS, "status": "completed"}),
        "loaded.0",
        UNKNOWN,
        "the attempt never ended",
    ),
]


@pytest.mark.parametrize(
    ("expect", "more", "run", "name", "passed", "got"),
    CASES,
    ids=[f"{name}-{passed}-{got}" for _, _, _, name, passed, got in CASES],
)
def test_an_expectation_is_held_against_the_log(
    tmp_path: Path, expect: str, more: str, run: Run, name: str, passed: bool | None, got: str
) -> None:
    played = scenario(tmp_path, expect, head=f"mode: precopy\n{more}")
    _, checks = judge(played, run.log)
    found = check(checks, f"expect.{name}")
    assert (found.passed, found.got) == (passed, got)
    assert found.where.startswith(f"{played.path}:")


def test_a_retry_has_to_complete(tmp_path: Path) -> None:
    played = scenario(tmp_path, f"{BAD}, retry: completed", head="mode: precopy")
    first = failed()
    verdict, checks = judge(played, first.log)
    assert verdict == "failed-clean"
    assert check(checks, "expect.retry").got == "it never ended"
    assert check(checks, "expect.retry").passed is False
    _, checks = judge(played, first.begin().end(STOPPED, RUNS).log)
    assert check(checks, "expect.retry").passed is True


def test_memory_that_a_retry_damaged_is_corrupt(tmp_path: Path) -> None:
    played = scenario(tmp_path, f"{BAD}, retry: completed", head="mode: precopy")
    run = failed().begin().end(STOPPED, RUNS).memory(intact=False)
    verdict, checks = judge(played, run.log)
    assert verdict == "corrupt"
    assert check(checks, "expect.retry").got == "corrupt"


def test_a_run_that_never_ended_is_unknown_and_has_no_checks(tmp_path: Path) -> None:
    assert judge(scenario(tmp_path, GOOD), Run().begin().log) == ("unknown", [])


def test_a_fault_that_never_struck_fails_with_its_sentence(tmp_path: Path) -> None:
    head = (
        "mode: precopy\n"
        "faults:\n"
        "  - {name: one, at: {section: cpu}, do: delete}\n"
        "  - {name: other, at: {section: nvme}, do: delete}"
    )
    sentence = "fault 2 (other) never fired: no section nvme passed"
    run = completed().write("proxy", "fault-struck", fault="one")
    run.write("proxy", "fault-unfired", sentence=sentence)
    _, checks = judge(scenario(tmp_path, GOOD, head=head), run.log)
    assert check(checks, "faults.0").passed is True
    assert check(checks, "faults.1").passed is False
    assert check(checks, "faults.1").got == sentence
    assert check(checks, "faults.1").where.endswith("it.yaml:5:5")


def test_a_fault_of_which_nothing_is_known_is_unknown(tmp_path: Path) -> None:
    head = "mode: precopy\nfaults: [{name: one, at: {section: cpu}, do: delete}]"
    _, checks = judge(scenario(tmp_path, GOOD, head=head), completed().log)
    assert check(checks, "faults.0").passed is None


TWO_GUESTS = "invariant: never two running guests"
AGREE = "invariant: exit status, QMP status and stderr agree"
EARLY = "invariant: no frame of the guest from the destination before the source stopped"


def test_the_invariants_are_always_checked(tmp_path: Path) -> None:
    _, checks = judge(scenario(tmp_path, GOOD), completed().log)
    assert all(check(checks, name).passed for name in (TWO_GUESTS, AGREE, EARLY))


def test_two_guests_for_a_moment_fail_a_run_that_completed(tmp_path: Path) -> None:
    run = Run().begin().at(1).event("destination", "RESUME").at(1.25).event("source", "STOP")
    _, checks = judge(scenario(tmp_path, GOOD), run.rarp().end(STOPPED, RUNS).log)
    assert check(checks, TWO_GUESTS).passed is False
    assert check(checks, TWO_GUESTS).got == "both ran for 0.250 s from 1.000 s on"


def test_a_known_split_brain_is_not_failed_for_what_it_is(tmp_path: Path) -> None:
    expect = "verdict: split-brain, known_outcome: the last byte was lost"
    run = Run().begin().event("destination", "RESUME").at(1).end(RUNS, RUNS)
    verdict, checks = judge(scenario(tmp_path, expect), run.log)
    assert verdict == "split-brain"
    assert TWO_GUESTS not in [each.name for each in checks]


@pytest.mark.parametrize(
    ("seen", "lines", "got"),
    [
        ({"exit_status": 1}, [], "the destination exited with 1, and stderr says nothing"),
        (
            {"exit_status": 1, "status": "completed"},
            ["qemu: why"],
            "the destination exited with 1, and QMP says completed",
        ),
        (
            {"exit_status": 0, "status": "failed"},
            ["qemu: why"],
            "the destination exited with 0, and QMP says failed",
        ),
        (
            {**RUNS, "status": "completed"},
            ["qemu: load of migration failed: Invalid argument"],
            "QMP says the destination completed, and stderr says "
            "'qemu: load of migration failed: Invalid argument'",
        ),
    ],
)
def test_a_side_that_contradicts_itself_fails_an_invariant(
    tmp_path: Path, seen: dict[str, Any], lines: list[str], got: str
) -> None:
    run = Run().begin()
    for line in lines:
        run.write("destination", "stderr", line=line, text=line)
    _, checks = judge(scenario(tmp_path, GOOD), run.end(STOPPED, seen).log)
    assert check(checks, AGREE).passed is False
    assert check(checks, AGREE).got == got


def test_a_failure_that_says_so_everywhere_agrees(tmp_path: Path) -> None:
    run = Run().begin().write("destination", "stderr", text="load of migration failed")
    _, checks = judge(scenario(tmp_path, GOOD), run.end(RUNS, EXITED).log)
    assert check(checks, AGREE).passed is True


def test_an_early_frame_fails_its_invariant(tmp_path: Path) -> None:
    run = Run().begin().at(1).frame("destination").at(2).event("source", "STOP")
    _, checks = judge(scenario(tmp_path, GOOD), run.end(STOPPED, RUNS).log)
    assert check(checks, EARLY).passed is False
    assert check(checks, EARLY).got == "1, the first at 1.000 s"


def test_a_stored_log_gives_the_same_checks(tmp_path: Path) -> None:
    for expect, more, run, *_ in CASES:
        played = scenario(tmp_path, expect, head=f"mode: precopy\n{more}")
        stored = Log.of(Event.from_json(event.to_json()) for event in run.log)
        assert judge(played, stored) == judge(played, run.log)
