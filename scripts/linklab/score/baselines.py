"""What a model has to beat: simple rules, the field's rules and boosted trees, each answering every row of a split."""

from __future__ import annotations

import collections
import dataclasses
import math
import statistics
from collections.abc import Callable, Sequence

import numpy as np

from linklab.score.predictions import Prediction
from linklab.score.rows import read_number

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


@dataclasses.dataclass(frozen=True)
class Baseline:
    """A named pair of rules. A rule maps (problem, target) to the answers, or is None where it has no opinion."""

    about: str
    class_rule: Callable[[Problem, object], Answers] | None = None
    number_rule: Callable[[Problem, object], Answers] | None = None
    role: str = "baseline"
    links_only: bool = False
    needs_groups: bool = False
    needs_choices: bool = False  # rows that bring their own candidates
    needs_utility: bool = False  # and say what each is worth

    def rule_for(self, target) -> Callable[[Problem, object], Answers] | None:
        """Return the rule for a target's kind."""
        return self.class_rule if target.kind == "class" else self.number_rule


def is_link_task(task) -> bool:
    """Say whether the rows are links, with everything the radio rules read."""
    names = {column.name for column in task.schema.columns}
    return {"available_channels_mhz", "rssi_dbm", "noise_dbm", "busy_pct", "radio_standard"} <= names


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


def _top(rankings: list[Ranking]) -> Answers:
    return [(ranking[0][0], ranking) for ranking in rankings]


def _numbers(problem: Problem, target) -> np.ndarray:
    return np.array([read_number(example.target[target.name]) for example in problem.train])


def _constant(problem: Problem, target, value: float) -> Answers:
    return write_numbers(problem, target, [value] * len(problem.test))


def random_class(problem: Problem, target) -> Answers:
    """Rank the legal choices at random."""
    rng = np.random.default_rng([problem.seed, 1])
    rankings = []
    for example in problem.test:
        choices = list(example.choices[target.name])
        rankings.append(rank([choices[i] for i in rng.permutation(len(choices))], [1.0] * len(choices)))
    return _top(rankings)


def random_number(problem: Problem, target) -> Answers:
    """Answer with the value of a random training row."""
    rng = np.random.default_rng([problem.seed, 2])
    drawn = rng.integers(0, len(problem.train), len(problem.test))
    return [(problem.train[i].target[target.name], []) for i in drawn]


def frequent_class(problem: Problem, target) -> Answers:
    """Rank the legal choices by how often each is the answer in training (plus one, so that none is impossible)."""
    counts = collections.Counter(example.target[target.name] for example in problem.train)
    return _top([_by_count(example.choices[target.name], counts) for example in problem.test])


def _by_count(choices: Sequence[str], counts: collections.Counter) -> Ranking:
    return rank(choices, [counts[choice] + 1 for choice in choices])


