"""`--config FILE.yaml`: a script's options from a file, by name; what the command line gives wins."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from typing import Any

from linklab import files
from linklab.cli import UserError

OPTION = "--config"
_NOT_HERE = ("--config", "--help", "--version", "-h")


def expand(parser: argparse.ArgumentParser, words: Sequence[str]) -> list[str]:
    """Return the words with those of the --config file before them; the same words where no file is named.

    Of an option that the command line gives too, or another of its exclusive group, the file's value is left out.
    Raises a UserError that names the file for what is not YAML, no mapping, an unknown option, or a wrong shape.
    """
    path = _find_file(words)
    if path is None:
        return list(words)
    given = {word.partition("=")[0] for word in words if word.startswith("-")}
    options = {name: action for name, action in parser._option_string_actions.items() if name not in _NOT_HERE}
    bare: list[str] = []  # words with values behind them come before `--name=value`, which ends them
    whole: list[str] = []
    for name, value in _read(path).items():
        flag = "--" + str(name).removeprefix("--").replace("_", "-")
        if flag not in options:
            close = difflib.get_close_matches(flag, options, n=1, cutoff=0.6)
            meant = f"did you mean {close[0].removeprefix('--')}?" if close else f"{parser.prog} --help lists them"
            raise UserError(f"{path}: '{name}' is no option of {parser.prog}; {meant}")
        if value is None or given.intersection(_rivals(parser, options[flag])):
            continue
        made = _to_words(f"{path}: '{name}'", flag, options[flag], value)
        (whole if all("=" in word for word in made) else bare).extend(made)
    return [*bare, *whole, *words]


def _find_file(words: Sequence[str]) -> str | None:
    """Return what --config names, None where it is not given."""
    found = [word.partition("=")[2] for word in words if word.startswith(f"{OPTION}=")]
    found += [words[i + 1] if i + 1 < len(words) else "" for i, word in enumerate(words) if word == OPTION]
    if len(found) > 1 or found == [""]:
        raise UserError(f"{OPTION}: one YAML file is expected")
    return found[0] if found else None


def _read(path: str) -> dict[Any, Any]:
    """Return the mapping a YAML file holds; UserError with the line for anything else."""
    import yaml

    try:
        with open(files.require_file(path), encoding="utf-8") as handle:
            text = handle.read()
        node = yaml.compose(text, yaml.SafeLoader)
        value = yaml.safe_load(text)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else path
        what = getattr(error, "problem", None) or str(error)
        raise UserError(f"{where}: not YAML ({what}); write `name: value`") from error
    if value is None or node is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"{path}: options by name are expected, one `name: value` per line")
    names = [str(key.value).removeprefix("--").replace("_", "-") for key, _ in node.value]
    for at, (key, _) in enumerate(node.value):
        if names[at] in names[:at]:
            raise UserError(f"{path}:{key.start_mark.line + 1}: '{key.value}' is given twice; keep one")
    return value


def _rivals(parser: argparse.ArgumentParser, action: argparse.Action) -> set[str]:
    """Return the words of the options that one may not be given with: its own, and those of its exclusive group."""
    rivals = {word for other in parser._actions if other.dest == action.dest for word in other.option_strings}
    for group in parser._mutually_exclusive_groups:
        if action in group._group_actions:
            rivals.update(word for other in group._group_actions for word in other.option_strings)
    return rivals


def _to_words(where: str, flag: str, action: argparse.Action, value: Any) -> list[str]:
    """Return an option's words: lr 0.1 -> --lr=0.1, a switch that is true -> --switch, one that is false -> none."""
    if isinstance(value, bool):
        if action.nargs == 0:
            return [flag] if value else []
        if value and action.nargs == "?":
            return [flag]
        raise UserError(f"{where}: true and false are for switches; put the value in quotes if it is a text")
    if action.nargs == 0:
        raise UserError(f"{where}: a switch, true or false is expected, not {value!r}")
    values = value if isinstance(value, list) else [value]
    if not values or any(isinstance(one, dict | list | bool) or one is None for one in values):
        raise UserError(f"{where}: one value is expected, or a list of values")
    texts = [str(one) for one in values]
    if isinstance(action, argparse._AppendAction):
        return [f"{flag}={text}" for text in texts]
    if action.nargs in ("+", "*"):
        return [flag, *texts]
    return [f"{flag}={','.join(texts)}"]
