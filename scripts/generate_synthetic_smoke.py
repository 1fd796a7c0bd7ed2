"""Generate 50 outdoor 5 GHz links in a second, to try the other scripts with.

seed -> OUT_DIR/links.csv, links.zip, README.md, manifest.json: the first rows of any larger set

    python scripts/generate_synthetic_smoke.py --out-dir runs/smoke
"""

from __future__ import annotations

import argparse
import dataclasses

from linklab import cli, manifest


@dataclasses.dataclass(frozen=True)
class Settings:
    """How many rows are generated from which seed, and where they go."""

    out_dir: str
    n_samples: int
    force: bool
    seed: int
    argv: tuple[str, ...]


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__)
    group = parser.add_argument_group("Output")
    group.add_argument("--out-dir", required=True, metavar="DIR", help="folder to write, complete or not at all")
    group.add_argument("--n-samples", type=cli.positive_int, default=50, metavar="N", help="rows to generate")
    group.add_argument("--force", action="store_true", help="replace a folder this script wrote earlier")
    manifest.add_skip_finished_option(group)
    group = parser.add_argument_group("Reproducibility")
    group.add_argument("--seed", type=cli.seed_number, default=1, metavar="N", help="whole number from 0 to 2^32 - 1")
    return parser


def run(args: argparse.Namespace) -> None:
    from linklab.links import data_set
    from linklab.links.row_stream import Recipe

    settings = cli.read_settings(Settings, args)
    rows, _ = data_set.write_set(
        settings.out_dir,
        script=__file__,
        argv=settings.argv,
        recipe=Recipe(settings.seed),
        n_rows=settings.n_samples,
        chunk_rows=settings.n_samples,
        force=settings.force,
    )
    cli.say(f"wrote {settings.out_dir}: {rows:,} rows; links.csv, links.zip, README.md, manifest.json")


def main(argv: list[str] | None = None) -> int:
    return cli.main(build_parser(), manifest.skip_finished(run, __file__), argv)


if __name__ == "__main__":
    raise SystemExit(main())
