"""Problems that nbformat 4 rejects and --repair fixes, checked with nbformat's own schemas and nbconvert."""

from __future__ import annotations

import copy
import json
import random
import re
import warnings
from collections.abc import Callable
from typing import Any

import fix_notebook_widgets as fixer
import nbformat
import pytest
from linklab.notebooks.fixing import fix
from linklab.notebooks.format_rules import find_format_problems
from nbformat.validator import get_validator

NOTHING = object()


def make_notebook(minor: int = 5) -> dict:
    """Return a valid notebook with every kind of cell and output."""
    data = {"text/plain": ["read me 2"], "application/json": {"a": 1}}
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": ["read me 1\n"]},
        {"output_type": "display_data", "metadata": {}, "data": data},
        {"output_type": "execute_result", "execution_count": 3, "metadata": {}, "data": {"text/plain": "read me 3"}},
        {"output_type": "error", "ename": "ValueError", "evalue": "read me 4", "traceback": ["ValueError: read me 4"]},
    ]  # fmt: skip
    attachments = {"a.png": {"image/png": "aGVsbG8="}}
    cells = [
        {"cell_type": "code", "execution_count": 3, "metadata": {"a": 1}, "outputs": outputs, "source": "run()"},
        {"cell_type": "markdown", "metadata": {"tags": ["t"]}, "source": ["# read me 5\n"], "attachments": attachments},
        {"cell_type": "raw", "metadata": {"format": "text/html"}, "source": "<b>read me 6</b>"},
        {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": []},
    ]  # fmt: skip
    if minor >= 5:
        cells = [{"id": f"cell-{n}", **cell} for n, cell in enumerate(cells)]
    metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3"},
        "language_info": {"name": "python", "version": "3.11.7"},
    }
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": minor}


def at(notebook: dict, path: str) -> Any:
    for step in path.split("/") if path else []:
        notebook = notebook[int(step) if step.isdigit() else step]
    return notebook


def put(path: str, key: str, value: object) -> Callable[[dict], None]:
    """Return a function that sets (at the end, like the repair) or removes a key of the object at a path."""

    def change(notebook: dict) -> None:
        found = at(notebook, path)
        if value is NOTHING:
            del found[key]
        else:
            found[key] = value

    return change


def moved(path: str, key: str, metadata: str, value: object) -> tuple:
    return put(path, key, value), put(metadata, key, value)


CODE, TEXT, RAW = "cells/0", "cells/1", "cells/2"
STREAM, DISPLAY, RESULT, ERROR = (f"cells/0/outputs/{n}" for n in range(4))
SPEC, INFO = "metadata/kernelspec", "metadata/language_info"


def drop_ids(notebook: dict) -> None:
    for cell in notebook["cells"]:
        cell.pop("id", None)


