"""Rules between the columns of a row, for many rows at once.

The first four hold for any schema that says how its columns belong together (`aligned_with`, `choices_from`,
`utility_from`); the rest know what a link is and run where the columns of links.csv are there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from linklab.links.links import CANDIDATES, LINK_SCHEMA
from linklab.radio import channels, phy, propagation, scenarios
from linklab.tables.schema import Schema
from linklab.validation.column_checks import Cells

DISTANCE_TOLERANCE_M = 1.0  # both ends are written to 0.1 m, the distance to 1 m
DISTANCE_TOLERANCE_SHARE = 0.001
SIGNAL_TOLERANCE_DB = 1.05  # RSSI is written in whole dB: two of them may be off by half each, in opposite directions
GAP_TOLERANCE_PCT = 0.011


class Finding(NamedTuple):
    """Rows of a piece that break one rule; `expected` says for one row what should have stood there."""

    rows: np.ndarray
    column: str
    code: str
    expected: Callable[[int], str]


Table = dict[str, Cells]


def find_faults(table: Table, schema: Schema) -> Iterator[Finding]:
    """Yield what is wrong between the columns of a piece; cells that are faulty by themselves are left out."""
    rules = [_list_lengths, _answers_among_candidates, _answers_of_highest_utility]
    if _holds_links(table):
        rules += [_widths, _candidate_order, _legal_channels, _distances, _throughputs, _acceptable, _gaps, _signals]
    for rule in rules:
        for finding in rule(table, schema):
            if len(finding.rows):
                yield finding


def find_input_faults(table: Table, schema: Schema) -> Iterator[Finding]:
    """Yield what is wrong between the inputs of links that have no answer yet; their candidates may be in any order."""
    for rule in (_list_lengths, _widths, _legal_channels):
        for finding in rule(table, schema):
            if len(finding.rows):
                yield finding


def _holds_links(table: Table) -> bool:
    """True when at least half of the columns of links.csv are there, as what they are."""
    alike = [name for name in LINK_SCHEMA.names if name in table and table[name].column.kind == LINK_SCHEMA[name].kind]
    return len(alike) >= len(LINK_SCHEMA.names) / 2


def _sound(table: Table, *names: str, aligned: tuple[str, ...] = ()) -> np.ndarray | None:
    """Return the rows in which all these columns hold a value and the aligned lists are equally long, or None."""
    if any(name not in table for name in (*names, *aligned)):
        return None
    good = np.logical_and.reduce([table[name].ok for name in (*names, *aligned)])
    for name in aligned[1:]:
        good &= table[aligned[0]].lengths == table[name].lengths
    for name in aligned:
        good &= table[name].lengths > 0
    return np.flatnonzero(good) if good.any() else None


class _Lists:
    """The lists of chosen rows as flat arrays with the place each row starts at."""

    def __init__(self, table: Table, rows: np.ndarray, name: str) -> None:
        self.table, self.rows = table, rows
        lengths = table[name].lengths
        self.n = lengths[rows]
        self.starts = np.cumsum(self.n) - self.n

    def flat(self, name: str) -> np.ndarray:
        """Return the elements of a list column (all lists of the chosen rows, one after the other)."""
        cells = self.table[name]
        if len(self.rows) == len(cells.ok):
            return cells.values
        chosen = np.zeros(len(cells.ok), bool)
        chosen[self.rows] = True
        return cells.values[np.repeat(chosen, cells.lengths)]

    def spread(self, name: str) -> np.ndarray:
        """Return a number column repeated for every element of its row's list."""
        return np.repeat(self.table[name].values[self.rows], self.n)

    def any(self, bad: np.ndarray) -> np.ndarray:
        """Return the rows with at least one bad element."""
        if not bad.any():
            return self.rows[:0]
        return self.rows[np.logical_or.reduceat(bad, self.starts)]

    def all(self, bad: np.ndarray) -> np.ndarray:
        """Return the rows whose every element is bad."""
        return self.rows[np.logical_and.reduceat(bad, self.starts)]


def _say_always(words: str, row: int) -> str:
    """Return what is expected of every row alike."""
    return words


def _list_lengths(table: Table, schema: Schema) -> Iterator[Finding]:
    for column in schema.columns:
        partner = column.aligned_with
        if column.name not in table or partner is None or partner not in table or table[column.name].offsets is None:
            continue
        mine, other = table[column.name], table[partner]
        rows = np.flatnonzero(mine.ok & other.ok & (mine.lengths != other.lengths))

        def expected(row: int, mine: Cells = mine, other: Cells = other, partner: str = partner) -> str:
            return f"{other.lengths[row]} elements, one for each of {partner}; found {mine.lengths[row]}"

        yield Finding(rows, column.name, "list_length", expected)


