"""Replacing outputs: only by the same script, only if unchanged, never the run's inputs; refused before any work."""

import contextlib
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from linklab import files, manifest
from linklab.cli import UserError
from linklab.manifest import check_out_dir, read_manifest, staged_folder, write_manifest

SCRIPTS = Path(files.__file__).parents[1]


def make(folder, text="old", *, script="s.py", force=False, reads=()):
    """Write a folder like a stage: two files, one of them in a subfolder, and the manifest."""
    with staged_folder(folder, script=script, force=force, reads=reads) as stage:
        (stage / "sub").mkdir()
        (stage / "a.txt").write_text(text)
        (stage / "sub" / "b.txt").write_text(text)
        paths = [stage / "a.txt", stage / "sub"]
        write_manifest(stage, script=script, argv=[text], seed=1, inputs={}, outputs=dict.fromkeys(paths))


def snapshot(folder):
    """Return everything below a folder: kind, bytes or target of each entry."""

    def look(path):
        if path.is_symlink():
            return "link", os.readlink(path)
        return ("file", path.read_bytes()) if path.is_file() else ("other", path.stat().st_mode)

    return {str(path.relative_to(folder)): look(path) for path in sorted(folder.rglob("*"))}


def edit_manifest(folder):
    value = json.loads((folder / "manifest.json").read_text()) | {"script": "other.py"}
    (folder / "manifest.json").write_text(json.dumps(value))


CONTENTS = {
    "a file of a person": (lambda out: (out / "notes.txt").write_text("mine"), "'notes.txt', which s.py did not write"),
    "a hidden file": (lambda out: (out / ".env").write_text("mine"), "'.env', which"),
    "a file in a folder of ours": (lambda out: (out / "sub" / "c.txt").write_text("mine"), "'sub/c.txt', which"),
    "a pipe": (lambda out: os.mkfifo(out / "pipe"), "'pipe', which"),
    "a dangling link": (lambda out: (out / "link").symlink_to("nowhere"), "'link', which"),
    "a link to a folder": (lambda out: (out / "link").symlink_to("/usr"), "'link', which"),
    "an empty folder": (lambda out: (out / "empty").mkdir(), "'empty', which"),
    "an edited output": (lambda out: (out / "a.txt").write_text("oLd"), "'a.txt', which was changed after s.py wrote"),
    "an output that is a link now": (
        lambda out: ((out / "a.txt").rename(out.parent / "a"), (out / "a.txt").symlink_to(out.parent / "a")),
        "'a.txt', which",
    ),
    "another script's output": (edit_manifest, "files written by other.py, not by s.py"),
}


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("what", CONTENTS)
def test_a_file_the_script_did_not_write_or_that_was_changed_is_named_and_kept(tmp_path, what, force):
    put, said = CONTENTS[what]
    out = tmp_path / "out"
    make(out)
    put(out)
    before = snapshot(tmp_path)
    with pytest.raises(UserError) as error:
        make(out, "new", force=force)
    assert said in str(error.value) and "never replaced, not even with --force" in str(error.value)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("what", ["a pipe", "a dangling link", "a link to a folder", "an empty folder"])
def test_a_folder_with_links_pipes_or_folders_is_not_empty(tmp_path, what):
    out = tmp_path / "out"
    out.mkdir()
    CONTENTS[what][0](out)
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match="holds '.*', which s.py did not write"):
        make(out)
    assert snapshot(tmp_path) == before


def test_outputs_of_the_same_script_are_replaced_only_with_force(tmp_path):
    make(tmp_path / "out")
    with pytest.raises(UserError, match="already holds files; pass --force"):
        make(tmp_path / "out", "new")
    (tmp_path / "out" / "a.txt").unlink()  # its removal loses nothing
    make(tmp_path / "out", "new", force=True)
    assert (tmp_path / "out" / "a.txt").read_text() == "new"


@pytest.mark.parametrize("read", ["out/a.txt", "out/sub", "out"])
def test_an_input_of_the_run_is_never_replaced(tmp_path, monkeypatch, read):
    monkeypatch.chdir(tmp_path)
    make("out")
    (tmp_path / "alias").symlink_to("out")
    for name in ("out", "alias", "sub/../out"):
        with pytest.raises(UserError, match="which this run reads|not a folder"):
            check_out_dir(name, script="s.py", force=True, reads=[None, read])
    check_out_dir("out/deeper", script="s.py", force=True, reads=[read])  # nothing is replaced


