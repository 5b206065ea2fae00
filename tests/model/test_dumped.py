"""`-dump-vmstate`: what QEMU's static checker would compare of ours and of a real one's."""

import json
import subprocess

import pytest
from process_helpers import REAL

from testbed.model.process.main import main

MACHINES = ("pc-i440fx-7.2", "pc-q35-7.2")
OPTIONS = ("-display", "none", "-nodefaults", "-device", "virtio-net-pci")
SIZES_OF_OBJECTS = {
    ("Fifo8", "data"): "as long as it is made",
    ("virtio-net", "virtio"): "an Info of QEMU's, without a size",
    ("PCIDevice", "config"): "two fields there, one of them for PCI Express",
}
"""By VMSD and field: why the sizes of what is no structure differ."""


def ours(machine, path):
    assert main(["-M", machine, *OPTIONS, "-dump-vmstate", str(path)]) == 0
    return json.loads(path.read_text())


@pytest.fixture(params=MACHINES)
def machine(request):
    return request.param


@pytest.fixture
def dump(machine, tmp_path):
    return ours(machine, tmp_path / "ours")


def descriptions(described):
    """It, and all that are in it."""
    yield described
    for each in (*described.get("Fields", ()), *described.get("Subsections", ())):
        if "Description" in each:
            yield from descriptions(each["Description"])
        elif "Fields" in each:
            yield from descriptions(each)


def test_it_names_the_machine_and_has_what_a_checker_reads(machine, dump):
    assert dump.pop("vmschkmachine") == {"Name": machine}
    assert len(dump) > 15
    for name, device in dump.items():
        assert device["Name"] == name
        assert device["version_id"] >= device["minimum_version_id"]
        for described in descriptions(device["Description"]):
            assert described["version_id"] >= described["minimum_version_id"]
            for field in described.get("Fields", ()):
                assert field.keys() >= {"field", "version_id", "field_exists", "size"}


def test_two_dumps_are_the_same(machine, dump, tmp_path):
    assert ours(machine, tmp_path / "again") == dump


def test_a_dump_may_go_to_standard_output(machine, dump, capsys):
    assert main(["-M", machine, *OPTIONS, "-dump-vmstate", "-"]) == 0
    assert json.loads(capsys.readouterr().out) == dump


@pytest.mark.live
def test_each_device_is_one_of_a_real_one_field_by_field(machine, dump, tmp_path):
    path = tmp_path / "real"
    command = [*REAL, "-M", machine, *OPTIONS, "-dump-vmstate", str(path)]
    subprocess.run(command, check=True, timeout=60, capture_output=True)
    real = json.loads(path.read_text())
    assert dump.pop("vmschkmachine") == real["vmschkmachine"]
    compared = 0
    for name, device in dump.items():
        theirs = real[name]
        assert device["version_id"] == theirs["version_id"], name
        # What is known of older versions is not all that QEMU knows.
        assert device["minimum_version_id"] >= theirs["minimum_version_id"], name
        compared += _compare(device["Description"], theirs["Description"])
    assert compared > 150


def _compare(one, other):
    """How many fields were found there, of the same size."""
    assert (one["name"], one["version_id"]) == (other["name"], other["version_id"])
    theirs = {}
    for field in other.get("Fields", ()):
        theirs.setdefault(field["field"], []).append(field)
    compared = 0
    for field in one.get("Fields", ()):
        same = theirs.get(field["field"], ())
        if not same:
            assert one["name"] == "piix4_pm", field  # the name depends on a property
            continue
        compared += 1
        if "Description" in field:
            compared += _compare(field["Description"], same[0]["Description"])
        elif (one["name"], field["field"]) not in SIZES_OF_OBJECTS:
            assert field["size"] in {each["size"] for each in same}, (one["name"], field)
    return compared


def test_without_a_file_it_is_said(capsys):
    assert main(["-M", "q35", "--dump-vmstate"]) == 0
    assert json.loads(capsys.readouterr().out)["vmschkmachine"] == {"Name": "pc-q35-7.2"}
