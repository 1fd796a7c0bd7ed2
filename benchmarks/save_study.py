"""Save a learning curve's or a sweep's summary under docs/results, with its plots, its command and the machine.

study folder -> docs/results/NAME.md, docs/results/NAME-*.png

    python benchmarks/save_study.py runs/curve/study-2b47c13b --name curve-embedded

Run it on the machine that made the study.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
from pathlib import Path

import bench
from linklab.manifest import read_manifest


def build_parser() -> argparse.ArgumentParser:
    parser = bench.make_parser(__doc__)
    parser.add_argument("study", type=Path, metavar="DIR", help="study-… folder with a summary.md and its manifest")
    parser.add_argument("--name", required=True, metavar="NAME", help="name of the saved files")
    parser.add_argument(
        "--out-dir", type=Path, default=bench.ROOT / "docs" / "results", metavar="DIR", help="folder to save in"
    )
    return parser


def run(args: argparse.Namespace) -> None:
    manifest = read_manifest(args.study)
    title, body = (args.study / "summary.md").read_text().split("\n", 1)
    plots = [entry["path"] for entry in manifest["outputs"] if entry["path"].endswith(".png")]
    data = ", ".join(f"`{entry['path']}` (SHA-256 {entry['sha256'][:12]}…)" for entry in manifest["inputs"])
    text = [
        title, "", f"`python scripts/{manifest['script']} {shlex.join(manifest['argv'])}`", "",
        f"On {data}. Machine: {bench.describe_machine()}. Commit {manifest['commit']}, {manifest['created']}.",
        body.rstrip(), "", *(f"![{Path(plot).stem}]({args.name}-{plot})" for plot in plots), "",
    ]  # fmt: skip
    bench.write_page(args.out_dir / f"{args.name}.md", text)
    for plot in plots:
        shutil.copyfile(args.study / plot, args.out_dir / f"{args.name}-{plot}")


if __name__ == "__main__":
    raise SystemExit(bench.start(build_parser(), run))
