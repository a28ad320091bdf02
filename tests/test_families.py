"""One contract for every family of models: tiny ones are built from their configs, saved, loaded and put to work."""

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from huggingface_hub import constants
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from capacity import fitting, models, resources, vector_files
from capacity.decoding import decoded_tokens, free_running
from capacity.fitting.batch import Batch
from capacity.models import Frozen, ModelError

pytestmark = pytest.mark.slow

CONTEXT = 64
ENDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
RECURRENT = {"hidden_size": 32, "num_hidden_layers": 2, "initializer_range": 0.3, "state_size": 8, **ENDS}
PLAIN = {  # an initializer wider than usual, so that the logits differ clearly
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": CONTEXT,
    "initializer_range": 0.3, **ENDS,
}  # fmt: skip
WIDER = PLAIN | {"intermediate_size": 64}
SHARED = WIDER | {"num_key_value_heads": 2}  # keys and values shared by two heads
HEADS = SHARED | {"head_dim": 8}
# Untied, or the scaled embedding would make every token follow itself.
GEMMA = HEADS | {"query_pre_attn_scalar": 8, "sliding_window": 8, "tie_word_embeddings": False}
STATES = {"mamba_d_state": 8, "mamba_n_heads": 4, "mamba_chunk_size": 16}

# Family -> the name of its config's class, and the settings.
FAMILIES: dict[str, tuple[str, dict]] = {
    "GPT-NeoX (Pythia)": ("GPTNeoX", WIDER | {"tie_word_embeddings": False}),
    "GPT-2": ("GPT2", PLAIN),
    "OPT": ("OPT", PLAIN | {"ffn_dim": 64, "init_std": 0.3}),
    "OPT, narrow word embedding": (
        "OPT", PLAIN | {"ffn_dim": 64, "init_std": 0.3, "word_embed_proj_dim": 24, "do_layer_norm_before": False},
    ),
    "Phi": ("Phi", WIDER),
    "OLMo": ("Olmo", WIDER),
    "OLMo-2": ("Olmo2", WIDER),
    "Llama": ("Llama", WIDER | {"tie_word_embeddings": False}),
    "Llama, tied": ("Llama", WIDER | {"tie_word_embeddings": True}),
    "Llama, grouped queries": ("Llama", SHARED | {"tie_word_embeddings": False}),
    "SmolLM": ("Llama", WIDER | {
        "num_key_value_heads": 1, "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
    }),
    "Qwen-2": ("Qwen2", SHARED),
    "Qwen-3": ("Qwen3", HEADS),
    "Gemma-2": ("Gemma2", GEMMA | {"final_logit_softcapping": 10.0}),
    "Gemma-3": ("Gemma3Text", GEMMA | {"layer_types": ["sliding_attention", "full_attention"]}),
    "OLMoE (experts)": ("Olmoe", WIDER | {"num_experts": 4, "num_experts_per_tok": 2}),
    "Mixtral (experts)": ("Mixtral", SHARED | {"num_local_experts": 4}),
    "Mamba": ("Mamba", RECURRENT),
    "Mamba-2": ("Mamba2", RECURRENT | {"num_heads": 4, "head_dim": 16, "n_groups": 1, "chunk_size": 16}),
    "Falcon-H1 (hybrid)": ("FalconH1", SHARED | STATES | {"mamba_d_ssm": 32, "mamba_d_head": 8}),
    "Jamba (hybrid)": ("Jamba", SHARED | {
        "mamba_d_state": 8, "mamba_dt_rank": 4, "num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1,
        "expert_layer_period": 2, "expert_layer_offset": 1,
    }),
}  # fmt: skip
UNLIMITED = {"Mamba", "Mamba-2"}
N_MEM, N_TOKENS = 3, 3
RECIPE = fitting.Recipe(loss="hinge", margin=0.05, lr=0.1, steps=400, patience=400)


@pytest.fixture(scope="module")
def loaded_of(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Callable[[str], Frozen]:
    """Return what gives a family's tiny model, saved to a folder of its own and loaded from there."""

    @functools.cache
    def loaded(family: str) -> Frozen:
        kind, settings = FAMILIES[family]
        folder = tmp_path_factory.mktemp(kind)
        config = getattr(transformers, f"{kind}Config")(vocab_size=len(tokenizer), **settings)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config)
        model.save_pretrained(folder, max_shard_size="60KB")  # some in one file, some in shards with an index
        tokenizer.save_pretrained(folder)
        return models.load(str(folder), device="cpu")

    return loaded