# (minor, what breaks a valid notebook, what then differs from the valid one after the repair, or None for nothing)
BROKEN: dict[str, tuple] = {
    # missing, with what a viewer takes for it
    "no metadata of the notebook": (4, put("", "metadata", NOTHING), put("", "metadata", {})),
    "no nbformat_minor": (4, put("", "nbformat_minor", NOTHING), None),
    "no nbformat_minor, but ids": (5, put("", "nbformat_minor", NOTHING), None),
    "no nbformat": (5, put("", "nbformat", NOTHING), None),
    "no metadata of a cell": (4, put("cells/3", "metadata", NOTHING), None),
    "no source": (4, put("cells/3", "source", NOTHING), None),
    "no outputs": (4, put("cells/3", "outputs", NOTHING), None),
    "no execution_count": (4, put("cells/3", "execution_count", NOTHING), None),
    "no cell_type but outputs": (4, put("cells/3", "cell_type", NOTHING), None),
    "no output_type of a stream": (4, put(STREAM, "output_type", NOTHING), None),
    "no output_type of a result": (4, put(RESULT, "output_type", NOTHING), None),
    "no output_type of an error": (4, put(ERROR, "output_type", NOTHING), None),
    "no metadata of an output": (4, put(DISPLAY, "metadata", NOTHING), None),
    "no data": (4, put(DISPLAY, "data", NOTHING), put(DISPLAY, "data", {})),
    "no execution_count of a result": (4, put(RESULT, "execution_count", NOTHING), None),
    "no name of a stream": (4, put(STREAM, "name", NOTHING), None),
    "no text of a stream": (4, put(STREAM, "text", NOTHING), put(STREAM, "text", [])),
    "no traceback": (4, put(ERROR, "traceback", NOTHING), put(ERROR, "traceback", [])),
    "no evalue": (4, put(ERROR, "evalue", NOTHING), put(ERROR, "evalue", "")),
    "no name of the kernelspec": (4, put(SPEC, "name", NOTHING), None),
    "no display_name": (4, put(SPEC, "display_name", NOTHING), put(SPEC, "display_name", "python3")),
    "no name of the language": (4, put(INFO, "name", NOTHING), None),
    # null or of another form, and empty
    "metadata of the notebook null": (5, put("", "metadata", None), put("", "metadata", {})),
    "nbformat_minor null": (4, put("", "nbformat_minor", None), None),
    "kernelspec null": (4, put("metadata", "kernelspec", None), put("metadata", "kernelspec", NOTHING)),
    "kernelspec empty": (4, put("metadata", "kernelspec", {}), put("metadata", "kernelspec", NOTHING)),
    "kernelspec name null": (4, put(SPEC, "name", None), None),
    "language_info null": (4, put("metadata", "language_info", None), put("metadata", "language_info", NOTHING)),
    "lexer null": (4, put(INFO, "pygments_lexer", None), None),
    "orig_nbformat null": (4, put("metadata", "orig_nbformat", None), None),
    "title null": (4, put("metadata", "title", None), None),
    "metadata of a cell null": (4, put("cells/3", "metadata", None), None),
    "source null": (4, put("cells/3", "source", None), None),
    "outputs null": (4, put("cells/3", "outputs", None), None),
    "execution_count an empty string": (4, put("cells/3", "execution_count", ""), None),
    "execution_count digits": (4, put(CODE, "execution_count", "3"), None),
    "nbformat digits": (4, put("", "nbformat", "4"), None),
    "nbformat_minor digits": (5, put("", "nbformat_minor", "5"), None),
    "attachments null": (4, put(RAW, "attachments", None), None),
    "metadata of an output null": (4, put(DISPLAY, "metadata", None), None),
    "text of a stream null": (4, put(STREAM, "text", None), put(STREAM, "text", [])),
    "a picture null": (4, put(f"{DISPLAY}/data", "image/png", None), None),
    "tags null": (4, put("cells/3/metadata", "tags", None), None),
    "collapsed null": (4, put("cells/3/metadata", "collapsed", None), None),
    "tags repeated": (4, put(f"{TEXT}/metadata", "tags", ["t", "t"]), None),
    # superfluous
    "id before 4.5": (4, put(CODE, "id", "a"), None),
    "outputs of a markdown cell": (4, put(TEXT, "outputs", []), None),
    "execution_count of a markdown cell": (4, put(TEXT, "execution_count", None), None),
    "execution_count 7 of a raw cell": (4, put(RAW, "execution_count", 7), None),
    "outputs and execution_count of a markdown cell": (
        5, lambda nb: at(nb, TEXT).update(outputs=[], execution_count=None), None,
    ),
    "attachments of a code cell": (4, put(CODE, "attachments", {}), None),
    "metadata of a stream": (4, put(STREAM, "metadata", {}), None),
    "Colab's metadata of a stream": (4, put(STREAM, "metadata", {"tags": None}), None),
    "execution_count of a display": (4, put(DISPLAY, "execution_count", 3), None),
    "name of a display": (4, put(DISPLAY, "name", "stdout"), None),
    "data of a stream": (4, put(STREAM, "data", {}), None),
    "an empty key of the notebook": (4, put("", "signature", ""), None),
    # superfluous, but not empty: moved to the metadata
    "a key of the notebook": (4, *moved("", "signature", "metadata", "sha256:1")),
    "a key of a cell": (4, *moved(CODE, "colab", f"{CODE}/metadata", {"height": [1, 2]})),
    "outputs of a markdown cell with content": (4, *moved(TEXT, "outputs", f"{TEXT}/metadata", [{"text": "x"}])),
    "a key of a display": (4, *moved(DISPLAY, "transient", f"{DISPLAY}/metadata", {"display_id": "d"})),
    # ids in 4.5
    "no ids": (5, drop_ids, "ids"),
    "id null": (5, put(TEXT, "id", None), "ids"),
    "id with blanks": (5, put(TEXT, "id", "two words"), "ids"),
    "id too long": (5, put(TEXT, "id", "x" * 65), "ids"),
    "id twice": (5, put(TEXT, "id", "cell-0"), "ids"),
}  # fmt: skip
# A fix of these would lose something, or need a guess: they are reported, and not changed.
UNFIXED: dict[str, tuple] = {
    "a cell of an unknown type": (4, put(TEXT, "cell_type", "heading"), 'cell 2 has the type \'heading\''),
    "an output of nbformat 3": (4, put(RESULT, "output_type", "pyout"), "output 3 of cell 1 has the type 'pyout'"),
    "metadata of a stream with content": (4, put(STREAM, "metadata", {"a": 1}), "'metadata' is not allowed in"),
    "a negative count": (4, put(CODE, "execution_count", -1), "cell 1 (code): 'execution_count' is -1"),
    "a source that is a number": (4, put(RAW, "source", 5), "cell 3 (raw): 'source' is 5"),
    "a picture that is a number": (4, put(f"{DISPLAY}/data", "image/png", 5), "is 5, neither text nor lines"),
    "attachments that are a list": (4, put(TEXT, "attachments", ["a"]), "'attachments' is [\"a\"], not files by name"),
    "a cell that is text": (4, lambda nb: nb["cells"].append("x"), "cell 5 is not an object"),
    "worksheets": (4, put("", "worksheets", [{"cells": []}]), "nbformat 3 content in a notebook of nbformat 4"),
    "a kernelspec that is text": (4, put("metadata", "kernelspec", "python3"), "'kernelspec' is \"python3\""),
    "tags with a comma": (4, put(f"{TEXT}/metadata", "tags", ["a,b"]), "its metadata: 'tags' is"),
    "a moved key that is taken": (
        4, lambda nb: at(nb, CODE).update(colab=1, metadata={"colab": 2}), "'colab' is not allowed in cell 1 (code)",
    ),
}  # fmt: skip
STYLES = [{"indent": 1}, {"indent": 2}, {}, {"separators": (",", ":")}]


