"""Manifests: which script and command wrote a folder, from which files; and the rules for replacing outputs."""

from __future__ import annotations

import argparse
import contextlib
import errno
import functools
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from linklab.aside import aside_prefix, is_left_over, left_overs
from linklab.cli import UserError, mask_secrets, say
from linklab.files import (
    FileSet,
    atomic_write,
    check_out_file,
    fsync_file,
    fsync_folder,
    json_text,
    make_folder,
    read_json,
    reason,
    remove_left_overs,
    require_writable,
    sha256_file,
    swap,
    umask,
)
from linklab.locks import only_writer

PathRows = Mapping[Any, int | None]  # path (text or Path) -> number of rows, None for a file that is not a table
MANIFEST = "manifest.json"
_VERSIONED = ("numpy", "pandas", "torch", "transformers", "datasets", "peft", "scikit-learn", "bitsandbytes")


@functools.cache  # here and below: cannot change while this process runs, and takes longer than writing a manifest
def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that can change a result, without importing them."""
    from importlib import metadata

    found = {"python": platform.python_version()}
    for name in _VERSIONED:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


@functools.cache
def commit() -> str | None:
    """Return the commit of the checkout these scripts run from, with `-dirty` for a changed tree; None outside git."""
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():  # an installed package, perhaps inside somebody else's repository
        return None
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=checkout, capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def describe_files(
    paths: PathRows, base: Path | None = None, aside: Mapping[Path, Path] = MappingProxyType({})
) -> list[dict]:
    """Return path, SHA-256, size in bytes and rows of each file; for a folder, of every file below it.

    Paths are relative to `base`. `aside` maps a file that has not appeared yet to its temporary file (`FileSet.aside`).
    """
    entries = []
    for path, rows in paths.items():
        path = Path(path)
        members = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for member in members:
            name = Path(os.path.relpath(member, base)) if base else member
            there = aside.get(member, member)
            entry = {"path": name.as_posix(), "sha256": sha256_file(there), "bytes": there.stat().st_size}
            entries.append(entry | ({"rows": rows} if rows is not None and member == path else {}))
    return entries


def write_manifest(
    place: str | os.PathLike,
    *,
    script: str,
    argv: Sequence[str],
    seed: int | None,
    inputs: PathRows,
    outputs: PathRows,
    extra: Mapping | None = None,
    together: FileSet | None = None,
) -> Path:
    """Write the manifest: command, inputs, outputs, versions and time; returns its path.

    `place` is the manifest file, or the folder of a finished stage. Write it last: a folder with one is complete.
    `inputs` and `outputs` map a path to its number of rows. Outputs are named relative to the manifest's folder. With
    `together` the manifest is the last file of that set; outputs outside its folder are then listed in `extra`, and
    outputs that the set does not hold must exist already.
    """
    path = Path(place) / MANIFEST if Path(place).is_dir() else Path(place)
    folder, real = path.parent, os.path.realpath(path.parent)
    aside = together.aside if together else {}
    below = {output: rows for output, rows in outputs.items() if Path(os.path.realpath(output)).is_relative_to(real)}
    elsewhere = describe_files({output: rows for output, rows in outputs.items() if output not in below}, aside=aside)
    value = {
        "script": Path(script).name,
        "argv": [mask_secrets(word) for word in argv],
        "seed": seed,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit(),
        "versions": versions(),
        "inputs": describe_files(inputs),
        "outputs": describe_files(below, folder, aside),
        "extra": dict(extra or {}) | ({"elsewhere": elsewhere} if elsewhere else {}),
    }
    with together.open(path, force=True) if together else atomic_write(path, force=True) as handle:
        handle.write(json_text(value))
    return path


def read_preset(folder: Path) -> dict[str, str]:
    """Return {"preset": noise level of generated links} from a folder's manifest, {} if it has none."""
    path = folder / MANIFEST
    extra = read_manifest(path).get("extra", {}) if path.exists() else {}
    return {"preset": extra["preset"]} if "preset" in extra else {}


def read_manifest(path: str | os.PathLike) -> dict:
    """Read a manifest (a file, or the folder that holds `manifest.json`)."""
    path = Path(path)
    path = path / MANIFEST if path.is_dir() else path
    value = read_json(path, file_names=True)
    missing = {"script", "argv", "inputs", "outputs"} - value.keys()
    if missing:
        raise UserError(f"{path}: not a manifest of this toolkit (no '{sorted(missing)[0]}')")
    for group in ("inputs", "outputs"):
        entries = value[group] if isinstance(value[group], list) else [None]
        if not all(map(is_entry, entries)):
            raise UserError(
                f"{path}: not a manifest of this toolkit ('{group}' lists no files with path, sha256 and bytes)"
            )
    words = value["argv"] if isinstance(value["argv"], list) else [None]
    if not all(isinstance(word, str) for word in (value["script"], *words)):
        raise UserError(f"{path}: not a manifest of this toolkit ('script' or 'argv' is not text)")
    for entry in value["outputs"]:
        if Path(entry["path"]).is_absolute() or ".." in Path(entry["path"]).parts:
            raise UserError(f"{path}: names {entry['path']!r}, which is outside of its folder")
    return value


