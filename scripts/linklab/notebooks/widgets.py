"""Find widget data that stops nbconvert and GitHub, and the changes that fix it.

Both read `metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"]` and stop with KeyError 'state' if
the widget models are written without it, as Colab did. If the model of a view is under `state`, both show the view only
with JavaScript; otherwise they show the text or picture beside the view. So models are never moved under `state`: they
stay, or are put, beside an empty `state`, as Colab writes them today; Colab finds them, every viewer shows the text.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping

from linklab.notebooks.findings import Finding, holds_nothing
from linklab.notebooks.json_text import Change, Copy, Members, Path, Value

STATE_MIME = "application/vnd.jupyter.widget-state+json"
VIEW_MIME = "application/vnd.jupyter.widget-view+json"
TREATMENTS = ("keep", "text", "remove")
WIDGETS: Path = ("metadata", "widgets")
STATE: Path = (*WIDGETS, STATE_MIME)
_EMPTY_STATE = Change(STATE, "state", "{}")
_VERSIONS = {"version_major": "2", "version_minor": "0"}  # of the format ipywidgets 7 and 8 write


def find_widget_problems(notebook: dict, treatment: str = "keep") -> list[Finding]:
    """Return what is wrong with the widget data of a parsed notebook, with the fixes of `treatment`.

    keep: models stay, text is shown. text: like keep, but views with text beside them are removed, so that text is
    shown even if Jupyter saved working widgets. remove: `metadata.widgets` is removed.
    """
    metadata = notebook.get("metadata")
    found = list(_find_view_problems(notebook, withdraw=treatment == "text"))
    if isinstance(metadata, dict) and "widgets" in metadata:
        found += _find_state_problems(metadata["widgets"], remove=treatment == "remove")
    return found


def count_models(widgets: object) -> int:
    """Return how many widget models `metadata.widgets` holds, at any depth."""
    return sum(1 for _ in _walk_models(widgets, ()))


def _find_state_problems(widgets: object, *, remove: bool) -> list[Finding]:
    n_models = count_models(widgets)
    if remove:
        return [_problem(_say_models(n_models, "in the metadata"), "'widgets' removed", [_drop_widgets()])]
    state = widgets.get(STATE_MIME) if isinstance(widgets, dict) else None
    if isinstance(state, dict) and isinstance(state.get("state"), dict):
        return []  # nbconvert can read it
    if isinstance(state, dict) and (flat := sum(isinstance(part, dict) for part in state.values())):
        return [_problem(_say_models(flat, "without 'state'"), "kept, an empty 'state' added", [_EMPTY_STATE])]
    if n_models:
        return [_recover(widgets, n_models)]
    others = isinstance(widgets, dict) and any(key != STATE_MIME for key in widgets)
    if others or not _is_empty(state if isinstance(widgets, dict) else widgets):
        return [_problem("widget data without 'state'", "kept, an empty 'state' added", _add_empty_state(widgets))]
    return [_problem("empty widget metadata", "removed", [_drop_widgets()])]


def _add_empty_state(widgets: object) -> list[Change]:
    """Return the changes that add an empty widget state; data in its place is kept inside it, as `found`."""
    if not isinstance(widgets, dict):
        return [Change(("metadata",), "widgets", Members(((STATE_MIME, _new_state({"found": Copy(WIDGETS)})),)))]
    state = widgets.get(STATE_MIME)
    if isinstance(state, dict):
        return [_EMPTY_STATE]
    return [Change(WIDGETS, STATE_MIME, _new_state({} if holds_nothing(state) else {"found": Copy(STATE)}))]


def _recover(widgets: object, n_models: int) -> Finding:
    """Return the problem of models where no viewer looks for them, with their move to the place where Colab looks.

    They are not moved if that would lose something: there is other data around them, or two have the same name.
    """
    problem = _say_models(n_models, "where no viewer looks for them")
    paths = list(_walk_models(widgets, WIDGETS))
    models = {str(path[-1]): Copy(path) for path in paths}
    members = widgets if isinstance(widgets, dict) else {"": widgets}
    holders = [key for key, value in members.items() if count_models(value)]
    taken = len(models) < len(paths) or models.keys() & {"state", *_VERSIONS}
    if taken or not all(_only_models(members[key]) for key in holders):
        return _problem(problem, "kept there, an empty 'state' added", _add_empty_state(widgets))
    new = (STATE_MIME, _new_state(models))
    changes = [Change(WIDGETS, *new), *(Change(WIDGETS, key, None) for key in holders if key != STATE_MIME)]
    if not isinstance(widgets, dict):
        changes = [Change(("metadata",), "widgets", Members((new,)))]
    return _problem(problem, "put under the widget state's mime type, beside an empty 'state'", changes)


def _is_empty(value: object) -> bool:
    """Return whether a value in the place of a widget state is empty: nothing but version numbers, or false."""
    if isinstance(value, dict):
        return all(key == "state" or key in _VERSIONS or holds_nothing(part) for key, part in value.items())
    return holds_nothing(value) or value is False


def _only_models(value: object) -> bool:
    """Return whether a value holds models and no other information (version numbers are none)."""
    if _is_model(value):
        return True
    if isinstance(value, dict):
        return all(key in _VERSIONS or _only_models(part) for key, part in value.items())
    return all(_only_models(part) for part in value) if isinstance(value, list) else holds_nothing(value)


def _is_model(value: object) -> bool:
    return isinstance(value, dict) and ("model_name" in value or "model_module" in value)


def _walk_models(value: object, path: Path) -> Iterator[Path]:
    """Yield the path of every widget model below a value."""
    if _is_model(value):
        yield path
    elif isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _walk_models(part, (*path, key))


def _say_models(n: int, where: str) -> str:
    return f"{n} widget model{'s'[: n != 1]} {where}"


def _problem(problem: str, fix: str, changes: list[Change]) -> Finding:
    return Finding(("metadata",), "widgets", problem, fix, tuple(changes))


def _new_state(entries: Mapping[str, Value]) -> Members:
    return Members((*entries.items(), ("state", "{}"), *_VERSIONS.items()))


def _drop_widgets() -> Change:
    return Change(("metadata",), "widgets", None)


def _find_view_problems(notebook: dict, *, withdraw: bool) -> Iterator[Finding]:
    """Yield the outputs with a widget view that names no model: nbconvert stops there with KeyError 'model_id'.

    With `withdraw` also the views of outputs that have something else to show.
    """
    for path, data in outputs_with_data(notebook):
        if VIEW_MIME not in data:
            continue
        view = data[VIEW_MIME]
        named = isinstance(view, dict) and "model_id" in view and isinstance(view["model_id"], Hashable)
        if not named or (withdraw and len(data) > 1):
            problem = "a widget view with text beside it" if named else "a widget view that names no model"
            change = (Change((*path, "data"), VIEW_MIME, None),)
            yield Finding((*path, "data"), VIEW_MIME, problem, "view removed", change)


def outputs_with_data(notebook: dict) -> Iterator[tuple[Path, dict]]:
    """Yield path and data of every output that holds data by mime type."""
    cells = notebook.get("cells")
    for n, cell in enumerate(cells if isinstance(cells, list) else []):
        outputs = cell.get("outputs") if isinstance(cell, dict) else None
        for m, output in enumerate(outputs if isinstance(outputs, list) else []):
            if isinstance(output, dict) and isinstance(output.get("data"), dict):
                yield ("cells", n, "outputs", m), output["data"]
