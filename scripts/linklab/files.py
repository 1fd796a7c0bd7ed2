"""Files that are never half written: atomic writes, folders swapped in whole, hashes, manifests."""

from __future__ import annotations

import contextlib
import ctypes
import glob
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from linklab.cli import UserError, say

MANIFEST = "manifest.json"
_RENAME_EXCHANGE = 2  # linux/fs.h
_AT_FDCWD = -100
_VERSIONED = ("numpy", "pandas", "torch", "transformers", "datasets", "peft", "scikit-learn", "bitsandbytes")


def sha256_file(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file's bytes as 64 hex digits."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def require_file(path: str | os.PathLike) -> Path:
    """Return `path` as a Path, or raise the error a person can act on when it is no readable, non-empty file."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder; a file is expected")
    if not path.exists():
        raise UserError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty")
    return path


def _fsync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut (a no-op where folders cannot be opened)."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows, and some network folders
        return
    try:
        os.fsync(handle)
    except OSError:
        pass  # Drive mounts refuse fsync on folders; the rename itself is done
    finally:
        os.close(handle)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot create the folder ({(error.strerror or str(error)).lower()})") from error


def require_writable(folder: Path) -> None:
    """Raise a UserError unless `folder` can be made and written; leaves nothing behind."""
    there = Path(os.path.realpath(folder))
    while not there.exists():
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there):  # has no name (Linux), so a kill cannot leave it behind
            pass
    except OSError as error:
        raise UserError(f"{folder}: cannot write here ({there}: {(error.strerror or str(error)).lower()})") from error


def check_out_file(path: str | os.PathLike, *, force: bool) -> Path:
    """Return `path` if a file may be written there; otherwise raise before any work is done."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file")
    if path.exists() and not force:
        raise UserError(f"{path}: exists already; pass --force to replace it or choose another name")
    require_writable(path.parent)
    return path


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, *, binary: bool = False, force: bool = False) -> Iterator:
    """Yield a handle whose bytes appear at `path` at once when the block ends, and not at all when it raises.

    Text is UTF-8 with LF line ends. An existing file is refused without `force`.
    """
    with FileSet(force=force) as together, together.open(path, binary=binary) as handle:
        yield handle


class FileSet:
    """Files that appear together when the block ends, or not at all when it raises.

    Each is written aside first; then they are renamed, one straight after the other in the order they were opened in.
    A kill between two renames is possible in principle: open the manifest last, its hashes tell such a mixture.
    """

    def __init__(self, *, force: bool = False) -> None:
        self.force = force
        self.aside: dict[Path, Path] = {}  # where the bytes of each file are until the end

    def __enter__(self) -> FileSet:
        return self

    @contextlib.contextmanager
    def open(self, path: str | os.PathLike, *, binary: bool = False, force: bool = False) -> Iterator:
        """Yield a handle to write a file of the set with; text is UTF-8 with LF line ends."""
        path = check_out_file(path, force=self.force or force)
        _make_folder(path.parent)
        _remove_left_overs(path)
        try:
            number, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=f".{os.getpid()}.tmp", dir=path.parent)
        except OSError as error:
            message = f"{path.parent}: cannot write here ({(error.strerror or str(error)).lower()})"
            raise UserError(message) from error
        self.aside[path] = Path(name)
        text = {} if binary else {"encoding": "utf-8", "newline": "\n"}
        with os.fdopen(number, "wb" if binary else "w", **text) as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.chmod(name, path.stat().st_mode & 0o7777 if path.exists() else 0o666 & ~_umask())

    def __exit__(self, kind, *error) -> None:
        try:
            if kind is None:
                for path, aside in self.aside.items():
                    os.replace(aside, path)
                for folder in {path.parent for path in self.aside}:
                    _fsync_folder(folder)
        finally:
            for aside in self.aside.values():
                aside.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: str | os.PathLike, text: str, *, force: bool = False) -> None:
    """Write `text` to `path` atomically."""
    with atomic_write(path, force=force) as handle:
        handle.write(text)


def write_json(path: str | os.PathLike, value: object, *, force: bool = False) -> None:
    """Write `value` as indented JSON, in one order of keys, refusing NaN."""
    write_text(path, json_text(value), force=force)


def json_text(value: object) -> str:
    """Return what `write_json` writes."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: str | os.PathLike) -> dict:
    """Read one JSON object; a UserError names the file, line and column of what cannot be read."""
    path = require_file(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON at column {error.colno} ({error.msg})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: a JSON object is expected, found {type(value).__name__}")
    return value


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
    _make_folder(out_dir.parent)
    _remove_left_overs(out_dir)
    try:
        stage = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}.", suffix=f".{os.getpid()}.tmp", dir=out_dir.parent))
    except OSError as error:
        raise UserError(f"{out_dir.parent}: cannot write here ({(error.strerror or str(error)).lower()})") from error
    try:
        yield stage
        os.chmod(stage, 0o777 & ~_umask())
        for path in stage.rglob("*"):
            if path.is_file():
                _fsync_file(path)
        check_out_dir(out_dir, force=force)
        _swap(stage, out_dir)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _fsync_file(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def locked_folder(folder: str | os.PathLike, *, wait_s: float = 60.0) -> Iterator[None]:
    """Hold `folder` for this process: two runs writing checkpoints to one place would ruin both.

    Waits for one that is just stopping. Raises a UserError when another process holds it for longer than `wait_s`. The
    lock goes with its process, however that ends. A no-op where the system has no file locks (Windows).
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    path = Path(folder) / ".lock"
    with open(path, "a+") as handle:
        deadline = time.monotonic() + wait_s
        said = False
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise UserError(f"{folder}: another run is writing here; wait for it or stop it first") from error
                if not said:
                    say(f"{folder}: another run is writing here; waiting up to {wait_s:.0f} s for it to stop")
                    said = True
                time.sleep(0.5)
        yield


def _remove_left_overs(out: Path) -> None:
    """Remove what killed runs have left beside a folder or file: whatever was staged for it and has no process."""
    for path in out.parent.glob(f".{glob.escape(out.name)}.*.tmp"):
        owner = path.name.split(".")[-2]
        if owner.isdigit() and not _process_runs(int(owner)):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _process_runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _swap(stage: Path, out_dir: Path) -> None:
    """Put `stage` where `out_dir` is; the old folder, if any, ends up at `stage`."""
    if not out_dir.exists() or not any(out_dir.iterdir()):
        os.replace(stage, out_dir)  # rename(2) replaces an empty folder in one step
    elif not _exchange(stage, out_dir):
        # No exchange in one step here: keep the old set beside until the new one is in place.
        aside = Path(f"{stage}.old")
        os.rename(out_dir, aside)
        os.rename(stage, out_dir)
        shutil.rmtree(aside, ignore_errors=True)
    _fsync_folder(out_dir.parent)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two paths in one step (Linux renameat2); False where the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    code = renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), ctypes.c_uint(_RENAME_EXCHANGE))
    return code == 0


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
