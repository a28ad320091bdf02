"""A model is checked as it is loaded: what does not hold is refused, by name, with what to do."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from capacity import models, store, sweep
from capacity.models import ModelError, contract
from capacity.models.contract import TOLERANCES
from capacity.sweep import engines, experiment

SHAPE = {
    "vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 64, "initializer_range": 0.3, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
PER_LAYER = SHAPE | {
    "num_key_value_heads": 2, "head_dim": 8, "vocab_size_per_layer_input": 300, "hidden_size_per_layer_input": 8,
    "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"], "num_kv_shared_layers": 0,
}  # fmt: skip
LONG = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4,
        "original_max_position_embeddings": 16}  # fmt: skip
LONG_ROPE = SHAPE | {
    "num_key_value_heads": 2, "max_position_embeddings": 128, "original_max_position_embeddings": 16,
    "rope_parameters": LONG,
}  # fmt: skip

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Make:
    """Return what saves a tiny model of a config's class, with weights of a spread, and returns its folder."""

    def made(kind: str, settings: dict[str, Any], *, spread: float | None = None) -> Path:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(getattr(transformers, f"{kind}Config")(**settings))
            for weight in model.parameters() if spread is not None else ():
                torch.nn.init.normal_(weight, std=spread or 0.0)
        folder = tmp_path / kind
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return made


@pytest.fixture
def llama(make: Make) -> Path:
    return make("Llama", SHAPE | {"tie_word_embeddings": False})


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def configure(folder: Path, **settings: Any) -> None:
    found = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(found | settings))


def load(folder: Path, **options: Any) -> models.Frozen:
    return models.load(str(folder), device="cpu", **options)


# What holds


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_tiny_models_hold(dtype: str, folders: dict[str, Path]) -> None:
    for kind, folder in folders.items():
        found = load(folder, dtype=dtype).contract
        assert found is not None
        assert found.tolerance == TOLERANCES[dtype]
        exact = {"embed_path", "later_tokens", "given_vectors", "repeat"}  # the same arithmetic at the same shapes
        assert {found.deviations[name] for name in exact} == {0.0}
        for name in ("padding", "cache"):
            assert found.deviations[name] is not None
            assert found.deviations[name] < TOLERANCES[dtype] / 4, kind  # type: ignore[operator]
        assert found.head == ("own" if kind == "gemma" else "linear")
        assert found.left_out == ()


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("Mamba", {"state_size": 8}), ("Mamba2", {"state_size": 8, "num_heads": 4, "head_dim": 16, "n_groups": 1}),
        ("Olmoe", {"num_experts": 4, "num_experts_per_tok": 2}),
        ("Mixtral", {"num_local_experts": 4, "num_key_value_heads": 2}),
    ],
)  # fmt: skip
def test_recurrent_models_and_experts_hold_in_half_precision(kind: str, settings: dict, make: Make) -> None:
    frozen = load(make(kind, SHAPE | settings), dtype="bfloat16")
    assert frozen.contract is not None
    assert frozen.weight is not None  # though a recurrent model keeps its states wider than its head
    ids = torch.arange(1, 9)[None]
    assert torch.equal(frozen.logits(frozen.embed(ids)), frozen.model(input_ids=ids).logits.to(torch.bfloat16))


