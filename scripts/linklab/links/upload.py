"""Copy a finished set to a mounted Drive, or upload it to the Hugging Face Hub. Neither happens unless asked for."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from linklab import hub
from linklab.cli import UserError, say
from linklab.manifest import MANIFEST, find_changed, read_manifest, staged_folder

UPLOAD_OPTION = "--upload-to-hf"


def copy_checked(folder: str | os.PathLike, destination: str | os.PathLike) -> Path:
    """Copy a finished set to `destination`, replacing an older set there, and compare every hash after the write.

    The complete copy appears in one step, like every output.
    """
    folder, destination = Path(folder), Path(destination)
    value = read_manifest(folder)
    outputs = value["outputs"]
    with staged_folder(destination, script=value["script"], force=True, reads=[folder]) as stage:
        for name in (*(entry["path"] for entry in outputs), MANIFEST):
            shutil.copyfile(folder / name, stage / name)
    if changed := find_changed(outputs, destination):
        raise UserError(f"{changed}: the copy differs from that in {folder}; copy it again")
    say(f"copied {folder} to {destination}: {len(outputs) + 1} files, hashes equal")
    return destination


def upload_dataset(folder: str | os.PathLike, repo: str) -> None:
    """Upload a finished set to the dataset `owner/name` on the Hub; a new one is private."""
    names = [e["path"] for e in read_manifest(folder)["outputs"]] + [MANIFEST]
    paths = {name: Path(folder) / name for name in names}
    try:
        hub.send(paths, repo, "dataset", "Upload a generated set of links", asked_by=f"{UPLOAD_OPTION} {repo}")
    except UserError as error:
        raise UserError(f"{error}; the set is complete in {folder}") from None