@pytest.fixture(scope="module")
def fit_of(loaded_of: Callable[[str], Frozen]) -> Callable[[str], fitting.Fit]:
    """Return what gives the fit of a family's two texts, side by side, with its weights compared before and after."""

    @functools.cache
    def fitted(family: str) -> fitting.Fit:
        frozen = loaded_of(family)
        before = {name: value.clone() for name, value in frozen.model.state_dict().items()}
        fit = fitting.fit(frozen, texts(), RECIPE, n_mem=N_MEM)
        after = frozen.model.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
        return fit

    return fitted


def texts() -> torch.Tensor:
    return torch.randint(1, 300, (2, N_TOKENS), generator=torch.Generator().manual_seed(2))


def gradients(frozen: Frozen, ids: torch.Tensor) -> torch.Tensor:
    """Return what the first step of texts goes by, (texts, n_mem, dim), in units of its largest number."""
    batch = Batch(frozen, RECIPE, fitting.shape_of(frozen, N_TOKENS, n_mem=N_MEM))
    for slot, row in enumerate(ids.tolist()):
        batch.put(slot, fitting.task(frozen, row, n_mem=N_MEM, seed=0, length=N_TOKENS, scored_from=0))
    assert batch.step(fitting.stop) == []
    first = batch.state.first[: len(ids)]
    return first / first.abs().amax((1, 2), keepdim=True)


