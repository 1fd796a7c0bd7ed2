"""Copy a finished set to a mounted Drive, or upload it to the Hugging Face Hub. Neither happens unless asked for."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from linklab import files
from linklab.cli import UserError, say


def copy_checked(folder: str | os.PathLike, destination: str | os.PathLike) -> Path:
    """Copy a finished set to `destination`, replacing an older set there, and compare every hash after the write.

    The copy appears at once, as every output does; a manifest that names the same bytes means there is nothing to do.
    """
    folder, destination = Path(folder), Path(destination)
    expected = {e["path"]: e["sha256"] for e in files.read_manifest(folder)["outputs"]}
    with files.staged_folder(destination, force=True) as stage:
        for name in (*expected, files.MANIFEST):
            shutil.copyfile(folder / name, stage / name)
    for name, sha256 in expected.items():
        if files.sha256_file(destination / name) != sha256:
            raise UserError(f"{destination / name}: the copy differs from {folder / name}; copy it again")
    say(f"copied {folder} to {destination}: {len(expected) + 1} files, hashes equal")
    return destination


def require_token() -> str:
    """The Hub token of the environment, or the error that says how to set one. Never printed."""
    token = os.environ.get("HF_TOKEN", "").strip()
    if not token:
        raise UserError("--upload-to-hf: set HF_TOKEN to a token with write access (huggingface.co/settings/tokens)")
    return token


def upload_dataset(folder: str | os.PathLike, repo: str) -> None:
    """Upload a finished set to the dataset `owner/name` on the Hub; a new one is private."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(token=require_token())
    names = [e["path"] for e in files.read_manifest(folder)["outputs"]] + [files.MANIFEST]
    try:
        api.create_repo(repo, repo_type="dataset", private=True, exist_ok=True)
        api.upload_folder(
            repo_id=repo, repo_type="dataset", folder_path=str(folder), allow_patterns=names,
            commit_message="Upload a generated set of links",
        )  # fmt: skip
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "no answer")
        raise UserError(f"--upload-to-hf {repo}: the Hub refused ({status}); complete in {folder}") from None
    except (ValueError, OSError, *HfHubHTTPError.__bases__) as error:  # the last are those of the Hub's own HTTP client
        words = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"--upload-to-hf {repo}: {words}; complete in {folder}") from None
    say(f"uploaded {folder} to https://huggingface.co/datasets/{repo}")
