"""Compare runs on the same rows: which is better, by how much, how certain, and what n rows could not show."""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from linklab import files
from linklab.cli import UserError
from linklab.manifest import MANIFEST
from linklab.metrics import intervals
from linklab.metrics.metric_table import PRIMARY, find_metric
from linklab.metrics.metrics import METRICS_FILE, ROLES, ROWS_FILE
from linklab.metrics.predictions import FILE as PREDICTIONS_FILE

ALPHA = 0.05
_READING = ("--csv", "--data", "--delimiter", "--decimal", "--encoding", "--missing", "--keep-missing-class")
DECIDED_BY = {  # key of metrics.json's hashes -> (its name in messages, every option that can change it)
    "data": ("rows", (*_READING, "--split", "--max-rows", "--split-seed", "--split-field", "--group-field",
                      "--id-field", "--drop-bad-rows", "--drop-missing-target", "--target-field", "--target-kind")),
    "labels": ("true answers", (*_READING, "--target-field", "--target-kind")),
    "prompts": ("prompts", (*_READING, "--prompt-template", "--system-prompt", "--drop-columns", "--ask",
                            "--target-field", "--id-field", "--group-field", "--split-field")),
}  # fmt: skip
FILES = (METRICS_FILE, ROWS_FILE, PREDICTIONS_FILE)  # what a run folder must hold
COMPARISON_COLUMNS = [
    "run", "role", "metric", "unit", "value", "low", "high", "n", "reference", "difference", "difference_low",
    "difference_high", "test", "p", "p_holm", "p_mcnemar", "smallest_detectable", "verdict",
]  # fmt: skip
_NOT_METRICS = ("true", "answer", "confidence", "worth")


@dataclasses.dataclass
class ScoredRun:
    """One predictor's folder: its metrics.json, and per-row values in one order for all runs."""

    name: str
    folder: Path
    metrics: dict
    ids: list[str]
    groups: list[str]
    columns: dict[str, np.ndarray]  # "target/metric" -> value of each row
    texts: dict[str, list[str]]  # "target/true" and "target/answer" -> text of each row, "" for an invalid answer

    @property
    def role(self) -> str:
        """tuned, base, blend, baseline, formula or ceiling."""
        return self.metrics["role"]

    @property
    def warnings(self) -> list[str]:
        """The warnings that every report of this run's figures must show."""
        return [str(text) for text in self.metrics.get("warnings") or ()]

    @property
    def n(self) -> int:
        """Rows scored."""
        return len(self.ids)

    def entry(self, metric: str) -> dict | None:
        """Return value, interval and unit of "target/metric", or None if the run does not have it."""
        return self.metrics["metrics"].get(metric)

    def value(self, metric: str) -> float:
        """Return the value of a "target/metric" that the run has."""
        return self.metrics["metrics"][metric]["value"]

    def unit(self, metric: str) -> str:
        """Return the unit of a "target/metric" that the run has, "" for none."""
        return self.metrics["metrics"][metric]["unit"]


def read_runs(paths: Iterable[str | Path]) -> list[ScoredRun]:
    """Read every run in these folders; from a folder without metrics.json, read the runs inside it."""
    runs: list[ScoredRun] = []
    for path in map(Path, paths):
        if not path.is_dir():
            raise UserError(f"{path}: no such folder; name one that holds {METRICS_FILE}, or that holds such folders")
        inside = sorted(found.parent for found in path.glob(f"*/{METRICS_FILE}"))
        folders = [path] if (path / METRICS_FILE).exists() else inside
        if not folders:
            raise UserError(f"{path}: holds no {METRICS_FILE}, and no folder in it does")
        runs += [read_run(folder) for folder in folders]
    names = [run.name for run in runs]
    for run in runs:
        if names.count(run.name) > 1:
            twins = " and ".join(str(r.folder) for r in runs if r.name == run.name)
            raise UserError(f"two runs are called '{run.name}' ({twins}); give their folders different names")
    return runs


def read_run(folder: Path) -> ScoredRun:
    """Read one run's metrics and per-row values."""
    metrics = files.read_json(folder / METRICS_FILE)
    missing = {"role", "n", "metrics", "hashes", "targets"} - metrics.keys()
    if missing or metrics["role"] not in ROLES:
        found = f"no '{sorted(missing)[0]}'" if missing else f"role '{metrics['role']}' is none of {', '.join(ROLES)}"
        raise UserError(f"{folder / METRICS_FILE}: not a metrics file of this toolkit ({found})")
    path = files.require_file(folder / ROWS_FILE)
    with open(path, encoding="utf-8", newline="") as handle:
        reader = csv.reader(handle)
        header = [files.plain_cell(name) for name in next(reader)]
        lines = (dict(zip(header, map(files.plain_cell, cells), strict=False)) for cells in reader)
        table = sorted(lines, key=lambda line: line["id"])
    if len(table) != metrics["n"]["expected"]:
        raise UserError(f"{path}: {len(table)} rows, but {METRICS_FILE} says {metrics['n']['expected']}; score again")
    names = [name for name in table[0] if name not in ("id", "group")]
    numeric = [name for name in names if name.rsplit("/", 1)[1] not in _NOT_METRICS]
    try:
        columns = {name: np.array([float(line[name]) for line in table]) for name in numeric}
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    return ScoredRun(
        name=folder.resolve().name,
        folder=folder,
        metrics=metrics,
        ids=[line["id"] for line in table],
        groups=[line["group"] for line in table],
        columns=columns,
        texts={name: [line[name] for line in table] for name in names if name not in numeric},
    )


