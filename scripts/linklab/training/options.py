"""Every training option, declared once: name, type, default, range, help and source.

From the fields of `TrainingSettings` come the command-line parser, the settings object, the sweep's search space, the
lines of a dry run and the table in docs/settings.md (`make docs` writes it).
"""

from __future__ import annotations

import argparse
import dataclasses
import typing
from collections.abc import Sequence
from typing import Any, Literal

from linklab import cli

# Adapters need about ten times the rate of full fine-tuning: docs/settings.md.
LEARNING_RATES = {"full": 5e-5, "lora": 5e-4, "qlora": 5e-4}
QUESTIONS_SHOWN, MAX_EPOCHS = 4_800, 4  # without --epochs: 600 steps of 8 questions, 300 of 16
SWITCHES = {"bf16": "--bf16", "fp32": "--fp32", "fp16": "--fp16"}  # the options that set `precision`
TABLE_START = "<!-- training options: written by `make docs` from scripts/linklab/training/options.py -->"
TABLE_END = "<!-- end of training options -->"


def option(
    default: Any,
    help: str,
    *,
    group: str,
    metavar: str | None = None,
    limits: cli.Limits | None = None,
    source: str = "",
    unset: str = "",
    decides: bool = False,
    tunable: bool = False,
    exclusive: str = "",
    optional_value: str | None = None,
) -> Any:
    """Return a dataclass field that describes one training option.

    `limits` is the range of a number. `unset` describes the default of an option that is computed if not given; the
    field is then 0 or None. `source` says where the default comes from. An option that `decides` changes the trained
    weights, so a checkpoint is continued only with the same value. A `tunable` option can be swept. Only one of the
    options with the same `exclusive` name may be given. `optional_value` is the value of the option given without one.
    """
    metadata = {"help": help, "group": group, "metavar": metavar, "limits": limits, "source": source, "unset": unset,
            "decides": decides, "tunable": tunable, "exclusive": exclusive,
            "optional_value": optional_value}  # fmt: skip
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """The typed options of one training run; in fields with `unset`, 0 and None mean "not given".

    `prepare` sets the values that depend on the machine and the number of steps. On one machine, runs with equal
    `deciding()` and equal data give equal weights.
    """

    base_model: str = dataclasses.field(default="google/gemma-3-270m-it", metadata={"decides": True})
    max_rows: int | None = option(
        None,
        "train on at most N rows, the same ones in every script",
        group="Input",
        metavar="N",
        limits=cli.positive_int,
        unset="all rows",
    )
    validation_rows: int = option(
        0, "number of rows for the validation loss", group="Input", metavar="N",
        limits=cli.positive_int, unset="a tenth of the training rows, 40 to 100",
    )  # fmt: skip
    out_dir: str = option(None, "folder for the model and its records", group="Output", metavar="DIR")
    resume: str | None = option(
        None, "continue from the last complete checkpoint in --out-dir or --drive-dir (auto), or from checkpoint DIR; "
        "without one, start from the beginning", group="Output", metavar="auto|DIR", optional_value="auto",
    )  # fmt: skip
    drive_dir: str | None = option(
        None, "also keep a verified copy of each checkpoint here, on a disk that survives the machine (a mounted "
        "Drive)", group="Output", metavar="DIR",
    )  # fmt: skip
    force: bool = option(False, "replace what an earlier run wrote to --out-dir", group="Output")
    merge: bool = option(False, "also write the adapter merged into its base model, to DIR/merged", group="Output")
    merge_dtype: Literal["base", "float32", "bfloat16", "float16"] = option(
        "base", "number type of the merged weights; base: that of the base model", group="Output",
        source="a merged model is as large as its base model",
    )  # fmt: skip
    dry_run: bool = option(
        False, "build everything, time some steps, print the plan and its cost, and stop before training",
        group="Output",
    )  # fmt: skip
    mode: Literal["full", "lora", "qlora"] = option(
        "lora", "what is trained: every weight, adapters on all linear layers, or adapters on a 4-bit base model (NF4)",
        group="Model", decides=True, source="fast, small files, low risk: [training.md](training.md)",
    )  # fmt: skip
    lora_rank: int = option(
        16, "rank of the adapters", group="Model", metavar="N", limits=cli.positive_int, decides=True, tunable=True,
        source="Biderman et al., \"LoRA Learns Less and Forgets Less\", 2024",
    )  # fmt: skip
    lora_alpha: int = option(
        32, "scale of the adapters; twice the rank is usual", group="Model", metavar="N", limits=cli.positive_int,
        decides=True, tunable=True, source="twice the rank: Biderman et al., 2024",
    )  # fmt: skip
    lora_dropout: float = option(
        0.0, "dropout in the adapters, 0 to below 1", group="Model", metavar="P",
        limits=cli.Limits(float, 0, 1, below=True), decides=True, tunable=True,
        source="rows are seen once or a few times; QLoRA used 0.1 for many epochs",
    )  # fmt: skip
    lora_targets: str = option(
        "all-linear", "names of the layers that get adapters", group="Model", metavar="NAME[,NAME]", decides=True,
        source="adapters on every layer are needed to reach full fine-tuning: Dettmers et al., \"QLoRA\", 2023, "
        "section 4; Schulman et al., \"LoRA Without Regret\", 2025",
    )  # fmt: skip
    epochs: float = option(
        0.0, "passes over the training rows", group="Training", metavar="X",
        limits=cli.Limits(float, 0, 10_000, above=True), decides=True, tunable=True, exclusive="length",
        unset="enough to show 4,800 questions, 1 to 4; a row is one question, or with --ask choices one per choice",
        source="1,227 diamonds seen once: the same answer for all, accuracy .36; 4 times: .67, like boosted trees; 100 "
        "links: .56 and .75: [experiments](results/experiments.md)",
    )  # fmt: skip
    max_steps: int = option(
        0, "optimizer steps, instead of --epochs", group="Training", metavar="N", limits=cli.positive_int, decides=True,
        tunable=True, exclusive="length", unset="as many as --epochs needs",
    )  # fmt: skip
    batch_of: Literal["questions", "rows"] = option(
        "questions", "unit of the batch size if rows have several questions (--ask choices): questions from the whole "
        "table, or whole rows, whose common tokens are computed once", group="Training", decides=True,
        source="questions of one row have nearly the same answer: accuracy .53 with 2 rows per step, .77 with 12 mixed "
        "questions: [experiments](results/experiments.md)",
    )  # fmt: skip
    per_device_batch_size: int = option(
        0, "batch size per device, in questions: one per row, or with --ask choices one per choice (see --batch-of)",
        group="Training", metavar="N", limits=cli.positive_int, decides=True, tunable=True,
        unset="16 questions if rows have several, else 8 rows",
        source="16 short questions take little longer than 8, and each teaches as much: "
        "[experiments](results/experiments.md)",
    )  # fmt: skip
    gradient_accumulation_steps: int = option(
        1, "batches accumulated per optimizer step", group="Training", metavar="N", limits=cli.positive_int,
        decides=True, tunable=True, source="8 rows fit a small GPU; if not, lower the batch size and raise this",
    )  # fmt: skip
    learning_rate: float = option(
        0.0, "peak learning rate", group="Training", metavar="X", limits=cli.Limits(float, 0, 1, above=True),
        decides=True, tunable=True,
        unset="; ".join(f"{mode} {rate:.0e}" for mode, rate in LEARNING_RATES.items()),
        source="5e-5 is transformers' own default; adapters do best at about ten times the rate of full fine-tuning: "
        "Schulman et al., 2025; confirmed for LoRA by [two sweeps](studies.md#results): with 8 rows per "
        "step, 2.8e-4 to 1.1e-3 give similar results",
    )  # fmt: skip
    lr_schedule: Literal["cosine", "linear", "constant_with_warmup"] = option(
        "cosine", "how the learning rate falls", group="Training", decides=True, tunable=True,
        source="usual; measured here",
    )  # fmt: skip
    warmup_fraction: float = option(
        0.05, "share of the steps in which the learning rate rises at the start, 0 to 1", group="Training", metavar="P",
        limits=cli.Limits(float, 0, 1), decides=True, tunable=True, source="usual; measured here",
    )  # fmt: skip
    weight_decay: float = option(
        0.0, "AdamW weight decay, 0 to 10", group="Training", metavar="X", limits=cli.Limits(float, 0, 10),
        decides=True, tunable=True, source="transformers' default",
    )  # fmt: skip
    max_length: int = option(
        512, "maximum tokens per row; longer rows are rejected, never truncated", group="Training", metavar="N",
        limits=cli.positive_int, decides=True, source="rows of links have 60 to 300 tokens",
    )  # fmt: skip
    precision: Literal["bf16", "fp32", "fp16"] | None = option(
        None, "number type of matrix products", group="Training", decides=True,
        unset="the best this machine supports", source="[environment.md](../environment.md#precision)",
    )  # fmt: skip
    gradient_checkpointing: bool = option(False, "less memory, about a third more time", group="Training", decides=True)
    eval_steps: int = option(
        0, "steps between validation losses", group="Training", metavar="N", limits=cli.positive_int,
        unset="same as --save-steps",
    )  # fmt: skip
    save_steps: int = option(
        0, "steps between checkpoints", group="Training", metavar="N", limits=cli.positive_int,
        unset="a tenth of the run, at most 200",
    )  # fmt: skip
    save_total_limit: int = option(
        2, "checkpoints kept; never fewer than 2, so that one is always complete", group="Training", metavar="N",
        limits=cli.positive_int, source="the last one and one before it",
    )  # fmt: skip
    patience: int = option(
        0, "stop after N validations in a row without improvement (see --best-by); 0: never", group="Training",
        metavar="N", limits=cli.Limits(int, 0), source="the best weights are saved in any case",
    )  # fmt: skip
    best_by: Literal["loss", "accuracy"] = option(
        "loss", "which weights are saved as the model: those with the lowest validation loss, or those that write the "
        "right class for the most validation rows", group="Training", decides=True,
        source="the loss changes smoothly, accuracy in steps",
    )  # fmt: skip
    report_to: Literal[
        "tensorboard", "none", "azure_ml", "clearml", "codecarbon", "comet_ml", "dagshub", "dvclive", "flyte",
        "kubeflow", "mlflow", "neptune", "swanlab", "trackio", "wandb",
    ] = option(
        "tensorboard", "logger to use in addition to trainer_log.csv; TensorBoard writes to DIR/tensorboard",
        group="Training",
    )  # fmt: skip
    class_weights: Literal["none", "balanced"] = option(
        "none", "balanced: rows of rare classes get a higher weight in training and validation loss: rows / (classes * "
        "rows of the class)", group="Training", decides=True,
        source="weights make rare answers more probable than they are; set it if every class matters alike",
    )  # fmt: skip
    seed: int = option(
        0, "seed of the adapters' initial values and of the row order", group="Reproducibility", metavar="N",
        limits=cli.seed_number, decides=True,
    )  # fmt: skip
    argv: tuple[str, ...] = ()

    def deciding(self) -> dict[str, Any]:
        """Return the values that change the trained weights, by name."""
        return {field.name: getattr(self, field.name) for field in FIELDS.values() if field.metadata.get("decides")}

    def given(self, name: str) -> bool:
        """Say whether this option was given on the command line."""
        flags = list(SWITCHES.values()) if name == "precision" else [flag_of(name)]
        return any(word.split("=")[0] in flags for word in self.argv)

    def fit_rows(self, n_rows: int, n_questions: int) -> TrainingSettings:
        """Return these settings with batch size and epochs set; raises a UserError if the rows do not fill a batch."""
        items = n_questions if self.batch_of == "questions" else n_rows
        size = self.per_device_batch_size or (16 if items > n_rows else 8)
        if items < size:
            what = "questions" if items > n_rows else "rows"
            raise cli.UserError(
                f"{items} training {what} for a batch of {size}: get more rows or lower --per-device-batch-size"
            )
        epochs = self.epochs or choose_epochs(n_questions)
        return dataclasses.replace(self, per_device_batch_size=size, epochs=epochs)

    def prepare(self, *, precision: str, steps: int) -> TrainingSettings:
        """Return these settings with the precision set, and with --save-steps and --eval-steps for `steps` steps.

        Raises a UserError if a checkpoint would be written without a validation loss.
        """
        save_steps = self.save_steps or max(1, min(200, round(steps / 10)))
        eval_steps = self.eval_steps or save_steps
        if save_steps % eval_steps:
            raise cli.UserError(f"--save-steps {save_steps} is not a multiple of --eval-steps {eval_steps}")
        return dataclasses.replace(
            self, precision=typing.cast(Any, precision), save_steps=save_steps, eval_steps=eval_steps
        )


