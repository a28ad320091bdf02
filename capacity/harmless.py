"""Text made harmless for whatever shows it: a terminal, a page, a chart."""

import json
import math
import os
import re
from typing import Any, TextIO

__all__ = ["mute", "neutral", "plain", "script_json", "show", "visible"]
__dir__ = __all__.copy  # what completion shows

# Terminal sequences, by ECMA-48: control (colours, cursor), operating-system commands (links), others.
_TERMINAL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b\n]*(?:\x07|\x1b\\)|\x1b[@-Z\\-_]")
_BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_CONTROL = [code for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n\r"]
_SURROGATES = range(0xD800, 0xE000)  # alone they cannot be written as UTF-8
_VISIBLE = {code: f"⟨U+{code:04X}⟩" for code in (*map(ord, _BIDI), *_CONTROL, *_SURROGATES)}


def script_json(value: Any) -> str:
    """Return `value` as JSON for the inside of a script element: ASCII, with no `<` to end or comment it."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")


def plain(value: Any) -> Any:
    """Return a valid and harmless copy of a JSON value: NaN and infinities null, strings `visible`."""
    match value:
        case dict():
            return {visible(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case str():
            return visible(value)
        case float() if not math.isfinite(value):
            return None
    return value


def visible(text: str) -> str:
    """Return `text` without terminal sequences, its bidi marks and control characters written as ⟨U+202E⟩.

    Tab, newline and carriage return stay. Applied twice it changes nothing more.
    """
    return _TERMINAL.sub("", text).translate(_VISIBLE)


def show(text: str, stream: TextIO) -> None:
    """Write a line for a person to a stream: what is in it can't steer a terminal, nor end the program.

    It is `visible`; what the stream's encoding lacks is escaped; where nobody reads any more (`| head -1`), nothing is
    shown from then on.
    """
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        print(visible(text).encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
    except BrokenPipeError:
        mute(stream)


def mute(stream: TextIO) -> None:
    """Send what is still to be written to a stream nowhere: what waits in it would be an error at the program's end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def neutral(html: str) -> str:
    """Return markup with bidi marks and control characters written out: entities may bring them back."""
    return html.translate(_VISIBLE)
