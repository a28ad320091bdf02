"""GGUF files: logits of what they were written from, blocks by hand, and files that are refused."""

import errno
import hashlib
import importlib.util
import json
import shutil
import struct

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, PreTrainedModel

from capacity import models
from capacity.models import ModelError, checkpoints, gguf

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
CONFIGS = {
    "llama": LlamaConfig(
        **SIZES, vocab_size=300, intermediate_size=256, max_position_embeddings=64, initializer_range=0.3,
        tie_word_embeddings=False, rms_norm_eps=2**-20,
    ),
    "gemma3": Gemma3TextConfig(
        **SIZES, vocab_size=300, intermediate_size=64, max_position_embeddings=64, initializer_range=0.3,
        query_pre_attn_scalar=256,  # what transformers takes, as the file does not say
        sliding_window=16, rms_norm_eps=2**-20, bos_token_id=0, eos_token_id=0, pad_token_id=0,
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    ),
}  # fmt: skip
# The names of a GGUF file's tensors, by those of transformers.
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
}  # fmt: skip
NORMS = {
    "llama": {"post_attention_layernorm": "ffn_norm"},
    "gemma3": {
        "post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
    },
}  # fmt: skip
WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def name_of(key, kind):
    stem = key.removesuffix(".weight")
    if stem in WHOLE:
        return f"{WHOLE[stem]}.weight"
    _, _, layer, rest = stem.split(".", 3)
    return f"blk.{layer}.{(NAMES | NORMS[kind])[rest]}.weight"


