"""fix_notebook_widgets.py, checked with nbconvert: fixed notebooks convert, and no other byte changes."""

from __future__ import annotations

import html
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import fix_notebook_widgets as fixer
import pytest
from linklab.notebooks.fixing import fix

SCRIPT = Path(fixer.__file__)
STATE = "application/vnd.jupyter.widget-state+json"
VIEW = "application/vnd.jupyter.widget-view+json"
MODEL = {"model_module": "@jupyter-widgets/controls", "model_name": "HTMLModel", "state": {"value": "héllo ☃"}}
MODELS = {"m1": MODEL, "m2": {**MODEL, "state": {"bar": 1.50, "layout": "IPY_MODEL_m1", "tiny": 1e-05}}}
VERSIONS = {"version_major": 2, "version_minor": 0}
LEGACY = {"state": {"0a1b": {"views": [{"cell_index": 3}]}}, "version": "1.2.0"}  # as ipywidgets 5 wrote it
ABSENT = object()

NEW = {**MODELS, "state": {}, **VERSIONS}  # models at the place where Colab looks for them

# metadata.widgets before the fixer -> after it: no model is lost or put under `state`.
FORMS = {
    "no widgets": (ABSENT, ABSENT),
    "sound": ({STATE: {"state": MODELS, **VERSIONS}}, {STATE: {"state": MODELS, **VERSIONS}}),
    "sound, no versions": ({STATE: {"state": MODELS}}, {STATE: {"state": MODELS}}),
    "sound, empty": ({STATE: {"state": {}, **VERSIONS}}, {STATE: {"state": {}, **VERSIONS}}),
    "sound, other mime types": ({STATE: {"state": {}}, "a/b": [1]}, {STATE: {"state": {}}, "a/b": [1]}),
    "flat beside an empty state": ({STATE: {**MODELS, "state": {}}}, {STATE: {**MODELS, "state": {}}}),
    "flat": ({STATE: MODELS}, {STATE: {**MODELS, "state": {}}}),
    "flat with versions": ({STATE: {**VERSIONS, **MODELS}}, {STATE: {**VERSIONS, **MODELS, "state": {}}}),
    "flat beside state null": ({STATE: {"state": None, **MODELS}}, {STATE: {"state": {}, **MODELS}}),
    "flat, other mime types": (
        {"a/b": {"c": 1}, STATE: MODELS, VIEW: None},
        {"a/b": {"c": 1}, STATE: {**MODELS, "state": {}}, VIEW: None},
    ),
    "flat under a bare state": ({"state": {}, STATE: MODELS}, {"state": {}, STATE: {**MODELS, "state": {}}}),
    "directly under widgets": (MODELS, {STATE: NEW}),
    "directly under widgets, among others": ({"a/b": [1], **MODELS, "c": 2}, {"a/b": [1], "c": 2, STATE: NEW}),
    "directly under widgets, beside an empty mime type": ({STATE: {}, **MODELS}, {STATE: NEW}),
    "under a state without mime type": ({"state": MODELS}, {STATE: NEW}),
    "mime type under state": ({"state": {STATE: MODELS}}, {STATE: NEW}),
    "mime type with state under state": ({"state": {STATE: {"state": MODELS, **VERSIONS}}}, {STATE: NEW}),
    "mime type holds a list": ({STATE: [MODELS]}, {STATE: NEW}),
    "mime type holds a list of models": (
        {STATE: [{"m1": MODEL}, {"state": {"m2": MODELS["m2"]}, **VERSIONS}]}, {STATE: NEW},
    ),
    "a list of models": ([{STATE: MODELS}], {STATE: NEW}),
    "models among other data": (
        {"x": {"models": MODELS, "note": "mine"}},
        {"x": {"models": MODELS, "note": "mine"}, STATE: {"state": {}, **VERSIONS}},
    ),
    "two models of one name": (
        {"x": {"m1": MODEL}, "y": {"m1": MODEL}},
        {"x": {"m1": MODEL}, "y": {"m1": MODEL}, STATE: {"state": {}, **VERSIONS}},
    ),
    "a list of models and more": (
        {STATE: [MODELS, "mine"]}, {STATE: {"found": [MODELS, "mine"], "state": {}, **VERSIONS}},
    ),
    "versions only": ({STATE: VERSIONS}, ABSENT),
    "empty": ({}, ABSENT),
    "empty state mime": ({STATE: {}}, ABSENT),
    "null": (None, ABSENT),
    "null state mime": ({STATE: None}, ABSENT),
    "state null": ({STATE: {"state": None, **VERSIONS}}, ABSENT),
    "state a number": ({STATE: {"state": 7}}, ABSENT),
    "a list": ([], ABSENT),
    "false": (False, ABSENT),
    "legacy": (LEGACY, {**LEGACY, STATE: {"state": {}, **VERSIONS}}),
    "another mime type": ({"a/b": {}}, {"a/b": {}, STATE: {"state": {}, **VERSIONS}}),
    "another and one without state": (
        {STATE: {"version_major": 2}, "a/b": {}}, {STATE: {"version_major": 2, "state": {}}, "a/b": {}},
    ),
    "other data as text": ({STATE: "mine"}, {STATE: {"found": "mine", "state": {}, **VERSIONS}}),
}  # fmt: skip
LEFT = {  # forms that nbconvert can read, which stay unchanged
    "no widgets", "sound", "sound, no versions", "sound, empty", "sound, other mime types",
    "flat beside an empty state",
}  # fmt: skip
STYLES = [
    {"indent": 1},
    {"indent": 2},
    {"indent": 4},
    {"indent": "\t"},
    {"indent": 0},
    {},
    {"separators": (",", ":")},
    {"indent": 1, "separators": (",", " : ")},
]
FALLBACK = "0/10 [00:00<?]"  # the output's text, shown instead of its widget


