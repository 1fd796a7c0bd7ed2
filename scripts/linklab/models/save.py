"""Save a trained model so that any program can load it: weights, tokenizer, stop tokens, the base's Hub name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from linklab import files
from linklab.models import load


def save_model(model: Any, tokenizer: Any, folder: Path, base_model: str) -> None:
    """Write a whole model, or an adapter of `base_model`, with its tokenizer and stop tokens to `folder`.

    peft reads the base model's generation_config.json; the one beside an adapter is for programs that load it by name,
    such as the code in the model card.
    """
    whole = model.get_base_model() if hasattr(model, "peft_config") else model
    load.set_stop_tokens(whole, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if load.is_adapter(folder):
        whole.generation_config.save_pretrained(folder)
        _name_base(folder, base_model)


def _name_base(folder: Path, base_model: str) -> None:
    """Write the base model's Hub name into the adapter's config, and its name on this machine into BASE_FILE."""
    root, known = load.root_model(base_model), load.hub_name(base_model)
    path = folder / load.ADAPTER_CONFIG
    config = files.read_json(path)
    config["base_model_name_or_path"] = known or load.resolve(root)
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    files.write_json(folder / load.BASE_FILE, {"base_model": root, "hub_name": known}, force=True)


def merge_adapter(adapter: Path, folder: Path, dtype: str) -> None:
    """Write the base model with the adapter merged in to `folder`, in `dtype`: "base" or the name of a torch type.

    The sum is computed in float32. Any program can load the result without peft.
    """
    import torch

    model, tokenizer = load.load_trained(adapter)
    if dtype == "base":
        from transformers import AutoConfig

        base = load.resolve(load.root_model(str(adapter)))
        config = AutoConfig.from_pretrained(base, trust_remote_code=False)
        chosen = getattr(config, "dtype", None) or config.get_text_config().dtype or torch.float32
    else:
        chosen = getattr(torch, dtype)
    model.to(chosen).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
