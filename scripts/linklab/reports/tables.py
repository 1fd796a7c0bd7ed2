"""An experiment's figures as texts: the main table, the differences, and the cost of each run."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from linklab.metrics import comparison, intervals
from linklab.metrics.blend import Blend
from linklab.metrics.comparison import Difference, ScoredRun
from linklab.metrics.metric_table import find_metric


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The runs and comparisons that a report shows."""

    title: str
    runs: Sequence[ScoredRun]
    primary: str  # "target/metric" that ranks the runs
    reference: ScoredRun
    differences: Sequence[Difference]
    candidate: ScoredRun | None = None  # the tuned model, if there is one
    blend: Blend | None = None  # candidate and baseline as one predictor, if their validation runs are given
    stages: Sequence[dict] = ()  # manifests of the stages, in the order they ran
    trainer_log: Path | None = None
    seed: int = 0  # seed of the bootstrap and of the sign-flip tests

    @property
    def focus(self) -> ScoredRun:
        """The run whose plots are shown: the tuned model, else the reference."""
        return self.candidate or self.reference


def label(metric: str) -> str:
    """Return the label of a metric (without its target) for tables: "top3_accuracy" -> "top-3"."""
    return find_metric(metric).label


def in_percent(metric: str) -> bool:
    """Say whether a metric (without its target) is written in percent."""
    return find_metric(metric).in_percent


def format_value(metric: str, value: float | None, signed: bool = False) -> str:
    """Write a value: ("accuracy", 0.764) -> "76.4 %"; ("mae", 40.123) -> "40.1".

    A small share gets a second decimal, so that it does not look like zero: ("regret", -0.0003) -> "−0.03 %".
    """
    if value is None or math.isnan(value):
        return "–"
    if in_percent(metric):
        decimals = 1 if not 5e-5 <= abs(value) < 5e-4 else 2
        percent = round(100 * value, decimals) + 0.0  # no minus before a zero
        return f"{percent:{'+' if signed and percent else ''}.{decimals}f} %".replace("-", "−")
    if metric == "r2":
        return f"{value:{'+' if signed else ''}.3f}".replace("-", "−")
    decimals = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:{'+' if signed else ''}.{min(decimals, 4)}f}".replace("-", "−")


def format_difference(metric: str, value: float, unit: str) -> str:
    """Write a signed difference: ("accuracy", -.031, "") -> "−3.1 points"; ("mae", 4.2, "Mbit/s") -> "+4.20 Mbit/s"."""
    text = format_value(metric, value, signed=True)
    if in_percent(metric) or math.isnan(value):
        return text.replace(" %", " points")
    return f"{text} {unit}".rstrip()


def format_interval(metric: str, low: float | None, high: float | None, signed: bool = False) -> str:
    """Write an interval: ("accuracy", .716, .799) -> "[71.6, 79.9]"; "" if there is none."""
    if low is None or high is None or math.isnan(low):
        return ""
    ends = [format_value(metric, end, signed).removesuffix(" %") for end in (low, high)]
    return f"[{', '.join(ends)}]"


def format_p(p: float | None) -> str:
    """Write a p-value: 0.00003 -> "< 0.001"."""
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def describe_difference(result: Difference) -> str:
    """Return a difference in words: "channel accuracy +3.2 points [+1.1, +5.3], p 0.003 (McNemar)"."""
    target, metric = result.metric.rsplit("/", 1)
    size = format_difference(metric, result.difference, "")
    ends = format_interval(metric, result.low, result.high, signed=True)
    return f"{target} {label(metric)} {size} {ends}, p {format_p(result.p)} ({result.test})"


def table_metrics(runs: Sequence[ScoredRun]) -> list[str]:
    """Return the "target/metric" columns of the main table, class targets first."""
    names = list(dict.fromkeys(metric for run in runs for metric in run.metrics["metrics"]))
    targets = list(dict.fromkeys(name.rsplit("/", 1)[0] for name in names))
    classes = [target for target in targets if f"{target}/accuracy" in names]
    columns = []
    for target in [*classes, *(t for t in targets if t not in classes)]:
        of_target = [name.rsplit("/", 1)[1] for name in names if name.startswith(f"{target}/")]
        tops = [metric for metric in of_target if metric.startswith("top")]
        if target in classes:
            wanted = ["accuracy", *tops, "regret", "macro_f1"]
        else:  # the first three are for numbers, the others for texts
            wanted = ["mae", "within_10pct", "r2", "token_f1", "exact_match", "normalised_match", "chrf"]
        if "regret" in of_target:  # if choices have a worth, regret says more than F1
            wanted.remove("macro_f1")
        if target not in classes and classes:
            wanted.remove("r2")
        columns += [f"{target}/{metric}" for metric in wanted if metric in of_target]
    return columns


