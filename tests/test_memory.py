"""What a batch takes of memory, by hand and against what torch takes."""

import copy
import dataclasses
import gc
import json
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedConfig, PreTrainedModel

from capacity import fitting, models
from capacity.fitting import memory, slots, step
from capacity.fitting.memory import Shape, peak_bytes, predicted_bytes, saved_bytes
from capacity.fitting.recipes import Recipe
from capacity.fitting.slots import shape_of
from capacity.fitting.step import State
from capacity.models import Frozen, exhaustion, is_exhausted, total_bytes


def test_room_is_what_the_context_leaves(tiny: Frozen) -> None:
    begun = dataclasses.replace(tiny, bos="before_mem")
    assert tiny.context == 64
    assert [frozen.room(n_mem) for frozen in (tiny, begun) for n_mem in (1, 4)] == [63, 60, 62, 59]
    for frozen in (tiny, begun):
        positions = torch.zeros(1, frozen.room(4), frozen.dim)
        assert frozen.inputs(torch.zeros(1, 4, frozen.dim), positions).shape[1] == 64


class Chain(PreTrainedModel):
    """A model whose forward pass keeps one thing for the backward pass: tanh's result, which its square needs, too."""

    config_class = PreTrainedConfig

    def __init__(self, width: int, wide: int):
        super().__init__(PreTrainedConfig(hidden_size=width, num_hidden_layers=1, tie_word_embeddings=False))
        self.table = torch.nn.Embedding(10, width)
        self.widen = torch.nn.Linear(width, wide)
        self.requires_grad_(False)

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.table

    def forward(self, inputs_embeds: Tensor, use_cache: bool = False) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=torch.tanh(self.widen(inputs_embeds)) ** 2)


def test_saved_bytes_by_hand(tiny: Frozen) -> None:
    weight = torch.zeros(10, 6)
    frozen = Frozen(Chain(4, 6), tiny.tokenizer, name="chain", revision="0" * 16, weight=weight, bias=None)
    assert [saved_bytes(frozen, positions) for positions in (1, 5, 50)] == [1 * 6 * 4, 5 * 6 * 4, 50 * 6 * 4]


@pytest.mark.parametrize("kind", ["llama", "neox", "grouped"])
def test_saved_bytes_grow_by_the_same_for_every_position(kind: str, loaded: dict[str, Frozen]) -> None:
    frozen = loaded[kind]
    saved = [saved_bytes(frozen, positions) for positions in (8, 16, 24, 64)]
    assert saved[1] - saved[0] == saved[2] - saved[1] == (saved[3] - saved[2]) / 5 > 0


def test_saved_bytes_of_plain_attention_are_quadratic(folders: dict[str, Path]) -> None:
    frozen = models.load(str(folders["llama"]), device="cpu", attention="eager")
    one, two, three = (saved_bytes(frozen, positions) for positions in (8, 16, 24))
    weights_of_attention = 2 * 4 * 4 * (24**2 - 2 * 16**2 + 8**2)  # layers, heads, bytes, second difference of pairs
    assert three - 2 * two + one >= weights_of_attention


def wide(like: Frozen) -> Frozen:
    """Return a model of one layer that keeps much more for the pass backward than it has logits."""
    config = LlamaConfig(
        vocab_size=300, hidden_size=16, intermediate_size=4096, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=64,
    )  # fmt: skip
    return models.freeze(LlamaForCausalLM(config), like.tokenizer, name="wide", revision="0" * 16)


