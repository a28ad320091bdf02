"""Tiny models of several architectures, built offline; shapes and types of the package are checked as it runs."""

import getpass
import hashlib
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jaxtyping
import pytest
import setuptools  # noqa: F401 (before distutils, which it replaces, and which torch's compiler imports)
import torch
from huggingface_hub import constants
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)

# Has to stand before the first import of the package, which is why the fixtures import what they need themselves.
SHAPED = (
    "models", "decoding", "fitting", "geometry", "connections", "coding", "vector_files", "determinism", "precision",
    "sweep",
)  # fmt: skip
jaxtyping.install_import_hook([f"capacity.{name}" for name in SHAPED], "beartype.beartype")
if "ATEN_CPU_CAPABILITY" in os.environ:  # graphs compiled for other kernels than the next run's abort there
    own = f"torchinductor_{getpass.getuser()}_{os.environ['ATEN_CPU_CAPABILITY']}"
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.path.join(
        tempfile.gettempdir(), own
    )  # transformers has named one by now
THREADS = os.environ["CAPACITY_THREADS"] = os.environ.get("CAPACITY_TEST_THREADS", "1")  # the tensors are small
torch.set_num_threads(int(THREADS))

if TYPE_CHECKING:
    from capacity.models import Frozen

# Files of few long tests, to begin with: processes that take the others after them end at about the same time.
LONG = ("test_notebooks", "test_cluster", "test_kills", "test_readings", "test_cli", "test_sweep", "test_scale")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


LINES = [
    "The ferry left the harbour before the rain began, and the harbour was empty again before noon.",
    "Nobody who waited there could say where the ferry had been, or when it would be there again.",
]
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64}
ENDS = {"bos_token_id": 0, "eos_token_id": 0}
SPREAD = {"initializer_range": 0.3}  # wider than usual, so that the logits differ clearly


def llama(vocab_size: int) -> PreTrainedConfig:
    return LlamaConfig(
        vocab_size=vocab_size, intermediate_size=64, tie_word_embeddings=False, **SHAPE, **SPREAD, **ENDS
    )


def neox(vocab_size: int) -> PreTrainedConfig:
    """Return a config whose embedding has more rows than the tokenizer has tokens, as Pythia's."""
    return GPTNeoXConfig(
        vocab_size=vocab_size + 20, intermediate_size=64, tie_word_embeddings=False, **SHAPE, **SPREAD, **ENDS
    )


def opt(vocab_size: int) -> PreTrainedConfig:
    """Return a config whose word embedding is narrower than its hidden states, as OPT-350M's."""
    return OPTConfig(
        vocab_size=vocab_size, word_embed_proj_dim=24, ffn_dim=64, do_layer_norm_before=False, init_std=0.3,
        pad_token_id=0, **SHAPE, **ENDS,
    )  # fmt: skip


def grouped(vocab_size: int) -> PreTrainedConfig:
    """Return a Llama-like config with tied embeddings and keys and values shared by two heads."""
    return LlamaConfig(
        vocab_size=vocab_size, intermediate_size=64, num_key_value_heads=2, tie_word_embeddings=True,
        **SHAPE, **SPREAD, **ENDS,
    )  # fmt: skip


def gemma(vocab_size: int) -> PreTrainedConfig:
    """Return a config whose logits are capped (head not linear) and whose embeddings are scaled."""
    return Gemma2Config(
        vocab_size=vocab_size, intermediate_size=64, num_key_value_heads=2, head_dim=8, query_pre_attn_scalar=8,
        final_logit_softcapping=10.0, sliding_window=16, pad_token_id=0, **SHAPE, **SPREAD, **ENDS,
    )  # fmt: skip


