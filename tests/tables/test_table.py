"""Tables of any dialect, encoding and kind of file are read; a file that is not a table is named."""

import csv
import dataclasses
import datetime
import io
import json
import zipfile

import pytest
from linklab.cli import UserError
from linklab.links.links import LINK_SCHEMA
from linklab.tables import csv_stream
from linklab.tables.number_format import NumberFormat
from linklab.tables.table import TableOptions, match_names, open_table
from linklab.tables.understand import open_new_rows, reopen_table, understand

ROWS = [("fir", "20.5", "north"), ("oak", "9.9", "south"), ("elm", "7.0", "north")]
TEXT = "kind,height,side\n" + "".join(",".join(row) + "\n" for row in ROWS)
GERMAN = TEXT.replace(",", ";").replace(".", ",")

# Every way of writing the same three rows: (name, bytes, line of each row, what the summary says).
WRITTEN = [
    ("plain", TEXT.encode(), (2, 3, 4), "delimiter ',' (comma), utf-8, LF"),
    ("no final line end", TEXT.rstrip().encode(), (2, 3, 4), "LF"),
    ("crlf", TEXT.replace("\n", "\r\n").encode(), (2, 3, 4), "CRLF"),
    ("cr", TEXT.replace("\n", "\r").encode(), (2, 3, 4), "CR line ends"),
    ("bom", b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode(), (2, 3, 4), "utf-8 with BOM"),
    ("utf-16", TEXT.encode("utf-16"), (2, 3, 4), "utf-16"),
    ("utf-16-be", b"\xfe\xff" + TEXT.encode("utf-16-be"), (2, 3, 4), "utf-16"),
    ("utf-16-le without a mark", TEXT.encode("utf-16-le"), (2, 3, 4), "utf-16-le"),
    ("german excel", b"\xef\xbb\xbf" + GERMAN.replace("\n", "\r\n").encode(), (2, 3, 4), "delimiter ';' (semicolon)"),
    ("tab", TEXT.replace(",", "\t").encode(), (2, 3, 4), "(tab)"),
    ("pipe", TEXT.replace(",", "|").encode(), (2, 3, 4), "(pipe)"),
    ("sep line", b"sep=;\r\n" + TEXT.replace(",", ";").replace("\n", "\r\n").encode(), (3, 4, 5), "a sep= line"),
    ("spaces after commas", TEXT.replace(",", ", ").encode(), (2, 3, 4), "comma"),
    ("empty rows at the end", (TEXT + ",,\n\n,,\n").encode(), (2, 3, 4), "comma"),
    ("blank lines before", ("\n\n" + TEXT).encode(), (4, 5, 6), "comma"),
    ("all quoted", ('"' + TEXT.replace(",", '","').replace("\n", '"\n"')).encode()[:-1], (2, 3, 4), "comma"),
    ("header with a line break", TEXT.replace("height", '"hei\nght"').encode(), (3, 4, 5), "comma"),
    ("outer spaces", TEXT.replace("kind,height,side", " kind , height,side ").encode(), (2, 3, 4), "comma"),
    ("empty columns at the end", TEXT.replace("\n", ",,\n").encode(), (2, 3, 4), "comma"),
    ("thousands of empty rows", (TEXT + ",,\n" * 5000).encode(), (2, 3, 4), "comma"),
]


@pytest.mark.parametrize(("data", "lines", "said"), [case[1:] for case in WRITTEN], ids=[case[0] for case in WRITTEN])
def test_every_dialect_gives_the_same_table(tmp_path, data, lines, said):
    path = tmp_path / "trees.csv"
    path.write_bytes(data)
    table = open_table(path, TableOptions(target_fields=("kind",)))
    understood = understand(table)
    assert [name.replace("hei ght", "height") for name in table.names] == ["kind", "height", "side"]
    assert [(line, tuple(cells)) for line, cells in table.rows()] == list(zip(lines, ROWS, strict=True))
    in_blocks = [row for block in table.blocks() for row in csv_stream.read_block(path, block, 3)]
    assert in_blocks == list(table.rows())
    assert understood.schema.columns[1].kind == "float" and said in understood.record["written"]


