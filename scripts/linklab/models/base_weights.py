"""Hashes of a base model's weights: stored at training, compared when an adapter is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from linklab.cli import UserError
from linklab.manifest import describe_files

WEIGHTS = ("*.safetensors", "*.bin")
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


def find_weights(path: str) -> list[Path]:
    """Return the weight files of a model folder, or those of a Hub id that are in the local cache."""
    if Path(path).is_dir():
        return sorted(found for pattern in WEIGHTS for found in Path(path).glob(pattern) if found.is_file())
    from huggingface_hub import try_to_load_from_cache

    for name in (_SINGLE, _INDEX):
        cached = try_to_load_from_cache(path, name)
        if isinstance(cached, str):
            return sorted(Path(cached).parent.glob(WEIGHTS[0]))
    return []


def describe_weights(path: str) -> list[dict]:
    """Return name, SHA-256 and bytes of each weight file of `load.resolve(name)`; call it after loading the model."""
    return [entry | {"path": Path(entry["path"]).name} for entry in describe_files(dict.fromkeys(find_weights(path)))]


def require_same_weights(trained_on: Sequence[dict], path: str, *, folder: str | Path, name: str) -> None:
    """Raise a UserError unless the adapter in `folder` was trained on these weights of its base model.

    `name` is the base model's name for people, `path` its location. The same weights saved in another number of files
    or in another precision have other hashes, and are refused too.
    """
    if not trained_on:
        return
    found = describe_weights(path)
    if {entry["sha256"] for entry in found} != {entry["sha256"] for entry in trained_on}:
        raise UserError(f"{folder}: was trained on other weights than those of {name} (SHA-256 "
                        f"{trained_on[0]['sha256'][:12]}…, found {found[0]['sha256'][:12] if found else 'none'}…); "
                        f"give the right --base-model")  # fmt: skip
