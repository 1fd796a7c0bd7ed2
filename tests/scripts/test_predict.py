"""New rows are answered without their targets, in file order, each with a legal answer."""

import csv
import hashlib
import json
import math
import shutil

import generate_synthetic_smoke
import predict
import pytest


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A model folder like finetune's (untrained weights are enough here), and a CSV without targets."""
    from linklab.models.load import make_tiny
    from linklab.tasks.task import make_task

    folder = tmp_path_factory.mktemp("predict")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LINKLAB_CACHE", str(folder / "cache"))
        shutil.copytree(make_tiny(), folder / "model")
    assert generate_synthetic_smoke.main(["--out-dir", str(folder / "data")]) == 0
    full = folder / "data" / "links.csv"
    (folder / "model" / "task.json").write_text(json.dumps(make_task(full).to_dict()))
    hidden = {"recommended_channel_mhz", "expected_throughput_mbps", "channel_throughput_mbps", "weather_condition"}
    with open(full, newline="") as source, open(folder / "new.csv", "w", newline="") as target:
        rows = list(csv.DictReader(source))[:6]
        names = [name for name in rows[0] if name not in hidden]
        writer = csv.DictWriter(target, names, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return folder, rows


def test_every_new_row_gets_a_legal_channel_with_its_probability(asked, tmp_path):
    folder, rows = asked
    out = tmp_path / "answers.csv"
    assert predict.main(["--model", f"{folder}/model", "--csv", f"{folder}/new.csv", "--out", str(out)]) == 0
    answers = list(csv.DictReader(out.open(newline="")))
    assert [answer["id"] for answer in answers] == [row["scenario_id"] for row in rows]
    for answer, row in zip(answers, rows, strict=True):
        legal = json.loads(row["available_channels_mhz"])
        assert int(answer["recommended_channel_mhz"]) in legal
        assert 1 / len(legal) <= float(answer["recommended_channel_mhz_probability"]) + 1e-4 <= 1.0001


def test_max_rows_answers_the_rows_every_script_chooses_in_the_order_of_the_file(asked, tmp_path):
    folder, rows = asked
    ids = [row["scenario_id"] for row in rows]
    chosen = sorted(ids, key=lambda row_id: hashlib.sha256(f"rank:{row_id}".encode()).digest())[:2]
    out = tmp_path / "answers.csv"
    words = ["--model", f"{folder}/model", "--csv", f"{folder}/new.csv", "--out", str(out), "--max-rows", "2"]
    assert predict.main(words) == 0
    answered = [answer["id"] for answer in csv.DictReader(out.open(newline=""))]
    assert answered == sorted(chosen, key=ids.index)


def test_a_row_with_lists_of_different_lengths_is_refused_with_its_line(asked, tmp_path, capsys):
    folder, rows = asked
    text = (folder / "new.csv").read_text().splitlines(keepends=True)
    cell = rows[1]["noise_dbm"]
    text[2] = text[2].replace(cell, cell.replace("[", "[-90,", 1))
    (tmp_path / "odd.csv").write_text("".join(text))
    words = ["--model", f"{folder}/model", "--csv", f"{tmp_path}/odd.csv", "--out", f"{tmp_path}/answers.csv"]
    assert predict.main(words) == 2
    assert "odd.csv:3: " in capsys.readouterr().err


def test_rows_unlike_the_training_rows_are_never_answered_without_a_warning(asked, tmp_path, capsys):
    from linklab.tasks.examples import read_examples
    from linklab.tasks.input_checks import INPUTS_FILE, describe_inputs
    from linklab.tasks.task import Task

    folder, rows = asked
    shutil.copytree(folder / "model", tmp_path / "model")
    task = Task.from_dict(json.loads((folder / "model" / "task.json").read_text()))
    seen = describe_inputs(read_examples(folder / "data" / "links.csv", task), task)
    (tmp_path / "model" / INPUTS_FILE).write_text(json.dumps(seen))
    strange = [dict(row) for row in rows[:3]]
    strange[0]["regulatory_domain"] = "Germany"
    strange[1]["link_distance_m"] = "far"
    with open(tmp_path / "new.csv", "w", newline="") as handle:
        writer = csv.DictWriter(handle, strange[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(strange)
    words = ["--model", f"{tmp_path}/model", "--csv", f"{tmp_path}/new.csv", "--out", f"{tmp_path}/answers.csv"]
    assert predict.main(words) == 0
    first, second, third = csv.DictReader((tmp_path / "answers.csv").open(newline=""))
    assert first["warning"].startswith("regulatory_domain = Germany: training saw only ")
    assert first["error"] == "regulatory_domain = Germany: one of FCC, ETSI, ETSI_BFWA expected"
    assert first["recommended_channel_mhz"] == ""
    assert second["error"].startswith("link_distance_m = far: ")
    assert second["recommended_channel_mhz"] == ""
    assert third["error"] == third["warning"] == "" and third["recommended_channel_mhz"]
    said = capsys.readouterr().err
    assert "2 of them without a full answer (column error), 1 unlike the training rows (column warning)" in said


def as_set(row, **changes):
    """Return the arguments that give a row of links on the command line."""
    names = ("regulatory_domain", "radio_standard", "channel_bandwidth_mhz", "link_distance_m", "tx_power_dbm",
             "antenna_gain_dbi", "radar_events_per_day", "available_channels_mhz", "rssi_dbm", "noise_dbm",
             "busy_pct")  # fmt: skip
    return ["--set", *(f"{name}={changes.get(name, row[name].strip('[]'))}" for name in names)]


def test_every_row_keeps_its_columns_and_ranks_every_channel_with_its_throughput(asked, tmp_path):
    folder, rows = asked
    out = tmp_path / "answers.csv"
    data = folder / "data" / "links.csv"
    words = ["--model", f"{folder}/model", "--csv", str(data), "--max-rows", "3", "--out", str(out)]
    assert predict.main(words) == 0
    of_id = {row["scenario_id"]: row for row in csv.DictReader(data.open(newline=""))}
    answers = list(csv.DictReader(out.open(newline="")))
    assert len(answers) == 3
    for answer in answers:
        row = of_id[answer["id"]]
        ranking = json.loads(answer["recommended_channel_mhz_ranking"])
        assert sorted(channel for channel, _ in ranking) == sorted(map(str, json.loads(row["available_channels_mhz"])))
        assert ranking[0][0] == answer["recommended_channel_mhz"]
        worths = [worth for _, worth in ranking]
        assert worths == sorted(worths, reverse=True) and worths[-1] >= 0 and worths[0] <= 2410
        assert answer["recommended_channel_mhz_given"] == row["recommended_channel_mhz"]  # in its own column
        assert all(answer[name] == row[name] for name in ("site_id", "rssi_dbm", "weather_condition"))


def test_one_row_in_the_command_is_answered_as_in_a_csv_and_compared_with_the_formula(asked, tmp_path, capsys):
    folder, rows = asked
    model = ["--model", f"{folder}/model"]
    assert predict.main([*model, *as_set(rows[0]), "--out", str(tmp_path / "one.csv")]) == 0
    header, *lines, last = capsys.readouterr().out.splitlines()
    shown = ["recommended_channel_mhz", "expected", "Mbit/s", "best", "with", "probability", "snr_and_busy", "formula"]
    assert header.split() == shown
    legal = list(map(str, json.loads(rows[0]["available_channels_mhz"])))
    assert sorted(line.split()[0] for line in lines) == sorted(legal)
    with (tmp_path / "alone.csv").open("w", newline="") as alone:
        writer = csv.DictWriter(alone, rows[0].keys())
        writer.writeheader()
        writer.writerow(rows[0])
    assert predict.main([*model, "--csv", str(tmp_path / "alone.csv"), "--out", str(tmp_path / "two.csv")]) == 0
    assert capsys.readouterr().out.splitlines() == [header, *lines, last], "a CSV of one row prints the same table"
    assert predict.main([*model, "--csv", f"{folder}/new.csv", "--out", str(tmp_path / "all.csv")]) == 0
    (one,) = csv.DictReader((tmp_path / "one.csv").open(newline=""))
    whole = next(csv.DictReader((tmp_path / "all.csv").open(newline="")))
    assert one["recommended_channel_mhz"] == whole["recommended_channel_mhz"]
    # For an untrained model all numbers are nearly equally likely: rounding in another batch moves the median a little.
    assert abs(int(one["expected_throughput_mbps"]) - int(whole["expected_throughput_mbps"])) <= 20
    assert lines[0].split()[0] == one["recommended_channel_mhz"]
    assert last.startswith(f"recommended_channel_mhz = {one['recommended_channel_mhz']}, expected_throughput_mbps = ")
    best = max(lines, key=lambda line: float(line.split()[-1])).split()[0]  # by the formula
    agrees = best == one["recommended_channel_mhz"]
    assert last.endswith("the formula agrees" if agrees else f"the formula takes {best}")
    row = {name: json.loads(rows[0][name]) for name in ("available_channels_mhz", "rssi_dbm", "noise_dbm", "busy_pct")}
    rates = {  # Shannon's capacity per Hz, times the idle share of the channel
        str(channel): math.log2(1 + 10 ** ((signal - noise) / 10)) * (1 - busy / 100)
        for channel, signal, noise, busy in zip(*row.values(), strict=True)
    }
    for line in lines:
        assert float(line.split()[-2]) == pytest.approx(rates[line.split()[0]], rel=1e-3)
    simple = max(rates, key=rates.get)
    said = "agrees" if simple == one["recommended_channel_mhz"] else f"takes {simple}"
    assert f"; the rule snr_and_busy {said}; " in last


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"regulatory_domain": "Germany"}, "regulatory_domain = Germany: one of FCC, ETSI, ETSI_BFWA expected"),
        ({"channel_bandwidth_mhz": "37"}, "channel_bandwidth_mhz = 37: one of 20, 40, 80, 160 MHz expected"),
        ({"available_channels_mhz": "106,122"}, "available_channels_mhz = [106,122]: "),
        ({"available_channels_mhz": "5191,5530,5775"}, "available_channels_mhz = [5191,5530,5775]: centres "),
        ({"busy_pct": "0.3,0.1,0"}, "busy_pct = [0.3,0.1,0]: "),
        ({"noise_dbm": "90,91,92"}, "noise_dbm = [90,91,92]: "),
        ({"link_distance_m": "far"}, "link_distance_m = far: "),
    ],
)
def test_a_row_of_an_impossible_link_is_refused_and_its_column_named(asked, capsys, changes, said):
    folder, rows = asked
    base = {"regulatory_domain": "FCC", "channel_bandwidth_mhz": "80", "available_channels_mhz": "5210,5530,5775",
            "rssi_dbm": "-60,-61,-62", "noise_dbm": "-90,-91,-92", "busy_pct": "0,1,2"}  # fmt: skip
    if changes.get("available_channels_mhz") == "106,122":
        base |= {"rssi_dbm": "-60,-61", "noise_dbm": "-90,-91", "busy_pct": "0,1"}
    assert predict.main(["--model", f"{folder}/model", *as_set(rows[0], **(base | changes))]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "colour=red"], "--set colour=red: COLUMN=VALUE is expected; the columns are: "),
        (["--set", "rssi_dbm"], "--set rssi_dbm: COLUMN=VALUE is expected"),
        (["--set", "rssi_dbm=1", "rssi_dbm=2"], "--set rssi_dbm: duplicate value"),
        (["--set", "rssi_dbm=1"], "--set: no value for regulatory_domain, "),
        (["--csv", "new.csv"], "--out is needed with --csv"),
    ],
)
def test_a_command_without_a_complete_row_is_refused(asked, capsys, words, said):
    assert predict.main(["--model", f"{asked[0]}/model", *words]) == 2
    assert said in capsys.readouterr().err


def test_standard_input_and_output_serve_as_files(asked, tmp_path, capsys, monkeypatch):
    folder, _ = asked
    model = ["--model", f"{folder}/model"]
    assert predict.main([*model, "--csv", f"{folder}/new.csv", "--out", str(tmp_path / "answers.csv")]) == 0
    capsys.readouterr()
    with open(folder / "new.csv") as handle:
        monkeypatch.setattr("sys.stdin", handle)
        assert predict.main([*model, "--csv", "-", "--out", "-"]) == 0
    assert capsys.readouterr().out == (tmp_path / "answers.csv").read_text()
