"""A model and a baseline blended into one predictor: does one know something that the other does not?

For a class target, the log-probabilities of both are added, each times its weight (a conditional logit; the common
scale of the two weights is the temperature). For a number target, the answer is a weighted mean of both answers. The
weights are fitted on validation rows only, never on test rows.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from linklab import files
from linklab.cli import UserError
from linklab.metrics import comparison, metrics
from linklab.metrics.comparison import ScoredRun
from linklab.metrics.predictions import FILE as PREDICTIONS_FILE
from linklab.metrics.predictions import Prediction, read_predictions, write_predictions
from linklab.metrics.row_scores import JudgedRows, answer_of, judge_class, judge_number
from linklab.tables.schema import read_number
from linklab.tasks.examples import Example
from linklab.tasks.task import Target

FLOOR = 1e-3  # lowest probability of a choice, times 1 / choices: one very confident miss must not decide the weights
MAX_WEIGHT = 10.0  # the best weights are infinite if they get every validation row right
Predictions = Mapping[str, Prediction]


@dataclasses.dataclass(frozen=True)
class Blend:
    """The blended run, the two it is made of, and per target the weights of the model and of the rival."""

    run: ScoredRun
    model: ScoredRun
    rival: ScoredRun
    weights: dict[str, tuple[float, float]]
    validation_rows: int


def make_blend(
    folder: Path, runs: Sequence[ScoredRun], validation_runs: Sequence[ScoredRun], model: ScoredRun | None, primary: str
) -> Blend:
    """Fit the weights on the validation runs, apply them to the test runs, and write the blended run to `folder`.

    `runs` are the test runs, `primary` is the "target/metric" that ranks them. The rival is the baseline with the best
    `primary` on the validation rows, among those with probabilities (not needed for a number target). Raises a
    UserError if the validation runs have unsuitable rows, or if the model or the rival is missing.
    """
    if model is None:
        raise UserError("--validation-runs needs a tuned model among the runs, or --candidate NAME")
    check_rows(runs, validation_runs)
    needed = needed_column(primary)
    if needed not in model.columns:
        raise UserError(f"run '{model.name}' has no '{needed}', which a blend with a baseline needs; score it without "
                        f"--free (a text target cannot be blended)")  # fmt: skip
    fitted_model = find_twin(model, validation_runs)
    rival, fitted_rival = choose_rival(runs, validation_runs, primary)
    pair = Pair.read(fitted_model, fitted_rival)
    targets = [name for name in model.metrics["targets"] if can_blend(name, [model, rival, fitted_model, fitted_rival])]
    weights = {name: pair.fit(name) for name in targets}
    run = write_blend(folder, Pair.read(model, rival), weights, fitted_model.n)
    return Blend(run, model, rival, weights, fitted_model.n)


def check_rows(runs: Sequence[ScoredRun], validation_runs: Sequence[ScoredRun]) -> None:
    """Raise a UserError unless all validation runs have the same rows of the validation split, and no test row."""
    comparison.check_same_rows(validation_runs, allow_different_prompts=True)
    first = validation_runs[0]
    if (split := first.metrics.get("split")) != "validation":
        raise UserError(f"{first.folder}: rows of the {split} split; --validation-runs takes runs scored with "
                        f"--split validation")  # fmt: skip
    for part, of_runs in (("id", [run.ids for run in (first, runs[0])]), ("group", [first.groups, runs[0].groups])):
        if both := sorted(set(of_runs[0]) & set(of_runs[1])):
            raise UserError(f"{first.folder}: {part} '{both[0]}' is also among the test rows; weights must be "
                            f"fitted on other rows: score the validation split of the same data")  # fmt: skip


def needed_column(primary: str) -> str:
    """Return the per-row column that the metric's target needs: probabilities of a class, the answer of a number."""
    target, metric = primary.rsplit("/", 1)
    return f"{target}/log_loss" if metric == "accuracy" else f"{target}/mae"


def find_twin(run: ScoredRun, validation_runs: Sequence[ScoredRun]) -> ScoredRun:
    """Return the validation run that has this run's label (`model` of metrics.json, evaluate_model.py's --name)."""
    found = [other for other in validation_runs if is_twin(run, other)]
    if len(found) != 1:
        there = ", ".join(f"'{other.metrics.get('model')}'" for other in validation_runs)
        raise UserError(f"--validation-runs: expected 1 run labelled '{run.metrics.get('model')}' like run "
                        f"'{run.name}', found {len(found)}; the labels are: {there}; score it with --split validation "
                        f"and the same --name")  # fmt: skip
    return found[0]


def is_twin(run: ScoredRun, other: ScoredRun) -> bool:
    """Return whether two runs are of one predictor: the same label and the same role."""
    return (run.metrics.get("model"), run.role) == (other.metrics.get("model"), other.role)