def make_notebook(widgets: object, minor: int = 5, before: dict | None = None, after: dict | None = None) -> dict:
    """Return a notebook with one widget output, whose metadata holds `before`, the widgets, `after`."""
    display = {"text/plain": [FALLBACK], VIEW: {"model_id": "m1", **VERSIONS}}
    output = {"output_type": "display_data", "metadata": {}, "data": display}
    source = ['w = {"widgets": {}}  # "metadata": {"widgets": null}\n', "Grüße ☃"]
    code = {"cell_type": "code", "execution_count": 3, "metadata": {}, "outputs": [output], "source": source}
    text = {"cell_type": "markdown", "metadata": {"widgets": {STATE: {}}}, "source": "# título"}
    cells = [{"id": f"cell-{n}", **cell} if minor >= 5 else cell for n, cell in enumerate((code, text))]
    middle = {} if widgets is ABSENT else {"widgets": widgets}
    metadata = {**(before or {}), **middle, **(after or {})}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": minor}


def replaced(notebook: dict, widgets: object) -> dict:
    """Return the notebook with these widgets in place of its own."""
    metadata = {k: widgets if k == "widgets" else v for k, v in notebook["metadata"].items()}
    if widgets is ABSENT:
        metadata.pop("widgets", None)
    return {**notebook, "metadata": metadata}


def fuzz(n: int, seed: int = 7):
    """Yield (form, bytes of a notebook, expected bytes) for many forms, versions, key orders and JSON styles."""
    rng = random.Random(seed)
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}, "colab": {"provenance": ["ü"]}}
    for number in range(n):
        form = list(FORMS)[number % len(FORMS)]
        widgets, fixed = FORMS[form]
        before, after = ({key: kernel[key] for key in kernel if rng.random() < 0.5} for _ in range(2))
        notebook = make_notebook(widgets, minor=rng.randrange(6), before=before, after=after)
        if rng.random() < 0.5:  # Colab writes nbformat and metadata before the cells
            notebook = dict(reversed(notebook.items()))
        style = {**rng.choice(STYLES), "ensure_ascii": rng.random() < 0.5}
        line_end, last = rng.choice(["\n", "\r\n"]), rng.choice(["", "\n", "\n\n"])

        def write(document, style=style, line_end=line_end, last=last):
            return (json.dumps(document, **style) + last).replace("\n", line_end).encode()

        yield form, write(notebook), write(replaced(notebook, fixed))


