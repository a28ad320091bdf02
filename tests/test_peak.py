"""Predicted memory against the peak of a step of published shapes, on tensors without values that count their bytes."""

import copy
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, Gemma2Config, PreTrainedConfig, PreTrainedTokenizerFast

from capacity import benchmark
from capacity.fitting import memory, step
from capacity.fitting.memory import Shape
from capacity.fitting.recipes import Recipe
from capacity.fitting.step import State
from capacity.models import Frozen, heads

META = torch.device("meta")
GEMMA = Gemma2Config(
    vocab_size=256000, hidden_size=2304, num_hidden_layers=26, num_attention_heads=8, num_key_value_heads=4,
    head_dim=256, intermediate_size=9216, final_logit_softcapping=30.0, attn_logit_softcapping=None,
    query_pre_attn_scalar=256,
)  # fmt: skip


@dataclass
class Counted(TorchDispatchMode):
    """The bytes of the storages that operations make, for as long as they live, and the most there were."""

    held: int = 0
    most: int = 0
    alive: dict[int, int] = field(default_factory=dict)

    def __post_init__(self):
        super().__init__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage()._cdata not in self.alive:
                storage = leaf.untyped_storage()
                self.alive[storage._cdata] = storage.nbytes()
                self.held += storage.nbytes()
                self.most = max(self.most, self.held)
                weakref.finalize(storage, self._gone, storage._cdata)
        return out

    def _gone(self, which: int) -> None:
        self.held -= self.alive.pop(which, 0)


class Flash(TorchFunctionMode):
    """Attention as a fast kernel keeps it: queries, keys, values, the result and one number a query."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.nn.functional.scaled_dot_product_attention:
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*args[:3], 0.0, True)[0]
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def meta(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(memory.CHUNK, "meta", memory.CHUNK["cuda"])
    with Flash(), torch.autograd.set_multithreading_enabled(False):
        yield


def frozen_of(config: PreTrainedConfig, layers: int, tokenizer: PreTrainedTokenizerFast) -> Frozen:
    config = copy.deepcopy(config)
    config.num_hidden_layers = layers
    with META:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval().requires_grad_(False)
    head = model.get_output_embeddings()
    if getattr(config, "final_logit_softcapping", None) is None:
        return Frozen(model, tokenizer, "meta", "0", head.weight, head.bias)
    rest = copy.copy(model)
    rest._modules = model._modules | {model.base_model_prefix: heads._Given()}
    return Frozen(model, tokenizer, "meta", "0", None, None, tail=rest)


@pytest.mark.slow
@pytest.mark.parametrize(("bucket", "slots", "loss"), [(64, 256, "hinge"), (1568, 16, "cross_entropy")])
@pytest.mark.parametrize(
    ("name", "layers"), [("pythia-160m", 12), ("llama-3.2-1b", 6), ("llama-3.1-8b", 4), ("gemma", 6)]
)
def test_the_peak_of_a_step_is_what_is_predicted(
    name: str, layers: int, bucket: int, slots: int, loss: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    frozen = frozen_of(GEMMA if name == "gemma" else benchmark.SHAPES[name](), layers, tokenizer)
    state = State(*(torch.zeros(slots, 1, frozen.dim, device=META) for _ in range(3)), torch.zeros(slots, device=META))
    targets = torch.zeros(slots, bucket, dtype=torch.long, device=META)
    given = state, frozen.embed(targets[:, :-1]), targets, torch.ones(slots, bucket, device=META)
    move = step.step(frozen, Recipe(loss=loss, margin=0.05, lr=0.1), n_mem=1, follow_bits=loss == "cross_entropy")
    with Counted() as counted:
        move(*given)
    own = sum(tensor.nbytes for tensor in (*frozen.model.parameters(), *state, *given[1:]))
    peak = own + counted.most
    ratio = peak / memory.predicted_bytes(frozen, Shape(1, bucket, slots))
    assert 0.8 <= ratio <= 1.1