def check_same_rows(runs: Sequence[ScoredRun], *, allow_different_prompts: bool = False) -> None:
    """Raise a UserError unless runs have the same rows, labels and prompts; it names the options that decide them."""
    first = runs[0]
    for run in runs[1:]:
        for part, (meaning, options) in DECIDED_BY.items():
            if first.metrics["hashes"].get(part) == run.metrics["hashes"].get(part):
                continue
            if part == "prompts" and allow_different_prompts:
                continue
            sizes = f"'{first.name}' ({first.n} rows) and '{run.name}' ({run.n} rows)"
            advice = f"score both with the same {', '.join(options)}"
            if part == "prompts":
                advice += ", or pass --allow-different-prompts to compare prompts on the same rows"
            raise UserError(f"runs {sizes} have different {meaning}{_say_difference(first, run, options)}; {advice}")


def _say_difference(first: ScoredRun, second: ScoredRun, options: Sequence[str]) -> str:
    """Return which of these options differ between the manifests of two runs: " (…)", or "" for none."""
    words = [_read_option_values(run, options) for run in (first, second)]
    other = [name for name in options if words[0].get(name) != words[1].get(name)]
    if not all(words) or not other:
        return ""
    found = (f"{name}: {words[0].get(name, 'not given')} and {words[1].get(name, 'not given')}" for name in other)
    return f" ({'; '.join(found)})"


def _read_option_values(run: ScoredRun, options: Sequence[str]) -> dict[str, str]:
    """Return the values of these options in the command that scored a run; {} without a manifest."""
    path = next((p / MANIFEST for p in (run.folder, run.folder.parent) if (p / MANIFEST).exists()), None)
    if path is None:
        return {}
    argv, words = files.read_json(path).get("argv") or [], {}
    for at, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if name in options:
            follows = argv[at + 1] if at + 1 < len(argv) and not argv[at + 1].startswith("--") else "given"
            words[name] = value if equals else follows
    return words


def primary_metric(runs: Sequence[ScoredRun]) -> str:
    """Return the metric that ranks the runs: accuracy of the first class target, else MAE, else token F1."""
    metrics = [metric for run in runs for metric in run.metrics["metrics"]]
    for wanted in PRIMARY:
        for metric in metrics:
            if metric.endswith(f"/{wanted}"):
                return metric
    raise UserError(f"the runs have none of the metrics that rank runs: {', '.join(PRIMARY)}; score them again")


def is_better(metric: str, difference: float) -> bool:
    """Return whether a difference (run minus reference) is in the run's favour."""
    return difference > 0 if find_metric(metric).higher_is_better else difference < 0


def best_run(runs: Sequence[ScoredRun], metric: str, role: str | None = None) -> ScoredRun | None:
    """Return the best run of a role by a metric, the first of equal ones; None if no run has the metric."""
    values = {run.name: entry["value"] for run in runs if (entry := run.entry(metric)) and role in (None, run.role)}
    scored = [run for run in runs if run.name in values]
    sign = -1 if find_metric(metric).higher_is_better else 1
    return min(scored, key=lambda run: sign * values[run.name], default=None)


def find_run(runs: Sequence[ScoredRun], name: str) -> ScoredRun:
    """Return the run of a name; a UserError lists the names."""
    for run in runs:
        if run.name == name:
            return run
    raise UserError(f"no run called '{name}'; the runs are: {', '.join(run.name for run in runs)}")


def first_of_role(runs: Sequence[ScoredRun], role: str) -> ScoredRun | None:
    """Return the first run of a role, or None."""
    return next((run for run in runs if run.role == role), None)


def choose_reference(
    runs: Sequence[ScoredRun], metric: str, name: str | None, candidate: ScoredRun | None
) -> ScoredRun:
    """Return the run of that name; without one, the best baseline, else the best of the other runs."""
    if name:
        chosen = find_run(runs, name)
    else:
        others = [run for run in runs if run is not candidate] or list(runs)
        chosen = best_run(others, metric, "baseline") or best_run(others, metric) or others[0]
    if not chosen.entry(metric):
        raise UserError(f"run '{chosen.name}' has no '{metric}'; choose another --reference")
    return chosen


@dataclasses.dataclass
class Difference:
    """Run minus reference in one metric over the same rows. `p_holm` is `p` adjusted over the whole family of tests."""

    run: str
    reference: str
    metric: str
    difference: float
    low: float
    high: float
    n: int
    test: str = ""
    p: float | None = None
    p_holm: float | None = None
    detectable: float = math.nan
    discordant: tuple[int, int] | None = None  # shares: rows only the run, only the reference, got right
    p_mcnemar: float | None = None  # shares: p of McNemar's exact test, also if `p` is from another test

    @property
    def outcome(self) -> str:
        """ "better", "worse", or "no difference shown" at 5 % over the family; "" if no test was made."""
        if self.p_holm is None:
            return ""
        if self.p_holm >= ALPHA:
            return "no difference shown"
        return "better" if is_better(self.metric, self.difference) else "worse"


