"""Files that are never written through a link."""

import os
import re
from pathlib import Path

import pytest

from testbed.files import new_text_file, plain_file


@pytest.mark.parametrize("leads", ["to a file", "nowhere"])
def test_a_link_is_not_followed(tmp_path: Path, leads: str) -> None:
    other, link = tmp_path / "other", tmp_path / "it"
    if leads == "to a file":
        other.write_text("precious")
    link.symlink_to(other)
    with pytest.raises(FileExistsError):
        new_text_file(link)
    with pytest.raises(OSError, match=f"a symbolic link, .*{re.escape(str(link))}"):
        plain_file(link, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    assert other.exists() == (leads == "to a file")
    assert not other.exists() or other.read_text() == "precious"


def test_a_new_file_is_one_that_was_not_there(tmp_path: Path) -> None:
    with new_text_file(tmp_path / "it") as file:
        file.write("\u00e9")
    assert (tmp_path / "it").read_bytes() == b"\xc3\xa9"
    with pytest.raises(FileExistsError):
        new_text_file(tmp_path / "it")


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "it")
    with pytest.raises(OSError, match="something else than a file is there"):
        plain_file(tmp_path / "it", os.O_RDWR | os.O_CREAT)
