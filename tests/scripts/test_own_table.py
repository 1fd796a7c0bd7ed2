"""A person's own table, from the command line: understood without an option, or refused in one line that names one."""

import json

import convert_csv_to_jsonl
import pytest

ROWS = [("fir" if i % 3 else "oak", f"{i * 7 % 40}.5", "ns"[i % 2], f"{i % 5}") for i in range(60)]
TREES = "kind,height,side,grade\n" + "".join(",".join(row) + "\n" for row in ROWS)


def convert(tmp_path, text, *words):
    path = tmp_path / "trees.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return convert_csv_to_jsonl.main(["--csv", str(path), "--out-dir", str(tmp_path / "set"), *words])


def add_column(name, cells):
    first, *rest = TREES.splitlines()
    return "\n".join([f"{first},{name}", *(f"{row},{cell}" for row, cell in zip(rest, cells, strict=True))]) + "\n"


SAID = [
    ("german", b"\xef\xbb\xbf" + TREES.replace(",", ";").replace(".", ",").encode(), [], "decimal comma"),
    ("row names", TREES.replace("kind", ",kind", 1).replace("\nfir", "\n1,fir").replace("\noak", "\n2,oak"), [],
     "column 1 has no name in the header: read as the row name"),
    ("wine quality as a number", TREES, ["--target-field", "grade", "--target-kind", "number"],
     "grade   target  number"),
    ("wine quality as a class", TREES, ["--target-field", "grade"], "grade   target  class, 5 different"),
    ("text", add_column("answer", [f"about {i} of\t60" for i in range(60)]),
     ["--target-field", "answer", "--target-kind", "text"], "free text, 60 different"),
    ("missing targets", TREES.replace("\noak", "\n", 3), ["--drop-missing-target"],
     "left out: 3 rows without a target"),
    ("NA as no value", TREES.replace("\noak", "\nNA", 3), ["--missing", "NA"], "lines 2, 5, 8"),
    ("a value that starts with a dash", TREES.replace(",7.5,", ",-,"), ["--target-field", "height", "--missing", "-,?"],
     "left out: 2 rows without a target"),
    ("own split", add_column("split", ["train", "train", "dev", "test"] * 15), [], "30 train, 15 validation, 15 test"),
    ("own split without validation", add_column("Split", ["train", "train", "train", "test"] * 15), [], "15 test"),
    ("one side only", add_column("site", ["same"] * 60), ["--group-field", "site"], "warning: no "),
    ("rare class", TREES + "yew,1.5,n,3\n", [], "1 of 3 classes of 'kind' have fewer than 3 training rows"),
    ("system prompt", TREES, ["--system-prompt", "You know {trees}."], "wrote"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "words", "said"), [case[1:] for case in SAID], ids=[case[0] for case in SAID])
def test_convert_says_what_it_understood_and_keeps_it_in_the_task(tmp_path, capsys, text, words, said):
    target = [] if "--target-field" in words else ["--target-field", "kind"]
    assert convert(tmp_path, text, *target, *words) == 0
    assert said in capsys.readouterr().err
    task = json.loads((tmp_path / "set" / "task.json").read_text())
    assert task["table"]["splits"].keys() == {"train", "validation", "test"} and task["table"]["written"]


def test_a_system_prompt_stands_before_every_prompt_and_markers_are_warned_of(tmp_path, capsys):
    (tmp_path / "system.txt").write_text("Answer {briefly} <start_of_turn>\n")
    assert convert(tmp_path, TREES, "--target-field", "kind", "--system-prompt", str(tmp_path / "system.txt")) == 0
    assert "chat markers (<start_of_turn>)" in capsys.readouterr().err
    line = json.loads(next((tmp_path / "set").glob("train-*")).read_text().splitlines()[0])
    assert line["messages"][0]["content"].startswith("Answer {briefly} <start_of_turn>\n\nheight: ")


REFUSED = [
    (TREES.replace("\noak", "\n", 3), [], "is missing in 3 of 60 rows (lines 2, 5, 8)"),
    (TREES.replace("\noak", "\nNA", 3), [], "--keep-missing-class"),
    (TREES.replace(",7.5,", ",?,"), ["--target-field", "height"],
     "--missing ?, or leave such rows out with --drop-bad-rows"),
    (TREES.replace("oak", "chêne").encode("cp1252"), [], "--encoding cp1252"),
    (TREES.replace("fir", "oak"), [], "column 'kind' is 'oak' in every row"),
    (TREES[: TREES.index("\n", 30)], [], "too few rows"),
    (TREES, ["--id-field", "side"], "use --group-field side"),
    (TREES, ["--split-field", "side"], "each cell must be train, validation or test"),
    (TREES, ["--drop-columns", "hight"], "no column 'hight'"),
    (TREES, ["--delimiter", "ab"], "one character is expected"),
    (b"%PDF-1.7\n", [], "a PDF document"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "words", "said"), REFUSED, ids=[case[2][:30] for case in REFUSED])
def test_what_cannot_serve_is_one_line_that_names_the_way_out(tmp_path, capsys, text, words, said):
    target = [] if "--target-field" in words else ["--target-field", "kind"]
    assert convert(tmp_path, text, *target, *words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and said in lines[0], lines
    assert not (tmp_path / "set").exists()


SMALL = [
    ("three sites", add_column("site", ["a", "b", "c"] * 20), ["--group-field", "site"], [20, 20, 20]),
    ("nine rows", "".join(TREES.splitlines(True)[:10]), ["--target-kind", "class"], [7, 1, 1]),
    ("own split", add_column("split", ["train"] * 50 + ["test"] * 10), ["--group-field", "grade"], [40, 10, 10]),
    ("some rows of many", TREES, ["--max-rows", "6"], [4, 1, 1]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "words", "sides"), [case[1:] for case in SMALL], ids=[case[0] for case in SMALL])
def test_a_small_table_leaves_no_side_empty_where_it_has_three_groups(tmp_path, capsys, text, words, sides):
    """The same in the folder, in the model's task and with --csv."""
    words = ["--target-field", "kind", *words]
    for seed in range(3):
        out = tmp_path / f"set{seed}"
        path = tmp_path / "trees.csv"
        path.write_text(text)
        assert convert_csv_to_jsonl.main(
            ["--csv", str(path), "--out-dir", str(out), *words, "--split-seed", str(seed)]
        ) == 0  # fmt: skip
        rows = json.loads((out / "manifest.json").read_text())["extra"]["rows"]
        assert min(rows.values()) > 0, rows
        if "note: so few groups" in capsys.readouterr().err:
            assert list(rows.values()) == sides
