"""A learning curve: one model per size and seed, baselines, the fitted power law, and the rows needed for a goal."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from linklab import cli, files
from linklab.cli import UserError
from linklab.manifest import MANIFEST, read_manifest
from linklab.metrics import comparison, intervals
from linklab.metrics.comparison import csv_cell
from linklab.metrics.metric_table import find_metric
from linklab.pipeline import Stage
from linklab.reports import markdown, tables
from linklab.studies import power_law
from linklab.studies.options import MEASURED, CurveSettings
from linklab.studies.runs import StudyRun, plan_training

if TYPE_CHECKING:
    from linklab.tasks.source import Source

BESIDE = ("most_frequent", "boosting_flat", "boosting_candidates", "boosting_pointwise")  # trained on the same rows
CEILING = "bayes_ceiling"  # learns nothing: one size is enough
COLUMNS = ["predictor", "rows", "seed", "metric", "unit", "value", "low", "high", "n", "seconds", "error"]


def plan_runs(settings: CurveSettings, folder: Path, baselines: tuple[list[str], list[str]] | None) -> list[StudyRun]:
    """Return all runs, smallest first, so that half a study is already a curve: a model per seed, then the baselines.

    `baselines` holds the words that select their rows, and their names; None leaves them out.
    """
    runs, scored = [], ["--max-rows", str(settings.test_rows)]
    for rows in sorted(settings.sizes):
        for seed in settings.seeds:
            name, own = f"rows-{rows}-seed-{seed}", ["--max-rows", str(rows), "--seed", str(seed)]
            shown = f"{rows} rows, seed {seed}"
            runs.append(plan_training(settings, folder / "points" / name, name, own, scored, rows, shown))
        if baselines:
            words, names = baselines
            kept = [name for name in names if rows == max(settings.sizes) or name != CEILING]
            own_folder = folder / "points" / f"rows-{rows}-baselines"
            words = [*words, "--only", ",".join(kept), *scored, "--max-train-rows", str(rows), "--seed", "0"]
            words += ["--out-dir", f"{own_folder}/baselines"]
            stage = Stage("baselines", "what a model has to beat", "run_baselines.py", words,
                          own_folder / "baselines" / MANIFEST)  # fmt: skip
            runs.append(StudyRun(own_folder.name, own_folder, (stage,), rows, "baselines"))
    return runs


def choose_baselines(source: Source) -> tuple[list[str], list[str]] | str:
    """Return run_baselines.py's words for the same rows and the names of possible baselines, or why there are none.

    Baselines read columns, so a folder of conversations works only if the CSV it was made from is still there.
    """
    from linklab.baselines import registry
    from linklab.baselines.problem import Problem
    from linklab.tasks.source import open_table_task

    if source.data:
        try:
            source = _source_behind(Path(source.data))
        except UserError as error:
            return str(error)
    _, task = open_table_task(source)
    found = registry.available(Problem([], [], task))
    return source.words(), [name for name in (*BESIDE, CEILING) if name in found]


def _row_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    cli.add_row_options(parser)
    parser.add_argument("--csv")
    for name in ("--split-seed", "--max-rows"):
        parser.add_argument(name, type=int)
    return parser


def _source_behind(folder: Path) -> Source:
    """Return the table that a folder was converted from, according to its manifest."""
    from linklab.tasks.source import Source

    manifest = read_manifest(folder / MANIFEST)
    given, _ = _row_parser().parse_known_args(cli.join_values(manifest["argv"]))
    if given.max_rows:
        raise UserError(f"{folder} was converted from part of its CSV (--max-rows {given.max_rows})")
    for entry in manifest["inputs"]:
        path = Path(entry["path"])
        if not path.exists() or files.sha256_file(path) != entry["sha256"]:
            raise UserError(f"{path}, which {folder} was made from, is gone or has changed")
    return Source.from_args(given)


@dataclasses.dataclass(frozen=True)
class Point:
    """The scores of one predictor trained on `rows` rows."""

    predictor: str
    rows: int
    seed: int | None
    run: comparison.ScoredRun
    seconds: float | None


def read_points(runs: Sequence[StudyRun]) -> list[Point]:
    """Read every finished run; raises a UserError if they were not all scored on the same rows."""
    points = []
    for run in runs:
        if run.error() or run.seconds() is None:
            continue
        if run.kind == "model":
            seed = int(run.name.rsplit("-", 1)[1])
            points.append(Point("model", run.rows, seed, comparison.read_run(run.folder / "evaluation"), run.seconds()))
        else:
            points += [Point(found.name, run.rows, None, found, found.metrics["cost"]["seconds"])
                       for found in comparison.read_runs([run.folder / "baselines"])]  # fmt: skip
    if points:
        comparison.check_same_rows([point.run for point in points])
    return points


@dataclasses.dataclass(frozen=True)
class MetricCurve:
    """The model's curve in one metric, with baselines, ceiling and fitted law."""

    metric: str  # "target/accuracy" or "target/mae"
    unit: str
    sizes: list[int]
    means: list[float]  # per size, over seeds and test rows
    ends: list[tuple[float, float]]  # per size, the 95 % interval
    seeds: list[list[float]]  # per size, the value of each seed
    beside: dict[str, list[tuple[int, float]]]  # baseline -> (rows, value)
    ceiling: float | None
    fitted: power_law.Curve | str

    @property
    def is_share(self) -> bool:
        """True for accuracy (error = 1 - accuracy), False for a mean absolute error."""
        return find_metric(self.metric).higher_is_better

    def value(self, error: Any) -> Any:
        """Convert an error to the metric's value, or a value to the error."""
        return 1 - error if self.is_share else error

    def show(self, value: float) -> str:
        """Return a value with its unit: `48.8 %`, `143 Mbit/s`."""
        text = tables.format_value(self.metric.rsplit("/", 1)[1], value)
        return f"{text} {self.unit}".strip()


