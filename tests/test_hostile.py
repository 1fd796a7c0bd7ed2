"""Hostile and broken input ends in one line and exit code 2; it is never run, shown as code, or trusted."""

import ast
import builtins
import contextlib
import csv
import hashlib
import importlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from html import escape
from pathlib import Path

import compare_results
import convert_csv_to_jsonl
import pytest
import run_baselines
import validate_dataset
import yaml
from linklab import files
from linklab.reports import markdown
from markdown_it import MarkdownIt

DEEP = "[" * 100_000 + "]" * 100_000
DIGITS = "7" * 5_000
JSONS = {
    "nested 100,000 deep": (DEEP, "deep"),
    "nested 100 deep": ('{"a":' * 100 + "1" + "}" * 100, "deep"),
    "a number of 5,000 digits": (f'{{"a": {DIGITS}}}', "5,000 digits"),
    "a number of 400 digits": (f'{{"a": {DIGITS[:400]}}}', "400 digits"),
    "half a character": ('{"a": "\\ud800"}', "half a character"),
    "no number": ('{"a": NaN}', "NaN"),
    "infinity": ('{"a": -Infinity}', "-Infinity"),
}


@pytest.mark.parametrize("what", JSONS)
def test_json_that_would_break_a_reader_is_refused(tmp_path, what):
    text, said = JSONS[what]
    with pytest.raises(ValueError, match=said):
        files.parse_json(text)
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(files.UserError, match="a.json"):
        files.read_json(tmp_path / "a.json")


def test_what_is_within_the_limits_is_read():
    assert files.parse_json('{"a": [1, -2.5, "größe \\ud83d\\ude42", null]}') == {"a": [1, -2.5, "größe 🙂", None]}
    assert files.parse_json(DIGITS[:300]) == int(DIGITS[:300])
    assert files.parse_json("[" * 64 + "]" * 64)
    assert files.parse_json('"\\udcff"', file_names=True) == "\udcff"


def test_a_file_name_that_is_not_utf8_is_written_and_read_back(tmp_path):
    files.write_json(tmp_path / "a.json", {"path": "\udcff.csv"})
    assert files.read_json(tmp_path / "a.json", file_names=True) == {"path": "\udcff.csv"}


@pytest.fixture(scope="module")
def place(tmp_path_factory, small_links):
    place = tmp_path_factory.mktemp("hostile")
    shutil.copy(small_links / "links.csv", place / "links.csv")
    shutil.copytree(small_links / "jsonl", place / "jsonl")
    return place


def sign(folder):
    """Write the current hashes into a folder's manifest, like an attacker who plants a file."""
    path = folder / "manifest.json"
    value = json.loads(path.read_text())
    for entry in value["outputs"]:
        content = (folder / entry["path"]).read_bytes()
        entry |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    path.write_text(json.dumps(value))


def put_cell(text):
    def change(place):
        rows = list(csv.reader(open(place / "links.csv", newline="")))  # noqa: SIM115
        rows[1][rows[0].index("rssi_dbm")] = text
        with open(place / "links.csv", "w", newline="") as handle:
            csv.writer(handle, lineterminator="\n").writerows(rows)

    return change


def put_file(name, text):
    def change(place):
        (place / name).parent.mkdir(exist_ok=True, parents=True)
        (place / name).write_text(text)
        if name.startswith("jsonl/") and not name.endswith("manifest.json"):
            sign(place / "jsonl")

    return change


def put_task(**changes):
    def change(place):
        value = json.loads((place / "jsonl" / "task.json").read_text()) | changes
        put_file("jsonl/task.json", json.dumps(value))(place)
        put_file("model/task.json", json.dumps(value))(place)

    return change


