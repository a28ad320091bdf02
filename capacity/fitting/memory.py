"""How many texts run at once, and what they take of a device's memory: predicted before it is taken."""

import resource
import sys
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch.autograd.graph import saved_tensors_hooks

from capacity.models import Frozen

CHUNK = {"cpu": 2**25, "cuda": 2**28}  # most logits at once, numbers: 128 MiB and 1 GiB in float32
# Of a chunk of logits at once: logits, their gradient, passing ones. Elsewhere than on processors they are counted by
# fake tensors, of a linear head and of one that goes through autograd (a cap, and what it keeps).
_COPIES, _COUNTED = 4, {"linear": 3, "own": 7}


@dataclass(frozen=True)
class Shape:
    """What a batch's tensors have the sizes of."""

    n_mem: int  # vectors a text
    bucket: int  # tokens a text, padded
    slots: int  # texts


def rows_of_chunk(frozen: Frozen) -> int:
    """Return how many positions go through the head at once."""
    return max(1, CHUNK.get(frozen.device.type, CHUNK["cpu"]) // frozen.vocab_size)


def saved_bytes(frozen: Frozen, positions: int) -> int:
    """Return what the forward pass of one text of `positions` input vectors keeps for the backward pass; measured."""
    # By the storage itself: its data has no address on devices without memory of their own.
    own = {tensor.untyped_storage()._cdata for tensor in frozen.model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no address is used twice

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    embeds = torch.zeros(1, positions, frozen.dim, device=frozen.device, requires_grad=True)
    with torch.enable_grad(), saved_tensors_hooks(keep, lambda tensor: tensor):
        frozen.hidden(embeds)
    return sum(storage.nbytes() for address, storage in kept.items() if address not in own)


_GROWTH: WeakKeyDictionary[Frozen, np.ndarray] = WeakKeyDictionary()


def _growth(frozen: Frozen) -> np.ndarray:
    """Return the coefficients of saved bytes as a polynomial in positions: attention may make it quadratic."""
    if frozen not in _GROWTH:
        most = frozen.context or 64
        at = [min(most, positions) for positions in (8, 24, 64)]
        if len(set(at)) < 3:
            _GROWTH[frozen] = np.array([0.0, saved_bytes(frozen, most) / most, 0.0])
        else:
            _GROWTH[frozen] = np.polyfit(at, [saved_bytes(frozen, positions) for positions in at], 2).clip(min=0.0)
    return _GROWTH[frozen]


def predicted_by_device(frozen: Frozen, shape: Shape) -> dict[torch.device, int]:
    """Return what a batch takes of each device at its peak: weights, their copies, activations, logits, vectors.

    Where the model is spread over devices, activations are taken to lie as the weights of its layers do; the rest is
    where [mem] is.
    """
    slots, bucket = shape.slots, shape.bucket
    positions = frozen.predicting(shape.n_mem) + bucket
    layers = getattr(frozen.model.config.get_text_config(), "num_hidden_layers", None) or 1
    activations = slots * float(np.polyval(_growth(frozen), positions))
    copies = _COPIES if frozen.device.type == "cpu" else _COUNTED["own" if frozen.weight is None else "linear"]
    logits = copies * 4 * min(rows_of_chunk(frozen), slots * bucket) * frozen.vocab_size
    if frozen.weight is None and frozen.tail is None:  # all logits at once
        logits += 3 * 4 * slots * bucket * frozen.vocab_size
    ends = (frozen.model.get_input_embeddings(), frozen.model.get_output_embeddings())
    tables = {id(getattr(end, "weight", None)) for end in ends}
    weights: dict[torch.device, int] = {frozen.device: frozen.products.n_bytes}
    layered: dict[torch.device, int] = {frozen.device: 0}
    for tensor in frozen.model.parameters():
        weights[tensor.device] = weights.get(tensor.device, 0) + tensor.nbytes
        layered[tensor.device] = layered.get(tensor.device, 0) + (0 if id(tensor) in tables else tensor.nbytes)
    beside = logits + 4 * slots * frozen.dim * (8 * shape.n_mem + 4 * positions)
    whole = max(1, sum(layered.values()))
    return {
        # The pass backward has one layer's gradients, on whichever device it is, beside what is kept of all.
        device: int(
            own + activations * (layered[device] / whole + 1 / layers) + (beside if device == frozen.device else 0)
        )
        for device, own in weights.items()
    }


def predicted_bytes(frozen: Frozen, shape: Shape) -> int:
    """Return what a batch takes at its peak, of all devices together; see `predicted_by_device`."""
    return sum(predicted_by_device(frozen, shape).values())


def peak_bytes(device: torch.device) -> int:
    """Return the most memory this process has had: on a GPU what torch allocated there, else resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