def _answers_among_candidates(table: Table, schema: Schema) -> Iterator[Finding]:
    for column in schema.columns:
        source = column.choices_from
        rows = _sound(table, column.name, source) if source else None
        if source is None or rows is None:
            continue
        candidates = table[source]
        if candidates.values is None or table[column.name].values is None:  # texts
            texts, answer = candidates.lists or {}, table[column.name]
            bad = np.array([row for row in rows.tolist() if answer.text(row) not in texts.get(row, ())], np.int64)
        else:
            rows = rows[candidates.lengths[rows] > 0]
            lists = _Lists(table, rows, source)
            bad = lists.all(lists.flat(source) != lists.spread(column.name)) if len(rows) else rows
        words = f"one of the row's {source}"
        yield Finding(bad, column.name, "target_not_candidate", partial(_say_always, words))


def _answers_of_highest_utility(table: Table, schema: Schema) -> Iterator[Finding]:
    for column in schema.columns:
        source, utility = column.choices_from, column.utility_from
        if not source or not utility or table.get(column.name) is None or table[column.name].values is None:
            continue
        rows = _sound(table, column.name, aligned=(source, utility))
        if rows is None or table[source].values is None:
            continue
        lists = _Lists(table, rows, source)
        choices, values = lists.flat(source), lists.flat(utility)
        best = np.repeat(table[utility].highest[rows], lists.n)
        chosen = choices == lists.spread(column.name)
        bad = lists.any(chosen & (values != best))

        def expected(row: int, s: str = source, u: str = utility) -> str:
            cells, worth = table[s], table[u]
            here = slice(cells.offsets[row], cells.offsets[row + 1])
            top = worth.values[worth.offsets[row] : worth.offsets[row + 1]]
            best = cells.values[here][top.argmax()]
            return f"{best:.15g}, the element of {s} with the highest {u} ({top.max():.15g})"

        yield Finding(bad, column.name, "target_mismatch", expected)


def _widths(table: Table, schema: Schema) -> Iterator[Finding]:
    rows = _sound(table, "channel_bandwidth_mhz")
    if rows is not None:
        bad = ~np.isin(table["channel_bandwidth_mhz"].values[rows], channels.WIDTHS_MHZ)
        words = f"one of {', '.join(map(str, channels.WIDTHS_MHZ))} MHz"
        yield Finding(rows[bad], "channel_bandwidth_mhz", "unknown_value", lambda row: words)


def _candidate_order(table: Table, schema: Schema) -> Iterator[Finding]:
    rows = _sound(table, CANDIDATES)
    if rows is not None:
        lists = _Lists(table, rows, CANDIDATES)
        flat = lists.flat(CANDIDATES)
        falls = np.zeros(len(flat), bool)
        falls[1:] = flat[1:] <= flat[:-1]
        falls[lists.starts] = False
        yield Finding(lists.any(falls), CANDIDATES, "candidate_order", lambda row: "rising centres, each once")


def _legal_table() -> np.ndarray:
    """(domain, width, MHz) -> may a fixed outdoor link use this centre?"""
    legal = np.zeros((len(channels.DOMAINS), len(channels.WIDTHS_MHZ), 6000), bool)
    for d, domain in enumerate(channels.DOMAINS):
        for w, width in enumerate(channels.WIDTHS_MHZ):
            legal[d, w, channels.CENTRE_MHZ[channels.legal_channels(domain, width)]] = True
    return legal


_LEGAL = _legal_table()


def _legal_channels(table: Table, schema: Schema) -> Iterator[Finding]:
    rows = _sound(table, "regulatory_domain", "channel_bandwidth_mhz", CANDIDATES)
    if rows is None:
        return
    width = table["channel_bandwidth_mhz"].values[rows]
    rows, width = (part[np.isin(width, channels.WIDTHS_MHZ)] for part in (rows, width))
    if not len(rows):
        return
    domains = table["regulatory_domain"].codes(channels.DOMAINS)[rows]
    lists = _Lists(table, rows, CANDIDATES)
    cell = np.repeat(domains * len(channels.WIDTHS_MHZ) + np.searchsorted(channels.WIDTHS_MHZ, width), lists.n) * 6000
    bad = lists.any(~_LEGAL.ravel()[cell + lists.flat(CANDIDATES).astype(np.int64)])

    def expected(row: int) -> str:
        domain, width = table["regulatory_domain"].text(row), int(table["channel_bandwidth_mhz"].values[row])
        centres = channels.CENTRE_MHZ[channels.legal_channels(domain, width)]
        return f"centres {domain} allows at {width} MHz: {', '.join(map(str, centres)) or 'none'}"

    yield Finding(bad, CANDIDATES, "illegal_channel", expected)


