"""Send a trained model, conversations or a generated set to the Hugging Face Hub, after its checks.

a finished folder -> the model or data set OWNER/NAME, in one commit

    python scripts/push_to_hub.py runs/lora --repo me/links-lora --license gemma --evaluation runs/tuned --dry-run

A folder goes only when every file is what its manifest names, a model only with its scores on unseen rows, data only
when nothing is wrong with them. The token comes from HF_TOKEN. Private, unless you say --public. Exit code 1: a check
failed.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from linklab import cli, files
from linklab.cli import CheckFailed, say
from linklab.manifest import MANIFEST


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is sent, and where."""

    folder: Path
    evaluation: Path | None
    merged: bool
    base_model: str | None
    repo: str
    license: str
    public: bool
    dry_run: bool


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__)
    what = parser.add_argument_group("Input")
    what.add_argument("folder", metavar="DIR", type=Path, help="what finetune, convert or generate wrote")
    what.add_argument("--evaluation", metavar="DIR", type=Path, help="a model's folder of evaluate_model.py, test rows")
    what.add_argument("--merged", action="store_true", help="send merged/ of a training with --merge, not the adapter")
    what.add_argument(
        "--base-model", metavar="OWNER/NAME", help="the base model's name on the Hub, where it was a folder"
    )
    where = parser.add_argument_group("Output")
    where.add_argument("--repo", required=True, metavar="OWNER/NAME", help="repository to send to; created if missing")
    where.add_argument(
        "--license",
        required=True,
        metavar="ID",
        help="a model: its base model's (gemma); data: your own, such as cc-by-4.0",
    )
    where.add_argument("--public", action="store_true", help="make the repository public")
    where.add_argument("--dry-run", action="store_true", help="run the checks, list the files, send nothing")
    return parser


def run(args: argparse.Namespace) -> None:
    from linklab import hub, publish

    settings = cli.read_settings(Settings, args)
    if not settings.dry_run:
        hub.require_token("push_to_hub.py")
    for folder in filter(None, (settings.folder, settings.evaluation)):
        files.require_file(folder / MANIFEST)
    upload = publish.pack(settings.folder, settings.license, evaluation=settings.evaluation, merged=settings.merged,
                          base=settings.base_model)  # fmt: skip
    for name, problem in upload.problems.items():
        say(f"ok  {name}" if problem is None else f"NO  {name}: {problem}")
    if failed := [name for name, problem in upload.problems.items() if problem]:
        raise CheckFailed(f"{settings.folder}: {len(failed)} of {len(upload.problems)} checks failed; nothing was sent")
    for name, size in sorted(upload.sizes().items()):
        say(f"    {size:>13,} bytes  {name}")
    if settings.dry_run:
        say(f"dry run: {len(upload.files)} files would go to the {upload.kind} {settings.repo}; nothing was sent")
        return
    message = f"Add {settings.folder.resolve().name}, checked"
    hub.send(
        upload.files, settings.repo, upload.kind, message, asked_by=f"--repo {settings.repo}", public=settings.public
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script and return its exit code."""
    return cli.main(build_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
