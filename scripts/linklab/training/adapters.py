"""LoRA adapters on a model's language layers: new ones, or those of an earlier training."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from linklab import files
from linklab.cli import UserError, say
from linklab.models import architecture, load
from linklab.training import fused_lora
from linklab.training.options import TrainingSettings, flag_of, write_value

ALL_LINEAR = "all-linear"
_SHARED = {"lora_rank": "r", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout"}  # option: adapter_config key


def adopt_settings(settings: TrainingSettings) -> TrainingSettings:
    """Return the settings; if `--base-model` is an adapter, with its rank, scale and dropout.

    Raises a UserError if other values were given: an adapter's shape is fixed.
    """
    if settings.mode == "full" or not load.is_adapter(settings.base_model):
        return settings
    found = files.read_json(Path(settings.base_model) / load.ADAPTER_CONFIG)
    values = {name: found[key] for name, key in _SHARED.items()}
    for name, value in values.items():
        if settings.given(name) and getattr(settings, name) != value:
            raise UserError(
                f"{flag_of(name)} {write_value(getattr(settings, name))}: the adapter in {settings.base_model} has "
                f"{value}; leave the option out, or train a new adapter on {load.root_model(settings.base_model)}"
            )
    if settings.given("lora_targets"):
        raise UserError(f"--lora-targets: the adapter in {settings.base_model} already has its layers; leave it out")
    say(f"continuing the adapter in {settings.base_model}, trained on {load.root_model(settings.base_model)}")
    return dataclasses.replace(settings, **values)


def add_adapters(model: Any, settings: TrainingSettings) -> Any:
    """Return the model with adapters to train: new ones, or those of the adapter folder `--base-model`."""
    from peft import LoraConfig, PeftModel, get_peft_model

    if load.is_adapter(settings.base_model):
        adapted = PeftModel.from_pretrained(model, settings.base_model, is_trainable=True)
    else:
        config = LoraConfig(
            r=settings.lora_rank, lora_alpha=settings.lora_alpha, lora_dropout=settings.lora_dropout,
            target_modules=find_targets(model, settings.lora_targets), bias="none", task_type="CAUSAL_LM",
            exclude_modules=architecture.outside_decoder(model),
        )  # fmt: skip
        try:
            adapted = get_peft_model(model, config)
        except ValueError as error:
            raise UserError(f"--lora-targets {settings.lora_targets}: {str(error)[:200]}") from error
    fused_lora.fuse(adapted)
    adapted.create_or_update_model_card = lambda folder: None  # peft's card is an empty form; we write our own
    return adapted


def find_targets(model: Any, asked: str) -> str | list[str]:
    """Return the layers of `--lora-targets` in peft's form; raises a UserError for a name that no linear layer has."""
    if asked.strip() == ALL_LINEAR:
        return ALL_LINEAR
    head = architecture.head_of(model)
    tied = head is not None and head.weight is model.get_input_embeddings().weight
    skipped = architecture.outside_decoder(model) or "(?!)"  # matches nothing
    names = [
        name
        for name, module in model.named_modules()
        if module is head or (_is_linear(module) and not re.match(skipped, name))
    ]
    available = sorted({name.split(".")[-1] for name in names})
    targets = [target.strip() for target in asked.split(",")]
    for target in targets:
        found = [name for name in names if name == target or name.endswith(f".{target}")]
        if not target or not found:
            raise UserError(
                f"--lora-targets {asked}: no linear layer is called '{target}'; there are: {', '.join(available)}"
            )
        if tied and any(model.get_submodule(name) is head for name in found):
            raise UserError(
                f"--lora-targets {asked}: '{target}' shares its weights with the input embedding, and merging an "
                f"adapter on it would change both; leave it out"
            )
    return targets


def _is_linear(module: Any) -> bool:
    import torch
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, torch.nn.Linear | Conv1D)


def freeze_outside_decoder(model: Any) -> None:
    """Train all of the language model; freeze the layers that read images, because rows have no images."""
    model.requires_grad_(True)  # a merged adapter leaves its base frozen
    skipped = architecture.outside_decoder(model)
    for name, parameter in model.named_parameters():
        if skipped and re.match(skipped, name) and parameter is not architecture.head_of(model).weight:
            parameter.requires_grad_(False)