def _distances(table: Table, schema: Schema) -> Iterator[Finding]:
    names = ("lat_a", "lon_a", "lat_b", "lon_b", "link_distance_m")
    rows = _sound(table, *names)
    if rows is None:
        return
    *ends, stated_m = (table[name].values[rows] for name in names)
    true_m = np.asarray(1000.0 * propagation.haversine_km(*ends))
    bad = np.abs(stated_m - true_m) > DISTANCE_TOLERANCE_M + DISTANCE_TOLERANCE_SHARE * true_m
    words = dict(zip(rows[bad].tolist(), true_m[bad].tolist(), strict=True))
    yield Finding(
        rows[bad], "link_distance_m", "distance_mismatch", lambda row: f"{words[row]:.0f} m between the coordinates"
    )


def _best_throughput(table: Table, *names: str) -> tuple[np.ndarray, np.ndarray] | None:
    rows = _sound(table, *names, "channel_throughput_mbps")
    if rows is None:
        return None
    return rows, table["channel_throughput_mbps"].highest[rows]


def _throughputs(table: Table, schema: Schema) -> Iterator[Finding]:
    found = _best_throughput(table, "expected_throughput_mbps")
    if found is None:
        return
    rows, best = found
    answer = np.rint(np.minimum(best, phy.ETHERNET_MBPS))
    bad = answer != table["expected_throughput_mbps"].values[rows]
    words = dict(zip(rows[bad].tolist(), answer[bad].tolist(), strict=True))
    yield Finding(
        rows[bad], "expected_throughput_mbps", "target_mismatch",
        lambda row: f"{words[row]:.0f}, the highest of channel_throughput_mbps, at most {phy.ETHERNET_MBPS:.0f}",
    )  # fmt: skip


def _acceptable(table: Table, schema: Schema) -> Iterator[Finding]:
    name = "acceptable_channels_mhz"
    rows = _sound(table, name, aligned=(CANDIDATES, "channel_throughput_mbps"))
    if rows is None:
        return
    lists = _Lists(table, rows, CANDIDATES)
    worth, centres = lists.flat("channel_throughput_mbps"), lists.flat(CANDIDATES)
    best = np.repeat(table["channel_throughput_mbps"].highest[rows], lists.n)
    chosen = worth >= scenarios.ACCEPTABLE_SHARE * best
    counts = np.add.reduceat(chosen.astype(np.int64), lists.starts)
    stated = _Lists(table, rows, name)
    same = counts == stated.n
    # Where the counts agree the two streams of channels line up; compare them row by row.
    right, left = centres[chosen & np.repeat(same, lists.n)], stated.flat(name)[np.repeat(same, stated.n)]
    differs = np.repeat(np.arange(len(rows))[same], stated.n[same])[right != left]
    bad = ~same
    bad[differs] = True
    words = f"the candidates with at least {scenarios.ACCEPTABLE_SHARE:.0%} of the highest channel_throughput_mbps"
    yield Finding(rows[bad], name, "target_mismatch", lambda row: words)


def _gaps(table: Table, schema: Schema) -> Iterator[Finding]:
    found = _best_throughput(table, "second_best_gap_pct")
    if found is None:
        return
    rows, best = found
    lists = _Lists(table, rows, "channel_throughput_mbps")
    worth = lists.flat("channel_throughput_mbps")
    at_top = worth == np.repeat(best, lists.n)
    second = np.maximum.reduceat(np.where(at_top, -1.0, worth), lists.starts)
    second = np.where(np.add.reduceat(at_top.astype(np.int64), lists.starts) > 1, best, second)
    gap_pct = 100.0 * (best - second) / np.maximum(best, 1e-9)
    known = (lists.n > 1) & (best > 0)
    bad = known & (np.abs(gap_pct - table["second_best_gap_pct"].values[rows]) > GAP_TOLERANCE_PCT)
    words = dict(zip(rows[bad].tolist(), gap_pct[bad].tolist(), strict=True))
    yield Finding(
        rows[bad], "second_best_gap_pct", "target_mismatch",
        lambda row: f"{words[row]:.2f} from channel_throughput_mbps",
    )  # fmt: skip


def _signals(table: Table, schema: Schema) -> Iterator[Finding]:
    rows = _sound(table, aligned=("rssi_dbm", "sinr_db", "true_noise_dbm"))
    if rows is None:
        return
    lists = _Lists(table, rows, "rssi_dbm")
    seen = lists.flat("rssi_dbm")
    offset = seen - (lists.flat("sinr_db") + lists.flat("true_noise_dbm"))
    clipped = (seen <= LINK_SCHEMA["rssi_dbm"].low) | (seen >= LINK_SCHEMA["rssi_dbm"].high)
    high = np.maximum.reduceat(np.where(clipped, -np.inf, offset), lists.starts)
    low = np.minimum.reduceat(np.where(clipped, np.inf, offset), lists.starts)
    yield Finding(
        rows[high - low > SIGNAL_TOLERANCE_DB], "rssi_dbm", "signal_mismatch",
        lambda row: "the same distance from sinr_db + true_noise_dbm on every candidate, to 1 dB",
    )  # fmt: skip