def choose_rival(
    runs: Sequence[ScoredRun], validation_runs: Sequence[ScoredRun], primary: str
) -> tuple[ScoredRun, ScoredRun]:
    """Return the test run and the validation run of the baseline that is best on the validation rows."""
    needed = needed_column(primary)
    usable = {run.name: run for run in runs if run.role == "baseline" and needed in run.columns}
    twins = [
        other
        for other in validation_runs
        if needed in other.columns and any(is_twin(run, other) for run in usable.values())
    ]
    best = comparison.best_run(twins, primary)
    if best is None:
        raise UserError(f"--validation-runs: none of the baselines with '{needed}' ({', '.join(usable) or 'none'}) is "
                        f"among them; add the folder of run_baselines.py --split validation")  # fmt: skip
    return next(run for run in usable.values() if is_twin(run, best)), best


def can_blend(target: str, runs: Sequence[ScoredRun]) -> bool:
    """Return whether all of these runs give a class target's probabilities, or a number target's answer."""
    return any(all(f"{target}/{column}" in run.columns for run in runs) for column in ("log_loss", "mae"))


@dataclasses.dataclass(frozen=True)
class Pair:
    """The model's and the rival's predictions on the same rows, in the order of the model's ids."""

    model: ScoredRun
    rival: ScoredRun
    predictions: tuple[Predictions, Predictions]

    @staticmethod
    def read(model: ScoredRun, rival: ScoredRun) -> Pair:
        """Read the predictions of both."""
        first, second = (read_predictions(run.folder / PREDICTIONS_FILE, model.ids) for run in (model, rival))
        return Pair(model, rival, (first, second))

    def fit(self, target: str) -> tuple[float, float]:
        """Return the weights of the model and of the rival for one target, fitted on these rows."""
        truths = self.model.texts[f"{target}/true"]
        if f"{target}/log_loss" in self.model.columns:
            rows = [self.choice_scores(row_id, target) for row_id in self.model.ids]
            rows = [(texts, scores) for texts, scores in rows if texts]
            known = [(texts.index(t), s) for (texts, s), t in zip(rows, truths, strict=True) if t in texts]
            if not known:
                raise UserError(f"{self.model.folder}: no row's true '{target}' is among its choices; nothing to fit")
            return fit_weights([scores for _, scores in known], [index for index, _ in known])
        numbers = np.array([self.numbers(row_id, target) for row_id in self.model.ids])
        filled = ~np.isnan(numbers).any(axis=1)
        truth = np.array([read_number(text) for text in truths])
        share = fit_share(numbers[filled, 0], numbers[filled, 1], truth[filled])
        return share, 1 - share

    def choice_scores(self, row_id: str, target: str) -> tuple[list[str], np.ndarray]:
        """Return a row's choices and their log-probabilities (choices, 2); zeros for a predictor without them.

        A choice that a predictor does not rank, or gives a lower probability, gets FLOOR / choices.
        """
        given = [dict(of[row_id].choices.get(target, [])) for of in self.predictions]
        texts = list(given[0] | given[1])
        scores = np.zeros((len(texts), 2))
        for column, ranking in enumerate(given):
            if ranking and None not in ranking.values():
                least = np.log(FLOOR / len(texts))
                scores[:, column] = [max(ranking.get(text, least) or 0.0, least) for text in texts]
        return texts, scores

    def numbers(self, row_id: str, target: str) -> tuple[float, float]:
        """Return both answers to a number target, NaN for one that is not a number."""
        first, second = (read_number(answer_of(of[row_id], target)) for of in self.predictions)
        return first, second

    def answer(self, row_id: str, weights: Mapping[str, tuple[float, float]]) -> Prediction:
        """Return the blended prediction of one row; if only one of the two gives a number, it is taken."""
        answers: dict[str, str | None] = {}
        choices: dict[str, list[tuple[str, float | None]]] = {}
        for target, pair in weights.items():
            if f"{target}/log_loss" in self.model.columns:
                texts, scores = self.choice_scores(row_id, target)
                choices[target] = rank_choices(texts, scores, pair)
                answers[target] = choices[target][0][0] if texts else None
            else:
                value = mean_number(self.numbers(row_id, target), pair)
                answers[target] = None if np.isnan(value) else f"{value:.10g}"
        raw_text = " ".join(text or "" for text in answers.values())
        return Prediction(row_id, raw_text, answers, None, choices)