def is_entry(entry: object) -> bool:
    """Say whether this is an entry of `describe_files`."""
    kinds = {"path": str, "sha256": str, "bytes": int}
    return isinstance(entry, dict) and all(isinstance(entry.get(key), kind) for key, kind in kinds.items())


def _deciding(argv: Sequence[str]) -> list[str]:
    """Return the words that decide the output, without those about replacing, skipping and debugging."""
    return [mask_secrets(word) for word in argv if word not in ("--force", "--skip-finished", "--debug")]


def stale_reason(manifest_path: str | os.PathLike, *, script: str, argv: Sequence[str]) -> str | None:
    """Return why a stage must run again, or None if its manifest shows that it is finished.

    Finished means: same script, same words, every input and output unchanged since the manifest was written, and a
    check has passed.
    """
    manifest_path = Path(manifest_path)
    if not manifest_path.exists():
        return "not run yet"
    try:
        value = read_manifest(manifest_path)
    except UserError as error:
        return str(error)
    if value["script"] != Path(script).name or _deciding(value["argv"]) != _deciding(argv):
        return "its command changed"
    if changed := find_changed(value["inputs"], Path()) or find_changed(value["outputs"], manifest_path.parent):
        return changed
    return "its check failed" if value.get("extra", {}).get("check_failed") else None


def add_skip_finished_option(group: argparse._ArgumentGroup) -> None:
    """Add --skip-finished; `skip_finished` implements it."""
    group.add_argument(
        "--skip-finished",
        action="store_true",
        help="exit with code 0 at once if the same command has finished before and its files are unchanged",
    )


def skip_finished(
    run: Callable[[argparse.Namespace], int | None],
    script: str,
    find: Callable[[argparse.Namespace], str | os.PathLike] = lambda args: Path(args.out_dir) / MANIFEST,
) -> Callable[[argparse.Namespace], int | None]:
    """Return `run` with --skip-finished added: it does nothing if the manifest at `find(args)` shows it finished."""

    def run_unless_finished(args: argparse.Namespace) -> int | None:
        if args.skip_finished:
            manifest_path = Path(find(args))
            stale = stale_reason(manifest_path, script=script, argv=args.argv)
            if stale is None:
                say(f"{manifest_path.parent}: already finished; nothing to do")
                return 0
            say(f"{manifest_path.parent}: {stale}")
        return run(args)

    return run_unless_finished


def find_changed(entries: list[dict], base: Path) -> str | None:
    """Return which file of a manifest's entries is gone or changed (`PATH is gone`), or None."""
    for entry in entries:
        path = base / entry["path"]
        if not path.exists():
            return f"{path} is gone"
        if _differs(path, entry):
            return f"{path} changed"
    return None


def require_unchanged(folder: str | os.PathLike, wanted: Callable[[str], bool], *, remedy: str) -> list[Path]:
    """Return the outputs of a finished folder for which `wanted(name)` is true, after checking their hashes.

    Raises a UserError that names a file that changed or is gone; `remedy` says what to do then.
    """
    folder = Path(folder)
    entries = [entry for entry in read_manifest(folder)["outputs"] if wanted(entry["path"])]
    if changed := find_changed(entries, folder):
        raise UserError(f"{changed} since {MANIFEST} was written; {remedy}")
    return [folder / entry["path"] for entry in entries]


def _differs(path: Path, entry: dict) -> bool:
    return not path.is_file() or path.stat().st_size != entry["bytes"] or sha256_file(path) != entry["sha256"]


# --- who may replace what -----------------------------------------------------------------------------------------
#
# One rule for every script: it replaces an output only if the same script wrote it and it has not changed since.
# Any other file there is an error that names the file, with --force and without.

_STAGES = NEW, READY, PLACING, OLD = tuple(f".linklab-{name}" for name in ("new", "ready", "placing", "old"))
RESERVED = frozenset({".linklab.lock", *_STAGES})


