"""Common engineering rules for links, on visible columns only, and the ceiling of any such rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from linklab.baselines.features import parse_list, read_cell
from linklab.baselines.problem import Answers, Problem, is_link_task, rank_rows, rank_without_probability, write_numbers
from linklab.links import pickers
from linklab.links.links import RADIO_COLUMNS
from linklab.radio import phy
from linklab.tables.schema import Column
from linklab.tasks.examples import Example
from linklab.tasks.task import Target, Task

CEILING_DRAWS = 200  # true states drawn per row; the mean posterior then has a standard error of about .03 per row


def visible_columns(problem: Problem) -> dict[str, list]:
    """Return the shown columns of the rows to answer in the form of links.pickers: numbers, texts, lists of numbers."""

    def read(column: Column) -> Callable[[str], object]:
        return parse_list if column.kind.startswith("list_") else str if column.kind == "str" else read_cell

    return {c.name: [read(c)(example.row[c.name]) for example in problem.test] for c in problem.columns}


def picked_channel(problem: Problem, target: Target, name: str) -> Answers:
    """Rank the candidates by a rule's score, without probabilities."""
    return rank_rows(problem, target, pickers.pick(name, visible_columns(problem)), rank_without_probability)


def formula_number(problem: Problem, target: Target) -> Answers:
    """Answer with the highest throughput that the formula gives for any candidate."""
    throughput = pickers.formula_throughput(visible_columns(problem))
    return write_numbers(problem, target, [float(row.max()) for row in throughput])


def rule_worths(example: Example, task: Task) -> Mapping[str, Sequence[float]]:
    """Return the worth of each choice by the simple rule and by the link formula; {} if the row is no complete link.

    snr_and_busy is in bit/s per Hz (capacity by SNR, times the share of free time), formula in Mbit/s.
    """
    if not set(example.row) >= RADIO_COLUMNS or not is_link_task(task):
        return {}
    columns = visible_columns(Problem([], [example], task))
    return {
        "snr_and_busy": pickers.pick("snr_and_busy", columns)[0].tolist(),
        "formula": pickers.formula_throughput(columns)[0].tolist(),
    }


def smallest_gap(train: Sequence[Example]) -> float:
    """Return the smallest share by which the best candidate beats the second: an estimate of --min-gap, 0 if none."""
    gaps = [1 - sorted(values)[-2] / max(values) for e in train for values in e.values.values() if len(values) > 1]
    return max(0.0, min(gaps, default=0.0))


def ceiling_channel(problem: Problem, target: Target) -> Answers:
    """Rank the candidates by the share of true states in which each is best."""
    shares, _ = _true_states(problem)
    return rank_rows(problem, target, [row.tolist() for row in shares])


def ceiling_number(problem: Problem, target: Target) -> Answers:
    """Answer with the median of the true states' best throughput, at most the Ethernet rate: the least MAE."""
    _, medians = _true_states(problem)
    return write_numbers(problem, target, np.minimum(medians, phy.ETHERNET_MBPS).tolist())


def _true_states(problem: Problem) -> tuple[list[np.ndarray], np.ndarray]:
    """Return, per row, the share of true states in which each candidate is best, and their median best throughput."""

    def make() -> tuple[list[np.ndarray], np.ndarray]:
        table = pickers.LinkTable(visible_columns(problem))
        shares, bests = pickers.sample_true_states(
            table, problem.preset, np.random.default_rng(problem.seed), draws=CEILING_DRAWS,
            min_gap=smallest_gap(problem.train),
        )  # fmt: skip
        bests[0, np.isnan(bests).all(axis=0)] = 0.0  # never used; keeps the median defined
        return table.split(shares), np.nanmedian(bests, axis=0)

    return problem.make_once("true states", make)