def choose_epochs(n_questions: float) -> float:
    """Return the number of epochs if --epochs is not given."""
    return float(min(MAX_EPOCHS, max(1, round(QUESTIONS_SHOWN / n_questions))))


FIELDS = {field.name: field for field in dataclasses.fields(TrainingSettings) if field.metadata}
TUNABLE = tuple(name for name, field in FIELDS.items() if field.metadata.get("tunable"))
_TYPES = typing.get_type_hints(TrainingSettings)


def flag_of(name: str) -> str:
    """Return the option of a setting: lora_rank -> --lora-rank."""
    return f"--{name.replace('_', '-')}"


def choices_of(name: str) -> tuple[str, ...]:
    """Return the values that an option accepts, () if it is not a fixed list."""
    return typing.get_args(_TYPES[name]) if typing.get_origin(_TYPES[name]) is Literal else ()


def limits_of(name: str) -> cli.Limits | None:
    """Return the range of a number option, None for other options."""
    return FIELDS[name].metadata["limits"]


def read_value(name: str, text: str) -> Any:
    """Return the value of an option from its text; raises argparse.ArgumentTypeError for a wrong text."""
    if choices := choices_of(name):
        if text not in choices:
            raise argparse.ArgumentTypeError(f"'{text}' is not one of {', '.join(choices)}")
        return text
    limits = limits_of(name)
    return limits(text) if limits else text


