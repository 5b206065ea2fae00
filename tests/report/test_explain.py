"""`testbed explain`: the library in plain words, some of it in full."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.report.explain import Line, explained, explained_faults, wrapped
from testbed.report.undertakings import network_words, step_words
from testbed.scenario import schema
from testbed.scenario.faults_file import load_faults
from testbed.scenario.load import find, load
from testbed.scenario.network import Network

LIBRARY = Path(__file__).parents[2] / "scenarios"


def texts(lines: list[Line], title: str) -> list[str]:
    """The lines of a section."""
    start = next(at for at, line in enumerate(lines) if line == Line(0, title)) + 1
    ends = [at for at, line in enumerate(lines) if line.level == 0 and at >= start]
    return [f"{line.mark}{line.text}" for line in lines[start : min(ends, default=len(lines))]]


@pytest.mark.parametrize("path", find([LIBRARY]), ids=lambda path: path.stem)
def test_every_scenario_of_the_library_is_explained(path: Path) -> None:
    scenario = load(path)
    lines = list(explained(scenario))
    wrong = texts(lines, "What goes wrong")
    for fault in scenario.faults:
        assert any(text.startswith(f"- {fault.name}: ") for text in wrong)
    done = texts(lines, "What is done")
    assert len(done) == len(scenario.steps) + 1
    must = texts(lines, "What must come of it")
    assert must[0].startswith(f"- the verdict {scenario.model.expect.verdict}: ")
    assert sum(line.level == 0 for line in lines) == 7 + len(scenario.variants)
    assert all(len(text) <= 100 for text in wrapped(lines) if " " in text.strip("- "))


SCENARIO = """\
description: A footer
  that is wrong.
mode: precopy
requires: {qemu: ">=7.2", endpoint: qemu}
seed: 7
guest: {cpus: 2, working_set: 32M, pages_per_second: 5000, devices: [edu], arguments: [-k, fr be]}
destination: {machine: q35, paused: true}
capabilities: {return-path: true, multifd: false}
parameters: {max-bandwidth: 16M}
faults:
  - name: damage
    at: {section: cpu, kind: full, part: footer, field: mark}
    do: {set: 0x7d}
  - at: {block: pc.ram, passed: 1M}
    do: {latency: {delay: 50ms, jitter: 10ms, toward: destination}}
    when: {until: {element: eof}}
network: {probe: {every: 5ms}, announce: {drop: [1, 2]}}
steps:
  - wait_for_guest: {passes: 2}
  - migrate
  - wait: {source: [completed, failed], destination_exit: 1, within: 3s, on_expiry: cancel}
  - retry
  - settle: 1s
  - check_device_state
expect:
  verdict: split-brain
  known_outcome: so it
    is
  source: {status: failed, exit: running, error: null}
  destination: {exit: 1, stderr: [Missing, {"<10": old, ">=10": null}], no_stderr: panic}
  running: both
  device_state: equal
  retry: completed
  wire:
    - {section: ram, kind: part, count: {min: 2, max: 5}}
    - {command: PING, count: 0}
  announce: {count: 3, mac: guest, layout: qemu, schedule: [0ms, 50ms], tolerance: 40ms}
  forwarding: {before: source}
  outage: {min: 400ms, max: 1s}
variants:
  - when: {source: "<10", destination: ">=10"}
    capabilities: {return-path: null, multifd: true}
    parameters: {max-bandwidth: 32M}
    expect: {verdict: failed-clean, known_outcome: null, wire: null, announce: null, outage: null}
"""
EXPLAINED = """\
it: precopy
  A footer that is wrong.
Who takes part
  - the guest: machine pc, 2 CPUs, virtio-net-pci with MAC 52:54:00:12:34:56; it has 64 MiB of
    memory, and stamps 32 MiB of it over and over, 5000 pages a second
  - source and destination: real QEMUs; a proxy is between them
  - the destination otherwise: machine q35
  - the destination never starts the guest (-S)
  - on both sides: return-path on, multifd off, max-bandwidth 16M
  - a client that probes the guest's MAC every 5 ms