@pytest.mark.parametrize("out", ["/", "//", "/usr/.."])
def test_the_root_of_the_disk_is_refused_at_once(out):
    for force in (False, True):
        with pytest.raises(UserError, match="is the root of the disk"):
            check_out_dir(out, script="s.py", force=force)


def test_the_current_folder_is_filled_and_not_replaced(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    inode = (tmp_path / "out").stat().st_ino
    for text in ("old", "new"):
        make(".", text, force=True)
        assert (tmp_path / "out" / "sub" / "b.txt").read_text() == text
    assert (tmp_path / "out").stat().st_ino == inode
    assert sorted(os.listdir()) == ["a.txt", "manifest.json", "sub"] and os.listdir(tmp_path) == ["out"]


class Killed(BaseException):
    """Ends a replacement at once, like a kill."""


@pytest.mark.parametrize("at", range(12))
def test_a_replacement_inside_a_folder_killed_at_any_step_is_finished_by_the_next_run(tmp_path, monkeypatch, at):
    out, steps = tmp_path / "out", []
    make(out)
    monkeypatch.setattr(manifest, "must_stay", lambda folder: folder.is_dir())
    real = os.replace

    def replace(source, target):
        if len(steps) == at:
            raise Killed
        steps.append(source)
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with contextlib.suppress(Killed):
        make(out, "new", force=True)
    monkeypatch.setattr(os, "replace", real)
    shutil.rmtree(out / manifest.NEW, ignore_errors=True)
    if (out / "manifest.json").exists():  # a folder with a manifest is complete
        value = read_manifest(out)
        assert not manifest.find_changed(value["outputs"], out) or (out / manifest.READY).exists()
    make(out, "newer", force=True)
    assert (out / "a.txt").read_text() == (out / "sub" / "b.txt").read_text() == "newer"
    assert sorted(os.listdir(out)) == ["a.txt", "manifest.json", "sub"]


def in_own_namespace(commands):
    """Run shell commands with separate mounts; returns None if the machine does not allow that."""
    if not shutil.which("unshare") or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        return None
    return subprocess.run(["unshare", "-m", "sh", "-ec", commands], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("mount", ["mount -t tmpfs none out", "mount --bind elsewhere out"])
def test_a_mounted_folder_is_filled_and_filled_again(tmp_path, mount):
    """Like `docker -v`. If mounts are not allowed, the folder is an ordinary one, which must work too."""
    text = f"""
import sys; sys.path.insert(0, {str(SCRIPTS)!r})
from pathlib import Path
from linklab.manifest import staged_folder, write_manifest
for text in ("old", "new"):
    with staged_folder("out", script="s.py", force=True) as stage:
        (stage / "a.txt").write_text(text)
        write_manifest(stage, script="s.py", argv=[], seed=1, inputs={{}}, outputs={{stage / "a.txt": None}})
    assert sorted(p.name for p in Path("out").iterdir()) == ["a.txt", "manifest.json"]
    assert Path("out/a.txt").read_text() == text
"""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "make.py").write_text(text)
    command = f"cd {tmp_path} && {mount} && {sys.executable} make.py"
    done = in_own_namespace(command) or subprocess.run([sys.executable, "make.py"], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr


# Every script that writes a folder

LINKS = ["--csv", "d/links.csv"]
CASES = {
    "convert_csv_to_jsonl": [*LINKS],
    "run_baselines": [*LINKS, "--max-rows", "5"],
    "evaluate_model": ["--model", "tiny", *LINKS, "--max-rows", "4"],
    "compare_results": ["run"],
    "generate_synthetic_large": ["--n-samples", "20"],
    "generate_synthetic_smoke": ["--n-samples", "20"],
    "finetune_gemma_from_csv": [*LINKS, "--base-model", "tiny", "--max-steps", "1"],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory, small_links):
    place = tmp_path_factory.mktemp("place")
    shutil.copytree(small_links / "data", place / "d")
    shutil.copytree(small_links / "jsonl", place / "jsonl")
    make(place / "theirs", script="theirs.py")
    for name, content in {"person/README.md": "mine", "person/model/weights": "mine"}.items():
        (place / name).parent.mkdir(exist_ok=True, parents=True)
        (place / name).write_text(content)
    return place


def say_of(script, words, capfd):
    capfd.readouterr()
    code = importlib.import_module(script).main(words)
    return code, capfd.readouterr().err.splitlines()


@pytest.mark.parametrize("out, said", [("theirs", "files written by theirs.py, not"), ("person", "'README.md', which"),
                                       ("d", "links.csv"), ("/", "root of the disk")])  # fmt: skip
@pytest.mark.parametrize("script", CASES)
def test_no_script_replaces_files_that_it_did_not_write(place, monkeypatch, capfd, script, out, said):
    if out == "d" and script.startswith("generate"):
        said = "generate_synthetic_large.py" if script.endswith("smoke") else ""
    elif out == "d" and script == "compare_results":
        said = "written by generate_synthetic_large.py"
    monkeypatch.chdir(place)
    before = snapshot(place)
    for force in ([], ["--force"]) if said else ([],):
        code, lines = say_of(script, [*CASES[script], "--out-dir", out, *force], capfd)
        assert code == 2 and len(lines) == 1 and said in lines[0], lines
    assert snapshot(place) == before


READ = [  # commands whose output folder holds their input
    ("run_baselines", "--data jsonl --out-dir jsonl"),
    ("run_baselines", "--csv d/links.csv --out-dir d"),
    ("convert_csv_to_jsonl", "--csv d/links.csv --out-dir d"),
    ("finetune_gemma_from_csv", "--data jsonl --base-model tiny --out-dir jsonl"),
    ("finetune_gemma_from_csv", "--csv d/links.csv --base-model theirs --out-dir theirs"),
    ("evaluate_model", "--data jsonl --model tiny --out-dir jsonl"),
    ("evaluate_model", "--data jsonl --model theirs --out-dir theirs"),
    ("evaluate_model", "--data jsonl --predictions theirs/a.txt --out-dir theirs"),
    ("compare_results", "theirs --out-dir theirs"),
    ("compare_results", "theirs/sub --out-dir theirs"),
    ("compare_results", "person --stage theirs --out-dir theirs"),
    ("export_model", "--model theirs --out-dir theirs"),
]


@pytest.mark.parametrize("force", [[], ["--force"]], ids=["", "forced"])
@pytest.mark.parametrize("script, words", READ, ids=[f"{script} {words}" for script, words in READ])
def test_no_script_replaces_its_inputs_even_in_its_own_folder(place, tmp_path, monkeypatch, capfd, script,
                                                                         words, force):  # fmt: skip
    here = Path(shutil.copytree(place, tmp_path / "place"))
    monkeypatch.chdir(here)
    for folder in ("theirs", "jsonl", "d"):  # as if the same script had written it
        value = json.loads(Path(folder, "manifest.json").read_text()) | {"script": f"{script}.py"}
        Path(folder, "manifest.json").write_text(json.dumps(value))
    before = snapshot(here)
    code, lines = say_of(script, [*words.split(), *force], capfd)
    assert code == 2 and len(lines) == 1 and "which this run reads" in lines[0], lines
    assert snapshot(here) == before


FILE_CASES = {
    "its own report": ("rep.json", "v.csv", None),
    "somebody's manifest": ("new.json", None, "new.manifest.json: was not written by validate_dataset.py"),
    "somebody's file": ("mine.json", None, "mine.json: was not written by"),
    "a file it reads": ("d/links.csv", None, "given twice"),
    "a pipe": ("pipe", None, "is not a regular file"),
    "a dangling link": ("link", None, "is not a regular file"),
    "an edited report": ("edited.json", None, "edited.json: was changed after"),
}


@pytest.mark.parametrize("case", FILE_CASES)
def test_a_file_is_replaced_only_if_its_manifest_names_the_same_script(place, tmp_path, monkeypatch, capfd, case):
    report, violations, said = FILE_CASES[case]
    shutil.copytree(place / "d", tmp_path / "d")
    monkeypatch.chdir(tmp_path)
    for name, text in {"new.manifest.json": '{"name": "my app"}', "mine.json": "{}"}.items():
        Path(name).write_text(text)
    os.mkfifo("pipe")
    Path("link").symlink_to("nowhere")
    for name in ("rep.json", "edited.json"):
        more = ["--violations", "v.csv"] if name == "rep.json" else []
        assert say_of("validate_dataset", ["d/links.csv", "--report", name, *more], capfd)[0] == 0
    with open("edited.json", "a") as handle:
        handle.write("\n")
    before = snapshot(tmp_path)
    words = ["d/links.csv", "--report", report, *(["--violations", violations] if violations else [])]
    code, lines = say_of("validate_dataset", words, capfd)
    assert code == 2 and len(lines) == 1 and snapshot(tmp_path) == before
    code, lines = say_of("validate_dataset", [*words, "--force"], capfd)
    if said is None:
        assert code == 0, lines
        return
    assert code == 2 and len(lines) == 1 and said in lines[0], lines
    assert snapshot(tmp_path) == before
