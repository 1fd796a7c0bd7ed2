"""Save a demo's figures and plots under docs/results, and write every page that shows them.

    python benchmarks/save_results.py runs/demo-embedded-700 --readme --remark "beside other work"
    python benchmarks/save_results.py

The first command reads the demo's manifests and report, and writes docs/results/NAME.json and NAME-*.png. Both then
write the pages from the saved files alone: docs/results/NAME.md, docs/results/README.md, and (from the demo saved with
--readme) the part of the main README.md between its two marks.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import shutil
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from bench import ROOT, describe_machine

START, END = "<!-- results: benchmarks/save_results.py writes what follows -->", "<!-- end of results -->"
CHANNEL, THROUGHPUT = "recommended_channel_mhz", "expected_throughput_mbps"
COLUMNS = (
    ("accuracy", f"{CHANNEL}/accuracy", 100, "%.1f %%"), ("top-3", f"{CHANNEL}/top3_accuracy", 100, "%.1f %%"),
    ("mean regret", f"{CHANNEL}/regret", 100, "%.1f %%"), ("invalid", f"{CHANNEL}/invalid_share", 100, "%.1f %%"),
    ("MAE, Mbit/s", f"{THROUGHPUT}/mae", 1, "%.0f"),
)  # fmt: skip
PLOTS = {  # of the report: what each shows
    "ladder": "Accuracy of every predictor on the same unseen rows, with 95 % intervals",
    f"predicted_{THROUGHPUT}": "Predicted against true throughput of the tuned model",
    f"reliability_{CHANNEL}": "Calibration of the tuned model: share right against the stated probability",
    f"confusion_{CHANNEL}": "Which channel the tuned model answered for each true channel",
    "loss": "Training and validation loss",
}


def read_runs(path: Path) -> list[dict[str, Any]]:
    """Return name, role and the texts of COLUMNS for each run of a comparison.csv, best accuracy first."""
    runs: dict[str, dict] = {}
    with open(path, encoding="utf-8", newline="") as handle:
        for line in csv.DictReader(handle):
            runs.setdefault(line["run"], {"role": line["role"]})[line["metric"]] = line
    key = COLUMNS[0][1]
    ordered = sorted(runs.items(), key=lambda item: -float(item[1][key]["value"]) if key in item[1] else 1)
    return [
        {"name": name, "role": run["role"], "cells": [cell(run.get(metric), *form) for _, metric, *form in COLUMNS]}
        for name, run in ordered
    ]


def cell(line: dict | None, scale: float, form: str) -> str:
    """Return `81.2 % [77.1, 84.7]`, or a dash if a run has no such value."""
    if not line or not line["value"]:
        return "–"
    low, high = (f"{scale * float(line[end]):.3g}" if line[end] else "–" for end in ("low", "high"))
    return f"{form % (scale * float(line['value']))} [{low}, {high}]"


def save(demo: Path, results: Path, *, remark: str, in_readme: bool) -> str:
    """Save a finished demo's figures as `results`/NAME.json and its plots as NAME-*.png; return NAME."""
    first, report = (json.loads((demo / stage / "manifest.json").read_text()) for stage in ("data", "report"))
    training = json.loads((demo / "finetune" / "metrics.json").read_text())
    took = datetime.fromisoformat(report["created"]) - datetime.fromisoformat(first["created"])
    scores, *said = report["extra"]["verdict"].splitlines()
    for old in results.glob("*.json") if in_readme else ():
        figures = json.loads(old.read_text())
        old.write_text(json.dumps(figures | {"in_readme": False}, indent=1, ensure_ascii=False) + "\n")
    figures = {
        "in_readme": in_readme,
        "rows": training["rows"],
        "test_rows": int(re.search(r"n = ([\d,]+)", scores)[1].replace(",", "")),
        "minutes": round(took.total_seconds() / 60),
        "mode": training["mode"],
        "steps": training["steps"],
        "training_minutes": round(training["seconds"] / 60),
        "memory_gib": round(training["peak_memory_mb"] / 1024, 1),
        "precision": training["settings"]["precision"],
        "machine": describe_machine(),
        "scores": scores,
        "warnings": [line for line in said if line.startswith("Warning:")],
        "answers": [[f"{question}?", answer] for question, answer in (line.split("? ", 1) for line in said
                                                                     if not line.startswith("Warning:"))],
        "runs": read_runs(demo / "report" / "comparison.csv"),
        "remark": remark,
        "commit": report["commit"],
        "created": report["created"],
    }  # fmt: skip
    name = demo.resolve().name
    (results / f"{name}.json").write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
    for plot in PLOTS:
        shutil.copyfile(demo / "report" / "plots" / f"{plot}.png", results / f"{name}-{plot}.png")
    return name