What a QEMU is started with
  - source: qemu-system-x86_64 -nodefaults -no-user-config -display none -accel tcg -M pc -m
    size=67108864B -smp 2 -chardev socket,id=qmp,fd=3 -mon chardev=qmp,mode=control -chardev
    socket,id=serial,fd=4 -serial chardev:serial -add-fd set=1,fd=5 -add-fd set=1,fd=6 -drive
    if=none,id=boot,format=raw,file.locking=off,file.filename=/dev/fdset/1 -device
    ide-hd,drive=boot,bus=ide.0,bootindex=0 -netdev tap,id=net0,fd=7 -device
    virtio-net-pci,id=nic0,netdev=net0,mac=52:54:00:12:34:56,romfile= -device edu -k 'fr be'
  - destination: qemu-system-x86_64 -nodefaults -no-user-config -display none -accel tcg -M q35 -m
    size=67108864B -smp 2 -chardev socket,id=qmp,fd=3 -mon chardev=qmp,mode=control -chardev
    socket,id=serial,fd=4 -serial chardev:serial -add-fd set=1,fd=5 -add-fd set=1,fd=6 -drive
    if=none,id=boot,format=raw,file.locking=off,file.filename=/dev/fdset/1 -device
    ide-hd,drive=boot,bus=ide.0,bootindex=0 -netdev tap,id=net0,fd=7 -device
    virtio-net-pci,id=nic0,netdev=net0,mac=52:54:00:12:34:56,romfile= -device edu -k 'fr be' -S
    -trace 'qemu_loadvm_state_section_*' -trace 'loadvm_process_command*' -incoming defer
  - the destination of the retry: as the source, with the destination's last arguments (-trace,
    -incoming)
  A model takes the same. Descriptors (fd=) have other numbers; an alias such as pc is the newest
  machine that both sides have, if --machine names no other; the accelerator is kvm where that
  works, or as --accel says. --untrusted adds -sandbox
  on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny, and allows no arguments
  of the scenario's own.
What is done
  1. Wait until the guest has filled its working set, and gone over it 2 times, for 30 s at most.
  2. Let the switch learn the guest's MAC at the source, and migrate.
  3. Wait until the source is completed or failed and the destination's process has ended with 1,
     for 3 s at most; after that, cancel.
  4. Start a new destination and migrate to it; both must settle within 20 s.
  5. Watch for another 1 s.
  6. Save the destination, and compare its devices with what the source sent.
  The whole run ends within 120 s.
What goes wrong
  - damage: At the field mark of the footer of the first FULL section of cpu: write 0x7d over it.
  - fault_2: As the page record with which 1 MiB of pc.ram have passed begins, as long as the EOF
    byte has not come: have everything toward the destination come 50 ms later, up to 10 ms more or
    less.
  - what is left to chance is drawn from seed 7 (--seed)
  - the first and the 2nd announcements are lost
What must come of it
  - the verdict split-brain: both sides run the guest
  - this is known: so it is
  - the source: status failed; its process is there; no error-desc
  - the destination: its process has ended with 1; stderr has `Missing`, then `old` (QEMU <10) or
    nothing (QEMU >=10); stderr has nothing like `panic`
  - both sides run the guest
  - the destination's device state is what the source sent
  - a second migration to a new destination completes
  - on the wire: PART sections of ram, 2 to 5 times; the command PING, never
  - the guest is announced: 3 times; as itself; in QEMU's layout; at 0 ms, 50 ms, give or take 40 ms
  - the switch has the guest's MAC before the migration at the source
  - frames for the guest go astray for 400 ms at least and 1 s at most
  - every fault has struck
If the source is QEMU <10 and the destination is QEMU >=10
  - on both sides: return-path not set, multifd on, max-bandwidth 32M
  - must come of it instead:
    - the verdict failed-clean: the source runs on, the destination never ran
    - the source: status failed; its process is there; no error-desc
    - the destination: its process has ended with 1; stderr has `Missing`, then `old` (QEMU <10) or
      nothing (QEMU >=10); stderr has nothing like `panic`
    - both sides run the guest
    - the destination's device state is what the source sent
    - a second migration to a new destination completes
    - the switch has the guest's MAC before the migration at the source
    - every fault has struck
    - the guest never ran on both sides at once
What it needs
  - root, or user namespaces that this system allows (`testbed doctor` tries it)
  - QEMU >=7.2 on both sides
  - real QEMUs on both sides: --endpoint qemu
"""


def test_a_scenario_in_full(tmp_path: Path) -> None:
    path = tmp_path / "it.yaml"
    path.write_text(SCENARIO)
    assert "\n".join(wrapped(explained(load(path)))) == EXPLAINED.rstrip("\n")


FAULTS = """\
description: two of them
faults:
  - {name: cut, at: {section: ram, kind: end}, do: truncate, when: {chance: 50%}}
  - {at: {connection: 2}, do: refuse, attempt: every}