def add_options(parser: argparse.ArgumentParser, groups: dict[str, Any]) -> None:
    """Add every training option to the parser; `groups` maps titles to argument groups, and new groups are added."""
    exclusive: dict[str, Any] = {}
    for name, field in FIELDS.items():
        about = field.metadata
        if "group" not in about:
            continue  # --base-model, which other scripts share
        if about["group"] not in groups:
            groups[about["group"]] = parser.add_argument_group(about["group"])
        group = groups[about["group"]]
        if name == "precision":
            cli.add_precision_options(group, float16=True)
            continue
        if about["exclusive"]:
            if about["exclusive"] not in exclusive:
                exclusive[about["exclusive"]] = group.add_mutually_exclusive_group()
            group = exclusive[about["exclusive"]]
        group.add_argument(flag_of(name), **_argument_of(name, field))


def _argument_of(name: str, field: dataclasses.Field) -> dict[str, Any]:
    """Return the keyword arguments of `add_argument` for an option."""
    about = field.metadata
    if _TYPES[name] is bool:
        return {"action": "store_true", "help": about["help"]}
    made: dict[str, Any] = {"help": about["help"], "default": None if about["unset"] else field.default}
    if about["unset"]:
        made["help"] += f" (default: {about['unset']})"
    if name == "out_dir":
        made["required"] = True
    if about["optional_value"]:
        made |= {"nargs": "?", "const": about["optional_value"]}
    if choices := choices_of(name):
        return made | {"choices": choices}
    return made | {"metavar": about["metavar"]} | ({"type": about["limits"]} if about["limits"] else {})