SHARD = "jsonl/test-00000-of-00001.jsonl"
CONVERT = "convert_csv_to_jsonl --csv links.csv --out-dir out"
FINETUNE = "finetune_gemma_from_csv --data jsonl --base-model tiny --out-dir out"
EVALUATE = "evaluate_model --data jsonl --model tiny --out-dir out"
SCORE = "evaluate_model --data jsonl --predictions answers.jsonl --out-dir out"
PREDICT = "predict --csv links.csv --model model --out out.csv"
HUB = "push_to_hub jsonl --repo me/it --license cc-by-4.0 --dry-run"
WRONG_TYPES = {"script": 5, "argv": 5, "inputs": [], "outputs": []}
CASES = [
    (CONVERT, put_cell(DEEP), "links.csv:2"),
    (CONVERT, put_cell(f"[{DIGITS}]"), "links.csv"),
    (CONVERT, put_cell('["\\ud800"]'), "links.csv:2"),
    (HUB, put_file("jsonl/manifest.json", DEEP), "manifest.json"),
    (HUB, put_file("jsonl/manifest.json", json.dumps(WRONG_TYPES)), "manifest"),
    ("validate_dataset links.csv --schema schema.json", put_file("schema.json", DEEP), "schema.json"),
    ("validate_dataset links.csv --schema schema.json", put_file("schema.json", '{"columns": 5}'), "schema.json"),
    (FINETUNE, put_file("jsonl/task.json", DEEP), "task.json"),
    (FINETUNE, put_task(template=5), "task.json"),
    (FINETUNE, put_task(targets=[5]), "task.json"),
    (FINETUNE, put_task(schema=[]), "task.json"),
    (FINETUNE, put_task(split={"seed": "x"}), "task.json"),
    (EVALUATE, put_file(SHARD, DEEP + "\n"), "test-00000-of-00001.jsonl:1"),
    (EVALUATE, put_file(SHARD, f'{{"id": {DIGITS}}}\n'), "test-00000-of-00001.jsonl:1"),
    (EVALUATE, put_file(SHARD, "5\n"), "test-00000-of-00001.jsonl:1"),
    (SCORE, put_file("answers.jsonl", DEEP + "\n"), "answers.jsonl:1"),
    (SCORE, put_file("answers.jsonl", f'{{"id": {DIGITS}}}\n'), "answers.jsonl:1"),
    (SCORE, put_file("answers.jsonl", '{"id": "\\ud800"}\n'), "answers.jsonl:1"),
    (PREDICT, put_task(template=5), "task"),
    (PREDICT, put_file("model/task.json", DEEP), "task.json"),
    ("compare_results run --out-dir out", put_file("run/metrics.json", DEEP), "metrics.json"),
    ("compare_results run --out-dir out", put_file("run/metrics.json", json.dumps(
        {"role": "tuned", "n": 5, "metrics": 5, "hashes": 5, "targets": 5})), "error: "),
]  # fmt: skip


@pytest.mark.parametrize(
    "command, change, said", CASES, ids=[f"{i}: {case[0].split()[0]}" for i, case in enumerate(CASES)]
)
def test_a_hostile_file_ends_in_one_line(place, tmp_path, monkeypatch, capfd, command, change, said):
    here = Path(shutil.copytree(place, tmp_path / "place"))
    change(here)
    monkeypatch.chdir(here)
    script, *words = command.split()
    assert importlib.import_module(script).main(words) == 2
    lines = capfd.readouterr().err.splitlines()
    assert lines[-1].startswith("error: ") and said in lines[-1] and len(lines[-1]) < 2000, lines
    assert not any("Traceback" in line for line in lines) and not (here / "out").exists()


def test_a_file_whose_name_is_not_utf8_is_converted(place, tmp_path, capfd):
    name = os.fsdecode(os.fsencode(tmp_path) + b"/gr\xf6\xdfe.csv")
    shutil.copy(place / "links.csv", name)
    assert convert_csv_to_jsonl.main(["--csv", name, "--out-dir", str(tmp_path / "out")]) == 0, capfd.readouterr().err


def test_a_cell_nested_deep_is_a_violation_like_any_other(place, tmp_path):
    here = Path(shutil.copytree(place, tmp_path / "place"))
    put_cell(DEEP)(here)
    assert validate_dataset.main([str(here / "links.csv"), "--violations", str(here / "v.csv")]) == 1
    assert "rssi_dbm" in (here / "v.csv").read_text()


class Enough(BaseException):
    """Raised once the expected line was printed: the rest of the run does not matter."""