def describe_run(figures: dict[str, Any]) -> str:
    """Return command, size, time and machine of a demo as one sentence."""
    return (
        f"`make demo ROWS={figures['rows']}`: {figures['mode']} on {figures['rows']:,} rows, {figures['minutes']} min "
        f"in all, of which {figures['training_minutes']} min for {figures['steps']:,} training steps; peak memory "
        f"{figures['memory_gib']} GiB, {figures['precision']}, on {figures['machine']}."
    )


def demo_page(name: str, figures: dict[str, Any]) -> str:
    """Return docs/results/NAME.md."""
    table = ["| run | " + " | ".join(head for head, *_ in COLUMNS) + " |", "|---|" + "---:|" * len(COLUMNS)]
    for run in figures["runs"]:
        shown = f"**{run['name']}**" if run["role"] in ("tuned", "base") else run["name"]
        table.append(f"| {shown} | " + " | ".join(run["cells"]) + " |")
    parts = [
        f"# {name}", describe_run(figures), figures["scores"], *figures["warnings"],
        *(f"**{question}** {answer}" for question, answer in figures["answers"]), "\n".join(table),
        "Values with 95 % intervals. `tuned` and `base` may only give legal answers; `tuned_free` writes freely.",
        *([figures["remark"]] if figures["remark"] else []),
        *(f"![{caption}]({name}-{plot}.png)" for plot, caption in PLOTS.items()),
        f"Commit {figures['commit']}, {figures['created']}.",
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def results_page(results: Path, demos: dict[str, dict[str, Any]]) -> str:
    """Return docs/results/README.md: the saved demos with their pictures, then every other page with its first one."""
    parts = [
        "# Results, with pictures",
        "Results of the demo, the studies and the comparisons. Notebooks are stored without outputs, so the pictures "
        "are here. [Evaluation](../evaluation.md) explains every number. `python benchmarks/save_results.py` writes "
        "this page.",
    ]
    for name, figures in sorted(demos.items(), key=lambda item: (not item[1]["in_readme"], item[0])):
        parts += [f"## [{name}]({name}.md)", describe_run(figures)]
        parts += [f"- **{question}** {answer}" for question, answer in figures["answers"]]
        parts += [f"![{caption}]({name}-{plot}.png)\n\n*{caption}.*" for plot, caption in PLOTS.items()]
    parts.append("## Everything else")
    for page in sorted(results.glob("*.md")):
        if page.name == "README.md" or page.stem in demos:
            continue
        title = page.read_text().partition("\n")[0].lstrip("# ")
        parts.append(f"[{title}]({page.name})")
        parts += re.findall(r"^!\[.*?\]\(.*?\)$", page.read_text(), flags=re.M)[:1]
    return "\n\n".join(parts) + "\n"


def readme_part(name: str, figures: dict[str, Any]) -> str:
    """Return the text between the two marks in README.md, marks included."""
    remark = f" ({figures['remark']})" if figures["remark"] else ""
    caption = f"{PLOTS['ladder']}: the {figures['rows']}-row demo"
    return "\n".join([
        START, f"![{caption}](docs/results/{name}-ladder.png)", "",
        f"`make demo`: trained on {figures['rows']:,} links and scored on {figures['test_rows']:,} unseen ones, in "
        f"{figures['minutes']} minutes on {figures['machine']}{remark} ([all figures](docs/results/{name}.md), "
        "[more pictures](docs/results/README.md)):", "",
        *(f"- **{question}** {answer}" for question, answer in figures["answers"][:3]), "", END,
    ])  # fmt: skip


def write_pages(root: Path) -> list[Path]:
    """Write every page from the files saved under docs/results; return the paths of the changed pages."""
    results = root / "docs" / "results"
    demos = {path.stem: json.loads(path.read_text()) for path in sorted(results.glob("*.json"))}
    readme = root / "README.md"
    pages = {results / f"{name}.md": demo_page(name, figures) for name, figures in demos.items()}
    for name, figures in demos.items():
        if figures["in_readme"]:
            before, rest = readme.read_text().split(START)
            pages[readme] = before + readme_part(name, figures) + rest.split(END)[1]
    pages[results / "README.md"] = results_page(results, demos)
    changed = [path for path, text in pages.items() if not path.exists() or path.read_text() != text]
    for path in changed:
        path.write_text(pages[path])
    return changed


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, nargs="?", help="folder of run_demo.py; without it only pages are written")
    parser.add_argument("--readme", action="store_true", help="show this demo in the main README.md")
    parser.add_argument("--remark", default="", metavar="TEXT", help="a note for the reader, shown with the figures")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    args = build_parser().parse_args(argv)
    if args.demo:
        print("saved", save(args.demo, ROOT / "docs" / "results", remark=args.remark, in_readme=args.readme))
    for path in write_pages(ROOT):
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
