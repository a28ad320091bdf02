"""The text coded by the model itself: its cross-entropy, a range coder, the bytes that each way of keeping it takes."""

import math
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import constriction
import numpy as np
import torch
import zstandard
from jaxtyping import Float
from torch import Tensor

from capacity.decoding import teacher_forced, walk
from capacity.models import Frozen
from capacity.texts import Text, token_bytes

__all__ = ["decode", "densities", "encode", "entropy_bits", "ledger", "zstd"]
__dir__ = __all__.copy  # what completion shows

_STREAM = constriction.stream  # pyright: ignore[reportAttributeAccessIssue]: a compiled module
_QUEUE, _MODEL = _STREAM.queue, _STREAM.model


def entropy_bits(frozen: Frozen, ids: Sequence[int]) -> float:
    """Return the ideal code length of a text under the model alone, bits, in (0, inf).

    Nothing predicts t1, which costs log2(vocab_size) bits; each other token costs its surprisal. Raises ValueError for
    a text that is empty, past the context, or not of this vocabulary.
    """
    _check(frozen, ids)
    return math.log2(frozen.vocab_size) + float(
        teacher_forced(frozen, None, torch.tensor([list(ids)])).bits[0, 1:].sum()
    )


def densities(frozen: Frozen, sample: Sequence[Text]) -> list[dict[str, str | int | float]]:
    """Return how dense each text is for the model alone: one row a text.

    Columns: source, text_id, n_tokens, n_bytes (that the tokens stand for), tokens_per_byte, bits_per_token
    (positions 2..N over N - 1, since nothing predicts t1) and bits_per_byte, the product of these two.
    Raises ValueError for a text of one token, past the context, or not of this vocabulary.

    Source: Kuratov et al. 2025, get_bits_per_byte.ipynb of its repository.
    """
    rows = []
    for text in sample:
        if len(text.ids) == 1:
            raise ValueError(f"{text.id} has 1 token, which nothing predicts; give at least 2")
        n_bytes = len(token_bytes(frozen.tokenizer, text.ids))
        if not n_bytes:
            raise ValueError(f"the tokens of {text.id} stand for no bytes at all; give a text with some")
        per_byte = len(text.ids) / n_bytes
        per_token = (entropy_bits(frozen, text.ids) - math.log2(frozen.vocab_size)) / (len(text.ids) - 1)
        rows.append({
            "source": text.source, "text_id": text.id, "n_tokens": len(text.ids), "n_bytes": n_bytes,
            "tokens_per_byte": per_byte, "bits_per_token": per_token, "bits_per_byte": per_token * per_byte,
        })  # fmt: skip
    return rows


def encode(frozen: Frozen, ids: Sequence[int]) -> bytes:
    """Return the text as `decode` reads it: range-coded under the model alone, in words of 4 bytes.

    Raises ValueError for a text that is empty, past the context, or not of this vocabulary.
    """
    _check(frozen, ids)
    coder, rest = _QUEUE.RangeEncoder(), iter(ids)

    def put(model: Any) -> int:
        token = int(next(rest))
        coder.encode(token, model)
        return token

    _walk(frozen, len(ids), put)
    return coder.get_compressed().astype("<u4").tobytes()


def decode(frozen: Frozen, data: bytes, n_tokens: int) -> list[int]:
    """Return the token ids that `encode` wrote.

    Probabilities must come out the same to the bit: the same weights, dtype, device and versions are needed.

    Args:
        frozen: the model that encoded.
        data: what `encode` returned.
        n_tokens: how many tokens that was.

    Raises ValueError for a count below 1 or past the context, and where it shows that `data` is not `n_tokens` tokens
    coded by this model (not every other model or count shows).
    """
    _check_length(frozen, n_tokens)
    if len(data) % 4:
        raise ValueError(f"{len(data)} bytes of data are no whole words of 4 bytes; give what encode returned")
    coder = _QUEUE.RangeDecoder(np.frombuffer(data, dtype="<u4").astype(np.uint32))
    wrong = f"the data is not {n_tokens} tokens coded by {frozen.name}; check the model, its dtype and the count"
    try:
        ids = _walk(frozen, n_tokens, coder.decode)
    except AssertionError as error:  # how the coder says that no symbol fits
        raise ValueError(wrong) from error
    if not coder.maybe_exhausted():
        raise ValueError(wrong)
    return ids


