"""Generate outdoor 5 GHz links with the channel that is really best: any number of rows in constant memory.

seed -> OUT_DIR/links.csv, links.zip, README.md (how hard the set is), manifest.json (SHA-256 per chunk and file)

    python scripts/generate_synthetic_large.py --n-samples 4000 --seed 1 --out-dir runs/links

A row depends on the seed and its own number only: the first N rows of any longer run are the same bytes, whatever
the chunk size and the number of workers.
"""

from __future__ import annotations

import argparse
import dataclasses

from linklab import cli, manifest

DOMAIN_SHARES = {"FCC": 0.55, "ETSI": 0.25, "ETSI_BFWA": 0.20}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Which rows are generated, and where they go."""

    out_dir: str
    n_samples: int
    chunk_size: int
    force: bool
    upload_to_drive: str | None
    upload_to_hf: str | None
    preset: str
    domains: tuple[tuple[str, float], ...]
    min_gap: float  # percent
    stratify_by: tuple[str, ...] | None
    balance: str
    seed: int
    workers: int | None
    argv: tuple[str, ...]


def domain_mix(text: str) -> tuple[tuple[str, float], ...]:
    """Argparse type: `FCC,ETSI` or `FCC=.7,ETSI=.3` -> ((domain, share), …), shares adding up to 1."""
    mix = {}
    for part in cli.comma_list(text):
        name, equals, share = part.partition("=")
        if name not in DOMAIN_SHARES or name in mix:
            raise argparse.ArgumentTypeError(f"'{part}': name each of {', '.join(DOMAIN_SHARES)} at most once")
        try:
            mix[name] = float(share) if equals else DOMAIN_SHARES[name]
        except ValueError:
            raise argparse.ArgumentTypeError(f"'{part}': the share is not a number") from None
        if not 0 < mix[name] < float("inf"):
            raise argparse.ArgumentTypeError(f"'{part}': a share must be above 0")
    total = sum(mix.values())
    return tuple((name, mix[name] / total) for name in DOMAIN_SHARES if name in mix)


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__)
    group = parser.add_argument_group("Output")
    group.add_argument("--out-dir", required=True, metavar="DIR", help="folder to write, complete or not at all")
    group.add_argument("--n-samples", type=cli.positive_int, default=20_000, metavar="N", help="rows to generate")
    group.add_argument(
        "--chunk-size",
        type=cli.positive_int,
        default=10_000,
        metavar="ROWS",
        help="rows per SHA-256 in the manifest; the data are the same for any number",
    )
    group.add_argument("--force", action="store_true", help="replace a folder this script wrote earlier")
    manifest.add_skip_finished_option(group)
    group.add_argument(
        "--upload-to-drive",
        metavar="DIR",
        help="also copy the finished set into this folder (a mounted Drive), checked by hash",
    )
    group.add_argument(
        "--upload-to-hf",
        metavar="OWNER/NAME",
        help="also upload the finished set to this Hugging Face dataset, private if new; the token comes from HF_TOKEN",
    )
    group = parser.add_argument_group("Data")
    group.add_argument(
        "--preset",
        choices=("easy", "standard", "hard"),
        default="standard",
        help="noise of the reported values; the true values stay the same",
    )
    group.add_argument(
        "--domains",
        type=domain_mix,
        default="FCC=.55,ETSI=.25,ETSI_BFWA=.2",
        metavar="NAME[=SHARE],…",
        help="regulatory domains of the links, and the share of each",
    )
    group.add_argument(
        "--min-gap",
        type=cli.Limits(float, 0, 100, below=True),
        default=2.0,
        metavar="PERCENT",
        help="least lead of the best channel over the second, in %% of its throughput",
    )
    group.add_argument(
        "--stratify-by",
        type=cli.comma_list,
        metavar="COLUMN[,COLUMN]",
        help="columns whose combinations are strata; a number with many values is cut at its quartiles",
    )
    group.add_argument(
        "--balance",
        choices=("none", "oversample", "undersample", "generate"),
        default="none",
        help="copy rows of small strata (copies keep their scenario_id), drop rows of large ones, or "
        "fill every stratum with fresh rows",
    )
    group = parser.add_argument_group("Reproducibility")
    group.add_argument(
        "--seed", type=cli.Limits(int, 0, 2**64 - 1), default=0, metavar="N", help="whole number from 0 to 2^64 - 1"
    )
    group.add_argument(
        "--workers",
        type=cli.positive_int,
        metavar="N",
        help="number of processes; the output is the same for any number (default: all usable cores)",
    )
    return parser


def run(args: argparse.Namespace) -> None:
    from linklab import hub
    from linklab.links import data_set, upload
    from linklab.links.row_stream import Recipe
    from linklab.manifest import check_out_dir

    settings = cli.read_settings(Settings, args)
    check_out_dir(settings.out_dir, script=__file__, force=settings.force)
    if settings.upload_to_drive:
        check_out_dir(settings.upload_to_drive, script=__file__, force=True, reads=[settings.out_dir])
    if settings.upload_to_hf:
        hub.require_token(upload.UPLOAD_OPTION)
    rows, figures = data_set.write_set(
        settings.out_dir,
        script=__file__,
        argv=settings.argv,
        recipe=Recipe(settings.seed, settings.preset, settings.domains, settings.min_gap / 100),
        n_rows=settings.n_samples,
        chunk_rows=settings.chunk_size,
        workers=settings.workers,
        stratify_by=settings.stratify_by or (),
        balance=settings.balance,
        force=settings.force,
    )
    if settings.upload_to_drive:
        upload.copy_checked(settings.out_dir, settings.upload_to_drive)
    if settings.upload_to_hf:
        upload.upload_dataset(settings.out_dir, settings.upload_to_hf)
    ceiling, formula = figures["bayes"]["ceiling"], figures["pickers"]["formula"]["accuracy"]
    cli.say(f"wrote {settings.out_dir}: {rows:,} rows (ceiling {ceiling:.3f}, formula {formula:.3f}); "
            f"links.csv, links.zip, README.md, manifest.json")  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    return cli.main(build_parser(), manifest.skip_finished(run, __file__), argv)


if __name__ == "__main__":
    raise SystemExit(main())
