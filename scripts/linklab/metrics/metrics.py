"""One scorer for models and baselines: predictions and examples in, every metric with its 95 % interval out."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from linklab import files
from linklab.cli import UserError
from linklab.metrics import intervals
from linklab.metrics.predictions import FILE as PREDICTIONS_FILE
from linklab.metrics.predictions import Prediction, write_predictions
from linklab.metrics.row_scores import INVALID, TOP_K, JudgedRows, hash_rows, judge_class, judge_number

ROLES = ("tuned", "base", "baseline", "formula", "ceiling")
METRICS_FILE, ROWS_FILE, SAMPLES_FILE = "metrics.json", "row_scores.csv", "samples.json"
COST = ("seconds", "rows_per_second", "parameters", "peak_memory_mb")
BINS = 10  # of confidence, in the reliability plot and the calibration error
SAMPLES = 3  # prompts shown in the report
HIGHER_IS_BETTER = {
    "accuracy": True, "macro_f1": True, "regret": False, "within_5pct": True, "invalid_share": False,
    "log_loss": False, "ece": False, "mae": False, "rmse": False, "r2": True, "mape": False, "median_ae": False,
    "within_10pct": True,
}  # fmt: skip
_SHARES = ("accuracy", "within_5pct", "within_10pct", "invalid_share")
_IN_TARGET_UNIT = ("mae", "rmse", "median_ae")

Statistic = Callable[[np.ndarray], np.ndarray]


def is_share(metric: str) -> bool:
    """Say whether a metric is a share of rows (Wilson's interval) rather than a mean or a ratio (bootstrap)."""
    return metric in _SHARES or (metric.startswith("top") and metric.endswith("_accuracy"))


def higher_is_better(metric: str) -> bool:
    """Return the direction of a metric named without its target."""
    return HIGHER_IS_BETTER.get(metric, True)  # top{k}_accuracy is the only family of names


def score(
    examples: Sequence,
    predictions: Mapping[str, Prediction],
    task,
    *,
    model: str = "",
    role: str = "baseline",
    targets: Sequence[str] | None = None,
    cost: Mapping | None = None,
    description: str = "",
    top_k: int = TOP_K,
    resamples: int = intervals.RESAMPLES,
    seed: int = 0,
    judged: Sequence[JudgedRows] | None = None,
) -> dict:
    """Return the metrics.json value of one predictor on these examples.

    `targets` names the targets the predictor has an opinion on (all of the task's by default); the others are left out
    rather than counted as invalid. `resamples=0` leaves the bootstrap intervals out (null). `judged` is what `judge`
    gave for the same rows, where a caller has it.
    """
    assert role in ROLES, role
    judged = judged or judge(examples, predictions, task, targets, top_k)
    clusters = intervals.number_clusters([example.group for example in examples])
    invalid = np.any([rows.columns["invalid_share"] > 0 for rows in judged], axis=0)
    metrics = {}
    for rows in judged:
        for name, entry in _score_target(rows, clusters, resamples, seed).items():
            metrics[f"{rows.target}/{name}"] = entry
    return {
        "model": model,
        "role": role,
        "description": description,
        "split": examples[0].split,
        "targets": [rows.target for rows in judged],
        "n": {"expected": len(examples), "answered": int((~invalid).sum()), "invalid": int(invalid.sum())},
        "groups": int(clusters.max()) + 1,
        "metrics": metrics,
        "hashes": hash_rows(examples),
        "cost": dict.fromkeys(COST) | dict(cost or {}),
    }


def judge(
    examples: Sequence,
    predictions: Mapping[str, Prediction],
    task,
    targets: Sequence[str] | None = None,
    top_k: int = TOP_K,
) -> list[JudgedRows]:
    """Judge every row for each target in `targets`, in the task's order."""
    if not examples:
        raise UserError("no rows to score: the split is empty")
    wanted = [target for target in task.targets if targets is None or target.name in targets]
    if not wanted:
        raise UserError(f"none of {list(targets or [])} is a target; the targets are {[t.name for t in task.targets]}")
    return [
        judge_class(examples, predictions, target, top_k)
        if target.kind == "class"
        else judge_number(examples, predictions, target)
        for target in wanted
    ]


def _score_target(rows: JudgedRows, clusters: np.ndarray, resamples: int, seed: int) -> dict[str, dict]:
    """Return value and interval of each metric of one target."""
    values = {name: float(column.mean()) for name, column in rows.columns.items()}
    statistics = {name: intervals.mean_statistic(column) for name, column in rows.columns.items() if not is_share(name)}
    values |= _class_values(rows) if rows.kind == "class" else _number_values(rows)
    statistics |= class_statistics(rows) if rows.kind == "class" else number_statistics(rows)
    ends = {name: intervals.share_interval(rows.columns[name], clusters) for name in rows.columns if is_share(name)}
    if resamples:
        ends |= intervals.bootstrap(statistics, clusters, resamples=resamples, seed=seed)
    entries = {}
    for name in [*(n for n in HIGHER_IS_BETTER if n in values), *(n for n in values if n not in HIGHER_IS_BETTER)]:
        if math.isnan(values[name]):
            continue
        low, high = (None if end is None or math.isnan(end) else end for end in ends.get(name, (None, None)))
        entries[name] = {
            "value": values[name],
            "low": low,
            "high": high,
            "unit": rows.unit if name in _IN_TARGET_UNIT else "",
            "higher_is_better": higher_is_better(name),
            "n": len(rows.truth),
        }
    return entries


def _class_values(rows: JudgedRows) -> dict[str, float]:
    """Return the class metrics that are no mean over rows, from scikit-learn where it has them."""
    from sklearn.metrics import accuracy_score, f1_score

    labels = occurring_labels(rows)
    values = {
        "accuracy": float(accuracy_score(rows.truth, rows.answers)),
        "macro_f1": float(f1_score(rows.truth, rows.answers, labels=labels, average="macro", zero_division=0)),
    }
    if rows.confidences is not None:
        values["ece"] = float(class_statistics(rows)["ece"](np.ones((1, len(rows.truth))))[0])
    return values


def occurring_labels(rows: JudgedRows) -> list[str]:
    """Return the classes that occur in truth or legal answers, sorted; numbers by size."""
    labels = {*rows.truth, *rows.answers} - {INVALID}
    return sorted(labels, key=label_order)


def label_order(text: str) -> tuple:
    """Sort key that puts 5180 before 10000 and numbers before words."""
    try:
        return (0, float(text), text)
    except ValueError:
        return (1, 0.0, text)


def class_statistics(rows: JudgedRows) -> dict[str, Statistic]:
    """Return macro F1 and calibration error as functions of counts (resamples, rows)."""
    labels = np.array(occurring_labels(rows))
    true = (np.array(rows.truth)[:, None] == labels).astype(float)  # (rows, classes)
    answered = (np.array(rows.answers)[:, None] == labels).astype(float)

    def macro_f1(counts: np.ndarray) -> np.ndarray:
        hits, occurring = counts @ (true * answered), counts @ true + counts @ answered
        f1 = np.divide(2 * hits, occurring, out=np.zeros_like(hits), where=occurring > 0)
        return f1.sum(axis=1) / (occurring > 0).sum(axis=1)

    statistics: dict[str, Statistic] = {"macro_f1": macro_f1}
    if rows.confidences is not None:
        gaps = (rows.columns["accuracy"] - rows.confidences)[:, None]
        gaps = gaps * (confidence_bins(rows.confidences)[:, None] == np.arange(BINS))
        statistics["ece"] = lambda counts: np.abs(counts @ gaps).sum(axis=1) / counts.sum(axis=1)
    return statistics


def confidence_bins(confidences: np.ndarray) -> np.ndarray:
    """Return each confidence's bin, 0 to BINS - 1; a bin holds its upper end."""
    return np.clip(np.ceil(np.asarray(confidences) * BINS).astype(int) - 1, 0, BINS - 1)


def _number_values(rows: JudgedRows) -> dict[str, float]:
    """Return the number metrics from scikit-learn; an invalid answer counts as 0."""
    from sklearn import metrics

    truth, answers = np.array(rows.truth), np.nan_to_num(np.array(rows.answers), nan=0.0)
    values = {
        "mae": float(metrics.mean_absolute_error(truth, answers)),
        "rmse": float(metrics.root_mean_squared_error(truth, answers)),
        "median_ae": float(metrics.median_absolute_error(truth, answers)),
    }
    if len(truth) > 1:
        values["r2"] = float(metrics.r2_score(truth, answers))
    if "mape" in rows.columns:
        values["mape"] = float(metrics.mean_absolute_percentage_error(truth, answers))
    return values


def number_statistics(rows: JudgedRows) -> dict[str, Statistic]:
    """Return RMSE, R2 and median error as functions of counts (resamples, rows)."""
    truth, errors = np.array(rows.truth), rows.columns["mae"]
    centred = truth - truth.mean()  # the spread does not change, and squares of large numbers lose no digits
    order = np.argsort(errors, kind="stable")

    def rmse(counts: np.ndarray) -> np.ndarray:
        return np.sqrt(counts @ errors**2 / counts.sum(axis=1))

    def r2(counts: np.ndarray) -> np.ndarray:
        total = counts.sum(axis=1)
        spread = counts @ centred**2 - (counts @ centred) ** 2 / total
        loss = counts @ errors**2
        # Rounding leaves a constant's spread at about 1e-16 of its squares; scikit-learn then says 0, or 1 if perfect.
        constant = spread <= 1e-12 * np.maximum(counts @ centred**2, np.finfo(float).tiny)
        ratio = np.divide(loss, spread, out=np.zeros_like(loss), where=~constant)
        return np.where(constant, np.where(loss == 0, 1.0, 0.0), 1 - ratio)

    def median_ae(counts: np.ndarray) -> np.ndarray:
        passed = np.cumsum(counts[:, order], axis=1)  # rows drawn with an error up to each
        total = passed[:, -1:]
        below, above = (passed >= np.floor((total + 1) / 2)), (passed >= np.floor(total / 2) + 1)
        return (errors[order][below.argmax(axis=1)] + errors[order][above.argmax(axis=1)]) / 2

    return {"rmse": rmse, "r2": r2, "median_ae": median_ae}


def per_class(rows: JudgedRows) -> list[dict]:
    """Return precision, recall, F1, rows and answers of each class that occurs, from scikit-learn."""
    from sklearn.metrics import precision_recall_fscore_support

    labels = occurring_labels(rows)
    precision, recall, f1, support = precision_recall_fscore_support(
        rows.truth, rows.answers, labels=labels, zero_division=0
    )
    answered = [rows.answers.count(label) for label in labels]
    return [
        {"class": label, "precision": p, "recall": r, "f1": f, "rows": int(s), "answers": a}
        for label, p, r, f, s, a in zip(labels, precision, recall, f1, support, answered, strict=True)
    ]


def write_run(
    folder: str | Path,
    examples: Sequence,
    predictions: Mapping[str, Prediction],
    task,
    *,
    force: bool = False,
    judged: Sequence[JudgedRows] | None = None,
    **options,
) -> dict:
    """Write what later stages need of one predictor, and return its metrics.

    Writes predictions.jsonl, metrics.json, row_scores.csv (id, group, every per-row value: what a paired comparison
    resamples), per_class_TARGET.csv and samples.json (the first rows by id, not picked). `options` are `score`'s.
    """
    folder = Path(folder)
    if judged is None:
        judged = judge(examples, predictions, task, options.get("targets"), options.get("top_k", TOP_K))
    result = score(examples, predictions, task, judged=judged, **options)
    write_predictions(folder / PREDICTIONS_FILE, (predictions[example.id] for example in examples), force=force)
    _write_row_scores(folder / ROWS_FILE, examples, judged, force)
    for rows in judged:
        if rows.kind == "class":
            _write_csv(folder / f"per_class_{rows.target}.csv", per_class(rows), force)
    shown = sorted(examples, key=lambda example: example.id)[:SAMPLES]
    samples = [{"id": e.id, "prompt": e.prompt, "answer": e.answer, "target": e.target} for e in shown]
    files.write_json(folder / SAMPLES_FILE, {"samples": samples}, force=force)
    files.write_json(folder / METRICS_FILE, result, force=force)
    return result


def _write_row_scores(path: Path, examples: Sequence, judged: Sequence[JudgedRows], force: bool) -> None:
    table = [{"id": example.id, "group": example.group} for example in examples]
    for rows in judged:
        columns = {"true": rows.truth, "answer": ["" if _is_missing(answer) else answer for answer in rows.answers]}
        if rows.confidences is not None:
            columns["confidence"] = rows.confidences.tolist()
        for name, column in (columns | {name: column.tolist() for name, column in rows.columns.items()}).items():
            for line, value in zip(table, column, strict=True):
                line[f"{rows.target}/{name}"] = f"{value:.12g}" if isinstance(value, float) else value
    _write_csv(path, table, force)


def _is_missing(answer: str | float) -> bool:
    return answer == INVALID or (isinstance(answer, float) and math.isnan(answer))


def _write_csv(path: Path, table: list[dict], force: bool) -> None:
    with files.atomic_write(path, force=force) as handle:
        writer = csv.DictWriter(handle, fieldnames=list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
