"""A model of a user's table answers new rows in any kind of file, and unusual rows get a warning or an error."""

import csv
import io
import json
import shutil

import predict
import pytest

NAMES = ["kind", "height", "side", "day"]
TRAINING = [
    ("fir" if i % 3 else "oak", f"{i * 7 % 40 + 1}.5" if i % 20 else "NA", "ns"[i % 2], f"2024-05-{i % 28 + 1:02d}")
    for i in range(60)
]
NEW = [("7.5", "n", "2024-05-03"), ("14.5", "s", "2024-05-04"), ("21.5", "n", "2024-05-05")]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model folder like finetune's, with untrained weights; the target is the kind of a tree."""
    from linklab.models.load import make_tiny
    from linklab.tasks.examples import read_examples
    from linklab.tasks.input_checks import INPUTS_FILE, describe_inputs
    from linklab.tasks.task import make_task

    folder = tmp_path_factory.mktemp("own")
    (folder / "trees.csv").write_text("\n".join([",".join(NAMES), *map(",".join, TRAINING)]) + "\n")
    task = make_task(folder / "trees.csv", ["kind"])
    shutil.copytree(make_tiny(), folder / "model")
    (folder / "model" / "task.json").write_text(json.dumps(task.to_dict()))
    seen = describe_inputs(read_examples(folder / "trees.csv", task), task)
    (folder / "model" / INPUTS_FILE).write_text(json.dumps(seen))
    return folder / "model"


def ask(model, csv_path, capsys, *words):
    """Return (exit code, the answers' rows, the messages)."""
    code = predict.main(["--model", str(model), "--csv", str(csv_path), "--out", "-", *words])
    captured = capsys.readouterr()
    return code, list(csv.DictReader(io.StringIO(captured.out))), captured.err


def text(rows=NEW, *, delimiter=",", names=("height", "side", "day"), decimal="."):
    lines = [delimiter.join(names), *(delimiter.join(row) for row in rows)]
    return ("\n".join(lines) + "\n").replace(".5", f"{decimal}5")


def excel(path):
    import openpyxl

    book = openpyxl.Workbook()
    book.active.append(["height", "side", "day"])
    for height, side, day in NEW:
        book.active.append([float(height), side, day])
    book.save(path)


def second_sheet(path):
    import openpyxl

    book = openpyxl.Workbook()
    book.active.append(["Trees to be named"])
    sheet = book.create_sheet("Trees")
    for row in (["May 2024"], [], ["height", "side", "day"], *NEW):
        sheet.append(list(row))
    book.save(path)


def typed():
    return {"height": [float(row[0]) for row in NEW], "side": [row[1] for row in NEW], "day": [row[2] for row in NEW]}


def parquet(path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(typed()), path)


def json_lines(path):
    rows = zip(*typed().values(), strict=True)
    path.write_text("".join(json.dumps(dict(zip(typed(), row, strict=True))) + "\n" for row in rows))


def datasets_folder(path):
    import datasets

    datasets.Dataset.from_dict(typed()).save_to_disk(path)


def datasets_folder_of_sides(path):
    import datasets

    datasets.DatasetDict({"test": datasets.Dataset.from_dict(typed())}).save_to_disk(path)


WRITTEN = {
    "t.xlsx": excel,
    "t.parquet": parquet,
    "t.jsonl": json_lines,
    "set": datasets_folder,
    "sides": datasets_folder_of_sides,
    "bom.csv": lambda path: path.write_text("\ufeff" + text()),
    "german.csv": lambda path: path.write_text(text(delimiter=";", decimal=",")),
    "utf16.csv": lambda path: path.write_text(text(delimiter="\t"), encoding="utf-16"),
    "cr.csv": lambda path: path.write_bytes(text().replace("\n", "\r").encode()),
    "sep.csv": lambda path: path.write_text("sep=|\n" + text(delimiter="|")),
    "title.csv": lambda path: path.write_text("New trees\n\n" + text()),
    "second_sheet.xlsx": second_sheet,
    "blank_lines.csv": lambda path: path.write_text(text().replace("\n", "\n\n")),
    "spaces.txt": lambda path: path.write_text(text(delimiter=" ")),
    "pandas.json": lambda path: path.write_text(
        json.dumps(
            {name: dict(enumerate(cells)) for name, cells in zip(NAMES[1:], zip(*NEW, strict=True), strict=True)}
        )
    ),
    "empty_rows.csv": lambda path: path.write_text(text() + ",,\n,,\n"),
    "row_names.csv": lambda path: path.write_text(
        text([(str(i), *row) for i, row in enumerate(NEW, 1)], names=("", "height", "side", "day"))
    ),
    "other_order.csv": lambda path: path.write_text(
        text([(d, "extra", h, s) for h, s, d in NEW], names=("day", "note", "height", "side"))
    ),
    "kept_target.csv": lambda path: path.write_text(text([("oak", *row) for row in NEW], names=NAMES)),
}


