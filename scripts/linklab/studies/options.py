"""What both studies are asked: which rows, which model, where to; and the words the scripts below get from it."""

from __future__ import annotations

import argparse

from linklab import cli
from linklab.cli import UserError

MEASURED = ("accuracy", "mae")  # the metric a curve is drawn of, for class and for number targets
# What a study sets itself; given after the lone `--`, it would be said twice.
OWN = ("--csv", "--data", *(name for name, _ in cli.TABLE_OPTIONS), "--prompt-template", "--system-prompt", "--ask",
       "--split-seed", "--out-dir", "--resume", "--force", "--dry-run", "--max-rows", "--seed", "--base-model",
       "--mode")  # fmt: skip


def add_data_options(parser):
    """Add the source of the rows, as finetune takes it; returns the group."""
    data = parser.add_argument_group("Input")
    cli.add_source_options(data)
    return data


def add_training_options(parser) -> None:
    """Add the model and what is passed on to finetune as it is."""
    model = parser.add_argument_group("Model")
    cli.add_base_model_option(model)
    model.add_argument("--mode", choices=("full", "lora", "qlora"), default="lora", help="what is trained")
    model.add_argument(
        "training", nargs="*", metavar="OPTION", help="after a lone `--`: options of finetune_gemma_from_csv.py as is"
    )


def check_training_words(words: list[str], taken: tuple[str, ...] = ()) -> None:
    """Raise a UserError for an option that the study sets itself."""
    for word in words:
        name = word.split("=")[0]
        if name in OWN or name in taken:
            raise UserError(f"{name} after `--`: the study sets it itself; leave it out there")
    if words and not words[0].startswith("-"):
        raise UserError(
            f"'{words[0]}': after `--` an option of finetune_gemma_from_csv.py is expected, like --epochs 2"
        )


def data_words(args) -> list[str]:
    """Return the words that name the rows, the same for finetune and evaluate."""
    if args.data:
        return ["--data", args.data]
    words = ["--csv", args.csv, *cli.table_words(args)]
    for name in ("prompt_template", "system_prompt", "ask"):
        if value := getattr(args, name):
            words += [f"--{name.replace('_', '-')}", value]
    return words + (["--split-seed", str(args.split_seed)] if args.split_seed else [])


def parse_goal(text: str) -> tuple[str, float]:
    """Argparse type: `accuracy=0.7`, `mae=60` or `TARGET/accuracy=0.7` -> (name, value)."""
    name, found, value = text.partition("=")
    if name.rsplit("/", 1)[-1] not in MEASURED or not found:
        raise argparse.ArgumentTypeError(f"'{text}': write accuracy=X, mae=X or TARGET/accuracy=X")
    number = cli.positive_float(value)
    if name.endswith("accuracy") and number >= 1:
        raise argparse.ArgumentTypeError(f"'{text}': an accuracy lies between 0 and 1, like accuracy=0.7")
    return name, number