def visible_text(page: str) -> str:
    """Return the text of a page that a browser without JavaScript shows."""
    shown = re.sub(r"<(script|style|head)\b.*?</\1>", "", page, flags=re.S | re.I)
    return html.unescape(re.sub(r"<[^>]*>", "", shown))


@pytest.fixture(scope="module")
def convert():
    """nbconvert itself, called with a file name, as its command line does."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter()

    def call(path: Path) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # missing cell ids, unknown languages: not what is tested
            return exporter.from_filename(str(path))[0]

    return call


@pytest.mark.parametrize("n", [2 * len(FORMS), pytest.param(500, marks=pytest.mark.slow)])
def test_fuzzed_notebooks_convert_after_the_fixer_and_differ_only_in_their_widgets(tmp_path, convert, n):
    notebooks = [(tmp_path / f"{number:03}.ipynb", *made) for number, made in enumerate(fuzz(n))]
    n_broken = 0
    for path, form, old, new in notebooks:
        path.write_bytes(old)
        try:
            convert(path)
            broken = False
        except (KeyError, TypeError, AttributeError):
            broken = True
        assert broken == (old != new) == (form not in LEFT), f"{form}: nbconvert and the table disagree"
        n_broken += broken
    assert 0.5 < n_broken / n < 0.9
    assert fixer.main([str(tmp_path)]) == 1
    for path, form, _, new in notebooks:
        assert path.read_bytes() == new, form
        assert (FALLBACK in visible_text(convert(path))) == (not form.startswith("sound, no v") and form != "sound"), (
            form
        )
    stamps = [path.stat().st_mtime_ns for path, *_ in notebooks]
    assert fixer.main([str(tmp_path)]) == 0
    assert [path.stat().st_mtime_ns for path, *_ in notebooks] == stamps


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("treatment", ["text", "remove"])
def test_every_form_shows_its_text_if_the_models_are_not_shown(tmp_path, convert, form, treatment):
    path = tmp_path / "n.ipynb"
    path.write_text(json.dumps(make_notebook(FORMS[form][0]), indent=1))
    assert fixer.main(["--widgets", treatment, str(path)]) == int(treatment == "text" or form != "no widgets")
    notebook = json.loads(path.read_text())
    assert FALLBACK in visible_text(convert(path))
    expected = ABSENT if treatment == "remove" else FORMS[form][1]
    assert notebook["metadata"].get("widgets", ABSENT) == expected
    assert (VIEW in notebook["cells"][0]["outputs"][0]["data"]) == (treatment == "remove")
    assert fixer.main(["--widgets", treatment, str(path)]) == 0


@pytest.mark.parametrize("view", [{"version_major": 2}, {}, None, [], "m1", {"model_id": ["m1"]}, {"model_id": {}}])
@pytest.mark.parametrize(
    "widgets", [ABSENT, {STATE: MODELS}, {STATE: {"state": MODELS}}], ids=["none", "flat", "sound"]
)
def test_a_view_without_a_model_is_removed_and_its_text_is_shown(tmp_path, convert, view, widgets):
    path = tmp_path / "n.ipynb"
    notebook = make_notebook(widgets)
    notebook["cells"][0]["outputs"][0]["data"][VIEW] = view
    path.write_text(json.dumps(notebook, indent=1))
    with pytest.raises((KeyError, TypeError)):
        convert(path)
    assert fixer.main([str(path)]) == 1
    assert FALLBACK in visible_text(convert(path))
    assert json.loads(path.read_text())["cells"][0]["outputs"][0]["data"] == {"text/plain": [FALLBACK]}


@pytest.mark.parametrize("style", STYLES, ids=str)
@pytest.mark.parametrize("before", [{}, {"a": 1}], ids=["nothing before", "a key before"])
@pytest.mark.parametrize("after", [{}, {"z": {"y": []}}], ids=["nothing after", "a key after"])
def test_a_removed_key_takes_its_comma_and_its_line_along(style, before, after):
    text = json.dumps(make_notebook({}, before=before, after=after), **style)
    assert fix(text).text == json.dumps(make_notebook(ABSENT, before=before, after=after), **style)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        # unusual white space stays
        ('{ "metadata" :{"a":1 ,\n\t"widgets": {} ,"b" : 2 } }', '{ "metadata" :{"a":1 ,\n\t"b" : 2 } }'),
        ('{"metadata": {  "widgets" :null\n} }\n', '{"metadata": {} }\n'),
        # escapes, number forms and NaN stay as written
        (
            '{"cells": ["\\u00e9é\\ud83d", 1E3, NaN], "metadata": {"widgets": {"%s": {"m": {"v": 1E3, "w": "\\/"}}}}}',
            '{"cells": ["\\u00e9é\\ud83d", 1E3, NaN], "metadata": {"widgets": {"%s": {"m": '
            '{"v": 1E3, "w": "\\/"}, "state": {}}}}}',
        ),
        # a key may be written with escapes, or twice: the last one counts, and removing it would expose the first
        ('{"metadata": {"wid\\u0067ets": {}}}', '{"metadata": {}}'),
        ('{"metadata": {"widgets": {}, "a": 1, "widgets": null}}', '{"metadata": {"a": 1}}'),
        ('{"metadata": {"widgets": {}}, "metadata": {"a": 1}}', '{"metadata": {"widgets": {}}, "metadata": {"a": 1}}'),
        # a byte order mark stays
        ('\ufeff{"metadata": {"widgets": {}}}', '\ufeff{"metadata": {}}'),
        # widgets elsewhere are not touched
        ('{"widgets": {}, "metadata": {"a": {"widgets": {}}}}', '{"widgets": {}, "metadata": {"a": {"widgets": {}}}}'),
        ('{"cells": []}', '{"cells": []}'),
        ('{"metadata": null}', '{"metadata": null}'),
    ],
)  # fmt: skip
def test_every_other_byte_stays(tmp_path, old, new):
    path = tmp_path / "n.ipynb"
    path.write_bytes(old.replace("%s", STATE).encode())
    assert fixer.main([str(path)]) == int(old != new)
    assert path.read_bytes().decode() == new.replace("%s", STATE)


def test_check_lists_what_would_be_fixed_and_writes_nothing(tmp_path, capsys):
    path = tmp_path / "n.ipynb"
    path.write_text(json.dumps(make_notebook({STATE: MODELS})))
    old = path.read_bytes()
    assert fixer.main(["--check", str(path)]) == 1
    assert path.read_bytes() == old
    assert f"{path}:1: would fix: 2 widget models without 'state': kept" in capsys.readouterr().err
    assert fixer.main([str(path)]) == 1
    assert fixer.main(["--check", str(path)]) == 0


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{\n "metadata": {},\n "cells": [1 2]\n}', ":3:14: not JSON: Expecting ',' delimiter"),
        (b"", ": zero bytes: nothing was ever written, or the content is lost; restore it"),
        (b"\0" * 4096, ": 4,096 NUL bytes: the content was lost in a crash; restore it"),
        (b" \n\n", ": only white space: the content is lost; restore it"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123\n",
         ": a Git LFS pointer, not the notebook itself: run 'git lfs pull' first"),
        (b'{\n<<<<<<< HEAD\n "cells": [],\n=======\n "cells": [ ],\n>>>>>>> other\n "metadata": {}}',
         ":2: unresolved merge conflict: choose one side"),
        ('{"metadata": {}}'.encode("utf-16"), ": UTF-16 or UTF-32, and Jupyter reads UTF-8 only: convert it"),
        ('{"metadata": {}}'.encode("utf-16-be"), ": UTF-16 or UTF-32, and Jupyter reads UTF-8 only: convert it"),
        (b"<!DOCTYPE html>\n<html>", ": a web page, not a notebook: download the raw file instead"),
        (b"PK\x03\x04\x14", ": a ZIP archive: unpack it first"),
        (b'{"cells": [{"source": ["abc', ":1:24: cut off: the JSON ends in the middle; restore it"),
        (b'{"cells": [{"source": ["abc"]}', ":1:31: cut off: the JSON ends in the middle; restore it"),
        (b'{"metadata": {"widgets": {}}} {}', ":1:31: not JSON: Extra data"),
        (b'{"cells": "a\nb"}', ":1:13: not JSON: Invalid control character"),
        (b'{"cells": "\xff"}', ": not UTF-8 at byte 11"),
        (b"[]", ": not a notebook: a JSON object is expected"),
        (b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", ": nested too deeply"),
        (b'{"a": ' + b"7" * 5_000 + b"}", ": holds a number of thousands of digits"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)  # fmt: skip
def test_an_unreadable_notebook_is_named_and_the_others_are_still_fixed(tmp_path, capsys, data, says):
    bad, good = tmp_path / "a.ipynb", tmp_path / "b.ipynb"
    bad.write_bytes(data)
    good.write_text('{"metadata": {"widgets": {}}}')
    assert fixer.main([str(bad), str(good)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert sum(line.startswith(f"error: {bad}{says}") for line in lines) == 1
    assert len(lines) == 3, "one line for each notebook, and the summary"
    assert bad.read_bytes() == data
    assert good.read_text() == '{"metadata": {}}'


def test_a_missing_path_is_an_error_of_one_line(tmp_path, capsys):
    assert fixer.main([str(tmp_path / "none.ipynb")]) == 2
    assert f"error: {tmp_path}/none.ipynb: no such file or directory\n" in capsys.readouterr().err


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path, capsys, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    assert fixer.main([str(tmp_path)]) == 2
    assert f"error: {tmp_path}: permission denied" in capsys.readouterr().err


def test_it_runs_on_the_standard_library_alone(tmp_path):
    path = tmp_path / "n.ipynb"
    path.write_text('{"metadata": {"widgets": {}}}')
    done = subprocess.run([sys.executable, "-S", str(SCRIPT), "--repair", str(path)], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr  # -S: no site-packages
    assert json.loads(path.read_text()) == {"metadata": {}}


def call_as_filter(data: bytes, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(SCRIPT), *words, "-"], input=data, capture_output=True)


def test_as_a_git_filter_it_reads_stdin_and_writes_stdout(tmp_path):
    text = json.dumps(make_notebook({STATE: MODELS}), indent=1, ensure_ascii=False).replace("\n", "\r\n")
    done = call_as_filter(text.encode())
    assert (done.returncode, done.stdout.decode()) == (0, fix(text).text)
    assert b"<stdin>:" in done.stderr
    again = call_as_filter(done.stdout)
    assert (again.returncode, again.stdout) == (0, done.stdout)
    checked = call_as_filter(text.encode(), "--check")
    assert (checked.returncode, checked.stdout) == (1, b"")
    bad = call_as_filter(b"{")  # git then stores the file unchanged, or stops if the filter is `required`
    assert (bad.returncode, bad.stdout) == (2, b"") and b"error: <stdin>:1:2: " in bad.stderr


def test_git_itself_stores_the_output_of_the_filter(tmp_path):
    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    git("init", "-q")
    git("config", "filter.notebooks.clean", f'"{sys.executable}" "{SCRIPT}" -')
    git("config", "filter.notebooks.required", "true")
    (tmp_path / ".gitattributes").write_text("*.ipynb filter=notebooks\n")
    text = json.dumps(make_notebook({STATE: MODELS}))
    (tmp_path / "n.ipynb").write_text(text)
    git("add", ".")
    assert git("show", ":n.ipynb") == fix(text).text
    assert (tmp_path / "n.ipynb").read_text() == text, "the working copy stays"


def test_folders_are_walked_without_checkpoints_and_environments(tmp_path):
    seen = ["a.ipynb", "deep/er/b.ipynb", ".hidden/c.ipynb", "d.IPYNB"]
    left = [".ipynb_checkpoints/a.ipynb", ".git/x.ipynb", ".venv/x.ipynb", "node_modules/x.ipynb", "env/x.ipynb", "a.j"]
    for name in seen + left:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('{"metadata": {"widgets": {}}}')
    (tmp_path / "env" / "pyvenv.cfg").touch()  # what makes a folder a virtual environment, whatever its name
    assert fixer.main([str(tmp_path)]) == 1
    assert [name for name in seen + left if (tmp_path / name).read_text() == '{"metadata": {}}'] == seen


def test_links_and_permissions_stay(tmp_path):
    real, link = tmp_path / "real.ipynb", tmp_path / "link.ipynb"
    real.write_text('{"metadata": {"widgets": {}}}')
    real.chmod(0o640)
    link.symlink_to(real.name)
    assert fixer.main([str(link)]) == 1
    assert link.is_symlink()
    assert real.read_text() == '{"metadata": {}}'
    assert real.stat().st_mode & 0o777 == 0o640


KILLED_AT = """
import os, signal, sys
import fix_notebook_widgets
step, moment = sys.argv[1].split()
true = getattr(os, step)
def killing(*args, **kwargs):
    if moment == "after":
        true(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(os, step, killing)
fix_notebook_widgets.main(sys.argv[2:])
"""


@pytest.mark.parametrize("step", ["fsync before", "replace before", "replace after"])
def test_a_kill_leaves_old_or_new_and_the_next_run_removes_only_its_temporary_file(tmp_path, step):
    path = tmp_path / "n.ipynb"
    path.write_text('{"metadata": {"widgets": {}}}')
    mine = [".n.ipynb.tmp", ".n.ipynb.backup.tmp", ".n.ipynb.abcd1234.tmp", ".n.ipynb.linklab-notes.tmp", "n.ipynb.tmp",
            ".other.ipynb.linklab-abcd1234.tmp"]  # fmt: skip
    for name in mine:
        (tmp_path / name).write_text("a person's own")
    env = {**os.environ, "PYTHONPATH": str(SCRIPT.parent)}
    done = subprocess.run([sys.executable, "-c", KILLED_AT, step, str(path)], env=env, capture_output=True)
    assert done.returncode == -signal.SIGKILL, "the step was never reached"
    is_new = step == "replace after"
    assert path.read_text() == ('{"metadata": {}}' if is_new else '{"metadata": {"widgets": {}}}')
    assert (sorted(os.listdir(tmp_path)) == sorted([*mine, "n.ipynb"])) == is_new, "the kill left nothing"
    assert fixer.main([str(path)]) == int(not is_new)
    assert sorted(os.listdir(tmp_path)) == sorted([*mine, "n.ipynb"])
    assert path.read_text() == '{"metadata": {}}'


def test_a_file_that_another_run_is_writing_stays(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    path, held = tmp_path / "n.ipynb", tmp_path / ".n.ipynb.linklab-abcd1234.tmp"
    path.write_text('{"metadata": {"widgets": {}}}')
    with open(held, "w") as handle:
        fcntl.flock(handle.fileno(), fcntl.LOCK_EX)
        assert fixer.main([str(path)]) == 1
        assert held.exists() and path.read_text() == '{"metadata": {}}'
    path.write_text('{"metadata": {"widgets": {}}}')
    assert fixer.main([str(path)]) == 1 and not held.exists()


@pytest.mark.parametrize("n_kills", [4, pytest.param(150, marks=pytest.mark.slow)])
def test_kills_at_random_moments_leave_old_or_new(tmp_path, n_kills):
    path = tmp_path / "n.ipynb"
    notebook = make_notebook({STATE: {f"m{n}": MODEL for n in range(8_000)}})
    old = json.dumps(notebook, indent=1)
    path.write_text(old)
    command = [sys.executable, str(SCRIPT), str(path)]
    started = time.monotonic()
    assert subprocess.run(command, capture_output=True).returncode == 1
    whole_s = time.monotonic() - started
    new = path.read_text()
    assert new != old
    rng = random.Random(11)
    for _ in range(n_kills):
        path.write_text(old)
        child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.3, 1.05) * whole_s)  # the first third is Python starting up and reading
        child.kill()
        child.wait()
        assert path.read_text() in (old, new)
    assert subprocess.run(command, capture_output=True).returncode in (0, 1)
    assert path.read_text() == new
