"""Check that a run's files agree with each other and with its manifest: edited figures must not be compared."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from linklab.cli import UserError
from linklab.manifest import MANIFEST, find_changed, read_manifest
from linklab.metrics import intervals
from linklab.metrics.comparison import FILES, ScoredRun
from linklab.metrics.metrics import METRICS_FILE, ROWS_FILE, score_target
from linklab.metrics.predictions import FILE as PREDICTIONS_FILE
from linklab.metrics.predictions import Prediction, read_predictions
from linklab.metrics.row_scores import INVALID, JudgedRows, answer_of, hash_ids
from linklab.tables.schema import read_number

AGAIN = "the run's figures contradict each other: score it again"
TOLERANCE = 1e-6  # relative; row_scores.csv holds twelve digits


def verify(run: ScoredRun) -> None:
    """Raise a UserError that names a file of a run that changed or contradicts the others.

    Checked: the hashes of the manifest; ids; each row's scores against its answer; the answers against
    predictions.jsonl; every value in metrics.json against the rows. Only the manifest protects intervals.
    """
    _check_manifest(run.folder)
    if len(set(run.ids)) < len(run.ids) or hash_ids(run.ids) != run.metrics["hashes"].get("data"):
        raise UserError(f"{run.folder / ROWS_FILE}: the ids are not those of {METRICS_FILE}; {AGAIN}")
    predictions = read_predictions(run.folder / PREDICTIONS_FILE, run.ids)
    for target in run.metrics["targets"]:
        rows = judged_rows(run, target)
        _check_rows(run, rows)
        _check_predictions(run, rows, predictions)
        _check_metrics(run, rows)


def _check_manifest(folder: Path) -> None:
    """Check a run's files against its own manifest, or against that of its parent folder."""
    for place in (folder, folder.resolve().parent):
        if not (place / MANIFEST).is_file():
            continue
        outputs = {(place / entry["path"]).resolve(): entry for entry in read_manifest(place)["outputs"]}
        own = [outputs[path] for name in FILES if (path := (folder / name).resolve()) in outputs]
        if len(own) == len(FILES):
            if changed := find_changed(own, place):
                raise UserError(f"{changed} since the run was scored; restore it, or score again")
            return
    raise UserError(f"{folder}: no {MANIFEST} lists these files, so they may have been edited; "
                    f"score with evaluate_model.py or run_baselines.py")  # fmt: skip


def judged_rows(run: ScoredRun, target: str) -> JudgedRows:
    """Return one target's judged rows, read from row_scores.csv."""
    columns = {
        name.rsplit("/", 1)[1]: column for name, column in run.columns.items() if name.rsplit("/", 1)[0] == target
    }
    truth, answers = (run.texts.get(f"{target}/{name}") for name in ("true", "answer"))
    if truth is None or answers is None:
        raise UserError(f"{run.folder / ROWS_FILE}: no '{target}/true' and '{target}/answer'; {AGAIN}")
    if "mae" in columns:
        true, given = ([read_number(text) for text in texts] for texts in (truth, answers))
        unit = (run.entry(f"{target}/mae") or {}).get("unit", "")
        return JudgedRows(target, "number", unit, true, given, columns)
    sure = run.texts.get(f"{target}/confidence")
    confidences = np.array([read_number(text) for text in sure]) if sure else None
    kind = "class" if "accuracy" in columns else "text"
    return JudgedRows(target, kind, "", truth, [text or INVALID for text in answers], columns, confidences)


def _check_rows(run: ScoredRun, rows: JudgedRows) -> None:
    """Check the scores of each row against its truth and answer."""
    if rows.kind == "number":
        answers = np.array(rows.answers)
        expected = {
            "mae": np.abs(np.where(np.isnan(answers), 0.0, answers) - np.array(rows.truth)),
            "invalid_share": np.isnan(answers).astype(float),
        }
    else:
        expected = {"invalid_share": np.array([float(answer == INVALID) for answer in rows.answers])}
        if rows.kind == "class":
            expected["accuracy"] = np.array(
                [float(a == true) for a, true in zip(rows.answers, rows.truth, strict=True)]
            )
    for name, values in expected.items():
        found = rows.columns.get(name)
        wrong = None if found is None else np.flatnonzero(~np.isclose(found, values, rtol=TOLERANCE, atol=1e-9))
        if wrong is None or len(wrong):
            row = f"row '{run.ids[wrong[0]]}' " if wrong is not None and len(wrong) else ""
            raise UserError(f"{run.folder / ROWS_FILE}: {row}'{rows.target}/{name}' does not match its answer; {AGAIN}")


def _check_predictions(run: ScoredRun, rows: JudgedRows, predictions: dict[str, Prediction]) -> None:
    """Check that the judged answers are those of predictions.jsonl."""
    for row_id, answer in zip(run.ids, rows.answers, strict=True):
        given = answer_of(predictions[row_id], rows.target)
        if rows.kind == "number":
            number = read_number(given)
            same = math.isclose(number, answer, rel_tol=TOLERANCE) or (math.isnan(number) and math.isnan(answer))
        else:
            same = answer in (given, INVALID)  # an answer that is not legal stays in predictions.jsonl
        if not same:
            raise UserError(f"{run.folder / PREDICTIONS_FILE}: id '{row_id}' answers {given!r} for '{rows.target}', "
                            f"but {ROWS_FILE} has {answer!r}; {AGAIN}")  # fmt: skip


def _check_metrics(run: ScoredRun, rows: JudgedRows) -> None:
    """Check every value in metrics.json against the rows it was computed from."""
    clusters = intervals.number_clusters(run.groups)
    computed = score_target(rows, clusters, resamples=0, seed=0)
    for name, entry in run.metrics["metrics"].items():
        target, metric = name.rsplit("/", 1)
        if target != rows.target:
            continue
        value, expected = entry.get("value"), computed.get(metric, {}).get("value")
        if value is None and (expected is None or math.isnan(expected)):
            continue
        if (
            not isinstance(value, int | float)
            or expected is None
            or not math.isclose(value, expected, rel_tol=1e-5, abs_tol=1e-6)
        ):
            raise UserError(f"{run.folder / METRICS_FILE}: '{name}' is {value}, but {ROWS_FILE} gives "
                            f"{'nothing' if expected is None else f'{expected:.6g}'}; {AGAIN}")  # fmt: skip
