"""What a destination says of its loading, in the lines of each QEMU."""

import pytest

from testbed.endpoint import trace
from testbed.endpoint.trace import LINES_MAX, PARTS_MAX, Loading
from testbed.log import EVENTS_MAX


def begun(section, instance, version, section_id):
    facts = {"section": section, "kind": "start or full", "instance": instance}
    return "section-loaded", {**facts, "version": version, "section_id": section_id}


def later(section, instance, section_id):
    facts = {"section": section, "kind": "part or end", "instance": instance}
    return "section-loaded", {**facts, "section_id": section_id}


def command(name, length):
    return "command-loaded", {"command": name, "length": length}


SAID = {
    "5.2": [
        "4@1796102618.026789:qemu_loadvm_state_section_command 0",
        "4@1796102618.026760:loadvm_process_command com=0x1 len=0",
        "4@1796102618.026801:loadvm_process_command_ping 0x1",
        "4@1796102618.026825:qemu_loadvm_state_section_startfull 2(ram) 0 4",
        "4@1796102618.026853:qemu_loadvm_state_section_partend 2",
        "4@1796102618.146717:qemu_loadvm_state_section_startfull 40(0000:00:02.0/virtio-net) 0 11",
    ],
    "7.2, 10.0 and 11.1": [
        "qemu_loadvm_state_section_command 0",
        "loadvm_process_command com=OPEN_RETURN_PATH len=0",
        "loadvm_process_command_ping 0x1",
        "qemu_loadvm_state_section_startfull 2(ram) 0 4",
        "qemu_loadvm_state_section_partend 2",
        "qemu_loadvm_state_section_startfull 40(0000:00:02.0/virtio-net) 0 11",
    ],
}
"""As they were recorded."""


@pytest.mark.parametrize("lines", SAID.values(), ids=SAID)
def test_the_lines_of_each_version_make_the_same_events(lines) -> None:
    loading = Loading()
    told = []
    for line in lines:
        before, events = loading.read(line)
        assert before == ""
        told += events
    assert told == [
        command("OPEN_RETURN_PATH", 0),
        begun("ram", 0, 4, 2),
        later("ram", 0, 2),
        begun("0000:00:02.0/virtio-net", 0, 11, 40),
    ]
    assert loading.is_traced
    assert loading.counts() == {"ram 0": 1}


@pytest.mark.parametrize(
    "line",
    [
        "",
        "qemu-system-x86_64: load of migration failed: Invalid argument",
        "qemu-system-x86_64: loadvm_handle_recv_bitmap: block 'x' not found",
        "qemu-system-x86_64: qemu_loadvm_section_part_end: Failed to read section ID: -5",
        "qemu_loadvm_state_section_startfull 2(ram) 0",
        "qemu_loadvm_state_section_startfull 2(ram) 0 4 and more",
        "loadvm_process_command com=PING",
    ],
)
def test_other_lines_are_not_of_the_trace(line) -> None:
    loading = Loading()
    assert loading.read(line) is None
    assert not loading.is_traced


def test_a_trace_line_within_a_message_is_told_apart_from_it() -> None:
    before, events = Loading().read(
        "qemu-system-x86_64: qemu_loadvm_state_section_startfull 3(a) 0 1"
    )
    assert (before, events) == ("qemu-system-x86_64: ", [begun("a", 0, 1, 3)])


@pytest.mark.parametrize(
    ("said", "name"),
    [("0x5", "POSTCOPY_RUN"), ("0x77", "0x77"), ("PACKAGED", "PACKAGED"), ("(null)", "(null)")],
)
def test_a_command_has_its_name(said, name) -> None:
    _, events = Loading().read(f"loadvm_process_command com={said} len=4")
    assert events == [command(name, 4)]


def test_a_section_whose_beginning_was_not_told_goes_by_its_number() -> None:
    loading = Loading()
    assert loading.read("qemu_loadvm_state_section_partend 9") == ("", [later(None, None, 9)])
    assert loading.counts() == {"section 9": 1}


def test_parts_are_counted_and_only_the_first_are_told() -> None:
    loading = Loading()
    loading.read("qemu_loadvm_state_section_startfull 2(ram) 0 4")
    told = [loading.read("qemu_loadvm_state_section_partend 2")[1] for _ in range(1000)]
    assert sum(map(len, told)) == PARTS_MAX
    assert loading.counts() == {"ram 0": 1000}
    assert not loading.is_cut


def test_a_stream_of_sections_without_end_does_not_fill_the_log(monkeypatch) -> None:
    assert LINES_MAX < EVENTS_MAX / 2
    monkeypatch.setattr(trace, "LINES_MAX", 5)
    monkeypatch.setattr(trace, "SECTION_IDS_MAX", 3)
    loading = Loading()
    said = [f"qemu_loadvm_state_section_startfull {n}(a) 0 1" for n in range(9)]
    assert sum(len(loading.read(line)[1]) for line in said) == 5
    assert loading.is_cut
    for number in range(9):
        loading.read(f"qemu_loadvm_state_section_partend {number}")
    assert len(loading.parts) == 3
