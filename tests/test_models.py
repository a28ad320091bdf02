"""The contract of a frozen model on every tiny architecture, and what is refused."""

import dataclasses
import hashlib
import json
import shutil
import socket
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
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
from capacity.models import EMBEDDED, Frozen, ModelError

LINEAR = {"llama": True, "neox": True, "opt": True, "grouped": True, "gemma": False}
SHAPE = {
    "vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
    "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip


@pytest.fixture
def copy(folders: dict[str, Path], tmp_path: Path) -> Path:
    """Return a Llama-like model's folder that may be spoilt."""
    return Path(shutil.copytree(folders["llama"], tmp_path / "copy"))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the hub's client offline; any try to reach a network ends the test."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def refuse(*args: object, **options: object) -> None:
        pytest.fail(f"the network was asked for {args}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


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


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16])
def test_weights_of_another_dtype(dtype: str | torch.dtype, folders: dict[str, Path]) -> None:
    frozen = models.load(str(folders["llama"]), device="cpu", dtype=dtype)
    assert frozen.facts()["dtype"] == "bfloat16"
    assert frozen.embed(ids_of(1, 2)).dtype == torch.bfloat16
    recipe = dataclasses.replace(fitting.RECIPES["default"], steps=2)
    fit = fitting.fit(frozen, ids_of(2, 3), recipe)
    assert fit.mem.dtype == torch.float32
    assert torch.isfinite(fit.mem).all()


def test_embedded_models_come_smallest_first() -> None:
    sizes = [sum(file.stat().st_size for file in folder.glob("*.safetensors")) for folder in EMBEDDED.values()]
    assert sizes
    assert min(sizes) > 0
    assert sizes == sorted(sizes)
    assert [folder.name for folder in EMBEDDED.values()] == list(EMBEDDED)


def test_an_embedded_model_is_loaded_by_name(offline: None) -> None:
    name = next(iter(EMBEDDED))
    frozen = models.load(name, device="cpu")
    assert (frozen.name, frozen.revision) == (name, models.digest(EMBEDDED[name]))
    assert len(frozen.tokenizer) <= frozen.vocab_size


# Names


@pytest.mark.parametrize(
    "name",
    [
        "",
        "nul\0",
        "../no-such-model",
        "../../no/such",
        "no/../such",
        "a" * 300,
        "a" * 5000,
        "~no-such-user/m",
        "\ud800",
    ],
    ids=ascii,
)
def test_an_impossible_name_is_refused(name: str, offline: None) -> None:
    with pytest.raises(ModelError, match=r"names no model|no model .* not embedded .* not a local folder") as caught:
        models.locate(name)
    assert len(str(caught.value)) < 1000


def test_an_unknown_name_is_refused_at_once_when_offline(
    offline: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="no model 'someone/unknown'"):
        models.load("someone/unknown")


def in_cache(folder: Path, cache: Path, name: str) -> Path:
    """Lay a model out as the hub's cache does: a snapshot of links to blobs named by their content."""
    home = cache / f"models--{name.replace('/', '--')}"
    commit = "0" * 39 + "1"
    snapshot = home / "snapshots" / commit
    for part in (home / "blobs", snapshot, home / "refs"):
        part.mkdir(parents=True)
    (home / "refs" / "main").write_text(commit)
    for file in folder.iterdir():
        blob = home / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(Path("../../blobs") / blob.name)
    return snapshot


def test_a_cached_model_of_the_hub_works_offline(
    folders: dict[str, Path], tmp_path: Path, offline: None, monkeypatch: pytest.MonkeyPatch, loaded: dict[str, Frozen]
) -> None:
    snapshot = in_cache(folders["llama"], tmp_path, "someone/tiny")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    frozen = models.load("someone/tiny", device="cpu")
    assert (frozen.name, frozen.revision) == ("someone/tiny", models.digest(snapshot))
    embeds = frozen.embed(ids_of(1, 5))
    assert torch.equal(frozen.logits(embeds), loaded["llama"].logits(embeds))
    before = frozen.revision
    weights = snapshot / "model.safetensors"
    weights.unlink()
    weights.symlink_to(snapshot / "config.json")  # another blob
    assert models.digest(snapshot) != before


