"""Each run has a folder of its own, and what was there before stays."""

from pathlib import Path

import pytest

from testbed.scenario.folders import FolderTaken, run_folders


@pytest.mark.parametrize(
    ("names", "folders"),
    [
        (["a", "b"], ["a", "b"]),
        (["a", "a"], ["a.1", "a.2"]),
        (["a", "b", "a", "b"], ["a.1", "b.1", "a.2", "b.2"]),
        (["a.1", "a", "a"], ["a.1", "a.2", "a.3"]),
        (["a", "a", "a.2"], ["a.1", "a.3", "a.2"]),
        ([".."], ["scenario"]),
    ],
)
def test_no_two_runs_have_one_folder(tmp_path: Path, names: list[str], folders: list[str]) -> None:
    assert run_folders(tmp_path, names) == [tmp_path / folder for folder in folders]


def test_an_earlier_run_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert run_folders(tmp_path, ["a"]) == [tmp_path / "a"]  # it is empty
    (tmp_path / "a" / "log.jsonl").write_text("")
    with pytest.raises(FolderTaken, match=r"/a: an earlier run's files are there"):
        run_folders(tmp_path, ["b", "a"])


def test_a_link_or_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "b").write_text("")
    with pytest.raises(FolderTaken, match="/a: a symbolic link, which is not followed"):
        run_folders(tmp_path, ["a"])
    with pytest.raises(FolderTaken, match="/b: cannot be used: Not a directory"):
        run_folders(tmp_path, ["b"])
