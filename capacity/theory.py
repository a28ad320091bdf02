"""What an input vector could hold at most: its bits, and the tokens those bits would pay for."""

import math

__all__ = ["bit_capacity", "entropy_capacity", "token_capacity"]
__dir__ = __all__.copy  # what completion shows


def bit_capacity(d_model: float, *, bits: float = 16, n_mem: int = 1) -> float:
    """Return the bits that `n_mem` vectors of width `d_model` can tell apart: n_mem * d_model * bits.

    An upper limit: it assumes every pattern of bits is usable, which no measured model comes near.

    Args:
        d_model: width of [mem], dimensions, above 0.
        bits: bits a dimension, above 0; 16 is what the paper assumes, whatever the vector is stored in.
        n_mem: number of [mem] vectors, above 0; n vectors hold n times as much.

    Returns:
        Bits, in (0, inf).

    Raises:
        ValueError: an argument is not a finite number above 0.

    Source: numerator of Eq. 1, Kuratov et al. 2025.

    >>> bit_capacity(768)
    12288.0
    >>> bit_capacity(768, bits=8, n_mem=4)
    24576.0
    """
    for name, value in {"d_model": d_model, "bits": bits, "n_mem": n_mem}.items():
        _require_positive(name, value)
    return float(n_mem * d_model * bits)


def token_capacity(d_model: float, vocab_size: float, *, bits: float = 16, n_mem: int = 1) -> float:
    """Return the tokens that `n_mem` vectors can hold when every token is as likely as any other.

    Args:
        d_model: width of [mem], dimensions, above 0.
        vocab_size: tokens to choose from, at least 2; the paper takes the padded rows of the embedding.
        bits: bits a dimension, above 0.
        n_mem: number of [mem] vectors, above 0.

    Returns:
        n_mem * d_model * bits / log2(vocab_size), tokens, not rounded, in (0, inf).

    Raises:
        ValueError: vocab_size is below 2, or an argument is not a finite number above 0.

    Source: Eq. 1, Kuratov et al. 2025.

    >>> round(token_capacity(768, 50304), 1)  # Pythia-160M, published as 787
    786.8
    >>> token_capacity(512, 256)  # a byte costs 8 bits
    1024.0
    """
    _require_positive("vocab_size", vocab_size)
    if vocab_size < 2:
        raise ValueError(f"vocab_size is {vocab_size!r}, must be at least 2: a lone token carries no bits to count")
    return bit_capacity(d_model, bits=bits, n_mem=n_mem) / math.log2(vocab_size)


def entropy_capacity(d_model: float, bits_per_token: float, *, bits: float = 16, n_mem: int = 1) -> float:
    """Return the tokens that `n_mem` vectors can hold when the model needs `bits_per_token` for each.

    Eq. 1 with the cross-entropy of the text under the model, without [mem], in place of log2(vocab_size):
    what the model predicts by itself need not be stored. Equal to `token_capacity` where each token costs
    log2(vocab_size) bits, above it for a text that the model predicts better than that.

    Args:
        d_model: width of [mem], dimensions, above 0.
        bits_per_token: cross-entropy without [mem], bits (not nats) a token, above 0.
        bits: bits a dimension, above 0.
        n_mem: number of [mem] vectors, above 0.

    Returns:
        n_mem * d_model * bits / bits_per_token, tokens, not rounded, in (0, inf).

    Raises:
        ValueError: an argument is not a finite number above 0.

    >>> entropy_capacity(768, 4)
    3072.0
    """
    _require_positive("bits_per_token", bits_per_token)
    return bit_capacity(d_model, bits=bits, n_mem=n_mem) / bits_per_token


def _require_positive(name: str, value: float) -> None:
    try:
        fine = math.isfinite(value) and value > 0
    except (TypeError, OverflowError):  # no number at all, or one too large for a float
        fine = False
    if not fine:
        raise ValueError(f"{name} is {repr(value)[:80]}, must be a finite number above 0: check where it was read from")