def zstd(text: str | bytes) -> bytes:
    """Return the UTF-8 text compressed by zstd at its strongest level, in a frame with the size and no checksum.

    It begins with an empty dictionary, so a short text comes out longer than it was.
    """
    return zstandard.ZstdCompressor(level=zstandard.MAX_COMPRESSION_LEVEL).compress(_utf8(text))


def ledger(
    frozen: Frozen, mem: Float[Tensor, "n_mem dim"], text: str | bytes, ids: Sequence[int], *, given: int = 0
) -> list[dict[str, str | int | float]]:
    """Return what each way of keeping one text takes: rows with `what`, `bytes` and `bits_per_token`.

    Every way but UTF-8 and zstd needs the model or its tokenizer at hand. Nothing says here that 16 bits a number still
    decode.

    Args:
        frozen: the model.
        mem: the text's vectors; only their number of entries counts.
        text: the text itself, or the bytes of it where it may end within a character.
        ids: its token ids.
        given: leading tokens that the decoder gets beside [mem] (with `scored_from=1`, 1), packed.

    Without any token there are the vectors' rows alone. Raises ValueError for more tokens given than there are, or as
    `encode`.
    """
    if not 0 <= given <= len(ids):
        raise ValueError(f"{given} tokens are given of {len(ids)}; 0 to {len(ids)} are allowed")
    packed_bits = (frozen.vocab_size - 1).bit_length()  # ceil(log2 V)
    kept = {
        "[mem], float32": _whole_bytes(32 * mem.numel() + given * packed_bits),
        "[mem], 16 bits a number": _whole_bytes(16 * mem.numel() + given * packed_bits),
    }
    if not len(ids):  # of nothing but the vectors there is something to keep
        return [{"what": way, "bytes": n, "bits_per_token": math.inf} for way, n in kept.items()]
    sizes = kept | {
        "text, UTF-8": len(_utf8(text)),
        "text, zstd": len(zstd(text)),
        "token ids, packed": _whole_bytes(len(ids) * packed_bits),
        "token ids, coded by the model": len(encode(frozen, ids)),
    }
    return [{"what": way, "bytes": n, "bits_per_token": 8 * n / len(ids)} for way, n in sizes.items()]


def _walk(frozen: Frozen, n_tokens: int, code: Callable[[Any], int]) -> list[int]:
    """Return the tokens that `code` gives for each distribution in turn.

    Both directions go through these same calls, one token at a time, so that their probabilities are the same bits.
    """
    first = [code(_MODEL.Uniform(frozen.vocab_size))]

    def choose(logits: Float[Tensor, " vocab"]) -> int:
        probabilities = torch.softmax(logits.cpu().double(), -1).numpy()  # MPS has no float64
        return code(_MODEL.Categorical(probabilities, perfect=False))

    inputs = frozen.inputs(None, frozen.embed(torch.tensor([first])))
    return first + list(islice(walk(frozen, inputs, choose), n_tokens - 1))


def _utf8(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8")


def _whole_bytes(bits: int) -> int:
    return -(-bits // 8)


def _check(frozen: Frozen, ids: Sequence[int]) -> None:
    _check_length(frozen, len(ids))
    if not 0 <= min(ids) <= max(ids) < frozen.vocab_size:
        raise ValueError(f"token ids reach from {min(ids)} to {max(ids)}; 0 to {frozen.vocab_size - 1} are allowed")


def _check_length(frozen: Frozen, n_tokens: int) -> None:
    if n_tokens < 1:
        raise ValueError(f"the text has {n_tokens} tokens; give at least one")
    if frozen.context is not None and n_tokens > frozen.context:
        raise ValueError(f"{n_tokens} tokens are past the context of {frozen.name} ({frozen.context}); give fewer")
