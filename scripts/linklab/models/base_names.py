"""Check early that a model of this name exists: one short request, before transformers sends the Hub a dozen."""

from __future__ import annotations

import difflib
import functools
from pathlib import Path

from linklab.cli import UserError, say

BUILT_IN = ("embedded", "tiny")
EXPECTED = "a model is a folder, a Hub id such as google/gemma-3-270m-it, embedded or tiny"
PROBE_TIMEOUT_S = 5.0  # of the one request; huggingface_hub's own retries take more than a minute


def require_model(name: str, *, ask_hub: bool = True) -> None:
    """Raise a UserError unless a model of this name exists. Call it before rows are read or torch is imported.

    Without `ask_hub` every name that could be a Hub id passes.
    """
    if name not in BUILT_IN and not Path(name).is_dir():
        require_plausible(name)
        if ask_hub:
            require_on_hub(name)


def require_plausible(name: str) -> None:
    """Raise a UserError for a name that cannot be a Hub id: a misspelt path or a misspelt built-in name."""
    path = Path(name).expanduser()
    if path.is_file():
        raise UserError(f"{name}: is a file; {EXPECTED}")
    # A Hub id has one slash, and so has runs/lora: if the first part is a folder here, a folder was meant.
    inside = "/" in name and path.parent.is_dir() and not _cached(name)
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or inside:
        raise UserError(f"{name}: no such model folder{_suggest(name)}; {EXPECTED}")
    if "/" not in name and difflib.get_close_matches(name.lower(), BUILT_IN, n=1, cutoff=0.7):
        raise UserError(f"{name}: no such model{_suggest(name)}; {EXPECTED}")


@functools.cache
def require_on_hub(name: str) -> None:
    """Raise a UserError if neither the Hub nor its local cache has the model; sends one request per name.

    Without a network a cached model is used as it is, and no more requests are sent.
    """
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    try:
        url = huggingface_hub.hf_hub_url(name, "config.json")
        huggingface_hub.get_hf_file_metadata(url, timeout=PROBE_TIMEOUT_S)
    except (GatedRepoError, EntryNotFoundError):
        return  # it exists; the loader reports what is missing
    except RepositoryNotFoundError as error:
        raise UserError(
            f"{name}: no such folder here and no such model on the Hub (a private model needs HF_TOKEN)"
            f"{_suggest(name)}; {EXPECTED}"
        ) from error
    except (OSError, *HfHubHTTPError.__bases__) as error:  # the bases are the HTTP client's own errors
        if not _cached(name):
            raise UserError(
                f"{name}: no such folder here, and the Hub cannot be reached ({constants.ENDPOINT})"
                f"{_suggest(name)}; {EXPECTED}"
            ) from error
        if not constants.HF_HUB_OFFLINE:
            say(f"{name}: the Hub cannot be reached; using the copy in the local cache")
            constants.HF_HUB_OFFLINE = True


def _cached(name: str) -> bool:
    import huggingface_hub

    try:
        return isinstance(huggingface_hub.try_to_load_from_cache(name, "config.json"), str)
    except ValueError:  # not a Hub id
        return False


def _suggest(name: str) -> str:
    """Return `; did you mean …?` with similar folder names in the same place and similar built-in names, or ""."""
    path = Path(name).expanduser()
    beside = [one.name for one in path.parent.iterdir() if one.is_dir()] if path.parent.is_dir() else []
    known = {str(path.parent / folder): folder for folder in sorted(beside)}
    known |= {} if "/" in name else {word: word for word in BUILT_IN}
    close = difflib.get_close_matches(path.name.lower(), [word.lower() for word in known.values()], n=3, cutoff=0.6)
    meant = [shown for word in close for shown, folder in known.items() if folder.lower() == word]
    return f"; did you mean {' or '.join(dict.fromkeys(meant))}?" if meant else ""
