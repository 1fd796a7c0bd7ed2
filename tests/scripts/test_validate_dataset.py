"""The validator reports every damaged place with line, column and code, and reports clean files as clean."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import validate_dataset
from linklab.links import row_writer
from linklab.radio import labels
from linklab.validation import duplicates, validation_plan, validator
from linklab.validation.column_checks import check_exactly
from linklab.validation.validation_plan import make_plan
from linklab.validation.validation_report import Tally, validate

SCRIPT = Path(validate_dataset.__file__)


@pytest.fixture(scope="module")
def rows():
    """The generator's header and 300 rows, without line ends."""
    text, starts = row_writer.format_rows(labels.make_block(0, 0))
    text = row_writer.put_ids(text[: starts[300]], starts[:300], 1)
    return [row_writer.HEADER.decode().rstrip("\n"), *text.decode().splitlines()]


def test_the_table_is_a_positional_or_csv_but_not_both(rows, tmp_path, capsys):
    path = write(tmp_path / "links.csv", rows)
    assert validate_dataset.main([path]) == validate_dataset.main(["--csv", path]) == 0
    assert validate_dataset.main([]) == 2
    assert validate_dataset.main([path, "--csv", path]) == 2
    assert "not allowed with argument" in capsys.readouterr().err


def write(path, rows, end="\n"):
    path.write_bytes("".join(row + end for row in rows).encode("utf-8", "surrogateescape"))
    return str(path)


def violations_of(path, tmp_path, *options):
    out = tmp_path / "violations.csv"
    code = validate_dataset.main([path, "--violations", str(out), "--force", *options])
    with out.open(newline="", encoding="utf-8") as handle:
        found = list(csv.DictReader(handle))
    assert code == (1 if found else 0)
    return found


def places(found):
    return {(int(v["line"]), v["column"], v["code"]) for v in found}


def cells_of(row):
    return next(csv.reader([row]))


def join(cells):
    return ",".join(f'"{cell}"' if set(cell) & set(',"\n') else cell for cell in cells)


def with_cell(row, header, name, text):
    cells = cells_of(row)
    cells[header.split(",").index(name)] = text
    return join(cells)


def test_a_clean_file_is_clean_and_the_report_describes_it(rows, tmp_path, capsys):
    path, report = write(tmp_path / "links.csv", rows), tmp_path / "out" / "report.json"
    violations = tmp_path / "out" / "violations.csv"
    assert validate_dataset.main([path, "--report", str(report), "--violations", str(violations)]) == 0
    assert violations.read_text() == "line,column,code,value,expected\n"
    value = json.loads(report.read_text())
    assert (value["clean"], value["rows"], value["schema"], value["violations"]) == (True, 300, "links", 0)
    cells = [cells_of(row) for row in rows[1:]]
    distance = [int(row[rows[0].split(",").index("link_distance_m")]) for row in cells]
    column = value["columns"]["link_distance_m"]
    assert (column["min"], column["max"], column["missing"]) == (min(distance), max(distance), 0)
    assert column["mean"] == pytest.approx(sum(distance) / 300, rel=1e-4)
    domains = [row[2] for row in cells]
    assert value["columns"]["regulatory_domain"]["classes"] == {d: domains.count(d) for d in set(domains)}
    best = [row[rows[0].split(",").index("recommended_channel_mhz")] for row in cells]
    balance = value["class_balance"]["recommended_channel_mhz"]
    assert balance["largest_share"] == round(max(map(best.count, best)) / 300, 4)
    assert balance["classes"] == len(set(best))
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"wrote {report} and {violations}; links.csv is clean: 300 rows, no violations"


def test_the_manifest_names_inputs_and_outputs(rows, tmp_path):
    path = write(tmp_path / "links.csv", rows)
    out = [str(tmp_path / name) for name in ("r/report.json", "violations.csv")]
    argv = [path, "--report", out[0], "--violations", out[1]]
    assert validate_dataset.main(argv) == 0
    manifest = json.loads((tmp_path / "r" / "report.manifest.json").read_text())
    assert manifest["argv"] == argv and manifest["inputs"][0]["rows"] == 300
    assert [entry["path"] for entry in manifest["outputs"]] == ["report.json"]
    assert manifest["extra"]["elsewhere"][0]["path"] == out[1]


