"""A file system that cannot hold `root` is named before anything is written to it."""

from pathlib import Path

import pytest

from core.errors import StorageError
from core.filesystem import try_filesystem


def test_this_machines_disk_can_and_nothing_is_left_behind(tmp_path):
    assert "renames, replaces, maps and locks" in try_filesystem(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="/proc is Linux")
def test_one_that_keeps_no_files_is_named_with_what_it_cannot_do():
    with pytest.raises(StorageError, match="/proc: cannot make a folder"):
        try_filesystem(Path("/proc"))


def test_a_disk_without_hard_links_is_good_enough(tmp_path):
    """A file with the name of the link stands in its way: linking is refused as where there are no links."""
    from core.filesystem import _links

    (tmp_path / "data").write_bytes(b"x")
    (tmp_path / "linked").write_bytes(b"y")
    assert "copies its vectors" in _links(tmp_path / "data")
