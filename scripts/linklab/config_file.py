"""`--config FILE.yaml`: reads a script's options from a file; the command line overrides them."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from typing import Any

OPTION = "--config"
_NOT_HERE = ("--config", "--help", "--version", "-h")


class ConfigError(ValueError):
    """An error in a --config file: one line with the file's name."""


def expand(parser: argparse.ArgumentParser, words: Sequence[str]) -> list[str]:
    """Return the --config file's words followed by `words`; `words` alone if no file is named.

    A file's option is ignored if the command line gives it too, or gives another option of its exclusive group.
    Raises a ConfigError that names the file: not YAML, not a mapping, an unknown option or a value of the wrong form.
    """
    path = _find_file(words)
    if path is None:
        return list(words)
    given = {word.partition("=")[0] for word in words if word.startswith("-")}
    options = {name: action for name, action in parser._option_string_actions.items() if name not in _NOT_HERE}
    bare: list[str] = []  # `--name value value` goes before `--name=value`, which ends the list of values
    joined: list[str] = []
    for name, value in _read(path).items():
        flag = "--" + str(name).removeprefix("--").replace("_", "-")
        if flag not in options:
            close = difflib.get_close_matches(flag, options, n=1, cutoff=0.6)
            meant = f"did you mean {close[0].removeprefix('--')}?" if close else f"{parser.prog} --help lists them"
            raise ConfigError(f"{path}: '{name}' is not an option of {parser.prog}; {meant}")
        if value is None or given.intersection(_rivals(parser, options[flag])):
            continue
        made = _to_words(f"{path}: '{name}'", flag, options[flag], value)
        (joined if all("=" in word for word in made) else bare).extend(made)
    return [*bare, *joined, *words]


def _find_file(words: Sequence[str]) -> str | None:
    """Return the file that --config names, None without --config."""
    found = [word.partition("=")[2] for word in words if word.startswith(f"{OPTION}=")]
    found += [words[i + 1] if i + 1 < len(words) else "" for i, word in enumerate(words) if word == OPTION]
    if len(found) > 1 or found == [""]:
        raise ConfigError(f"{OPTION}: expected one YAML file")
    return found[0] if found else None


def _read(path: str) -> dict[Any, Any]:
    """Return the mapping in a YAML file; raises a ConfigError with the line for anything else."""
    import yaml

    try:
        with open(path, encoding="utf-8") as handle:
            text = handle.read()
        node = yaml.compose(text, yaml.SafeLoader)
        value = yaml.safe_load(text)
    except OSError as error:
        raise ConfigError(f"{path}: {(error.strerror or 'cannot be read').lower()}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else path
        what = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{where}: not YAML ({what}); write `name: value`") from error
    if value is None or node is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected options, one `name: value` per line")
    names = [str(key.value).removeprefix("--").replace("_", "-") for key, _ in node.value]
    for at, (key, _) in enumerate(node.value):
        if names[at] in names[:at]:
            raise ConfigError(f"{path}:{key.start_mark.line + 1}: '{key.value}' is given twice; keep one")
    return value


def _rivals(parser: argparse.ArgumentParser, action: argparse.Action) -> set[str]:
    """Return the option strings that override an option: its own, and those of its exclusive group."""
    rivals = {word for other in parser._actions if other.dest == action.dest for word in other.option_strings}
    for group in parser._mutually_exclusive_groups:
        if action in group._group_actions:
            rivals.update(word for other in group._group_actions for word in other.option_strings)
    return rivals


def _to_words(where: str, flag: str, action: argparse.Action, value: Any) -> list[str]:
    """Return an option's command-line words: lr 0.1 -> --lr=0.1, switch true -> --switch, switch false -> none."""
    if isinstance(value, bool):
        if action.nargs == 0:
            return [flag] if value else []
        if value and action.nargs == "?":
            return [flag]
        raise ConfigError(f"{where}: only switches take true or false; put a text in quotes")
    if action.nargs == 0:
        raise ConfigError(f"{where}: is a switch; expected true or false, not {value!r}")
    values = value if isinstance(value, list) else [value]
    if not values or any(isinstance(one, dict | list | bool) or one is None for one in values):
        raise ConfigError(f"{where}: expected one value or a list of values")
    texts = [str(one) for one in values]
    if isinstance(action, argparse._AppendAction):
        return [f"{flag}={text}" for text in texts]
    if action.nargs in ("+", "*"):
        return [flag, *texts]
    return [f"{flag}={','.join(texts)}"]
