"""Bad pair files and folders of every kind give a one-line error and exit status 2, or are used correctly."""

import shutil

import pytest
from spoilt import PREDICT, Kind, check, renamed, same

FIT_IGR = ["fit", "--config", "igr.yaml"]
KINDS = [
    # Pair files
    Kind("blank lines", lambda w: w.write_pairs("", w.lines()[0], "", "  ", w.lines()[1], ""), PREDICT, same()),
    Kind("Windows line ends", lambda w: w.write_pairs(*w.lines(), end="\r\n"), PREDICT, same()),
    Kind("a byte order mark", lambda w: w.write_pairs(*w.lines(), encoding="utf-8-sig"), PREDICT, same()),
    Kind("tabs", lambda w: w.write_pairs(*(line.replace(" ", "\t") for line in w.lines())), PREDICT, same()),
    Kind("no line end at the end", lambda w: w.pairs.write_text(w.pairs.read_text().strip()), PREDICT, same()),
    Kind("one column", lambda w: w.write_pairs(*w.names), PREDICT, r"test_pairs\.txt, line 1: has 1 columns"),
    Kind("a trailing comment", lambda w: w.write_pairs(*w.lines(), "# the end of it"), PREDICT, r"test_pairs\.txt, line 3: has 5 columns"),
    Kind(
        "a path that climbs",
        lambda w: w.write_pairs("../../a.jpg b.jpg"),
        PREDICT,
        r"test_pairs\.txt, line 1: '../../a\.jpg' points outside",
    ),
    Kind(
        "an absolute path", lambda w: w.write_pairs("/etc/passwd b.jpg"), PREDICT, r"test_pairs\.txt, line 1: '/etc/passwd' points outside"
    ),
    Kind("a path of Windows", lambda w: w.write_pairs("..\\a.jpg b.jpg"), PREDICT, r"test_pairs\.txt, line 1: .* points outside"),
    Kind(
        "a backslash in a name", lambda w: w.write_pairs("sub\\a.jpg b.jpg", *w.lines()), PREDICT, r"lack their person, first .*sub\\a\.jpg"
    ),
    Kind("a person listed twice", lambda w: w.write_pairs(*w.lines(), w.lines()[0]), PREDICT, r"test_pairs\.txt: .* listed more than once"),
    Kind("a name without a file", lambda w: w.write_pairs("x.jpg x.jpg", *w.lines()), PREDICT, r"1 of 3 samples .* first .*image/x\.jpg"),
    Kind(
        "names without any file", lambda w: w.write_pairs("x.jpg x.jpg"), PREDICT, r"test/image is missing or holds none of the people of"
    ),
    Kind("a name that is not ASCII", lambda w: w.rename("größe_人"), PREDICT, renamed("größe_人")),
    Kind("a name that begins with a dot", lambda w: w.rename(".hidden"), PREDICT, r"'\.hidden' cannot be a file name"),
    Kind(
        "names that are not UTF-8",
        lambda w: w.write_pairs("größe.jpg größe.jpg", encoding="latin-1"),
        PREDICT,
        r"test_pairs\.txt cannot be",
    ),
    Kind("a pair file in UTF-16", lambda w: w.write_pairs(*w.lines(), encoding="utf-16"), PREDICT, r"test_pairs\.txt cannot be read"),
    Kind("an empty split", lambda w: w.pairs.write_text(""), PREDICT, r"test_pairs\.txt: no sample is listed"),
    Kind("a missing pair file", lambda w: w.pairs.unlink(), PREDICT, r"test_pairs\.txt is missing"),
    # Folders
    Kind(
        "a root that is missing", lambda w: shutil.rmtree(w.root), PREDICT, r"viton/test_pairs\.txt is missing: data\.root must be a folder"
    ),
    Kind("a root that is a file", lambda w: (shutil.rmtree(w.root), w.root.write_text("")), PREDICT, r"data\.root must be a folder"),
    Kind("a root that may not be read", lambda w: w.deny(w.root), PREDICT, r"viton/test_pairs\.txt.*Permission denied"),
    Kind("a person that may not be read", lambda w: w.deny(w.person), PREDICT, r"image/\w+\.jpg .*Permission denied"),
    Kind("too small a training set", lambda w: None, [*FIT_IGR, "--data.init_args.batch_size=9"], r"do not fill one step of 1 x 9"),
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_bad_pairs(kind, world, capsys):
    check(kind, world, capsys)


def test_no_kind_is_lost():
    assert len({kind.name for kind in KINDS}) == len(KINDS) >= 25
