"""Arrays of links -> the bytes of links.csv, without a Python loop over rows.

A row is a stream of tokens of at most eight bytes, taken from tables (`-61,`, `.385,`). Tokens are scattered to their
places in one zero-padded array; dropping the zeros leaves the text. About ten times as fast as formatting numbers.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from linklab.links.links import LINK_SCHEMA
from linklab.tables.schema import Column

ID_DIGITS = 8
SITE_DIGITS = 9
HEADER = (",".join(LINK_SCHEMA.names) + "\n").encode()
_WHOLE_MAX = 30_000


@cache
def _whole_table(end: str) -> np.ndarray:
    """Tokens of -30000..-1, -0, 0..30000, each followed by `end`; index `_WHOLE_MAX + 1 + v` for v >= 0."""
    texts = [f"-{v}{end}" for v in range(_WHOLE_MAX, -1, -1)] + [f"{v}{end}" for v in range(_WHOLE_MAX + 1)]
    return np.array(texts, dtype="S8")


@cache
def _part_table(digits: int, start: str, end: str) -> np.ndarray:
    """Tokens of 0 .. 10^digits - 1 with leading zeros: `.385,`."""
    return np.array([f"{start}{v:0{digits}d}{end}" for v in range(10**digits)], dtype="S8")


def _split(texts: list[str]) -> np.ndarray:
    """Texts -> (n_texts, n_tokens) tokens of eight bytes."""
    width = -(-max(len(t.encode()) for t in texts) // 8) * 8
    return np.array([t.encode() for t in texts], dtype=f"S{width}").view("S8").reshape(len(texts), -1)


def _number_tokens(values: np.ndarray, decimals: int, end: str) -> np.ndarray:
    """Numbers as (n, n_tokens) tokens with exactly `decimals` digits after the point, then `end`."""
    if decimals == 0:
        whole = np.asarray(values).astype(np.int64)
        return _whole_table(end)[whole + (_WHOLE_MAX + (whole >= 0))][:, None]
    scaled = np.rint(np.asarray(values) * 10**decimals).astype(np.int64)
    size = np.abs(scaled)
    whole, part = np.divmod(size, 10**decimals)
    tokens = [_whole_table("")[np.where(scaled < 0, _WHOLE_MAX - whole, _WHOLE_MAX + 1 + whole)]]
    if decimals > 3:
        high, part = np.divmod(part, 10 ** (decimals - 3))
        tokens += [_part_table(3, ".", "")[high], _part_table(decimals - 3, "", end)[part]]
    else:
        tokens.append(_part_table(decimals, ".", end)[part])
    return np.stack(tokens, axis=1)


def _numbered(prefix: str, numbers: np.ndarray, digits: int, end: str) -> np.ndarray:
    """Identifiers as tokens: ("S", 17, 9) -> `S000000017`."""
    high, low = np.divmod(np.asarray(numbers, np.int64), 10**4)
    top, middle = np.divmod(high, 10**4)
    head = _part_table(digits - 8, prefix, "")[top] if digits > 8 else np.full(len(high), prefix.encode(), "S8")
    return np.stack([head, _part_table(4, "", "")[middle], _part_table(4, "", end)[low]], axis=1)


def _row_tokens(column: Column, values: np.ndarray, end: str) -> np.ndarray:
    if column.role == "id":
        return _numbered("L", np.zeros(len(values)), ID_DIGITS, end)  # `put_ids` writes the number
    if column.role == "group":
        return _numbered("S", values, SITE_DIGITS, end)
    if column.choices:
        return _split([choice + end for choice in column.choices])[values]
    return _number_tokens(values, column.decimals or 0, end)


def format_rows(columns: dict[str, np.ndarray]) -> tuple[bytes, np.ndarray]:
    """Rows as CSV text whose scenario_id still is L00000000, and the byte each row starts at (n_rows,).

    `columns` is what `radio.labels.make_block` returns: row columns (n_rows,), list columns flat with `count` elements
    a row (`acceptable_count` for the acceptable channels). Text columns hold indices into the schema's choices.
    """
    count = columns["count"]
    n_rows = len(count)
    if n_rows == 0:
        return b"", np.zeros(0, np.int64)
    pieces, sizes = [], []  # per column: the flat tokens, and how many of them each row has
    last = LINK_SCHEMA.names[-1]
    for column in LINK_SCHEMA.columns:
        end = "\n" if column.name == last else ","
        if not column.kind.startswith("list"):
            values = columns["site_id"] if column.role == "id" else columns[column.name]
            tokens = _row_tokens(column, values, end)
            pieces.append(tokens.ravel())
            sizes.append(np.full(n_rows, tokens.shape[1]))
            continue
        lengths = columns["acceptable_count" if column.name == "acceptable_channels_mhz" else "count"]
        tokens, sizes_here = _list_tokens(columns[column.name], lengths, column.decimals or 0, end)
        pieces.append(tokens)
        sizes.append(sizes_here)
    return _join(pieces, np.stack(sizes))


def _list_tokens(values: np.ndarray, lengths: np.ndarray, decimals: int, end: str) -> tuple[np.ndarray, np.ndarray]:
    """JSON lists as a flat stream of tokens: `"[` before the first element, `]"` after the last.

    A list of one has no comma, so the csv module would write it without quotes, and so do we.
    """
    body = _number_tokens(values, decimals, ",")
    stops = np.cumsum(lengths) - 1
    body[stops] = _number_tokens(values[stops], decimals, "")
    per = body.shape[1]
    flat = np.empty(body.size + 2 * len(lengths), "S8")
    place = np.arange(len(values)) * per + 2 * np.repeat(np.arange(len(lengths)), lengths) + 1
    for k in range(per):
        flat[place + k] = body[:, k]
    flat[place[stops] + per] = np.where(lengths > 1, f']"{end}'.encode(), f"]{end}".encode())
    starts = np.append(0, place[stops][:-1] + per + 1)
    flat[starts] = np.where(lengths > 1, b'"[', b"[")
    return flat, lengths * per + 2


def _join(pieces: list[np.ndarray], sizes: np.ndarray) -> tuple[bytes, np.ndarray]:
    """Interleave columns into rows: pieces[c] holds sizes[c, r] tokens for each row r."""
    n_columns, n_rows = sizes.shape
    starts = np.zeros(n_rows * n_columns + 1, np.int64)
    np.cumsum(sizes.T.ravel(), out=starts[1:])
    starts_of = starts[:-1].reshape(n_rows, n_columns)
    stream = np.zeros(starts[-1], "S8")
    for c, piece in enumerate(pieces):
        if len(piece) % n_rows == 0 and (sizes[c] == sizes[c, 0]).all():
            for k in range(sizes[c, 0]):
                stream[starts_of[:, c] + k] = piece[k :: sizes[c, 0]]
        else:
            shift = starts_of[:, c] - (np.cumsum(sizes[c]) - sizes[c])
            stream[np.arange(len(piece)) + np.repeat(shift, sizes[c])] = piece
    raw = stream.view(np.uint8)
    raw = raw[raw != 0]
    line_ends = np.flatnonzero(raw == 10)
    return raw.tobytes(), np.append(0, line_ends[:-1] + 1)


def put_ids(text: bytes, starts: np.ndarray, first: int) -> bytes:
    """Write the numbers first, first + 1, … into the scenario_id of rows `format_rows` made."""
    return put_numbers(text, starts, np.arange(first, first + len(starts)))


def put_numbers(text: bytes, starts: np.ndarray, numbers: np.ndarray) -> bytes:
    """Write `numbers` into the scenario_id of the rows that start at the bytes `starts`."""
    raw = np.frombuffer(text, np.uint8).copy()
    places = starts[:, None] + 1 + np.arange(ID_DIGITS)
    raw[places] = 48 + numbers[:, None] // 10 ** np.arange(ID_DIGITS - 1, -1, -1) % 10
    return raw.tobytes()
