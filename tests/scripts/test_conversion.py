"""Conversion: the folder holds the CSV's rows and nothing else, split without leaks, and loads exactly as written."""

import collections
import csv
import functools
import hashlib
import io
import json
import random
import re
import tracemalloc

import convert_csv_to_jsonl
import pytest
from linklab import files
from linklab.links import data_set
from linklab.links.links import LINK_SCHEMA
from linklab.links.row_stream import Recipe
from linklab.manifest import read_manifest
from linklab.tables import csv_stream
from linklab.tasks import jsonl
from linklab.tasks.examples import iter_examples, read_examples
from linklab.tasks.task import make_task

SPLITS = ("train", "validation", "test")
BY_ROW = ("--ask", "row")  # the default for links is one question per choice
SHARD = re.compile(r"(train|validation|test)-(\d{5})-of-(\d{5})\.jsonl")


def convert(csv_path, out, *words, code=0):
    argv = ["--csv", str(csv_path), "--out-dir", str(out), *map(str, words)]
    assert convert_csv_to_jsonl.main(argv) == code
    return out


def lines_of(folder):
    """Return {split: rows}, read from the shards in order of name, one JSON object per line ended by LF."""
    found = collections.defaultdict(list)
    for path in sorted(folder.glob("*.jsonl")):
        assert SHARD.fullmatch(path.name), path
        for line in path.read_bytes().split(b"\n")[:-1]:
            found[path.name.split("-")[0]].append(json.loads(line))
        assert path.read_bytes().endswith(b"\n")
    return dict(found)


def rows_of(path):
    with open(path, encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def write_csv(path, names, rows):
    with open(path, "w", encoding="utf-8", newline="") as handle:
        csv.writer(handle, lineterminator="\n").writerows([names, *rows])
    return path


def generate(folder, n_rows, **how):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_set, "HARDNESS_ROWS", 60)
        data_set.write_set(
            folder, script="x.py", argv=[], recipe=Recipe(5), n_rows=n_rows, chunk_rows=n_rows, workers=1, **how
        )
    return folder / "links.csv"


@pytest.fixture(scope="module")
def links(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("links") / "set", 600)


@pytest.fixture(scope="module")
def converted(links, tmp_path_factory):
    return convert(links, tmp_path_factory.mktemp("converted") / "set", *BY_ROW, "--shard-size", 100)


# The layout


def test_every_row_is_in_one_split_and_shards_are_full_but_the_last(links, converted):
    names = [SHARD.fullmatch(path.name) for path in sorted(converted.glob("*.jsonl"))]
    for split in SPLITS:
        own = [m for m in names if m[1] == split]
        sizes = [(converted / m[0]).read_bytes().count(b"\n") for m in own]
        assert [int(m[2]) for m in own] == list(range(len(own))) and {int(m[3]) for m in own} == {len(own)}
        assert set(sizes[:-1]) <= {100} and 0 < sizes[-1] <= 100
    ids = [row["id"] for rows in lines_of(converted).values() for row in rows]
    assert sorted(ids) == sorted(row["scenario_id"] for row in rows_of(links))
    others = {path.name for path in converted.iterdir()} - {m[0] for m in names}
    assert others == {"README.md", "cells.csv", "task.json", "manifest.json"}


def test_a_line_has_question_and_answer_of_its_row_and_the_values_for_scoring(links, converted):
    of_id = {row["scenario_id"]: row for row in rows_of(links)}
    for split, lines in lines_of(converted).items():
        for line in lines:
            row = of_id[line["id"]]
            channels = json.loads(row["available_channels_mhz"])
            assert list(line) == ["id", "group", "messages", "target", "choices", "values"]
            assert line["group"] == row["site_id"]
            user, assistant = line["messages"]
            assert list(user) == list(assistant) == ["role", "content"]
            assert (user["role"], assistant["role"]) == ("user", "assistant")
            assert assistant["content"] == f"{row['recommended_channel_mhz']} {row['expected_throughput_mbps']}"
            table = zip(*(json.loads(row[n]) for n in ("rssi_dbm", "noise_dbm", "busy_pct")), strict=True)
            shown = [f"{c} {rssi} {noise} {busy}" for c, (rssi, noise, busy) in zip(channels, table, strict=True)]
            assert user["content"].split("\n")[1:] == shown
            assert line["target"] == {n: row[n] for n in ("recommended_channel_mhz", "expected_throughput_mbps")}
            assert line["choices"] == {"recommended_channel_mhz": [str(c) for c in channels]}
            assert line["values"] == {"recommended_channel_mhz": json.loads(row["channel_throughput_mbps"])}
        assert lines, split