class CountingFile(io.FileIO):
    """A file that counts the bytes read from it."""

    n_read = 0

    def readinto(self, buffer):
        n = super().readinto(buffer)
        CountingFile.n_read += n
        return n

    def readall(self):
        data = super().readall()
        CountingFile.n_read += len(data)
        return data


@pytest.mark.parametrize("closed", [True, False], ids=["another quote far below", "no other quote"])
@pytest.mark.parametrize("script", ["convert_csv_to_jsonl", "run_baselines", "validate_dataset"])
def test_a_quote_left_open_in_line_2_is_named_before_the_file_is_read(tmp_path, monkeypatch, capfd, script, closed):
    path, end = tmp_path / "a.csv", 'x,"y",z\n' if closed else ""
    path.write_text('size,note,label\n1,"open,a\n' + "2,some text,b\n" * 1_000_000 + end)
    real, said = open, []
    assert path.stat().st_size > 12 << 20

    def counting(name, mode="r", *args, **options):
        if not isinstance(name, int) and Path(name) == path and "w" not in mode:
            raw = io.BufferedReader(CountingFile(name))
            return raw if "b" in mode else io.TextIOWrapper(raw, options["encoding"], newline=options.get("newline"))
        return real(name, mode, *args, **options)

    def say(text):
        said.append((CountingFile.n_read, text))
        raise Enough

    monkeypatch.setattr(builtins, "open", counting)
    monkeypatch.setattr(CountingFile, "n_read", 0)
    monkeypatch.setattr(validate_dataset.cli, "say", say)
    own = [str(path)] if script == "validate_dataset" else ["--csv", str(path), "--target-field", "label"]
    out = [] if script == "validate_dataset" else ["--out-dir", str(tmp_path / "out")]
    with contextlib.suppress(Enough):
        importlib.import_module(script).main([*own, *out])
    at, text = said[0] if said else (CountingFile.n_read, capfd.readouterr().err.splitlines()[-1])
    assert "a.csv:2: " in text and "quote" in text
    assert 0 < at < 6 << 20  # the same for a file of any length


# Options: one parser per kind of number names the option that is wrong

NUMBERS = [
    (script, option, value)
    for script, option in (("run_baselines", "--seed"), ("compare_results", "--seed"), ("run_demo", "--seed"),
                           ("convert_csv_to_jsonl", "--split-seed"), ("finetune_gemma_from_csv", "--split-seed"),
                           ("generate_synthetic_smoke", "--seed"), ("generate_synthetic_large", "--seed"))
    for value in ("-1", "x", "1e3", str(2**65))
]  # fmt: skip


@pytest.mark.parametrize("script, option, value", NUMBERS)
def test_a_number_outside_its_range_is_named_with_its_option(script, option, value, capsys):
    assert importlib.import_module(script).main([option, value]) == 2
    assert f"argument {option}: " in capsys.readouterr().err.splitlines()[-1]


# Outputs that people open in a spreadsheet or read as a page


@pytest.mark.parametrize(
    ("cell", "safe"),
    [("=1+1", "'=1+1"), ("@SUM(A1)", "'@SUM(A1)"), ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"), ("-2+3", "'-2+3"),
     ("\t=1", "'\t=1"), ("-95", "-95"), ("+1.5e3", "+1.5e3"), ("plain", "plain"), ("", ""), ("a=1", "a=1")],
)  # fmt: skip
def test_no_cell_is_a_formula(cell, safe):
    assert files.spreadsheet_cell(cell) == safe


@pytest.mark.parametrize("text", ["=1+1", "'=1+1", "''@x", "-95", "'-95", "- 95", "+", "it's", "'tis", "", "'", "\t1"])
def test_a_cell_made_safe_is_read_back_as_it_was(text):
    safe = str(files.spreadsheet_cell(text))
    assert files.plain_cell(safe) == text and not files.spreadsheet_cell(safe[:1] + "1+1").startswith("=")


