"""Vectors as few bytes: whole numbers, entropy-coded, with a scale."""

import math
import struct
from typing import Any

import constriction
import numpy as np
from jaxtyping import Float

from capacity.precision.quantiser import levels, scales

_STREAM = constriction.stream  # pyright: ignore[reportAttributeAccessIssue]: a compiled module
_HEADER = struct.Struct("<Bfe")  # bits, scale, spread of the whole numbers


def packed(mem: Float[np.ndarray, "n_mem dim"], bits: int) -> bytes:
    """Return one text's vectors at `bits` bits a dimension as `unpacked` reads them: 7 bytes, then words of 4.

    The whole numbers (`levels`, one scale for all vectors together) are range-coded under a Gaussian about 0 with their
    own spread. How many vectors of which width is not kept: the model says the one, the text's protocol the other.
    """
    flat = mem.reshape(1, 1, -1)
    whole = levels(flat, bits)[0, 0]
    spread = float(np.float16(max(0.25, np.sqrt(np.square(whole.astype(float)).mean()))))
    coder = _STREAM.queue.RangeEncoder()
    coder.encode(whole, _gaussian(bits, spread))
    header = _HEADER.pack(bits, float(scales(flat, bits)[0, 0, 0]), spread)
    return header + coder.get_compressed().astype("<u4").tobytes()


def unpacked(data: bytes, shape: tuple[int, int]) -> Float[np.ndarray, "n_mem dim"]:
    """Return the vectors that `packed` wrote, float32, of a shape (n_mem, dim)."""
    bits, scale, spread = _HEADER.unpack(data[: _HEADER.size])
    coder = _STREAM.queue.RangeDecoder(np.frombuffer(data[_HEADER.size :], dtype="<u4").astype(np.uint32))
    whole = coder.decode(_gaussian(bits, spread), math.prod(shape))
    return whole.astype(np.float32).reshape(shape) * np.float32(scale)


def _gaussian(bits: int, spread: float) -> Any:
    most = 2 ** (bits - 1) - 1
    return _STREAM.model.QuantizedGaussian(-most, most, 0.0, spread)