def write(path, model, tokenizer, kind, *, blocks=None, tokens=None, architecture=None, file_type=0):
    """Write a model as llama.cpp's converter does; `blocks` replace tensors by raw bytes of a type."""
    config, architecture = model.config, architecture or kind
    writer = GGUFWriter(path, architecture)
    writer.add_file_type(file_type)
    for add, value in (
        (writer.add_context_length, config.max_position_embeddings), (writer.add_embedding_length, config.hidden_size),
        (writer.add_block_count, config.num_hidden_layers), (writer.add_feed_forward_length, config.intermediate_size),
        (writer.add_head_count, config.num_attention_heads), (writer.add_head_count_kv, config.num_key_value_heads),
        (writer.add_layer_norm_rms_eps, config.rms_norm_eps), (writer.add_key_length, config.head_dim),
        (writer.add_rope_freq_base, 1e6 if kind == "gemma3" else 1e4),
    ):  # fmt: skip
        add(value)
    if kind == "gemma3":
        writer.add_sliding_window(config.sliding_window)
        writer.add_value_length(config.head_dim)
    backend = tokenizer.backend_tokenizer
    words = [backend.id_to_token(i) for i in range(len(tokenizer))] if tokens is None else tokens
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([3 if i == 0 else 1 for i in range(len(words))])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer_merges(tokenizer)])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    for key, tensor in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        name, value = name_of(key, kind), tensor.numpy().astype(np.float32)
        if kind == "gemma3" and "norm" in name:
            value = value + 1
        if kind == "llama" and name.endswith(("attn_q.weight", "attn_k.weight")):  # rotary halves become pairs
            heads = config.num_attention_heads if "attn_q" in name else config.num_key_value_heads
            value = value.reshape(heads, 2, -1, value.shape[1]).swapaxes(1, 2).reshape(value.shape)
        raw, raw_type = (blocks or {}).get(name, (value, None))
        writer.add_tensor(name, np.ascontiguousarray(raw), raw_dtype=raw_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tokenizer_merges(tokenizer):
    import json

    return [pair if isinstance(pair, list) else pair.split() for pair in
            json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]]  # fmt: skip


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch, offline):
    monkeypatch.setenv("CAPACITY_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def made(kind):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(CONFIGS[kind])
        for key, weight in model.named_parameters():
            if "norm" in key:  # multiples of 1/64: 1 is added and taken away without rounding
                weight.data.copy_(torch.randint(-32, 33, weight.shape) / 64 + (kind == "llama"))
    return model.eval()


@pytest.fixture
def written(tmp_path, tokenizer):
    return write(tmp_path / "tiny.gguf", made("llama"), tokenizer, "llama")


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_file_gives_the_logits_of_the_model_it_was_written_from(kind, tmp_path, tokenizer, home):
    original = made(kind)
    original.save_pretrained(tmp_path / "folder")
    tokenizer.save_pretrained(tmp_path / "folder")
    path = write(tmp_path / "tiny.gguf", original, tokenizer, kind)
    theirs, ours = (models.load(str(place), device="cpu") for place in (tmp_path / "folder", path))
    embeds = theirs.embed(torch.arange(40).unsqueeze(0))
    assert torch.equal(ours.embed(torch.arange(40).unsqueeze(0)), embeds)
    assert torch.equal(ours.logits(embeds), theirs.logits(embeds))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert (ours.revision, ours.facts()["quantisation"]) == (sha256[:16], "F32")
    assert theirs.facts()["quantisation"] is None
    text = "The ferry left the harbour."
    encode = {"add_special_tokens": False}
    if kind == "llama":  # Gemma's own tokenizer is no byte-level one
        assert ours.tokenizer(text, **encode)["input_ids"] == theirs.tokenizer(text, **encode)["input_ids"]
    assert [entry.name for entry in (home / "gguf").iterdir() if entry.is_dir()] == [sha256]


def test_a_file_is_converted_once_and_its_folder_alone_is_read_then(written, monkeypatch):
    folder = checkpoints.locate(str(written))
    monkeypatch.setattr(gguf, "_convert", lambda *_: pytest.fail("converted twice"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert checkpoints.locate(str(written)) == folder
    assert checkpoints.digest(folder) == folder.name[:16]
    moved = folder.rename(folder.with_name("another"))  # no longer named by the file: its own files count
    assert gguf.facts(moved) == {}
    assert checkpoints.digest(moved) != folder.name[:16]


@pytest.mark.parametrize("damage", ["cut", "missing", "empty", "dangling", "a file", "no table"])
def test_a_folder_that_was_damaged_is_made_again(damage, written):
    folder = checkpoints.locate(str(written))
    was = {path.name: path.read_bytes() for path in folder.iterdir()}
    weights = folder / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-8])
    elif damage == "no table":
        for table in ({}, [], {"model.safetensors": "many"}):
            (folder / "gguf.json").write_text(json.dumps(gguf.facts(folder) | {"bytes": table}))
            assert not gguf.is_whole(folder)
    elif damage == "a file":
        shutil.rmtree(folder)
        folder.write_bytes(b"")
    elif damage == "dangling":
        weights.unlink()
        weights.symlink_to(folder / "nowhere")
    else:
        for path in folder.iterdir() if damage == "empty" else [weights]:
            path.unlink()
    assert not gguf.is_whole(folder)
    assert checkpoints.locate(str(written)) == folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == was


def test_blocks_are_dequantised_as_worked_by_hand(tmp_path, tokenizer):
    # Q4_1: scale, minimum, then low nibbles for numbers 0 to 15 and high ones for 16 to 31; scale * q + minimum.
    nibbles = np.arange(16, dtype=np.uint8)
    q4_1 = struct.pack("<2e", 0.5, -2.0) + bytes(nibbles | (15 - nibbles) << 4)
    expected_4_1 = 0.5 * np.concatenate([np.arange(16), np.arange(15, -1, -1)]) - 2.0
    # Q4_K: scale, scale of minima, 6-bit scales and minima of 8 runs of 32 in 12 bytes, then nibbles, low for the even
    # run of each pair and high for the odd; scale * s * q - scale of minima * m. The last run's s = 33 has high bits.
    scales, minima = [1, 2, 3, 4, 5, 6, 7, 33], [0, 1, 2, 3, 4, 5, 6, 7]
    packed = [*scales[:4], *minima[:4], *((s & 15) | (m << 4) for s, m in zip(scales[4:], minima[4:], strict=True))]
    packed[3] |= (33 >> 4) << 6
    runs = [np.full(32, run + 1) + np.arange(32) % 2 for run in range(8)]
    q4_k = struct.pack("<2e", 0.25, 0.5) + bytes(packed)
    q4_k += b"".join(bytes((runs[i] | runs[i + 1] << 4).astype(np.uint8)) for i in range(0, 8, 2))
    expected_k = np.concatenate([0.25 * s * q - 0.5 * m for s, m, q in zip(scales, minima, runs, strict=True)])
    blocks = {
        "blk.0.ffn_gate.weight": (np.tile(np.frombuffer(q4_1, np.uint8), (256, 1)), GGMLQuantizationType.Q4_1),
        "blk.1.ffn_down.weight": (np.tile(np.frombuffer(q4_k, np.uint8), (32, 1)), GGMLQuantizationType.Q4_K),
    }
    kind = LlamaFileType.MOSTLY_Q4_K_M
    path = write(tmp_path / "q.gguf", made("llama"), tokenizer, "llama", blocks=blocks, file_type=kind)
    folder = checkpoints.locate(str(path))
    weights = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    gate, down = weights["model.layers.0.mlp.gate_proj.weight"], weights["model.layers.1.mlp.down_proj.weight"]
    assert np.array_equal(gate.numpy(), np.tile(expected_4_1.astype(np.float32), (256, 1)))
    assert np.array_equal(down.numpy(), np.tile(expected_k.astype(np.float32), (32, 1)))
    assert gguf.facts(folder)["quantisation"] == "Q4_K_M"


# Bad input


def kept(home):
    return [entry for entry in (home / "gguf").glob("*") if entry.suffix != ".lock"]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.99])
