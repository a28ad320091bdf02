"""Two habits of transformers that cost a GPU its fast attention."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor


@contextmanager
def spared() -> Iterator[None]:
    """Spare transformers two habits that cost a GPU its fast attention; two threads at once cost one of them that.

    The look for rows that hold several texts (there are none) waits for the device at every call, and while traced,
    where it can't look, it makes a dense mask of each row, by which attention is no longer flash attention. Keys and
    values that are shared by heads are not repeated on CUDA; but no fast kernel shares them in float32.
    """
    from transformers import masking_utils
    from transformers.integrations import sdpa_attention

    looking, shared = _habits()
    masking_utils.find_packed_sequence_indices = lambda position_ids: None
    sdpa_attention.use_gqa_in_sdpa = lambda mask, key, value: (
        not (key.dtype == torch.float32 and key.device.type == "cuda") and shared(mask, key, value)
    )
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices, sdpa_attention.use_gqa_in_sdpa = looking, shared


@cache
def _habits() -> tuple[Callable[..., Tensor | None], Callable[..., bool]]:
    from transformers import masking_utils
    from transformers.integrations import sdpa_attention

    return masking_utils.find_packed_sequence_indices, sdpa_attention.use_gqa_in_sdpa
