"""What a tokenizer makes of a text: the bytes that tokens stand for, and where a text does not come back."""

import json
import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

_UNKNOWN = "\N{REPLACEMENT CHARACTER}"
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def token_bytes(tokenizer, ids: Sequence[int]) -> bytes:
    """Return the bytes that token ids stand for: the UTF-8 of what they decode to, but a cut character as it was cut.

    Decoding writes U+FFFD, 3 bytes, for each part of a character; byte-level tokens and those of a byte each
    (sentencepiece's fallback) say which bytes it had. A tokenizer of neither kind cuts no characters.
    """
    text = str(tokenizer.decode(list(ids)))
    if _UNKNOWN not in text:
        return text.encode("utf-8", "surrogatepass")
    backend = getattr(tokenizer, "backend_tokenizer", None)
    kinds = set(_kinds(json.loads(backend.to_str())["decoder"])) if backend is not None else {"ByteFallback"}
    if not kinds & {"ByteLevel", "ByteFallback"}:
        return text.encode("utf-8", "surrogatepass")
    added = tokenizer.get_added_vocab()
    tokens = [str(token) for token in tokenizer.convert_ids_to_tokens(list(ids))]
    to_bytes = _of_byte_level if "ByteLevel" in kinds else _of_fallback
    data = b"".join(token.encode() if token in added else to_bytes(token) for token in tokens)
    begins_anew = data.startswith(b" ") and not text.startswith(" ")  # sentencepiece's own first space
    return data[1:] if begins_anew else data


def difference(tokenizer, text: str, ids: Sequence[int]) -> str | None:
    """Return where what the tokens of `text` decode to first differs from it, in words; None where it does not."""
    back = str(tokenizer.decode(list(ids)))
    if back == text:
        return None
    at = next((i for i, (a, b) in enumerate(zip(text, back, strict=False)) if a != b), min(len(text), len(back)))
    return (
        f"its {len(text)} characters become {len(back)}, and from character {at + 1} on {_shown(text[at:])} becomes "
        f"{_shown(back[at:])}"
    )


def _shown(rest: str) -> str:
    """Return the next characters, each that is not ASCII by its number, too: two that look alike may differ."""
    first = rest[:8]
    numbers = " ".join(f"U+{ord(character):04X}" for character in first if not character.isascii())
    return (repr(first) + (f" ({numbers})" if numbers else "")) if rest else "nothing"


def _kinds(decoder: Any) -> Iterator[str]:
    if isinstance(decoder, dict):
        yield str(decoder.get("type"))
        for part in decoder.get("decoders") or ():
            yield from _kinds(part)


@cache
def _bytes_of() -> dict[str, int]:
    """Return the byte of each character by which byte-level tokens are written (GPT-2's map)."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {chr(256 + n): byte for n, byte in enumerate(others)}


def _of_byte_level(token: str) -> bytes:
    known = _bytes_of()
    return bytes(known[character] for character in token) if known.keys() >= set(token) else token.encode()


def _of_fallback(token: str) -> bytes:
    byte = _BYTE.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace("\u2581", " ").encode()
