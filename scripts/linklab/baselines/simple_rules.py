"""Rules that only count training answers: a random one, the most frequent, mean, median, over all or by group."""

from __future__ import annotations

import collections
import statistics
from collections.abc import Sequence

import numpy as np

from linklab.baselines.problem import Answers, Problem, Ranking, answer_first, rank, training_numbers, write_numbers
from linklab.tasks.examples import Example
from linklab.tasks.task import Target


def _constant(problem: Problem, target: Target, value: float) -> Answers:
    return write_numbers(problem, target, [value] * len(problem.test))


def random_class(problem: Problem, target: Target) -> Answers:
    """Rank the legal choices at random."""
    rng = np.random.default_rng([problem.seed, 1])
    rankings = []
    for example in problem.test:
        choices = list(example.choices[target.name])
        rankings.append(rank([choices[i] for i in rng.permutation(len(choices))], [1.0] * len(choices)))
    return answer_first(rankings)


def random_answer(problem: Problem, target: Target) -> Answers:
    """Answer with the value of a random training row."""
    rng = np.random.default_rng([problem.seed, 2])
    drawn = rng.integers(0, len(problem.train), len(problem.test))
    return [(problem.train[i].target[target.name], []) for i in drawn]


def frequent_text(problem: Problem, target: Target) -> Answers:
    """Answer with the most frequent training answer, the first of equally frequent ones."""
    counts = collections.Counter(example.target[target.name] for example in problem.train)
    return [(counts.most_common(1)[0][0], [])] * len(problem.test)


def frequent_class(problem: Problem, target: Target) -> Answers:
    """Rank the legal choices by how often each is the answer in training (plus one, so that none is impossible)."""
    counts = collections.Counter(example.target[target.name] for example in problem.train)
    return answer_first([_by_count(example.choices[target.name], counts) for example in problem.test])


def _by_count(choices: Sequence[str], counts: collections.Counter) -> Ranking:
    return rank(choices, [counts[choice] + 1 for choice in choices])


def frequent_class_by_group(problem: Problem, target: Target) -> Answers:
    """Like frequent_class, but counts only training rows with the same values in the group columns.

    A row of an unseen group gets the overall counts; among equal counts in a group, the overall more frequent is first.
    """
    columns = problem.group_columns("class")
    overall = collections.Counter(example.target[target.name] for example in problem.train)
    groups: dict[tuple, collections.Counter] = collections.defaultdict(collections.Counter)
    for example in problem.train:
        groups[_group(example, columns)][example.target[target.name]] += 1
    rankings = []
    for example in problem.test:
        counts = groups.get(_group(example, columns), overall)
        choices = sorted(example.choices[target.name], key=lambda choice: -overall[choice])
        rankings.append(_by_count(choices, counts))
    return answer_first(rankings)


def _group(example: Example, columns: Sequence[str]) -> tuple[str, ...]:
    return tuple(example.row[name] for name in columns)


def mean_number(problem: Problem, target: Target) -> Answers:
    """Answer with the mean of the training rows: the best constant for RMSE."""
    return _constant(problem, target, float(training_numbers(problem, target).mean()))


def median_number(problem: Problem, target: Target) -> Answers:
    """Answer with the median of the training rows: the best constant for MAE."""
    return _constant(problem, target, float(np.median(training_numbers(problem, target))))


def median_number_by_group(problem: Problem, target: Target) -> Answers:
    """Answer with the median of the training rows with the same values in the group columns."""
    columns = problem.group_columns("number")
    groups: dict[tuple, list[float]] = collections.defaultdict(list)
    for example, value in zip(problem.train, training_numbers(problem, target), strict=True):
        groups[_group(example, columns)].append(float(value))
    medians = {group: statistics.median(values) for group, values in groups.items()}
    overall = float(np.median(training_numbers(problem, target)))
    values = [medians.get(_group(example, columns), overall) for example in problem.test]
    return write_numbers(problem, target, values)
