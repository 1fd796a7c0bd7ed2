"""Uploads to the Hugging Face Hub: a token from the environment, one commit, each error as one line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from linklab.cli import UserError, say


def require_token(asked_by: str) -> str:
    """Return the Hub token of the environment; raises a UserError that says how to set one. Never printed."""
    token = os.environ.get("HF_TOKEN", "").strip()
    if not token:
        raise UserError(f"{asked_by}: set HF_TOKEN to a token with write access (huggingface.co/settings/tokens)")
    return token


def send(
    files: Mapping[str, Path | bytes], repo: str, kind: str, message: str, *, asked_by: str, public: bool | None = None
) -> None:
    """Send files to the `kind` ("model" or "dataset") `owner/name` in one commit.

    `files` maps each file's name on the Hub to its local path or its bytes. A new repository is private unless
    `public`. An existing one keeps its visibility; with `public=False` it must be private. Raises a UserError that
    begins with `asked_by`.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    api = huggingface_hub.HfApi(token=require_token(asked_by))
    try:
        api.create_repo(repo, repo_type=kind, private=not public, exist_ok=True)
        if public is False and not api.repo_info(repo, repo_type=kind).private:
            raise UserError(f"{asked_by}: {repo} already exists and is public; nothing was sent")
        operations = [huggingface_hub.CommitOperationAdd(name, source) for name, source in files.items()]
        api.create_commit(repo, operations, commit_message=message, repo_type=kind)
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "no answer")
        raise UserError(f"{asked_by}: the Hub refused ({status})") from None
    except RuntimeError as error:  # raised by the Hub client for an interrupted upload
        reason = f"{error} ({type(error.__cause__).__name__})" if error.__cause__ else str(error)
        raise UserError(f"{asked_by}: {reason.splitlines()[0]}; nothing was committed, send it again") from None
    except (ValueError, OSError, *HfHubHTTPError.__bases__) as error:  # the bases are the HTTP client's own errors
        raise UserError(f"{asked_by}: {(str(error) or type(error).__name__).splitlines()[0]}") from None
    say(f"sent {len(files)} files to https://huggingface.co/{'datasets/' * (kind == 'dataset')}{repo}")
