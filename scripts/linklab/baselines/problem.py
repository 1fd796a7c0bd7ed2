"""The input of every baseline, and the form of its answers: texts and ranked choices."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np

from linklab.baselines.texts import is_free_text
from linklab.links.links import GROUP_COLUMNS, RADIO_COLUMNS
from linklab.tables.schema import Column, read_number
from linklab.tasks.examples import Example
from linklab.tasks.row_cells import shown_columns
from linklab.tasks.task import Target, Task

T = TypeVar("T")
Ranking = list[tuple[str, float | None]]
Answers = list[tuple[str, Ranking]]  # one (text, ranking) per row


@dataclasses.dataclass(frozen=True)
class Problem:
    """The input of a baseline: training rows with their answers, and the rows to answer.

    A baseline sees the columns that the task's prompt shows, and each row's legal choices, like a model; for links also
    the columns that link rules read (`row_cells.shown_columns`).
    """

    train: Sequence[Example]
    test: Sequence[Example]
    task: Task
    seed: int = 0
    group_by: tuple[str, ...] = ()
    preset: str = "standard"  # links: how noisy the radio's reports are, for the ceiling
    _made: dict = dataclasses.field(default_factory=dict, compare=False, repr=False)

    def make_once(self, name: str, make: Callable[[], T]) -> T:
        """Return the result of the first call of `make`: two rules of one baseline share a fitted model."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    @property
    def columns(self) -> list[Column]:
        """The columns a baseline sees, in the order of the schema."""
        return shown_columns(self.task)

    @property
    def text_columns(self) -> list[Column]:
        """The shown columns that hold free text in the training rows."""

        def find() -> list[Column]:
            texts = [column for column in self.columns if column.kind == "str"]
            return [c for c in texts if is_free_text([example.row[c.name] for example in self.train])]

        return self.make_once("text columns", find)

    def group_columns(self, kind: str) -> tuple[str, ...]:
        """Return the columns that frequency_by_group groups by; none if they are not given and rows are not links."""
        if self.group_by:
            return self.group_by
        return GROUP_COLUMNS[kind] if is_link_task(self.task) else ()


def is_link_task(task: Task) -> bool:
    """Return whether baselines see every column that link rules read."""
    return {column.name for column in shown_columns(task)} >= RADIO_COLUMNS


def choices_target(task: Task) -> Target | None:
    """Return the first class target with candidates in each row, or None."""
    return next((target for target in task.targets if target.choices_from), None)


def utility_target(task: Task) -> Target | None:
    """Return the first class target with candidates and the worth of each in each row, or None."""
    return next((target for target in task.targets if target.choices_from and target.utility), None)


def write_numbers(problem: Problem, target: Target, values: Sequence[float]) -> Answers:
    """Write numbers like the training answers: with the most decimals that occur there, and no "-0"."""
    digits = max((len(example.target[target.name].partition(".")[2]) for example in problem.train), default=0)
    texts = [f"{value:.{digits}f}" for value in values]
    return [(text.removeprefix("-") if float(text) == 0 else text, []) for text in texts]


def rank(choices: Sequence[str], probabilities: Sequence[float]) -> Ranking:
    """Return the choices, most probable first (ties keep their order), with log-probabilities that sum to 1."""
    lifted = [max(probability, 1e-9) for probability in probabilities]  # a log-probability must be finite
    total = sum(lifted)
    order = sorted(range(len(choices)), key=lambda i: -lifted[i])
    return [(choices[i], math.log(lifted[i] / total)) for i in order]


def rank_without_probability(choices: Sequence[str], scores: Sequence[float] | np.ndarray) -> Ranking:
    """Return the choices by score, largest first, for a rule that has no probabilities."""
    return [(choices[i], None) for i in sorted(range(len(choices)), key=lambda i: -scores[i])]


def rank_rows(
    problem: Problem, target: Target, scores: Iterable[Sequence[float] | np.ndarray],
    how: Callable[[Sequence[str], Any], Ranking] = rank,
) -> Answers:  # fmt: skip
    """Rank each row's legal choices by its `scores`, which are probabilities unless `how` says otherwise."""
    rows = zip(problem.test, scores, strict=True)
    return answer_first(how(example.choices[target.name], row) for example, row in rows)


def answer_first(rankings: Iterable[Ranking]) -> Answers:
    """Answer each row with the first of its ranked choices."""
    return [(ranking[0][0], ranking) for ranking in rankings]


def rank_classes(problem: Problem, target: Target, probabilities: np.ndarray, classes: Sequence[str]) -> Answers:
    """Rank each row's legal choices by a model's probabilities (rows to answer, classes), renormalised over them."""
    place = {name: i for i, name in enumerate(classes)}
    return rank_rows(problem, target, (
        [row[place[choice]] if choice in place else 0.0 for choice in example.choices[target.name]]
        for example, row in zip(problem.test, probabilities, strict=True)
    ))  # fmt: skip


def training_numbers(problem: Problem, target: Target) -> np.ndarray:
    """Return the training rows' values of a number target."""
    return np.array([read_number(example.target[target.name]) for example in problem.train])
