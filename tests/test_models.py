"""The contract of a frozen model on every tiny architecture, and what is refused."""

import dataclasses
import importlib.util
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    CohereConfig,
    Gemma2Config,
    GraniteConfig,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)

from capacity import fitting, models
from capacity.models import BOS, DTYPES, Frozen, ModelError

LINEAR = {"llama": True, "neox": True, "opt": True, "grouped": True, "gemma": False}
SHAPE = {
    "vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
    "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip


@pytest.fixture
def copy(folders: dict[str, Path], tmp_path: Path) -> Path:
    """Return a Llama-like model's folder that may be spoilt."""
    return Path(shutil.copytree(folders["llama"], tmp_path / "copy"))


def ids_of(*shape: int) -> torch.Tensor:
    return torch.randint(0, 300, shape, generator=torch.Generator().manual_seed(0))


# The contract


@torch.no_grad()
def test_logits_are_the_models_own(frozen: Frozen) -> None:
    ids = ids_of(2, 20)
    expected = frozen.model(input_ids=ids).logits
    assert expected.std() > 1
    assert_close(frozen.logits(frozen.embed(ids)), expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_logits_are_the_models_own_far_from_any_embedding(frozen: Frozen) -> None:
    embeds = torch.randn(2, 9, frozen.dim, generator=torch.Generator().manual_seed(0)) * 30 * frozen.embedding_std
    expected = frozen.model(inputs_embeds=embeds).logits
    assert_close(frozen.logits(embeds), expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_head_of_hidden_is_logits(frozen: Frozen) -> None:
    embeds = frozen.embed(ids_of(2, 7))
    assert torch.equal(frozen.head(frozen.hidden(embeds)), frozen.logits(embeds))


@torch.no_grad()
def test_padding_on_the_right_changes_nothing_before_it(frozen: Frozen) -> None:
    embeds = frozen.embed(ids_of(1, 24))
    assert_close(frozen.logits(embeds)[:, :17], frozen.logits(embeds[:, :17]), atol=1e-4, rtol=0)


def test_gradients_reach_the_input_vectors(frozen: Frozen) -> None:
    embeds = frozen.embed(ids_of(1, 5)).requires_grad_()
    (slope,) = torch.autograd.grad(frozen.logits(embeds)[0, 2].logsumexp(-1), embeds)
    assert slope[0, :3].abs().min(dim=-1).values.max() > 0
    assert not slope[0, 3:].any()  # causal


@pytest.mark.parametrize("kind", LINEAR)
def test_a_linear_head_is_found_where_there_is_one(kind: str, loaded: dict[str, Frozen]) -> None:
    frozen = loaded[kind]
    assert (frozen.weight is not None) == LINEAR[kind]
    assert frozen.bias is None
    if frozen.weight is not None:
        assert frozen.weight is frozen.model.get_output_embeddings().weight


@pytest.mark.parametrize(
    ("kind", "dim", "vocab_size", "n_parameters"),
    [
        # Llama: embedding and head 300·32 each, 2 layers of 4·32² attention, 3·32·64 MLP and 2·32 norms, a norm of 32.
        ("llama", 32, 300, 2 * 9600 + 2 * (4096 + 6144 + 64) + 32),
        ("neox", 32, 320, None),
        ("opt", 24, 300, None),
        # Tied: 300·32 once; keys and values of 2 of 4 heads: 2·32² + 2·32·16.
        ("grouped", 32, 300, 9600 + 2 * (3072 + 6144 + 64) + 32),
        ("gemma", 32, 300, None),
    ],
)
def test_facts(
    kind: str, dim: int, vocab_size: int, n_parameters: int | None, loaded: dict[str, Frozen], folders: dict[str, Path]
) -> None:
    frozen = loaded[kind]
    facts = frozen.facts()
    assert (frozen.dim, frozen.vocab_size, frozen.context) == (dim, vocab_size, 64)
    assert (facts["d_model"], facts["vocab_size"], facts["dtype"], facts["bos"]) == (dim, vocab_size, "float32", "none")
    assert facts["n_parameters"] == (n_parameters or sum(p.numel() for p in frozen.model.parameters()))
    assert facts["model"] == str(folders[kind])
    assert facts["architecture"] == type(frozen.model).__name__
    assert (facts["revision"], facts["tokenizer_digest"]) == (models.digest(folders[kind]), frozen.tokenizer_digest)
    assert facts["attention"] in ("sdpa", "eager")
    assert (facts["context"], facts["n_layers"], facts["tokenizer_size"]) == (64, 2, len(frozen.tokenizer))


def test_the_scale_is_that_of_what_embed_returns(loaded: dict[str, Frozen]) -> None:
    for frozen in loaded.values():
        every = frozen.embed(torch.arange(frozen.vocab_size).unsqueeze(0)).double()
        assert frozen.embedding_std == pytest.approx(every.std(unbiased=False).item(), rel=1e-5)
    gemma = loaded["gemma"]  # multiplies its embeddings by the root of their width
    assert gemma.embedding_std == pytest.approx(gemma._embedding.std().item() * 32**0.5, rel=1e-3)


def test_a_fit_leaves_the_weights_alone(frozen: Frozen) -> None:
    before = {name: value.clone() for name, value in frozen.model.state_dict().items()}
    recipe = dataclasses.replace(fitting.RECIPES["paper"], steps=3)
    fit = fitting.fit(frozen, ids_of(2, 4), recipe, n_mem=2)
    assert max(fit.steps) == 3
    after = frozen.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(weight.grad is None and not weight.requires_grad for weight in frozen.model.parameters())
    assert not frozen.model.training


@pytest.mark.parametrize(
    ("config", "linear", "bias"),
    [
        (PhiConfig(intermediate_size=64, **SHAPE), True, True),
        (BloomConfig(**SHAPE), True, False),
        (GraniteConfig(intermediate_size=64, logits_scaling=4.0, **SHAPE), False, False),
        (CohereConfig(intermediate_size=64, logit_scale=0.5, **SHAPE), False, False),
        # Logits within ±1.3, where the cap bends them by less than a thousandth.
        (Gemma2Config(intermediate_size=64, head_dim=8, initializer_range=0.06, **SHAPE), False, False),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
@torch.no_grad()
def test_heads_of_other_architectures(
    config: PreTrainedConfig, linear: bool, bias: bool, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    frozen = models.load(str(tmp_path), device="cpu")
    assert (frozen.weight is not None, frozen.bias is not None) == (linear, bias)
    ids = ids_of(1, 9)
    assert_close(frozen.logits(frozen.embed(ids)), model(input_ids=ids).logits, atol=1e-4, rtol=0)
    if config.model_type == "bloom":  # positions without an end
        assert frozen.context is None
        frozen.check_length(10**6, 1)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("cap", [None, 10.0])
def test_a_head_in_half_precision(
    dtype: torch.dtype, cap: float | None, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    config = Gemma2Config(
        intermediate_size=64, head_dim=8, initializer_range=0.02, final_logit_softcapping=cap, **SHAPE
    )  # logits so small that half precision does not show a cap
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    frozen = models.load(str(tmp_path), device="cpu", dtype=dtype)
    assert (frozen.weight is not None) == (cap is None)


# Dtype, attention, device


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16, "float16"], ids=str)
def test_weights_of_another_dtype(dtype: str | torch.dtype, folders: dict[str, Path]) -> None:
    frozen = models.load(str(folders["llama"]), device="cpu", dtype=dtype)
    kind = DTYPES.get(dtype, dtype)
    assert frozen.facts()["dtype"] == str(kind).removeprefix("torch.")
    assert {weight.dtype for weight in frozen.model.parameters()} == {kind}
    assert frozen.embed(ids_of(1, 2)).dtype == kind
    assert frozen.inputs(torch.zeros(1, 1, frozen.dim), frozen.embed(ids_of(1, 2))).dtype == kind
    recipe = dataclasses.replace(fitting.RECIPES["default"], steps=2)
    fit = fitting.fit(frozen, ids_of(2, 3), recipe)
    assert fit.mem.dtype == torch.float32
    assert torch.isfinite(fit.mem).all()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_is_what_was_asked_for(attention: str, folders: dict[str, Path]) -> None:
    frozen = models.load(str(folders["llama"]), device="cpu", attention=attention)
    assert frozen.facts()["attention"] == attention


def test_an_unknown_attention_is_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match=r"transformers cannot load .* `attn_implementation=.quick"):
        models.load(str(folders["llama"]), device="cpu", attention="quick")


@pytest.mark.parametrize("device", ["gpu", "cuda:99", torch.device("cuda:99")], ids=str)
def test_a_device_that_is_not_there_is_refused_before_anything_is_read(device: str | torch.device) -> None:
    with pytest.raises(ModelError, match=r"no device .*(gpu|cuda:99).*give cpu, cuda, cuda:N, mps, auto or None"):
        models.load("", device=device)


def test_the_best_device_is_taken(folders: dict[str, Path]) -> None:
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    frozen = models.load(str(folders["llama"]))
    assert frozen.device.type == best
    assert {weight.device.type for weight in frozen.model.parameters()} == {best}


SPREADS = importlib.util.find_spec("accelerate") is not None


@pytest.mark.skipif(SPREADS, reason="accelerate is installed")
def test_spreading_over_devices_says_what_it_needs() -> None:
    with pytest.raises(ModelError, match=r"device='auto' needs accelerate; install it"):
        models.load("", device="auto")


@pytest.mark.skipif(not SPREADS, reason="accelerate is not installed")
@pytest.mark.parametrize("kind", ["llama", "grouped", "gemma"])
def test_a_model_is_spread_over_devices(kind: str, folders: dict[str, Path], loaded: dict[str, Frozen]) -> None:
    frozen = models.load(str(folders[kind]), device="auto")
    embeds = frozen.embed(ids_of(2, 9))
    logits = frozen.logits(embeds)
    assert logits.device == embeds.device == frozen.device
    if frozen.weight is not None:
        assert frozen.weight.device == frozen.device
    assert_close(logits.cpu(), loaded[kind].logits(embeds.cpu()), atol=1e-4, rtol=0)
    recipe = dataclasses.replace(fitting.RECIPES["default"], steps=3)
    alone = fitting.fit(loaded[kind], ids_of(2, 4), recipe)
    assert_close(fitting.fit(frozen, ids_of(2, 4), recipe).mem, alone.mem, atol=1e-4, rtol=0)


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(ModelError, match="unknown dtype 'int8'; known are float32, bfloat16, float16"):
        models.load("", dtype="int8")
    with pytest.raises(ModelError, match=r"unknown dtype torch.int8"):
        models.load("", dtype=torch.int8)


# The beginning of a sequence


@torch.no_grad()
def test_inputs_stand_in_order(folders: dict[str, Path]) -> None:
    mem, ids = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0)), ids_of(2, 5)
    for policy in BOS:
        frozen = models.load(str(folders["llama"]), device="cpu", bos=policy)
        before = 1 if policy == "before_mem" else 0
        assert (frozen.n_before, frozen.bos, frozen.facts()["bos"]) == (before, policy, policy)
        context = frozen.embed(ids)
        first = [frozen._embedding[frozen.tokenizer.bos_token_id].expand(2, 1, 32)] * before
        assert torch.equal(frozen.inputs(mem, context), torch.cat([*first, mem, context], dim=1))
        assert torch.equal(frozen.inputs(None, context), torch.cat([*first, context], dim=1))
        assert torch.equal(frozen.inputs(mem, context[:, :0]), torch.cat([*first, mem], dim=1))


def test_gradients_reach_mem_through_inputs(folders: dict[str, Path]) -> None:
    frozen = models.load(str(folders["gemma"]), device="cpu", bos="before_mem")
    mem = torch.randn(1, 2, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    logits = frozen.logits(frozen.inputs(mem, frozen.embed(ids_of(1, 3))))
    (slope,) = torch.autograd.grad(logits[0, frozen.n_before + 1].logsumexp(-1), mem)
    assert slope.abs().amin(dim=-1).gt(0).all()
    (slope,) = torch.autograd.grad(frozen.logits(frozen.inputs(mem, frozen.embed(ids_of(1, 3))))[0, 0].sum(), mem)
    assert not slope.any()  # BOS stands before [mem]


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ModelError, match="unknown bos 'first'; known are auto, none, before_mem, after_mem"):
        models.load("", bos="first")


@pytest.mark.parametrize("pad", ["eos", None])
def test_tokenizers_without_bos_or_with_pad_as_eos(pad: str | None, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["llama"], tmp_path / "copy"))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["bos_token"]
    settings["pad_token"] = settings["eos_token"] if pad else None
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    frozen = models.load(str(folder), device="cpu")
    assert frozen.tokenizer.bos_token_id is None
    assert frozen.tokenizer.pad_token_id == (frozen.tokenizer.eos_token_id if pad else None)
    fit = fitting.fit(frozen, ids_of(2, 3), dataclasses.replace(fitting.RECIPES["default"], steps=2))
    assert torch.isfinite(fit.mem).all()
    for policy in ("before_mem", "after_mem"):
        with pytest.raises(ModelError, match=r"the tokenizer of .* has no BOS token; use bos='none'"):
            models.load(str(folder), device="cpu", bos=policy)


# Lengths


def test_lengths_that_fit_and_do_not(tiny: Frozen) -> None:
    tiny.check_length(1, 1)
    tiny.check_length(60, 4)
    with pytest.raises(ModelError, match=r"61 tokens and 4 \[mem\] are 65 positions.*\(64\); shorten .* to 60 tokens"):
        tiny.check_length(61, 4)
    with pytest.raises(ModelError, match="take fewer vectors"):
        tiny.check_length(1, 64)
    with pytest.raises(ModelError, match="n_mem is 0"):
        tiny.check_length(1, 0)
    with pytest.raises(ModelError, match="the text is empty"):
        tiny.check_length(0, 1)
    begun = dataclasses.replace(tiny, bos="before_mem")
    begun.check_length(59, 4)
    with pytest.raises(ModelError, match=r"60 tokens and 4 \[mem\] after BOS are 65 positions.* to 59 tokens"):
        begun.check_length(60, 4)


def test_no_kernel_is_fetched_from_a_hub(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.integrations import hub_kernels

    def fetched(*args: object, **options: object) -> None:
        pytest.fail(f"fetched {args}")

    monkeypatch.setattr(hub_kernels, "is_kernels_available", lambda *_, **__: True)  # as if the package were there
    monkeypatch.setattr(hub_kernels, "get_kernel_hub", fetched, raising=False)
    with pytest.raises(ModelError, match=r"attention is 'kernels-community/flash-attn2', no name, or code from a hub"):
        models.load(str(folders["llama"]), device="cpu", attention="kernels-community/flash-attn2")
    models.load(str(folders["llama"]), device="cpu")
    assert hub_kernels.lazy_load_kernel("causal-conv1d", {}) is None
    with pytest.raises(ImportError, match="kernels"):
        hub_kernels.get_kernel("kernels-community/flash-attn2", version=1)


def test_algorithms_are_deterministic_on_request(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUBLAS_WORKSPACE_CONFIG", "CAPACITY_DETERMINISTIC"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    before = torch.are_deterministic_algorithms_enabled()
    try:
        models.load(str(folders["llama"]), device="cpu")
        assert torch.are_deterministic_algorithms_enabled() is before is False
        assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
        monkeypatch.setenv("CAPACITY_DETERMINISTIC", "1")
        models.load(str(folders["llama"]), device="cpu")
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    finally:
        torch.use_deterministic_algorithms(before)