def fit_weights(scores: Sequence[np.ndarray], truths: Sequence[int]) -> tuple[float, float]:
    """Return the two weights in [0, MAX_WEIGHT] of the least mean log loss.

    `scores` holds each row's log-probabilities, (choices, 2); `truths` the index of the true choice. The
    probability of a choice is proportional to exp(weights · scores); the loss is convex in the weights.
    """
    from scipy.optimize import minimize
    from scipy.special import logsumexp, softmax

    rows, widest = np.arange(len(scores)), max(map(len, scores))
    padded = np.zeros((len(scores), widest, 2))
    hidden = np.full((len(scores), widest), -np.inf)
    for row, of_row in enumerate(scores):
        padded[row, : len(of_row)] = of_row
        hidden[row, : len(of_row)] = 0.0
    of_truth = padded[rows, list(truths)]

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        totals = padded @ weights + hidden
        expected = np.einsum("rc,rcw->rw", softmax(totals, axis=1), padded)
        value = (logsumexp(totals, axis=1) - of_truth @ weights).mean()
        return value, (expected - of_truth).mean(axis=0)

    found = minimize(loss, [0.5, 0.5], jac=True, method="L-BFGS-B", bounds=[(0.0, MAX_WEIGHT)] * 2)
    return float(found.x[0]), float(found.x[1])


def rank_choices(
    texts: Sequence[str], scores: np.ndarray, weights: tuple[float, float]
) -> list[tuple[str, float | None]]:
    """Return the choices with their blended natural-log probability, best first."""
    from scipy.special import log_softmax

    if not texts:
        return []
    logs = log_softmax(scores @ np.array(weights))
    return [(texts[i], float(logs[i])) for i in np.argsort(-logs, kind="stable")]


def fit_share(first: np.ndarray, second: np.ndarray, truth: np.ndarray) -> float:
    """Return the share in [0, 1] of `first` in a mean of two answers with the least mean absolute error.

    The sum of |truth - second - share · (first - second)| is least at the median of the shares that fit each row
    exactly, each weighted by the difference of the row's two answers. 0.5 if they never differ.
    """
    gaps = first - second
    moves = gaps != 0
    if not moves.any():
        return 0.5
    exact = (truth - second)[moves] / gaps[moves]
    order = np.argsort(exact)
    passed = np.cumsum(np.abs(gaps[moves])[order])
    return float(np.clip(exact[order][np.searchsorted(passed, passed[-1] / 2)], 0.0, 1.0))


def mean_number(numbers: tuple[float, float], weights: tuple[float, float]) -> float:
    """Return the weighted mean of two answers; if one is NaN the other, if both are NaN."""
    filled = [number for number in numbers if not np.isnan(number)]
    if len(filled) < 2:
        return filled[0] if filled else float("nan")
    return numbers[0] * weights[0] + numbers[1] * weights[1]


def write_blend(
    folder: Path, pair: Pair, weights: Mapping[str, tuple[float, float]], validation_rows: int
) -> ScoredRun:
    """Score the blended answers like those of any predictor, write them to `folder`, and return them as a run."""
    model, rival = pair.model, pair.rival
    predictions = {row_id: pair.answer(row_id, weights) for row_id in model.ids}
    examples = [make_example(model, row, predictions[row_id], weights) for row, row_id in enumerate(model.ids)]
    judged = [judge_target(model, examples, predictions, name) for name in weights]
    shown = "; ".join(f"{name} {pair[0]:.2f} and {pair[1]:.2f}" for name, pair in weights.items())
    name = f"{model.name} + {rival.name}"
    result = metrics.score(
        examples, predictions, None, model=name, role="blend", judged=judged,
        description=f"weights fitted on {validation_rows:,} validation rows: {shown}",
    )  # fmt: skip
    result["hashes"] = model.metrics["hashes"]
    write_predictions(folder / PREDICTIONS_FILE, predictions.values())
    metrics.write_row_scores(folder / metrics.ROWS_FILE, examples, judged)
    files.write_json(folder / metrics.METRICS_FILE, result)
    return dataclasses.replace(comparison.read_run(folder), name=name)


def make_example(run: ScoredRun, row: int, prediction: Prediction, targets: Mapping) -> Example:
    """Rebuild the example of a scored row from row_scores.csv: truth, choices and their worth."""
    worth = {name: json.loads(run.texts[f"{name}/worth"][row]) for name in targets if f"{name}/worth" in run.texts}
    choices = {name: [text for text, _ in ranking] for name, ranking in prediction.choices.items()}
    return Example(
        id=run.ids[row], group=run.groups[row], split=run.metrics.get("split", "test"), prompt="", answer="",
        target={name: run.texts[f"{name}/true"][row] for name in targets},
        choices=choices | {name: list(of_choice) for name, of_choice in worth.items()},
        values={name: list(of_choice.values()) for name, of_choice in worth.items()}, row={},
    )  # fmt: skip


def judge_target(run: ScoredRun, examples: Sequence[Example], predictions: Predictions, name: str) -> JudgedRows:
    """Judge one target's rows, as a class or as a number."""
    if f"{name}/log_loss" in run.columns:
        return judge_class(examples, predictions, Target(name, "class"))
    return judge_number(examples, predictions, Target(name, "number", unit=run.unit(f"{name}/mae")))