def frequent_class_by_group(problem: Problem, target) -> Answers:
    """As frequent_class, counting only training rows with the same values in the group columns.

    A row of an unseen group gets the overall counts; equal counts in a group go to the overall more frequent.
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
    return _top(rankings)


def _group(example, columns: Sequence[str]) -> tuple[str, ...]:
    return tuple(example.row[name] for name in columns)


def mean_number(problem: Problem, target) -> Answers:
    """Answer with the mean of the training rows: the best constant for RMSE."""
    return _constant(problem, target, float(_numbers(problem, target).mean()))


def median_number(problem: Problem, target) -> Answers:
    """Answer with the median of the training rows: the best constant for MAE."""
    return _constant(problem, target, float(np.median(_numbers(problem, target))))


def median_number_by_group(problem: Problem, target) -> Answers:
    """Answer with the median of the training rows with the same values in the group columns."""
    columns = problem.group_columns("number")
    groups: dict[tuple, list[float]] = collections.defaultdict(list)
    for example, value in zip(problem.train, _numbers(problem, target), strict=True):
        groups[_group(example, columns)].append(float(value))
    medians = {group: statistics.median(values) for group, values in groups.items()}
    overall = float(np.median(_numbers(problem, target)))
    values = [medians.get(_group(example, columns), overall) for example in problem.test]
    return write_numbers(problem, target, values)


def _later(module: str, function: str) -> Callable[[Problem, object], Answers]:
    """Return a rule whose module (scikit-learn, the radio room) is imported when it is first used."""

    def rule(problem: Problem, target) -> Answers:
        import importlib

        return getattr(importlib.import_module(f"linklab.score.{module}"), function)(problem, target)

    return rule


def _picker(name: str) -> Callable[[Problem, object], Answers]:
    def rule(problem: Problem, target) -> Answers:
        from linklab.score import link_rules

        return link_rules.picked_channel(problem, target, name)

    return rule


BASELINES: dict[str, Baseline] = {
    "random": Baseline("a legal choice at random; the value of a random training row", random_class, random_number),
    "most_frequent": Baseline(
        "the legal choice most frequent in training; the training median", frequent_class, median_number
    ),
    "mean": Baseline("the training mean, number targets only", None, mean_number),
    "frequency_by_group": Baseline(
        "the most frequent legal choice, and the median, among training rows of the same group",
        frequent_class_by_group, median_number_by_group, needs_groups=True,
    ),
    "least_noise": Baseline("the channel with the least noise", _picker("least_noise"), links_only=True),
    "least_busy": Baseline("the channel with the least busy air time", _picker("least_busy"), links_only=True),
    "most_snr": Baseline("the channel with the most SNR", _picker("most_snr"), links_only=True),
    "snr_and_busy": Baseline(
        "the channel with the most lg2(1 + SNR) (1 - busy)", _picker("snr_and_busy"), links_only=True,
    ),
    "boosting_flat": Baseline(
        "gradient-boosted trees on the row's columns",
        _later("boosting", "flat_class"), _later("boosting", "flat_number"),
    ),
    "boosting_candidates": Baseline(
        "gradient-boosted trees that say of each candidate whether it is the answer",
        _later("boosting", "candidate_class"), _later("boosting", "candidate_number"), needs_choices=True,
    ),
    "boosting_pointwise": Baseline(
        "gradient-boosted trees that predict each candidate's utility, which they are told for every training row",
        _later("boosting", "pointwise_class"), _later("boosting", "pointwise_number"), needs_utility=True,
    ),
    "formula": Baseline(
        "the generator's own formula on the observed values", _later("link_rules", "formula_channel"),
        _later("link_rules", "formula_number"), role="formula", links_only=True,
    ),
    "bayes_ceiling": Baseline(
        "knows formula and report noise: the channel most probably best given what is visible, under a flat prior",
        _later("link_rules", "ceiling_channel"), _later("link_rules", "ceiling_number"), role="ceiling",
        links_only=True,
    ),
}  # fmt: skip


def available(problem: Problem) -> dict[str, Baseline]:
    """Return the baselines that can answer at least one target of the task, in their order.

    For links `mean` is called `mean_throughput`.
    """
    links = is_link_task(problem.task)
    found = {}
    for name, baseline in BASELINES.items():
        fits = any(answerable(problem, baseline, target) for target in problem.task.targets)
        if fits and (links or not baseline.links_only):
            found["mean_throughput" if links and name == "mean" else name] = baseline
    return found


def answerable(problem: Problem, baseline: Baseline, target) -> bool:
    """Say whether a baseline has an opinion on a target."""
    if baseline.rule_for(target) is None:
        return False
    if baseline.needs_groups and not problem.group_columns(target.kind):
        return False
    if baseline.needs_utility:
        picker = utility_target(problem.task)
        return picker is not None and (target.kind == "number" or target == picker)
    if baseline.needs_choices:
        return bool(target.choices_from) or (target.kind == "number" and choices_target(problem.task) is not None)
    return True


def choices_target(task):
    """Return the first class target whose rows bring their own candidates, or None."""
    return next((target for target in task.targets if target.choices_from), None)


def utility_target(task):
    """Return the first class target whose rows bring candidates and say what each is worth, or None."""
    return next((target for target in task.targets if target.choices_from and target.utility), None)


def predict(problem: Problem, baseline: Baseline) -> tuple[dict[str, Prediction], list[str]]:
    """Return a baseline's predictions by id, and the targets it has an opinion on."""
    targets = [target for target in problem.task.targets if answerable(problem, baseline, target)]
    answers = {target.name: baseline.rule_for(target)(problem, target) for target in targets}
    predictions = {}
    for i, example in enumerate(problem.test):
        texts = {name: given[i][0] for name, given in answers.items()}
        predictions[example.id] = Prediction(
            id=example.id,
            raw_text=problem.task.separator.join(texts.values()),
            answer=texts,
            choices={name: given[i][1] for name, given in answers.items() if given[i][1]},
        )
    return predictions, list(answers)
