"""The baselines that a model has to beat: simple rules, link rules and boosted trees; each answers every row."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

from linklab.baselines import boosting, link_rules, text_models
from linklab.baselines import simple_rules as simple
from linklab.baselines.problem import Answers, Problem, choices_target, is_link_task, utility_target
from linklab.metrics.predictions import Prediction
from linklab.tasks.task import Target

Rule = Callable[[Problem, Target], Answers]


@dataclasses.dataclass(frozen=True)
class Baseline:
    """A rule for each kind of target. A rule returns a target's answers; None: no answers for such targets."""

    description: str
    class_rule: Rule | None = None
    number_rule: Rule | None = None
    text_rule: Rule | None = None
    role: str = "baseline"
    links_only: bool = False
    needs_groups: bool = False
    needs_choices: bool = False  # rows with their own candidates
    needs_utility: bool = False  # and the worth of each
    needs_text: bool = False  # a shown column of free text
    needs_more_than_text: bool = False  # and other columns

    def rule_for(self, target: Target) -> Rule | None:
        """Return the rule for a target's kind."""
        return {"class": self.class_rule, "number": self.number_rule, "text": self.text_rule}[target.kind]


def _pick(name: str) -> Rule:
    return partial(link_rules.picked_channel, name=name)


BASELINES: dict[str, Baseline] = {
    "random": Baseline(
        "a legal choice at random; the value of a random training row",
        simple.random_class, simple.random_answer, simple.random_answer,
    ),
    "most_frequent": Baseline(
        "the legal choice, or the text, most frequent in training; the training median",
        simple.frequent_class, simple.median_number, simple.frequent_text,
    ),
    "mean": Baseline("the training mean, number targets only", None, simple.mean_number),
    "frequency_by_group": Baseline(
        "the most frequent legal choice, and the median, among training rows of the same group",
        simple.frequent_class_by_group, simple.median_number_by_group, needs_groups=True,
    ),
    "least_noise": Baseline("the channel with the least noise", _pick("least_noise"), links_only=True),
    "least_busy": Baseline("the channel with the least busy air time", _pick("least_busy"), links_only=True),
    "most_snr": Baseline("the channel with the most SNR", _pick("most_snr"), links_only=True),
    "snr_and_busy": Baseline(
        "the channel with the most lg2(1 + SNR) (1 - busy)", _pick("snr_and_busy"), links_only=True,
    ),
    "nearest_row": Baseline(
        "the answer of the training row with the most similar words (TF-IDF)", text_rule=text_models.nearest_text,
    ),
    "text_tfidf": Baseline(
        "TF-IDF of the text columns with logistic or ridge regression",
        text_models.tfidf_class, text_models.tfidf_number, needs_text=True,
    ),
    "boosting_text": Baseline(
        "gradient-boosted trees on the other columns and on the answer of text_tfidf",
        text_models.mixed_class, text_models.mixed_number, needs_text=True, needs_more_than_text=True,
    ),
    "boosting_flat": Baseline(
        "gradient-boosted trees on the row's columns", boosting.flat_class, boosting.flat_number,
    ),
    "boosting_candidates": Baseline(
        "gradient-boosted trees that classify each candidate: the answer or not",
        boosting.candidate_class, boosting.candidate_number, needs_choices=True,
    ),
    "boosting_pointwise": Baseline(
        "gradient-boosted trees that predict each candidate's value, which they see for every training row",
        boosting.pointwise_class, boosting.pointwise_number, needs_utility=True,
    ),
    "formula": Baseline(
        "the generator's own formula on the observed values",
        _pick("formula"), link_rules.formula_number, role="formula", links_only=True,
    ),
    "bayes_ceiling": Baseline(
        "knows formula and report noise: the most probably best channel given the visible columns, under a flat prior",
        link_rules.ceiling_channel, link_rules.ceiling_number, role="ceiling", links_only=True,
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


def answerable(problem: Problem, baseline: Baseline, target: Target) -> bool:
    """Return whether a baseline can answer a target."""
    if baseline.rule_for(target) is None:
        return False
    if baseline.needs_groups and not problem.group_columns(target.kind):
        return False
    if baseline.needs_text and not problem.text_columns:
        return False
    if baseline.needs_more_than_text and len(problem.text_columns) == len(problem.columns):
        return False
    if baseline.needs_utility:
        picker = utility_target(problem.task)
        return picker is not None and (target.kind == "number" or target == picker)
    if baseline.needs_choices:
        return bool(target.choices_from) or (target.kind == "number" and choices_target(problem.task) is not None)
    return True


def predict(problem: Problem, baseline: Baseline) -> tuple[dict[str, Prediction], list[str]]:
    """Return a baseline's predictions by id, and the targets it can answer."""
    targets = [target for target in problem.task.targets if answerable(problem, baseline, target)]
    rules = {target.name: (target, baseline.rule_for(target)) for target in targets}
    answers = {name: rule(problem, target) for name, (target, rule) in rules.items() if rule}
    predictions = {}

    def write(texts: dict[str, str | None]) -> str:
        filled = {name: text or "" for name, text in texts.items()}
        whole = len(filled) == len(problem.task.targets)
        return problem.task.write_answer(filled) if whole else " ".join(filled.values())

    for i, example in enumerate(problem.test):
        texts: dict[str, str | None] = {name: given[i][0] for name, given in answers.items()}
        predictions[example.id] = Prediction(
            id=example.id,
            raw_text=write(texts),
            answer=texts,
            choices={name: given[i][1] for name, given in answers.items() if given[i][1]},
        )
    return predictions, list(answers)
