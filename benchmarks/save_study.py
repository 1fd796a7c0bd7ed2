"""Save a learning curve's or a sweep's summary under docs/results, with its plots, its command and the machine.

study folder -> docs/results/NAME.md, docs/results/NAME-*.png

    python benchmarks/save_study.py runs/curve/study-2b47c13b --name curve-embedded

Run it on the machine that made the study.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
sys.path.insert(0, str(ROOT / "benchmarks"))
from linklab import cli, files  # noqa: E402
from linklab.manifest import read_manifest  # noqa: E402


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__)
    parser.add_argument("study", type=Path, metavar="DIR", help="study-… folder with a summary.md and its manifest")
    parser.add_argument("--name", required=True, metavar="NAME", help="what the saved files are called")
    parser.add_argument(
        "--out-dir", type=Path, default=ROOT / "docs" / "results", metavar="DIR", help="folder to save in"
    )
    return parser


def run(args) -> None:
    from save_results import describe_machine

    manifest = read_manifest(args.study)
    title, body = (args.study / "summary.md").read_text().split("\n", 1)
    plots = [entry["path"] for entry in manifest["outputs"] if entry["path"].endswith(".png")]
    data = ", ".join(f"`{entry['path']}` (SHA-256 {entry['sha256'][:12]}…)" for entry in manifest["inputs"])
    text = [
        title, "", f"`python scripts/{manifest['script']} {shlex.join(manifest['argv'])}`", "",
        f"On {data}. Machine: {describe_machine()}. Commit {manifest['commit']}, {manifest['created']}.",
        body.rstrip(), "", *(f"![{Path(plot).stem}]({args.name}-{plot})" for plot in plots), "",
    ]  # fmt: skip
    files.write_text(args.out_dir / f"{args.name}.md", "\n".join(text), force=True)
    for plot in plots:
        shutil.copyfile(args.study / plot, args.out_dir / f"{args.name}-{plot}")
    print(f"wrote {args.out_dir / args.name}.md and {len(plots)} plots")


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    return cli.main(build_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
