"""Save a demo's comparison under docs/results and put its verdict into README.md.

    python benchmarks/save_results.py runs/demo-embedded-4000 --readme --remark "beside other work"

Reads the report stage's comparison.csv and the manifests; writes docs/results/NAME.md and the part of README.md between
its two result marks. Both name the machine, the commit and the command.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
START, END = "<!-- results: benchmarks/save_results.py writes what follows -->", "<!-- end of results -->"
CHANNEL, THROUGHPUT = "recommended_channel_mhz", "expected_throughput_mbps"
COLUMNS = (
    ("accuracy", f"{CHANNEL}/accuracy", 100, "%.1f %%"), ("top-3", f"{CHANNEL}/top3_accuracy", 100, "%.1f %%"),
    ("mean regret", f"{CHANNEL}/regret", 100, "%.1f %%"), ("invalid", f"{CHANNEL}/invalid_share", 100, "%.1f %%"),
    ("MAE, Mbit/s", f"{THROUGHPUT}/mae", 1, "%.0f"),
)  # fmt: skip


def describe_machine() -> str:
    """Return the processor, its cores and the memory, as the system names them."""
    import os

    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name = re.search(r"model name\s*:\s*(.*)", text)
    amx = " with AMX" if "amx_bf16" in text else ""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{name[1] if name else platform.processor()}{amx}, {os.cpu_count()} cores, {memory:.0f} GiB, no GPU"


def read_table(path: Path) -> list[str]:
    """Return a markdown table: one line a run, value and interval of each column, best accuracy first."""
    runs: dict[str, dict] = {}
    with open(path, encoding="utf-8", newline="") as handle:
        for line in csv.DictReader(handle):
            runs.setdefault(line["run"], {"role": line["role"], "n": line["n"]})[line["metric"]] = line
    key = COLUMNS[0][1]
    ordered = sorted(runs.items(), key=lambda item: -float(item[1][key]["value"]) if key in item[1] else 1)
    lines = ["| run | " + " | ".join(head for head, *_ in COLUMNS) + " |", "|---|" + "---:|" * len(COLUMNS)]
    for name, run in ordered:
        cells = [cell(run.get(metric), scale, form) for _, metric, scale, form in COLUMNS]
        shown = f"**{name}**" if run["role"] in ("tuned", "base") else name
        lines.append(f"| {shown} | " + " | ".join(cells) + " |")
    return lines


def cell(line: dict | None, scale: float, form: str) -> str:
    """Return `81.2 % [77.1, 84.7]`, or a dash where a run has no opinion."""
    if not line or not line["value"]:
        return "–"
    low, high = (f"{scale * float(line[end]):.3g}" if line[end] else "–" for end in ("low", "high"))
    return f"{form % (scale * float(line['value']))} [{low}, {high}]"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, help="folder run_demo.py wrote")
    parser.add_argument("--readme", action="store_true", help="also put the table into README.md")
    parser.add_argument("--remark", default="", metavar="TEXT", help="what a reader must know beside the figures")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    args = build_parser().parse_args(argv)
    report = json.loads((args.demo / "report" / "manifest.json").read_text())
    training = json.loads((args.demo / "finetune" / "metrics.json").read_text())
    rows = training["rows"]
    table = read_table(args.demo / "report" / "comparison.csv")
    minutes = training["seconds"] / 60
    text = [
        f"`make demo ROWS={rows}`: {training['mode']} on {rows:,} rows ({training['steps']} steps, {minutes:.0f} min, "
        f"{training['peak_memory_mb'] / 1024:.1f} GiB at the peak), {training['settings']['precision']}, on "
        f"{describe_machine()}.",
        "", "\n\n".join(report["extra"]["verdict"].splitlines()), "", *table, "",
        "Values with 95 % intervals. `tuned` and `base` are held to legal answers, `tuned_free` writes what it likes.",
        *(["", args.remark] if args.remark else []),
    ]  # fmt: skip
    out = ROOT / "docs" / "results" / f"{args.demo.name}.md"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(
        "\n".join([f"# {args.demo.name}", "", *text, "", f"Commit {report['commit']}, {report['created']}.", ""])
    )
    print(f"wrote {out.relative_to(ROOT)}")
    if args.readme:
        readme = ROOT / "README.md"
        before, rest = readme.read_text().split(START)
        scores, *answers = report["extra"]["verdict"].splitlines()
        said = [f"{text[0]} ([all runs](docs/results/{out.name}))", "", *(f"- {line}" for line in (scores, *answers))]
        readme.write_text("\n".join([before + START, "", *said, "", END]) + rest.split(END)[1])
        print("wrote README.md")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
