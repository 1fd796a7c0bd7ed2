"""The fast writer writes the same text as the csv and json modules, for every column."""

import csv
import io

import numpy as np
import pytest
from linklab.links import row_writer
from linklab.links.links import LINK_SCHEMA
from linklab.radio import labels


@pytest.fixture(scope="module")
def block():
    return labels.make_block(4, 0)


def plain_text(block):
    """The same rows, one value at a time; halves are rounded to even, and there is no -0.00."""

    def write(value, decimals):
        return f"{np.rint(value * 10**decimals) / 10**decimals + 0.0:.{decimals}f}"

    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    at = good = 0
    for i, n in enumerate(block["count"]):
        cells = []
        for column in LINK_SCHEMA.columns:
            if column.role == "id":
                cells.append(f"L{i + 1:08d}")
            elif column.role == "group":
                cells.append(f"S{block['site_id'][i]:09d}")
            elif column.kind.startswith("list"):
                here = slice(at, at + n)
                if column.name == "acceptable_channels_mhz":
                    here = slice(good, good + block["acceptable_count"][i])
                cells.append(f"[{','.join(write(v, column.decimals or 0) for v in block[column.name][here])}]")
            elif column.choices:
                cells.append(column.choices[block[column.name][i]])
            else:
                cells.append(write(block[column.name][i], column.decimals or 0))
        at, good = at + n, good + block["acceptable_count"][i]
        writer.writerow(cells)
    return buffer.getvalue()


def test_rows_are_what_csv_and_format_would_write(block):
    text, starts = row_writer.format_rows(block)
    assert row_writer.put_ids(text, starts, 1).decode() == plain_text(block)


@pytest.mark.parametrize(
    "value, decimals, text",
    [(-0.45, 2, "-0.45"), (0.0, 2, "0.00"), (-61, 0, "-61"), (2402.0, 3, "2402.000"), (0.5, 1, "0.5"),
     (-119.999999, 6, "-119.999999"), (99.99995, 4, "100.0000"), (-0.001, 2, "0.00"), (7, 0, "7"),
     (0.000001, 6, "0.000001")],
)  # fmt: skip
def test_numbers(value, decimals, text):
    assert row_writer.number_texts(np.array([value]), decimals).to_pylist() == [text]


def test_ids_are_written_where_they_belong(block):
    text, starts = row_writer.format_rows(block)
    lines = row_writer.put_ids(text, starts, 99_999_001).decode().splitlines()
    assert lines[0].startswith("L99999001,S") and lines[1].startswith("L99999002,S")
    assert [len(line) + 1 for line in lines] == np.diff([*starts, len(text)]).tolist()


def test_an_empty_block_is_an_empty_text():
    empty = {name: np.zeros(0, int) for name in (*LINK_SCHEMA.names, "count", "acceptable_count")}
    assert row_writer.format_rows(empty)[0] == b""