def test_row_names_without_a_header_are_an_id_and_hidden(tmp_path):
    named = "".join(f'"{i}",{",".join(row)}\n' for i, row in enumerate(ROWS, start=1))
    for head in ('"",kind,height,side\n', "kind,height,side\n", "Unnamed: 0,kind,height,side\n"):
        path = tmp_path / "r.csv"
        path.write_text(head + named)
        table = open_table(path, TableOptions(target_fields=("kind",)))
        schema = understand(table).schema
        assert schema.columns[0].role == "id" and [c.name for c in schema.by_role("input")] == ["height", "side"]
        assert [cells[1:] for _, cells in table.rows()] == [list(row) for row in ROWS]
        assert any("row name" in note for note in table.notes)


def test_repeated_row_names_are_hidden_and_are_not_ids(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text('"",kind,height,side\n' + "".join(f"1,{','.join(row)}\n" for row in ROWS))
    schema = understand(open_table(path, TableOptions(target_fields=("kind",)))).schema
    assert schema.columns[0].role == "hidden"


def test_another_encoding_is_named_with_the_option_that_reads_it(tmp_path):
    path = tmp_path / "trees.csv"
    path.write_bytes("kind,height\nchêne,1.5\noak,2.5\n".encode("cp1252"))
    with pytest.raises(UserError, match=r"trees.csv:2: bytes that are not UTF-8; --encoding cp1252 .*'chêne'"):
        list(open_table(path).rows())
    assert list(open_table(path, TableOptions(encoding="cp1252")).rows())[0] == (2, ["chêne", "1.5"])
    path.write_bytes("kind;height\nchêne;1,5\noak;2,5\n".encode("latin-1"))
    with pytest.raises(UserError, match="--encoding cp1252"):
        list(open_table(path).rows())
    for name in ("klingon", "hex"):
        with pytest.raises(UserError, match=f"--encoding {name}: no such encoding"):
            open_table(path, TableOptions(encoding=name))


def zipped(names):
    handle = io.BytesIO()
    with zipfile.ZipFile(handle, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return handle.getvalue()


OTHERS = [
    (zipped(["links.csv"]), "compressed .a ZIP archive: links.csv.; unpack it"),
    (zipped(["word/document.xml"]), "a Word document"),
    (b"\x1f\x8b\x08rest", "compressed .gzip."),
    (b"%PDF-1.7", "a PDF document"),
    (b"\x89PNG\r\n", "a PNG picture"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 100, "an old Excel workbook .*save it as .xlsx"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"<!DOCTYPE html><html>", "a web page"),
    (b"\0\1\2\3\4\5" * 20, "binary data"),
    (b"PAR1 no parquet", "the Parquet file cannot be read"),
    (b"", "the file is empty"),
    (b"\n\n\n", "no header and no rows"),
    (b'"a,b\n1,2\n', "no header"),
    (b'{"a": {"b": 1}}\n', "column 'a' holds dict values"),
    (b'{"messages": []}\n', "holds conversations .*--data"),
    (b'{"a": 1}\n{"a": 2}\n{"a": \n', ":3: not JSON Lines at column 6"),
    (b"a,b,a\n1,2,3\n", "column 'a' appears in the header 2 times"),
    (b"a,,c\n1,2,3\n", "the header has no name for column 2"),
    (b"a,b,\n1,2,3\n", ":2: a value in column 3, which has no name in the header"),
]


@pytest.mark.parametrize(("data", "said"), OTHERS, ids=[case[1][:25] for case in OTHERS])
def test_a_file_that_is_not_a_table_is_named_in_one_line(tmp_path, data, said):
    path = tmp_path / "input.bin"
    path.write_bytes(data)
    with pytest.raises(UserError, match=said) as error:
        list(open_table(path).rows())
    assert "\n" not in str(error.value) and "input.bin" in str(error.value)


TREE_ROWS = [[kind, float(height), side] for kind, height, side in ROWS]


def write_book(path, *sheets):
    import openpyxl

    book = openpyxl.Workbook()
    for at, rows in enumerate(sheets):
        sheet = book.active if at == 0 else book.create_sheet(f"sheet {at}")
        for row in rows:
            sheet.append(row)
    book.save(path)


def excel(path):
    days = [[*row, datetime.datetime(2024, 5, 1)] for row in TREE_ROWS]
    write_book(path, [["kind", "height", "side", "day"], *days], [])


def parquet(path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = dict(zip(("kind", "height", "side"), zip(*TREE_ROWS, strict=True), strict=True))
    pq.write_table(pa.table(columns | {"day": [datetime.date(2024, 5, 1)] * 3}), path)


def json_lines(path):
    rows = [{"kind": kind, "height": float(height), "side": side, "day": "2024-05-01"} for kind, height, side in ROWS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def json_list(path):
    json_lines(path)
    path.write_text("[" + ",".join(path.read_text().splitlines()) + "]")


HEADER = ["kind", "height", "side"]
BOOKS = [
    ([["Notes on trees"]], [HEADER, *TREE_ROWS], "sheet 2 of 2 sheets was read"),
    ([["Trees of the park"], [], HEADER, *TREE_ROWS], None, "2 rows before the header left out ('Trees of the park')"),
    ([[], [None, None, *HEADER], *([None, None, *row] for row in TREE_ROWS)], None, "2 empty columns without a name"),
]


@pytest.mark.parametrize(("first", "second", "note"), BOOKS, ids=[case[2][:20] for case in BOOKS])
def test_a_workbooks_table_is_found_by_its_target_on_any_sheet(tmp_path, first, second, note):
    write_book(tmp_path / "t.xlsx", first, *([second] if second else []))
    table = open_table(tmp_path / "t.xlsx", TableOptions(target_fields=("kind",)))
    assert [cells for _, cells in table.rows()] == [[kind, f"{float(height):g}", side] for kind, height, side in ROWS]
    assert any(note in said for said in table.notes), table.notes


def test_a_row_of_data_is_not_taken_for_the_header(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("5.1,3.5,oak\n4.9,3.0,oak\n4.7,3.2,fir\n")
    with pytest.raises(UserError, match="no column 'fir'; the columns are: 5.1, 3.5, oak"):
        understand(open_table(path, TableOptions(target_fields=("fir",))))


def test_a_workbooks_column_without_a_name_does_not_shift_the_others(tmp_path):
    """A header with one cell less than its rows is R's way to write row names, not Excel's."""
    write_book(tmp_path / "t.xlsx", [["kind", "height"], *TREE_ROWS])
    with pytest.raises(UserError, match="a value in column 3, which has no name in the header"):
        list(open_table(tmp_path / "t.xlsx").rows())


def test_numbers_of_typed_files_have_the_digits_that_programs_show(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    short = pa.array([0.1, 2.7, 1e-7], pa.float32())
    lists = pa.array([[0.1], [2.7, 0.5], []], pa.list_(pa.float32()))
    pq.write_table(pa.table({"kind": ["a", "b", "c"], "short": short, "lists": lists}), tmp_path / "t.parquet")
    found = [cells[1:] for _, cells in open_table(tmp_path / "t.parquet").rows()]
    assert found == [["0.1", "[0.1]"], ["2.7", "[2.7,0.5]"], ["1e-07", "[]"]]
    write_book(tmp_path / "t.xlsx", [["kind", "sum"], ["a", 0.1 + 0.2], ["b", 3.0]])
    assert [cells[1] for _, cells in open_table(tmp_path / "t.xlsx").rows()] == ["0.3", "3"]


def test_a_typed_number_keeps_its_value_if_other_columns_use_a_decimal_comma(tmp_path):
    write_book(tmp_path / "t.xlsx", [["kind", "weight", "price"]] + [["ab"[i % 2], 1.125, f"{i},5"] for i in range(9)])
    table = open_table(tmp_path / "t.xlsx", TableOptions(target_fields=("kind",)))
    understand(table)
    assert next(iter(table.rows()))[1] == ["a", "1.125", "0.5"]


def test_a_formula_without_its_value_is_reported(tmp_path):
    write_book(tmp_path / "t.xlsx", [["kind", "size", "twice"]] + [["ab"[i % 2], i, f"=B{i + 2}*2"] for i in range(9)])
    table = open_table(tmp_path / "t.xlsx", TableOptions(target_fields=("kind",)))
    assert any("'twice' holds formulas without their values" in said for said in understand(table).record["warnings"])


def test_nested_values_are_left_out_where_the_column_is_dropped(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"kind": "a", "at": {"x": 1}, "size": 2}\n{"kind": "b", "at": [[1]], "size": 3}\n')
    with pytest.raises(UserError, match="t.jsonl:1: column 'at' holds dict values; .*--drop-columns at"):
        list(open_table(path).rows())
    found = open_table(path, TableOptions(drop_columns=("at",))).rows()
    assert [cells for _, cells in found] == [["a", "", "2"], ["b", "", "3"]]


RECORDS = [{"kind": "fir", "height": 1.5}, {"kind": "oak", "height": 2.5}]
JSON_TABLES = {
    "columns": {name: {str(i): row[name] for i, row in enumerate(RECORDS)} for name in RECORDS[0]},
    "split": {"columns": ["kind", "height"], "index": [0, 1], "data": [list(row.values()) for row in RECORDS]},
    "table": {"schema": {"fields": []}, "data": RECORDS},
}


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("form", JSON_TABLES)
def test_json_as_pandas_writes_it_is_a_table(tmp_path, form, indent):
    (tmp_path / "t.json").write_text(json.dumps(JSON_TABLES[form], indent=indent))
    table = open_table(tmp_path / "t.json")
    assert table.names == ["kind", "height"]
    assert [cells for _, cells in table.rows()] == [["fir", "1.5"], ["oak", "2.5"]]


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("t.xlsx", excel),
        ("a workbook called.csv", excel),
        ("t.parquet", parquet),
        ("t.jsonl", json_lines),
        ("t.json", json_list),
    ],
)
def test_typed_tables_become_the_same_rows(tmp_path, name, write):
    write(tmp_path / "made.xlsx" if write is excel else tmp_path / name)
    if write is excel:
        (tmp_path / "made.xlsx").rename(tmp_path / name)
    table = open_table(tmp_path / name, TableOptions(target_fields=("kind",)))
    kinds = {column.name: column.kind for column in understand(table).schema.columns}
    assert kinds == {"kind": "str", "height": "float", "side": "str", "day": "str"}
    found = [(cells[0], float(cells[1]), cells[2], cells[3]) for _, cells in table.rows()]
    assert found == [(kind, float(height), side, "2024-05-01") for kind, height, side in ROWS]
    assert (write is excel) == any("first of 2 sheets" in note for note in table.notes)


def test_a_datasets_folder_brings_its_own_split(tmp_path):
    datasets = pytest.importorskip("datasets")
    sides = {
        side: datasets.Dataset.from_dict({"x": [1, 2], "y": ["a", "b"]}) for side in ("train", "validation", "test")
    }
    datasets.DatasetDict(sides).save_to_disk(tmp_path / "set")
    table = open_table(tmp_path / "set", TableOptions(target_fields=("y",)))
    schema = understand(table).schema
    assert schema["split"].role == "split" and len(list(table.rows())) == 6


def test_bad_rows_are_reported_by_line_or_left_out(tmp_path):
    path = tmp_path / "trees.csv"
    path.write_text(GERMAN.replace("oak;9,9;south", "oak;9,9"))
    with pytest.raises(UserError, match=r"trees.csv:3: 2 cells; the header has 3; .*--drop-bad-rows"):
        list(open_table(path).rows())
    table = open_table(path, TableOptions(drop_bad_rows=True))
    assert [cells[0] for _, cells in table.rows()] == ["fir", "elm"] and table.left_out == {
        "rows that cannot be read": [3]
    }


def test_a_task_reopens_its_table_with_the_recorded_decisions(tmp_path):
    path = tmp_path / "trees.csv"
    path.write_text(GERMAN + "oak;?;south\n" + "oak;-;south\n")
    options = TableOptions(target_fields=("height",), missing=("?", "-"), target_kinds=("number",))
    with pytest.raises(UserError, match="a number in 3 of 5|is a number in"):
        understand(open_table(path, dataclasses.replace(options, missing=())))
    table = open_table(path, options)
    understood = understand(table)
    again = reopen_table(path, understood.schema, json.loads(json.dumps(understood.record)))
    assert list(again.rows()) == list(table.rows()) and len(list(again.rows())) == 3


@pytest.mark.parametrize("written", ["\u2212{}.5", "{},5", "${}.5"])
def test_numbers_are_read_the_same_when_a_task_reopens_its_table(tmp_path, written):
    path = tmp_path / "trees.csv"
    path.write_text("kind;height\n" + "".join(f"{'ab'[i % 2]};{written.format(i)}\n" for i in range(20)))
    table = open_table(path, TableOptions(target_fields=("kind",)))
    understood = understand(table)
    assert list(reopen_table(path, understood.schema, understood.record).rows()) == list(table.rows())


def test_a_links_csv_with_decimal_commas_is_reopened_as_it_was_read(tmp_path, small_links):
    path = tmp_path / "links.csv"
    with open(small_links / "links.csv", newline="") as handle, open(path, "w", newline="") as german:
        rows = [
            [cell if cell.startswith("[") else cell.replace(".", ",") for cell in row] for row in csv.reader(handle)
        ]
        csv.writer(german, delimiter=";").writerows(rows)
    table = open_table(path)
    understood = understand(table, known=LINK_SCHEMA)
    again = list(reopen_table(path, understood.schema, understood.record).rows())
    assert again == list(table.rows()) and "0.5" in [cells[10] for _, cells in again]


def test_ambiguous_new_rows_are_read_in_the_number_format_of_training(tmp_path):
    path = tmp_path / "new.csv"
    path.write_text('kind,price\nfir,"2,079"\n')
    training = tmp_path / "old.csv"
    training.write_text("kind;price\n" + 'fir;"2,079"\noak;"13,5"\n' * 6)
    understood = understand(open_table(training, TableOptions(target_fields=("kind",))))
    table = open_new_rows(path, understood.schema, understood.record)
    assert list(table.rows()) == [(2, ["fir", "2.079"])]


NUMBERS = [
    (NumberFormat(".", ","), "$2,700", "2700"),
    (NumberFormat(".", ","), "(2,700.50)", "-2700.50"),
    (NumberFormat(",", "."), "2.700,50 €", "2700.50"),
    (NumberFormat(), "27.0%", "27.0"),
    (NumberFormat(), "\u22125", "-5"),
    (NumberFormat(",", " "), "1\u00a0234,5", "1234.5"),
    (NumberFormat(), "2,700", None),
    (NumberFormat(), "007", None),
    (NumberFormat(".", ","), "27,00", None),
    (NumberFormat(), "12 Mbps", None),
    (NumberFormat(), "-(5)", None),
]


@pytest.mark.parametrize(("number_format", "text", "plain"), NUMBERS)
def test_a_number_as_people_write_it_has_one_plain_spelling(number_format, text, plain):
    assert number_format.read(text) == plain


def test_names_with_commas_can_be_named_in_a_list():
    names = ["height", "kind, common name", "a,b", "a"]
    assert match_names("x", ["kind", "common name"], names) == ["kind, common name"]
    assert match_names("x", ["height", "a", "b", "a"], names) == ["height", "a,b", "a"]
    with pytest.raises(UserError, match="no column 'kin'"):
        match_names("x", ["kin", "common name"], names)
