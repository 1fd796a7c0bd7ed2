"""run_sweep.py: every trial ends once despite kills, no setting is tried twice, failed trials are kept and reported."""

import csv
import json
import multiprocessing
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import finetune_gemma_from_csv
import optuna
import pytest
import run_sweep
from linklab import manifest, pipeline
from linklab.aside import is_left_over
from linklab.studies import sweep
from linklab.studies import trials as trials_room
from linklab.studies.search_space import Axis
from linklab.studies.trials import Trials
from moments import restore, states_during

STUBS = Path(__file__).parents[1] / "stub_scripts"
SPACE = ["--space", "learning_rate=log:1e-4:1e-2", "lora_rank=4,8,16"]


@pytest.fixture
def place(drawing, monkeypatch):
    """Like `drawing`, without importances, which take a second each time."""
    monkeypatch.setattr(sweep, "find_importances", lambda trials: {})
    return drawing


@pytest.fixture
def drawing(rule_table, tmp_path, monkeypatch):
    """A folder in which a stub replaces training; the stub records its runs in `ledger`."""
    monkeypatch.setattr(pipeline, "SCRIPTS", STUBS)
    monkeypatch.setenv("STUB_LEDGER", str(tmp_path / "ledger"))
    (tmp_path / "ledger").touch()
    return tmp_path


def words(rule_table, place, *more, trials=4, space=SPACE):
    return ["--csv", str(rule_table), "--target-field", "kind", "--base-model", "tiny", "--out-dir",
            str(place / "out"), "--trials", str(trials), *space, *more]  # fmt: skip


def ledger(place):
    return Counter(tuple(line.split()) for line in (place / "ledger").read_text().splitlines())


def count_starts(place):
    path = place / "ledger"
    return sum(n for (word, *_), n in ledger(place).items() if word == "start") if path.exists() else 0


def only_study(place):
    found = list((place / "out").glob("study-*"))
    assert len(found) == 1
    return found[0]


def table(folder):
    with open(folder / "trials.csv", newline="") as handle:
        return list(csv.DictReader(handle))


def test_a_sweep_finds_the_best_setting_and_gives_a_command_finetune_takes(rule_table, drawing, capfd):
    place, asked = drawing, words(rule_table, drawing, "--max-rows", "100", "--no-prune", trials=5)
    assert run_sweep.main(asked) == 0
    told = capfd.readouterr()
    folder = only_study(place)
    lines = table(folder)
    assert [line["trial"] for line in lines] == list("01234") and {line["state"] for line in lines} == {"complete"}
    assert len({(line["learning_rate"], line["lora_rank"]) for line in lines}) == 5
    best = min(lines, key=lambda line: float(line["loss"]))
    script, *rest = shlex.split(told.out.splitlines()[-1])[1:]
    args = finetune_gemma_from_csv.build_parser().parse_args(rest)
    assert script == "scripts/finetune_gemma_from_csv.py" and args.max_rows == 100 and args.seed == 1
    assert args.learning_rate == float(best["learning_rate"]) and args.lora_rank == int(best["lora_rank"])
    for name in ("summary.md", "settings.png", "manifest.json"):
        assert (folder / name).stat().st_size > 0
    assert not (folder / "importances.png").exists()
    assert (
        "2 settings need 8 complete trials with different losses, 5 are complete" in (folder / "summary.md").read_text()
    )
    assert told.out.splitlines()[-1] in (folder / "summary.md").read_text()
    assert "[5/5] trial 4" in told.err and "left" in told.err
    before = ledger(place)
    assert before == Counter({(word, f"00{k}"): 1 for k in range(5) for word in ("start", "finish")})
    assert run_sweep.main(asked) == 0
    assert ledger(place) == before and "continuing this study" in capfd.readouterr().err
    assert run_sweep.main(words(rule_table, drawing, "--max-rows", "100", "--no-prune", trials=8)) == 0
    assert (folder / "importances.png").stat().st_size > 0
    assert "What explains the variation (fANOVA over 8 complete trials" in (folder / "summary.md").read_text()