def compare_to(
    runs: Sequence[ScoredRun], reference: ScoredRun, *, resamples: int = intervals.RESAMPLES, seed: int = 0
) -> list[Difference]:
    """Compare each run with the reference in every per-row metric that both have.

    Shares get Tango's interval, the rest a paired bootstrap on shared resamples of rows, or of whole groups if rows
    share groups. Metrics that METRICS marks as tested get a p-value (the ceiling gets none): McNemar's exact test for
    shares on independent rows, the sign-flip test otherwise; Holm's adjustment runs over all of them.
    """
    clusters = intervals.number_clusters(reference.groups)
    pairs = {
        (run.name, metric): run.columns[metric] - reference.columns[metric]
        for run in runs
        if run is not reference
        for metric in run.columns
        if metric in reference.columns
    }
    shares = {key: values for key, values in pairs.items() if find_metric(key[1]).is_share}
    statistics = {key: intervals.mean_statistic(values) for key, values in pairs.items() if key not in shares}
    ends = {key: intervals.share_difference_interval(values, clusters) for key, values in shares.items()}
    ends |= intervals.bootstrap(statistics, clusters, resamples=resamples, seed=seed)
    roles = {run.name: run.role for run in runs}
    found = []
    for (name, metric), values in pairs.items():
        result = Difference(name, reference.name, metric, float(values.mean()), *ends[name, metric], len(values))
        if find_metric(metric).tested and roles[name] != "ceiling":
            _test(result, values, clusters, seed)
        found.append(result)
    tested = [result for result in found if result.p is not None]
    adjusted_ps = intervals.holm([result.p for result in tested if result.p is not None])
    for result, adjusted in zip(tested, adjusted_ps, strict=True):
        result.p_holm = adjusted
    return found


def _test(result: Difference, values: np.ndarray, clusters: np.ndarray, seed: int) -> None:
    """Fill in test, p-value and smallest detectable difference."""
    if clusters.max():  # one group does not show how groups vary
        result.detectable = intervals.smallest_detectable_difference(result.low, result.high)
    if find_metric(result.metric).is_share:
        result.discordant = int((values > 0).sum()), int((values < 0).sum())
        result.p_mcnemar = intervals.mcnemar_p(*result.discordant)
    if result.discordant and clusters.max() + 1 == len(clusters):
        result.test, result.p = "McNemar", result.p_mcnemar
    else:  # McNemar's test counts the dependent rows of a group as if they were independent
        result.test, result.p = "sign flip", intervals.sign_flip_p(values, clusters, seed=seed)


class Gate(NamedTuple):
    """Whether the candidate is better, and the difference."""

    passed: bool
    difference: Difference


def gate(candidate: ScoredRun, rival: ScoredRun, metric: str, *, seed: int = 0) -> Gate:
    """Return whether the candidate is better than the rival: in its favour, with p below 5 % in one planned test."""
    if candidate is rival:
        raise UserError(f"run '{rival.name}' is the candidate itself; give another run to --require-better-than")
    for run in (candidate, rival):
        if metric not in run.columns:
            raise UserError(f"run '{run.name}' has no '{metric}'; it answers {', '.join(run.metrics['targets'])} only")
    found = {result.metric: result for result in compare_to([candidate, rival], rival, seed=seed)}
    result = found[metric]
    if result.p is None:
        raise UserError(f"run '{candidate.name}' is a ceiling; name a predictor with --candidate")
    return Gate(is_better(metric, result.difference) and result.p < ALPHA, result)


def write_comparison(path: Path, runs: Sequence[ScoredRun], differences: Sequence[Difference]) -> int:
    """Write one line per run and metric: value, interval, difference from the reference, test; return the lines."""
    by_key = {(result.run, result.metric): result for result in differences}
    lines = 0
    with files.atomic_write(path) as handle:
        writer = files.SheetWriter(handle)
        writer.writerow(COMPARISON_COLUMNS)
        for run in runs:
            for metric, entry in run.metrics["metrics"].items():
                result = by_key.get((run.name, metric))
                cells = [entry["value"], entry["low"], entry["high"]]
                row = [run.name, run.role, metric, entry["unit"], *map(csv_cell, cells), entry["n"]]
                if result is None:
                    row += [""] * 10
                else:
                    row += [result.reference, *map(csv_cell, (result.difference, result.low, result.high)), result.test]
                    row += [csv_cell(result.p), csv_cell(result.p_holm), csv_cell(result.p_mcnemar)]
                    row += [csv_cell(result.detectable), result.outcome]
                writer.writerow(row)
                lines += 1
    return lines


def csv_cell(value: float | None) -> str:
    """Return a number as a cell of a result, empty for None and NaN."""
    return "" if value is None or math.isnan(value) else f"{value:.6g}"
