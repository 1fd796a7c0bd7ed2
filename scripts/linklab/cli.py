"""The command-line behaviour all scripts share: parser, common options, errors to exit codes, progress."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import errno
import itertools
import math
import os
import re
import shutil
import sys
import textwrap
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, NoReturn, Protocol, TypeVar

from linklab import __version__, config_file

DEBUG = "LINKLAB_DEBUG"  # environment variable: 1 means --debug
_NO_SPACE = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


DATA_HELP = "folder written by convert_csv_to_jsonl.py, or any file or folder of JSON Lines with `messages`"


class UserError(Exception):
    """Bad usage or unreadable input. The message is one clear line: where, what is wrong, what to do next."""

    exit_code = 2


class CheckFailed(UserError):
    """The input was read, and it failed the script's check."""

    exit_code = 1


_ENTRY = re.compile(r" {2}\S+ {2,}(?=\S)")


def _has_long_choices(action: argparse.Action) -> bool:
    """Say whether an option's list of choices is too long to print after its name."""
    return action.choices is not None and len(",".join(map(str, action.choices))) > 24


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Help as wide as the terminal (at most 110 columns): wraps paragraphs, keeps commands, shows every default."""

    def __init__(self, prog: str) -> None:
        super().__init__(
            f"{prog} [options]", max_help_position=32, width=max(40, min(110, shutil.get_terminal_size().columns - 2))
        )

    def _format_usage(
        self,
        usage: str | None,
        actions: Iterable[argparse.Action],
        groups: Iterable[argparse._MutuallyExclusiveGroup],
        prefix: str | None,
    ) -> str:
        # Only the required options; the list of options below has the rest.
        either = [group for group in groups if group.required]
        one_of = [action for group in either for action in group._group_actions]
        needed = [action for action in actions if action.required or not action.option_strings or action in one_of]
        width, self._width = self._width, 10_000  # argparse indents by the program's name, which may be long
        line = super()._format_usage(usage, needed, either, prefix).strip()
        self._width = width
        return textwrap.fill(line, width, subsequent_indent=" " * 7, break_on_hyphens=False) + "\n\n"

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines: list[str] = []
        # Indented lines (commands, tables) stay as they are; the text between them is wrapped.
        for kept, group in itertools.groupby(text.splitlines(), lambda line: line.startswith(" ") or not line.strip()):
            some = list(group)
            if not kept:
                lines += textwrap.wrap(" ".join(some), width, break_on_hyphens=False)
            for line in some if kept else ():
                entry = _ENTRY.match(line)  # `  name   description`: the description is wrapped in its own column
                hang = " " * (entry.end() if entry else 0)
                lines += textwrap.wrap(line, width, subsequent_indent=hang, break_on_hyphens=False) if entry else [line]
        return "\n".join(indent + line for line in lines)

    def _metavar_formatter(self, action: argparse.Action, default_metavar: str) -> Callable[[int], tuple[str, ...]]:
        if action.metavar is None and _has_long_choices(action):  # argparse cannot wrap it here: the help text has it
            return lambda count: (default_metavar,) * count
        return super()._metavar_formatter(action, default_metavar)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.help and action.metavar is None and _has_long_choices(action):
            choices = ", ".join(map(str, action.choices or ()))
            default = f"; default: {action.default}" if action.default not in (None, argparse.SUPPRESS) else ""
            return f"{action.help} ({choices}{default})"
        takes_value = action.nargs != 0 and action.default is not argparse.SUPPRESS
        if not takes_value or action.default in (None, []) or not action.help or "(default" in action.help:
            return action.help
        default = " ".join(map(str, action.default)) if isinstance(action.default, list | tuple) else action.default
        return f"{action.help} (default: {str(default).replace('%', '%%')})"


class _Parser(argparse.ArgumentParser):
    """Reports a wrong command line in one line, with the option that was probably meant."""

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            words = [word.partition("=")[0] for word in unknown.split() if word.startswith("--")]
            options = [option for option in self._option_string_actions if option.startswith("--")]
            close = {word: difflib.get_close_matches(word, options, n=1, cutoff=0.72) for word in words}
            meant = [f"did you mean {found[0]} instead of {word}?" for word, found in close.items() if found]
            message = "; ".join([f"unrecognized arguments: {unknown}", *meant])
        _say_error(f"{message} ({self.prog} --help lists the options)")
        raise SystemExit(2)


def make_parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with --debug, --config and --version; its description is the script's docstring `doc`."""
    parser = _Parser(
        prog=os.path.basename(sys.argv[0]),
        description=(doc or "").strip(),
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    parser.add_argument("--debug", action="store_true", help=f"print the traceback of an error too; or set {DEBUG}=1")
    parser.add_argument(
        "--config", metavar="FILE.yaml", help="YAML file with options as `name: value`; the command line overrides it"
    )
    parser.add_argument("--version", action="version", version=f"{parser.prog} {__version__}", help="print the version")
    return parser


_SECRETS = (
    # scheme://user:password@host; pathlib turns the two slashes into one
    (re.compile(r"(\w[\w+.-]*:/{1,2}[^\s/:@]*:)[^\s@]+@"), r"\1***@"),
    (re.compile(r"(\w[\w+.-]*://)[^\s/:@]+@"), r"\1***@"),  # scheme://token@host
    (re.compile(r"(?i)\b((?:[\w-]*(?:password|passwd|secret|token|api[_-]?key|access[_-]?key)|pwd)=)[^\s&;,'\"]+"),
     r"\1***"),
    (re.compile(r"\bhf_[A-Za-z0-9_]{6,}"), "hf_***"),
)  # fmt: skip


def mask_secrets(text: str) -> str:
    """Return a text without passwords and tokens: `postgresql://me:pass@db` -> `postgresql://me:***@db`."""
    for pattern, masked in _SECRETS:
        text = pattern.sub(masked, text)
    return text


def process_rank() -> int:
    """Return this process's rank under `accelerate launch` or torchrun; 0 for a single process."""
    return int(os.environ.get("RANK", "0"))


def say(message: str) -> None:
    """Print one line of progress on stderr; with several processes only rank 0 prints."""
    if process_rank() == 0:
        print(mask_secrets(message), file=sys.stderr, flush=True)


def _say_error(message: str) -> None:
    print(f"error: {mask_secrets(message)}", file=sys.stderr, flush=True)


class Progress:
    """Print the progress of a long loop, at most once per `every_s` seconds (Colab's `!` keeps every line)."""

    def __init__(self, what: str, total: int, *, unit: str = "rows", every_s: float = 5.0) -> None:
        self.what, self.total, self.unit, self.every_s = what, total, unit, every_s
        self.started = self.last = time.monotonic()

    def at(self, done: int, note: str = "") -> None:
        """Print `done` of the total and the time left, unless the last line is younger than `every_s`."""
        now = time.monotonic()
        if now - self.last < self.every_s or done <= 0:
            return
        self.last = now
        left_s = (now - self.started) / done * max(self.total - done, 0)
        say(f"{self.what}: {done:,} of {self.total:,} {self.unit}, {format_seconds(left_s)} left{note and '  ' + note}")


def format_seconds(seconds: float) -> str:
    """Return a duration for people: 42 -> `42 s`, 754 -> `12 min 34 s`, 7380 -> `2 h 3 min`."""
    seconds = round(seconds)
    if seconds < 90:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


@dataclasses.dataclass(frozen=True)
class Limits:
    """Argparse type: a finite number from `low` to `high`; `above` excludes `low` itself, `below` excludes `high`."""

    kind: type[int] | type[float]
    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False

    def __call__(self, text: str) -> int | float:
        """Return the number; raises argparse.ArgumentTypeError with the range for any other text."""
        try:
            value = self.kind(text)
        except ValueError:
            what = "a whole number" if self.kind is int else "a number"
            raise argparse.ArgumentTypeError(f"'{text}' is not {what}; expected {self.text()}") from None
        high_enough = value > self.low if self.above else value >= self.low
        low_enough = value < self.high if self.below or self.high == math.inf else value <= self.high
        if not (high_enough and low_enough):
            raise argparse.ArgumentTypeError(f"{text} is out of range; expected {self.text()}")
        return value

    def text(self) -> str:
        """Return the range in words: `a whole number of at least 1`, `a number from 0 to below 1`."""
        what = "a whole number" if self.kind is int else "a number"
        first, last = (str(end) if isinstance(end, int) else f"{end:.10g}" for end in (self.low, self.high))
        if self.high == math.inf:
            return f"{what} {'above' if self.above else 'of at least'} {first}"
        low = f"above {first}" if self.above else f"from {first}"
        high = f"below {last}" if self.below else last
        return f"{what} {low} {'and at most' if self.above and not self.below else 'to'} {high}"


positive_int = Limits(int, 1)
positive_float = Limits(float, 0, above=True)
share = Limits(float, 0, 1)
seed_number = Limits(int, 0, 2**32 - 1)  # the range that both PyTorch and NumPy accept


def comma_list(text: str) -> list[str]:
    """Argparse type: `a,b` -> ["a", "b"], refusing empty and repeated parts."""
    parts = [part.strip() for part in text.split(",")]
    if not all(parts) or len(set(parts)) != len(parts):
        raise argparse.ArgumentTypeError(f"'{text}' has an empty or repeated name; write NAME or NAME,NAME")
    return parts


def delimiter(text: str) -> str:
    """Argparse type: one character, or `tab`, `space`, `comma`, `semicolon`, `pipe`."""
    named = {"tab": "\t", "\\t": "\t", "space": " ", "comma": ",", "semicolon": ";", "pipe": "|"}
    found = named.get(text, text)
    if len(found) != 1 or found in '"\r\n':
        raise argparse.ArgumentTypeError(f"'{text}': expected one character, or tab, space, comma, semicolon, pipe")
    return found


# How to read a table and what its columns are, for every script that reads one. None or False: detected.
TABLE_OPTIONS: tuple[tuple[str, dict], ...] = (
    ("--target-field", {
        "type": comma_list, "metavar": "COL[,COL]",
        "help": "column(s) to predict, in answer order (default: both link targets for a links.csv)"}),
    ("--target-kind", {
        "type": comma_list, "metavar": "KIND[,KIND]",
        "help": "kind of answer: class, number or text; one for all targets, or one per target (default: detected)"}),
    ("--id-field", {"metavar": "COL", "help": "column with the id of each row (default: row-1, row-2, …)"}),
    ("--group-field", {
        "metavar": "COL",
        "help": "rows with the same value in this column stay in one split (default: the site for links, the input "
        "columns for any other table)"}),
    ("--split-field", {
        "metavar": "COL",
        "help": "column with train, validation or test for each row (default: a column called split)"}),
    ("--drop-columns", {
        "type": comma_list, "metavar": "COL[,COL]",
        "help": "columns to hide from models and baselines (default: none)"}),
    ("--delimiter", {"type": delimiter, "metavar": "CHAR", "help": "character between cells (default: detected)"}),
    ("--decimal", {"choices": (".", ","), "help": "decimal mark of numbers (default: detected)"}),
    ("--encoding", {
        "metavar": "NAME", "help": "encoding of the file, such as cp1252 (default: UTF-8 or UTF-16, detected)"}),
    ("--missing", {
        "type": comma_list, "metavar": "TEXT[,TEXT]",
        "help": "cells that mean no value, such as NA,-,?; rows without a target value are left out (default: none)"}),
    ("--drop-bad-rows", {
        "action": "store_true",
        "help": "leave out rows that cannot be read, and rows with text where a number target is expected"}),
    ("--drop-missing-target", {"action": "store_true", "help": "leave out rows without a target"}),
    ("--keep-missing-class", {
        "action": "store_true", "help": "treat NA, NaN, null and similar values as classes"}),
)  # fmt: skip


# The form of question and answer. None: chosen from the table or the model.
QUESTION_OPTIONS: tuple[tuple[str, dict], ...] = (
    ("--prompt-template", {
        "metavar": "FILE",
        "help": "text with {column} for input columns; a line with list columns is repeated per element"}),
    ("--system-prompt", {"metavar": "TEXT|FILE", "help": "text before every prompt, or a file with it"}),
    ("--answer-format", {
        "choices": ("plain", "json"),
        "help": "form of the answer: plain text, or a JSON object with one key per target (default: plain, or the "
        "trained model's format)"}),
    ("--ask", {
        "choices": ("row", "choices"),
        "help": "one question per row, or one per choice of a row, answered by the value of that choice (default: "
        "choices for tables with a value per choice, such as links; else row)"}),
)  # fmt: skip


def add_table_options(group: argparse._ActionsContainer, when: str = "", *, only: tuple[str, ...] = ()) -> None:
    """Add the options that say how to read a table; `tables.table.TableOptions.from_args` takes them."""
    _add_options(group, [pair for pair in TABLE_OPTIONS if not only or pair[0] in only], when)


def add_row_options(group: argparse._ActionsContainer, when: str = "") -> None:
    """Add the options that decide a table's rows and answers, the same in every script that splits a table."""
    _add_options(group, [*TABLE_OPTIONS, *QUESTION_OPTIONS], when)


def _add_options(group: argparse._ActionsContainer, options: Iterable[tuple[str, dict]], when: str) -> None:
    for option, settings in options:
        group.add_argument(option, **settings | {"help": f"{when}{settings['help']}"})


def add_source_options(group: argparse._ActionsContainer) -> None:
    """Add the source of rows, a CSV or a converted folder; `linklab.tasks.source.open_source` reads it."""
    source = group.add_mutually_exclusive_group(required=True)
    source.add_argument("--csv", metavar="FILE", help="table; its rows are split as by convert_csv_to_jsonl.py")
    source.add_argument("--data", metavar="PATH", help=DATA_HELP)
    add_row_options(group, "with --csv: ")
    group.add_argument(
        "--split-seed", type=seed_number, metavar="N",
        help="seed of the train/validation/test split, for --csv or conversations without a split (default: 0, or the "
        "trained model's seed)",
    )  # fmt: skip


def add_max_rows_option(group: argparse._ActionsContainer, what: str, option: str = "--max-rows") -> None:
    """Add the option that limits the number of rows; `what` is its help text: `score at most N rows`."""
    group.add_argument(option, type=positive_int, metavar="N", help=f"{what}, the same in every script (default: all)")


def add_base_model_option(group: argparse._ActionsContainer) -> None:
    """Add --base-model, the model to train."""
    group.add_argument(
        "--base-model",
        default="google/gemma-3-270m-it",
        metavar="NAME",
        help="Hub id, folder, `embedded` (Gemma 3 270M from a Python package) or `tiny` (for tests)",
    )


def add_precision_options(group: argparse._ActionsContainer, *, float16: bool = False) -> None:
    """Add --bf16, --fp32 and, with `float16`, --fp16, at most one of them: `args.precision` is its name or None."""
    helps = {"bf16": "multiply in bfloat16", "fp32": "multiply in float32"}
    if float16:
        helps["fp16"] = "multiply in float16 (Gemma 3 overflows in it); never chosen by default"
    choice = group.add_mutually_exclusive_group()
    for name, text in helps.items():
        choice.add_argument(f"--{name}", dest="precision", action="store_const", const=name, help=text)


def add_asking_options(group: argparse._ActionsContainer) -> argparse._MutuallyExclusiveGroup:
    """Add how to load a trained model and get its answers; returns the exclusive group that holds --numbers."""
    group.add_argument("--base-model", metavar="NAME", help="where an adapter's base model is now, if it has moved")
    group.add_argument(
        "--batch-tokens",
        type=positive_int,
        metavar="N",
        help="tokens per batch, padding included (default: 8192 on a GPU, else 2048)",
    )
    group.add_argument(
        "--max-new-tokens",
        type=positive_int,
        metavar="N",
        help="most tokens the model writes per answer (default: 256 for a text target, else 32)",
    )
    exclusive = group.add_mutually_exclusive_group()
    exclusive.add_argument(
        "--numbers", choices=("median", "greedy"),
        help="answer for a number target: the median of its distribution, or the most probable digit at each step "
        "(default: median)",
    )  # fmt: skip
    group.add_argument(
        "--rank-by", choices=("written", "summed"),
        help="rank legal classes by the probability of writing each when only legal ones are allowed, or by its "
        "probability among all texts, which favours short ones (default: written)",
    )  # fmt: skip
    add_precision_options(group)
    return exclusive


def join_values(words: list[str]) -> list[str]:
    """Return the words with `--missing -,?` as `--missing=-,?`: argparse takes a value with a dash for an option."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1] == "--missing" and not (word.startswith("--") and word[2:3].isalpha()):
            joined[-1] = f"--missing={word}"
        else:
            joined.append(word)
    return joined


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


_Made = TypeVar("_Made", bound=_Dataclass)


def read_settings(kind: type[_Made], args: argparse.Namespace, **made: Any) -> _Made:
    """Return the dataclass `kind` filled from a parsed command line: each field gets the option of the same name.

    `made` holds the fields that are not a single option. Lists become tuples, so that settings cannot change. A field
    that no option sets must have a default; otherwise AssertionError, which is a mistake in our code.
    """
    fields = {field.name: field for field in dataclasses.fields(kind) if field.name not in made}
    given = {name: getattr(args, name) for name in fields if hasattr(args, name)}
    missing = [n for n, field in fields.items() if n not in given and field.default is dataclasses.MISSING]
    assert not missing, f"{kind.__name__}: no option sets {', '.join(missing)}"
    return kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}, **made)


_LONG_DASH = re.compile(r"[‐-―−]+(?=\w)")  # word processors turn `-` and `--` into these
_CURLY = "“”„‘’‚«»"


def find_typographic(words: Sequence[str]) -> str | None:
    """Return an error for the first word that a word processor changed (`–csv`, `“my.csv”`), or None."""
    for word in words:
        if dash := _LONG_DASH.match(word):
            return f"{word}: begins with a long dash, copied from formatted text; type --{word[dash.end() :]}"
        if word[:1] and word[0] in _CURLY and not os.path.exists(word):
            plain = word.strip(_CURLY)
            return f'{word}: is in curly quotes, copied from formatted text; type straight quotes: "{plain}"'
    return None


def main(
    parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int | None], argv: Sequence[str] | None
) -> int:
    """Parse `argv`, call `run(args)`, and turn any error into one line on stderr and an exit code.

    0 done, 1 the data failed the check, 2 bad usage or unreadable input, 130 interrupted. `args.argv` holds all words:
    first the --config file's, then the command line's.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if found := find_typographic(words):
        _say_error(found)
        return 2
    try:
        words = config_file.expand(parser, words)
    except config_file.ConfigError as error:
        _say_error(str(error))
        return 2
    try:
        args = parser.parse_args(join_values(words))
    except SystemExit as stop:  # argparse has printed its message; a caller in this process needs the exit code
        return int(stop.code or 0)
    args.argv = words
    try:
        return run(args) or 0
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except BrokenPipeError:
        return 1
    except Exception as error:
        if getattr(args, "debug", False) or os.environ.get(DEBUG, "") not in ("", "0"):
            print(mask_secrets(traceback.format_exc()), file=sys.stderr, flush=True)
        _say_error(describe_error(error))
        return error.exit_code if isinstance(error, UserError) else 2


def describe_os_error(error: OSError, place: object = None) -> str:
    """Return `PLACE: the system's message`, with advice if the disk is full; `place` defaults to the error's file."""
    where = place or error.filename or "writing"  # the error of a failed write does not name the file
    advice = "; free some space or write elsewhere" if error.errno in _NO_SPACE else ""
    return f"{where}: {(error.strerror or str(error)).lower()}{advice}"


def describe_error(error: Exception) -> str:
    """Return one line about an error: the text of a UserError, a system error with its file, else type and message."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        name = (error.name or "").partition(".")[0]
        if name not in ("", "linklab") and name not in sys.stdlib_module_names:
            return (
                f"the package '{name}' is not installed for {sys.executable}; run .venv/bin/python instead, or install "
                f"it: {sys.executable} -m pip install -r requirements.txt (environment.md)"
            )
    if isinstance(error, OSError) and error.strerror and (error.filename is not None or error.errno in _NO_SPACE):
        return describe_os_error(error)
    if isinstance(error, MemoryError):
        return "out of memory; use a smaller input or a machine with more memory"
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
    return f"{type(error).__name__}: {said[:300]} (unexpected error; --debug shows where)"
