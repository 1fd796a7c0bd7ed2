"""Arrays of links -> the bytes of links.csv, without a Python loop over rows: pyarrow writes the numbers and joins."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from linklab.links.links import LINK_SCHEMA
from linklab.tables.schema import Column

ID_DIGITS = 8
SITE_DIGITS = 9
HEADER = (",".join(LINK_SCHEMA.names) + "\n").encode()


def number_texts(values: np.ndarray, decimals: int) -> pa.StringArray:
    """Return numbers as texts with exactly `decimals` digits after the point: 0.5 with 2 -> `0.50`; never `-0.00`."""
    if decimals == 0:
        return pa.array(np.asarray(values).astype(np.int64)).cast(pa.string())
    scaled = np.rint(np.asarray(values) * 10**decimals).astype(np.int64)
    wide = np.stack([scaled, scaled >> 63], axis=1)  # 128-bit integers, as in Arrow's decimals
    return pa.Array.from_buffers(pa.decimal128(18, decimals), len(scaled), [None, pa.py_buffer(wide)]).cast(pa.string())


def _cells(column: Column, values: np.ndarray) -> pa.StringArray:
    if column.role == "id":
        return pa.repeat("L" + "0" * ID_DIGITS, len(values))  # `put_ids` writes the number
    if column.role == "group":
        return pc.binary_join_element_wise("S", pc.utf8_lpad(number_texts(values, 0), SITE_DIGITS, padding="0"), "")
    if column.choices:
        return pa.array(column.choices).take(pa.array(values))
    return number_texts(values, column.decimals or 0)


def _list_cells(column: Column, values: np.ndarray, lengths: np.ndarray) -> pa.StringArray:
    """Return JSON lists; one with a single element has no comma and no quotes, as the csv module writes it."""
    bounds = np.append(0, np.cumsum(lengths)).astype(np.int32)
    lists = pa.ListArray.from_arrays(bounds, number_texts(values, column.decimals or 0))
    quote = pa.array(np.where(lengths > 1, '"', ""))
    return pc.binary_join_element_wise(quote, "[", pc.binary_join(lists, ","), "]", quote, "")


def format_rows(columns: dict[str, np.ndarray]) -> tuple[bytes, np.ndarray]:
    """Return (rows as CSV text, with L00000000 as scenario_id; the first byte of each row (n_rows,)).

    `columns` is what `radio.labels.make_block` returns: row columns (n_rows,), list columns flat with `count` elements
    per row (`acceptable_count` for the acceptable channels). Text columns hold indices into the schema's choices.
    """
    n_rows = len(columns["count"])
    if n_rows == 0:
        return b"", np.zeros(0, np.int64)
    cells = []
    for column in LINK_SCHEMA.columns:
        values = columns["site_id" if column.role == "id" else column.name]
        if column.kind.startswith("list"):
            lengths = columns["acceptable_count" if column.name == "acceptable_channels_mhz" else "count"]
            cells.append(_list_cells(column, values, lengths))
        else:
            cells.append(_cells(column, values))
    cells[-1] = pc.binary_join_element_wise(cells[-1], "\n", "")
    rows = pc.binary_join_element_wise(*cells, ",")
    bounds = np.frombuffer(rows.buffers()[1], np.int32)[: n_rows + 1].astype(np.int64)
    return rows.buffers()[2].to_pybytes()[: bounds[-1]], bounds[:-1]


def put_ids(text: bytes, starts: np.ndarray, first: int) -> bytes:
    """Write the numbers first, first + 1, … into the scenario_id of rows from `format_rows`."""
    raw = np.frombuffer(text, np.uint8).copy()
    numbers = np.arange(first, first + len(starts))
    digits = starts[:, None] + 1 + np.arange(ID_DIGITS)  # positions of their bytes
    raw[digits] = 48 + numbers[:, None] // 10 ** np.arange(ID_DIGITS - 1, -1, -1) % 10
    return raw.tobytes()