@pytest.fixture(params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@torch.no_grad()
def test_logits_are_the_models_own(family: str, loaded_of: Callable[[str], Frozen]) -> None:
    frozen = loaded_of(family)
    ids = torch.randint(0, 300, (2, 20), generator=torch.Generator().manual_seed(1))
    expected = frozen.model(input_ids=ids).logits
    assert expected.std() > 1
    assert_close(frozen.logits(frozen.embed(ids)), expected, atol=1e-4, rtol=0)
    far = torch.randn(2, 9, frozen.dim, generator=torch.Generator().manual_seed(2)) * 30 * frozen.embedding_std
    assert_close(frozen.logits(far), frozen.model(inputs_embeds=far).logits, atol=1e-4, rtol=0)


def test_facts_are_complete(family: str, loaded_of: Callable[[str], Frozen]) -> None:
    frozen = loaded_of(family)
    hidden, width = frozen.model.config.hidden_size, frozen.model.get_input_embeddings().weight.shape[1]
    assert frozen.facts() == {
        "model": frozen.name, "revision": models.digest(Path(frozen.name)), "commit": None,
        "quantisation": None, "architecture": type(frozen.model).__name__,
        "n_parameters": sum(weight.numel() for weight in frozen.model.parameters()),  # tied ones once
        "n_layers": 2, "d_model": width, "vocab_size": 300, "tokenizer_size": len(frozen.tokenizer),
        "tokenizer_digest": frozen.tokenizer_digest, "context": None if family in UNLIMITED else CONTEXT,
        "bos": "none", "attention": frozen.model.config._attn_implementation, "dtype": "float32",
    }  # fmt: skip
    assert width == (24 if family == "OPT, narrow word embedding" else hidden)


def test_a_length_past_the_context_is_refused_before_any_work(family: str, loaded_of: Callable[[str], Frozen]) -> None:
    frozen, calls = loaded_of(family), []
    handle = frozen.model.get_input_embeddings().register_forward_hook(lambda *_: calls.append(1))
    try:
        if family in UNLIMITED:
            frozen.check_length(10**9, N_MEM)
        else:
            with pytest.raises(ModelError, match=f"shorten the text to {CONTEXT - N_MEM} tokens"):
                fitting.fit(frozen, [[1] * (CONTEXT - N_MEM + 1)], RECIPE, n_mem=N_MEM)
    finally:
        handle.remove()
    assert not calls


@torch.no_grad()
def test_decoding_with_the_cache_is_that_without(family: str, loaded_of: Callable[[str], Frozen]) -> None:
    frozen = loaded_of(family)
    mem = torch.randn(N_MEM, frozen.dim, generator=torch.Generator().manual_seed(0)) * frozen.embedding_std
    read, n_tokens = [], 14  # past the sliding windows
    handle = frozen.model.register_forward_pre_hook(
        lambda _module, _args, options: read.append(options["inputs_embeds"].shape[1]), with_kwargs=True
    )
    try:
        found = free_running(frozen, mem, n_tokens)
    finally:
        handle.remove()
    plain = []
    for _ in range(n_tokens):
        embeds = torch.cat([mem, frozen.model.get_input_embeddings()(torch.tensor(plain, dtype=torch.long))])
        plain.append(int(frozen.model(inputs_embeds=embeds[None], use_cache=False).logits[0, -1].argmax()))
    assert found == plain
    assert len(set(found)) > 2
    assert read == [N_MEM] + [1] * (n_tokens - 1)


def test_a_fit_is_the_same_alone_and_leaves_the_weights_alone(
    family: str, loaded_of: Callable[[str], Frozen], fit_of: Callable[[str], fitting.Fit]
) -> None:
    frozen, fit = loaded_of(family), fit_of(family)
    assert fit.status == ["solved"] * len(fit.status)
    assert all(weight.grad is None and not weight.requires_grad for weight in frozen.model.parameters())
    alone = fitting.fit(frozen, texts()[:1], RECIPE, n_mem=N_MEM)
    assert alone.status == ["solved"]
    assert decoded_tokens(frozen, alone.mem[0], texts()[0].tolist()) == N_TOKENS
    assert_close(gradients(frozen, texts()[:1]), gradients(frozen, texts())[:1], atol=1e-5, rtol=0)
    if "(experts)" not in family:  # tokens that share an expert share its product, which rounds by their number
        assert alone.steps == fit.steps[:1]
        assert torch.equal(alone.mem, fit.mem[:1])


READER = """
import json, sys
from capacity import decoding, models, vector_files
for name, file in json.load(sys.stdin):
    stored, frozen = vector_files.load(file), models.load(name, device="cpu")
    stored.check(frozen)
    print(json.dumps([name, decoding.free_running(frozen, stored.mem, stored.n_tokens)]))
"""


@pytest.fixture(scope="module")
def decoded(
    tmp_path_factory: pytest.TempPathFactory,
    loaded_of: Callable[[str], Frozen],
    fit_of: Callable[[str], fitting.Fit],
    hub_home: Path,
) -> dict[str, list[int]]:
    """Return what the second text's saved vector decodes to in a new process, by the model's name.

    That process is offline, with an HF_HOME of its own, which holds someone/sharded.
    """
    place = tmp_path_factory.mktemp("vectors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_CACHE", str(hub_home / "hub"))
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        cached = models.load("someone/sharded", device="cpu")
    fits = [(loaded_of(family), fit_of(family).mem[1]) for family in FAMILIES]
    fits.append((cached, fitting.fit(cached, texts()[1:], RECIPE, n_mem=N_MEM).mem[0]))
    asked = []
    for number, (frozen, mem) in enumerate(fits):
        vector_files.save(place / f"{number}", mem, frozen, n_tokens=N_TOKENS)
        asked.append([frozen.name, str(place / f"{number}")])
    unset = {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"}
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"HF_HOME": str(hub_home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", READER], input=json.dumps(asked), env=environment, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert not done.returncode, done.stderr
    return dict(json.loads(line) for line in done.stdout.splitlines())


def test_a_saved_vector_decodes_in_a_new_process(
    family: str, loaded_of: Callable[[str], Frozen], decoded: dict[str, list[int]]
) -> None:
    assert decoded[loaded_of(family).name] == texts()[1].tolist()


def test_a_cached_model_of_the_hub_decodes_in_a_new_process(decoded: dict[str, list[int]]) -> None:
    assert decoded["someone/sharded"] == texts()[1].tolist()


def row_of(family: str, frozen: Frozen) -> str:
    """Return a family's row of README: its contract as measured at loading; that it fits, the tests above say."""
    found = frozen.contract
    found.require(family)
    carried = "nothing" if found.cache is None else "yes"
    width = f"{frozen.dim} of {frozen.model.config.hidden_size}"
    holding = f"{sum(one is not None for one in found.deviations.values())} hold"
    return f"| {family} | `{type(frozen.model).__name__}` | {holding} | {found.head} | {carried} | {width} |"


def test_the_row_of_readme_is_the_familys(family: str, loaded_of: Callable[[str], Frozen]) -> None:
    readme = resources.root() / "README.md"
    if not readme.is_file():
        pytest.skip("an installed wheel has no README beside it")
    table = readme.read_text().split("<!-- families -->\n")[1].split("<!-- /families -->")[0].splitlines()[2:]
    assert [line.split(" | ")[0].removeprefix("| ") for line in table] == list(FAMILIES)
    assert row_of(family, loaded_of(family)) in table
