"""The command line: every error is one line with the right exit code, and options accept what they say."""

import argparse
import dataclasses
import errno
import importlib
import re
import sys
from pathlib import Path

import check_merge
import linklab
import pytest
from linklab import cli


def run_script(raised=None, returned=None, words=(), parser=None):
    """Run a script that raises or returns this, and return its exit code."""

    def run(args):
        if raised is not None:
            raise raised
        return returned

    return cli.main(parser or cli.make_parser("A script."), run, list(words))


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (cli.UserError("links.csv:41: bad"), 2, "error: links.csv:41: bad"),
        (cli.CheckFailed("3 rows are bad"), 1, "error: 3 rows are bad"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (PermissionError(errno.EACCES, "Permission denied", "/there"), 2, "error: /there: permission denied"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x"), 2, "error: x: no such file or directory"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 1, ""),
    ],
)
def test_an_error_becomes_one_line_and_an_exit_code(capsys, raised, code, line):
    assert run_script(raised) == code
    captured = capsys.readouterr()
    assert captured.err == (line + "\n" if line else "") and captured.out == ""


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
def test_a_full_disk_is_one_line_even_if_the_system_names_no_file(capsys, number):
    assert run_script(OSError(number, "No room")) == 2
    assert capsys.readouterr().err == "error: writing: no room; free some space or write elsewhere\n"


FAULTS = [
    (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
    (AssertionError(), "AssertionError: no message"),
    (RecursionError("maximum recursion depth exceeded"), "RecursionError: maximum recursion depth exceeded"),
    (OSError(errno.EBADF, "Bad file descriptor"), "OSError: [Errno 9] Bad file descriptor"),
    (RuntimeError("first line\nsecond line"), "RuntimeError: first line"),
]


@pytest.mark.parametrize("fault, said", FAULTS, ids=[said for _, said in FAULTS])
def test_an_unexpected_error_is_one_line_with_a_traceback_on_demand(capsys, monkeypatch, fault, said):
    assert run_script(fault) == 2
    assert capsys.readouterr().err == f"error: {said} (unexpected error; --debug shows where)\n"
    assert run_script(fault, words=["--debug"]) == 2
    assert "Traceback (most recent call last)" in (told := capsys.readouterr().err) and told.endswith("shows where)\n")
    monkeypatch.setenv(cli.DEBUG, "1")
    assert run_script(fault) == 2 and "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("https:/me:sec/ret@host/in.csv: no such file", "https:/me:***@host/in.csv: no such file"),
        ("git clone https://ghp_0123@github.com/a/b", "git clone https://***@github.com/a/b"),
        ("see https://github.com/a/b, ask me@host", "see https://github.com/a/b, ask me@host"),
        ("postgresql://me:pa55@db/x", "postgresql://me:***@db/x"),
        ("mysql+pymysql://me:p:a/5@db", "mysql+pymysql://me:***@db"),
        ("db?password=pa55&x=1", "db?password=***&x=1"),
        ("DB_PASSWORD=pa55 next", "DB_PASSWORD=*** next"),
        ("access_token=abc", "access_token=***"),
        ("hf_abcdefghijkl", "hf_***"),
        ("https://host/a@b", "https://host/a@b"),
        ("--target-field token=kind", "--target-field token=***"),
        ("runs/lora:2", "runs/lora:2"),
    ],
)
def test_passwords_and_tokens_are_never_printed(capsys, text, masked):
    assert cli.mask_secrets(text) == masked
    cli.say(text)
    assert run_script(cli.UserError(text)) == 2
    assert capsys.readouterr().err == f"{masked}\nerror: {masked}\n"


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (1, 1), (130, 130)])
def test_the_exit_code_is_what_run_returns(returned, code):
    assert run_script(returned=returned) == code


def test_help_is_code_0():
    assert run_script(words=["--help"]) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--nonsense"], "unrecognized arguments: --nonsense"),
        (["--max-row", "3"], "did you mean --max-rows instead of --max-row?"),
        (["--maxrows=3"], "did you mean --max-rows instead of --maxrows?"),
        (["--max-rows", "three"], "argument --max-rows: invalid int value: 'three'"),
        (["links.csv"], "unrecognized arguments: links.csv"),
    ],
)
def test_an_unknown_option_is_one_line_with_the_option_probably_meant(capsys, words, said):
    parser = cli.make_parser("A script.")
    parser.add_argument("--max-rows", type=int)
    assert run_script(words=words, parser=parser) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and error.startswith("error: ")


def test_a_missing_package_is_one_line_that_says_how_to_install_it(capsys):
    def run(args):
        import no_such_package_anywhere.inner  # noqa: F401

    assert cli.main(cli.make_parser("A script."), run, []) == 2
    error = capsys.readouterr().err
    assert "the package 'no_such_package_anywhere' is not installed for" in error and "requirements.txt" in error


def test_an_error_in_our_own_imports_is_not_reported_as_a_missing_package(capsys):
    assert run_script(ModuleNotFoundError("No module named 'linklab.tabels'", name="linklab.tabels")) == 2
    assert "unexpected error" in capsys.readouterr().err


