"""The library of scenarios on real QEMU and models: each one, by the command that people use.

On models of 7.2 each is played by `test_prove.py`.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from command_helpers import command
from library_helpers import LIBRARY, is_for
from polling import wait_until

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.live


PAIRS = {"old models": ("--profile", "2.9"), "QEMU": ("--endpoint", "qemu")}
MIXED = {
    "from QEMU to a model": ("--source", "qemu"),
    "from a model to QEMU": ("--destination", "qemu"),
    "from QEMU to an old model": ("--source", "qemu", "--profile", "2.9"),
    "from an old model to QEMU": ("--destination", "qemu", "--profile", "2.9"),
}


ALL = os.environ.get("ALL_PAIRS") == "1"
ACROSS = [
    pytest.param(path, options, id=f"{name}-{path.stem}")
    for name, options in MIXED.items()
    for path in LIBRARY
    if ALL or ("--profile" in options and path.stem in ("postcopy_drop", "bad_footer_mark"))
    if is_for(path, options)
]
"""What a mixed pair can get wrong by itself. Between QEMU and a model of its own version,
`test_pairs_differential.py` plays that; with ALL_PAIRS=1 all are played."""


@pytest.mark.parametrize(
    ("path", "options"),
    [
        pytest.param(path, options, id=f"{name}-{path.stem}")
        for name, options in PAIRS.items()
        for path in LIBRARY
        if is_for(path, options)
    ],
)
def test_the_scenario_passes(path: Path, options: tuple[str, ...]) -> None:
    passes(path, options)


@pytest.mark.parametrize(("path", "options"), ACROSS)
def test_the_scenario_passes_across(path: Path, options: tuple[str, ...]) -> None:
    passes(path, options)


def passes(path: Path, options: tuple[str, ...]) -> None:
    done = command("run", str(path), *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""


def test_a_guest_that_is_kept_answers_where_it_went() -> None:
    done = command("run", "scenarios/precopy_ok.yaml", "--keep")
    assert done.returncode == 0, done.stdout + done.stderr
    enter, pid = re.search(
        r"enter it: (nsenter .*)\n(?:.*\n)+end it: +kill (\d+)", done.stdout
    ).groups()
    try:
        client = "--net=/dev/shm/testbed/client"
        ping = [*enter.split(), "nsenter", client, "ping", "-c", "1", "-W", "5", "10.99.0.2"]
        assert "1 received" in subprocess.run(ping, capture_output=True, text=True).stdout
    finally:
        os.kill(int(pid), signal.SIGTERM)


def test_reports_say_what_both_sides_were(tmp_path: Path) -> None:
    report = tmp_path / "it.json"
    options = ("--source", "qemu", "--profile", "2.9", "--json", str(report))
    done = command("run", "scenarios/bad_magic.yaml", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    (result,) = json.loads(report.read_text())["results"]
    assert result["source"]["kind"] == "qemu"
    machine = "pc-i440fx-2.9"
    told = {"kind": "model", "profile": "2.9", "version": "2.9.0", "machine": machine}
    assert result["destination"] == told
    assert result["repeat"].endswith("--seed 1 --source qemu --profile 2.9")


def test_a_run_leaves_its_files_where_it_is_told_to(tmp_path: Path) -> None:
    done = command(
        "run",
        "scenarios/rarp_ok.yaml",
        *("--out", str(tmp_path / "runs")),
        *("--junit", str(tmp_path / "junit.xml")),
        *("--json", str(tmp_path / "results.json")),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "runs" / "rarp_ok"
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "log.jsonl",
        "guest-network.pcap",
        "scenario.json",
        "scenario.yaml",
        "source.stderr",
        "destination.stderr",
    }
    announcements = [
        event
        for event in map(json.loads, (folder / "log.jsonl").read_text().splitlines())
        if event["kind"] == "frame" and event["facts"]["port"] == "destination"
    ]
    assert len(announcements) == 5
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    assert [result["outcome"] for result in results] == ["passed"]
    assert 'failures="0"' in (tmp_path / "junit.xml").read_text()


FAULT_THAT_NEVER_STRIKES = """
name: never
description: A fault for a device that is not there.
mode: precopy
capabilities: {return-path: true}
faults:
  - at: {section: "*/no-such-device", kind: full}
    do: delete
