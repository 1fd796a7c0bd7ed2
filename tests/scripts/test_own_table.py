"""A user's own table: read without any option, or refused with a one-line error that names the option to use."""

import json

import convert_csv_to_jsonl
import pytest
import validate_dataset

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


def test_a_system_prompt_begins_every_prompt_and_chat_markers_get_a_warning(tmp_path, capsys):
    (tmp_path / "system.txt").write_text("Answer {briefly} <start_of_turn>\n")
    assert convert(tmp_path, TREES, "--target-field", "kind", "--system-prompt", str(tmp_path / "system.txt")) == 0
    assert "chat markers (<start_of_turn>)" in capsys.readouterr().err
    line = json.loads(next((tmp_path / "set").glob("train-*")).read_text().splitlines()[0])
    assert line["messages"][0]["content"].startswith("Answer {briefly} <start_of_turn>\n\nheight: ")


def german(cells):
    return add_column("price", [cell.replace(";", ",") for cell in cells]).replace(",", ";").replace("§", ",")


NUMBERS = ["--target-field", "price"]
BROTHERS = [  # name, text, arguments, message, an answer of the training rows
    ("SEP= in capitals behind a mark", "\ufeffSEP=;\r\n" + TREES.replace(",", ";").replace("\n", "\r\n"), [],
     "a sep= line", "fir"),
    ("German thousands", german([f"{i % 9 + 1}.{100 + i}§50" for i in range(60)]).replace(".5;", "§5;"), NUMBERS,
     "decimal comma, thousands '.'", "1100.50"),
    ("Swiss thousands", add_column("price", [f"{i % 9 + 1}'{100 + i}.50" for i in range(60)]), NUMBERS,
     'thousands "\'"', "1100.50"),
    ("narrow spaces", add_column("price", [f"{i % 9 + 1}\u202f{100 + i}" for i in range(60)]), NUMBERS,
     "thousands 'space'", "1100"),
    ("true minus signs", add_column("price", [f"\u2212{i}.5" for i in range(60)]), NUMBERS, "price   target  number",
     "-0.5"),
    ("a sign before the currency", add_column("price", [f"-${i}.10" for i in range(60)]), NUMBERS, "unit $", "-0.10"),
    ("postcodes stay texts", add_column("price", [f"0{1000 + i % 3}" for i in range(60)]), NUMBERS,
     "class, 3 different", "01000"),
    ("true and false", add_column("price", ["TRUE", "FALSE"] * 30), NUMBERS, "class, 2 different", "TRUE"),
    ("numbers with a unit", add_column("price", [f"{i} kg" for i in range(60)]), NUMBERS,
     "numbers with 'kg' after them: move the unit to the header", "0 kg"),
    ("a delimiter at the end of every row but the header", TREES.replace("\n", ",\n").replace("grade,", "grade", 1), [],
     "1 empty column at the end left out", "fir"),
    ("R's missing numbers", TREES.replace(",7.5,", ",NA,").replace(",14.5,", ",NA,"), [], "number, 4 empty", "fir"),
    ("a spreadsheet's errors", TREES.replace(",7.5,", ",#N/A,").replace(",14.5,", ",#DIV/0!,"), [], "number, 4 empty",
     "fir"),
    ("dots for missing numbers", add_column("size", [f"{i}.5" if i % 4 else "." for i in range(60)]), [],
     "column 'size' is text: 45 of 60 cells are numbers; --missing . makes it a number column", "fir"),
    ("the same, told", add_column("size", [f"{i}.5" if i % 4 else "." for i in range(60)]), ["--missing", "."],
     "size    input   number, 15 empty", "fir"),
    ("a column called split that is none", add_column("split", ["banana", "cherry"] * 30), [],
     "split   input   text, 2 different", "fir"),
    ("SAP's minus signs", german([f"{i % 9 + 1}.{100 + i}§50-" for i in range(60)]).replace(".5;", "§5;"), NUMBERS,
     "decimal comma, thousands '.'", "-1100.50"),
    ("Indian thousands", add_column("price", [f'"{i % 9 + 1},{10 + i},{100 + i}"' for i in range(60)]), NUMBERS,
     "thousands ','", "110100"),
    ("a currency before the bracket", add_column("price", [f'"$ ({i + 1},200.50)"' for i in range(60)]), NUMBERS,
     "unit $", "-1200.50"),
    ("a dollar of a country", add_column("price", [f'"A${i + 1},200.50"' for i in range(60)]), NUMBERS, "unit A$",
     "1200.50"),
    ("lira", add_column("price", [f"₺{i}.50" for i in range(60)]), NUMBERS, "unit ₺", "0.50"),
    ("rupees", add_column("price", [f"Rs. {i}.50" for i in range(60)]), NUMBERS, "unit Rs.", "0.50"),
    ("a code of a currency behind", add_column("price", [f"{i}.50 CAD" for i in range(60)]), NUMBERS,
     "unit CAD", "0.50"),
    ("degrees", add_column("price", [f"{i} °C" for i in range(60)]), NUMBERS, "numbers with '°C' after them", "0 °C"),
    ("a title above the header", "Trees of the park\n\n" + TREES, [],
     "2 lines before the header left out ('Trees", "fir"),
    ("a title in a row of a sheet", "Trees,,,\n,,,\n" + TREES, [],
     "2 lines before the header left out ('Trees')", "fir"),
    ("a title above semicolons", "Trees of the park\n" + TREES.replace(",", ";"), [], "(semicolon)", "fir"),
    ("comments above the header", "# by a tool\n# 2021, May\n" + TREES, [],
     "2 lines before the header left out", "fir"),
    ("blank lines between rows", TREES.replace("\n", "\n\n"), [], "left out: 60 empty rows between the others", "fir"),
    ("CR CR LF", TREES.replace("\n", "\r\r\n"), [], "left out: 60 empty rows between the others", "fir"),
    ("the end of a DOS file", TREES + "\x1a", [], "left out: 1 empty row at the end", "fir"),
    ("R's write.table", "\n".join((f'"{i}" ' if i else "") + '"' + row.replace(",", '" "') + '"'
                                  for i, row in enumerate(TREES.splitlines())), [], "delimiter ' ' (space)", "fir"),
    ("columns of spaces", "\n".join("".join(f"{cell:9}" for cell in row.split(",")).rstrip()
                                    for row in TREES.splitlines()), [], "delimiter ' ' (space)", "fir"),
    ("an empty column without a name", TREES.replace("kind,", "kind,,").replace("r,", "r,,").replace("k,", "k,,"),
     [], "1 empty column without a name left out", "fir"),
    ("emoji of several, Persian", TREES.replace("height", "👨\u200d👩\u200d👧").replace("side", "می\u200cخواهم"), [],
     "👨\u200d👩\u200d👧", "fir"),
    ("a mark of the writing direction", TREES.replace("height", "\u200fגובה"), [], "called 'גובה'", "fir"),
    ("inches", add_column("size", [f'{i}" pipe' for i in range(60)]), [], "size    input   text, 60 different", "fir"),
    ("phone numbers", add_column("phone", [f"+49 170 {i + 100} {i + 200}" for i in range(60)]), [],
     "phone   input   text, 60 different", "fir"),
    ("addresses", add_column("ip", [f"192.168.{i + 100}.{i + 120}" for i in range(60)]), [],
     "ip      input   text, 60 different", "fir"),
    ("padded columns", "".join(f" {' | '.join(row.split(','))} \n" for row in TREES.splitlines()), [], "(pipe)", "fir"),
    ("no header", "".join(f"5.{i},{i % 7}.5,{row[0]}\n" for i, row in enumerate(ROWS)), ["--target-field", "oak"],
     "columns have the names 5.0, 0.5: if line 1 is a row, add a header above it", "fir"),
    ("utf-32", TREES.encode("utf-32"), [], "utf-32", "fir"),
    ("a token that is nowhere", TREES, ["--missing=-99"], "--missing -99: no cell is '-99'", "fir"),
    ("the wrong encoding told", TREES.replace("fir", "bäum"), ["--encoding", "cp1252"],
     "the file may be UTF-8, without --encoding cp1252", "bÃ¤um"),
    ("sides under another name", add_column("Set", ["Training", "Test"] * 30), [],
     "as the split with --split-field Set", "fir"),
    ("a split with gaps", add_column("split", ["train", "test", ""] * 20), [], "but has 20 empty cells", "fir"),
    ("a target called split", TREES.replace("kind", "split"), ["--target-field", "split"],
     "split   target  class", "fir"),
    ("an empty column", add_column("note", [""] * 60), [], "column 'note' is empty in every row", "fir"),
    ("names with braces, quotes and trees", TREES.replace("height", '"h {m} ""x"" 🌲"'), [], "input   number", "fir"),
    ("two answers as JSON", TREES, ["--target-field", "kind,height", "--answer-format", "json"], "wrote",
     '{"kind": "fir", "height": 7.5}'),
    ("answers of several lines", add_column("why", [f'"line {i}\nmore; ""so""' + '"' for i in range(60)]),
     ["--target-field", "why", "--target-kind", "text"], "free text, 60 different", 'line 0\nmore; "so"'),
]  # fmt: skip


