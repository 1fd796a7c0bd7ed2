"""Rules that choose a channel from the visible columns, and the ceiling of any such rule.

Columns are given as {name: one value per row}; a list column has one list per row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from linklab.radio import phy, scenarios
from linklab.radio.channels import DOMAINS, WIDTHS_MHZ, availability, channel_index, eirp_dbm

_TIE_PER_PCT = 1e-3  # ties in whole dB are common: take the less busy channel, then the lower frequency


class LinkTable:
    """The visible columns as flat arrays, and everything that does not depend on the observed dB and percent."""

    def __init__(self, columns: Mapping[str, Sequence]) -> None:
        self.count = np.array([len(cell) for cell in columns["available_channels_mhz"]])
        self.row = np.repeat(np.arange(len(self.count)), self.count)
        self.first = np.cumsum(self.count) - self.count  # index of each row's first candidate
        self.rssi, self.noise, self.busy = (self._flat(columns[c]) for c in ("rssi_dbm", "noise_dbm", "busy_pct"))
        self.snr = self.rssi - self.noise
        channel = channel_index(self._flat(columns["available_channels_mhz"]).astype(int))
        domain = np.array([DOMAINS.index(name) for name in columns["regulatory_domain"]])[self.row]
        gain, power, radar, d_m, width = (
            np.array(columns[c], float)
            for c in ("antenna_gain_dbi", "tx_power_dbm", "radar_events_per_day", "link_distance_m",
                      "channel_bandwidth_mhz")
        )  # fmt: skip
        self.head_db = (power + gain)[self.row] - eirp_dbm(domain, channel, power[self.row], gain[self.row])
        self.available = availability(domain, channel, radar[self.row])
        standard = np.array([phy.STANDARDS.index(name) for name in columns["radio_standard"]])
        level = np.searchsorted(WIDTHS_MHZ, width)
        self.steps = phy.goodput_steps(phy.goodput_mbps(standard, level, d_m / 1000.0))[:, self.row]

    def _flat(self, cells: Sequence) -> np.ndarray:
        return np.concatenate([np.asarray(cell, float) for cell in cells]) if len(cells) else np.zeros(0)

    def split(self, flat: np.ndarray) -> list[np.ndarray]:
        """Return one array per row of a flat array over all candidates."""
        return np.split(flat, np.cumsum(self.count)[:-1]) if len(self.count) else []

    def throughput(self, snr_db: np.ndarray, busy_pct: np.ndarray) -> np.ndarray:
        """Return the expected throughput in Mbit/s of every candidate, all rows one after the other."""
        usable = self.available * (1 - busy_pct / 100)
        return phy.expected_throughput_mbps(snr_db, self.head_db, usable, self.steps)

    def argmax(self, flat: np.ndarray) -> np.ndarray:
        """Return the index within its row of each row's largest value, the first of equal ones: (n_rows,)."""
        best = np.maximum.reduceat(flat, self.first)
        at = np.where(flat == best[self.row], np.arange(len(flat)), len(flat))
        return np.minimum.reduceat(at, self.first) - self.first


PICKERS: dict[str, Callable[[LinkTable], np.ndarray]] = {  # scores of all candidates of a table
    "random": lambda table: np.random.Generator(np.random.Philox(0)).random(len(table.snr)),
    "least_noise": lambda table: -table.noise - _TIE_PER_PCT * table.busy,
    "least_busy": lambda table: -table.busy + _TIE_PER_PCT * table.snr,
    "most_snr": lambda table: table.snr - _TIE_PER_PCT * table.busy,
    "snr_and_busy": lambda table: np.log2(1 + 10 ** (table.snr / 10)) * (1 - table.busy / 100),
    "formula": lambda table: table.throughput(table.snr, table.busy),
}


def pick(name: str, columns: dict[str, list]) -> list[np.ndarray]:
    """Scores of a rule in PICKERS: one array per row, aligned with its candidates; the rule chooses the largest."""
    table = LinkTable(columns)
    return table.split(PICKERS[name](table))


def formula_throughput(columns: dict[str, list]) -> list[np.ndarray]:
    """Expected throughput in Mbit/s of every candidate on the observed values, at most the Ethernet rate."""
    table = LinkTable(columns)
    return table.split(np.minimum(table.throughput(table.snr, table.busy), phy.ETHERNET_MBPS))