expect:
  verdict: completed
"""


def test_a_fault_that_never_struck_fails_its_scenario(tmp_path: Path) -> None:
    path = tmp_path / "never.yaml"
    path.write_text(FAULT_THAT_NEVER_STRIKES)
    done = command("run", str(path))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "fault 1 (fault_1) never fired: no section */no-such-device of kind full passed" in (
        done.stdout
    )
    assert "the stream had START ram" in done.stdout


PAUSE_THAT_NEVER_COMES = """
description: The fault that is to pause the migration is for a page that there is not.
mode: postcopy
guest: {memory: 32M, working_set: 4M}
faults:
  - at: {block: pc.ram, page_record: 150000, field: data}
    do: reset
steps:
  - wait_for_guest
  - migrate
  - start_postcopy
  - wait: {source: postcopy-paused, within: 1s}
expect: {verdict: completed}
"""


@pytest.mark.parametrize("options", [(), ("--endpoint", "qemu")], ids=["model", "QEMU"])
def test_a_wait_that_is_not_met_passes_nothing(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Both sides have completed by then; what is told first is the fault that never struck."""
    path, junit = tmp_path / "it.yaml", tmp_path / "junit.xml"
    path.write_text(PAUSE_THAT_NEVER_COMES)
    done = command("run", path, "--junit", junit, *options)
    assert done.returncode == 1, done.stdout + done.stderr
    told = done.stdout[done.stdout.index("FAILED ") :].splitlines()
    assert told[0].endswith(" hang")
    assert told[1].startswith("    fault 1 (fault_1) never fired: no page record 150000 of pc.ram ")
    assert told[2].strip() == "waited 1 s for the source to be postcopy-paused"
    failure = ET.parse(junit).getroot().find("testsuite/testcase/failure")
    assert failure is not None
    assert failure.get("message", "").startswith("fault 1 (fault_1) never fired: ")


def test_a_run_whose_wait_is_not_met_does_not_pass(tmp_path: Path) -> None:
    path = tmp_path / "it.yaml"
    path.write_text(
        "description: it waits for what does not come\nmode: precopy\n"
        "steps: [wait_for_guest, migrate, {wait: {source: failed, within: 1s}}]\n"
        "expect: {verdict: completed}\n"
    )
    done = command("run", path)
    assert done.returncode == 1, done.stdout + done.stderr


LATE_ANNOUNCEMENTS = """
name: late
description: Every announcement comes 600 ms late, and nobody has said how long to wait.
mode: precopy
capabilities: {return-path: true}
guest: {working_set: 1M}
network:
  probe: {every: 5ms}
  announce: {delay: {all: 600ms}}
expect:
  verdict: completed
  announce: {count: 5, mac: guest, layout: qemu}
  forwarding: {before: source, after: destination}
  outage: {min: 500ms, max: 1500ms}
"""


def test_a_run_lasts_until_what_it_expects_of_the_network_is_decided(tmp_path: Path) -> None:
    path = tmp_path / "late.yaml"
    path.write_text(LATE_ANNOUNCEMENTS)
    passes(path, ())


AWAY = """
name: away
description: The destination refuses the CPU. If the source hears of it, the guest goes on there.
mode: precopy
capabilities: {return-path: HEARS}
guest: {working_set: 1M}
network: {probe: {every: 5ms}}
faults: [{at: {section: cpu, kind: full, part: footer, field: mark}, do: {set: 0x7d}}]
expect: {verdict: VERDICT, outage: {OUTAGE}}
"""