def list_content(folder: Path, ignored: Iterable[str] = RESERVED) -> list[Path]:
    """Return the content of a folder, sorted: files, links, pipes and empty folders.

    Links are not followed. Left out: temporary files of killed runs, and the folder's own entries named in `ignored`.
    """
    found = []
    for entry in sorted(folder.iterdir()):
        if entry.name in ignored or is_left_over(entry.name):
            continue
        below = list_content(entry, ()) if entry.is_dir() and not entry.is_symlink() else []
        found += below or [entry]
    return found


def find_foreign(folder: Path, script: str, ignored: Iterable[str] = RESERVED) -> str | None:
    """Return what in a folder is not an unchanged output of `script`, worded to follow "holds"; None if nothing is."""
    content = list_content(folder, ignored)
    if not content:
        return None
    script = Path(script).name
    path = folder / MANIFEST
    value = read_manifest(path) if path.is_file() and not path.is_symlink() else None
    if value and value["script"] != script:
        return f"files written by {value['script']}, not by {script}"
    known = {entry["path"]: entry for entry in value["outputs"]} if value else {}
    for found in content:
        name = found.relative_to(folder).as_posix()
        if name == MANIFEST and value:
            continue
        if name not in known or found.is_symlink() or not found.is_file():
            return f"'{name}', which {script} did not write"
        if _differs(found, known[name]):
            return f"'{name}', which was changed after {script} wrote it"
    return None


def check_place(out_dir: Path, reads: Iterable[str | os.PathLike | None]) -> Path:
    """Return the real path of --out-dir; raises a UserError for a file, the disk's root, or a folder of input files."""
    there = Path(os.path.realpath(out_dir))
    if os.path.lexists(out_dir) and not out_dir.is_dir():
        raise UserError(f"{out_dir}: is {'a file' if out_dir.is_file() else 'not a folder'}; --out-dir needs a folder")
    if there == there.parent:
        raise UserError(f"{out_dir}: is the root of the disk; choose another --out-dir")
    for path in (path for path in reads if path):
        read = Path(os.path.realpath(path))
        if read.exists() and read.is_relative_to(there):
            raise UserError(f"{out_dir}: holds {path}, which this run reads; choose another --out-dir")
    return there


def check_out_dir(
    out_dir: str | os.PathLike, *, script: str, force: bool, reads: Iterable[str | os.PathLike | None] = ()
) -> Path:
    """Return `out_dir` if `script` may write there; raises a UserError otherwise. Call it before any work.

    `reads` are the run's input files and folders; they may not lie in `out_dir`. A folder that is not empty is refused
    without `force`; with `force`, unless it holds only unchanged outputs of the same script.
    """
    out_dir = Path(out_dir)
    there = check_place(out_dir, reads)
    if there.is_dir():
        try:
            finish_replacing(there)
            foreign = find_foreign(there, script)
            full = bool(list_content(there))
        except OSError as error:
            raise UserError(f"{out_dir}: cannot read this folder ({reason(error)})") from error
        if foreign:
            raise UserError(f"{out_dir}: holds {foreign}; it is never replaced, not even with --force: move it away or "
                            f"choose another --out-dir")  # fmt: skip
        if full and not force:
            raise UserError(f"{out_dir}: already holds files; pass --force to replace them or choose another --out-dir")
    require_writable(there if must_stay(there) else there.parent)
    return out_dir


def must_stay(folder: Path) -> bool:
    """Say whether only a folder's content can be replaced, not the folder itself.

    True for a mount point (`docker -v`), the current folder (a shell in it would lose it), and a read-only parent.
    """
    return folder.is_dir() and (
        os.path.ismount(folder) or Path.cwd().is_relative_to(folder) or not os.access(folder.parent, os.W_OK)
    )


@contextlib.contextmanager
def staged_folder(
    out_dir: str | os.PathLike, *, script: str = "", force: bool = False, reads: Iterable[str | os.PathLike | None] = ()
) -> Iterator[Path]:
    """Yield a temporary folder that replaces `out_dir` in one step when the block ends; see `check_out_dir`.

    Whenever the process is killed, `out_dir` holds the complete old files or the complete new ones. If only its content
    can be replaced (`must_stay`), a kill during that leaves a mixture, which the next run repairs. One process writes
    at a time. The next run also removes temporary folders of a killed one.
    """
    reads = list(reads)
    check_out_dir(out_dir, script=script, force=force, reads=reads)
    shown, out_dir = out_dir, Path(os.path.realpath(out_dir))  # a link to a folder (a mounted Drive) stays a link
    make_folder(out_dir.parent)
    inside = must_stay(out_dir)
    with only_writer(out_dir, inside=inside):
        remove_left_overs(out_dir)
        try:
            if inside:
                shutil.rmtree(out_dir / NEW, ignore_errors=True)
                stage = out_dir / NEW
                stage.mkdir()
            else:
                stage = Path(tempfile.mkdtemp(prefix=aside_prefix(out_dir), suffix=".tmp", dir=out_dir.parent))
        except OSError as error:
            raise UserError(f"{out_dir.parent}: cannot write here ({reason(error)})") from error
        try:
            yield stage
            os.chmod(stage, 0o777 & ~umask())
            for path in stage.rglob("*"):
                if path.is_file():
                    fsync_file(path)
            check_out_dir(shown, script=script, force=force, reads=reads)
            if inside or not swap(stage, out_dir):
                replace_content(out_dir, stage)
        finally:
            shutil.rmtree(stage, ignore_errors=True)