def make_curves(points: Sequence[Point], *, resamples: int = 1000) -> list[MetricCurve]:
    """Return the curve of each target's metric, over the sizes with a finished model."""
    models = [point for point in points if point.predictor == "model"]
    if not models:
        return []
    first = models[0].run
    clusters = intervals.number_clusters(first.groups)
    measured = [name for name in first.columns if name.rsplit("/", 1)[1] in MEASURED]
    return [_make_curve(metric, points, models, clusters, resamples) for metric in measured]


def _make_curve(
    metric: str, points: Sequence[Point], models: Sequence[Point], clusters: np.ndarray, resamples: int
) -> MetricCurve:
    share = find_metric(metric).higher_is_better
    sizes = sorted({point.rows for point in models})
    values = []
    for rows in sizes:
        lines = np.array([point.run.columns[metric] for point in models if point.rows == rows])
        values.append(1 - lines if share else lines)
    drawn = power_law.resample_errors(values, clusters, resamples)
    beside, ceiling = _values_beside(metric, points)
    # The ceiling limits accuracy, not a mean absolute error.
    floor = 1 - ceiling if share and ceiling is not None else None
    turn: Callable[[float], float] = (lambda error: 1 - error) if share else (lambda error: error)
    ends = [power_law.interval_of(column) for column in drawn.T]
    return MetricCurve(
        metric, models[0].run.unit(metric), sizes, [turn(float(lines.mean())) for lines in values],
        [(min(map(turn, pair)), max(map(turn, pair))) for pair in ends],
        [[turn(float(line.mean())) for line in lines] for lines in values],
        beside, ceiling, power_law.fit_curve(sizes, values, clusters, floor=floor, resamples=resamples),
    )  # fmt: skip


def _values_beside(metric: str, points: Sequence[Point]) -> tuple[dict[str, list[tuple[int, float]]], float | None]:
    """Return (rows, value) of each baseline by name, and the ceiling's value."""
    beside: dict[str, list[tuple[int, float]]] = {}
    ceiling = None
    for point in points:
        entry = point.run.entry(metric)
        if point.predictor == CEILING and entry:
            ceiling = entry["value"]
        elif point.predictor != "model" and entry:
            beside.setdefault(point.predictor, []).append((point.rows, entry["value"]))
    return beside, ceiling


def find_findings(curves: Sequence[MetricCurve], asked: Sequence[tuple[str, float]]) -> list[str]:
    """Return a sentence per metric and goal, for the report's verdict: "… 70.0 % (goal): about 2,100 rows."."""
    found = []
    for curve in curves:
        if isinstance(curve.fitted, str):
            continue
        for what, value in goals_of(curve, asked):
            needed = power_law.rows_needed(curve.fitted, curve.value(value))
            found.append(f"{curve.metric} {curve.show(value)} ({what}): {power_law.format_rows_needed(needed)}.")
    return found