TARGET = "=kind|<b>`x`"


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    """Baselines, comparison and conversations from a table with formulas and tags as names, ids and classes."""
    place = tmp_path_factory.mktemp("marked")
    with open(place / "a.csv", "w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["key", "size|<i>", TARGET])
        writer.writerows([f"=1+{n}", n % 7, ("@a", "<img src=x>|", "-b")[n % 3]] for n in range(90))
    words = ["--csv", str(place / "a.csv"), "--target-field", TARGET, "--id-field", "key"]
    runs = [*words, "--max-rows", "8", "--only", "random,most_frequent", "--out-dir", str(place / "runs")]
    assert run_baselines.main(runs) == 0
    assert compare_results.main([str(place / "runs"), "--out-dir", str(place / "report")]) == 0
    assert convert_csv_to_jsonl.main([*words, "--out-dir", str(place / "jsonl")]) == 0
    return place


SHEETS = ["runs/summary.csv", "runs/random/row_scores.csv", "report/comparison.csv"]
PAGES = ["runs/summary.md", "report/report.md", "report/comparison.md", "jsonl/README.md"]


@pytest.mark.parametrize("name", SHEETS)
def test_no_name_id_or_class_of_a_table_is_a_formula_in_the_outputs(marked, name):
    cells = [cell for line in csv.reader(open(marked / name, newline="")) for cell in line]  # noqa: SIM115
    assert any(TARGET in cell for cell in cells)
    assert not [cell for cell in cells if cell.startswith(("=", "@", "-b"))]


@pytest.mark.parametrize("name", PAGES)
def test_no_name_id_or_class_of_a_table_is_a_tag_or_a_cell_in_the_outputs(marked, name):
    """Checked with a markdown renderer: its page holds the whole name and no tag, and tables keep their width."""
    text = (marked / name).read_text()
    if text.startswith("---\n"):
        head, text = text.removeprefix("---\n").split("\n---\n", 1)
        assert yaml.safe_load(head)
    html = MarkdownIt("commonmark").enable("table").render(text)
    assert escape(TARGET, quote=False) in html and not re.search(r"<(b|i|img)\b(?! src=\"plots/)", html), html
    for table in re.findall(r"<table>.*?</table>", html, flags=re.S):
        rows = [re.findall(r"<t[hd]", row) for row in re.findall(r"<tr>.*?</tr>", table, flags=re.S)]
        assert len(set(map(len, rows))) == 1


BY_HAND = {  # modules that write tables for programs, or only with our own words
    "csv": {"files.py", "table.py", "row_cells.py", "answer_trainer.py", "import_survey.py"},
    "markdown": {"markdown.py", "data_card.py"},
}


def test_every_csv_for_people_is_written_by_the_writer_that_makes_cells_safe():
    """With csv.writer or a hand-made markdown row, escaping would be forgotten some day."""
    found = {"csv": set(), "markdown": set()}
    for path in Path(convert_csv_to_jsonl.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in ("writer", "DictWriter"):
                found["csv"].add(path.name)
            first = node.values[0] if isinstance(node, ast.JoinedStr) else None
            if isinstance(first, ast.Constant) and str(first.value).startswith("| "):
                found["markdown"].add(path.name)
    assert found == BY_HAND


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a|b", "a\\|b"), ("<script>x", "&lt;script>x"), ("p < 0.001", "p < 0.001"), ("a\nb", "a b"),
     ("[me](http://x)", "[me]\\(http://x)"), ("`x`", "\\`x\\`"), ("[68.5, 75.1]", "[68.5, 75.1]"),
     ("&lt;b", "&amp;lt;b")],
)  # fmt: skip
def test_a_text_in_markdown_stays_plain_text(text, shown):
    assert markdown.escape(text) == shown


def test_a_code_block_cannot_be_left():
    assert markdown.fence("a\n`````\nb").splitlines()[0] == "``````text"
    assert markdown.fence("plain").splitlines() == ["````text", "plain", "````"]


# Models from other people

ENDLESS = "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3


def test_a_chat_template_that_does_not_end_is_stopped(monkeypatch):
    from linklab.models import chat, load

    tokenizer = load.load_tokenizer("tiny")
    tokenizer.chat_template = ENDLESS
    monkeypatch.setattr(chat, "TEMPLATE_S", 0.2)
    with pytest.raises(files.UserError, match="chat template did not end within"):
        chat.encode_prompt(tokenizer, "a question")


