"""Who wrote a folder, from what, with which command: manifests and the hashes in them."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from linklab.cli import UserError
from linklab.files import (
    fsync_file,
    make_folder,
    read_json,
    remove_left_overs,
    require_writable,
    sha256_file,
    swap,
    umask,
    write_json,
)

MANIFEST = "manifest.json"
_VERSIONED = ("numpy", "pandas", "torch", "transformers", "datasets", "peft", "scikit-learn", "bitsandbytes")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that can change a result, without importing them."""
    from importlib import metadata

    found = {"python": platform.python_version()}
    for name in _VERSIONED:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def commit() -> str | None:
    """Return the commit of the checkout these scripts run from, with `-dirty` for a changed tree; None outside git."""
    here = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=here, capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def describe_files(
    paths: Mapping[str | os.PathLike, int | None],
    base: Path | None = None,
    aside: Mapping[Path, Path] = MappingProxyType({}),
) -> list[dict]:
    """Return path, SHA-256, size in bytes and rows of each file; a folder stands for every file below it.

    `aside` says where the bytes of a file are that has not appeared yet (`FileSet.aside`).
    """
    entries = []
    for path, rows in paths.items():
        path = Path(path)
        members = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for member in members:
            name = member.relative_to(base) if base else member
            there = aside.get(member, member)
            entry = {"path": name.as_posix(), "sha256": sha256_file(there), "bytes": there.stat().st_size}
            entries.append(entry | ({"rows": rows} if rows is not None and member == path else {}))
    return entries


def write_manifest(
    folder: str | os.PathLike,
    *,
    script: str,
    argv: list[str],
    seed: int | None,
    inputs: Mapping[str | os.PathLike, int | None],
    outputs: Mapping[str | os.PathLike, int | None],
    extra: Mapping | None = None,
) -> Path:
    """Write the manifest of a finished stage into its folder: see `make_manifest`.

    Written last, so that a folder with a manifest is a complete one.
    """
    value = make_manifest(folder, script=script, argv=argv, seed=seed, inputs=inputs, outputs=outputs, extra=extra)
    write_json(Path(folder) / MANIFEST, value, force=True)
    return Path(folder) / MANIFEST


def make_manifest(
    folder: str | os.PathLike,
    *,
    script: str,
    argv: list[str],
    seed: int | None,
    inputs: Mapping[str | os.PathLike, int | None],
    outputs: Mapping[str | os.PathLike, int | None],
    extra: Mapping | None = None,
    aside: Mapping[Path, Path] = MappingProxyType({}),
) -> dict:
    """Return what a manifest says: what was asked, what was read, what came out, and when.

    `inputs` and `outputs` map a path to its rows (None where rows mean nothing). Outputs lie below `folder`, and are
    named relative to it.
    """
    folder = Path(folder)
    return {
        "script": Path(script).name,
        "argv": list(argv),
        "seed": seed,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit(),
        "versions": versions(),
        "inputs": describe_files(inputs),
        "outputs": describe_files(outputs, folder, aside),
        "extra": dict(extra or {}),
    }


def read_manifest(path: str | os.PathLike) -> dict:
    """Read a manifest (a file, or the folder that holds `manifest.json`)."""
    path = Path(path)
    path = path / MANIFEST if path.is_dir() else path
    value = read_json(path)
    missing = {"script", "argv", "inputs", "outputs"} - value.keys()
    if missing:
        raise UserError(f"{path}: no manifest of this toolkit (no '{sorted(missing)[0]}')")
    for group in ("inputs", "outputs"):
        entries = value[group] if isinstance(value[group], list) else [None]
        if not all(isinstance(entry, dict) and {"path", "sha256", "bytes"} <= entry.keys() for entry in entries):
            raise UserError(
                f"{path}: no manifest of this toolkit ('{group}' lists no files with path, sha256 and bytes)"
            )
    return value


def _without_force(argv: list[str]) -> list[str]:
    return [word for word in argv if word != "--force"]  # says what may be replaced, not what is made


def stale_reason(manifest_path: str | os.PathLike, *, script: str, argv: list[str]) -> str | None:
    """Return why a stage must run again, or None when its manifest says that it is done.

    Done means: same script, same words, every input and output there with the bytes the manifest names.
    """
    manifest_path = Path(manifest_path)
    if not manifest_path.exists():
        return "not run yet"
    try:
        value = read_manifest(manifest_path)
    except UserError as error:
        return str(error)
    if value["script"] != Path(script).name or _without_force(value["argv"]) != _without_force(argv):
        return "its command changed"
    return find_changed(value["inputs"], Path()) or find_changed(value["outputs"], manifest_path.parent)


def find_changed(entries: list[dict], base: Path) -> str | None:
    """Return which file of a manifest's entries is gone or has other bytes, or None when all are as they were."""
    for entry in entries:
        path = base / entry["path"]
        if not path.exists():
            return f"{path} is gone"
        if path.stat().st_size != entry["bytes"] or sha256_file(path) != entry["sha256"]:
            return f"{path} changed"
    return None


def check_out_dir(out_dir: str | os.PathLike, *, force: bool) -> Path:
    """Return `out_dir` if a stage may write there; otherwise raise before any work is done.

    A folder that holds anything is refused without `force`; with it, only a folder whose own manifest lists every file.
    """
    out_dir = Path(out_dir)
    if out_dir.exists() and not out_dir.is_dir():
        raise UserError(f"{out_dir}: is a file; --out-dir needs a folder")
    found = sorted(str(p.relative_to(out_dir)) for p in out_dir.rglob("*") if p.is_file()) if out_dir.exists() else []
    if found and not force:
        raise UserError(f"{out_dir}: holds files already; pass --force to replace them or choose another --out-dir")
    if found:
        known = {MANIFEST}
        if (out_dir / MANIFEST).exists():
            known |= {entry["path"] for entry in read_manifest(out_dir / MANIFEST)["outputs"]}
        strange = [name for name in found if name not in known]
        if strange:
            raise UserError(
                f"{out_dir}: holds '{strange[0]}', which this script did not write; --force will not delete it: "
                f"move it away or choose another --out-dir"
            )
    require_writable(out_dir.parent)
    return out_dir


@contextlib.contextmanager
def staged_folder(out_dir: str | os.PathLike, *, force: bool = False) -> Iterator[Path]:
    """Yield a temporary folder that takes the place of `out_dir` at once when the block ends.

    Whatever moment the process is killed at, `out_dir` holds the complete old set or the complete new one. Left-over
    temporary folders of a killed run are removed by the next one.
    """
    check_out_dir(out_dir, force=force)
    out_dir = Path(os.path.realpath(out_dir))  # a link to a folder (a mounted Drive) stays a link
    make_folder(out_dir.parent)
    remove_left_overs(out_dir)
    try:
        stage = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}.", suffix=f".{os.getpid()}.tmp", dir=out_dir.parent))
    except OSError as error:
        raise UserError(f"{out_dir.parent}: cannot write here ({(error.strerror or str(error)).lower()})") from error
    try:
        yield stage
        os.chmod(stage, 0o777 & ~umask())
        for path in stage.rglob("*"):
            if path.is_file():
                fsync_file(path)
        check_out_dir(out_dir, force=force)
        swap(stage, out_dir)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