def schema_errors(notebook: dict) -> list[str]:
    """Return what nbformat's schema of the notebook's own version rejects, plus repeated ids."""
    minor = notebook.get("nbformat_minor", 4)
    if isinstance(minor, str):
        return ["nbformat_minor is text"]  # nbformat has no schema for it
    errors = [error.message[:200] for error in get_validator(4, minor).iter_errors(notebook)]
    ids = [cell.get("id") for cell in notebook.get("cells", []) if isinstance(cell, dict) and "id" in cell]
    return errors + [f"id {found} twice" for found in {found for found in ids if ids.count(found) > 1}]


def write(notebook: dict, style: dict, line_end: str = "\n") -> str:
    return (json.dumps(notebook, ensure_ascii=False, **style) + "\n").replace("\n", line_end)


def break_notebook(name: str, table: dict[str, tuple]) -> tuple[dict, dict]:
    """Return the valid notebook of a problem, and the same one broken."""
    minor, breaks, _ = table[name]
    sound = make_notebook(minor)
    assert not schema_errors(copy.deepcopy(sound))
    broken = copy.deepcopy(sound)
    breaks(broken)
    return sound, broken


def reordered(expected: Any, broken: Any) -> Any:
    """Return `expected` with its keys in the order that the repair writes: as in the broken notebook, new ones last."""
    if isinstance(expected, dict) and isinstance(broken, dict):
        keys = [key for key in broken if key in expected] + [key for key in expected if key not in broken]
        return {key: reordered(expected[key], broken.get(key)) for key in keys}
    if isinstance(expected, list) and isinstance(broken, list) and len(expected) == len(broken):
        return [reordered(*pair) for pair in zip(expected, broken, strict=True)]
    return expected


def without_ids(notebook: dict) -> dict:
    return {**notebook, "cells": [{k: v for k, v in cell.items() if k != "id"} for cell in notebook["cells"]]}


