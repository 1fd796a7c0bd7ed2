"""Find notebook files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

SKIPPED_FOLDERS = {
    ".git", ".ipynb_checkpoints", ".venv", "venv", ".tox", ".nox", "node_modules", "__pycache__", "site-packages",
}  # fmt: skip


def find_notebooks(path: Path) -> Iterator[Path]:
    """Yield `path` itself, or every notebook below it if it is a folder."""

    def stop(error: OSError) -> None:
        raise error

    if not path.is_dir():
        yield path
        return
    for folder, folders, names in os.walk(path, onerror=stop):
        inside = Path(folder)
        folders[:] = sorted(
            name for name in folders if name not in SKIPPED_FOLDERS and not (inside / name / "pyvenv.cfg").exists()
        )
        yield from (inside / name for name in sorted(names) if name.lower().endswith(".ipynb"))