def line_damage(rows):
    """Yield damage to whole lines: (name, lines of the file as bytes, line, column, code)."""
    lines = [row.encode() + b"\n" for row in rows]
    row = lines[49]
    swapped = lines[0].replace(b"rssi_dbm,noise_dbm", b"noise_dbm,rssi_dbm")
    with_nul = row.replace(b",ax,", b",a\0,").replace(b",ac,", b",a\0,")
    with_quote = row.replace(b",urban,", b',urb"an,').replace(b",rural,", b',rur"al,')

    def changed(line, new):
        return b"".join(lines[: line - 1] + [new] + lines[line:])

    yield "blank line", changed(50, row + b"\n"), 51, "", "blank_line"
    yield "line of spaces", changed(50, row + b"   \n"), 51, "", "blank_line"
    yield "cell too few", changed(50, row.rsplit(b",", 1)[0] + b"\n"), 50, "", "ragged_row"
    yield "cell too many", changed(50, row[:-1] + b",1\n"), 50, "", "ragged_row"
    yield "quote never closed", changed(50, row.replace(b']"', b"]", 1)), 50, "", "bad_quoting"
    yield "quote in a bare cell", changed(50, with_quote), 50, "", "bad_quoting"
    yield "line cut off", changed(50, row[:200] + b"\n"), 50, "", ("bad_quoting", "ragged_row")
    yield "last line cut off", b"".join(lines)[:-40], 301, "", ("bad_quoting", "ragged_row")
    yield "no final line end", b"".join(lines)[:-1], 301, "", "no_final_newline"
    yield "one CR LF", changed(50, row[:-1] + b"\r\n"), 50, "", "mixed_line_ends"
    yield "all CR LF", b"".join(lines).replace(b"\n", b"\r\n"), 1, "", "crlf"
    yield "byte order mark", b"\xef\xbb\xbf" + b"".join(lines), 1, "", "bom"
    yield "NUL byte", changed(50, with_nul), 50, "radio_standard", "nul_byte"
    yield "not UTF-8", changed(50, row.replace(b",S", b",\xe9", 1)), 50, "site_id", "bad_utf8"
    yield "two columns swapped in the header", changed(1, swapped), 1, "noise_dbm", "column_order"
    yield "a column renamed", changed(1, lines[0].replace(b"busy_pct", b"busy", 1)), 1, "busy_pct", "missing_column"
    yield "a column name twice", changed(1, lines[0].replace(b"busy_pct", b"noise_dbm", 1)), 1, "", "bad_header"
    yield "a row twice", changed(50, row * 2), 51, "scenario_id", "duplicate_row"
    yield "an id twice", changed(50, lines[60][:9] + row[9:]), 61, "scenario_id", "duplicate_id"
    yield "a row under another id", changed(50, row + b"L99999999" + row[9:]), 51, "scenario_id", "duplicate_row"
    yield "header again", changed(50, lines[0] + row), 50, "link_distance_m", "not_a_number"


@pytest.mark.parametrize("number", range(21))
def test_damage_to_lines_is_named_with_its_line(rows, tmp_path, number):
    name, data, line, column, code = list(line_damage(rows))[number]
    path = tmp_path / "links.csv"
    path.write_bytes(data)
    found = places(violations_of(str(path), tmp_path))
    codes = code if isinstance(code, tuple) else (code,)
    assert any((line, column, code) in found for code in codes), (name, found)
    if code not in ("bad_header", "not_a_number", "column_order", "missing_column"):
        assert {place[0] for place in found} == {line}, f"{name}: other lines are not to blame"


CELL_DAMAGE = [
    ("link_distance_m", "4.2", "not_an_integer"),
    ("link_distance_m", "4_200", "number_format"),
    ("recommended_channel_mhz", "", "missing_value"),
    ("recommended_channel_mhz", "05180", "number_format"),
    ("environment_type", "Urban", "spelling_variant"),
    ("environment_type", "urban ", "outer_space"),
    ("site_id", "   ", "blank_text"),
    ("site_id", "a\nb", "control_character"),
    ("rssi_dbm", "[-60,NaN]", "not_a_value"),
    ("noise_dbm", "[-60]", "list_length"),
    ("sinr_db", "", "missing_value"),
]


@pytest.mark.parametrize(("column", "text", "code"), CELL_DAMAGE)
@pytest.mark.parametrize("line", [2, 150, 301])
def test_damage_to_cells_is_named_with_line_column_and_value(rows, tmp_path, column, text, code, line):
    damaged = rows.copy()
    damaged[line - 1] = with_cell(rows[line - 1], rows[0], column, text)
    found = violations_of(write(tmp_path / "links.csv", damaged), tmp_path)
    named = [v for v in found if (v["column"], v["code"]) == (column, code)]
    assert [int(v["line"]) for v in named] == [line]
    assert named[0]["value"] == text.replace("\n", "\\n") and named[0]["expected"]
    assert {int(v["line"]) for v in found} == {line}