@pytest.mark.parametrize("style", STYLES, ids=str)
@pytest.mark.parametrize("name", BROKEN)
def test_a_repaired_notebook_is_valid_and_differs_in_nothing_but_the_problem(name, style):
    sound, broken = break_notebook(name, BROKEN)
    assert schema_errors(copy.deepcopy(broken)) or "nbformat" in name, "nbformat accepts this: no problem"
    expected, differs = sound, BROKEN[name][2]
    if callable(differs):
        differs(expected)
    for line_end in ("\n", "\r\n"):
        text = write(broken, style, line_end)
        assert fix(text).text == text, "without --repair, only widget data is fixed"
        fixed = fix(text, repair=True)
        notebook = json.loads(fixed.text)
        assert not schema_errors(copy.deepcopy(notebook))
        assert not fixed.unfixed and fixed.fixed
        if differs == "ids":
            assert without_ids(notebook) == without_ids(sound)
        elif name == "tags repeated":
            assert notebook == expected
        elif name.endswith("null") and notebook != expected:  # "" and [] are both empty
            assert notebook == json.loads(json.dumps(expected).replace('"source": null', '"source": []'))
        else:
            assert fixed.text == write(reordered(expected, broken), style, line_end)
        again = fix(fixed.text, repair=True)
        assert (again.text, again.fixed) == (fixed.text, [])


@pytest.mark.parametrize("name", UNFIXED)
def test_a_problem_that_cannot_be_fixed_without_loss_is_reported_and_left(name, tmp_path, capsys):
    _, broken = break_notebook(name, UNFIXED)
    assert schema_errors(copy.deepcopy(broken))
    path = tmp_path / "n.ipynb"
    path.write_text(write(broken, {"indent": 1}))
    old = path.read_bytes()
    assert fixer.main(["--repair", str(path)]) == 1
    said = capsys.readouterr().err
    assert path.read_bytes() == old
    line, problem = re.search(rf"^{re.escape(str(path))}:(\d+): not fixed: (.*)$", said, flags=re.M).groups()
    assert UNFIXED[name][2] in problem
    assert 1 < int(line) <= old.count(b"\n") or name == "worksheets"


@pytest.mark.parametrize("name", BROKEN)
def test_a_report_names_each_problem_by_its_line_and_writes_nothing(name, tmp_path, capsys):
    _, broken = break_notebook(name, BROKEN)
    path = tmp_path / "n.ipynb"
    text = write(broken, {"indent": 1})
    path.write_text(text)
    assert fixer.main(["--report", str(path)]) == 1
    said = capsys.readouterr().err.splitlines()
    assert path.read_text() == text
    found = [re.fullmatch(rf"{re.escape(str(path))}:(\d+): (.*) \(--repair: .*\)", line) for line in said[:-1]]
    assert all(found) and found
    assert said[-1] == "0 of 1 notebooks would be fixed, 1 with problems left"
    if name in ("id before 4.5", "attachments null", "metadata of a stream"):
        key = name.split()[0]
        assert f'"{key}":' in text.splitlines()[int(found[0][1]) - 1], "the line is that of the superfluous key"


def test_report_and_repair_together_fix_and_name_the_problems(tmp_path, capsys):
    path = tmp_path / "n.ipynb"
    path.write_text(write(break_notebook("no outputs", BROKEN)[1], {"indent": 1}))
    assert fixer.main(["--report", "--repair", str(path)]) == 1
    assert "fixed: cell 4 (code) has no 'outputs': set to []" in capsys.readouterr().err
    assert fixer.main(["--report", "--repair", str(path)]) == 0


def test_a_byte_order_mark_is_reported_and_removed_by_repair(tmp_path, capsys, html_exporter):
    path = tmp_path / "n.ipynb"
    sound = json.dumps(make_notebook(), indent=1)
    path.write_text(f"\ufeff{sound}", encoding="utf-8")
    assert fixer.main(["--report", str(path)]) == 1 and path.read_bytes().startswith(b"\xef\xbb\xbf")
    assert "n.ipynb:1: a byte order mark (BOM) before the JSON" in capsys.readouterr().err
    assert fixer.main(["--repair", str(path)]) == 1
    assert path.read_text() == sound and fixer.main(["--repair", str(path)]) == 0
    html_exporter.from_filename(str(path))