def test_hidden_columns_are_not_shown(links, tmp_path):
    rows = rows_of(links)
    marked = []
    for i, row in enumerate(rows[:100]):
        for column in LINK_SCHEMA.by_role("hidden"):
            if not column.kind.startswith("list"):
                row[column.name] = f"98765{i}"  # a text that is in no visible cell
        marked.append(row)
    path = write_csv(tmp_path / "links.csv", LINK_SCHEMA.names, [list(row.values()) for row in marked])
    for lines in lines_of(convert(path, tmp_path / "set")).values():
        assert not any("98765" in json.dumps(line["messages"]) for line in lines)


def test_the_manifest_names_every_file_with_its_rows_and_hash(links, converted):
    manifest = read_manifest(converted)
    on_disk = {path.name: files.sha256_file(path) for path in converted.iterdir() if path.name != "manifest.json"}
    assert {entry["path"]: entry["sha256"] for entry in manifest["outputs"]} == on_disk
    rows = {split: len(lines) for split, lines in lines_of(converted).items()}
    assert manifest["extra"]["rows"] == rows and sum(rows.values()) == 600
    assert {e["path"]: e["rows"] for e in manifest["inputs"]} == {str(links): 600}


def test_the_card_names_the_shards_and_describes_the_set(converted):
    import yaml

    head, text = (converted / "README.md").read_text(encoding="utf-8").removeprefix("---\n").split("---\n", 1)
    card = yaml.safe_load(head)
    (config,) = card["configs"]
    for entry in config["data_files"]:
        assert entry["path"] == sorted(path.name for path in converted.glob(f"{entry['split']}-*"))
    assert [entry["split"] for entry in config["data_files"]] == list(SPLITS)
    assert "`recommended_channel_mhz` (class, MHz), `expected_throughput_mbps` (number, Mbit/s)" in text


def test_reading_the_folder_gives_the_same_examples_as_reading_the_csv(links, converted):
    task = make_task(links, ask="row")
    for split in SPLITS:
        for n in (None, 7):
            ours = jsonl.read_examples(converted, split, n)
            theirs = read_examples(links, task, split, n)
            for example in theirs:
                example.row = {}
            assert ours == theirs


def test_reading_takes_the_shards_the_manifest_names_and_no_others(converted, tmp_path):
    import shutil

    folder = shutil.copytree(converted, tmp_path / "set")
    (folder / "train-00009-of-00010.jsonl").write_text("{}\n")
    assert jsonl.read_examples(folder, "train") == jsonl.read_examples(converted, "train")
    next(folder.glob("test-00000-*")).unlink()
    with pytest.raises(files.UserError, match="is gone since manifest.json was written"):
        jsonl.read_examples(folder, "test")


# One conversation per choice


@pytest.fixture(scope="module")
def asked(links, tmp_path_factory):
    return convert(links, tmp_path_factory.mktemp("asked") / "set", "--shard-size", 100)


def test_with_a_question_per_choice_each_line_is_about_one_candidate(links, converted, asked):
    of_id = {row["scenario_id"]: row for row in rows_of(links)}
    whole = {line["id"]: line for lines in lines_of(converted).values() for line in lines}
    found = [line for lines in lines_of(asked).values() for line in lines]
    assert len({line["id"] for line in found}) == len(found)
    for line in found:
        row = of_id[line["row"]]
        at = json.loads(row["available_channels_mhz"]).index(int(line["choice"]))
        rssi, noise, busy, worth = (json.loads(row[name])[at] for name in
                                    ("rssi_dbm", "noise_dbm", "busy_pct", "channel_throughput_mbps"))  # fmt: skip
        prompt, answer = (message["content"] for message in line["messages"])
        assert line["id"] == f"{line['row']}/{line['choice']}"
        assert prompt.split("\n")[1] == f"{rssi - noise} {busy}"
        assert whole[line["row"]]["messages"][0]["content"].startswith(prompt.split("\n")[0])
        assert abs(int(answer) * 10 - worth) <= 5
        assert all(line[name] == whole[line["row"]][name] for name in ("group", "target", "choices", "values"))
    n_candidates = sum(len(json.loads(row["available_channels_mhz"])) for row in of_id.values())
    assert len(found) == n_candidates