def test_another_setting_is_another_study_and_more_trials_are_the_same_one(rule_table, place, capfd):
    assert run_sweep.main(words(rule_table, place, trials=1)) == 0
    first = only_study(place)
    assert run_sweep.main(words(rule_table, place, trials=2)) == 0
    assert only_study(place) == first and sum(n for (word, _), n in ledger(place).items() if word == "start") == 2
    capfd.readouterr()
    kept = (first / "trials.csv").read_bytes()
    assert run_sweep.main(words(rule_table, place, "--seed", "2", trials=1)) == 0
    said = capfd.readouterr().err
    assert "a new study, because a setting changed (seed = 1 -> 2)" in said and str(first) in said
    assert len(list((place / "out").glob("study-*"))) == 2 and (first / "trials.csv").read_bytes() == kept


@pytest.mark.parametrize("name", ["trials.csv", "summary.md", "settings.png"])
def test_edited_results_are_named_before_any_trial_and_stay(rule_table, place, capfd, name):
    assert run_sweep.main(words(rule_table, place, trials=1)) == 0
    folder, before = only_study(place), ledger(place)
    assert manifest.find_changed(manifest.read_manifest(folder)["outputs"], folder) is None
    (folder / name).write_text("a person's notes")
    assert run_sweep.main(words(rule_table, place, trials=2)) == 2
    assert f"{name}: was changed after run_sweep.py wrote it" in capfd.readouterr().err.splitlines()[-1]
    assert (folder / name).read_text() == "a person's notes" and ledger(place) == before


def test_a_failing_trial_is_kept_with_its_error_and_the_others_go_on(rule_table, place, capfd):
    space = ["--space", "learning_rate=1e-3,1", "lora_rank=8,13"]
    assert run_sweep.main(words(rule_table, place, "--sampler", "grid", "--no-prune", space=space, trials=4)) == 1
    said = capfd.readouterr().err
    folder = only_study(place)
    lines = table(folder)
    assert [line["state"] for line in lines] == ["complete", "failed", "failed", "failed"]
    assert "killed by signal 9" in lines[1]["error"]
    assert lines[2]["error"] == "exit code 2: the loss is nan at step 1; lower --learning-rate"
    assert "3 of 4 trials failed" in said and "loss is nan" in (folder / "summary.md").read_text()
    before = ledger(place)
    assert run_sweep.main(words(rule_table, place, "--sampler", "grid", "--no-prune", space=space, trials=4)) == 1
    assert ledger(place) == before  # a failed trial is tried again only on request
    again = ["--sampler", "grid", "--no-prune", "--retry-failed"]
    assert run_sweep.main(words(rule_table, place, *again, space=space, trials=4)) == 1
    assert ledger(place) - before == Counter({("start", f"00{k}"): 1 for k in (1, 2, 3)})


def test_a_poor_trial_is_stopped_early(rule_table, place, monkeypatch):
    """Four runs have a low loss, the fifth a loss far above their median at every step: it is stopped, but not before
    half of its steps, because a run that begins slowly may end best."""
    call = pipeline.call
    monkeypatch.setattr(pipeline, "call", lambda *a, **k: call(*a, **k, every_s=0.05))
    space = ["--space", "learning_rate=1e-3,1.1e-3,1.2e-3,1.3e-3,9e-1"]
    monkeypatch.setenv("STUB_STEP", "0.05")
    assert run_sweep.main(words(rule_table, place, "--sampler", "grid", space=space, trials=5)) == 0
    lines = table(only_study(place))
    assert [line["state"] for line in lines] == ["complete"] * 4 + ["stopped early"]
    assert ledger(place)["stopped", "004"] == 1 and ledger(place)["finish", "004"] == 0
    at = re.search(r"stopped at (\d+) %", (only_study(place) / "summary.md").read_text())
    assert 50 <= int(at[1]) < 100
    left = [path.name for path in (only_study(place) / "trials" / "004" / "finetune").iterdir()]
    assert sorted(left) == [".lock", "trainer_log.csv"]


