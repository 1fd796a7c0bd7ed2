"""What every baseline is given, and the form of what it answers: texts, and choices ranked."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

Ranking = list[tuple[str, float | None]]
Answers = list[tuple[str, Ranking]]  # one (text, ranking) a row

GROUPS_FOR_LINKS = {
    "class": ("regulatory_domain", "channel_bandwidth_mhz"),  # what decides which channels are legal
    "number": ("radio_standard", "channel_bandwidth_mhz"),  # what decides the PHY rate
}


@dataclasses.dataclass(frozen=True)
class Problem:
    """What every baseline is given: training rows with their answers, and the rows to answer."""

    train: Sequence
    test: Sequence
    task: object
    seed: int = 0
    group_by: tuple[str, ...] = ()
    preset: str = "standard"  # links: how noisy the radio's reports are, for the ceiling
    _made: dict = dataclasses.field(default_factory=dict, compare=False, repr=False)

    def remember(self, what: str, make: Callable[[], object]) -> object:
        """Return what `make` gave the first time: two rules of one baseline share a fitted model."""
        if what not in self._made:
            self._made[what] = make()
        return self._made[what]

    def group_columns(self, kind: str) -> tuple[str, ...]:
        """Return the columns that frequency_by_group groups by; none where the file gives no hint."""
        if self.group_by:
            return self.group_by
        return GROUPS_FOR_LINKS[kind] if is_link_task(self.task) else ()


def is_link_task(task) -> bool:
    """Say whether the rows are links, with everything the radio rules read."""
    names = {column.name for column in task.schema.columns}
    return {"available_channels_mhz", "rssi_dbm", "noise_dbm", "busy_pct", "radio_standard"} <= names


def choices_target(task):
    """Return the first class target whose rows bring their own candidates, or None."""
    return next((target for target in task.targets if target.choices_from), None)


def utility_target(task):
    """Return the first class target whose rows bring candidates and say what each is worth, or None."""
    return next((target for target in task.targets if target.choices_from and target.utility), None)


def write_numbers(problem: Problem, target, values: Sequence[float]) -> Answers:
    """Write numbers as the training answers are written: their most digits after the point, no "-0"."""
    digits = max((len(example.target[target.name].partition(".")[2]) for example in problem.train), default=0)
    texts = [f"{value:.{digits}f}" for value in values]
    return [(text.removeprefix("-") if float(text) == 0 else text, []) for text in texts]


def rank(choices: Sequence[str], probabilities: Sequence[float]) -> Ranking:
    """Return the choices, most probable first (ties keep their order), with log-probabilities that sum to 1."""
    lifted = [max(probability, 1e-9) for probability in probabilities]  # a log-probability must be finite
    total = sum(lifted)
    order = sorted(range(len(choices)), key=lambda i: -lifted[i])
    return [(choices[i], math.log(lifted[i] / total)) for i in order]


def rank_without_probability(choices: Sequence[str], scores: Sequence[float]) -> Ranking:
    """Return the choices by score, largest first, for a rule that has no probabilities."""
    return [(choices[i], None) for i in sorted(range(len(choices)), key=lambda i: -scores[i])]
