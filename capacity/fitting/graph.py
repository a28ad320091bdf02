"""The step compiled into one graph: forward, backward and update."""

import warnings
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_map_only

from capacity.files import first_line
from capacity.fitting.recipes import Recipe
from capacity.fitting.step import Moved, State, Step, step
from capacity.models import Frozen, is_exhausted

_COMPILED: WeakKeyDictionary[Frozen, dict[tuple, Step | None]] = WeakKeyDictionary()  # None: it can't be


def compiled(
    frozen: Frozen, recipe: Recipe, *, n_mem: int, follow_bits: bool, like: tuple[State, Tensor, Tensor, Tensor]
) -> Step:
    """Return the step for the shapes of `like`, forward, backward and update in one graph, compiled once a process.

    On CUDA the graph is replayed (mode `reduce-overhead`). Where the model can't be traced, or there is no compiler,
    the step as it is comes back, with a warning that says why.
    """
    known = _COMPILED.setdefault(frozen, {})
    name = (recipe, n_mem, follow_bits, *like[1].shape)
    plain = step(frozen, recipe, n_mem=n_mem, follow_bits=follow_bits)
    if name not in known:
        frozen.inputs(like[0].mem, like[1])  # what it keeps of BOS must not come from the tracing
        try:
            with warnings.catch_warnings():  # float32 is meant
                warnings.filterwarnings("ignore", "TensorFloat32 tensor cores", UserWarning)
                known[name] = _compile(plain, like, frozen.device.type == "cuda")
        except Exception as error:  # whatever tracing and compilers raise: the fit itself can go on
            if is_exhausted(error):  # in smaller batches it may be compiled, too
                raise
            reason = f"{type(error).__name__}: {first_line(error)}"
            warnings.warn(f"{frozen.name} runs uncompiled: {reason}", stacklevel=2)
            known[name] = None
    return known[name] or plain


def _compile(plain: Step, like: tuple[State, Tensor, Tensor, Tensor], replay: bool) -> Step:
    state, *rest = like
    fake = FakeTensorMode(allow_non_fake_inputs=True)  # without it, transformers looks at values while it is traced
    with fake:
        traced = make_fx(lambda *flat: plain(State(*flat[:4]), *flat[4:]))(
            *(fake.from_tensor(tensor) for tensor in (*state, *rest))
        )
    run = torch.compile(traced, dynamic=False, mode="reduce-overhead" if replay else None)

    def move(state: State, context: Tensor, targets: Tensor, weights: Tensor) -> Moved:
        with torch.no_grad():
            out = run(*state, context, targets, weights)
            if replay:  # the next replay writes over these
                out = tree_map_only(Tensor, torch.clone, out)
            return Moved(State(*out[0]), *out[1:])

    for _ in range(3 if replay else 1):  # compiles, records the graph, replays it
        move(*like)
    return move
