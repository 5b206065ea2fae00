"""TLS of real QEMUs: nobody reads it, and a fault strikes between its records all the same."""

from __future__ import annotations

import asyncio
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest
from monitor_helpers import Qmp
from service_helpers import serving

from testbed.fault.plan import Channel, ElementPlace, Fault, Reset

pytestmark = pytest.mark.live

NTH = 40


def encrypted(name: str, folder: Path, stack: ExitStack) -> tuple[Qmp, subprocess.Popen[bytes]]:
    """A machine at rest that speaks TLS with a key that both sides have."""
    (folder / "keys.psk").write_text(f"qemu:{'5a' * 32}\n")
    role = "server" if name == "destination" else "client,username=qemu"
    command = ["qemu-system-x86_64", "-S", "-nodefaults", "-display", "none", "-m", "16"]
    command += ["-object", f"tls-creds-psk,id=key,dir={folder},endpoint={role}"]
    command += ["-incoming", "defer"] if name == "destination" else []
    path = folder / f"{name}.qmp"
    process = stack.enter_context(
        subprocess.Popen([*command, "-qmp", f"unix:{path},server=on,wait=off"])
    )
    stack.callback(process.kill)
    monitor = Qmp(path, process)
    stack.callback(monitor.close)
    monitor.command("migrate-set-parameters", **{"tls-creds": "key"})
    # Without a return path a source that has written everything into socket buffers is done.
    wanted = [{"capability": name, "state": True} for name in ("events", "return-path")]
    monitor.command("migrate-set-capabilities", capabilities=wanted)
    return monitor, process


def ended(monitor: Qmp) -> str:
    """What the migration came to at that side."""
    while True:
        status: str = monitor.until("MIGRATION")["data"]["status"]
        if status in ("completed", "failed"):
            return status


@pytest.mark.parametrize(("struck", "status"), [(False, "completed"), (True, "failed")])
async def test_it_passes_whole_and_is_cut_between_records(
    struck: bool, status: str, tmp_path: Path
) -> None:
    place = ElementPlace("tls-record", occurrence=NTH, channel=Channel.TLS)
    faults = [Fault(place, Reset(), "cut")] if struck else []
    with ExitStack() as stack:
        source, _ = encrypted("source", tmp_path, stack)
        destination, process = encrypted("destination", tmp_path, stack)
        async with serving(*faults) as rig:
            rig.destination.listener.close()
            port = rig.destination.address.port
            destination.command("migrate-incoming", uri=f"tcp:127.0.0.1:{port}")
            source.command("migrate", uri=f"tcp:127.0.0.1:{rig.addresses['proxy'][1]}")
            assert await asyncio.to_thread(ended, source) == status
            over = await rig.logged("migration-ended")
            assert over.facts["outcome"] == "encrypted"
            if struck:
                assert await asyncio.to_thread(process.wait, 30) == 1
                told = await rig.logged("fault-struck")
                passed = await rig.logged("connection-ended")
                assert told.facts["offset"] == passed.facts["bytes_forward"]
            else:
                assert await asyncio.to_thread(ended, destination) == status