JUNK = ['"', ",", "\n", "\r", "\0", " ", "[", "]", "0", "-", ".", "x", "\xff", "\xc3", "e5", "１", "NaN", "_"]
BETWEEN = ["\n", '"', '""', ",", "\r\n", "  ", "\n\n", '"a\nb"', "[1,2]", 'x,"two\nlines",y\n', ', "', '",', "é"]


def fuzz(rng, rows):
    """Damage a few random places of a file."""
    data = bytearray("\n".join(rows).encode() + b"\n")
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(rows[0]) + 1, len(data))
        kind = rng.randrange(6)
        if kind == 0:
            data[at : at + 1] = rng.choice(JUNK).encode("latin-1", "ignore")
        elif kind == 1:
            del data[at : at + rng.randint(1, 30)]
        elif kind == 2:
            data[at:at] = rng.choice(BETWEEN).encode()
        elif kind == 3:  # a repeated line
            end = data.find(b"\n", at) + 1
            data[end:end] = data[data.rfind(b"\n", 0, at) + 1 : end]
        elif kind == 4:  # the next cell emptied
            start = data.find(b",", at) + 1
            del data[start : data.find(b",", start)]
        else:  # a changed digit
            digits = [place for place in range(at, min(at + 20, len(data))) if chr(data[place]).isdigit()]
            for place in digits[:1]:
                data[place] = ord(rng.choice("0123456789"))
    return bytes(data)


def start_two_processes(monkeypatch):
    """Check files of any size with two processes, on a machine of any size."""
    monkeypatch.setattr(validator, "PARALLEL_BYTES", 0)
    monkeypatch.setattr(validator, "usable_cores", lambda: 2)


def outcome(path, exact, block_bytes, monkeypatch):
    monkeypatch.setattr(validator, "BLOCK_BYTES", block_bytes)
    found = []
    with monkeypatch.context() as patch:
        if exact:
            patch.setattr(validator, "_split", lambda plan, data: None)
            patch.setattr(validator, "check_column", check_exactly)
        result = validate(make_plan(path), Tally(1, found.append))
    profiles = {name: (p.n, p.missing, p.invalid, p.classes) for name, p in result.profiles.items()}
    return found, result.n_rows, profiles, {k: sorted(v.tolist()) for k, v in result.sample.items()}


def test_the_fast_check_never_misses_what_the_exact_one_reports(rows, tmp_path, monkeypatch):
    rng = random.Random(5)
    monkeypatch.setattr(validator.csv_stream, "MAX_RECORD_BYTES", 6_000)
    kinds = set()
    for number in range(16):
        path = tmp_path / f"{number}.csv"
        path.write_bytes(fuzz(rng, rows[:40]))
        exact = outcome(path, True, 1 << 20, monkeypatch)
        fast = outcome(path, False, 1 << 20, monkeypatch)
        assert fast == exact, number
        assert outcome(path, False, 9_000, monkeypatch) == exact, f"{number}: another block size"
        if number < 2:
            with monkeypatch.context() as patch:
                start_two_processes(patch)
                assert outcome(path, False, 9_000, patch) == exact, f"{number}: two processes"
        kinds |= {v.code for v in exact[0]}
    assert len(kinds) >= 12, f"the fuzzing damages too little: {kinds}"


def test_counts_are_exact_and_the_limit_on_examples_is_stated(rows, tmp_path):
    damaged = [rows[0], *(with_cell(row, rows[0], "tx_power_dbm", "99") for row in rows[1:])]
    report = tmp_path / "report.json"
    path = write(tmp_path / "links.csv", damaged)
    found = violations_of(path, tmp_path, "--report", str(report), "--max-examples", "3")
    value = json.loads(report.read_text())
    assert len(found) == value["violations"] == value["counts"]["out_of_range"] == 300
    assert len(value["examples"]["out_of_range"]) == value["examples_capped_at"] == 3
    assert value["examples_left_out"] == {"out_of_range": 297}
    assert value["examples"]["out_of_range"][0]["line"] == 2 and not value["clean"]
    assert value["columns"]["tx_power_dbm"]["invalid"] == 300