def test_the_questions_of_a_row_are_in_one_shard_and_in_the_split_of_the_row(converted, asked):
    sides = {line["id"]: split for split, lines in lines_of(converted).items() for line in lines}
    assert {line["row"]: split for split, lines in lines_of(asked).items() for line in lines} == sides
    shards = collections.defaultdict(set)
    for path in asked.glob("*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            shards[json.loads(line)["row"]].add(path.name)
    assert len(list(asked.glob("train-*"))) > 1 and all(len(names) == 1 for names in shards.values())
    assert read_manifest(asked)["extra"]["rows"] == read_manifest(converted)["extra"]["rows"]


def test_a_folder_with_a_question_per_choice_gives_the_rows_of_the_csv(links, asked):
    task = make_task(links, ask="choices")
    assert jsonl.read_task(asked).ask == "choices"
    for split in SPLITS:
        for n in (None, 7):
            theirs = read_examples(links, task, split, n)
            for example in theirs:
                example.row = {}
            assert jsonl.read_examples(asked, split, n) == theirs


def test_copies_of_a_row_are_read_as_separate_rows(tmp_path):
    path = generate(tmp_path / "links", 300, stratify_by=["channel_bandwidth_mhz"], balance="oversample")
    folder = convert(path, tmp_path / "set", "--ask", "choices")
    ours = jsonl.read_examples(folder, "train")
    theirs = read_examples(path, make_task(path, ask="choices"), "train")
    assert len({example.id for example in ours}) < len(ours)
    assert [(e.id, e.questions) for e in ours] == [(e.id, e.questions) for e in theirs]


def test_field_data_give_one_conversation_per_row(links, tmp_path):
    rows = [row[:21] for row in csv.reader(links.open(newline=""))]
    path = write_csv(tmp_path / "field.csv", rows[0], rows[1:])
    folder = convert(path, tmp_path / "set", "--ask", "choices")
    found = {line["row"]: line for lines in lines_of(folder).values() for line in lines}
    assert len(found) == sum(map(len, lines_of(folder).values())) == len(rows) - 1
    for row in rows_of(path):
        line = found[row["scenario_id"]]
        assert line["choice"] == row["recommended_channel_mhz"]
        assert abs(10 * int(line["messages"][1]["content"]) - int(row["expected_throughput_mbps"])) <= 5
    read = jsonl.read_examples(folder, "train")
    assert [e.questions for e in read] == [
        e.answered for e in read_examples(path, make_task(path, ask="choices"), "train")
    ]


def test_a_line_that_is_not_about_one_of_its_choices_is_refused(asked, tmp_path):
    line = json.loads(next(asked.glob("train-*")).read_text().splitlines()[0]) | {"choice": "5"}
    path = tmp_path / "train-00000-of-00001.jsonl"
    path.write_text(json.dumps(line) + "\n")
    with pytest.raises(
        files.UserError, match=r"train-00000-of-00001.jsonl:1: not a line that convert_csv_to_jsonl.py wrote"
    ):
        list(jsonl.read_shard(path, jsonl.read_task(asked), "train"))


# The split


def test_no_row_changes_its_split_with_order_number_or_shard_size(links, converted, tmp_path):
    side = {line["id"]: split for split, lines in lines_of(converted).items() for line in lines}
    header, *rows = links.read_text().splitlines(keepends=True)
    random.Random(3).shuffle(rows)
    for name, some, words in (
        ("shuffled", rows, ["--shard-size", 7]),
        ("fewer", rows[:150], []),
        ("ranked", rows, ["--max-rows", 90]),
    ):
        path = tmp_path / f"{name}.csv"
        path.write_text(header + "".join(some))
        again = lines_of(convert(path, tmp_path / name, *BY_ROW, *words))
        found = {line["id"]: split for split, lines in again.items() for line in lines}
        assert found.items() <= side.items() and len(found) == {"shuffled": 600, "fewer": 150, "ranked": 90}[name]


def test_the_same_command_writes_the_same_bytes(links, converted, tmp_path):
    again = convert(links, tmp_path / "set", *BY_ROW, "--shard-size", 100)
    for path in converted.iterdir():
        if path.name != "manifest.json":
            assert (again / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("id_words", [["--id-field", "name"], []])
def test_max_rows_takes_the_rows_that_every_other_script_takes(id_words, tmp_path):
    # Sorted by the answer, like many tables: the first 40 rows would have only one class.
    rows = [[f"n{i:03d}", i % 13, "low" if i < 150 else "high"] for i in range(300)]
    path = write_csv(tmp_path / "sorted.csv", ["name", "x", "y"], rows)
    found = lines_of(convert(path, tmp_path / "set", "--target-field", "y", "--max-rows", "40", *id_words))
    task = make_task(path, ["y"], id_field=id_words[1] if id_words else None)

    def by_hash(row_id):
        return hashlib.sha256(f"rank:{row_id}".encode()).digest()

    expected = sorted((example.id for example in iter_examples(path, task)), key=by_hash)[:40]
    lines = [line for some in found.values() for line in some]
    assert sorted(line["id"] for line in lines) == sorted(expected)
    assert {line["target"]["y"] for line in lines} == {"low", "high"}


def test_workers_change_no_byte_and_the_first_bad_row_is_reported(links, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(csv_stream, "BLOCK_BYTES", 20_000)
    made = [convert(links, tmp_path / w, *BY_ROW, "--workers", w, "--max-rows", 150) for w in ("1", "2")]
    for path in made[0].iterdir():
        assert path.name == "manifest.json" or path.read_bytes() == (made[1] / path.name).read_bytes()
    assert sum(len(lines) for lines in lines_of(made[1]).values()) == 150
    rows = links.read_text().splitlines(keepends=True)
    rows[90] = rows[90].replace("[", "", 1)  # a bad list, which a worker finds
    rows[140] = rows[140].replace(",", "", 1)  # a cell too few, found by splitting lines while workers are at row 90
    (tmp_path / "bad.csv").write_text("".join(rows).replace(rows[145], '"' + rows[145]))
    convert(tmp_path / "bad.csv", tmp_path / "bad", "--workers", "2", code=2)
    assert f"{tmp_path / 'bad.csv'}:91: " in capsys.readouterr().err


def test_field_data_without_hidden_columns_keeps_the_choices_of_each_row(links, tmp_path):
    rows = [row[:21] for row in csv.reader(links.open(newline=""))]
    folder = convert(write_csv(tmp_path / "field.csv", rows[0], rows[1:]), tmp_path / "set", *BY_ROW)
    made = convert(links, tmp_path / "whole", *BY_ROW)
    whole = {line["id"]: line for lines in lines_of(made).values() for line in lines}
    found = [line for lines in lines_of(folder).values() for line in lines]
    assert len(found) == len(rows) - 1
    for line in found:
        assert line == whole[line["id"]] | {"values": {}}


def test_another_split_seed_gives_another_split(links, converted, tmp_path):
    first = {line["id"] for line in lines_of(converted)["test"]}
    other = {line["id"] for line in lines_of(convert(links, tmp_path / "set", *BY_ROW, "--split-seed", 1))["test"]}
    assert first != other


def test_copies_and_identical_prompts_are_never_in_two_splits(tmp_path):
    path = generate(
        tmp_path / "links", 500, stratify_by=["channel_bandwidth_mhz", "radio_standard"], balance="oversample"
    )
    copies = collections.Counter(row["scenario_id"] for row in rows_of(path))
    assert max(copies.values()) > 3, "nothing was oversampled"
    found = lines_of(convert(path, tmp_path / "set", *BY_ROW))
    for key in (lambda line: line["id"], lambda line: line["messages"][0]["content"], lambda line: line["group"]):
        sides = collections.defaultdict(set)
        for split, lines in found.items():
            for line in lines:
                sides[key(line)].add(split)
        assert all(len(on) == 1 for on in sides.values())
    for split, lines in found.items():  # copies count in training; a scorer needs each row once
        n = collections.Counter(line["id"] for line in lines)
        assert n == ({i: copies[i] for i in n} if split == "train" else dict.fromkeys(n, 1))
    assert {line["id"] for lines in found.values() for line in lines} == set(copies)
    left_out = sum(copies.values()) - sum(map(len, found.values()))
    assert read_manifest(tmp_path / "set")["extra"]["copies_left_out"] == left_out > 0


def test_an_id_that_names_several_different_rows_is_refused_and_the_group_field_keeps_them_together(tmp_path, capsys):
    rows = [[f"n{i // 3}", i, "yes" if i % 2 else "no"] for i in range(300)]
    path = write_csv(tmp_path / "a.csv", ["name", "x", "y"], rows)
    convert(path, tmp_path / "set", "--target-field", "y", "--id-field", "name", code=2)
    assert f"{path}:3: --id-field name: 100 ids name several different rows" in capsys.readouterr().err
    found = lines_of(convert(path, tmp_path / "set", "--target-field", "y", "--group-field", "name"))
    sides = collections.defaultdict(set)
    for split, lines in found.items():
        for line in lines:
            sides[line["group"]].add(split)
    assert len(sides) == 100 and {len(on) for on in sides.values()} == {1}


# Any CSV


@pytest.fixture
def houses(tmp_path):
    chance = random.Random(1)
    rows = [
        [f"h{i}", chance.choice("abc"), i, chance.choice(["good", "very good", "bad"]), f"{i * 2.5:.2f}"]
        for i in range(300)
    ]
    return write_csv(tmp_path / "houses.csv", ["name", "street", "size_m2", "state", "price"], rows)


def test_any_csv_with_a_class_and_a_number(houses, tmp_path):
    folder = convert(houses, tmp_path / "set", "--target-field", "state,price", "--id-field", "name")
    of_id = {row["name"]: row for row in rows_of(houses)}
    assert sum(map(len, lines_of(folder).values())) == 300
    for lines in lines_of(folder).values():
        for line in lines:
            row = of_id[line["id"]]
            user, assistant = line["messages"]
            assert user["content"] == f"street: {row['street']}\nsize_m2: {row['size_m2']}"
            assert assistant["content"] == f"{row['state']}\n{row['price']}"  # a class here holds a space
            assert line["target"] == {"state": row["state"], "price": row["price"]}
    example = jsonl.read_examples(folder, "test")[0]
    assert example.choices == {"state": ["bad", "good", "very good"]}
    task = jsonl.read_task(folder)
    assert task.read_answer(example.answer, example.choices) == (example.target, None)


def test_a_template_sets_the_prompt(houses, tmp_path):
    (tmp_path / "t.txt").write_text("{size_m2} m² in {street} 100 %\n", encoding="utf-8")
    folder = convert(houses, tmp_path / "set", "--target-field", "price", "--prompt-template", tmp_path / "t.txt")
    of_id = {f"row-{i}": row for i, row in enumerate(rows_of(houses), start=1)}
    for lines in lines_of(folder).values():
        for line in lines:
            row = of_id[line["id"]]
            assert line["messages"][0]["content"] == f"{row['size_m2']} m² in {row['street']} 100 %"
            assert line["messages"][1]["content"] == row["price"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--target-field", "prize"], "no column 'prize'; the columns are: name, street, size_m2, state, price"),
        ([], "--target-field is needed; the columns are: name, street, size_m2, state, price"),
        (["--target-field", "name"], None),
        (["--target-field", "price", "--id-field", "nam"], "no column 'nam'; the columns are:"),
        (["--target-field", "price", "--group-field", "stret"], "no column 'stret'; the columns are:"),
        (["--target-field", "price", "--id-field", "price"], "column 'price' is given two roles"),
    ],
)
def test_an_unknown_column_is_refused_and_nothing_is_written(houses, tmp_path, capsys, words, said):
    code = 0 if said is None else 2
    convert(houses, tmp_path / "out" / "set", *words, code=code)
    if said:
        assert said in capsys.readouterr().err and not (tmp_path / "out" / "set").exists()


@pytest.mark.parametrize("template", ["{state} {price}", "{size}", "no column", "{street"])
def test_a_template_that_reveals_the_answer_or_cannot_be_filled_is_refused(houses, tmp_path, capsys, template):
    (tmp_path / "t.txt").write_text(template)
    convert(houses, tmp_path / "set", "--target-field", "price,state", "--prompt-template", tmp_path / "t.txt", code=2)
    assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "set").exists()


def test_a_damaged_row_stops_the_conversion_and_leaves_the_old_folder(houses, tmp_path, capsys):
    folder = convert(houses, tmp_path / "set", "--target-field", "price")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with open(houses, "a") as handle:
        handle.write("h300,a,5,good\n")
    capsys.readouterr()
    convert(houses, folder, "--target-field", "price", "--force", code=2)
    assert f"{houses}:302: 4 cells; the header has 5" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["houses.csv", "set"]


def test_memory_does_not_grow_with_the_file(links, tmp_path, monkeypatch):
    monkeypatch.setattr(csv_stream, "BLOCK_BYTES", 10_000)  # many blocks even in a small file
    header, *rows = links.read_text().splitlines(keepends=True)[:201]
    peaks = []
    for n in (1, 5):
        path = tmp_path / f"{n}.csv"
        path.write_text(header + "".join(row.replace("L0", f"L{i}-", 1) for i in range(n) for row in rows))
        convert(path, tmp_path / "warm", "--force")  # memory of imports must not count
        tracemalloc.start()
        convert(path, tmp_path / f"set{n}", "--shard-size", 1000)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 100_000 < 6_000_000


# What load_dataset returns

HOSTILE = [
    "a\u2028b",
    "a\u2029b",
    "a\u0085b",
    "🙂👨‍👩‍👧",
    'say "hi" it\'s',
    "two\nlines",
    "cr\r\nlf\rcr",
    "tab\there",
    "\u00a0x\u200b",
    "back\\slash \\n \\u2028",
    '{"a": [1]}',
    "<b>&amp;</b>",
    "\x01\x1b\x7f",
    "ﬀ e\u0301 é",
    "null",
    "NaN",
    "1e5",
    "[1]",
    "true",
    "007",
    "+5",
    " lead and trail ",
    "a\ufeffb",
    "%s {} $x",
    "2020-01-01",
    "2020-01-01T10:00:00Z",
]
DAYS = [f"20{year:02d}-{month:02d}-{day:02d}" for year in range(8) for month in range(1, 13) for day in (1, 15, 28)]
INSTANTS = [f"{day} 12:30:00" for day in DAYS]


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """A function that loads a folder with datasets, offline and with its own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        import datasets

        datasets.disable_progress_bars()
        yield lambda folder: datasets.load_dataset(str(folder), cache_dir=str(tmp_path_factory.mktemp("cache")))


def assert_loads_as_written(load, folder):
    expected = lines_of(folder)
    loaded = load(folder)
    assert set(loaded) == set(expected)
    for split, lines in expected.items():
        assert list(loaded[split]) == lines
    return loaded


def test_load_dataset_gives_the_rows_and_splits_written(load, converted):
    loaded = assert_loads_as_written(load, converted)
    assert loaded["train"].features["values"]["recommended_channel_mhz"].feature.dtype == "float64"
    assert list(loaded["train"].features) == ["id", "group", "messages", "target", "choices", "values"]


def test_load_dataset_gives_a_row_per_conversation_asked_by_choice(load, asked):
    loaded = assert_loads_as_written(load, asked)
    names = ["id", "row", "group", "choice", "messages", "target", "choices", "values"]
    assert list(loaded["train"].features) == names


def test_hostile_neighbours_do_not_change_what_loads(load, converted, tmp_path):
    import shutil

    folder = shutil.copytree(converted, tmp_path / "set")
    stale = {"id": 5, "messages": "stale", "split": "train"}
    for name in (
        "train-00000-of-00001.jsonl",
        "train-00006-of-00007.jsonl",
        "validation-00001-of-00009.jsonl",
        "test.jsonl",
        "predictions.jsonl",
        "metadata.jsonl",
        "report.json",
        "train.csv",
        ".train-00000-of-00005.jsonl.x.tmp",
        "train-00000.part",
        "data/train-00000-of-00001.jsonl",
        "train/x.parquet",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(stale) + "\n")
    loaded = load(folder)
    for split, lines in lines_of(converted).items():
        assert list(loaded[split]) == lines


@pytest.mark.newer_datasets  # the table has dates
@pytest.mark.parametrize("shard_size", [50_000, 3])
def test_every_string_is_loaded_as_in_the_csv(load, tmp_path, shard_size):
    rows = [[f"{text}#{i}", text, HOSTILE[(i * 7) % len(HOSTILE)]] for i, text in enumerate(HOSTILE * 4)]
    path = write_csv(tmp_path / "a.csv", ["text", "größe: \"'#🙂", "answer"], rows)
    words = ["--target-field", "answer", "--shard-size", shard_size, "--keep-missing-class"]
    folder = convert(path, tmp_path / "set", *words)
    loaded = assert_loads_as_written(load, folder)
    of_id = {f"row-{i}": row for i, row in enumerate(rows, start=1)}
    seen = 0
    for split in loaded.values():
        for line in split:
            text, other, answer = of_id[line["id"]]
            prompt = f"text: {text}\ngröße: \"'#🙂: {other}"
            assert [m["content"].encode() for m in line["messages"]] == [prompt.encode(), answer.encode()]
            assert line["target"] == {"answer": answer}
            seen += 1
    assert seen == len(rows)


# A column of dates is declared with the type json, which datasets 4.0 (Colab's) cannot read.
newer = functools.partial(pytest.param, marks=pytest.mark.newer_datasets)


@pytest.mark.parametrize(
    "texts", [newer(DAYS), newer(INSTANTS), [day.replace("-", "") for day in DAYS], [f"{i}.50" for i in range(288)]]
)
@pytest.mark.parametrize("place", ["prompt", "target", "id", "group"])
def test_texts_that_look_like_dates_or_numbers_stay_the_texts_they_are(load, tmp_path, texts, place):
    dated = place in ("prompt", "target")  # they share a column: one text that is not a date keeps both as text
    rows = [[text, f"box {i}", texts[i % 5] if dated else "yn"[i % 2]] for i, text in enumerate(texts)]
    path = write_csv(tmp_path / "a.csv", ["when", "what", "answer"], rows)
    (tmp_path / "t.txt").write_text("{when}" if place == "prompt" else "{what}")
    words = ["--target-field", "answer", "--prompt-template", tmp_path / "t.txt"]
    words += {"id": ["--id-field", "when"], "group": ["--group-field", "when"]}.get(place, [])
    loaded = assert_loads_as_written(load, convert(path, tmp_path / "set", *words, "--shard-size", 100))
    got = {
        "prompt": lambda line: line["messages"][0]["content"],
        "target": lambda line: line["target"]["answer"],
        "id": lambda line: line["id"],
        "group": lambda line: line["group"],
    }[place]
    found = sorted(got(line) for split in loaded.values() for line in split)
    assert found == sorted(row[2] if place == "target" else row[0] for row in rows)


@pytest.mark.parametrize("place", [["--id-field", "when"], ["--group-field", "when"]])
def test_ids_that_a_type_would_change_are_refused(tmp_path, capsys, place):
    path = write_csv(
        tmp_path / "a.csv", ["when", "what", "answer"], [["7", "a", "y"]] + [[day, "b", "n"] for day in DAYS]
    )
    convert(path, tmp_path / "set", "--target-field", "answer", *place, code=2)
    error = capsys.readouterr().err
    assert f"'{DAYS[0]}' and '7'" in error and place[0] in error and not (tmp_path / "set").exists()


def test_numbers_of_any_kind_and_splits_without_rows_load(load, tmp_path):
    # Integers in the first shard and decimals later, and no rows for the validation and test splits.
    rows = [[i, i if i < 30 else i + 0.5] for i in range(60)]
    y = "größe: [\"#'] 🙂"  # YAML needs quotes around this name
    path = write_csv(tmp_path / "a.csv", ["x", y], rows)
    folder = convert(path, tmp_path / "set", "--target-field", y, "--shard-size", 10)
    loaded = assert_loads_as_written(load, folder)
    assert {line["target"][y] for split in loaded.values() for line in split} == {str(y) for _, y in rows}
    one_side = write_csv(tmp_path / "b.csv", ["k", "x", "y"], [["same", i, i] for i in range(30)])
    folder = convert(one_side, tmp_path / "one", "--target-field", "y", "--group-field", "k", code=0)
    assert set(assert_loads_as_written(load, folder)) == {"train"}


def test_the_loaded_splits_hold_the_csvs_rows(load, links, converted):
    loaded = load(converted)
    answers = {line["id"]: line["messages"][1]["content"] for split in loaded.values() for line in split}
    assert answers == {
        row["scenario_id"]: f"{row['recommended_channel_mhz']} {row['expected_throughput_mbps']}"
        for row in rows_of(links)
    }


@pytest.mark.slow  # importing TRL alone takes ten seconds
@pytest.mark.parametrize("kind", ["links", "choices", "dates"])
def test_trl_trains_two_steps_on_the_folder_as_it_is(load, converted, asked, tmp_path, kind):
    from linklab.models.load import load_model, load_tokenizer
    from trl import SFTConfig, SFTTrainer

    folder = asked if kind == "choices" else converted
    if kind == "dates":  # TRL must accept the types that datasets needs for dates
        path = write_csv(tmp_path / "a.csv", ["when", "y"], [[day, DAYS[i % 5]] for i, day in enumerate(DAYS)])
        (tmp_path / "t.txt").write_text("{when}")
        folder = convert(path, tmp_path / "set", "--target-field", "y", "--prompt-template", tmp_path / "t.txt")
    loaded = load(folder)
    model = load_model("tiny")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    settings = SFTConfig(
        output_dir=str(tmp_path / "out"),
        max_steps=2,
        per_device_train_batch_size=2,
        report_to=[],
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        disable_tqdm=True,
        learning_rate=1e-3,
        logging_steps=1,
    )
    tokenizer = load_tokenizer("tiny")
    trainer = SFTTrainer(model=model, args=settings, train_dataset=loaded["train"], processing_class=tokenizer)
    trainer.train()
    assert trainer.state.global_step == 2
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 2 and all(0 < loss < 20 for loss in losses)
    assert any((value != before[name]).any() for name, value in model.state_dict().items())
    line = json.loads(next(folder.glob("train-00000-*")).read_text(encoding="utf-8").split("\n")[0])
    text = tokenizer.decode(trainer.train_dataset[0]["input_ids"])
    assert line["messages"][0]["content"] in text and line["messages"][1]["content"] in text


def test_lines_are_json_any_reader_splits_alike(converted, tmp_path):
    path = write_csv(tmp_path / "a.csv", ["x", "y"], [[text + str(i), text] for i, text in enumerate(HOSTILE * 3)])
    folder = convert(path, tmp_path / "set", "--target-field", "y", "--keep-missing-class")
    for shard in folder.glob("*.jsonl"):
        text = shard.read_bytes().decode("utf-8")
        assert len(text.splitlines()) == text.count("\n") == len(list(io.StringIO(text)))


def test_rows_too_long_for_the_base_model_are_found_at_conversion(small_links, tmp_path, capsys):
    """Counted by the tokenizer itself, on the messages in the folder."""
    from linklab.models import load

    links, tokenizer = small_links / "links.csv", load.load_tokenizer("tiny")
    folder = convert(links, tmp_path / "fits", *BY_ROW, "--base-model", "tiny", "--max-length", 10_000)
    lines = [line for rows in lines_of(folder).values() for line in rows]
    turns = [tokenizer.apply_chat_template(line["messages"], tokenize=False).removesuffix("\n") for line in lines]
    lengths = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in turns]
    assert f"tokens of tiny: at most {max(lengths)} per conversation" in capsys.readouterr().err
    limit = sorted(lengths)[len(lengths) // 2]
    n = sum(length > limit for length in lengths)
    assert 0 < n < len(lengths)
    convert(links, tmp_path / "long", *BY_ROW, "--base-model", "tiny", "--max-length", limit, code=1)
    said = capsys.readouterr().err
    assert (
        f"{n:,} of {len(lengths):,} conversations have more than --max-length {limit} tokens of tiny (first: " in said
    )
    assert f"longest: {max(lengths)})" in said and not (tmp_path / "long").exists()
    convert(links, tmp_path / "exact", *BY_ROW, "--base-model", "tiny", "--max-length", max(lengths))
