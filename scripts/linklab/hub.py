"""The one way to the Hugging Face Hub: a token from the environment, one commit, and what goes wrong in one line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from linklab.cli import UserError, say


def require_token(asked_by: str) -> str:
    """The Hub token of the environment, or the error that says how to set one. Never printed."""
    token = os.environ.get("HF_TOKEN", "").strip()
    if not token:
        raise UserError(f"{asked_by}: set HF_TOKEN to a token with write access (huggingface.co/settings/tokens)")
    return token


def send(
    parcel: Mapping[str, Path | bytes], repo: str, kind: str, message: str, *, asked_by: str, public: bool | None = None
) -> None:
    """Send files to the `kind` ("model" or "dataset") `owner/name` in one commit.

    `parcel` maps the name of each file there to its path here, or its bytes. A new place is private unless `public`;
    one that is there stays as it is, and with `public=False` must not be public. What goes wrong is
    a UserError that begins with `asked_by`.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    api = huggingface_hub.HfApi(token=require_token(asked_by))
    try:
        api.create_repo(repo, repo_type=kind, private=not public, exist_ok=True)
        if public is False and not api.repo_info(repo, repo_type=kind).private:
            raise UserError(f"{asked_by}: {repo} already exists and is public; nothing was sent")
        operations = [huggingface_hub.CommitOperationAdd(name, source) for name, source in parcel.items()]
        api.create_commit(repo, operations, commit_message=message, repo_type=kind)
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "no answer")
        raise UserError(f"{asked_by}: the Hub refused ({status})") from None
    except RuntimeError as error:  # the client's own words for an upload that broke off
        reason = f"{error} ({type(error.__cause__).__name__})" if error.__cause__ else str(error)
        raise UserError(f"{asked_by}: {reason.splitlines()[0]}; nothing was committed, send it again") from None
    except (ValueError, OSError, *HfHubHTTPError.__bases__) as error:  # the last are those of the Hub's own HTTP client
        raise UserError(f"{asked_by}: {(str(error) or type(error).__name__).splitlines()[0]}") from None
    say(f"sent {len(parcel)} files to https://huggingface.co/{'datasets/' * (kind == 'dataset')}{repo}")
