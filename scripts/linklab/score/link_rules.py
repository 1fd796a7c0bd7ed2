"""The field's own rules for links, on visible columns only, and the most that any rule could reach."""

from __future__ import annotations

import numpy as np

from linklab.radio import phy, pickers, scenarios
from linklab.score.baselines import Answers, Problem, rank, rank_without_probability, write_numbers
from linklab.score.features import read_cell, read_list

PICKERS = {  # what a report calls a rule -> what the radio room calls it
    "least_noise": "least_noise",
    "least_busy": "least_busy",
    "most_snr": "most_snr",
    "snr_and_busy": "snr_and_idle",
    "formula": "formula",
}
CEILING_DRAWS = 200  # worlds imagined a row; the mean posterior has then a standard error of about .03 a row


def visible_columns(examples, schema) -> dict[str, list]:
    """Return the input columns as the radio room reads them: numbers, texts, lists of numbers."""

    def read(column):
        return read_list if column.kind.startswith("list_") else str if column.kind == "str" else read_cell

    return {c.name: [read(c)(example.row[c.name]) for example in examples] for c in schema.by_role("input")}


def picked_channel(problem: Problem, target, name: str) -> Answers:
    """Rank the candidates by a rule's score, without probabilities."""
    scores = pickers.pick(PICKERS[name], visible_columns(problem.test, problem.task.schema))
    rankings = [
        rank_without_probability(example.choices[target.name], row)
        for example, row in zip(problem.test, scores, strict=True)
    ]
    return [(ranking[0][0], ranking) for ranking in rankings]


def formula_channel(problem: Problem, target) -> Answers:
    """Pick the candidate for which the generator's formula gives the most on the observed values."""
    return picked_channel(problem, target, "formula")


def formula_number(problem: Problem, target) -> Answers:
    """Answer with the most the formula gives for any candidate."""
    throughput = pickers.formula_throughput(visible_columns(problem.test, problem.task.schema))
    return write_numbers(problem, target, [float(row.max()) for row in throughput])


def smallest_gap(train) -> float:
    """Return by what share the best candidate beats the second at least: what the rows were filtered by, 0 if none."""
    gaps = [1 - sorted(values)[-2] / max(values) for e in train for values in e.values.values() if len(values) > 1]
    return max(0.0, min(gaps, default=0.0))


def imagine_worlds(
    columns: dict, preset: str, min_gap: float, draws: int, seed: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """Return, a row, the share of worlds each candidate is best in, and the median of the best throughput (Mbit/s).

    A world is what may be true given what the radio shows: the observation minus drawn noise and rounding, under a flat
    prior. Worlds whose best does not beat the second by `min_gap` are forgotten: their row would not be in the data.
    """
    table, noise = pickers._Table(columns), scenarios.PRESETS[preset]
    rng = np.random.default_rng(seed)
    n, n_rows = len(table.rssi), len(table.count)
    first = np.cumsum(table.count) - table.count
    wins, any_wins = np.zeros(n), np.zeros(n)
    bests = np.full((draws, n_rows), np.nan)
    for draw in range(draws):
        rssi = table.rssi - (noise.rssi_db * rng.standard_normal(n_rows))[table.row] + rng.random(n) - 0.5
        noise_dbm = table.noise - noise.noise_db * rng.standard_normal(n) + rng.random(n) - 0.5
        busy = np.clip(table.busy - noise.busy_pct * rng.standard_normal(n) + rng.random(n) - 0.5, 0, 100)
        throughput = table.throughput(rssi - noise_dbm, busy)
        winner = first + table.argmax(throughput)
        best = throughput[winner]
        throughput[winner] = -1.0
        kept = np.maximum.reduceat(throughput, first) <= (1 - min_gap) * best
        any_wins[winner] += 1
        wins[winner] += kept
        bests[draw, kept] = best[kept]
    forgotten = np.isnan(bests).all(axis=0)
    wins = np.where(forgotten[table.row], any_wins, wins)
    bests[0, forgotten] = 0.0  # never seen; keeps the median defined
    return table.split(wins / np.add.reduceat(wins, first)[table.row]), np.nanmedian(bests, axis=0)


def ceiling_channel(problem: Problem, target) -> Answers:
    """Rank the candidates by how many imagined worlds each is best in."""
    shares, _ = _worlds(problem)
    rankings = [
        rank(example.choices[target.name], row.tolist()) for example, row in zip(problem.test, shares, strict=True)
    ]
    return [(ranking[0][0], ranking) for ranking in rankings]


def ceiling_number(problem: Problem, target) -> Answers:
    """Answer with the median of the imagined worlds' best throughput, at most the Ethernet rate: the least MAE."""
    _, medians = _worlds(problem)
    return write_numbers(problem, target, np.minimum(medians, phy.ETHERNET_MBPS).tolist())


def _worlds(problem: Problem) -> tuple[list[np.ndarray], np.ndarray]:
    def make() -> tuple[list[np.ndarray], np.ndarray]:
        columns = visible_columns(problem.test, problem.task.schema)
        return imagine_worlds(columns, problem.preset, smallest_gap(problem.train), CEILING_DRAWS, problem.seed)

    return problem.remember("worlds", make)
