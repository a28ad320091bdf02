"""Products with weights that never change, which oneDNN reads from copies that it laid out once.

Without them a product of few rows spends a third of its time and more on laying out the matrix, each time again.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import transformers  # its classes take seconds to import: not before a model is loaded
from torch import Tensor

from capacity.models.exhaustion import is_exhausted, total_bytes

WIDE = 512  # d_model; below, what calling a kernel takes is as much as what is won
SHARE = 0.5  # of the machine's memory that weights and copies may take together
_linear = torch.nn.functional.linear
_taken: ContextVar["Products | None"] = ContextVar("products", default=None)  # of each thread
_lock, _inside = threading.Lock(), 0  # threads that take some


class _Copies:
    """A matrix W as oneDNN reads it, for x Wᵀ and, once it is asked for, for y W."""

    def __init__(self, weight: Tensor):
        self.weight, self.state = weight, (-1, -1)  # version and place of the weight, when the copies were made

    def ahead(self) -> Tensor:
        """Return the copy for x Wᵀ, made again where the weight was changed in place."""
        state = self.weight._version, self.weight.data_ptr()
        if self.state != state:
            self._ahead, self._back = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach()), None
            self.state = state
        return self._ahead

    def back(self) -> Tensor:
        """Return the copy for y W."""
        self.ahead()
        if self._back is None:
            self._back = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach().t().contiguous())
        return self._back


def _right(weight: Tensor) -> bool:
    """Return whether products through a copy are plain ones but for rounding; not every build of torch has them."""
    rows = torch.linspace(-1, 1, 3 * weight.shape[1]).view(3, -1)
    try:
        made = _multiplied(rows, torch.ops.mkldnn._reorder_linear_weight(weight.detach()))
    except (AttributeError, RuntimeError):
        return False
    plain = _linear(rows, weight.detach())
    return bool((made - plain).norm() <= 1e-4 * plain.norm())


def _multiplied(rows: Tensor, copy: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(rows.contiguous(), copy, bias, "none", [], "")


class _Product(torch.autograd.Function):
    """x Wᵀ + b, of which only x has a gradient, a product with the other copy."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, ahead: Tensor, back: Tensor, bias: Tensor | None) -> Tensor:
        ctx.ahead, ctx.back = ahead, back
        return _multiplied(rows, ahead, bias)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None, None]:
        return _Product.apply(slopes[0], ctx.back, ctx.ahead, None), None, None, None


class Products:
    """The products of a model's linear layers: through copies where the model is wide, in float32, on a processor.

    They differ from plain ones by rounding. Where weights and copies do not fit into SHARE of the memory, products are
    plain; so is that with a weight which was put in the place of another. A weight written to past torch's own count of
    changes (through `.data`, or as numpy) is not seen to have changed.
    """

    def __init__(self, model: "transformers.PreTrainedModel", head: Tensor | None, *, width: int):
        layers = [m.weight for m in model.modules() if type(m) is torch.nn.Linear and m.weight is not head]
        taken = sum(tensor.nbytes for tensor in model.parameters())
        self.n_bytes = 2 * sum(tensor.nbytes for tensor in layers) + (0 if head is None else head.nbytes)
        layers += [] if head is None else [head]
        fit = (
            width >= WIDE
            and bool(layers)
            and all(
                type(tensor) in (Tensor, torch.nn.Parameter) and tensor.device.type == "cpu"
                and tensor.dtype == torch.float32 and not tensor.requires_grad for tensor in layers
            )
            and taken + self.n_bytes <= SHARE * total_bytes(torch.device("cpu"))
            and _right(layers[0])
        )  # fmt: skip
        self._copies = {id(tensor): _Copies(tensor) for tensor in layers} if fit else {}
        if not fit:
            self.n_bytes = 0

    def __getstate__(self) -> tuple[list[Tensor], int]:
        """Leave the copies out, which can be neither copied nor written."""
        return [copies.weight for copies in self._copies.values()], self.n_bytes

    def __setstate__(self, state: tuple[list[Tensor], int]) -> None:
        """Make them again when they are asked for, of the weights as they are there."""
        weights, self.n_bytes = state
        self._copies = {id(weight): _Copies(weight) for weight in weights}

    def linear(self, rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return x Wᵀ + b, as torch.nn.functional.linear."""
        copies = self._copies.get(id(weight))
        traced = type(rows) is not Tensor or torch.compiler.is_compiling()
        if copies is None or traced or rows.dtype != torch.float32 or weight.requires_grad:
            return _linear(rows, weight, bias)
        try:
            ahead, back = copies.ahead(), copies.back() if torch.is_grad_enabled() and rows.requires_grad else None
        except (RuntimeError, MemoryError) as error:
            if not is_exhausted(error):
                raise
            self._copies, self.n_bytes = {}, 0
            return _linear(rows, weight, bias)
        return _multiplied(rows, ahead, bias) if back is None else _Product.apply(rows, ahead, back, bias)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Let the linear layers that run inside, in this thread, take them."""
        if not self._copies or torch.compiler.is_compiling():
            yield
            return
        before = _taken.set(self)
        _count(1)
        try:
            yield
        finally:
            _count(-1)
            _taken.reset(before)


def _count(change: int) -> None:
    """Count the threads inside; while there are some, torch's own product asks which products to take."""
    global _inside
    with _lock:
        _inside += change
        torch.nn.functional.linear = _asking if _inside else _linear


def _asking(*given: Any, **named: Any) -> Tensor:
    products = _taken.get()
    return _linear(*given, **named) if products is None or named else products.linear(*given)
