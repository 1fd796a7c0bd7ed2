"""Changes of a JSON text, checked with json: only the wanted parts change, every other byte stays."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st
from linklab.notebooks.json_text import Change, Copy, JsonText, Members

NAMES = st.sampled_from(["a", "b", 'c"\\', "é☃", ""])
LEAVES = st.none() | st.booleans() | st.integers(-3, 10**6) | st.floats(allow_nan=False) | st.text(max_size=5)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=12
)
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=5)
STYLES = st.sampled_from(
    [{"indent": 1}, {"indent": 4}, {"indent": "\t"}, {"indent": 0}, {}, {"separators": (",", ":")}]
)
ABSENT = object()


@settings(max_examples=50, deadline=None)
@given(OBJECTS, st.dictionaries(NAMES, st.just(None) | LEAVES.map(json.dumps), max_size=4), STYLES, st.booleans())
def test_keys_set_and_removed_give_the_text_json_writes_for_the_changed_object(value, wanted, style, crlf):
    """The object is two levels deep, so that indentation counts; an empty object has no style of its own."""

    def write(inner):
        text = json.dumps({"x": [inner], "y": 1}, **style)
        return text.replace("\n", "\r\n") if crlf else text

    expected = dict(value)
    for key, text in wanted.items():
        if text is None:
            expected.pop(key, None)
        else:
            expected[key] = json.loads(text)
    changed = JsonText(write(value)).apply([Change(("x", 0), key, text) for key, text in wanted.items()])
    assert json.loads(changed) == {"x": [expected], "y": 1}
    if style.get("separators") is None or len(value) > 1 or not expected:
        assert changed == write(expected)


@settings(max_examples=50, deadline=None)
@given(OBJECTS, VALUES, STYLES)
def test_a_copied_value_is_unchanged_except_its_indentation(value, moved, style):
    def write(*, there: object, here: object = ABSENT) -> str:
        inner = {**value, "new": there} if there is not ABSENT else value
        return json.dumps({"x": {"y": {"z": 0, **inner}}} | ({} if here is ABSENT else {"here": here}), **style)

    changes = [Change((), "here", None), Change(("x", "y"), "new", Copy(("here",)))]
    assert JsonText(write(there=ABSENT, here=moved)).apply(changes) == write(there=moved)


@given(OBJECTS, STYLES)
def test_a_new_object_is_written_in_the_style_around_it(value, style):
    def write(new: object) -> str:
        return json.dumps({"x": {"a": 1, "b": 2} | ({} if new is ABSENT else {"new": new}), "value": value}, **style)

    entries = tuple((key, Copy(("value", key))) for key in value)
    assert JsonText(write(ABSENT)).apply([Change(("x",), "new", Members(entries))]) == write(value)


def test_a_change_inside_a_removed_value_is_left_to_the_next_pass():
    text = '{"a": {"b": 1, "c": 2}, "d": 3}'
    assert JsonText(text).apply([Change(("a",), "b", None), Change((), "a", None)]) == '{"d": 3}'


def test_lines_are_those_an_editor_shows():
    text = '{\n "a": {\n  "b": 1\n },\n "c": [\n  {"d": 2}\n ]\n}'
    source = JsonText(text)
    assert [source.line(()), source.line(("a",)), source.line(("a",), "b"), source.line(("c", 0), "d")] == [1, 2, 3, 6]
    assert source.line(("a",), "missing") == 2