def test_tpe_tries_no_setting_twice_even_in_a_small_space(rule_table, place):
    space = ["--space", "learning_rate=1e-3,2e-3", "lora_rank=4,8"]
    assert run_sweep.main(words(rule_table, place, "--sampler", "tpe", space=space, trials=4)) == 0
    lines = table(only_study(place))
    assert len({(line["learning_rate"], line["lora_rank"]) for line in lines}) == len(lines) == 4
    assert sum(n for (word, _), n in ledger(place).items() if word == "start") == 4


def work(arguments):
    os.setpgid(0, 0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os._exit(run_sweep.main(arguments))


def start_worker(arguments):
    """A worker forked from this process: like a second terminal, without the seconds of the imports."""
    process = multiprocessing.get_context("fork").Process(target=work, args=(arguments,))
    process.start()
    return process


def processes_naming(text):
    """Ids of the running processes (no zombies) with this text in their command."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            state = (path / "stat").read_text().rsplit(") ", 1)[1][0]
            if state != "Z" and text.encode() in (path / "cmdline").read_bytes():
                found.append(int(path.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_next_sweep_succeeds_after_a_kill_at_any_moment(rule_table, place, every):
    """By default at each moment after the last training, while results are renamed."""
    out = place / "out"
    out.mkdir()
    for n in (1, 2):
        states = states_during(out, lambda n=n: run_sweep.main(words(rule_table, place, trials=n)))
        folder = only_study(place)
        trained = f"{folder.name}/trials/00{n - 1}/time.json"
        chosen = [state for state in states if every or trained in state]
        assert len(chosen) > 10
        for state in chosen:
            restore(out, state)
            assert run_sweep.main(words(rule_table, place, trials=n)) == 0
            assert manifest.find_changed(manifest.read_manifest(folder)["outputs"], folder) is None
            assert len(table(folder)) == n and not [path for path in out.rglob("*") if is_left_over(path.name)]


def kill_at_random(start, kills, pause, seed, n_workers=2, count_starts=None):
    """Keep two workers running, kill one of them at random moments, `kills` times, and let the last two end.

    With `count_starts` the first kill waits for the first training: on a busy machine, all kills could otherwise hit
    workers that are still starting, and no trial.
    """
    rng = random.Random(seed)
    workers = [start() for _ in range(n_workers)]
    done, deadline = 0, time.monotonic() + 60
    while count_starts is not None and count_starts() == 0 and time.monotonic() < deadline:
        time.sleep(0.02)
    while done < kills:
        time.sleep(rng.uniform(*pause))
        k = rng.randrange(n_workers)
        if workers[k].exitcode is not None:
            break  # all trials are done
        workers[k].kill()
        workers[k].join()
        workers[k] = start()
        done += 1
    for worker in workers:
        worker.join(3600)
    assert [worker.exitcode for worker in workers] == [0] * n_workers
    return done


def assert_each_trial_ended_once(place, n):
    folder = only_study(place)
    lines = table(folder)
    assert len(lines) == n and {line["state"] for line in lines} == {"complete"}
    study = optuna.load_study(study_name=folder.name, storage=trials_room.open_storage(folder, None))
    states = Counter(trial.state.name for trial in study.trials)
    assert states["COMPLETE"] == n and states["RUNNING"] == states["WAITING"] == 0
    done = [trial.user_attrs["place"] for trial in study.trials if trial.state.name == "COMPLETE"]
    assert sorted(done) == list(range(n))
    deadline = time.monotonic() + 30
    while processes_naming(str(place)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_naming(str(place)) == []
    return lines


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel ends orphans on Linux alone")
def test_two_workers_killed_at_random_moments_end_every_trial_once(rule_table, place, monkeypatch):
    monkeypatch.setenv("STUB_STEP", "0.05")
    arguments = words(rule_table, place, "--no-prune", trials=6)
    kills = kill_at_random(lambda: start_worker(arguments), 6, (0.05, 0.25), seed=1,
                           count_starts=lambda: count_starts(place))  # fmt: skip
    assert kills == 6
    lines = assert_each_trial_ended_once(place, 6)
    assert len({(line["learning_rate"], line["lora_rank"]) for line in lines}) == 6
    noted = ledger(place)
    assert {folder: noted["finish", folder] for folder in (f"{k:03d}" for k in range(6))} == {
        f"{k:03d}": 1 for k in range(6)
    }
    assert not any(word == "met" for word, _ in noted)  # no two trainings in one folder at once
    assert sum(int(line["attempts"]) for line in lines) > 6


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel ends orphans on Linux alone")
def test_twenty_kills_over_two_workers_of_twelve_real_trainings(rule_table, tmp_path):
    """The tiny model, real processes: exactly 12 finished trials, none twice, no process left running."""
    space = ["--space", "learning_rate=log:1e-3:5e-3", "per_device_batch_size=4,8"]
    arguments = words(rule_table, tmp_path, "--no-prune", "--max-rows", "64", "--validation-rows", "16", space=space,
                      trials=12)  # fmt: skip
    arguments += ["--", "--max-steps", "12", "--save-steps", "2"]

    class Worker:
        def __init__(self):
            command = [sys.executable, run_sweep.__file__, *arguments]
            self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        exitcode = property(lambda self: self.process.poll())
        kill = property(lambda self: self.process.kill)

        def join(self, seconds=60):
            self.process.wait(seconds)

    started = time.monotonic()
    assert run_sweep.main([*arguments[: arguments.index("--trials")], "--trials", "1", *SPACE]) == 0  # to time a trial
    one = time.monotonic() - started
    for path in (tmp_path / "out").glob("study-*"):
        path.rename(tmp_path / "timed")
    kills = kill_at_random(Worker, 20, (0.1 * one, 0.7 * one), seed=7)
    lines = assert_each_trial_ended_once(tmp_path, 12)
    assert kills == 20 and sum(int(line["attempts"]) for line in lines) > 12


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_a_stopped_worker_stops_its_training_and_another_one_continues_from_its_checkpoint(
    rule_table, place, monkeypatch
):
    monkeypatch.setenv("STUB_STEP", "0.1")
    arguments = words(rule_table, place, trials=1)
    worker = start_worker(arguments)
    checkpoint = "study-*/trials/000/finetune/checkpoints/count.json"
    while not list((place / "out").glob(checkpoint)):
        time.sleep(0.01)
    os.kill(worker.pid, signal.SIGTERM)
    worker.join(30)
    assert worker.exitcode == 128 + signal.SIGTERM
    assert ledger(place)["stopped", "000"] == 1
    counted = json.loads(next((place / "out").glob(checkpoint)).read_text())["done"]
    assert 1 <= counted < 10
    monkeypatch.setenv("STUB_SECONDS", "1000")  # reported by the training before and after it was stopped
    assert run_sweep.main(arguments) == 0
    assert float(table(only_study(place))[0]["seconds"]) == 1000
    assert ledger(place) == Counter({("start", "000"): 2, ("stopped", "000"): 1, ("finish", "000"): 1})
    assert table(only_study(place))[0]["attempts"] == "2"


@pytest.mark.slow  # a killed process on one machine is in the default suite
def test_machines_that_share_a_database_take_over_from_one_that_fell_silent(rule_table, place, monkeypatch):
    monkeypatch.setattr(trials_room, "GRACE_S", 1)
    monkeypatch.setattr(trials_room, "HEARTBEAT_S", 1)
    url = ["--storage", f"sqlite:///{place / 'shared.db'}"]
    assert run_sweep.main(words(rule_table, place, *url, trials=1)) == 0
    name = only_study(place).name
    axes = [run_sweep.build_parser().parse_args(words(rule_table, place)).space[k] for k in (0, 1)]
    settings = sweep.choose_settings("random", axes, 3, 1)
    silent = Trials(place / "elsewhere", name, axes, settings, url=url[1])
    (place / "elsewhere").mkdir()
    with silent.take() as taken:  # on another machine, which then dies
        trial, at, _ = taken
        assert at == 1
        time.sleep(1.2)
        assert run_sweep.main(words(rule_table, place, *url, trials=3)) == 0
        assert not silent.finish(trial, value=0.0)  # it was not dead, but too late
    lines = table(only_study(place))
    assert [line["state"] for line in lines] == ["complete"] * 3
    assert [line["attempts"] for line in lines] == ["1", "2", "1"]
    assert float(lines[1]["loss"]) > 0


def test_a_trial_whose_processes_are_all_killed_is_given_up_with_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(trials_room, "LOST_LIMIT", 3)
    axis = Axis("lora_rank", "lora_rank=8", (8,))
    trials = Trials(tmp_path, "study-x", [axis], [{"lora_rank": 8}])
    for _ in range(3):
        with trials.take() as taken:
            assert taken[0].params == {"lora_rank": 8}
    with trials.take() as taken:
        assert taken is None
    assert trials.is_finished()
    assert trials.results()[0].user_attrs["error"] == "every one of 3 processes that took it was killed"


def test_a_line_of_the_journal_that_a_kill_left_unfinished_is_cut_off(tmp_path):
    axis = Axis("lora_rank", "lora_rank=8,16", (8, 16))
    settings = [{"lora_rank": 8}, {"lora_rank": 16}]
    trials = Trials(tmp_path, "study-x", [axis], settings)
    with trials.take() as (trial, place, _):
        assert trials.finish(trial, value=1.0) and place == 0
    whole = (tmp_path / "journal.log").read_bytes()
    (tmp_path / "journal.log").write_bytes(whole + b'{"op_code": 4, "wor')
    again = Trials(tmp_path, "study-x", [axis], settings)
    with again.take() as (trial, place, _):
        assert again.finish(trial, value=2.0) and place == 1
    assert b'{"op_code": 4, "wor' not in (tmp_path / "journal.log").read_bytes()
    assert [trial.value for trial in again.results()] == [1.0, 2.0]


REFUSED = [
    (["--space", "speed=1,2"], "'speed' is not a setting that can be swept; these can: lora_rank, lora_alpha"),
    (["--space", "lora_rank=8", "lora_rank=16"], "a setting is named twice"),
    (["--space", "epochs=1,2", "max_steps=3,4"], "epochs and max_steps both say how long"),
    (["--space", "lora_rank=8,16"], "--trials 12: the space has only 2 settings"),
    (["--space", "learning_rate=log:1e-4:1e-3", "--sampler", "grid"], "a grid needs a list"),
    (["--space", "lora_rank=8,16", "--sampler", "grid", "--trials", "3"], "the grid has 2 settings"),
    ([*SPACE, "--metric", "kind/mae"], "--metric kind/mae: there are: loss, kind/accuracy"),
    ([*SPACE, "--", "--lora-rank", "8"], "--lora-rank after `--`: the study sets this option itself"),
    ([*SPACE, "--", "epochs"], "'epochs': expected an option of finetune_gemma_from_csv.py after `--`"),
    ([*SPACE, "--storage", "nonsense"], "--storage nonsense: cannot be opened"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "said"), REFUSED, ids=[" ".join(wrong) for wrong, _ in REFUSED])
def test_an_impossible_sweep_is_one_clear_line_and_exit_code_2(rule_table, tmp_path, capfd, wrong, said):
    assert (
        run_sweep.main(["--csv", str(rule_table), "--target-field", "kind", "--out-dir", str(tmp_path / "o"), *wrong])
        == 2
    )
    told = capfd.readouterr().err
    assert said in told and "Traceback" not in told
    assert not list(tmp_path.glob("o/study-*/trials"))
