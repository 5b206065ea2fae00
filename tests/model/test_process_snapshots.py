"""savevm and loadvm of a process: the guest goes on, and a kill leaves the old or the new."""

import asyncio
import random
import re

import pytest
from process_helpers import (
    BOOT,
    MODEL,
    free_port,
    holds,
    memory_report,
    runs,
    started,
)
from thoroughness import usually

from testbed.model.img import NAME, main
from testbed.model.snapshots.images import Images, create

DISK_BYTES = 1 << 20
KILLS = usually(6, thoroughly=12)
SEED = 20
WORKS_S = 0.15
"""How long a command takes: a kill comes at any moment of it."""


@pytest.fixture
def disks(tmp_path):
    """Two images; the first boots."""
    paths = tmp_path / "a.img", tmp_path / "b.img"
    for path in paths:
        create(path, DISK_BYTES)
    with Images() as images:
        images.open(paths[0]).write(0, BOOT)
    return paths


def plugged(paths):
    a, b = paths
    return (
        *("-drive", f"file={a},if=none,id=a,format=model", "-device", "ide-hd,drive=a"),
        *("-drive", f"file={b},if=none,id=b"),  # what it is its first bytes tell
    )


def tags(paths):
    """Of the snapshots, by image."""
    found = []
    with Images() as images:
        for path in paths:
            image = images.open(path, read_only=True)
            found.append({each.name: each.vm_state_bytes for each in image.snapshots()})
    return found


async def test_a_snapshot_is_gone_back_to(disks, tmp_path):
    async with started(*plugged(disks)) as one:
        await one.stamps_on()
        assert await one.hmp("savevm one") == ""
        saved = one.stamps
        await one.stamps_on()
        assert one.stamps > saved
        assert await one.hmp("savevm two") == ""
        listed = await one.hmp("info snapshots")
        assert "List of snapshots present on all disks:" in listed
        assert re.search(r"--\s+one\s.*\r\n--\s+two\s", listed)
        one.serial.clear()
        assert await one.hmp("loadvm one") == ""
        await one.until(lambda: one.stamps > 0, "stamps")
        await one.stamps_on()
        assert await one.run_state() == "running"
        assert one.names() == ["STOP", "RESUME"] * 3  # each command stops it for a while
        assert memory_report(await holds(one, tmp_path / "held")).intact
        assert await one.hmp("delvm one") == ""
        assert "one" not in await one.hmp("info snapshots")
        assert await one.hmp("loadvm one") == (
            "Error: Snapshot 'one' does not exist in one or more devices\r\n"
        )


async def test_a_process_begins_with_a_snapshot(disks, tmp_path):
    async with started(*plugged(disks)) as one:
        await one.stamps_on()
        assert await one.hmp("savevm one") == ""
        saved = one.stamps
    async with started(*plugged(disks), "-loadvm", "one") as other:
        await other.stamps_on()
        assert "guest started" not in other.serial
        assert await other.run_state() == "running"
        report = memory_report(await holds(other, tmp_path / "held"))
        assert report.intact
        assert report.stamps >= saved
    async with started(*plugged(disks), "-loadvm", "one", "-S") as waiting:
        assert await waiting.run_state() == "prelaunch"
        await waiting.execute("cont")
        await waiting.stamps_on()


async def test_a_snapshot_migrates(disks, tmp_path):
    async with started(*plugged(disks)) as one:
        await one.stamps_on()
        await one.hmp("savevm one")
    async with started(*plugged(disks), "-loadvm", "one") as source:
        async with started("-incoming", "defer") as destination:
            uri = f"tcp:127.0.0.1:{free_port()}"
            await destination.execute("migrate-incoming", uri=uri)
            await source.execute("migrate", uri=uri)
            await destination.has("completed")
            await destination.stamps_on()
            assert memory_report(await holds(destination, tmp_path / "held")).intact


async def test_a_snapshot_that_there_is_not_is_the_end(disks):
    status, out, lines = await runs(["-display", "none", *plugged(disks), "-loadvm", "none"])
    assert (status, out) == (1, "")
    assert lines == ["qemu-model: Snapshot 'none' does not exist in one or more devices"]


async def test_a_disk_in_use_is_refused(disks):
    async with started(*plugged(disks)):
        status, _, lines = await runs(["-display", "none", *plugged(disks)])
    assert status == 1
    assert 'Failed to get "write" lock' in lines[0]


@pytest.mark.parametrize("does", ["savevm", "loadvm", "delvm"])
async def test_killed_in_the_middle_it_leaves_the_old_or_the_new(disks, tmp_path, does):
    """In all images the same, whole, and good for another start."""
    chance = random.Random(SEED)
    async with started(*plugged(disks)) as one:
        await one.stamps_on()
        assert await one.hmp("savevm one") == ""
    for _ in range(KILLS // 3):
        before = tags(disks)
        async with started(*plugged(disks), "-loadvm", "one") as one:
            name = "one" if does == "loadvm" else "two"
            if does == "delvm":
                await one.hmp("savevm two")
                before = [{**each, "two": None} for each in before]
            one.give(does, name)
            await asyncio.sleep(chance.uniform(0, WORKS_S))
            one.process.kill()
        after = tags(disks)
        assert [set(each) for each in after] in (
            [set(each) for each in before],
            [set(each) | {"two"} for each in before] if does == "savevm" else None,
            [set(each) - {"two"} for each in before] if does == "delvm" else None,
        )
        assert after[0].keys() == after[1].keys()
        for name in after[0]:
            async with started(*plugged(disks), "-loadvm", name, "-S") as again:
                report = memory_report(await holds(again, tmp_path / "held"))
                assert report.intact


# What makes images, and shows them


async def test_images_are_made_and_shown(tmp_path):
    path = tmp_path / "disk.img"
    img = {"program": (*MODEL[:2], "testbed.model.img")}
    status, out, err = await runs(["create", str(path), "1.5M"], **img)
    assert (status, err) == (0, [])
    assert out == f"Formatting '{path}', fmt=model size=1572864\n"
    status, out, _ = await runs(["create", str(path), "1M"], **img)
    assert (status, out) == (1, "")
    async with started("-drive", f"file={path},if=none") as one:
        assert await one.hmp("savevm kept") == ""
        status, _, err = await runs(["info", str(path)], **img)
        assert status == 1
        assert "Is another process using the image" in "".join(err)
    status, out, err = await runs(["info", str(path)], **img)
    assert status == 0
    assert re.fullmatch(
        rf"image: {path}\nfile format: model\nvirtual size: 1\.5 MiB \(1572864 bytes\)\n"
        r"disk size: [\d.]+ [KM]iB\nSnapshot list:\nID +TAG.*\n1 +kept .*\n",
        out,
    )
    status, shown, _ = await runs(["snapshot", "-l", str(path)], **img)
    assert status == 0
    assert out.endswith(shown)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["create", "{}/a", "foo"], f"{NAME}: Invalid image size specified. "),
        (["create", "{}/none/a", "1M"], f"{NAME}: Could not create '"),
        (["info", "{}/none"], f"{NAME}: Could not open '"),
        (["info", "/dev/null"], f"{NAME}: 'file' driver requires '/dev/null' to be a regular file"),
        (["snapshot", "{}"], f"usage: {NAME} create FILE SIZE"),
        ([], f"usage: {NAME} create FILE SIZE"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(arguments, text, tmp_path, capsys):
    assert main([each.format(tmp_path) for each in arguments]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(text)


def test_help_is_told(capsys):
    assert main(["--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: ")