@pytest.mark.parametrize(
    ("hears", "verdict", "outage"),
    [
        ("true", "failed-clean", "max: 100ms"),  # frames never led elsewhere
        ("false", "guest-lost, known_outcome: nobody runs it", "min: 600ms"),  # and will not
    ],
    ids=["failed clean", "lost"],
)
def test_an_outage_is_of_the_guest_wherever_it_is(
    tmp_path: Path, hears: str, verdict: str, outage: str
) -> None:
    path = tmp_path / "away.yaml"
    text = AWAY.replace("HEARS", hears).replace("VERDICT", verdict).replace("OUTAGE", outage)
    path.write_text(text)
    passes(path, ())


def test_a_qemu_that_is_not_there_is_one_clear_sentence_and_status_3() -> None:
    done = command("run", "scenarios/precopy_ok.yaml", "--source-qemu", "/nowhere/qemu")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "/nowhere/qemu is not there" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


NOT_KNOWN = """\
description: it asks for something that the endpoints do not have
mode: precopy
{asks}
expect: {{verdict: completed}}
"""


@pytest.mark.parametrize("options", [(), ("--endpoint", "qemu")], ids=["model", "QEMU"])
@pytest.mark.parametrize(
    ("asks", "outcome", "status", "said"),
    [
        ("guest: {devices: [no-such-device]}", "invalid", 2, "'no-such-device' is not a valid de"),
        ("capabilities: {switchover-ack: true}", "invalid", 2, "no capability 'switchover-ack'"),
        (
            "capabilities: {switchover-ack: true}\nrequires: {capabilities: [switchover-ack]}",
            "skipped",
            3,
            "no capability 'switchover-ack'",
        ),
        ("parameters: {cpr-exec-command: [a]}", "invalid", 2, "'cpr-exec-command' is unexpected"),
    ],
)
def test_what_the_endpoints_do_not_know_is_a_mistake_unless_it_is_required(
    tmp_path: Path, options: tuple[str, ...], asks: str, outcome: str, status: int, said: str
) -> None:
    path, junit = tmp_path / "it.yaml", tmp_path / "junit.xml"
    path.write_text(NOT_KNOWN.format(asks=asks))
    done = command("run", path, "--junit", junit, *options)
    assert done.returncode == status, done.stdout + done.stderr
    assert f"1 {outcome}" in done.stdout
    told = ET.parse(junit).getroot().find("testsuite/testcase/*")
    assert told is not None
    assert told.tag == ("error" if outcome == "invalid" else "skipped")
    assert said in told.get("message", "")


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGKILL], ids=lambda by: by.name)
def test_a_run_that_is_ended_leaves_no_process_and_no_green_report(
    tmp_path: Path, by: signal.Signals
) -> None:
    files = [f"scenarios/{name}.yaml" for name in ("link_blackhole", "precopy_ok")]
    junit = tmp_path / "junit.xml"
    running = subprocess.Popen(
        [
            *(sys.executable, "-m", "testbed", "run", *files),
            *("--out", str(tmp_path / "out"), "--junit", str(junit)),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    pids = wait_for_endpoints(tmp_path / "out" / "link_blackhole" / "log.jsonl")
    guard = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    running.send_signal(by)
    output, _ = running.communicate(timeout=10)
    if by is signal.SIGINT:
        assert running.returncode == 130, output
        assert "interrupted" in output
    assert len(pids) == 2
    wait_until(lambda: not [pid for pid in guard if Path(f"/proc/{pid}").exists()])
    cases = ET.parse(junit).getroot().iter("testcase")
    said = {case.get("name"): [child.tag for child in case] for case in cases}
    assert said == {"link_blackhole": ["error"], "precopy_ok": ["skipped"]}


def wait_for_endpoints(path: Path) -> list[int]:
    """Wait until the log tells of both endpoints; their PIDs as the run counts."""

    def started() -> list[int]:
        lines = path.read_text().splitlines() if path.exists() else []
        events = [json.loads(line) for line in lines if line.endswith("}")]
        return [each["facts"]["pid"] for each in events if each["kind"] == "process-started"]

    wait_until(lambda: len(started()) == 2)
    return started()