def order_runs(runs: Sequence[ScoredRun], primary: str) -> list[ScoredRun]:
    """Return the runs best first; those without the primary metric last."""
    sign = -1 if comparison.is_better(primary, 1.0) else 1
    return sorted(runs, key=lambda run: sign * run.value(primary) if run.entry(primary) else math.inf)


def build_table(runs: Sequence[ScoredRun], primary: str) -> dict:
    """Return the main table: columns (label, unit), their targets, and a line per run with values and intervals."""
    metrics = table_metrics(runs)
    lines = []
    for run in order_runs(runs, primary):
        cells = [_cell(name.rsplit("/", 1)[1], run.entry(name)) for name in metrics]
        n = run.metrics["n"]
        low, high = intervals.wilson(n["invalid"], n["expected"])
        cells.append(_cell("invalid_share", {"value": n["invalid"] / n["expected"], "low": low, "high": high}))
        model, rule = run.metrics.get("model", ""), run.metrics.get("description", "")
        about = "; ".join(text for text in ("" if model == run.name else model, rule) if text)
        lines.append({"name": run.name, "role": run.role, "about": about, "cells": cells})
    columns = []
    for name in metrics:
        target, metric = name.rsplit("/", 1)
        unit = next(run.unit(name) for run in runs if run.entry(name))
        better = "higher" if comparison.is_better(name, 1.0) else "lower"
        columns.append({"target": target, "label": label(metric), "unit": unit, "better": better})
    columns.append({"target": "", "label": "invalid", "unit": "", "better": "lower"})
    groups = [{"target": t, "span": len(list(found))} for t, found in itertools.groupby(c["target"] for c in columns)]
    return {"columns": columns, "groups": groups, "lines": lines}


def _cell(metric: str, entry: Mapping | None) -> dict:
    if entry is None:
        return {"value": "–", "interval": ""}
    return {
        "value": format_value(metric, entry["value"]),
        "interval": format_interval(metric, entry["low"], entry["high"]),
    }


def build_differences(experiment: Experiment) -> list[dict]:
    """Return tested differences as texts, best run first: the primary metric of all runs, the others of models only.

    comparison.csv has the rest; p is adjusted over all of them.
    """
    order = {run.name: i for i, run in enumerate(order_runs(experiment.runs, experiment.primary))}
    shown = {run.name for run in experiment.runs if run.role != "baseline"}
    tested = [
        result
        for result in experiment.differences
        if result.p_holm is not None and (result.metric == experiment.primary or result.run in shown)
    ]
    lines = []
    for result in sorted(tested, key=lambda r: (r.metric != experiment.primary, r.metric, order[r.run])):
        target, metric = result.metric.rsplit("/", 1)
        rows = f"{result.discordant[0]} : {result.discordant[1]}" if result.discordant else ""
        unit = experiment.reference.unit(result.metric)
        verdict = result.outcome
        if verdict == "no difference shown" and result.p is not None and result.p < comparison.ALPHA:
            verdict = f"not shown: p {format_p(result.p)} alone, {format_p(result.p_holm)} for all tests"
        lines.append(
            {
                "run": result.run, "target": target, "metric": label(metric), "verdict": verdict, "rows": rows,
                "difference": format_difference(metric, result.difference, unit),
                "interval": format_interval(metric, result.low, result.high, signed=True),
                "test": result.test, "p": format_p(result.p), "p_holm": format_p(result.p_holm),
                "detectable": format_difference(metric, result.detectable, unit).lstrip("+"),
            }
        )  # fmt: skip
    return lines


def build_costs(experiment: Experiment) -> list[dict]:
    """Return seconds, speed, size and memory of each run as texts."""
    lines = []
    for run in order_runs(experiment.runs, experiment.primary):
        cost = run.metrics.get("cost", {})
        speed = cost.get("rows_per_second")
        lines.append(
            {
                "run": run.name,
                "seconds": _number(cost.get("seconds")),
                "rows_per_second": _number(speed),
                "hours_per_million": _number(1e6 / speed / 3600 if speed else None),
                "parameters": _number(cost.get("parameters")),
                "peak_memory_mb": _number(cost.get("peak_memory_mb")),
            }
        )
    return lines if any(line["seconds"] != "–" for line in lines) else []


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