def most_allocated(run, folder: Path) -> int:
    """Return the most bytes that torch held of all that it allocated while `run` ran."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        run()
    found.export_chrome_trace(str(folder / "trace.json"))
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    held = most = 0
    for event in sorted((event for event in events if event["name"] == "[memory]"), key=lambda event: event["ts"]):
        held += event["args"]["Bytes"]
        most = max(most, held)
    return most


@pytest.mark.parametrize(("n_mem", "bucket", "slots"), [(1, 32, 8), (4, 8, 32)])
@pytest.mark.parametrize("loss", ["hinge", "cross_entropy"])
@pytest.mark.parametrize("kind", ["llama", "neox", "opt", "gemma", "wide"])
def test_a_step_takes_what_is_predicted_or_at_least_half(
    kind: str, loss: str, n_mem: int, bucket: int, slots: int, loaded: dict[str, Frozen], tmp_path: Path
) -> None:
    frozen = wide(loaded["llama"]) if kind == "wide" else loaded[kind]
    targets = torch.randint(0, 300, (slots, bucket), generator=torch.Generator().manual_seed(0))
    state = State(*(torch.zeros(slots, n_mem, frozen.dim) for _ in range(3)), torch.zeros(slots))
    context, weights = frozen.embed(targets[:, :-1]), torch.ones(slots, bucket)
    recipe = Recipe(loss=loss, margin=0.05, lr=0.1)
    move = step.step(frozen, recipe, n_mem=n_mem, follow_bits=loss == "cross_entropy")
    taken = most_allocated(lambda: move(state, context, targets, weights), tmp_path)
    own = sum(parameter.nbytes for parameter in frozen.model.parameters())
    predicted = predicted_bytes(frozen, Shape(n_mem, bucket, slots)) - own
    assert 0.95 * taken <= predicted <= 2 * taken


def test_of_two_devices_each_holds_its_own_part(tiny: Frozen, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = Shape(1, 16, 8)
    (whole,) = memory.predicted_by_device(tiny, shape).values()
    model = copy.deepcopy(tiny.model)
    spread = dataclasses.replace(tiny, model=model)
    memory._GROWTH[spread] = memory._growth(tiny)
    part = model.model.layers[1].to("meta")
    found = memory.predicted_by_device(spread, shape)
    own = sum(tensor.nbytes for tensor in part.parameters())
    share = own / (sum(tensor.nbytes for tensor in model.parameters()) - 2 * 300 * 32 * 4)  # of the layers' and norms'
    kept = 8 * 16 * memory._growth(tiny)[1] + 8 * memory._growth(tiny)[2]
    assert list(found) == [torch.device("cpu"), torch.device("meta")]
    assert found[torch.device("meta")] == pytest.approx(own + (share + 1 / 2) * kept, rel=0.01)  # a layer's gradients
    assert sum(found.values()) == pytest.approx(whole + kept / 2, abs=2) == predicted_bytes(spread, shape)
    # What is too much for one of them fits into both.
    monkeypatch.setattr(slots, "total_bytes", lambda device: (found[device] + 1) / slots.SHARE)
    monkeypatch.setitem(slots.SLOTS, "cpu", 8)
    assert shape_of(spread, 16, n_mem=1).slots == 8
    assert shape_of(tiny, 16, n_mem=1).slots < 8


def test_a_container_has_what_it_may_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, files = torch.device("cpu"), (tmp_path / "one", tmp_path / "two")
    monkeypatch.setattr(exhaustion, "_LIMITS", files)
    whole = total_bytes(cpu)
    assert whole > 2**28
    for text, total in [("max\n", whole), (f"{2**28}\n", 2**28), (f"{2**62}\n", whole)]:
        files[1].write_text(text)
        assert total_bytes(cpu) == total
    files[1].write_text("4096")
    files[0].write_text("max")
    assert total_bytes(cpu) == 4096


def test_the_peak_is_the_most_there_was() -> None:
    cpu = torch.device("cpu")
    held = torch.ones(2**24)
    with_it = peak_bytes(cpu)
    assert held.nbytes < with_it < total_bytes(cpu)
    del held
    assert peak_bytes(cpu) >= with_it


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel does not tell")
def test_the_peak_is_what_the_kernel_says() -> None:
    lines = Path("/proc/self/status").read_text().splitlines()
    said = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    assert peak_bytes(torch.device("cpu")) == pytest.approx(said, rel=0.02)


def test_a_model_is_given_up_after_use(folders: dict[str, Path]) -> None:
    frozen = models.load(str(folders["llama"]), device="cpu")
    fitting.fit(frozen, [[1, 2, 3]], Recipe(loss="hinge", lr=0.1, steps=1))
    kept = weakref.ref(frozen.model)
    del frozen
    gc.collect()
    assert kept() is None


def test_what_says_that_memory_ran_out() -> None:
    with pytest.raises(RuntimeError) as too_much:
        torch.empty(2**55, dtype=torch.uint8)
    with pytest.raises(RuntimeError) as mistake:
        torch.zeros(2, 3) @ torch.zeros(2, 3)
    exhausted = [too_much.value, MemoryError(), torch.OutOfMemoryError("CUDA out of memory")]
    assert all(is_exhausted(error) for error in exhausted)
    assert not is_exhausted(mistake.value)