@pytest.mark.parametrize("spill_rows", [40, 1])  # 1: nothing stays in memory after the last block
def test_repeats_are_found_far_apart_and_after_spilling_to_disk(rows, tmp_path, monkeypatch, spill_rows):
    monkeypatch.setattr(duplicates, "SPILL_ROWS", spill_rows)
    monkeypatch.setattr(validator, "BLOCK_BYTES", 9000)
    again = [*rows, rows[5], rows[1]]
    found = violations_of(write(tmp_path / "links.csv", again), tmp_path)
    assert places(found) == {(302, "scenario_id", "duplicate_row"), (303, "scenario_id", "duplicate_row")}
    assert {v["value"]: v["expected"] for v in found} == {
        "L00000005": "content that differs from line 6",
        "L00000001": "content that differs from line 2",
    }


def test_copies_of_an_oversampled_set_can_be_allowed_but_not_copies_under_other_ids(rows, tmp_path):
    report = tmp_path / "report.json"
    path = write(tmp_path / "links.csv", [*rows, rows[5], "L77777777" + rows[9][9:]])
    found = violations_of(path, tmp_path, "--allow-copies", "--report", str(report))
    assert places(found) == {(303, "scenario_id", "duplicate_row")}
    assert json.loads(report.read_text())["exact_copies"] == 1


def test_a_group_in_two_splits_is_reported(rows, tmp_path):
    site = rows[0].split(",").index("site_id")
    sites = [cells_of(row)[site] for row in rows[1:]]
    side = ["train" if int(name[1:]) % 4 else "test" for name in sites]
    split = [rows[0] + ",split", *(f"{row},{part}" for row, part in zip(rows[1:], side, strict=True))]
    assert violations_of(write(tmp_path / "links.csv", split), tmp_path) == []
    twin = next(i for i in range(1, 300) if sites[i] == sites[i - 1])
    split[twin + 1] = rows[twin + 1] + (",test" if side[twin] == "train" else ",train")
    found = violations_of(write(tmp_path / "links.csv", split), tmp_path)
    assert (twin + 2, "site_id", "group_overlap") in places(found)


ANY = "name,colour,size,when,score\n" + "".join(
    f"n{i},{['red', 'green', 'deep blue'][i % 3]},{i * 0.5},2024-01-{i % 28 + 1:02d},{i % 7}\n" for i in range(200)
)


def test_any_csv_is_checked_against_the_kinds_its_cells_suggest(tmp_path):
    path = tmp_path / "any.csv"
    path.write_text(ANY)
    options = ["--id-field", "name", "--target-field", "score"]
    assert violations_of(str(path), tmp_path, *options) == []
    lines = ANY.splitlines()
    lines[10] = "n9,Red,4.5,2024-01-10,2"
    lines[20] = "n19,green,9_5,2024-01-20,5"
    lines[30] = "n29,,14.5,2024-01-02,1"
    lines[40] = "n39,red,19.5,2024-01-12,"
    lines[50] = "n12,green,24.5,2024-01-22,0"
    lines[60] = "n59,deep blue,NaN,2024-01-04,3.0"
    path.write_text("\n".join(lines))
    assert places(violations_of(str(path), tmp_path, *options)) == {
        (11, "colour", "spelling_variant"),
        (21, "size", "number_format"),
        (41, "score", "missing_value"),
        (51, "name", "duplicate_id"),
        (61, "score", "not_an_integer"),
    }


def test_prose_with_quotes_line_breaks_and_windows_line_ends_is_clean(tmp_path):
    path = tmp_path / "prose.csv"
    body = "".join(f'{i},"He said ""{i}"",\nand left; né à Köln",ok\r\n' for i in range(50))
    path.write_bytes(("id,text,label\r\n" + body).encode())
    assert violations_of(str(path), tmp_path, "--target-field", "label", "--id-field", "id") == []


@pytest.mark.parametrize("n_processes", [1, 2])
def test_blocks_that_end_inside_a_quoted_cell_lose_no_row_and_line_error(tmp_path, monkeypatch, n_processes):
    if n_processes == 2:
        start_two_processes(monkeypatch)
    monkeypatch.setattr(validator, "BLOCK_BYTES", 400)
    monkeypatch.setattr(validator.csv_stream, "MAX_RECORD_BYTES", 300)
    path = tmp_path / "prose.csv"
    lines = ["id,text"] + [f'{i},"line one\n\nof {i},\n""quoted"""' for i in range(200)]
    lines[150] = "1\u00a0,plain"
    path.write_text("\n".join(lines) + "\n")
    report = tmp_path / "report.json"
    found = violations_of(str(path), tmp_path, "--id-field", "id", "--report", str(report))
    assert places(found) == {(2 + 149 * 4, "id", "outer_space")}
    assert json.loads(report.read_text())["rows"] == 200