def test_every_script_prints_the_version_of_the_package(capsys):
    assert run_script(words=["--version"]) == 0
    assert capsys.readouterr().out.split()[-1] == linklab.__version__


def test_run_gets_the_words_it_was_called_with():
    parser, seen = cli.make_parser("A script."), []
    parser.add_argument("--rows", type=int)
    assert cli.main(parser, lambda args: seen.append(args.argv), ["--rows", "007"]) == 0
    assert seen == [["--rows", "007"]]


def test_help_shows_each_default_once_and_keeps_the_docstrings_commands():
    parser = cli.make_parser("First line.\n\n    python x.py --a b\n")
    parser.add_argument("--rows", default=40, help="rows to use")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument("--seeds", nargs="+", default=[1, 2], help="random seeds")
    parser.add_argument("--share", default="5 %", help="some %% of all")
    parser.add_argument("--said", default=3, help="says it itself (default: a third)")
    parser.add_argument("--name", help="no default to show")
    parser.add_argument("--force", action="store_true", help="a switch")
    parser.add_argument("--no-plots", dest="plots", action="store_false", help="a negative switch")
    text = parser.format_help()
    shown = ["40", "0", "1 2", "5 %", "a third"]
    assert re.findall(r"\(default: (.*)\)", text) == shown
    assert "\n    python x.py --a b\n" in text


@pytest.mark.parametrize("columns", [50, 80, 200])
def test_help_is_as_wide_as_the_terminal(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    text = cli.make_parser("One sentence that is long. " * 8 + "\n\n    python x.py --a b\n").format_help()
    widest = max(map(len, text.splitlines()))
    assert min(columns - 2, 110) - 12 < widest <= min(columns - 2, 110)


@pytest.mark.parametrize(
    ("take", "text", "value"),
    [
        (cli.positive_int, "1", 1),
        (cli.positive_int, "4000", 4000),
        (cli.positive_float, "5e-4", 0.0005),
        (cli.comma_list, "a", ["a"]),
        (cli.comma_list, "a, b c", ["a", "b c"]),
    ],
)
def test_an_option_accepts_a_valid_value(take, text, value):
    assert take(text) == value


@pytest.mark.parametrize(
    ("take", "text"),
    [
        *((cli.positive_int, text) for text in ("0", "-1", "1.5", "", "many")),
        *((cli.positive_float, text) for text in ("0", "-1", "nan", "inf", "1e999", "", "many")),
        *((cli.comma_list, text) for text in ("", "a,", ",a", "a,,b", "a,a", "a, a")),
    ],
)
def test_an_option_refuses_an_invalid_value(take, text):
    with pytest.raises(argparse.ArgumentTypeError):
        take(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (42.4, "42 s"), (89, "89 s"), (90, "1 min 30 s"), (754, "12 min 34 s"), (3600, "1 h 0 min"),
     (7380, "2 h 3 min")],
)  # fmt: skip
def test_a_duration_is_written_for_people(seconds, text):
    assert cli.format_seconds(seconds) == text


def test_progress_prints_at_most_once_per_interval_and_extrapolates_the_time_left(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(cli.time, "monotonic", lambda: now[0])
    progress = cli.Progress("convert", 1000, every_s=5.0)
    for done in range(0, 1001):
        now[0] = 100.0 + done / 50  # 50 rows per second
        progress.at(done)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert lines[0] == "convert: 250 of 1,000 rows, 15 s left"


SCRIPTS = sorted(path.stem for path in Path(check_merge.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("columns", [60, 80])
@pytest.mark.parametrize("script", SCRIPTS)
def test_the_help_of_every_script_fits_a_narrow_terminal_and_shows_its_defaults(monkeypatch, script, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys, "argv", [f"{script}.py"])
    parser = importlib.import_module(script).build_parser()
    text = parser.format_help()
    too_long = [line for line in text.splitlines() if len(line) > columns]
    assert all(line.startswith(("    python scripts/", "        --")) for line in too_long), "commands alone stay whole"
    assert "(default: True)" not in text and "(default: False)" not in text and "default: None" not in text
    told = "".join(text.split())
    for action in parser._actions:
        takes_value = action.nargs != 0 and action.default not in (None, [], argparse.SUPPRESS)
        if takes_value and not isinstance(action.default, list):
            assert f"default:{action.default}".replace(" ", "") in told or "(default: " in action.help, (
                action.option_strings
            )


@dataclasses.dataclass(frozen=True)
class Settings:
    rows: tuple[int, ...]
    folder: str
    seed: int = 0


def settings_of(words: list[str]) -> Settings:
    parser = cli.make_parser("Try.")
    parser.add_argument("--rows", type=int, nargs="+")
    return cli.read_settings(Settings, parser.parse_args(words), folder="made")


def test_each_setting_takes_the_option_of_the_same_name():
    assert settings_of(["--rows", "3", "4"]) == Settings((3, 4), "made")


def test_a_field_that_no_option_sets_is_a_mistake_of_the_script():
    with pytest.raises(AssertionError, match="Settings: no option sets folder"):
        cli.read_settings(Settings, argparse.Namespace(rows=[1]))
