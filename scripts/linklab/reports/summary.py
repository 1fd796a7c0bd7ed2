"""Scores without a comparison: one run's report.md, the baselines' summary.csv and summary.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from linklab import files
from linklab.metrics import comparison
from linklab.metrics.comparison import ScoredRun
from linklab.metrics.metric_table import PRIMARY
from linklab.reports import markdown, tables


def headline(result: Mapping) -> str:
    """Return a run's primary metrics in one line: "price accuracy 41.8 % [39.4, 44.2], …"."""
    shown = []
    for name, entry in result["metrics"].items():
        target, metric = name.rsplit("/", 1)
        if metric in PRIMARY:
            value = tables.format_value(metric, entry["value"])
            unit = f" {entry['unit']}" if entry["unit"] else ""
            ends = tables.format_interval(metric, entry["low"], entry["high"])
            shown.append(f"{target} {tables.label(metric)} {value}{unit} {ends}")
    return ", ".join(shown)


def describe_run(result: Mapping, pictures: Sequence[str]) -> str:
    """Return the scores of one run as a markdown table, and its plots."""
    n, rows = result["n"], []
    for key, entry in result["metrics"].items():
        value, low, high = ("–" if entry[end] is None else f"{entry[end]:.4g}" for end in ("value", "low", "high"))
        better = "higher" if entry["higher_is_better"] else "lower"
        rows.append((key, value, f"{low} to {high}", entry["unit"], better))
    warnings = [line for text in result.get("warnings", ()) for line in (f"**Warning:** {markdown.escape(text)}.", "")]
    return "\n".join([
        f"# {markdown.escape(result['model'])} on the {result['split']} split", "",
        f"{n['expected']} rows, {n['answered']} answered, {n['invalid']} invalid (they count as wrong).", "", *warnings,
        *markdown.table(("metric", "value", "95 % interval", "unit", "better"), rows, "lllll"), "",
        *(f"![{name}]({name})\n" for name in pictures),
    ])  # fmt: skip


def write_summary(folder: Path, runs: Sequence[ScoredRun], *, train_rows: int) -> list[Path]:
    """Write summary.csv (one line per baseline and metric) and summary.md (the table to read); return the paths."""
    primary = comparison.primary_metric(runs)
    ordered = tables.order_runs(runs, primary)
    with files.atomic_write(folder / "summary.csv") as handle:
        writer = files.SheetWriter(handle)
        writer.writerow(["baseline", "role", "metric", "unit", "value", "low", "high", "n", "seconds"])
        for run in ordered:
            seconds = run.metrics["cost"]["seconds"]
            for metric, entry in run.metrics["metrics"].items():
                ends = [comparison.csv_cell(entry[key]) for key in ("value", "low", "high")]
                writer.writerow([run.name, run.role, metric, entry["unit"], *ends, entry["n"], seconds])
    n, groups = runs[0].n, runs[0].metrics["groups"]
    table = tables.build_table(runs, primary)
    head = ["baseline", *(column_title(column) for column in table["columns"])]
    shown = ([line["name"], *(f"{cell['value']} {cell['interval']}".strip() for cell in line["cells"])]
             for line in table["lines"])  # fmt: skip
    lines = [
        "# Baselines",
        "",
        f"{n:,} rows of the {runs[0].metrics['split']} split in {groups:,} groups; trained on {train_rows:,} rows. "
        f"95 % intervals in brackets; ↑ higher is better, ↓ lower is better, – not predicted.",
        "",
        *markdown.table(head, shown, "l" + "r" * (len(head) - 1)),
    ]
    about = ((markdown.code(line["name"]), line["role"], markdown.escape(line["about"])) for line in table["lines"])
    lines += ["", *(f"- {name} ({role}): {text}" for name, role, text in about), ""]
    files.write_text(folder / "summary.md", "\n".join(lines))
    return [folder / "summary.csv", folder / "summary.md"]


def column_title(column: Mapping) -> str:
    """Return a column's heading: "price accuracy ↑"."""
    unit = f", {column['unit']}" if column["unit"] else ""
    return f"{column['target']} {column['label']}{unit} {'↑' if column['better'] == 'higher' else '↓'}".strip()