def read_settings(args: argparse.Namespace) -> TrainingSettings:
    """Return the settings of a parsed command line; without --learning-rate it depends on --mode."""
    known = {name: getattr(args, name) for name in FIELDS}
    values = {name: value for name, value in known.items() if value is not None}
    values.setdefault("learning_rate", LEARNING_RATES[args.mode])
    return TrainingSettings(**values, argv=tuple(getattr(args, "argv", ())))


def chosen_lines(settings: TrainingSettings, why: dict[str, str]) -> list[str]:
    """Return `--option value (reason)` for each option of model and training that was not given."""
    lines = []
    for name, field in FIELDS.items():
        if field.metadata.get("group") not in ("Model", "Training", "Reproducibility") or settings.given(name):
            continue
        value = getattr(settings, name)
        if _TYPES[name] is bool or (field.metadata["unset"] and not value):
            continue
        shown = SWITCHES[value] if name == "precision" else f"{flag_of(name)} {write_value(value)}"
        lines.append(shown + (f" ({why[name]})" if name in why else ""))
    return lines


def write_value(value: Any) -> str:
    """Return a value as text for a command: 0.0005 -> `0.0005`, 1e-05 -> `1e-05`."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def write_table() -> str:
    """Return the markdown table of options for docs/settings.md."""
    lines = ["| option | default | takes | what it does | source of the default |", "|---|---|---|---|---|"]
    for name, field in FIELDS.items():
        about = field.metadata
        if "group" not in about:
            continue
        flags = list(SWITCHES.values()) if name == "precision" else [flag_of(name)]
        if _TYPES[name] is bool or name == "precision":
            takes = "switch"
        elif choices := choices_of(name):
            takes = ", ".join(f"`{choice}`" for choice in choices)
        else:
            takes = about["limits"].text() if about["limits"] else f"`{about['metavar']}`".replace("|", "\\|")
        default = about["unset"] or ("off" if _TYPES[name] is bool else write_value(field.default))
        if field.default is None and not about["unset"]:
            default = "required" if name == "out_dir" else "–"
        words = (", ".join(f"`{flag}`" for flag in flags), default, takes, about["help"], about["source"] or "–")
        lines.append("| " + " | ".join(words) + " |")
    return "\n".join(lines)


def update_page(text: str) -> str:
    """Return the text of docs/settings.md with the current table of options."""
    before, _, rest = text.partition(TABLE_START)
    _, _, after = rest.partition(TABLE_END)
    return f"{before}{TABLE_START}\n\n{write_table()}\n\n{TABLE_END}{after}"


def main(argv: Sequence[str]) -> None:
    """Update the table in the files named in `argv`."""
    from pathlib import Path

    for name in argv:
        path = Path(name)
        path.write_text(update_page(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