def test_a_given_schema_is_applied_and_a_wrong_one_refused(tmp_path, capsys):
    path, schema = tmp_path / "any.csv", tmp_path / "schema.json"
    path.write_text(ANY)
    columns = [{"name": name, "role": "input", "kind": "str"} for name in ("name", "colour", "when")]
    columns.insert(2, {"name": "size", "role": "input", "kind": "float", "low": 0, "high": 90, "decimals": 1})
    columns.append({"name": "score", "role": "target", "kind": "int", "class_target": True})
    schema.write_text(json.dumps({"columns": columns}))
    found = violations_of(str(path), tmp_path, "--schema", str(schema))
    assert places(found) == {(line, "size", "out_of_range") for line in range(183, 202)}
    schema.write_text('{"columns": [{"name": "size"}]}')
    assert validate_dataset.main([str(path), "--schema", str(schema)]) == 2
    assert "needs name, role and kind" in capsys.readouterr().err


def test_drift_against_an_earlier_file_is_reported_and_is_not_a_violation(rows, tmp_path):
    header = rows[0]
    moved = [with_cell(row, header, "rain_mm_h", f"{40 + i % 30}.0") for i, row in enumerate(rows[1:])]
    path, earlier = write(tmp_path / "links.csv", [header, *moved]), write(tmp_path / "before.csv", rows)
    report = tmp_path / "report.json"
    assert validate_dataset.main([path, "--against", earlier, "--report", str(report)]) == 0
    value = json.loads(report.read_text())["drift"]
    assert value["drifted"] == ["rain_mm_h"] and value["shifted"] == []
    assert value["columns"]["rain_mm_h"]["ks"] > 0.8
    assert value["columns"]["regulatory_domain"]["total_variation"] == 0


def test_field_data_without_hidden_columns_is_clean_with_a_note(rows, tmp_path):
    visible = [join(cells_of(row)[:21]) for row in rows]
    report = tmp_path / "report.json"
    assert violations_of(write(tmp_path / "field.csv", visible), tmp_path, "--report", str(report)) == []
    assert "hidden columns" in json.loads(report.read_text())["notes"][0]


def test_outputs_that_cannot_be_written_are_refused_before_any_work(rows, tmp_path, capsys, monkeypatch):
    path = write(tmp_path / "links.csv", rows)
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(validation_plan, "make_plan", lambda *words, **how: pytest.fail("the file was read"))
    for report, violations, said in (
        ("", "new", "is a folder"), ("new", "", "is a folder"), ("file/x", "new", "cannot"),
        ("new", "file/x", "cannot"), ("file", "new", "--force"), ("new", "file", "--force"),
        ("new", "new", "given twice"), ("new.json", "new.manifest.json", "given twice"),
    ):  # fmt: skip
        words = ["--report", str(tmp_path / report), "--violations", str(tmp_path / violations)]
        assert validate_dataset.main([path, *words]) == 2
        assert said in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "links.csv"]


@pytest.mark.parametrize("change", [("rssi_dbm", "sinr_db"), ("rain_mm_h", "lat_a"), ("site_id", "scenario_id")])
def test_a_wrong_name_in_the_header_does_not_blame_the_rows(rows, tmp_path, change):
    header = rows[0].split(",")
    a, b = map(header.index, change)
    swapped, doubled = list(header), list(header)
    swapped[a], swapped[b] = header[b], header[a]
    doubled[a] = header[b]
    for names, code in ((swapped, "column_order"), (doubled, "bad_header")):
        found = violations_of(write(tmp_path / "links.csv", [",".join(names), *rows[1:]]), tmp_path)
        assert {v["line"] for v in found} == {"1"} and code in {v["code"] for v in found}
    moved = [join([cells[b] if i == a else cells[a] if i == b else cells[i] for i in range(len(cells))])
             for cells in map(cells_of, rows)]  # fmt: skip
    damaged = [*moved[:5], with_cell(moved[5], moved[0], "rain_mm_h", "wet"), *moved[6:]]
    found = violations_of(write(tmp_path / "links.csv", damaged), tmp_path)  # names and cells are swapped together
    assert {v["code"] for v in found} == {"column_order", "not_a_number"}
    assert {v["line"] for v in found} == {"1", "6"}


