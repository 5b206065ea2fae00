"""What is known of devices without a recording, held against what QEMU says of them itself."""

import json
import subprocess

import pytest

from testbed.model.machines.device_facts import MINIMUM_VERSIONS, SINCE, SIZES, SUBSECTIONS

QEMU = "qemu-system-x86_64"
WITHIN_S = 60
NOT_DUMPED = {"cpu", "timer", "ide"}
"""Not devices of their own."""

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def dumped(tmp_path_factory):
    """VMSDs by name, of both machines; those of one name are one."""
    found = {}

    def walk(vmsd):
        found.setdefault(vmsd["name"], []).append(vmsd)
        for inner in (*vmsd.get("Fields", ()), *vmsd.get("Subsections", ())):
            if "Description" in inner:
                walk(inner["Description"])

    for machine in ("pc-i440fx-7.2", "pc-q35-7.2"):
        path = tmp_path_factory.mktemp("dump") / machine
        command = [QEMU, "-M", machine, "-nodefaults", "-display", "none", "-dump-vmstate", path]
        subprocess.run(command, check=True, timeout=WITHIN_S)
        for device in json.loads(path.read_text()).values():
            if "Description" in device:
                walk(device["Description"])
    return found


@pytest.mark.parametrize("name", sorted(SUBSECTIONS.keys() - NOT_DUMPED))
def test_subsections_are_those_of_qemu(name, dumped):
    vmsd = next(each for each in dumped[name] if "Subsections" in each)
    theirs = {each["name"]: each for each in vmsd["Subsections"]}
    ours = [each["vmsd_name"] for each in SUBSECTIONS[name]]
    assert ours == [each for each in theirs if each in ours], "in the order in which they are saved"
    for each in SUBSECTIONS[name]:
        their = theirs[each["vmsd_name"]]
        if "fields" not in each:
            continue
        assert each["version"] == their["version_id"]
        shown = [(field["field"], field["size"]) for field in their["Fields"]]
        for field, (known_as, size) in zip(each["fields"], shown, strict=True):
            assert field["name"] == known_as
            if field["type"] in SIZES:
                assert field["size"] == size, field["name"]


@pytest.mark.parametrize("name", sorted(MINIMUM_VERSIONS.keys() - NOT_DUMPED))
def test_the_oldest_versions_are_those_of_qemu(name, dumped):
    oldest = {vmsd["minimum_version_id"] for vmsd in dumped[name] if vmsd["version_id"]}
    assert MINIMUM_VERSIONS[name] in oldest
    since = {key[1]: version for key, version in SINCE.items() if key[0] == name}
    known = [
        {
            field["field"]: field["version_id"]
            for field in vmsd["Fields"]
            if field["version_id"] > vmsd["minimum_version_id"]
        }
        for vmsd in dumped[name]
    ]
    assert since in known
