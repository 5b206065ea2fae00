"""A NIC's option ROM is memory that comes along, and a model has a place for it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from command_helpers import command

from testbed.model.machines.machine import Nic, build
from testbed.model.profile import PROFILES

MACHINE = ("-m", "16", "-nodefaults", "-serial", "null", "-device", "virtio-net-pci")
"""As the README has it."""


@pytest.mark.parametrize(
    ("machine", "slot", "before"), [("pc", 2, "pc.bios"), ("q35", 1, "pc.bios")]
)
def test_it_stands_where_qemu_has_it(machine: str, slot: int, before: str) -> None:
    for profile in PROFILES.values():
        made = build(profile, machine, 16 << 20, nics=[Nic("52:54:00:12:34:56", rom=True)])
        names = [block.idstr for block in made.memory]
        rom = f"0000:00:{slot:02x}.0/virtio-net-pci.rom"
        assert names[names.index(rom) - 1] == before
        assert {block.idstr: block.used_bytes for block in made.memory}[rom] == 256 << 10


@pytest.mark.live
def test_a_stream_of_a_machine_that_has_one_is_taken_by_a_model(tmp_path: Path) -> None:
    stream = tmp_path / "vm.stream"
    with subprocess.Popen(
        ["qemu-system-x86_64", *MACHINE, "-display", "none", "-qmp", "stdio"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as qemu:
        assert qemu.stdin is not None
        assert qemu.stdout is not None
        events = {"capability": "events", "state": True}
        for name, arguments in (
            ("qmp_capabilities", {}),
            ("migrate-set-capabilities", {"capabilities": [events]}),
            ("migrate", {"uri": f"exec:cat > {stream}"}),
        ):
            qemu.stdin.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
        qemu.stdin.flush()
        try:
            said = map(json.loads, qemu.stdout)
            assert any(each.get("data") == {"status": "completed"} for each in said)
        finally:
            qemu.kill()
    done = command("replay", stream, "--model", "--", *MACHINE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "accepted: completed" in done.stdout
    without = command("replay", stream, "--model", "--", *MACHINE[:-1], "virtio-net-pci,romfile=")
    assert without.returncode == 1
    assert 'Unknown ramblock "0000:00:02.0/virtio-net-pci.rom"' in without.stdout