@pytest.mark.parametrize(("text", "words", "said", "answer"), [case[1:] for case in BROTHERS],
                         ids=[case[0] for case in BROTHERS])  # fmt: skip
def test_tables_as_other_programs_write_them_are_understood_by_validator_and_converter(
    tmp_path, capsys, text, words, said, answer
):
    target = [] if "--target-field" in words else ["--target-field", "kind"]
    assert convert(tmp_path, text, *target, *words) == 0
    assert said in capsys.readouterr().err
    lines = [line for path in (tmp_path / "set").glob("*-of-*.jsonl") for line in path.read_text().splitlines()]
    assert answer in [json.loads(line)["messages"][-1]["content"] for line in lines]
    table_words = [word for word in (*target, *words) if word not in ("--answer-format", "json")]
    found = validate_dataset.main([str(tmp_path / "trees.csv"), *table_words])
    assert found == (1 if said.startswith("column 'note' is empty") else 0), capsys.readouterr().err


REFUSED = [
    ("Trees of the park, 2021, all of them, no more\n\n" + TREES, [], "line 3 has it: remove the lines above"),
    (TREES.replace(",", ":"), [], "give its separator with --delimiter"),
    (TREES, ["--delimiter", ";"], "--delimiter ; does not occur in the first rows; their delimiter is ',' (comma)"),
    (TREES, ["--decimal", ","], "column 'height': '0.5' is not a number with --decimal ,; leave --decimal out"),
    (TREES.replace(",", ";").replace(".5", ",5"), ["--decimal", "."], "'0,5' is not a number with --decimal ."),
    (TREES, ["--encoding", "utf-16"], "--encoding utf-16: the file is not utf-16 text"),
    (TREES.replace("\nfir", "\n").replace("\noak", "\n"), [], "column 'kind' is empty in every row; choose another"),
    ("".join(TREES.splitlines(True)[:3]), [], "too few rows (2)"),
    ("".join(f"0.2,0.2,{row[0]}\n" for row in ROWS), [], "line 1 seems to be a row (0.2, 0.2): add a header"),
    (TREES.replace(".5,", ",5,"), [], "5 cells; the header has 4"),  # and no row names
    (TREES.replace("height,side", ",side"), [], "the header has no name for column 2; name it, or remove it"),
    (TREES, ["--target-field", "Kind"], "did you mean 'kind'?"),
    (add_column("n", ["", "1"] * 30), ["--id-field", "n"], "the id is empty, in line 4 too"),
    (TREES, ["--target-field", "kind,height", "--ask", "choices", "--answer-format", "json"], "use --ask row"),
    (TREES.replace("\noak", "\n", 3), [], "is missing in 3 of 60 rows (lines 2, 5, 8)"),
    (TREES, ["--delimiter", "ab"], "expected one character"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "words", "said"), REFUSED, ids=[case[2][:30] for case in REFUSED])