CONFIGS: dict[str, Callable[[int], PreTrainedConfig]] = {
    "llama": llama,
    "neox": neox,
    "opt": opt,
    "grouped": grouped,
    "gemma": gemma,
}


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer of 300 tokens."""
    from capacity.pretraining import train_tokenizer

    return train_tokenizer(LINES, vocab_size=300)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> dict[str, Path]:
    """Return the folders of the tiny models by kind, each with weights and tokenizer."""
    found = {}
    for kind, config in CONFIGS.items():
        found[kind] = tmp_path_factory.mktemp(kind)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config(len(tokenizer)))
        model.save_pretrained(found[kind])
        tokenizer.save_pretrained(found[kind])
    return found


@pytest.fixture(scope="session")
def loaded(folders: dict[str, Path]) -> "dict[str, Frozen]":
    """Return the tiny models by kind, loaded from their folders."""
    from capacity import models

    return {kind: models.load(str(folder), device="cpu") for kind, folder in folders.items()}


@pytest.fixture(params=list(CONFIGS))
def frozen(request: pytest.FixtureRequest, loaded: "dict[str, Frozen]") -> "Frozen":
    """Return each of the tiny models in turn."""
    return loaded[request.param]


@pytest.fixture(scope="session")
def tiny(loaded: "dict[str, Frozen]") -> "Frozen":
    """Return the Llama-like tiny model."""
    return loaded["llama"]


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the hub's client offline; any try to reach a network ends the test."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def refuse(*args: object, **options: object) -> None:
        pytest.fail(f"the network was asked for {args}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def in_cache(home: Path, files: dict[str, bytes], *, commit: str, ref: str) -> Path:
    """Lay files out as the hub's cache does, in `home`: a snapshot of links to blobs named by their content."""
    snapshot = home / "snapshots" / commit
    (home / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
    (home / "refs" / ref).write_text(commit)
    for name, content in files.items():
        blob, link = home / "blobs" / hashlib.sha256(content).hexdigest(), snapshot / name
        for path in (blob, link):
            path.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


@pytest.fixture
def lay_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: None) -> Iterator[Callable[..., Path]]:
    """Return a function that lays a dataset out as the hub's cache does, and return its snapshot's folder.

    The cache is `tmp_path / "cache"`, the hub's client is offline, and any try to reach a network ends the test.
    """
    from capacity.texts import hub

    def lay(repo: str, files: dict[str, bytes], *, commit: str = "0" * 39 + "1", ref: str = "main") -> Path:
        home = tmp_path / "cache" / f"datasets--{repo.replace('/', '--')}"
        return in_cache(home, files, commit=commit, ref=ref)

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    hub.fetch.cache_clear()
    yield lay
    hub.fetch.cache_clear()


@pytest.fixture(scope="session")
def hub_home(tmp_path_factory: pytest.TempPathFactory, folders: dict[str, Path]) -> Path:
    """Return an HF_HOME whose cache holds someone/tiny, and someone/sharded: tied weights, in parts with an index."""
    home, shards = tmp_path_factory.mktemp("hub_home"), tmp_path_factory.mktemp("shards")
    shutil.copytree(folders["grouped"], shards, dirs_exist_ok=True)
    (shards / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(folders["grouped"]).save_pretrained(shards, max_shard_size="30KB")
    for name, folder in (("tiny", folders["llama"]), ("sharded", shards)):
        files = {file.name: file.read_bytes() for file in folder.iterdir()}
        commit = hashlib.sha1(name.encode()).hexdigest()
        in_cache(home / "hub" / f"models--someone--{name}", files, commit=commit, ref="main")
    return home


@pytest.fixture(autouse=True)
def losses_of_ones_own_stay_in_their_test() -> Iterator[None]:
    from capacity.fitting import losses

    before = set(losses.LOSSES)
    yield
    for name in set(losses.LOSSES) - before:
        del losses.LOSSES[name], losses.GRADIENTS[name]


@pytest.fixture
def in_process() -> Iterator[Callable[[Path, dict[str, Any]], str]]:
    """Return what runs a notebook in this process and gives the markdown that its cells show."""
    from in_process import outputs, restored

    with restored():
        yield lambda source, given: "".join(data.get("text/markdown", "") for data in outputs(source, given))
