"""Text and specifications made harmless."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from capacity import harmless

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
@settings(max_examples=100, database=None)
def test_a_specification_survives_and_cannot_end_its_script(value: object) -> None:
    clean = harmless.plain(value)
    text = harmless.script_json(clean)
    assert json.loads(text) == clean == harmless.plain(clean)
    assert text.isascii()
    assert "<" not in text


def test_terminal_sequences_go_and_direction_marks_show() -> None:
    link = "\x1b]8;;http://example.org\x1b\\word\x1b]8;;\x07"
    assert harmless.visible(f"\x1b[1;31ma\x1b[0m\t{link}\n") == "a\tword\n"
    assert harmless.visible("a\u2066b\u0000\x1b\ud800é") == "a⟨U+2066⟩b⟨U+0000⟩⟨U+001B⟩⟨U+D800⟩é"
    assert harmless.plain({"x": [float("nan"), float("-inf"), 1.5]}) == {"x": [None, None, 1.5]}
