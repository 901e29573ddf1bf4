"""CSV read by Arrow and by the csv module: the same values and rows, or the same refusal."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bayeslora.errors import InputError
from bayeslora.tables import delimited, opening
from bayeslora.tables.delimited import IrregularError, arrow_records, header_of
from bayeslora.tables.reading import Reading
from bayeslora.tables.source import open_source
from bayeslora.tables.table import plain_values

FIELDS = st.one_of(
    st.text("ab é\0", max_size=3),
    st.text('a",\n\r', max_size=4).map(lambda text: '"' + text.replace('"', '""') + '"'),
)
LINES = st.lists(FIELDS, min_size=1, max_size=3).map(",".join)
GOOD = st.lists(LINES, max_size=6).flatmap(
    lambda lines: st.sampled_from(["\n", "\r\n"]).map(lambda end: end.join(["x,y", *lines]))
)
WILD = st.text('a,"\n\r ', max_size=12).map(lambda text: "x,y\n" + text)


def outcome(pieces):
    rows = []
    try:
        for piece in pieces:
            values = [plain_values(column) for column in piece.columns.values()]
            rows += zip(piece.rows, *values, strict=True)
    except InputError:
        return "refused"
    return rows


@given(text=GOOD | WILD, block=st.sampled_from([5, 16, 2**24]), mark=st.booleans())
@example(text='x,y\n"a" b,c\n', block=2**24, mark=False)
@example(text='x,y\na"b,c\n', block=2**24, mark=False)
@example(text="x,y\n\n\na,b\n", block=2**24, mark=False)
@example(text="x,y\ra,b\r", block=2**24, mark=False)
@example(text='x,y\na,""\n"",b', block=2**24, mark=True)
def test_both_ways_agree(text, block, mark, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "agree.csv"
    path.write_bytes(text.encode("utf-8-sig" if mark else "utf-8"))
    source = open_source(path, Reading())
    names = header_of(source)
    if names != ("x", "y"):
        return
    slow = outcome(opening._plain_pieces(source, names, names, 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delimited, "_BLOCK", block)
        patch.setattr(delimited, "_BYTES", 1)
        fast = outcome(opening._delimited_pieces(source, names, names, 2))
    assert fast == slow or (slow == [] and fast == "refused")


def test_what_programs_write_is_read_fast(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('x,y\n"a, ""b""",1\r\n\r\n"two\nlines",2\nplain,\n')
    source = open_source(path, Reading())
    rows, batches = zip(*arrow_records(source, ("x", "y"), ("y", "x"), 2), strict=True)
    assert list(rows) == [[2, 4], [6]]
    assert batches[0].column(1).to_pylist() == ['a, "b"', "two\nlines"]
    assert batches[1].column(0).to_pylist() == [None]


@pytest.mark.parametrize("text", ['x,y\n"a"b,1\n', "x,y\na\n", 'x,y\n"open,1\n', "x,y\ra,b\r"])
def test_irregular_files_are_left_to_the_slow_way(tmp_path, text):
    path = tmp_path / "a.csv"
    path.write_text(text, newline="")
    with pytest.raises(IrregularError):
        list(arrow_records(open_source(path, Reading()), ("x", "y"), ("x",), 2))
