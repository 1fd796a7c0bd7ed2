"""Save the real model's scores on tables from Python packages, beside the baselines: docs/results/tables-embedded.md.

    python benchmarks/save_tables.py runs/tables --remark "on one core, shared with other work"

Reads the files that `bench_tables.py --keep DIR` left for each table: outcome.json, the training's metrics.json, the
scored runs and the report's comparison. The page says in words which predictor is best on each table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import bench
from bench_tables import OUTCOME_FILE, Case
from linklab import cli
from linklab.metrics import comparison
from linklab.metrics.comparison import ScoredRun
from linklab.reports import tables
from linklab.reports.summary import column_title
from save_results import write_pages


class TableResults(NamedTuple):
    """The results of the real model and the baselines on one table."""

    case: Case
    columns: int
    outcome: dict[str, Any]
    training: dict[str, Any]
    manifest: dict[str, Any]  # of the report
    runs: list[ScoredRun]

    @property
    def metric(self) -> str:
        """The "target/metric" that ranks the runs."""
        return comparison.primary_metric(self.runs)

    @property
    def minutes(self) -> str:
        """Minutes of all stages, by the clock and of the processor; a continued run counts at least its training."""
        used = self.outcome.get("processor_seconds")
        passed = max(self.outcome["seconds"], self.training["seconds"]) / 60
        return f"{passed:.1f}, {'–' if used is None else f'{used / 60:.1f}'}"

    def show(self, run: ScoredRun) -> str:
        """Return a run's score: "88.2 % [84.1, 91.4]"."""
        short, entry = self.metric.rsplit("/", 1)[1], run.entry(self.metric)
        if entry is None:
            return "–"
        ends = tables.format_interval(short, entry["low"], entry["high"])
        return f"{tables.format_value(short, entry['value'])} {ends}".strip()


def read_results(folder: Path) -> TableResults:
    """Read one table's folder."""
    outcome = json.loads((folder / OUTCOME_FILE).read_text())
    training = json.loads((folder / "trained" / "metrics.json").read_text())
    report = json.loads((folder / "report" / "manifest.json").read_text())
    runs = comparison.read_runs([p for name in ("rivals", "base", "tuned") if (p := folder / name).exists()])
    return TableResults(Case(*outcome["case"]), outcome["columns"], outcome, training, report, runs)


def describe_winner(results: TableResults) -> str:
    """Return the result of a paired test between the tuned model and the best baseline on a table, in words."""
    metric, short = results.metric, results.metric.rsplit("/", 1)[1]
    tuned = comparison.first_of_role(results.runs, "tuned")
    baseline = comparison.best_run(results.runs, metric, "baseline")
    assert tuned and baseline, "the table has a report"
    found = comparison.gate(tuned, baseline, metric).difference
    size = tables.format_difference(short, found.difference, tuned.unit(metric))
    ends = tables.format_interval(short, found.low, found.high, signed=True)
    p = tables.format_p(found.p)
    said = f"difference {size} {ends}, p {p if p.startswith('<') else f'= {p}'}"
    if found.p is None or found.p >= comparison.ALPHA:
        return f"no difference between the model and {baseline.name} shown ({said})"
    winner = "the model" if comparison.is_better(metric, found.difference) else baseline.name
    return f"{winner} wins ({said})"


def write_page(results: Sequence[TableResults], machine: str, remark: str) -> str:
    """Return the page: one line per table, then each table's runs."""
    lines = [
        "# Tables from Python packages, with Gemma 3 270M", "",
        "Each table went through every stage (commands: docstring of `benchmarks/bench_tables.py`) with "
        "`--target-field` and no other option about the table. On each table all predictors were scored on the same "
        f"unseen rows, 95 % intervals in brackets, on {machine}. Minutes are those of all stages, training included."
        f"{' ' * bool(remark)}{remark}", "",
        "| table | target | rows: training, scored | most frequent | best baseline | untrained | trained | minutes, "
        "of a processor |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    for one in results:
        short = one.metric.rsplit("/", 1)[1]
        baseline = comparison.best_run(one.runs, one.metric, "baseline")
        frequent = comparison.find_run(one.runs, "most_frequent")
        base, tuned = (comparison.first_of_role(one.runs, role) for role in ("base", "tuned"))
        assert baseline and tuned, "the table has a report"
        lines.append(
            f"| {one.case.name} ({one.case.package}) | `{one.case.target}`, {tables.label(short)} "
            f"| {one.training['rows']:,}, {tuned.n:,} | {one.show(frequent)} | {baseline.name} {one.show(baseline)} "
            f"| {one.show(base) if base else '–'} | **{one.show(tuned)}** | {one.minutes} |"
        )
    lines += ["", "Who wins, by a paired test on the same rows:", ""]
    lines += [f"- **{one.case.name}**: {describe_winner(one)}." for one in results]
    for one in results:
        training = one.training
        lines += [
            "", f"## {one.case.name}: `{one.case.target}`", "",
            f"{one.outcome['rows']:,} rows x {one.columns} columns of {one.case.package}, of which "
            f"{one.outcome['settings']['rows']:,} at most were converted; {training['mode']} on {training['rows']:,} "
            f"rows ({training['steps']:,} steps, {cli.format_seconds(training['seconds'])}, "
            f"{training['peak_memory_mb'] / 1024:.1f} GiB at the peak), {training['settings']['precision']}.", "",
            *(f"{line}\n" for line in one.manifest["extra"]["verdict"].splitlines()),
            *runs_table(one),
        ]  # fmt: skip
    commits = sorted({one.manifest["commit"] for one in results})
    return "\n".join([*lines, "", f"Commit {', '.join(commits)}, {results[-1].manifest['created']}.", ""])


def runs_table(one: TableResults) -> list[str]:
    """Return every run with its figures as a markdown table, best first."""
    table = tables.build_table(one.runs, one.metric)
    head = ["run", *(column_title(column) for column in table["columns"])]
    rows = []
    for line in table["lines"]:
        name = f"**{line['name']}**" if line["role"] in ("tuned", "base") else line["name"]
        cells = [f"{cell['value']} {cell['interval']}".strip() for cell in line["cells"]]
        rows.append([name, *cells])
    return bench.table(head, rows)


def main(argv: list[str] | None = None) -> int:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder of bench_tables.py --keep")
    parser.add_argument("--remark", default="", metavar="TEXT", help="a note on the minutes, for the reader")
    parser.add_argument("--out", type=Path, default=bench.ROOT / "docs" / "results" / "tables-embedded.md")
    args = parser.parse_args(argv)
    folders = sorted(path.parent for path in args.folder.glob(f"*/{OUTCOME_FILE}"))
    results = [read_results(folder) for folder in folders if (folder / "report" / "manifest.json").exists()]
    if not results:
        raise SystemExit(f"error: {args.folder}: no table has ended with a report; run bench_tables.py --keep first")
    args.out.write_text(write_page(results, bench.describe_machine(), args.remark), encoding="utf-8")
    print(f"wrote {args.out}")
    if args.out.is_relative_to(bench.ROOT):
        write_pages(bench.ROOT)  # docs/results/README.md shows this page's title
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
