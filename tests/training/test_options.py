"""The table of training options: the settings it makes from a command line, and its errors."""

import dataclasses
from pathlib import Path

import finetune_gemma_from_csv as finetune
import pytest
from linklab.cli import UserError
from linklab.training import options
from linklab.training.options import TrainingSettings

ROOT = Path(__file__).parents[2]
LEAST = ["--csv", "a.csv", "--out-dir", "runs/x"]


def settings_of(*more):
    return options.read_settings(finetune.build_parser().parse_args([*LEAST, *more]))


OUT_OF_RANGE = [
    ("--seed", "-1", "from 0 to 4294967295"),
    ("--seed", "8589934592", "from 0 to 4294967295"),
    ("--warmup-fraction", "-1", "a number from 0 to 1"),
    ("--warmup-fraction", "2", "a number from 0 to 1"),
    ("--warmup-fraction", "nan", "a number from 0 to 1"),
    ("--weight-decay", "-5", "a number from 0 to 10"),
    ("--weight-decay", "inf", "a number from 0 to 10"),
    ("--lora-dropout", "-1", "a number from 0 to below 1"),
    ("--lora-dropout", "1", "a number from 0 to below 1"),
    ("--patience", "-1", "a whole number of at least 0"),
    ("--learning-rate", "1e9", "a number above 0 and at most 1"),
    ("--learning-rate", "0", "a number above 0 and at most 1"),
    ("--epochs", "0", "a number above 0"),
    ("--epochs", "many", "a number above 0"),
    ("--lora-rank", "0", "a whole number of at least 1"),
    ("--lora-rank", "8.5", "a whole number of at least 1"),
    ("--max-length", "-3", "a whole number of at least 1"),
    ("--max-rows", "0", "a whole number of at least 1"),
    ("--validation-rows", "0", "a whole number of at least 1"),
    ("--save-total-limit", "0", "a whole number of at least 1"),
]


@pytest.mark.parametrize(("flag", "text", "limits"), OUT_OF_RANGE)
def test_a_number_out_of_range_is_a_usage_error_that_names_option_and_range(flag, text, limits, capfd):
    assert finetune.main([*LEAST, flag, text]) == 2
    said = capfd.readouterr().err
    assert f"argument {flag}: " in said and limits in said and "Traceback" not in said


def test_every_number_option_has_a_range_that_holds_its_default():
    for name, field in options.FIELDS.items():
        if "group" in field.metadata and type(field.default) in (int, float):
            limits = options.limits_of(name)
            assert limits is not None, name
            assert field.metadata["unset"] or limits(str(field.default)) == field.default, name


def test_the_settings_are_frozen_typed_and_hold_what_the_command_line_said():
    settings = settings_of("--learning-rate", "2e-4", "--mode", "full", "--max-steps", "7", "--bf16", "--resume")
    assert (settings.learning_rate, settings.mode, settings.max_steps) == (2e-4, "full", 7)
    assert (settings.precision, settings.resume) == ("bf16", "auto")
    with pytest.raises(AttributeError):
        settings.max_steps = 8
    assert settings_of() == TrainingSettings(out_dir="runs/x", learning_rate=5e-4)  # the parser adds no default


@pytest.mark.parametrize(("mode", "rate"), [("full", 5e-5), ("lora", 5e-4), ("qlora", 5e-4)])
def test_the_learning_rate_follows_from_the_mode_unless_it_is_given(mode, rate):
    assert settings_of("--mode", mode).learning_rate == rate
    assert settings_of("--mode", mode, "--learning-rate", "0.1").learning_rate == 0.1


@pytest.mark.parametrize(("more", "steps", "save", "eval_"), [
    ([], 100, 10, 10), ([], 5, 1, 1), ([], 90_000, 200, 200), (["--save-steps", "6"], 100, 6, 6),
    (["--save-steps", "6", "--eval-steps", "3"], 100, 6, 3),
])  # fmt: skip
def test_the_intervals_follow_from_the_number_of_steps(more, steps, save, eval_):
    settings = settings_of(*more).prepare(precision="fp32", steps=steps)
    assert (settings.save_steps, settings.eval_steps, settings.precision) == (save, eval_, "fp32")


def test_a_checkpoint_without_a_validation_loss_is_refused():
    with pytest.raises(UserError, match="--save-steps 3 is not a multiple of --eval-steps 2"):
        settings_of("--save-steps", "3", "--eval-steps", "2").prepare(precision="fp32", steps=10)


def test_only_what_changes_the_weights_decides_whether_a_checkpoint_is_continued():
    first = settings_of("--out-dir", "runs/y", "--save-steps", "5", "--patience", "3", "--report-to", "none", "--merge")
    assert first.deciding() == settings_of().deciding()
    for flag, value in (("--seed", "3"), ("--best-by", "accuracy"), ("--max-length", "99"), ("--base-model", "tiny")):
        assert settings_of(flag, value).deciding() != settings_of().deciding(), flag


def test_a_dry_run_lists_what_was_chosen_and_not_what_was_set():
    words = [*LEAST, "--lora-rank=4", "--fp32"]
    args = finetune.build_parser().parse_args(words)
    args.argv = words
    settings = options.read_settings(args).prepare(precision="fp32", steps=100)
    lines = options.chosen_lines(settings, {"learning_rate": "usual for lora"})
    assert "--learning-rate 0.0005 (usual for lora)" in lines and "--save-steps 10" in lines
    assert not any(line.startswith(("--lora-rank", "--fp32", "--max-steps")) for line in lines)


def test_the_settings_page_shows_the_options_as_they_are():
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page == options.update_page(page), "docs/settings.md is old: run `make docs`"
    for name in options.FIELDS.keys() - {"base_model", "precision"}:
        assert f"| `{options.flag_of(name)}` |" in page


@pytest.mark.parametrize(("n_rows", "n_questions", "epochs"), [
    (100, 100, 4), (600, 600, 4), (1_227, 1_227, 4), (2_400, 2_400, 2), (4_800, 4_800, 1), (50_000, 50_000, 1),
    (100, 670, 4), (400, 2_700, 2), (700, 4_700, 1),  # links
])  # fmt: skip
def test_a_small_table_is_shown_several_times_unless_the_person_says_how_often(n_rows, n_questions, epochs):
    settings = TrainingSettings(out_dir="out")
    assert settings.fit_rows(n_rows, n_questions).epochs == epochs
    assert dataclasses.replace(settings, epochs=1.5).fit_rows(n_rows, n_questions).epochs == 1.5