def sample_true_states(
    table: LinkTable, preset: str, rng: np.random.Generator, *, draws: int, min_gap: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return (share of the true states in which each candidate is best (n_candidates,), best Mbit/s (draws, n_rows)).

    A true state is drawn given the observation: observation minus drawn noise and rounding, under a flat prior. States
    in which the best does not beat the second by `min_gap` are dropped (their best is NaN): such a row would not be in
    the data. If all states of a row are dropped, its shares are those of all of them.
    """
    noise = scenarios.PRESETS[preset]
    n, n_rows = len(table.rssi), len(table.count)
    wins, any_wins = np.zeros(n), np.zeros(n)
    bests = np.full((draws, n_rows), np.nan)
    for draw in range(draws):
        rssi = table.rssi - (noise.rssi_db * rng.standard_normal(n_rows))[table.row] + rng.random(n) - 0.5
        noise_dbm = table.noise - noise.noise_db * rng.standard_normal(n) + rng.random(n) - 0.5
        busy = np.clip(table.busy - noise.busy_pct * rng.standard_normal(n) + rng.random(n) - 0.5, 0, 100)
        throughput = table.throughput(rssi - noise_dbm, busy)
        winner = table.first + table.argmax(throughput)
        best = throughput[winner]
        throughput[winner] = -1.0
        kept = np.maximum.reduceat(throughput, table.first) <= (1 - min_gap) * best
        any_wins[winner] += 1
        wins[winner] += kept
        bests[draw, kept] = best[kept]
    all_dropped = np.isnan(bests).all(axis=0)
    wins = np.where(all_dropped[table.row], any_wins, wins)
    return wins / np.add.reduceat(wins, table.first)[table.row], bests


def bayes_ceiling(columns: dict[str, list], preset: str, draws: int = 40, min_gap: float = 0.02) -> dict[str, float]:
    """How often the best possible rule is right, given only the visible columns.

    The rule takes the channel that is best in most true states (see `sample_true_states`). Returns `ceiling`, the mean
    share of states in which that channel is best, and `achieved`, how often it is the label (NaN without
    recommended_channel_mhz).
    """
    table = LinkTable(columns)
    rng = np.random.Generator(np.random.Philox(0))
    shares, _ = sample_true_states(table, preset, rng, draws=draws, min_gap=min_gap)
    modal = table.argmax(shares)
    share = shares[table.first + modal]
    result = {"ceiling": float(share.mean()), "achieved": float("nan")}
    if "recommended_channel_mhz" in columns:
        chosen = [cell[at] for cell, at in zip(columns["available_channels_mhz"], modal, strict=True)]
        labels = np.array(columns["recommended_channel_mhz"], float)
        result["achieved"] = float((np.array(chosen, float) == labels).mean())
    return result


def hardness(columns: dict[str, list], preset: str, min_gap: float = 0.02) -> dict:
    """Accuracy and mean regret of every picker, the most frequent channel and the Bayes ceiling of a table of rows.

    Reads the targets and channel_throughput_mbps too. most_frequent is fitted on the same rows.
    """
    table = LinkTable(columns)
    truth = np.concatenate([np.asarray(cell, float) for cell in columns["channel_throughput_mbps"]])
    centres = np.concatenate([np.asarray(cell, int) for cell in columns["available_channels_mhz"]])
    labels = np.array(columns["recommended_channel_mhz"], int)
    best = np.maximum.reduceat(truth, table.first)
    times = np.bincount(labels, minlength=centres.max() + 1)  # of each channel
    scores = {"most_frequent": times[centres]} | {name: score(table) for name, score in PICKERS.items()}
    pickers = {}
    for name, score in scores.items():
        chosen = table.first + table.argmax(score)
        regret = 1 - truth[chosen] / best
        pickers[name] = {"accuracy": float((centres[chosen] == labels).mean()), "regret": float(regret.mean())}
    answer = np.array(columns["expected_throughput_mbps"], float)
    guess = np.minimum(np.maximum.reduceat(scores["formula"], table.first), phy.ETHERNET_MBPS)
    return {
        "rows": len(labels),
        "candidates_mean": float(table.count.mean()),
        "classes": int((times > 0).sum()),
        "top_class_share": float(times.max() / len(labels)),
        "pickers": pickers,
        "bayes": bayes_ceiling(columns, preset, min_gap=min_gap),
        "throughput_mae_mbps": {
            "mean": float(np.abs(answer - answer.mean()).mean()),
            "formula": float(np.abs(answer - guess).mean()),
        },
    }
