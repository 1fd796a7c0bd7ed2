"""New rows are answered without their targets, in file order, held to what is legal for each."""

import csv
import hashlib
import json
import shutil

import generate_synthetic_smoke
import predict
import pytest


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A model folder as finetune leaves it (untrained weights serve here), and a CSV without targets."""
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


def test_a_csv_without_a_shown_column_is_refused_by_name(asked, tmp_path, capsys):
    folder, _ = asked
    (tmp_path / "short.csv").write_text("scenario_id,rssi_dbm\nL1,[-60]\n")
    words = ["--model", f"{folder}/model", "--csv", f"{tmp_path}/short.csv", "--out", f"{tmp_path}/answers.csv"]
    assert predict.main(words) == 2
    assert "no column 'regulatory_domain'" in capsys.readouterr().err
    assert not (tmp_path / "answers.csv").exists()


def test_a_row_whose_lists_differ_in_length_is_refused_by_line(asked, tmp_path, capsys):
    folder, rows = asked
    text = (folder / "new.csv").read_text().splitlines(keepends=True)
    cell = rows[1]["noise_dbm"]
    text[2] = text[2].replace(cell, cell.replace("[", "[-90,", 1))
    (tmp_path / "odd.csv").write_text("".join(text))
    words = ["--model", f"{folder}/model", "--csv", f"{tmp_path}/odd.csv", "--out", f"{tmp_path}/answers.csv"]
    assert predict.main(words) == 2
    assert "odd.csv:3: " in capsys.readouterr().err


def test_a_model_folder_without_task_is_refused(tmp_path, asked, capsys):
    folder, _ = asked
    words = ["--model", str(tmp_path), "--csv", f"{folder}/new.csv", "--out", f"{tmp_path}/answers.csv"]
    assert predict.main(words) == 2
    assert "no task.json" in capsys.readouterr().err


def test_rows_unlike_the_training_rows_are_never_answered_in_silence(asked, tmp_path, capsys):
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
    assert first["recommended_channel_mhz"] and not first["error"]
    assert second["error"] == "link_distance_m = 'far' is not a number"
    assert second["recommended_channel_mhz"] == ""
    assert third["error"] == third["warning"] == "" and third["recommended_channel_mhz"]
    said = capsys.readouterr().err
    assert "1 of them without a full answer (column error), 1 unlike the training rows (column warning)" in said
