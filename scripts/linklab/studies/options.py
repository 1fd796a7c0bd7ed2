"""The options that learning curve and sweep share, and the arguments for the scripts they run."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from linklab import cli
from linklab.cli import UserError

if TYPE_CHECKING:
    from linklab.studies.search_space import Axis
    from linklab.tasks.source import Source

MEASURED = ("accuracy", "mae")  # the metrics of curves, for class and for number targets
# Options that a study sets itself; after the lone `--` they would be given twice.
OWN = ("--csv", "--data", *(name for name, _ in (*cli.TABLE_OPTIONS, *cli.QUESTION_OPTIONS)), "--split-seed",
       "--out-dir", "--resume", "--force", "--dry-run", "--max-rows", "--seed", "--base-model", "--mode")  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudySettings:
    """The settings common to learning curves and sweeps."""

    source: Source  # the rows
    base_model: str
    mode: str
    training: tuple[str, ...]  # arguments after `--`, passed to finetune_gemma_from_csv.py unchanged
    out_dir: str
    retry_failed: bool
    argv: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return the model, mode and training options: `embedded, lora --epochs 2`."""
        return " ".join([f"{self.base_model}, {self.mode}", *self.training])

    def training_words(self, *own: str) -> list[str]:
        """Return a training's words without its output folder; `own`, the words of one run, come last."""
        return [*self.source.words(), "--base-model", self.base_model, "--mode", self.mode, *self.training, *own]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurveSettings(StudySettings):
    """A learning curve: `sizes` training rows x `seeds`, scored on `test_rows` unseen rows."""

    sizes: tuple[int, ...]
    seeds: tuple[int, ...]
    test_rows: int
    goal: tuple[tuple[str, float], ...]  # (metric, value): how many rows does it need?
    no_baselines: bool
    dry_run: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepSettings(StudySettings):
    """A sweep: how trials are chosen, trained and scored."""

    max_rows: int | None
    validation_rows: int
    metric: str
    space: tuple[Axis, ...]
    sampler: str
    trials: int | None
    prune: bool
    storage: str | None
    seed: int


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """Add the model, the mode and options that are passed on to finetune_gemma_from_csv.py unchanged."""
    model = parser.add_argument_group("Model")
    cli.add_base_model_option(model)
    model.add_argument("--mode", choices=("full", "lora", "qlora"), default="lora", help="what is trained")
    model.add_argument(
        "training", nargs="*", metavar="OPTION",
        help="after a lone `--`: options of finetune_gemma_from_csv.py, passed on unchanged",
    )  # fmt: skip


def check_training_arguments(arguments: Sequence[str], taken: Sequence[str] = ()) -> None:
    """Raise a UserError for an option that the study sets itself."""
    for argument in arguments:
        name = argument.split("=")[0]
        if name in OWN or name in taken:
            raise UserError(f"{name} after `--`: the study sets this option itself; leave it out there")
    if arguments and not arguments[0].startswith("-"):
        raise UserError(
            f"'{arguments[0]}': expected an option of finetune_gemma_from_csv.py after `--`, such as --epochs 2"
        )


def parse_goal(text: str) -> tuple[str, float]:
    """Argparse type: `accuracy=0.7`, `mae=60` or `TARGET/accuracy=0.7` -> (name, value)."""
    name, found, value = text.partition("=")
    if name.rsplit("/", 1)[-1] not in MEASURED or not found:
        raise argparse.ArgumentTypeError(f"'{text}': write accuracy=X, mae=X or TARGET/accuracy=X")
    number = cli.positive_float(value)
    if name.endswith("accuracy") and number >= 1:
        raise argparse.ArgumentTypeError(f"'{text}': an accuracy lies between 0 and 1, like accuracy=0.7")
    return name, number
