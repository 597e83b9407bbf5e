"""Reading pair files, including hostile ones."""

import pytest

from fashiongen.data.listing import read_pairs
from fashiongen.errors import UserError


def test_pair_files_of_any_system_are_read(tmp_path):
    (tmp_path / "pairs.txt").write_bytes(b"\xef\xbb\xbfa.jpg b.jpg\r\n\r\n  c.jpg\t d.jpg \r\n")
    assert read_pairs(tmp_path / "pairs.txt") == [("a.jpg", "b.jpg"), ("c.jpg", "d.jpg")]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a.jpg b.jpg\n\na.jpg\n", r"pairs\.txt, line 3: has 1 columns instead of 2: 'a\.jpg'"),
        (b"a b c\n", "line 1: has 3 columns"),
        (b"../a.jpg b.jpg\n", "line 1: '../a.jpg' points outside"),
        (b"a.jpg x/../../b.jpg\n", "points outside"),
        (b"a.jpg /etc/passwd\n", "points outside"),
        (b"a.jpg ..\\b.jpg\n", "points outside"),
        (b"C:\\a.jpg b.jpg\n", "points outside"),
        (b"\xff\xfe\x00", "cannot be read as a pair file"),
    ],
)
def test_hostile_pair_files_are_refused_with_their_line(tmp_path, content, words):
    (tmp_path / "pairs.txt").write_bytes(content)
    with pytest.raises(UserError, match=words):
        read_pairs(tmp_path / "pairs.txt")
