"""Vectors rounded to whole numbers of a scale."""

import numpy as np
from jaxtyping import Float, Int

SCALES = ("vector", "dimension")  # a scale for each vector; for each dimension, over all vectors


def scales(
    mem: Float[np.ndarray, "texts n_mem dim"], bits: int, *, by: str = "vector"
) -> Float[np.ndarray, "some n_mem width"]:
    """Return the steps of a symmetrical quantiser that reaches the largest entry with `bits` bits, float32.

    by: of SCALES. `vector`: shape (texts, n_mem, 1); `dimension`: (1, n_mem, dim), which is no part of a vector: all
    vectors share it. Raises ValueError for fewer than 2 bits, more than 16, another `by`, or entries that are not
    finite.
    """
    if not 2 <= bits <= 16 or by not in SCALES:
        raise ValueError(f"bits is {bits} and by {by!r}; 2 to 16, and one of {', '.join(SCALES)} are allowed")
    if not np.isfinite(mem).all():
        raise ValueError("a vector has entries that are not finite, which no rounding keeps; leave it out")
    most = np.abs(mem).max(axis=-1 if by == "vector" else 0, keepdims=True)
    return np.where(most > 0, most / (2 ** (bits - 1) - 1), 1).astype(np.float32)


def levels(
    mem: Float[np.ndarray, "texts n_mem dim"], bits: int, *, by: str = "vector"
) -> Int[np.ndarray, "texts n_mem dim"]:
    """Return the whole numbers that vectors are rounded to, -(2^(bits-1) - 1) to 2^(bits-1) - 1; see `scales`."""
    most = 2 ** (bits - 1) - 1
    return np.rint(mem / scales(mem, bits, by=by)).clip(-most, most).astype(np.int32)


def quantised(
    mem: Float[np.ndarray, "texts n_mem dim"], bits: int, *, by: str = "vector"
) -> Float[np.ndarray, "texts n_mem dim"]:
    """Return vectors rounded to `bits` bits a dimension, float32: off by half a step (`scales`) at most.

    >>> quantised(np.array([[[1.0, 0.4, -0.6]]], dtype=np.float32), 2).tolist()
    [[[1.0, 0.0, -1.0]]]
    """
    return levels(mem, bits, by=by).astype(np.float32) * scales(mem, bits, by=by)