def test_a_contract_is_measured_once_for_the_same_files(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, calls, measure = load(llama), [], contract.measure
    monkeypatch.setattr(contract, "measure", lambda *a, **o: calls.append(1) or measure(*a, **o))
    assert load(llama).contract is first.contract
    assert not calls
    load(llama, dtype="bfloat16")
    change(llama, lambda weights: weights["model.norm.weight"].mul_(2))
    load(llama)
    assert len(calls) == 2


# What the logits depend on


def test_a_contract_that_took_long_is_remembered_by_digest(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, calls, measure = llama.parent / "home", [], contract.measure
    monkeypatch.setenv("CAPACITY_HOME", str(home))
    monkeypatch.setattr(models, "_REMEMBERED_SECONDS", 0.0)
    monkeypatch.setattr(contract, "measure", lambda *a, **o: calls.append(1) or measure(*a, **o))

    def again(**options) -> contract.Contract | None:
        monkeypatch.setattr(models, "_CHECKED", {})  # as in another process
        return load(llama, **options).contract

    first = again()
    assert again() == first
    assert len(calls) == 1
    again(dtype="bfloat16")
    assert len(calls) == 2
    (kept, *_) = sorted((home / "contracts").iterdir())
    for path in (home / "contracts").iterdir():
        path.write_text('{"embed_path": 0.0}')  # of another version, or cut
    again()
    assert len(calls) == 3
    change(llama, lambda weights: weights["model.norm.weight"].mul_(float("nan")))
    for _ in range(2):  # what does not hold is not remembered
        with pytest.raises(ModelError, match="not finite"):
            again()
    monkeypatch.setenv("CAPACITY_HOME", str(kept / "no folder"))
    change(llama, lambda weights: weights["model.norm.weight"].fill_(1.0))
    assert again() is not None


def test_per_layer_inputs_are_refused(make: Make) -> None:
    folder = make("Gemma3nText", PER_LAYER | {
        "laurel_rank": 4, "altup_num_inputs": 2, "altup_active_idx": 0, "activation_sparsity_pattern": [0.0, 0.0],
    }, spread=0.3)  # fmt: skip
    with pytest.raises(ModelError, match=r"reads more of a token than its input vector \(by 0\..*take a model"):
        load(folder)
    with pytest.raises(ModelError, match=r"does not run on input vectors alone \(.*take a model"):
        load(make("Gemma4Text", PER_LAYER))


def test_vectors_that_are_written_into_are_refused(make: Make) -> None:
    folder = make("CTRL", {"vocab_size": 300, "n_positions": 64, "n_embd": 32, "dff": 64, "n_layer": 2, "n_head": 4})
    with pytest.raises(ModelError, match=r"can't be used: .*(writes into|does not run)"):
        load(folder)


@pytest.mark.parametrize("kind", ["Bert", "Roberta", "Electra"])
def test_bidirectional_models_are_refused_and_decoders_measured(kind: str, make: Make) -> None:
    folder = make(kind, SHAPE | {"embedding_size": 32, "is_decoder": False, "pad_token_id": 1})
    with pytest.raises(ModelError, match=r"a later token changes earlier logits.*\(by .*0\.001 is allowed\)"):
        load(folder)
    configure(folder, is_decoder=True)
    if kind == "Roberta":  # counts positions of input vectors from the start again, whatever is in its cache
        with pytest.raises(ModelError, match=r"its logits with the cache are not those without \(by "):
            load(folder)
    else:
        assert load(folder).contract is not None


@pytest.mark.parametrize("spoil", ["repeat", "padding", "embed_path", "cache"])
def test_what_does_not_hold_is_found(spoil: str, llama: Path) -> None:
    frozen = load(llama)
    plain, calls = frozen.model.model.forward, [0]

    def forward(*args: Any, **options: Any) -> Any:
        out = plain(*args, **options)
        calls[0] += 1
        states = out.last_hidden_state
        wrong = {
            "repeat": calls[0] * 0.01,
            "padding": states.shape[1] * 0.01,
            "embed_path": 0.1 * (options.get("inputs_embeds") is None),
            "cache": 0.1 * (states.shape[1] == 1),
        }[spoil]
        out.last_hidden_state = states + wrong * torch.arange(32.0).sin()
        return out

    frozen.model.model.forward = forward
    found = contract.measure(frozen)
    with pytest.raises(ModelError, match=r"can't be used: .* standard deviations; "):
        found.require("spoilt")
    deviation = found.deviations[spoil]
    assert deviation is not None
    assert deviation > 10 * found.tolerance
    if spoil == "cache":
        assert all(value == 0 or value < 1e-5 for name, value in found.deviations.items() if name != "cache")


# What depends on length


@pytest.mark.parametrize("kind", ["Phi3", "Phimoe"])
def test_rotary_factors_that_switch_limit_the_context(kind: str, make: Make) -> None:
    more = {"short_mscale": 1.0, "long_mscale": 1.5}
    settings = LONG_ROPE | ({"rope_parameters": LONG | more, "num_local_experts": 2} if kind == "Phimoe" else {})
    frozen = load(make(kind, settings))
    assert frozen.context == 16
    frozen.check_length(8, 8)
    with pytest.raises(ModelError, match="shorten the text to 8 tokens"):
        frozen.check_length(9, 8)
    embeds = torch.randn(1, 20, frozen.dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        within, past = frozen.logits(embeds[:, :16]), frozen.logits(embeds)[:, :16]
    assert (within - past).abs().max() > 0.1  # the switch that the limit keeps away from


@pytest.mark.parametrize(
    ("settings", "context"),
    [
        ({"rope_type": "default", "rope_theta": 1e4}, 64),
        ({"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}, 64),  # grows past the context alone
        ({"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}, 64),  # fixed
        ({"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4,
          "original_max_position_embeddings": 32}, 32),
    ],
    ids=lambda value: value["rope_type"] if isinstance(value, dict) else str(value),
)  # fmt: skip
def test_the_context_by_rotary_scaling(settings: dict, context: int) -> None:
    config = transformers.LlamaConfig(**SHAPE | {"rope_parameters": settings})
    assert models.context_of(config) == context


# What was loaded is what the files say


def bias(weights: dict[str, torch.Tensor]) -> None:
    for layer in range(2):
        weights[f"model.layers.{layer}.self_attn.q_proj.bias"] = torch.zeros(32)


@pytest.mark.parametrize(
    ("edit", "settings", "named"),
    [
        (bias, {}, r"2 weights .*model.layers.0.self_attn.q_proj.bias"),
        (lambda weights: None, {"num_hidden_layers": 1}, r"9 weights .*model.layers.1.input_layernorm.weight"),
        (lambda weights: weights.update({"v_head.summary.weight": torch.ones(1, 32)}), {}, r"v_head.summary.weight"),
        (lambda weights: weights.update({"model.layers.0.mlp.up_proj.lora_A.weight": torch.ones(2, 32)}), {}, "lora_A"),
    ],
    ids=["biases", "one layer fewer", "a value head", "an adapter"],
)
def test_weights_that_are_left_over_are_refused(edit: Callable, settings: dict, named: str, llama: Path) -> None:
    change(llama, edit)
    configure(llama, **settings)
    with pytest.raises(ModelError, match=named):
        load(llama)


def test_buffers_of_old_files_are_no_weights(make: Make) -> None:
    folder = make("GPTNeoX", SHAPE)
    old = {f"gpt_neox.layers.0.attention.{name}": torch.ones(4) for name in ("bias", "masked_bias")}
    old["gpt_neox.layers.0.attention.rotary_emb.inv_freq"] = torch.ones(1)
    change(folder, lambda weights: weights.update(old))
    assert load(folder).contract is not None
    llama = make("Llama", SHAPE)
    change(llama, lambda weights: weights.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}))
    assert load(llama).contract is not None


def test_a_vision_tower_is_said_and_not_counted(llama: Path) -> None:
    n_weights = load(llama).contract.n_weights  # type: ignore[union-attr]
    tower = {"model.vision_tower.layers.0.weight": torch.ones(2), "multi_modal_projector.weight": torch.ones(2)}
    change(llama, lambda weights: weights.update(tower))
    found = load(llama).contract
    assert found is not None
    assert found.left_out == ("model.vision_tower", "multi_modal_projector")
    assert found.n_weights == n_weights
    frozen = load(llama)
    n_parameters = frozen.n_parameters
    assert n_parameters == frozen.model.num_parameters()
    frozen.model.vision_tower = torch.nn.Linear(4, 4)  # one in memory, too
    assert frozen.facts()["n_parameters"] == n_parameters == frozen.model.num_parameters() - 20
    assert contract.parts(["model.layers.0.mlp.weight", "lm_head.weight"]) == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model.norm.weight", float("nan")),
        ("model.embed_tokens.weight", float("inf")),
        ("lm_head.weight", float("-inf")),
        ("model.layers.1.mlp.down_proj.weight", float("nan")),
    ],
)
def test_weights_that_are_not_finite_are_refused_by_name(name: str, value: float, llama: Path) -> None:
    change(llama, lambda weights: weights[name].flatten()[7:8].fill_(value))
    with pytest.raises(ModelError, match=rf"1 weights of .* are not finite \({name}\)"):
        load(llama)


def test_an_expert_that_no_token_takes_is_looked_at(make: Make) -> None:
    folder = make("Mixtral", SHAPE | {"num_local_experts": 64, "num_experts_per_tok": 1, "num_key_value_heads": 2})
    experts = [name for name in load_file(folder / "model.safetensors") if "experts" in name]
    change(folder, lambda weights: weights[experts[-1]].flatten()[-1:].fill_(float("nan")))
    with pytest.raises(ModelError, match=r"not finite \(model.layers.1.mlp"):
        load(folder)


def test_what_float16_does_not_hold_is_refused_there_alone(llama: Path) -> None:
    change(llama, lambda weights: weights["lm_head.weight"].mul_(1e6))
    assert load(llama).contract is not None
    with pytest.raises(ModelError, match=r"not finite \(lm_head.weight\).*dtype that it was trained in"):
        load(llama, dtype="float16")


def test_a_large_finite_weight_is_finite(llama: Path) -> None:
    model = load(llama).model
    model.model.norm.weight.fill_(3e38)  # their sum is not
    assert contract.finite(model, name="large") == len(model.state_dict())


# What keys were made with


def test_a_model_that_changed_between_its_key_and_its_loading_is_refused(llama: Path, tiny: models.Frozen) -> None:
    (cell,) = experiment.cells(experiment.grid(model=str(llama), length=8, n_texts=1, source="random_tokens"))
    engines.check(load(llama), [cell])
    with pytest.raises(ModelError, match="its revision was ffffffffffffffff"):
        engines.check(load(llama), [dataclasses.replace(cell, revision="f" * 16)])
    change(llama, lambda weights: weights["model.norm.weight"].mul_(2))
    with pytest.raises(ModelError, match=f"changed while it was in use: its revision was {cell.revision}"):
        engines.local([cell], store.Store(llama.parent / "kept"), progress=False)
    other = dataclasses.replace(cell, revision=tiny.revision, tokenizer_digest="0" * 16)
    with pytest.raises(ModelError, match="its tokenizer_digest was 0000000000000000"):
        engines.check(tiny, [other])


# The beginning of a sequence


def begins(folder: Path) -> None:
    found = json.loads((folder / "tokenizer.json").read_text())
    begin = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    special = {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}}
    found["post_processor"]["single"].insert(0, begin)
    found["post_processor"]["special_tokens"] = special
    (folder / "tokenizer.json").write_text(json.dumps(found))


def test_auto_is_what_the_tokenizer_does_or_the_model_names(llama: Path) -> None:
    assert load(llama, bos="auto").bos == "none"
    begins(llama)
    assert load(llama, bos="auto").bos == "before_mem"
    (llama / "training.json").write_text('{"bos": "none"}')
    assert load(llama, bos="auto").bos == "none"
    (llama / "training.json").write_text('{"bos": "after_mem"}')
    with pytest.raises(ModelError, match="names bos 'after_mem'; none and before_mem are allowed"):
        load(llama, bos="auto")


def test_auto_is_resolved_before_the_key_is_made(llama: Path) -> None:
    def cell(bos: str) -> experiment.Cell:
        grid = experiment.grid(model=str(llama), length=8, n_texts=1, source="random_tokens", bos=bos)
        return experiment.cells(grid)[0]

    assert cell("auto") == cell("none")
    begins(llama)
    assert cell("auto") == cell("before_mem")
    assert cell("auto").key != cell("none").key


def test_keys_of_the_rows_that_travel_come_out_as_they_are() -> None:
    names = ["key", "model", "source", "text_index", "n_mem", "length", "scored_from", "recipe", "seed", "dtype"]
    rows = store.read([sweep.measured()], [*names, "search", "bos", "curve_right"])
    here = pl.col("model").is_in([*models.EMBEDDED])
    fixed = rows.filter(here & (pl.col("search") == "fixed") & pl.col("curve_right").is_null())
    assert set(fixed["bos"]) == {"none"}
    settings = fixed.select(names[1:]).to_dicts()
    made = experiment.cells([experiment.Experiment(**one, search="fixed", bos="auto") for one in settings])
    assert len(made) > 1000
    assert [cell.key for cell in made] == fixed["key"].to_list()
