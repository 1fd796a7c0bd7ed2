"""Rows are read byte for byte with their true line numbers, and damage stops the reading at its line."""

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from linklab.cli import UserError
from linklab.tables import csv_stream


def write(tmp_path, data):
    path = tmp_path / "rows.csv"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


GOOD = [
    ("a,b\n1,2\n3,4\n", [(2, ["1", "2"]), (3, ["3", "4"])]),
    ("a,b\n1,2\n3,4", [(2, ["1", "2"]), (3, ["3", "4"])]),
    ("a,b\r\n1,2\r\n3,4\r\n", [(2, ["1", "2"]), (3, ["3", "4"])]),
    ('a,b\n"1,5","say ""hi"""\n,\n', [(2, ["1,5", 'say "hi"']), (3, ["", ""])]),
    ('a,b\n"two\nlines",2\n3,4\n', [(2, ["two\nlines", "2"]), (4, ["3", "4"])]),
    ('"a\nx",b\n1,2\n'.replace("\nx", ""), [(2, ["1", "2"])]),
    ("a,b\n\u2028 x,\u00e9\x0b\x85\n", [(2, ["\u2028 x", "\u00e9\x0b\x85"])]),
    ('a,b\n"",2\n', [(2, ["", "2"])]),
    ("a\n \n", [(2, [" "])]),
    ("a,b\n1,2\r3\n", [(2, ["1", "2\r3"])]),
    ('a,b\r\n"x\r\ny",2\r\n', [(2, ["x\r\ny", "2"])]),
    ("a,b\n", []),
]


@pytest.mark.parametrize(("text", "rows"), GOOD)
@pytest.mark.parametrize("block_bytes", [1, 7, 1 << 20])
def test_rows_and_line_numbers_do_not_depend_on_the_block_size(tmp_path, monkeypatch, text, rows, block_bytes):
    monkeypatch.setattr(csv_stream, "BLOCK_BYTES", block_bytes)
    assert list(csv_stream.iter_rows(write(tmp_path, text))) == rows


BAD = [
    (b"a,b\n1,2\n3\n", 3, "1 cells; the header has 2"),
    (b"a,b\n1,2,3\n", 2, "3 cells"),
    (b"a,b\n1,2\n\n3,4\n", 3, "blank line"),
    (b"a,b\n1,2\n  \n3,4\n", 3, "blank line"),
    (b"a,b\r\n1,2\r\n\r\n", 3, "blank line"),
    (b'a,b\n1,"2\n3,4\n', 2, "never closed"),
    (b'a,b\n1,"2"x\n3,4\n', 2, "after the closing quote"),
    (b'a,b\n1,2"x\n3,4\n', 2, "a quote inside a cell"),
    (b'a,b\n"two\nlines",2\n5,"6\n', 4, "never closed"),
    (b"a,b\n1,\x00\n", 2, "NUL"),
    (b"a,b\n1,caf\xe9\n", 2, "not UTF-8"),
    (b"\na,b\n1,2\n", 1, "no header"),
]


@pytest.mark.parametrize(("data", "line", "words"), BAD)
@pytest.mark.parametrize("block_bytes", [3, 1 << 20])
def test_damage_stops_the_reading_with_file_and_line(tmp_path, monkeypatch, data, line, words, block_bytes):
    monkeypatch.setattr(csv_stream, "BLOCK_BYTES", block_bytes)
    path = write(tmp_path, data)
    with pytest.raises(UserError, match=f"^{path}:{line}: .*{words}"):
        list(csv_stream.iter_rows(path))


@pytest.mark.parametrize(
    ("head", "said"), [("a,a", "2 times"), ("a,", "the header has no name for column 2"), ("a, b", "outer spaces")]
)
def test_a_problem_of_the_header_is_reported(tmp_path, head, said):
    assert said in csv_stream.scan_header(write(tmp_path, f"{head}\n1,2\n")).problem


CELLS = st.text(alphabet=st.sampled_from('ab,"\n\r\u2028é '), max_size=6)


@settings(max_examples=80, deadline=None)
@given(rows=st.lists(st.lists(CELLS, min_size=3, max_size=3), max_size=6), block_bytes=st.sampled_from([2, 9, 4096]))
def test_every_string_round_trips_byte_for_byte(tmp_path_factory, rows, block_bytes):
    handle = io.StringIO(newline="")
    csv.writer(handle, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows([["a", "b", "c"], *rows])
    path = write(tmp_path_factory.mktemp("round"), handle.getvalue().encode())
    before, csv_stream.BLOCK_BYTES = csv_stream.BLOCK_BYTES, block_bytes
    try:
        assert [cells for _, cells in csv_stream.iter_rows(path)] == rows
    finally:
        csv_stream.BLOCK_BYTES = before


def records(data, n_columns):
    return [(r.line, r.code) for r in csv_stream.scan_records(data, at=0, line=1, n_columns=n_columns, final=True)]


def test_one_lost_quote_does_not_hide_the_lines_below_it():
    data = b'1,"[5,6]"\n2,"[5,6]\n3,"[7,8]"\n4,5,6\n"[1]",2\n'
    assert records(data, 2) == [(1, ""), (2, "bad_quoting"), (3, ""), (4, "ragged_row"), (5, "")]


def test_a_row_without_end_is_left_for_the_next_block():
    data = b'1,2\n3,"4\n'
    seen = list(csv_stream.scan_records(data, at=0, line=1, n_columns=2, final=False))
    assert [r.cells for r in seen] == [["1", "2"]] and seen[-1].end == 4


def test_an_endless_row_is_reported(monkeypatch):
    monkeypatch.setattr(csv_stream, "MAX_RECORD_BYTES", 20)
    data = b'1,"' + b"x" * 50 + b"\n3,4\n" + b"y" * 50 + b",1\n5,6\n"
    assert records(data, 2) == [(1, "bad_quoting"), (2, ""), (3, "bad_quoting"), (4, "")]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=30) | st.text(alphabet='a,"\n\r', max_size=24).map(str.encode))
def test_plain_data_is_read_the_same_by_the_csv_module_and_the_exact_reader(data):
    exact = list(csv_stream.scan_records(data, at=0, line=1, n_columns=2, final=True))
    if csv_stream.is_plain(data) and all(record.cells for record in exact):
        block = csv_stream.Block(1, data.count(b"\n"), data)
        assert list(csv_stream.read_block("x", block, 2)) == [(record.line, record.cells) for record in exact]
        assert len(exact) == block.n_rows
