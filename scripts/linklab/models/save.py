"""Write a trained model as any program can use it: weights, tokenizer, stop tokens, and the base's name on the Hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from linklab import files
from linklab.models import load


def save_model(model: Any, tokenizer: Any, folder: Path, base_model: str) -> None:
    """Write a whole model, or an adapter of `base_model`, with its tokenizer and stop tokens to `folder`.

    An adapter's generation_config.json is of no use to peft, which reads the base's; it is there for programs and
    people that load it by name (the model card does).
    """
    whole = model.get_base_model() if hasattr(model, "peft_config") else model
    load.set_stop_tokens(whole, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if load.is_adapter(folder):
        whole.generation_config.save_pretrained(folder)
        _name_base(folder, base_model)


def _name_base(folder: Path, base_model: str) -> None:
    """Let an adapter name its base as the Hub does, and keep what it is called on this machine in a file of ours."""
    root, known = load.root_model(base_model), load.hub_name(base_model)
    path = folder / load.ADAPTER_CONFIG
    config = files.read_json(path)
    config["base_model_name_or_path"] = known or load.resolve(root)
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    files.write_json(folder / load.BASE_FILE, {"base_model": root, "hub_name": known}, force=True)


def merge_adapter(adapter: Path, folder: Path, dtype: str) -> None:
    """Write the adapter added into its base model to `folder`, in `dtype`: "base" or the name of a torch type.

    The sum is computed in float32. Any program loads the result without peft.
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