def test_an_unusable_table_is_one_line_that_names_the_fix(tmp_path, capsys, text, words, said):
    target = [] if "--target-field" in words else ["--target-field", "kind"]
    assert convert(tmp_path, text, *target, *words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and said in lines[0], lines
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("title", ["Trees of the park\n\n", "Trees of the park,,,\n,,,\n"])
def test_a_title_above_the_header_is_suspected_if_no_column_is_named(tmp_path, capsys, title):
    (tmp_path / "trees.csv").write_text(title + TREES)
    assert validate_dataset.main([str(tmp_path / "trees.csv")]) == 2
    assert "title above the header, name a column of the header with --target-field" in capsys.readouterr().err
    assert validate_dataset.main([str(tmp_path / "trees.csv"), "--target-field", "kind"]) == 0


SMALL = [
    ("three sites", add_column("site", ["a", "b", "c"] * 20), ["--group-field", "site"], [20, 20, 20]),
    ("nine rows", "".join(TREES.splitlines(True)[:10]), ["--target-kind", "class"], [7, 1, 1]),
    ("own split", add_column("split", ["train"] * 50 + ["test"] * 10), ["--group-field", "grade"], [40, 10, 10]),
    ("some rows of many", TREES, ["--max-rows", "6"], [4, 1, 1]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "words", "sides"), [case[1:] for case in SMALL], ids=[case[0] for case in SMALL])
def test_a_small_table_with_three_groups_leaves_no_split_empty(tmp_path, capsys, text, words, sides):
    """The split is the same in the folder, in the model's task and with --csv."""
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