@pytest.fixture(scope="module")
def plain_answers(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("plain") / "new.csv"
    path.write_text(text())
    out = path.with_name("answers.csv")
    assert predict.main(["--model", str(model), "--csv", str(path), "--out", str(out)]) == 0
    return list(csv.DictReader(out.open(newline="")))


@pytest.mark.parametrize("name", WRITTEN)
def test_the_same_new_rows_get_the_same_answers_in_any_kind_of_file(model, plain_answers, tmp_path, capsys, name):
    WRITTEN[name](tmp_path / name)
    code, answers, said = ask(model, tmp_path / name, capsys)
    assert code == 0, said
    shown = [[row[name] for name in ("kind", "kind_probability", "error", "warning")] for row in answers]
    assert shown == [[row[name] for name in ("kind", "kind_probability", "error", "warning")] for row in plain_answers]
    assert [(float(row["height"]), row["side"]) for row in answers] == [(float(h), side) for h, side, _ in NEW]
    assert all(row["kind"] in ("fir", "oak") and row["error"] == row["warning"] == "" for row in answers)
    printed = [" ".join(line.split()) for line in said.splitlines()]
    assert {"height input number", "side input text", "kind answer class, 2 known"} <= set(printed)


def test_numbers_are_read_as_training_wrote_them_beside_a_word_and_with_set(tmp_path, capsys):
    """In a file of two rows, a cell that is not a number does not change how the other one is read."""
    from linklab.models.load import make_tiny
    from linklab.tasks.task import make_task

    prices = [f'"${i + 1},100.50"' for i in range(30)]
    (tmp_path / "t.csv").write_text("kind,price\n" + "".join(f"{'ab'[i % 2]},{p}\n" for i, p in enumerate(prices)))
    task = make_task(tmp_path / "t.csv", ["kind"])
    model = shutil.copytree(make_tiny(), tmp_path / "model")
    (model / "task.json").write_text(json.dumps(task.to_dict()))
    new = tmp_path / "new.csv"
    new.write_text('price\ncheap\n"$4,100.50"\n')
    _, answers, _ = ask(model, new, capsys)
    assert [row["price"] for row in answers] == ["cheap", "4100.50"]
    new.write_text('price\n"€4,100.50"\n')
    _, answers, said = ask(model, new, capsys)
    assert answers[0]["price"] == "4100.50" and "in €, but in $ in the training rows" in said
    assert predict.main(["--model", str(model), "--set", "price=$4,100.50", "--out", str(tmp_path / "a.csv")]) == 0
    assert next(csv.DictReader((tmp_path / "a.csv").open()))["price"] == "4100.50"


STRANGE = [
    (("7.5", "n", "2024-05-03"), "", ""),
    (("7.5", "west", "2024-05-03"), "", "side = west: training saw only n, s"),
    (("7.5", "N", "2024-05-03"), "", "side = N: training saw only n, s"),
    (("99.5", "n", "2024-05-03"), "", "height = 99.5: training saw 2.5 to 40.5"),
    (("-1", "n", "2024-05-03"), "", "height = -1: training saw 2.5 to 40.5"),
    (("1e9", "n", "2024-05-03"), "", "height = 1e9: training saw 2.5 to 40.5"),
    (("tall", "n", "2024-05-03"), "height = 'tall' is not a number", ""),
    (("inf", "n", "2024-05-03"), "height = 'inf' is not a number", ""),
    (("12 m", "n", "2024-05-03"), "height = '12 m' is not a number", ""),
    (("NA", "n", "2024-05-03"), "", ""),  # training had such rows
    (("", "n", "2024-05-03"), "", ""),
    (("7.5", "", "2024-05-03"), "", "side is empty, which no training row was"),
    (("tall", "west", ""), "height = 'tall' is not a number", "side = west: training saw only n, s; day is empty"),
]


def test_every_row_unlike_the_training_rows_gets_an_error_or_a_warning(model, tmp_path, capsys):
    path = tmp_path / "new.csv"
    path.write_text(text([cells for cells, _, _ in STRANGE]))
    code, answers, said = ask(model, path, capsys)
    assert code == 0
    for row, (cells, error, warning) in zip(answers, STRANGE, strict=True):
        assert row["error"] == error, cells
        assert row["warning"].startswith(warning) and bool(row["warning"]) == bool(warning), (cells, row["warning"])
        assert (row["kind"] == "") == bool(error), cells
    assert "4 of them without a full answer" in said and "7 unlike the training rows" in said


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("height,day\n7.5,2024-05-03\n", "no column 'side', which the model's prompt needs"),
        ("height,SIDE,day\n7.5,n,2024-05-03\n", "rename 'SIDE' to 'side'"),
        ("height,side,day\n", "no rows below the header"),
        ("height,side,day\n7.5,n\n", ":2: 2 cells; the header has 3"),
        ("height,side,day\n7.5,größe,x\n".encode("cp1252"), "--encoding cp1252"),
        (b"%PDF-1.7\n", "a PDF document"),
    ],
)
def test_new_rows_that_cannot_be_read_are_one_line(model, tmp_path, capsys, data, said):
    path = tmp_path / "new.csv"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    code, _, err = ask(model, path, capsys)
    assert code == 2 and said in err and len(err.splitlines()) == 1
    if said.startswith("--"):  # an option that the error names must exist
        code, answers, _ = ask(model, path, capsys, *said.split())
        assert code == 0 and len(answers) == 1 and answers[0]["side"] == "größe"
    code, _, err = ask(model, tmp_path, capsys)
    assert code == 2 and "is a folder; expected a file, or a folder written by datasets' save_to_disk()" in err
