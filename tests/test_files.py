"""File safety: complete old or complete new files, whatever happens; and when a stage is stale."""

import contextlib
import csv
import hashlib
import itertools
import json
import os
import random
import resource
import signal
import sys
import time

import pytest
from linklab import files, locks, manifest
from linklab.cli import UserError
from linklab.manifest import check_out_dir, read_manifest, staged_folder, stale_reason, write_manifest
from moments import restore, states_during

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")


@pytest.fixture(autouse=True)
def quick_manifests(monkeypatch):
    """Manifests run git and look up packages; that is not tested here."""
    monkeypatch.setattr(manifest, "commit", lambda: None)
    monkeypatch.setattr(manifest, "versions", dict)


def in_child(act, *, limit_bytes=None):
    """Start a child process that calls `act`, and return its pid; it exits with 0, or with 3 after a UserError."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        sys.stderr = sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        if limit_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
        act()
        code = 0
    except (UserError, OSError):
        code = 3
    finally:
        os._exit(code)


def wait(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill(pid):
    os.kill(pid, signal.SIGKILL)
    assert wait(pid) == -signal.SIGKILL


def bytes_of(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def write_set(folder, text, force=True):
    """Write a set of two files and a manifest, as a stage does."""
    with staged_folder(folder, script="s.py", force=force) as stage:
        for name in ("a.txt", "b.txt"):
            with open(stage / name, "w") as handle:
                for _ in range(50):
                    handle.write(f"{text}\n")
                    handle.flush()
        paths = {stage / name: 50 for name in ("a.txt", "b.txt")}
        write_manifest(stage, script="s.py", argv=[text], seed=1, inputs={}, outputs=paths)


def whole_set(folder):
    """Return the text of a complete set; fails on a mixture."""
    manifest = read_manifest(folder)
    (text,) = manifest["argv"]
    found = bytes_of(folder)
    assert found.keys() == {"a.txt", "b.txt", "manifest.json"}
    assert found["a.txt"] == found["b.txt"] == f"{text}\n".encode() * 50
    assert {e["path"]: e["sha256"] for e in manifest["outputs"]} == {
        name: hashlib.sha256(found[name]).hexdigest() for name in ("a.txt", "b.txt")
    }
    return text


# One file


def test_text_appears_as_utf8_with_lf_and_only_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with files.atomic_write(path) as handle:
        handle.write("größe\n\u2028🙂\r\n")
        assert not path.exists()
    assert path.read_bytes() == "größe\n\u2028🙂\r\n".encode()
    assert os.listdir(path.parent) == ["a.txt"]


def test_bytes_appear_as_they_are(tmp_path):
    with files.atomic_write(tmp_path / "a.bin", binary=True) as handle:
        handle.write(b"\xff\r\n\0")
    assert (tmp_path / "a.bin").read_bytes() == b"\xff\r\n\0"


@pytest.mark.parametrize("fault", [ZeroDivisionError, KeyboardInterrupt, SystemExit])
def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, fault):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(fault), files.atomic_write(path, force=True) as handle:
        handle.write("new")
        raise fault
    assert bytes_of(tmp_path) == {"a.txt": b"old"}


def test_an_existing_file_is_replaced_only_with_force_and_keeps_its_mode(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    path.chmod(0o640)
    with pytest.raises(UserError, match="already exists; pass --force"), files.atomic_write(path):
        pass
    assert path.read_text() == "old"
    files.write_text(path, "new", force=True)
    assert path.read_text() == "new" and path.stat().st_mode & 0o777 == 0o640


def test_a_new_file_has_the_mode_the_umask_asks_for(tmp_path):
    before = os.umask(0o027)
    try:
        files.write_text(tmp_path / "a.txt", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(("inside", "said"), [("file/a.txt", "file"), ("file/b/a.txt", "file"), ("", "is a folder")])
def test_a_place_that_cannot_be_written_is_named(tmp_path, inside, said):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=said), files.atomic_write(tmp_path / inside):
        pass
    assert bytes_of(tmp_path) == {"file": b"x"}


def test_a_full_disk_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    assert wait(in_child(lambda: files.write_text(path, "n" * 100_000, force=True), limit_bytes=4096)) == 3
    assert bytes_of(tmp_path) == {"a.txt": b"old"}


def test_json_refuses_values_that_other_programs_cannot_read(tmp_path):
    with pytest.raises(ValueError):
        files.write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"[1]", "an object|a JSON object"),
        (b'{"a": 1,\n}', ":[12]: not JSON"),  # Python 3.13 names the comma, older ones what follows it
        (b'{"\xff": 1}', "not UTF-8"),
    ],
)
def test_json_that_cannot_be_read_is_named(tmp_path, data, said):
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(UserError, match=said) as error:
        files.read_json(tmp_path / "a.json")
    assert "a.json" in str(error.value)


# A folder


def test_a_folder_appears_complete_or_not_at_all(tmp_path):
    with pytest.raises(ZeroDivisionError), staged_folder(tmp_path / "set") as stage:
        (stage / "a").write_text("x")
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    write_set(tmp_path / "deep" / "set", "one", force=False)
    assert whole_set(tmp_path / "deep" / "set") == "one"
    assert os.listdir(tmp_path / "deep") == ["set"]


def test_an_empty_folder_may_be_filled(tmp_path):
    (tmp_path / "set").mkdir()
    write_set(tmp_path / "set", "one", force=False)
    assert whole_set(tmp_path / "set") == "one" and os.listdir(tmp_path) == ["set"]


def test_a_file_put_there_while_the_stage_works_is_not_deleted(tmp_path):
    out = tmp_path / "set"
    write_set(out, "one")
    with pytest.raises(UserError, match="notes.txt"), staged_folder(out, script="s.py", force=True) as stage:
        (stage / "a.txt").write_text("two")
        (out / "notes.txt").write_text("mine")
    assert (out / "notes.txt").read_text() == "mine" and (out / "a.txt").read_text() == "one\n" * 50


def test_a_folder_with_somebody_elses_manifest_is_not_deleted(tmp_path):
    out = tmp_path / "set"
    out.mkdir()
    for value in ({"name": "app"}, {"script": "s", "argv": [], "inputs": [], "outputs": ["a.txt"]}):
        (out / "manifest.json").write_text(json.dumps(value))
        with pytest.raises(UserError, match="not a manifest of this toolkit"):
            write_set(out, "two")
    assert os.listdir(out) == ["manifest.json"]


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    (tmp_path / "drive").mkdir()
    (tmp_path / "set").symlink_to(tmp_path / "drive")
    for text in ("one", "two"):
        write_set(tmp_path / "set", text)
        assert (tmp_path / "set").is_symlink() and whole_set(tmp_path / "drive") == text
    assert sorted(os.listdir(tmp_path)) == ["drive", "set"]


@pytest.mark.parametrize("name", ["set", "set [1]*?"])
def test_killed_at_random_moments_the_folder_holds_one_complete_set_and_the_next_run_succeeds(tmp_path, name):
    out, chance = tmp_path / name, random.Random(20260)

    def write_for_ever():
        for n in itertools.count():
            write_set(out, f"{os.getpid()}-{n}")

    write_set(out, "first")
    seen, left_over = {"first"}, 0
    for _ in range(20):
        if name != "set" and left_over:
            break  # one temporary file is enough to test a name that needs escaping
        before = out.stat().st_ino
        pid = in_child(write_for_ever)
        deadline = time.monotonic() + 30
        while out.stat().st_ino == before and time.monotonic() < deadline:  # until it has replaced the folder once
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.02))
        kill(pid)
        seen.add(whole_set(out))
        left_over += len(os.listdir(tmp_path)) > 1
    assert len(seen) > 1 and left_over, "no kill hit a run at work"
    write_set(out, "last")
    assert whole_set(out) == "last"
    assert os.listdir(tmp_path) == [name]


MINE = [".set.lock", ".set.backup.tmp", ".set.abcd1234.tmp", ".set.tmp", "set.linklab-abcd1234.tmp",
        ".set.linklab-notes.tmp", ".set.csv.linklab-abcd1234.tmp", ".set.linklab-abcd1234.tmp.txt"]  # fmt: skip


@pytest.mark.parametrize("out", ["set", "set.csv"])
@pytest.mark.parametrize("is_folder", [True, False])
def test_a_users_own_file_beside_an_output_is_not_removed_as_a_temporary_file(tmp_path, out, is_folder):
    def write():
        if out == "set":
            write_set(tmp_path / out, "mine")
        else:
            files.write_text(tmp_path / out, "mine", force=True)

    mine = [name.replace(".set.", f".{out}.", 1) for name in MINE]
    for name in mine:
        (tmp_path / name).mkdir() if is_folder else (tmp_path / name).write_text("a person's own")
    left = tmp_path / f".{out}.linklab-a_9z0000.tmp"
    left.mkdir() if is_folder else left.write_text("half")
    write()
    assert sorted(os.listdir(tmp_path)) == sorted([out, *mine])


def test_without_an_exchange_in_one_step_the_new_set_still_replaces_the_old(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_exchange", lambda first, second: False)
    write_set(tmp_path / "set", "one")
    states = states_during(tmp_path, lambda: write_set(tmp_path / "set", "two"))
    assert whole_set(tmp_path / "set") == "two" and os.listdir(tmp_path) == ["set"]
    for state in states:  # the state that a kill in that moment leaves
        restore(tmp_path, state)
        check_out_dir(tmp_path / "set", script="s.py", force=True)
        assert whole_set(tmp_path / "set") in ("one", "two")
        write_set(tmp_path / "set", "three")
        assert whole_set(tmp_path / "set") == "three" and os.listdir(tmp_path) == ["set"]


@pytest.mark.parametrize("limit_bytes", [0, 1, 150, 299])
def test_a_full_disk_keeps_the_old_set(tmp_path, limit_bytes):
    out = tmp_path / "set"
    write_set(out, "old")
    before = bytes_of(out)
    assert wait(in_child(lambda: write_set(out, "newer"), limit_bytes=limit_bytes)) == 3
    assert bytes_of(out) == before and os.listdir(tmp_path) == ["set"]
    write_set(out, "newer")
    assert whole_set(out) == "newer"


def test_a_second_writer_of_a_folder_is_refused_while_the_first_one_works(tmp_path, monkeypatch):
    """Process numbers mean nothing between containers; locks work."""

    def stay():
        with staged_folder(tmp_path / "set", script="s.py", force=True) as stage:
            (stage / "a.txt").write_text("x")
            time.sleep(60)

    pid = in_child(stay)
    deadline = time.monotonic() + 30
    while not (found := list(tmp_path.glob(".set.*.tmp/a.txt"))) and time.monotonic() < deadline:
        time.sleep(0.005)
    real = locks.only_writer
    monkeypatch.setattr(manifest, "only_writer", lambda *args, **how: real(*args, **how | {"wait_s": 0.0}))
    with pytest.raises(UserError, match="another run is writing here"):
        write_set(tmp_path / "set", "mine")
    assert found[0].exists()
    kill(pid)
    write_set(tmp_path / "set", "mine")
    assert os.listdir(tmp_path) == ["set"]


# Manifests


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """A finished stage: out/ made from in.csv and the folder inputs/."""
    monkeypatch.chdir(tmp_path)
    os.makedirs("inputs/sub")
    for name in ("in.csv", "inputs/a", "inputs/sub/b"):
        with open(name, "w") as handle:
            handle.write(f"content of {name}")
    with staged_folder("out") as folder:
        (folder / "result.txt").write_text("result")
        (folder / "model").mkdir()
        (folder / "model" / "weights").write_text("weights")
        write_manifest(
            folder, script="/anywhere/make.py", argv=["--csv", "in.csv"], seed=7, inputs={"in.csv": 12, "inputs": None},
            outputs={folder / "result.txt": 3, folder / "model": None}, extra={"note": "größe"},
        )  # fmt: skip
    return tmp_path / "out" / "manifest.json"


@pytest.mark.parametrize("name", ["../secret.txt", "sub/../../secret.txt", "/etc/passwd"])
def test_a_manifest_that_names_a_file_outside_of_its_folder_is_refused(tmp_path, name):
    """push_to_hub.py sends what a manifest names."""
    (tmp_path / "set").mkdir()
    (tmp_path / "secret.txt").write_text("mine")
    (tmp_path / "set" / "a.txt").write_text("a")
    path = write_manifest(
        tmp_path / "set", script="s.py", argv=[], seed=1, inputs={}, outputs={tmp_path / "set" / "a.txt": 1}
    )
    path.write_text(path.read_text().replace('"a.txt"', json.dumps(name)))
    with pytest.raises(files.UserError, match="outside of its folder"):
        read_manifest(tmp_path / "set")


def test_a_manifest_lists_command_inputs_and_outputs(stage, tmp_path):
    manifest = read_manifest(tmp_path / "out")
    assert manifest == read_manifest(stage)
    assert (manifest["script"], manifest["argv"], manifest["seed"]) == ("make.py", ["--csv", "in.csv"], 7)
    assert manifest["extra"] == {"note": "größe"}

    def entry(path, text, **rows):
        return {"path": path, "sha256": hashlib.sha256(text.encode()).hexdigest(), "bytes": len(text), **rows}

    assert manifest["inputs"] == [
        entry("in.csv", "content of in.csv", rows=12),
        entry("inputs/a", "content of inputs/a"),
        entry("inputs/sub/b", "content of inputs/sub/b"),
    ]
    assert manifest["outputs"] == [entry("result.txt", "result", rows=3), entry("model/weights", "weights")]


def test_the_real_manifest_names_versions_and_commit(tmp_path, monkeypatch):
    monkeypatch.undo()
    write_manifest(tmp_path, script="s.py", argv=[], seed=None, inputs={}, outputs={})
    manifest = read_manifest(tmp_path)
    import numpy

    assert manifest["versions"]["numpy"] == numpy.__version__
    assert manifest["versions"]["python"] == sys.version.split()[0]
    assert manifest["commit"] is None or len(manifest["commit"].removesuffix("-dirty")) == 40


def same(path):
    pass


def put(text):
    def change(path):
        with open(path, "w") as handle:
            handle.write(text)

    return change


def edit_manifest(**changes):
    def change(path):
        value = files.read_json(path) | changes
        put(json.dumps(value))(path)

    return change


@pytest.mark.parametrize(
    ("path", "change", "words", "script", "reason"),
    [
        ("in.csv", same, ["--csv", "in.csv"], "make.py", None),
        ("in.csv", same, ["--csv", "in.csv", "--force"], "elsewhere/make.py", None),
        ("in.csv", put("content of in.csv"), ["--csv", "in.csv"], "make.py", None),
        ("in.csv", same, ["--csv", "other.csv"], "make.py", "its command changed"),
        ("in.csv", same, ["in.csv", "--csv"], "make.py", "its command changed"),
        ("in.csv", same, ["--csv", "in.csv"], "other.py", "its command changed"),
        ("in.csv", put("content of in.csx"), ["--csv", "in.csv"], "make.py", "in.csv changed"),
        ("in.csv", put("content of in.csv."), ["--csv", "in.csv"], "make.py", "in.csv changed"),
        ("in.csv", os.unlink, ["--csv", "in.csv"], "make.py", "in.csv is gone"),
        ("inputs/sub/b", put("x"), ["--csv", "in.csv"], "make.py", "inputs/sub/b changed"),
        ("out/result.txt", put("resulT"), ["--csv", "in.csv"], "make.py", "out/result.txt changed"),
        ("out/result.txt", os.unlink, ["--csv", "in.csv"], "make.py", "out/result.txt is gone"),
        ("out/model/weights", put(""), ["--csv", "in.csv"], "make.py", "out/model/weights changed"),
        ("out/manifest.json", os.unlink, ["--csv", "in.csv"], "make.py", "not run yet"),
        ("out/manifest.json", put('{"script":'), ["--csv", "in.csv"], "make.py", "out/manifest.json:1: not JSON"),
        ("out/manifest.json", put(""), ["--csv", "in.csv"], "make.py", "out/manifest.json: the file is empty"),
        ("out/manifest.json", put("{}"), ["--csv", "in.csv"], "make.py", "not a manifest of this toolkit"),
        ("out/manifest.json", edit_manifest(outputs=[{"path": "result.txt"}]), ["--csv", "in.csv"], "make.py",
         "not a manifest of this toolkit"),
    ],
)  # fmt: skip
def test_a_stage_is_stale_for_every_kind_of_change_and_says_which(stage, path, change, words, script, reason):
    change(path)
    found = stale_reason("out/manifest.json", script=script, argv=words)
    assert found == reason if reason is None else reason in found


# Locks


def test_a_folder_in_use_is_refused_and_free_again_when_its_process_is_killed(tmp_path, capsys):
    def hold():
        with locks.locked_folder(tmp_path):
            (tmp_path / "held").touch()
            time.sleep(60)

    pid = in_child(hold)
    deadline = time.monotonic() + 30
    while not (tmp_path / "held").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    with pytest.raises(UserError, match="another run is writing here"), locks.locked_folder(tmp_path, wait_s=0.0):
        pass
    kill(pid)
    with locks.locked_folder(tmp_path, wait_s=5.0), contextlib.suppress(ZeroDivisionError):
        pass
    assert "another run is writing here; waiting" not in capsys.readouterr().out


def test_a_lock_is_released_when_the_block_fails(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), locks.locked_folder(tmp_path, wait_s=0.0):
            raise ZeroDivisionError


def test_a_cell_with_any_line_break_comes_back_as_it_was_and_rows_end_in_lf(tmp_path):
    cells = [["plain", "a\rb"], ["a\r\nb", "\r"], ['say "hi"\n', ","], ["", "\x0b\x0c\u2028"]]
    with files.atomic_write(tmp_path / "t.csv") as handle:
        csv.writer(files.CsvLines(handle)).writerows(cells)
    with open(tmp_path / "t.csv", encoding="utf-8", newline="") as handle:
        assert list(csv.reader(handle)) == cells
    assert (tmp_path / "t.csv").read_bytes().startswith(b'plain,"a\rb"\n"a\r\nb","\r"\n')
