"""Rules between the columns of links.csv, checked for many rows at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from linklab.links.links import CANDIDATES, LINK_SCHEMA
from linklab.radio import channels, phy, propagation, scenarios
from linklab.tables.cells import BrokenRule, CheckedColumns, RowLists, complete_rows
from linklab.tables.schema import Schema

LinkRule = Callable[[CheckedColumns], Iterator[BrokenRule]]

DISTANCE_TOLERANCE_M = 1.0  # both ends are written to 0.1 m, the distance to 1 m
DISTANCE_TOLERANCE_SHARE = 0.001
SIGNAL_TOLERANCE_DB = 1.05  # RSSI is rounded to whole dB: two errors of up to half a dB add up
GAP_TOLERANCE_PCT = 0.011


def has_link_candidates(schema: Schema) -> bool:
    """True for a schema with the candidates of links.csv: `INPUT_RULES` can check its rows."""
    return CANDIDATES in schema.names and schema[CANDIDATES] == LINK_SCHEMA[CANDIDATES]


def is_link_table(columns: CheckedColumns) -> bool:
    """True if at least half of the columns of links.csv are there, with their kinds."""
    same = [
        name for name in LINK_SCHEMA.names if name in columns and columns[name].column.kind == LINK_SCHEMA[name].kind
    ]
    return len(same) >= len(LINK_SCHEMA.names) / 2


def _widths(columns: CheckedColumns) -> Iterator[BrokenRule]:
    rows = complete_rows(columns, "channel_bandwidth_mhz")
    if rows is not None:
        bad = ~np.isin(columns["channel_bandwidth_mhz"].values[rows], channels.WIDTHS_MHZ)
        words = f"one of {', '.join(map(str, channels.WIDTHS_MHZ))} MHz"
        yield BrokenRule(rows[bad], "channel_bandwidth_mhz", "unknown_value", lambda row: words)


def _candidate_order(columns: CheckedColumns) -> Iterator[BrokenRule]:
    rows = complete_rows(columns, CANDIDATES)
    if rows is not None:
        lists = RowLists(columns, rows, CANDIDATES)
        flat = lists.flat(CANDIDATES)
        falls = np.zeros(len(flat), bool)
        falls[1:] = flat[1:] <= flat[:-1]
        falls[lists.starts] = False
        yield BrokenRule(lists.any(falls), CANDIDATES, "candidate_order", lambda row: "rising centres, each once")


_LEGAL = np.zeros((len(channels.DOMAINS), len(channels.WIDTHS_MHZ), 6000), bool)  # by domain, width and MHz
_LEGAL[:, channels.LEVEL, channels.CENTRE_MHZ] = channels.LEGAL


def _legal_channels(columns: CheckedColumns) -> Iterator[BrokenRule]:
    rows = complete_rows(columns, "regulatory_domain", "channel_bandwidth_mhz", CANDIDATES)
    if rows is None:
        return
    width = columns["channel_bandwidth_mhz"].values[rows]
    rows, width = (part[np.isin(width, channels.WIDTHS_MHZ)] for part in (rows, width))
    if not len(rows):
        return
    lists = RowLists(columns, rows, CANDIDATES)
    domains = np.repeat(columns["regulatory_domain"].codes(channels.DOMAINS)[rows], lists.n)
    levels = np.repeat(np.searchsorted(channels.WIDTHS_MHZ, width), lists.n)
    bad = lists.any(~_LEGAL[domains, levels, lists.flat(CANDIDATES).astype(np.int64)])

    def expected(row: int) -> str:
        domain, width = columns["regulatory_domain"].text(row), int(columns["channel_bandwidth_mhz"].values[row])
        centres = channels.CENTRE_MHZ[channels.legal_channels(domain, width)]
        return f"centres {domain} allows at {width} MHz: {', '.join(map(str, centres)) or 'none'}"

    yield BrokenRule(bad, CANDIDATES, "illegal_channel", expected)


def _mismatch(column: str, code: str, rows: np.ndarray, bad: np.ndarray, computed: np.ndarray, text: str) -> BrokenRule:
    """Return the broken rule of cells that must equal a computed number; `text` is the format of that number.

    `rows`, `bad` and `computed` have one element per checked row.
    """
    number_of = dict(zip(rows[bad].tolist(), computed[bad].tolist(), strict=True))
    return BrokenRule(rows[bad], column, code, lambda row: text.format(number_of[row]))


def _distances(columns: CheckedColumns) -> Iterator[BrokenRule]:
    names = ("lat_a", "lon_a", "lat_b", "lon_b", "link_distance_m")
    rows = complete_rows(columns, *names)
    if rows is None:
        return
    *ends, stated_m = (columns[name].values[rows] for name in names)
    true_m = np.asarray(1000.0 * propagation.haversine_km(*ends))
    bad = np.abs(stated_m - true_m) > DISTANCE_TOLERANCE_M + DISTANCE_TOLERANCE_SHARE * true_m
    text = "{:.0f} m between the coordinates"
    yield _mismatch("link_distance_m", "distance_mismatch", rows, bad, true_m, text)


def _throughputs(columns: CheckedColumns) -> Iterator[BrokenRule]:
    rows = complete_rows(columns, "expected_throughput_mbps", "channel_throughput_mbps")
    if rows is None:
        return
    answer = np.rint(np.minimum(columns["channel_throughput_mbps"].highest[rows], phy.ETHERNET_MBPS))
    bad = answer != columns["expected_throughput_mbps"].values[rows]
    text = f"{{:.0f}}, the highest of channel_throughput_mbps, at most {phy.ETHERNET_MBPS:.0f}"
    yield _mismatch("expected_throughput_mbps", "target_mismatch", rows, bad, answer, text)


def _acceptable(columns: CheckedColumns) -> Iterator[BrokenRule]:
    name = "acceptable_channels_mhz"
    rows = complete_rows(columns, name, aligned=(CANDIDATES, "channel_throughput_mbps"))
    if rows is None:
        return
    lists = RowLists(columns, rows, CANDIDATES)
    worth, centres = lists.flat("channel_throughput_mbps"), lists.flat(CANDIDATES)
    best = np.repeat(columns["channel_throughput_mbps"].highest[rows], lists.n)
    chosen = worth >= scenarios.ACCEPTABLE_SHARE * best
    counts = np.add.reduceat(chosen.astype(np.int64), lists.starts)
    stated = RowLists(columns, rows, name)
    same = counts == stated.n
    # Only rows with equal counts: their channels align element by element.
    right, left = centres[chosen & np.repeat(same, lists.n)], stated.flat(name)[np.repeat(same, stated.n)]
    differs = np.repeat(np.arange(len(rows))[same], stated.n[same])[right != left]
    bad = ~same
    bad[differs] = True
    words = f"the candidates with at least {scenarios.ACCEPTABLE_SHARE:.0%} of the highest channel_throughput_mbps"
    yield BrokenRule(rows[bad], name, "target_mismatch", lambda row: words)


def _gaps(columns: CheckedColumns) -> Iterator[BrokenRule]:
    rows = complete_rows(columns, "second_best_gap_pct", "channel_throughput_mbps")
    if rows is None:
        return
    best = columns["channel_throughput_mbps"].highest[rows]
    lists = RowLists(columns, rows, "channel_throughput_mbps")
    worth = lists.flat("channel_throughput_mbps")
    at_top = worth == np.repeat(best, lists.n)
    second = np.maximum.reduceat(np.where(at_top, -1.0, worth), lists.starts)
    second = np.where(np.add.reduceat(at_top.astype(np.int64), lists.starts) > 1, best, second)
    gap_pct = 100.0 * (best - second) / np.maximum(best, 1e-9)
    known = (lists.n > 1) & (best > 0)
    bad = known & (np.abs(gap_pct - columns["second_best_gap_pct"].values[rows]) > GAP_TOLERANCE_PCT)
    text = "{:.2f} from channel_throughput_mbps"
    yield _mismatch("second_best_gap_pct", "target_mismatch", rows, bad, gap_pct, text)


def _signals(columns: CheckedColumns) -> Iterator[BrokenRule]:
    rows = complete_rows(columns, aligned=("rssi_dbm", "sinr_db", "true_noise_dbm"))
    if rows is None:
        return
    lists = RowLists(columns, rows, "rssi_dbm")
    seen = lists.flat("rssi_dbm")
    offset = seen - (lists.flat("sinr_db") + lists.flat("true_noise_dbm"))
    clipped = (seen <= LINK_SCHEMA["rssi_dbm"].low) | (seen >= LINK_SCHEMA["rssi_dbm"].high)
    high = np.maximum.reduceat(np.where(clipped, -np.inf, offset), lists.starts)
    low = np.minimum.reduceat(np.where(clipped, np.inf, offset), lists.starts)
    yield BrokenRule(
        rows[high - low > SIGNAL_TOLERANCE_DB], "rssi_dbm", "signal_mismatch",
        lambda row: "the same distance from sinr_db + true_noise_dbm on every candidate, to 1 dB",
    )  # fmt: skip


INPUT_RULES: tuple[LinkRule, ...] = (_widths, _legal_channels)  # for links without an answer; candidates in any order
LINK_RULES: tuple[LinkRule, ...] = (
    _widths, _candidate_order, _legal_channels, _distances, _throughputs, _acceptable, _gaps, _signals,
)  # fmt: skip