def replace_content(folder: Path, stage: Path) -> None:
    """Move the content of `stage` into `folder`; it replaces the outputs in the old manifest and files of equal name.

    First renames the complete stage to READY; if a kill interrupts the rest, the next run finishes it.
    """
    try:
        os.replace(stage, folder / READY)
    except OSError as error:
        if error.errno != errno.EXDEV:  # `folder` is mounted
            raise
        shutil.rmtree(folder / NEW, ignore_errors=True)
        shutil.copytree(stage, folder / NEW)
        os.replace(folder / NEW, folder / READY)
    finish_replacing(folder)


def finish_replacing(folder: Path) -> None:
    """Finish a `replace_content` that was interrupted, if there was one."""
    ready, placing, old = folder / READY, folder / PLACING, folder / OLD
    if ready.is_dir():
        old.mkdir(exist_ok=True)
        names = set(os.listdir(ready))
        for where in (folder, old):
            if (where / MANIFEST).is_file():
                names |= {entry["path"].split("/")[0] for entry in read_manifest(where)["outputs"]}
        for name in sorted(names, key=lambda name: name != MANIFEST):  # manifest first: the rest is then incomplete
            if os.path.lexists(folder / name):
                os.replace(folder / name, old / name)
        os.replace(ready, placing)
    if placing.is_dir():
        for name in sorted(os.listdir(placing), key=lambda name: name == MANIFEST):  # the manifest last
            os.replace(placing / name, folder / name)
        placing.rmdir()
        fsync_folder(folder)
    shutil.rmtree(old, ignore_errors=True)


# --- single output files in a folder with other files ---------------------------------------------------------------


def manifest_beside(path: str | os.PathLike) -> Path:
    """Return the manifest path of a single output file: report.json -> report.manifest.json beside it."""
    path = Path(path)
    return path.parent / f"{path.stem}.{MANIFEST}"


def check_out_files(
    paths: Sequence[str | os.PathLike],
    manifest_path: Path,
    *,
    script: str,
    force: bool,
    reads: Iterable[str | os.PathLike | None] = (),
) -> None:
    """Raise a UserError unless `script` may write these files and their manifest; same rule as `check_out_dir`."""
    named = [os.path.realpath(path) for path in (*paths, manifest_path, *(read for read in reads if read))]
    for path in paths:
        if named.count(os.path.realpath(path)) > 1:
            raise UserError(f"{path}: is given twice; each output needs its own name")
    if os.path.realpath(manifest_path) in [os.path.realpath(path) for path in reads if path]:
        raise UserError(
            f"{manifest_path}: this run reads this file, and its manifest would replace it; choose another output name"
        )
    known: dict[str, Any] = {}
    script = Path(script).name
    # A run killed while renaming its files leaves a temporary manifest: files listed there are this script's own too.
    for place in (manifest_path, *left_overs(manifest_path)):
        with contextlib.suppress(UserError):
            value = read_manifest(place)
            if value["script"] == script:
                for base, entries in ((manifest_path.parent, value["outputs"]), (Path(), _elsewhere(value))):
                    for entry in entries:
                        known.setdefault(os.path.realpath(base / entry["path"]), []).append(entry)
                known[os.path.realpath(manifest_path)] = []
    for path in (*paths, manifest_path):
        check_out_file(path, force=force)
        there = os.path.realpath(path)
        if not os.path.exists(there):
            continue
        if there not in known:
            raise UserError(f"{path}: was not written by {script}; it is never replaced, not even with --force: choose "
                            f"another name")  # fmt: skip
        if known[there] and all(_differs(Path(there), entry) for entry in known[there]):
            raise UserError(f"{path}: was changed after {script} wrote it; it is never replaced, not even with "
                            f"--force: choose another name")  # fmt: skip


def _elsewhere(value: dict) -> list[dict]:
    """Return the entries of outputs outside the manifest's folder, with their paths as given."""
    extra = value.get("extra")
    entries = extra.get("elsewhere", []) if isinstance(extra, dict) else []
    return list(filter(is_entry, entries))