def test_a_template_that_waits_on_a_busy_machine_is_not_stopped():
    from linklab.models import chat

    with chat.time_limit(0.05, "a template"):
        time.sleep(0.2)
    with pytest.raises(files.UserError, match="a template did not end"), chat.time_limit(0.05, "a template"):
        while True:
            pass


class Planted:
    """Unpickling it would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def pickled(folder, tmp_path):
    import pickle

    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Planted(str(tmp_path / "planted")), protocol=2))


def test_every_model_and_tokenizer_is_loaded_without_its_own_code():
    """Without the option, transformers asks at the terminal, and runs the code after a y."""
    calls, silent = 0, []
    for path in Path(convert_csv_to_jsonl.__file__).parent.rglob("*.py"):
        text = path.read_text()
        for node in ast.walk(ast.parse(text)):
            if not (isinstance(node, ast.Call) and ast.unparse(node.func).startswith("Auto")):
                continue
            if ast.unparse(node.func).endswith(".from_pretrained"):
                calls += 1
                said = {word.arg: ast.unparse(word.value) for word in node.keywords}
                if said.get("trust_remote_code") != "False" and None not in said:  # None: **options
                    silent.append(f"{path.name}:{node.lineno}")
                if None in said:
                    assert '"trust_remote_code": False' in text
    assert calls >= 4 and not silent


WEIGHTS = {
    "pickled": pickled,
    "cut short": lambda folder, _: (folder / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}"),
    "a header bomb": lambda folder, _: (folder / "model.safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{"),
    "no config": lambda folder, _: (folder / "config.json").write_text("[1]"),
    "code beside it": lambda folder, _: (folder / "config.json").write_text(
        json.dumps({"model_type": "mine", "auto_map": {"AutoModelForCausalLM": "planted.Model"}})),
}  # fmt: skip


@pytest.mark.parametrize("what", WEIGHTS)
def test_broken_or_hostile_weights_are_one_line_and_run_nothing(tmp_path, what):
    from linklab.models import load

    folder = Path(shutil.copytree(load.resolve("tiny"), tmp_path / "model"))
    (folder / "planted.py").write_text(f"open({str(tmp_path / 'planted')!r}, 'w')\n")
    WEIGHTS[what](folder, tmp_path)
    with pytest.raises(files.UserError, match="cannot load this model"):
        load.load_model(str(folder))
    assert not (tmp_path / "planted").exists()


# Secrets


def test_a_planted_token_and_password_are_in_no_output(small_links, tmp_path):
    """Given in the environment, on a command line and in a URL; all outputs and printed lines are searched."""
    token, password = "hf_" + "plantedtoken42", "planted-pa55word"
    environment = os.environ | {"HF_TOKEN": token, "LINKLAB_STORAGE": f"postgresql://me:{password}@127.0.0.1:9/db"}
    scripts = Path(convert_csv_to_jsonl.__file__).parent
    url = f"postgresql://me:{password}@127.0.0.1:9/db"
    data = ["--csv", str(small_links / "links.csv")]
    commands = [
        ["convert_csv_to_jsonl.py", *data, "--out-dir", str(tmp_path / f"password={password}")],
        ["validate_dataset.py", data[1], "--report", str(tmp_path / "report.json"), "--id-field", f"token={token}"],
        ["run_sweep.py", *data, "--space", "epochs=1,2", "--out-dir", str(tmp_path / "sweep"), "--storage", url],
        ["run_sweep.py", *data, "--space", "epochs=1,2", "--out-dir", str(tmp_path / "sweep"), "--base-model", "tiny"],
        ["push_to_hub.py", str(tmp_path / "gone"), "--repo", f"me/{token}", "--license", "x"],
    ]
    said = ""
    for words in commands:
        done = subprocess.run(
            [sys.executable, str(scripts / words[0]), *words[1:]], capture_output=True, text=True, env=environment
        )
        said += done.stdout + done.stderr
    written = "".join(path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file())
    assert said and written
    for secret in (token, password):
        assert secret not in said and secret not in written