def goals_of(curve: MetricCurve, asked: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """Return (description, value) of the goals given, and of the best baseline at the largest size."""
    named = [("goal", value) for name, value in asked if name in (curve.metric, curve.metric.rsplit("/", 1)[1])]
    last = {name: found[-1][1] for name, found in curve.beside.items()}
    if last:
        best = (max if curve.is_share else min)(last, key=lambda name: last[name])
        named.append((f"as good as {best} at {max(curve.sizes):,} rows", last[best]))
    return named


def list_cells(
    runs: Sequence[StudyRun], points: Sequence[Point], curves: Sequence[MetricCurve]
) -> Iterator[Sequence[object]]:
    """Yield curve.csv: a line per predictor, size, seed and metric; the model's mean over seeds has the seed `mean`."""
    yield COLUMNS
    for point in points:
        for metric, entry in point.run.metrics["metrics"].items():
            if metric.rsplit("/", 1)[1] in MEASURED:
                ends = map(csv_cell, (entry["value"], entry["low"], entry["high"]))
                seed = "" if point.seed is None else point.seed
                yield [point.predictor, point.rows, seed, metric, entry["unit"], *ends, entry["n"],
                       csv_cell(point.seconds), ""]  # fmt: skip
    for curve in curves:
        for rows, mean, interval in zip(curve.sizes, curve.means, curve.ends, strict=True):
            cells = map(csv_cell, (mean, *interval))
            yield ["model", rows, "mean", curve.metric, curve.unit, *cells, points[0].run.n, "", ""]
    for run in runs:
        if run.error():
            seed = run.name.rsplit("-", 1)[1] if run.kind == "model" else ""
            yield [run.kind, run.rows, seed, "", "", "", "", "", "", "", run.error()]


def write_summary(
    settings: CurveSettings, runs: Sequence[StudyRun], curves: Sequence[MetricCurve], n_test: int, beside_missing: str
) -> str:
    """Return the study in markdown: per metric a table, the law and the rows needed; then the failed runs."""
    trained = [run for run in runs if run.kind == "model"]
    lines = [
        "# Learning curve", "",
        f"{markdown.code(settings.describe())}: "
        f"{len(settings.sizes)} sizes, seeds {', '.join(map(str, settings.seeds))}; every model scored on the same "
        f"{n_test:,} unseen rows.", "",
        f"{_count('run', sum(r.seconds() is not None for r in trained))} of {len(trained)} done, "
        f"{cli.format_seconds(sum(r.seconds() or 0 for r in trained))} of training and scoring.", "",
    ]  # fmt: skip
    for curve in curves:
        lines += format_curve(curve, settings.goal)
    lines += [
        "Intervals are 95 %, with test rows (whole sites) and seeds resampled together. Every training set is part of "
        "the larger ones, and each seed trains on the same rows: the intervals do not cover the chance in which rows "
        "were collected." + (" With one seed they do not cover seeds." if len(settings.seeds) == 1 else ""), "",
    ]  # fmt: skip
    if beside_missing:
        lines += [f"Baselines are left out: {markdown.escape(beside_missing)}.", ""]
    failed = [run for run in runs if run.error()]
    if failed:
        lines += ["## Failed", ""]
        errors = ((run.name, markdown.escape(str(run.error()))) for run in failed)
        lines += [*(f"- {name}: {error} (`points/{name}/log.txt`)" for name, error in errors), ""]
    return "\n".join(lines)


def _count(what: str, n: int) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def format_curve(curve: MetricCurve, asked: Sequence[tuple[str, float]]) -> list[str]:
    """Return a metric's table, law and the rows needed as lines of markdown."""
    name = curve.metric.rsplit("/", 1)[1]
    names = sorted(curve.beside, key=lambda b: -curve.beside[b][-1][1] if curve.is_share else curve.beside[b][-1][1])
    title = f"## {curve.metric.replace('/', ' ')}{', ' if curve.unit else ''}{curve.unit}"
    shown = []
    tables_by_name = {beside: dict(found) for beside, found in curve.beside.items()}
    for rows, mean, ends, seeds in zip(curve.sizes, curve.means, curve.ends, curve.seeds, strict=True):
        beside = [tables_by_name[b].get(rows) for b in names]
        cells = ["–" if value is None else tables.format_value(name, value) for value in beside]
        of_seeds = ", ".join(tables.format_value(name, value) for value in seeds)
        value = f"{tables.format_value(name, mean)} {tables.format_interval(name, *ends)}"
        shown.append([f"{rows:,}", value, of_seeds, *cells])
    head = ["rows", "model", "its seeds", *names]
    lines = [markdown.escape(title), "", *markdown.table(head, shown, "rrl" + "r" * len(names)), ""]
    if curve.ceiling is not None:
        lines += [f"Ceiling: {markdown.escape(curve.show(curve.ceiling))}.", ""]
    return lines + format_law(curve, asked)


def format_law(curve: MetricCurve, asked: Sequence[tuple[str, float]]) -> list[str]:
    """Return the fitted law and the rows needed for each goal, or the reason why there is no law."""
    fitted = curve.fitted
    if isinstance(fitted, str):
        return [fitted[0].upper() + fitted[1:] + ".", ""]
    law = fitted.law
    error = "1 − accuracy" if curve.is_share else "error"
    parts = {part: ", ".join(map(_short, fitted.interval(part))) for part in ("height", "slope", "floor")}
    known = "(from the ceiling, assumed known)" if fitted.floor_known else f"[{parts['floor']}]"
    floor = f"{_short(law.floor)} {known}"
    lines = [f"Fitted law: {error} = {floor} + {_short(law.height)} [{parts['height']}] × (rows / {law.centre:,.0f})^−"
             f"{_short(law.slope)} [{parts['slope']}].", ""]  # fmt: skip
    for what, value in goals_of(curve, asked):
        needed = power_law.rows_needed(fitted, curve.value(value))
        lines.append(f"- {markdown.escape(f'{curve.show(value)} ({what})')}: {power_law.format_rows_needed(needed)}")
    return [*lines, ""]


def _short(value: float) -> str:
    """Return a value with three digits; tiny values of a fit count as zero: 8.9e-24 -> `0`."""
    return f"{value:.3g}" if value > 1e-6 else "0"
