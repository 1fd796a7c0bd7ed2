"""run_learning_curve.py: nested sizes on one test set, fitted curves, and every run once despite kills."""

import csv
import hashlib
import importlib
import json
import multiprocessing
import os
import random
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import run_learning_curve
from linklab import files, manifest, pipeline
from linklab.manifest import MANIFEST, staged_folder, write_manifest
from linklab.metrics import metrics
from linklab.metrics.metric_table import METRICS
from linklab.metrics.predictions import Prediction
from linklab.studies import learning_curve, study_cost
from linklab.studies.options import MEASURED
from linklab.tasks.source import Source, open_source

SIZES = ["32", "64", "128", "256"]


def share_right(rows):
    return 1 - 2.2 * rows**-0.5


def parse(command):
    script = importlib.import_module(Path(command[1]).stem)
    return Path(command[1]).stem, script.build_parser().parse_args(command[2:])


def stand_in(ledger, fails=lambda args: 0, pause_s=0.0):
    """A replacement for pipeline.call: trainings write their files at once, and accuracy depends on the rows.

    Every command is parsed by its script's own parser. Baselines really run, in this process. `ledger` gets a line for
    every finished stage, and the file `begun` beside it a line for every started one.
    """

    def call(command, *, log=None, hold=(), watch=None):
        stem, args = parse(command)
        folder = Path(args.out_dir)
        note(ledger.with_name("begun"), folder)
        if stem == "run_baselines":
            return importlib.import_module(stem).main(command[2:])
        if code := fails(args):
            print("error: out of memory; lower something", file=log, flush=True)
            return code
        time.sleep(pause_s)
        if stem == "finetune_gemma_from_csv":
            files.write_text(folder / "model" / "rows", f"{args.max_rows} {args.seed}", force=True)
            settings = {"per_device_batch_size": args.per_device_batch_size or 8,
                        "gradient_accumulation_steps": args.gradient_accumulation_steps}  # fmt: skip
            facts = {"seconds": 3.0 + 0.5 * (args.max_steps or 0), "peak_memory_mb": 900.0, "settings": settings,
                     "rows": 1, "items": 1}  # fmt: skip
            files.write_json(folder / "metrics.json", facts, force=True)
            finish(folder, command, ["model", "metrics.json"])
        else:
            rows, seed = (Path(args.model) / "rows").read_text().split()
            task, read = open_source(Source.from_args(args))
            examples = read(args.split, args.max_rows)
            right = {example.id: luck(example.id, seed) < share_right(int(rows)) for example in examples}
            answers = {
                e.id: Prediction(e.id, "", {"kind": e.answer if right[e.id] else next(
                    choice for choice in e.choices["kind"] if choice != e.answer)}) for e in examples
            }  # fmt: skip
            with staged_folder(folder, script=command[1], force=args.force) as made:
                metrics.write_run(made, examples, answers, task, model="m", role="tuned", cost={"seconds": 4.0})
                finish(made, command, sorted(path.name for path in made.iterdir()))
        note(ledger, folder)
        return 0

    return call


def finish(folder, command, names):
    outputs = {folder / name: None for name in names}
    write_manifest(folder, script=command[1], argv=command[2:], seed=None, inputs={}, outputs=outputs)


def note(ledger, folder):
    with open(ledger, "a") as handle:
        handle.write(f"{folder.parent.name}/{folder.name}\n")


def luck(text, seed):
    """A number from 0 to 1 that depends mostly on the row, a little on the seed."""
    parts = [int(hashlib.sha256(part.encode()).hexdigest()[:8], 16) / 2**32 for part in (text, text + seed)]
    return 0.8 * parts[0] + 0.2 * parts[1]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "call", stand_in(tmp_path / "ledger"))
    (tmp_path / "ledger").touch()
    return tmp_path


def words(table, place, *more, sizes=SIZES, seeds=("1", "2"), rows="30"):
    return ["--csv", str(table), "--target-field", "kind", "--base-model", "tiny", "--sizes", *sizes, "--seeds", *seeds,
            "--test-rows", rows, "--out-dir", str(place / "out"), *more]  # fmt: skip


def study_of(place):
    found = list((place / "out").glob("study-*"))
    assert len(found) == 1
    return found[0]


def lines_of(folder):
    with open(folder / "curve.csv", newline="") as handle:
        return list(csv.DictReader(handle))


@pytest.fixture(scope="module")
def big_table(tmp_path_factory):
    from rule_table import write_rule_table

    return write_rule_table(tmp_path_factory.mktemp("big") / "animals.csv", n=1200)