def test_a_header_without_rows_fails_the_check(rows, tmp_path):
    found = violations_of(write(tmp_path / "links.csv", rows[:1]), tmp_path)
    assert places(found) == {(2, "", "no_rows")}


def test_a_worker_that_is_killed_ends_the_run_with_exit_2(rows, tmp_path, monkeypatch, capsys):
    start_two_processes(monkeypatch)
    monkeypatch.setattr(validator, "check_block", lambda *words, **named: os.kill(os.getpid(), signal.SIGKILL))
    path, report = write(tmp_path / "links.csv", rows), tmp_path / "r.json"
    assert validate_dataset.main([path, "--report", str(report)]) == 2
    assert "a worker process was killed" in capsys.readouterr().err and not report.exists()


def test_a_run_imports_nothing_it_does_not_need(rows, tmp_path):
    path = write(tmp_path / "links.csv", [*rows, with_cell(rows[1], rows[0], "rain_mm_h", "wet")])
    heavy = "torch pandas scipy sklearn"
    said = f"import atexit, sys\natexit.register(lambda: print([n for n in {heavy.split()} if n in sys.modules]))\n"
    code = said + f"sys.argv = ['x', {path!r}]\nimport runpy\nrunpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=SCRIPT.parent, check=False)
    assert (done.returncode, done.stdout) == (1, "[]\n"), done.stderr


TREES = "kind;height;side\n" + "".join(
    f"{'fir' if i % 3 else 'oak'};{i * 7 % 40},5;{'ns'[i % 2]}{i}\n" for i in range(60)
)

WRITTEN_OTHERWISE = [
    ("german", TREES, [], []),
    ("bom", "\ufeff" + TREES.replace(",", ".").replace(";", ","), [], []),
    ("row names", TREES.replace("kind", ";kind", 1).replace("\nfir", "\n1;fir").replace("\noak", "\n2;oak"), [], []),
    ("empty rows at the end", TREES + ";;\n\n", [], []),
    ("two empty cells", TREES.replace("fir;7,5;", "fir;;").replace("fir;14,5;", "fir;;"), [], []),
    ("one empty cell of 60, none allowed", TREES.replace("fir;7,5;", "fir;;", 1), ["--allow-missing", "0"],
     [(3, "height", "missing_value")]),
    ("a class that is none", TREES.replace("\noak", "\nNA", 1), ["--target-field", "kind"],
     [(2, "kind", "missing_value")]),
    ("odd cell", TREES.replace(";7,5;", ";-;", 1), [], [(3, "height", "not_a_number")]),
    ("odd cell called missing", TREES.replace(";7,5;", ";-;", 1), ["--missing", "-"], []),
    ("ragged row", TREES.replace("fir;7,5;", "fir;", 1), [], [(3, "", "ragged_row")]),
    ("repeated row without an id", TREES + TREES.splitlines()[4] + "\n", [], []),  # a note: it may be chance
]  # fmt: skip


@pytest.mark.parametrize(("text", "options", "found"), [case[1:] for case in WRITTEN_OTHERWISE],
                         ids=[case[0] for case in WRITTEN_OTHERWISE])  # fmt: skip
def test_a_table_written_otherwise_is_checked_with_the_persons_own_lines(tmp_path, text, options, found):
    path = tmp_path / "trees.csv"
    path.write_bytes(text.encode())
    assert places(violations_of(str(path), tmp_path, *options)) == set(found)


def test_a_table_of_damaged_rows_only_says_why(tmp_path, capsys):
    path = tmp_path / "trees.csv"
    path.write_text("a,b,c\n" + "1,2\n" * 5)
    assert validate_dataset.main([str(path)]) == 2
    assert "no row can be read: line 2: 2 cells; the header has 3" in capsys.readouterr().err
    path.write_text("a,b,c\n" + "1,2\n" * 5 + "1,2,3\n")
    assert validate_dataset.main([str(path)]) == 1
    assert f"{path}:2: 2 cells; the header has 3 [ragged_row, 5 in all]" in capsys.readouterr().err


def test_no_cell_of_the_violations_starts_a_formula(tmp_path):
    path = tmp_path / "trees.csv"
    path.write_text("kind,size\n" + "oak,1\nfir,2\n" * 40 + '"=1+1",@SUM(0)\n')
    out = tmp_path / "violations.csv"
    validate_dataset.main([str(path), "--violations", str(out)])
    with out.open(newline="") as handle:
        cells = [cell for row in csv.reader(handle) for cell in row]
    assert "'@SUM(0)" in cells and not [cell for cell in cells if cell[:1] in "=+-@" and cell]
