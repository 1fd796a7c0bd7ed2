"""The rows of a training: read, encoded as tokens, and identified by hashes for its checkpoints."""

from __future__ import annotations

import dataclasses
from typing import Any

from linklab.cli import UserError, say
from linklab.metrics.row_scores import hash_rows
from linklab.models import load
from linklab.models.base_weights import describe_weights
from linklab.tasks.examples import Example
from linklab.tasks.input_checks import describe_inputs
from linklab.tasks.source import Reader
from linklab.tasks.task import Task
from linklab.training import class_weights, training, validation_scores
from linklab.training.answer_loss import EncodedExamples
from linklab.training.options import TrainingSettings


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows for training and validation."""

    task: Task
    train: list[Example]
    validation: list[Example]
    identity: dict  # number of training rows and hashes of prompts and labels
    inputs: dict  # input files for the manifest
    seen: dict | None  # description of the training rows' cells; predict.py compares new rows with it


def read_rows(settings: TrainingSettings, task: Task, read: Reader, inputs: dict) -> Rows:
    """Return the rows for training and validation."""
    train = read("train", settings.max_rows)
    validation = read("validation", settings.validation_rows or min(100, max(40, len(train) // 10)))
    if settings.dry_run:
        say(f"rows in all: {len(read('train', None)):,} training, {len(read('validation', None)):,} validation, "
            f"{len(read('test', None)):,} test (never seen in training)")  # fmt: skip
    hashes = hash_rows(train)
    identity = {"rows": len(train), "prompts": hashes["prompts"], "labels": hashes["labels"]}
    identity |= {"answer_format": task.answer_format} if task.answer_format != "plain" else {}
    identity["validation"] = hash_rows(validation)["labels"]  # they decide which weights are the best
    seen = describe_inputs(train, task) if train[0].row else None
    return Rows(task, train, validation, identity, inputs, seen)


def encode_rows(settings: TrainingSettings, rows: Rows, tokenizer: Any) -> tuple[EncodedExamples, EncodedExamples]:
    """Return the encoded training and validation rows, with class weights if these are asked for."""
    train = _encode(rows.train, tokenizer, settings.max_length, "training", settings.batch_of)
    validation = _encode(rows.validation, tokenizer, settings.max_length, "validation")
    validation_scores.mark_judged(validation, rows.validation, rows.task, tokenizer)
    if settings.best_by == "accuracy":
        class_weights.require_class_first(rows.task, "--best-by accuracy")
    if settings.class_weights == "balanced":
        class_weights.weigh(train, validation, rows.train, rows.validation, rows.task)
    return train, validation


def _encode(
    examples: list[Example], tokenizer: Any, max_length: int, name: str, batch_of: str = "rows"
) -> EncodedExamples:
    """Return the encoded rows; raises a UserError if a row has more than `max_length` tokens."""
    encoded = EncodedExamples(examples, tokenizer, max_length, batch_of=batch_of)
    if encoded.too_long:
        raise UserError(
            f"{len(encoded.too_long)} of {len(examples)} {name} rows have more than --max-length {max_length} tokens "
            f"(first: {encoded.too_long[0]}; longest: {encoded.longest}); raise --max-length, shorten the template or "
            f"use --drop-columns"
        )
    return encoded


def make_fingerprint(settings: TrainingSettings, rows: Rows, base: list[dict]) -> dict:
    """Return what must be equal to continue a checkpoint: settings, rows, base weights, number of processes."""
    below = describe_weights(load.resolve(settings.base_model)) if load.is_adapter(settings.base_model) else []
    weights = {"base_weights": sorted(entry["sha256"] for entry in [*base, *below])}
    processes = {"processes": training.world_size()} if training.world_size() > 1 else {}
    return settings.deciding() | rows.identity | weights | processes