def test_ids_depend_on_content_and_not_on_position():
    notebook = make_notebook()
    drop_ids(notebook)
    notebook["cells"].append(copy.deepcopy(notebook["cells"][0]))  # two cells of one content
    first = json.loads(fix(json.dumps(notebook), repair=True).text)["cells"]
    notebook["cells"].insert(0, {"cell_type": "markdown", "metadata": {}, "source": "new"})
    second = json.loads(fix(json.dumps(notebook), repair=True).text)["cells"]
    assert [cell["id"] for cell in first] == [cell["id"] for cell in second[1:]]
    assert len({cell["id"] for cell in second}) == 6


def test_two_problems_in_one_notebook_are_both_fixed():
    """Random pairs of problems in one notebook: after the repair it is valid and nothing is left to fix."""
    rng = random.Random(3)
    for _ in range(300):
        names = rng.sample([name for name in BROKEN if "nbformat" not in name], 3)
        minor = rng.choice([4, 5])
        notebook = make_notebook(minor)
        for name in names:
            try:
                BROKEN[name][1](notebook)
            except (KeyError, TypeError, AttributeError):  # the first problem removed the place of this one
                continue
        fixed = fix(json.dumps(notebook, indent=1), repair=True)
        assert not schema_errors(json.loads(fixed.text)) or fixed.unfixed, names


@pytest.mark.parametrize("minor", range(6))
def test_exactly_what_nbformat_rejects_is_reported(minor):
    """Random keys of a valid notebook are set or removed: a problem is found exactly if the schema finds one."""
    rng = random.Random(minor)
    sound = make_notebook(minor)
    objects = [path for path in _paths_of_objects(sound, "") if not path.endswith(("/application/json",))]
    keys = ["id", "outputs", "execution_count", "metadata", "source", "cell_type", "name", "text", "data", "traceback",
            "tags", "attachments", "output_type", "kernelspec", "title",
            "authors", "orig_nbformat", "language_info", "jupyter", "collapsed", "display_name",
            "ename", "evalue", "format", "scrolled", "execution"]  # fmt: skip
    values = [NOTHING, None, [], {}, "", 0, 7, "x", ["x"], {"a": None}, {"a": {}}, True]
    n_wrong = 0
    for _ in range(500):
        notebook, path, key = copy.deepcopy(sound), rng.choice(objects), rng.choice(keys)
        found, value = at(notebook, path), rng.choice(values)
        if value is not NOTHING:
            found[key] = value
        elif key in found:
            del found[key]
        refused = schema_errors(copy.deepcopy(notebook))
        n_wrong += bool(refused)
        assert bool(find_format_problems(notebook)) == bool(refused), (path, key, value, refused)
    assert 100 < n_wrong < 400


def _paths_of_objects(value: object, path: str) -> list[str]:
    if isinstance(value, dict):
        inside = [found for key, part in value.items() for found in _paths_of_objects(part, f"{path}/{key}".strip("/"))]
        return [path, *inside] if "/" not in path.rpartition("data")[2] else inside
    if isinstance(value, list):
        return [found for n, part in enumerate(value) for found in _paths_of_objects(part, f"{path}/{n}".strip("/"))]
    return []


def test_sound_notebooks_of_every_version_have_no_problem():
    for minor in range(6):
        assert find_format_problems(make_notebook(minor)) == []


def test_other_major_versions_are_not_checked():
    assert (
        find_format_problems({"worksheets": [{"cells": []}], "metadata": {}, "nbformat": 3, "nbformat_minor": 0}) == []
    )


@pytest.mark.parametrize("name", BROKEN)
def test_a_repaired_notebook_converts_and_shows_what_it_holds(name, html_exporter):
    _, broken = break_notebook(name, BROKEN)
    text = fix(json.dumps(broken), repair=True).text
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nbformat warns where it has to fix something itself
        warnings.filterwarnings("ignore", message=".*(ipython|lexer|alternative text|able to be represented).*")
        page, _ = html_exporter.from_notebook_node(nbformat.reads(text, as_version=4))
    for n in range(1, 7):
        if f"read me {n}" in text and n not in (4, 6):  # tracebacks and raw HTML are shown differently
            assert f"read me {n}" in page


@pytest.fixture(scope="module")
def html_exporter():
    from nbconvert import HTMLExporter

    return HTMLExporter()
