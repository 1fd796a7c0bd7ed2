"""Score every baseline and the ceiling on newly generated links, and save the comparison.

a seed -> docs/results/ladder-ROWS.md, docs/results/ladder-ROWS.png (runs/ladder-ROWS holds the stages)

    python benchmarks/save_ladder.py

Baselines are trained on the train split and scored on the test split (a tenth of the rows, from other sites).
Two minutes on two idle cores for 20,000 rows.
"""

from __future__ import annotations

import argparse
import importlib
import shlex
import shutil
from pathlib import Path

import bench
from linklab import cli
from linklab.manifest import MANIFEST, read_manifest


def build_parser() -> argparse.ArgumentParser:
    parser = bench.make_parser(__doc__)
    parser.add_argument("--rows", type=cli.positive_int, default=20_000, metavar="N", help="links to generate")
    parser.add_argument("--seed", type=cli.seed_number, default=1, metavar="N", help="seed of data and baselines")
    parser.add_argument("--work-dir", type=Path, metavar="DIR", help="folder of the stages (unset: runs/ladder-ROWS)")
    parser.add_argument(
        "--out-dir", type=Path, default=bench.ROOT / "docs" / "results", metavar="DIR", help="folder to save in"
    )
    return parser


def run(args: argparse.Namespace) -> None:
    work = args.work_dir or Path("runs") / f"ladder-{args.rows}"
    seed = ["--seed", str(args.seed)]
    stages = [
        ("generate_synthetic_large", ["--n-samples", str(args.rows), *seed, "--out-dir", f"{work}/data"]),
        ("run_baselines", ["--csv", f"{work}/data/links.csv", *seed, "--out-dir", f"{work}/baselines"]),
        ("compare_results", [f"{work}/baselines", "--stage", f"{work}/data", "--out-dir", f"{work}/report", "--title",
                             f"Every baseline on {args.rows:,} generated links"]),
    ]  # fmt: skip
    for script, words in stages:
        cli.say(f"$ python scripts/{script}.py {shlex.join(words)}")
        if code := importlib.import_module(script).main([*words, "--force"]):
            raise cli.UserError(f"{script}.py ended with exit code {code}")
    manifest = read_manifest(work / "report" / MANIFEST)
    baselines = read_manifest(work / "baselines" / MANIFEST)["extra"]
    name = f"ladder-{args.rows}"
    words = " ".join(["python benchmarks/save_ladder.py", *map(shlex.quote, args.argv)])
    bench.write_page(args.out_dir / f"{name}.md", [
        f"# Every baseline on {args.rows:,} generated links", "",
        f"`{words}`: seed {args.seed}, preset {baselines['preset']}; trained on {baselines['train_rows']:,} rows, "
        f"scored on the {baselines['rows']:,} rows of the test split. Machine: {bench.describe_machine()}. Commit "
        f"{manifest['commit']}, {manifest['created']}.", "",
        f"![accuracy of every baseline]({name}.png)", "",
        (work / "report" / "comparison.md").read_text(),
    ])  # fmt: skip
    shutil.copyfile(work / "report" / "plots" / "ladder.png", args.out_dir / f"{name}.png")


if __name__ == "__main__":
    raise SystemExit(bench.start(build_parser(), run))
