"""Models whose matrices are rounded as another form keeps them."""

from copy import deepcopy

import torch
from jaxtyping import Float
from torch import Tensor

from capacity.models import Frozen, freeze


def q8_0(weight: Float[Tensor, "*rows columns"]) -> Float[Tensor, "*rows columns"]:
    """Return a matrix as Q8_0 keeps it: blocks of 32 of a row, whole numbers to 127 times a float16 scale.

    The columns have to be a multiple of 32. Source: quantize_row_q8_0_ref of ggml-quants.c in llama.cpp.
    """
    blocks = weight.float().unflatten(-1, (-1, 32))
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    inverse = torch.where(scale > 0, 1 / scale, 0.0)
    whole = torch.sign(blocks) * torch.floor((blocks * inverse).abs() + 0.5)  # halves go away from zero
    return (whole * scale.half().float()).flatten(-2).to(weight.dtype)


ROUNDINGS = {"bfloat16": lambda weight: weight.bfloat16().to(weight.dtype), "Q8_0": q8_0}


def rounded(frozen: Frozen, how: str) -> Frozen:
    """Return the model with its matrices rounded by a name of ROUNDINGS; their arithmetic stays what it is.

    What has one axis (norms, biases), or columns that are no multiple of 32, stays as it is, as in a GGUF file.
    """
    model = deepcopy(frozen.model)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1 and weight.shape[-1] % 32 == 0:
                weight.copy_(ROUNDINGS[how](weight))
    return freeze(model, frozen.tokenizer, name=frozen.name, revision=frozen.revision, bos=frozen.bos, quantisation=how)


def moved(frozen: Frozen, other: Frozen) -> float:
    """Return how far the weights of a copy are from a model's: root mean square of the change over that of the weights.

    0 where rounding changed nothing: a model whose weights were kept in that form.
    """
    if other.model is frozen.model:
        return 0.0
    pairs = list(zip(frozen.model.parameters(), other.model.parameters(), strict=True))
    off = sum(float((own.double() - copy.double()).square().sum()) for own, copy in pairs)
    return (off / sum(float(own.double().square().sum()) for own, _ in pairs)) ** 0.5