def test_a_study_writes_its_table_its_curve_and_the_rows_for_a_goal_and_runs_nothing_twice(
    big_table, tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(pipeline, "call", stand_in(tmp_path / "ledger"))
    monkeypatch.setattr(learning_curve, "BESIDE", ("most_frequent",))  # trees take seconds
    asked = words(big_table, tmp_path, "--goal", "accuracy=0.9", rows="100")
    assert run_learning_curve.main(asked) == 0
    folder = study_of(tmp_path)
    lines = lines_of(folder)
    means = {int(line["rows"]): float(line["value"]) for line in lines if line["seed"] == "mean"}
    assert list(means) == [32, 64, 128, 256]
    for rows, value in means.items():
        assert value == pytest.approx(share_right(rows), abs=0.12)
        seeds = [float(line["value"]) for line in lines if line["predictor"] == "model" and line["rows"] == str(rows)
                 and line["seed"] != "mean"]  # fmt: skip
        assert len(seeds) == 2 and value == pytest.approx(sum(seeds) / 2, abs=1e-5)
    assert {line["predictor"] for line in lines} == {"model", "most_frequent"}
    assert [line["rows"] for line in lines if line["predictor"] == "most_frequent"] == ["32", "64", "128", "256"]
    summary = (folder / "summary.md").read_text()
    assert "Fitted law: 1 − accuracy = " in summary and "- 90.0 % (goal): " in summary
    assert "as good as most_frequent at 256 rows" in summary
    png = (folder / "curve_kind_accuracy.png").read_bytes()
    assert png.startswith(b"\x89PNG") and len(png) > 20_000
    assert "[12/12]" in capfd.readouterr().err
    before = (tmp_path / "ledger").read_text()
    assert Counter(before.split()) == Counter(
        f"rows-{n}-seed-{s}/{part}" for n in SIZES for s in (1, 2) for part in ("finetune", "evaluation")
    )
    assert run_learning_curve.main(asked) == 0
    assert (tmp_path / "ledger").read_text() == before


def test_smaller_training_sets_are_part_of_larger_ones_and_the_test_rows_are_the_same(rule_table, place):
    asked = words(rule_table, place, sizes=["32", "64", "128"])
    args = run_learning_curve.build_parser().parse_args(asked)
    used = {}
    for run in learning_curve.plan_runs(run_learning_curve.read_settings(args), place, None):
        _, training = parse(["python", f"scripts/{run.stages[0].script}", *run.stages[0].words])
        _, asking = parse(["python", f"scripts/{run.stages[1].script}", *run.stages[1].words])
        _, read = open_source(Source.from_args(training))
        test = [example.id for example in open_source(Source.from_args(asking))[1](asking.split, asking.max_rows)]
        used[run.rows, training.seed] = {example.id for example in read("train", training.max_rows)}, test
        assert asking.model == f"{training.out_dir}/model"
    assert len(used) == 6 and len({tuple(test) for _, test in used.values()}) == 1
    for seed in (1, 2):
        assert used[32, seed][0] < used[64, seed][0] < used[128, seed][0]
        assert [len(used[n, seed][0]) for n in (32, 64, 128)] == [32, 64, 128]


def test_a_failing_run_is_kept_with_its_error_and_does_not_end_the_study(rule_table, place, monkeypatch, capfd):
    fails = lambda args: 2 if "rows-64-seed-2" in args.out_dir else 0  # noqa: E731
    monkeypatch.setattr(pipeline, "call", stand_in(place / "ledger", fails))
    asked = words(rule_table, place, "--no-baselines", sizes=["32", "64"])
    assert run_learning_curve.main(asked) == 1
    told = capfd.readouterr().err
    lines = lines_of(study_of(place))
    assert [line["error"] for line in lines if line["error"]] == ["exit code 2: out of memory; lower something"]
    assert [(line["rows"], line["seed"]) for line in lines if line["error"]] == [("64", "2")]
    assert {line["rows"] for line in lines if line["seed"] == "mean"} == {"32", "64"}
    assert "1 of 4 runs failed" in told
    assert "rows-64-seed-2: exit code 2: out of memory" in (study_of(place) / "summary.md").read_text()
    monkeypatch.setattr(pipeline, "call", stand_in(place / "ledger"))
    assert run_learning_curve.main(asked) == 1  # the failed run is kept, and tried again only on request
    assert run_learning_curve.main([*asked, "--retry-failed"]) == 0
    assert len((place / "ledger").read_text().split()) == 8


def test_a_run_without_its_results_has_failed_and_the_missing_file_is_named(rule_table, place, monkeypatch):
    monkeypatch.setattr(pipeline, "call", lambda command, **_: 0)
    assert run_learning_curve.main(words(rule_table, place, "--no-baselines", sizes=["32"], seeds=["1"])) == 1
    (line,) = lines_of(study_of(place))
    assert line["error"] == "exit code 0, but not finished (not run yet)"


def test_a_stopped_study_ends_with_the_exit_code_and_continues_later(rule_table, place, monkeypatch):
    stops = lambda args: 143 if "rows-32-seed-2" in args.out_dir else 0  # noqa: E731
    monkeypatch.setattr(pipeline, "call", stand_in(place / "ledger", stops))
    asked = words(rule_table, place, "--no-baselines", sizes=["32", "64"])
    assert run_learning_curve.main(asked) == 143
    assert not list(study_of(place).glob("points/*/error.json"))
    monkeypatch.setattr(pipeline, "call", stand_in(place / "ledger"))
    assert run_learning_curve.main(asked) == 0
    assert set(Counter((place / "ledger").read_text().split()).values()) == {1}


def test_another_setting_starts_another_study_and_another_size_does_not(rule_table, place, capfd):
    assert run_learning_curve.main(words(rule_table, place, "--no-baselines", sizes=["32"], seeds=["1"])) == 0
    first = study_of(place)
    assert run_learning_curve.main(words(rule_table, place, "--no-baselines", sizes=["32", "64"], seeds=["1"])) == 0
    assert study_of(place) == first and len((place / "ledger").read_text().split()) == 4
    capfd.readouterr()
    asked = words(rule_table, place, "--no-baselines", sizes=["32"], seeds=["1"])
    assert run_learning_curve.main([*asked, "--", "--epochs", "2"]) == 0
    assert '(training = [] -> ["--epochs", "2"])' in capfd.readouterr().err
    assert len(list((place / "out").glob("study-*"))) == 2


@pytest.mark.parametrize("name", ["curve.csv", "summary.md", "curve_kind_accuracy.png"])
def test_edited_results_are_named_before_any_run_and_stay(rule_table, place, capfd, name):
    assert run_learning_curve.main(words(rule_table, place, "--no-baselines", sizes=["32"], seeds=["1"])) == 0
    folder, before = study_of(place), (place / "ledger").read_text()
    assert manifest.find_changed(manifest.read_manifest(folder)["outputs"], folder) is None
    (folder / name).write_text("a person's notes")
    assert run_learning_curve.main(words(rule_table, place, "--no-baselines", sizes=["64"], seeds=["1"])) == 2
    assert f"{name}: was changed after run_learning_curve.py wrote it" in capfd.readouterr().err.splitlines()[-1]
    assert (folder / name).read_text() == "a person's notes" and (place / "ledger").read_text() == before


def test_a_lost_file_repeats_its_run_and_no_other(rule_table, place):
    asked = words(rule_table, place, "--no-baselines", sizes=["32", "64"], seeds=["1"])
    assert run_learning_curve.main(asked) == 0
    (study_of(place) / "points" / "rows-32-seed-1" / "evaluation" / "metrics.json").unlink()
    before = Counter((place / "ledger").read_text().split())
    assert run_learning_curve.main(asked) == 0
    again = Counter((place / "ledger").read_text().split()) - before
    assert again == Counter({"rows-32-seed-1/evaluation": 1})


def work(arguments):
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os._exit(run_learning_curve.main(arguments))


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_workers_that_are_killed_at_random_share_the_runs_and_make_each_once(rule_table, place, monkeypatch):
    monkeypatch.setattr(pipeline, "call", stand_in(place / "ledger", pause_s=0.1))
    asked = words(rule_table, place, "--no-baselines", seeds=["1", "2"], sizes=["32", "64", "128"])
    context, rng, n_kills = multiprocessing.get_context("fork"), random.Random(3), 4

    def start():
        process = context.Process(target=work, args=(asked,))
        process.start()
        return process

    workers = [start(), start()]
    for _ in range(n_kills):
        time.sleep(rng.uniform(0.05, 0.2))
        k = rng.randrange(2)
        workers[k].kill()
        workers[k].join()
        workers[k] = start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    names = {f"rows-{n}-seed-{s}/{part}" for n in (32, 64, 128) for s in (1, 2) for part in ("finetune", "evaluation")}
    begun, made = (Counter((place / name).read_text().split()) for name in ("begun", "ledger"))
    assert set(begun) == names and set(made) <= names
    # A kill costs at most the stage it hits, and can come between a stage's manifest and its line in the ledger.
    assert set(made.values()) == {1} and begun.total() <= len(names) + n_kills
    assert all((study_of(place) / "points" / name / MANIFEST).exists() for name in names)
    assert len([line for line in lines_of(study_of(place)) if line["seed"] == "mean"]) == 3


def test_a_folder_of_conversations_finds_the_csv_for_its_baselines_or_names_the_missing_csv(small_links, tmp_path):
    asked = ["--data", str(small_links / "jsonl"), "--sizes", "32", "--base-model", "tiny"]
    settings = run_learning_curve.read_settings(run_learning_curve.build_parser().parse_args(asked))
    given, names = learning_curve.choose_baselines(settings.source)
    assert given[:2] == ["--csv", str(small_links / "links.csv")]
    assert names == ["most_frequent", "boosting_flat", "boosting_candidates", "boosting_pointwise", "bayes_ceiling"]
    run = learning_curve.plan_runs(settings, tmp_path, (given, names))[-1]
    _, parsed = parse(["python", f"scripts/{run.stages[0].script}", *run.stages[0].words])
    assert parsed.max_train_rows == 32 and parsed.max_rows == 400 and parsed.only == names
    moved = small_links / "links.csv.away"
    (small_links / "links.csv").rename(moved)
    try:
        said = learning_curve.choose_baselines(settings.source)
        assert "links.csv, which" in said and "is gone" in said
    finally:
        moved.rename(small_links / "links.csv")


def test_the_cost_is_steps_and_rows_times_the_measured_seconds():
    found = study_cost.RunCost(start=20.0, step=2.0, checkpoint=5.0, row=0.1, batch=8, device_batch=4,
                        items_per_row=1, epochs=2.0,
                        max_steps=None, save_steps=None, memory_mb=0.0)  # fmt: skip
    assert found.steps(100) == 26  # 25 batches of 4, 13 steps per epoch
    assert found.seconds(100, 400) == pytest.approx(20 + 26 * 2 + 9 * 5 + 40)  # a checkpoint every third step


@pytest.mark.parametrize("rows, epochs, batch, accumulation", [(100, 1.0, 4, 2), (33, 2.0, 4, 2), (64, 0.5, 8, 1)])
def test_the_cost_counts_the_steps_of_the_training(rows, epochs, batch, accumulation):
    from linklab.training import training
    from linklab.training.options import TrainingSettings

    settings = TrainingSettings(
        out_dir="x", epochs=epochs, per_device_batch_size=batch, gradient_accumulation_steps=accumulation
    )
    found = study_cost.RunCost(0, 0, 0, 0, batch * accumulation, batch, 1, epochs, None, None, 0)
    assert found.steps(rows) == training.total_steps(rows, settings)


def test_a_dry_run_estimates_the_cost_of_the_study_and_leaves_no_files(rule_table, place, capfd):
    asked = words(rule_table, place, "--no-baselines", "--dry-run", sizes=["32", "64"])
    assert run_learning_curve.main([*asked, "--", "--epochs", "2", "--validation-rows", "16"]) == 0
    told = capfd.readouterr().err
    assert "32 rows: 2 x " in told and "(8 steps of 0.50 s)" in told and "64 rows: 2 x" in told
    assert "the study in total: 4 models, about " in told
    assert not (place / "out").exists()


def test_the_metrics_of_a_curve_are_metrics_of_the_scorer():
    assert set(MEASURED) < set(METRICS)


REFUSED = [
    (["--sizes", "32", "32"], "--sizes: duplicate value"),
    (["--seeds", "1", "1"], "--seeds: duplicate value"),
    (["--sizes", "5000"], "--sizes 5000: there are only"),
    (["--test-rows", "4000"], "--test-rows 4000: there are only"),
    (["--goal", "speed=3"], "write accuracy=X, mae=X or TARGET/accuracy=X"),
    (["--goal", "accuracy=70"], "an accuracy lies between 0 and 1"),
    (["--", "--seed", "3"], "--seed after `--`: the study sets this option itself"),
]


@pytest.mark.parametrize(("wrong", "said"), REFUSED, ids=[" ".join(wrong) for wrong, _ in REFUSED])
def test_an_impossible_study_is_one_clear_line_and_exit_code_2(rule_table, place, capfd, wrong, said):
    assert run_learning_curve.main([*words(rule_table, place), *wrong]) == 2
    told = capfd.readouterr().err
    assert said in told and "Traceback" not in told
    assert not (place / "out").exists()


@pytest.mark.slow
def test_the_tiny_model_gets_better_with_rows_four_sizes_three_seeds(big_table, tmp_path):
    """With the real scripts, as processes."""
    asked = words(big_table, tmp_path, "--mode", "full", seeds=["1", "2", "3"], rows="100")
    assert (
        run_learning_curve.main([*asked, "--", "--learning-rate", "2e-3", "--epochs", "2", "--validation-rows", "16"])
        == 0
    )
    lines = lines_of(study_of(tmp_path))
    means = [float(line["value"]) for line in lines if line["seed"] == "mean"]
    assert len(means) == 4 and means[-1] > means[0] + 0.2
    assert len([line for line in lines if line["predictor"] == "model" and line["seed"] != "mean"]) == 12
    assert json.loads((study_of(tmp_path) / "manifest.json").read_text())["extra"]["points"] == 12 + 4 * 2
