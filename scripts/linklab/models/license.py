"""The license of a base model, read from its card, and the texts that must accompany a model trained from it."""

from __future__ import annotations

from pathlib import Path

from linklab import files
from linklab.cli import UserError
from linklab.models import load

GEMMA = "gemma"
GEMMA_TERMS = (
    "This is a modified Gemma model. Gemma is provided under and subject to the Gemma Terms of Use found at "
    "https://ai.google.dev/gemma/terms; they hold for this model too, with the prohibited uses listed at "
    "https://ai.google.dev/gemma/prohibited_use_policy."
)
GEMMA_NOTICE = (
    "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms\n\n"
    "The model files here were modified: the model was trained further, as README.md says.\n"
)  # the first sentence is section 3.1 (d) of the terms, word for word


def license_of(name: str) -> str | None:
    """Return the license of `--base-model NAME` in the Hub's spelling (apache-2.0, gemma), None if no card names it.

    Reads the card in the folder, or the Hub's card: from the local cache, else over the network.
    """
    root = load.root_model(name)
    if root in ("embedded", "tiny"):
        return GEMMA
    for place in dict.fromkeys((name, root)):
        if found := _license_in_card(place):
            return found
    if root.startswith("google/gemma") or _model_type(root).startswith("gemma"):
        return GEMMA
    return None


def _license_in_card(name: str) -> str | None:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    if Path(name).is_dir():
        path = Path(name) / "README.md"
        source: str | Path | None = path if path.exists() else None
    else:
        cached = huggingface_hub.try_to_load_from_cache(name, "README.md")
        source = cached if isinstance(cached, str) else name
    try:
        found = huggingface_hub.ModelCard.load(source).data.to_dict() if source else {}
    except (OSError, ValueError, HfHubHTTPError, *HfHubHTTPError.__bases__):  # no network, or not a card
        return None
    # For a license that is not on the Hub's list, `license` is "other" and `license_name` has its name.
    named = found.get("license_name") if found.get("license") == "other" else None
    return named or found.get("license")


def _model_type(name: str) -> str:
    try:
        return str(files.read_json(Path(name) / "config.json").get("model_type", ""))
    except UserError:
        return ""


def terms(license: str | None, base: str) -> str:
    """Return the model card's paragraph about the license."""
    if license == GEMMA:
        return GEMMA_TERMS
    if license is None:
        return f"This model was trained from {base}, and the license of that model applies; its card names none."
    return f"This model was trained from {base}, and the license of that model applies: {license}."


def notice(license: str | None, base: str) -> str:
    """Return the text of the NOTICE file that accompanies a model."""
    if license == GEMMA:
        return GEMMA_NOTICE
    return f"{terms(license, base)}\n\nThe model files here were modified: trained further, as README.md says.\n"