"""


FAULTS_EXPLAINED = """\
faults.yaml: faults for `testbed proxy` and `testbed replay`
  two of them
What goes wrong
  - cut: As the first END section of ram begins, with a chance of 50%: end the stream here (FIN) and
    drop the rest; the other direction goes on.
  - fault_2: As connection 2 of the migration comes, on every attempt: refuse it, nobody listens any
    more.
  - what is left to chance is drawn from seed 1 (--seed)
"""


def test_a_file_of_faults_in_full(tmp_path: Path) -> None:
    path = tmp_path / "faults.yaml"
    path.write_text(FAULTS)
    explanation = wrapped(explained_faults(load_faults(path)))
    assert "\n".join(explanation) == FAULTS_EXPLAINED.rstrip("\n")


STEPS = [
    (
        {"start_postcopy": {}},
        "Once the source is active, switch over to postcopy, for 20 s at most.",
    ),
    ({"wait": {}}, "Wait until both sides have settled, for 20 s at most."),
    ({"cancel": {}}, "Cancel the migration at the source."),
    ({"recover": {}}, "Recover over a new connection: migrate-recover, then migrate with resume."),
    ({"check_memory": {}}, "Stop the guest where it is, save it, and check every page that it st"),
    ({"wait": {"source_exit": -9}}, "Wait until the source's process was ended by SIGKILL, for 20"),
    ({"wait": {"source_exit": -60}}, "Wait until the source's process was ended by signal 60, for"),
    ({"wait": {"source_exit": 0, "on_expiry": "go_on"}}, "Wait until the source's process has end"),
]


@pytest.mark.parametrize(("step", "words"), STEPS, ids=[words for _, words in STEPS])
def test_a_step_in_words(step: dict[str, object], words: str) -> None:
    assert step_words(schema.StepModel.model_validate(step)).startswith(words)


def test_there_are_words_for_every_step() -> None:
    for name in schema.STEPS:
        content = {"for": "1s"} if name == "settle" else {}
        assert step_words(schema.StepModel.model_validate({name: content})).endswith(".")


def test_a_toxiproxy_server_takes_part(tmp_path: Path) -> None:
    path = tmp_path / "it.yaml"
    toxics = "[{type: latency}, {type: bandwidth, stream: upstream}]"
    server = f"toxiproxy: {{server: 'far:8474', toxics: {toxics}}}"
    expect = "expect: {verdict: completed}"
    path.write_text(f"description: it\nmode: precopy\n{server}\n{expect}\n")
    assert texts(list(explained(load(path))), "Who takes part")[-1] == (
        "- the Toxiproxy server at far:8474, with latency (downstream) and bandwidth (upstream): "
        "the connections pass through it, too"
    )


NETWORK = [
    ({"drop": "all"}, "all announcements are lost"),
    ({"drop": {"share": "50%"}}, "50% of the announcements are lost, by chance"),
    ({"delay": {2: "20ms"}}, "the 2nd announcement is 20 ms late"),
    ({"duplicate": [1]}, "the first announcement is followed by 1 copy"),
    ({"duplicate": {"all": 3}}, "every announcement is followed by 3 copies"),
    (
        {"alter": {1: {"mac": "52:54:00:aa:bb:cc"}}},
        "the first announcement is altered: its MAC is ",
    ),
    (
        {"alter": {2: {"byte": 20, "hex": "ffff"}}},
        "the 2nd announcement is altered: from byte 20 on",
    ),
    (
        {"alter": {2: {"source": "52:54:00:aa:bb:cc"}}},
        "the 2nd announcement is altered: its source is 52:54:00:aa:bb:cc",
    ),
    (
        {"forge": [{"port": "source", "before": 2}]},
        "before the 2nd announcement, a forged announcement of the guest comes in at the sour",
    ),
    (
        {"forge": [{"port": "client", "at": {"side": "destination", "event": "RESUME"}}]},
        "after the destination has reported RESUME, a forged announcement of the guest comes in",
    ),
]


@pytest.mark.parametrize(("announce", "words"), NETWORK, ids=[words for _, words in NETWORK])
def test_what_happens_to_announcements_in_words(announce: dict[str, object], words: str) -> None:
    (said,) = network_words(Network.model_validate({"announce": announce}))
    assert said.startswith(words)


def test_a_late_port_in_words() -> None:
    (said,) = network_words(Network.model_validate({"link_up": {"after": "300ms"}}))
    assert said == (
        "the destination's uplink passes nothing until 300 ms after the destination has reported "
        "RESUME"
    )