# Digests


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("linked", [False, True], ids=["file", "link"])
def test_one_changed_byte_changes_the_digest(name: str, linked: bool, copy: Path, tmp_path: Path) -> None:
    path = copy / name
    if linked:  # kept elsewhere under the same name
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        path.rename(elsewhere / name)
        path.symlink_to(elsewhere / name)
    before, content = models.digest(copy), path.read_bytes()
    at = len(content) // 2
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    changed = models.digest(copy)
    path.write_bytes(content)
    assert changed != before == models.digest(copy)


def test_the_digest_is_of_the_files_that_are_read(copy: Path, folders: dict[str, Path]) -> None:
    assert models.digest(copy) == models.digest(folders["llama"])
    (copy / "README.md").write_text("about it")
    assert models.digest(copy) == models.digest(folders["llama"])


def test_the_tokenizer_digest_is_of_its_definition(loaded: dict[str, Frozen], copy: Path) -> None:
    assert len({frozen.tokenizer_digest for frozen in loaded.values()}) == 1
    definition = json.loads((copy / "tokenizer.json").read_text())
    definition["model"]["merges"].pop()
    (copy / "tokenizer.json").write_text(json.dumps(definition))
    changed = models.tokenizer_digest(models.describe("copy", copy)[1])
    assert changed != loaded["llama"].tokenizer_digest


# Folders


def test_pickled_weights_are_refused(copy: Path) -> None:
    frozen = models.load(str(copy), device="cpu")
    torch.save(frozen.model.state_dict(), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no \*\.safetensors.*convert them with save_pretrained"):
        models.load(str(copy))


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json; give a folder written by save_pretrained"):
        models.load(str(tmp_path))


def test_code_of_a_model_is_never_run(copy: Path, tmp_path: Path) -> None:
    sentinel = tmp_path / "ran"
    (copy / "strange.py").write_text(
        "from transformers import LlamaConfig as Config, LlamaForCausalLM as Model\n"
        f"open({str(sentinel)!r}, 'w').close()\n"
    )
    code = {"AutoConfig": "strange.Config", "AutoModelForCausalLM": "strange.Model"}
    settings = json.loads((copy / "config.json").read_text()) | {"model_type": "strange", "auto_map": code}
    (copy / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="needs code from a hub, which is never run; use"):
        models.load(str(copy))
    assert not sentinel.exists()


def test_code_of_a_tokenizer_is_never_run(copy: Path, tmp_path: Path) -> None:
    sentinel = tmp_path / "ran"
    (copy / "strange.py").write_text(f"open({str(sentinel)!r}, 'w').close()\nclass Strange: pass\n")
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "Strange", "auto_map": {"AutoTokenizer": ["strange.Strange", None]}}
    (copy / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="needs code from a hub, which is never run"):
        models.load(str(copy))
    assert not sentinel.exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", "{"),
        ("config.json", '{"model_type": "strange"}'),
        ("model.safetensors", "abc"),
        ("tokenizer.json", None),
    ],
)
def test_a_spoilt_folder_is_refused(name: str, content: str | None, copy: Path) -> None:
    if content is None:
        (copy / name).unlink()
    else:
        (copy / name).write_text(content)
    with pytest.raises(ModelError, match="transformers cannot load"):
        models.load(str(copy))


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(ModelError, match="unknown dtype 'int8'; known are float32, bfloat16, float16"):
        models.load("", dtype="int8")


# Lengths


def test_lengths_that_fit_and_do_not(tiny: Frozen) -> None:
    tiny.check_length(1, 1)
    tiny.check_length(60, 4)
    with pytest.raises(ModelError, match=r"61 tokens and 4 \[mem\] are 65 positions.*\(64\); shorten .* to 60 tokens"):
        tiny.check_length(61, 4)
    with pytest.raises(ModelError, match="to 0 tokens"):
        tiny.check_length(1, 64)
    with pytest.raises(ModelError, match="n_mem is 0"):
        tiny.check_length(1, 0)
    with pytest.raises(ModelError, match="the text is empty"):
        tiny.check_length(0, 1)