def test_a_file_cut_short_is_refused(share, written, home):
    content = written.read_bytes()
    written.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ModelError, match=r"no whole GGUF file .*cut short.*fetch it again") as caught:
        models.load(str(written))
    assert "\n" not in str(caught.value)
    assert kept(home) == []


def test_an_unknown_architecture_is_refused(tmp_path, tokenizer, home):
    path = write(tmp_path / "odd.gguf", made("llama"), tokenizer, "llama", architecture="perceiver")
    with pytest.raises(ModelError, match=r"cannot load .*perceiver.*give a GGUF file of an architecture"):
        models.load(str(path))
    assert kept(home) == []


def test_an_unknown_quantisation_is_refused(written, home):
    content = written.read_bytes()
    name = b"blk.0.ffn_up.weight"
    at = content.index(name) + len(name) + 4 + 2 * 8  # after the number of dimensions and two sizes: the type
    written.write_bytes(content[:at] + struct.pack("<I", 9999) + content[at + 4 :])
    with pytest.raises(ModelError, match=r"9999.*quantisation that gguf does not know"):
        models.load(str(written))
    assert kept(home) == []


@pytest.mark.parametrize(
    ("size", "says"), [(7, "cannot load .*out of vocabulary"), (400, "has 400 tokens, its model's embedding 300 rows")]
)
def test_another_models_tokenizer_is_refused(size, says, tmp_path, tokenizer, home):
    words = [tokenizer.backend_tokenizer.id_to_token(i) or f"more{i}" for i in range(size)]
    path = write(tmp_path / "odd.gguf", made("llama"), tokenizer, "llama", tokens=words)
    with pytest.raises(ModelError, match=says):
        models.load(str(path))
    assert kept(home) == []


def test_a_disk_that_is_full_leaves_no_half_folder(written, home, monkeypatch):
    whole = PreTrainedModel.save_pretrained

    def fill(self, folder, **options):
        whole(self, folder, **options)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", fill)
    with pytest.raises(ModelError, match=r"No space left.*nothing half is kept; free some space, or set CAPACITY_HOME"):
        models.load(str(written))
    assert kept(home) == []
    monkeypatch.undo()
    monkeypatch.setenv("CAPACITY_HOME", str(home))
    (home / "gguf" / f".{hashlib.sha256(written.read_bytes()).hexdigest()}.part").mkdir()  # of a conversion killed
    assert models.load(str(written), device="cpu").dim == 32
    assert [entry.suffix for entry in kept(home)] == [""]


@pytest.mark.parametrize("missing", ["gguf", "accelerate"])
def test_without_the_extra_one_line_says_so(missing, written, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else found(name))
    with pytest.raises(ModelError, match=f"GGUF files need {missing}; install the extra `gguf`"):
        models.load(str(written))


@pytest.mark.parametrize(
    "name", ["no/such/file.gguf", "hub:someone/unknown/model.gguf", "~no-such-user/x.gguf", "a.gguf@v1"]
)
def test_a_file_that_is_not_there_is_refused(name):
    with pytest.raises(ModelError, match=r"no GGUF file .*give its path|no model .*where there is a network"):
        models.load(name)


def test_a_file_in_the_hubs_cache_is_a_model(written, tmp_path, monkeypatch):
    from huggingface_hub import constants

    from tests.conftest import in_cache

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    place = tmp_path / "hub" / "models--someone--quantised"
    in_cache(place, {"Tiny.gguf": written.read_bytes()}, commit="5" * 40, ref="main")
    for name in ("hub:someone/quantised/Tiny.gguf", f"hub:someone/quantised/Tiny.gguf@{'5' * 40}"):
        assert checkpoints.locate(name) == gguf.folder_of(hashlib.sha256(written.read_bytes()).hexdigest())
