"""A process of the model between two real QEMUs, as an operator puts it there."""

import pytest
from process_helpers import BOOT, REAL, holds, memory_report, started

pytestmark = pytest.mark.live

DEVICES = ("-device", "virtio-rng-pci", "-device", "virtio-net-pci,romfile=")


async def moves(source, destination):
    uri = "tcp:127.0.0.1:0"
    await destination.execute("migrate-incoming", uri=uri)
    (address,) = (await destination.execute("query-migrate"))["socket-address"]
    await source.execute("migrate", uri=f"tcp:127.0.0.1:{address['port']}")
    assert await source.has("completed", "failed") == "completed"
    assert await destination.has("completed", "failed") == "completed"


@pytest.mark.parametrize("machine", ["pc", "q35"])
async def test_a_guest_of_other_devices_goes_through_it(machine, tmp_path):
    real = ("-M", machine, *DEVICES)
    async with (
        started(*real, program=REAL, boot=BOOT, capabilities=("events", "return-path")) as first,
        started(
            *("-M", "none", "-S", "-incoming", "defer"), capabilities=("events", "return-path")
        ) as relay,
        started(
            *(*real, "-incoming", "defer"),
            program=REAL,
            boot=BOOT,
            capabilities=("events", "return-path"),
        ) as last,
    ):
        await first.until(lambda: first.stamps > 0, "stamps")
        await moves(first, relay)
        assert await relay.run_state() == "paused"
        relay.forget()
        await moves(relay, last)
        await last.execute("cont")
        await last.stamps_on()
        assert last.stamps > first.stamps
        assert relay.said == []
        report = memory_report(await holds(last, tmp_path / "memory"))
        assert report.intact, report
