"""Finding a model's files: names, the hub's cache, a hub on this machine, digests, and folders that are refused."""

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from capacity import models, sweep
from capacity.models import Frozen, checkpoints
from capacity.models.checkpoints import EMBEDDED, ModelError


@pytest.fixture
def copy(folders: dict[str, Path], tmp_path: Path) -> Path:
    """Return a Llama-like model's folder that may be spoilt."""
    return Path(shutil.copytree(folders["llama"], tmp_path / "copy"))


@pytest.fixture
def cache(hub_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: None) -> Path:
    """Return a cache of the hub, in use and offline, that may be spoilt."""
    folder = Path(shutil.copytree(hub_home / "hub", tmp_path / "hub", symlinks=True))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder


def snapshot_of(cache: Path, name: str) -> Path:
    (found,) = (cache / f"models--someone--{name}" / "snapshots").iterdir()
    return found


# Names


def test_embedded_models_come_smallest_first() -> None:
    sizes = [sum(file.stat().st_size for file in folder.glob("*.safetensors")) for folder in EMBEDDED.values()]
    assert sizes
    assert min(sizes) > 0
    assert sizes == sorted(sizes)
    assert [folder.name for folder in EMBEDDED.values()] == list(EMBEDDED)


def test_an_embedded_model_is_loaded_by_name(offline: None) -> None:
    name = next(iter(EMBEDDED))
    frozen = models.load(name, device="cpu")
    assert (frozen.name, frozen.revision) == (name, checkpoints.digest(EMBEDDED[name]))
    assert (frozen.commit, frozen.facts()["commit"]) == (None, None)
    assert len(frozen.tokenizer) <= frozen.vocab_size


@pytest.mark.parametrize(
    "name",
    [
        "",
        "nul\0",
        "../no-such-model",
        "../../no/such",
        "no/../such",
        "no/such@../../etc",
        "a" * 300,
        "a" * 5000,
        "~no-such-user/m",
        "\ud800",
    ],
    ids=ascii,
)
def test_an_impossible_name_is_refused(name: str, cache: Path) -> None:
    before = sorted(cache.rglob("*"))
    with pytest.raises(ModelError, match=r"names no model|no such folder|not embedded .* not a local folder") as caught:
        checkpoints.locate(name)
    assert len(str(caught.value)) < 1000
    assert sorted(cache.rglob("*")) == before


# The hub's cache, offline


@pytest.mark.parametrize(("name", "kind"), [("tiny", "llama"), ("sharded", "grouped")])
def test_a_cached_model_works_offline(name: str, kind: str, cache: Path, loaded: dict[str, Frozen]) -> None:
    snapshot = snapshot_of(cache, name)
    assert (len(list(snapshot.glob("*.safetensors"))) > 1) == (snapshot / "model.safetensors.index.json").exists()
    assert (snapshot / "model.safetensors").exists() == (name == "tiny")
    frozen = models.load(f"someone/{name}", device="cpu")
    assert (frozen.name, frozen.revision) == (f"someone/{name}", checkpoints.digest(snapshot))
    assert frozen.facts()["commit"] == snapshot.name == hashlib.sha1(name.encode()).hexdigest()
    embeds = frozen.embed(torch.arange(5).unsqueeze(0))
    assert torch.equal(frozen.logits(embeds), loaded[kind].logits(embeds))
    embedding = frozen.model.get_input_embeddings().weight
    assert (frozen.weight is embedding) == frozen.model.config.tie_word_embeddings == (name == "sharded")
    assert frozen.facts()["n_parameters"] == loaded[kind].facts()["n_parameters"]


def test_a_revision_is_pinned_by_the_name_or_beside_it(cache: Path) -> None:
    first = snapshot_of(cache, "tiny")
    home = first.parent.parent
    commit = "2" * 40
    shutil.copytree(first, first.parent / commit, symlinks=True)
    (home / "refs" / "main").write_text(commit)
    (home / "refs" / "refs" / "pr").mkdir(parents=True)
    (home / "refs" / "refs" / "pr" / "1").write_text(first.name)
    assert checkpoints.locate("someone/tiny").name == commit
    for pin in (first.name, "refs/pr/1"):
        assert checkpoints.locate("someone/tiny", revision=pin) == first
        assert checkpoints.locate(f"someone/tiny@{pin}") == first
        assert checkpoints.locate(f"someone/tiny@{pin}", revision=pin) == first
    assert checkpoints.commit_of(first) == first.name
    assert checkpoints.commit_of(home) is None
    with pytest.raises(ModelError, match="name two revisions; give one"):
        checkpoints.locate("someone/tiny@main", revision=commit)
    for name in ("someone/tiny@v9", f"someone/tiny@{'3' * 40}"):
        with pytest.raises(ModelError, match=r"no model 'someone/tiny@.*download it where there is a network"):
            checkpoints.locate(name)


def test_what_is_not_cached_is_refused_at_once(cache: Path) -> None:
    with pytest.raises(ModelError, match=r"no model 'someone/unknown'.*where there is a network.*HF_HUB_OFFLINE"):
        models.load("someone/unknown")


def test_a_cache_that_lacks_a_shard_is_refused(cache: Path) -> None:
    shard = sorted(snapshot_of(cache, "sharded").glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(ModelError, match=f"lacks {shard.name} .* goes on where there is a network"):
        models.load("someone/sharded")


def test_a_cache_with_a_tokenizer_alone_is_refused(cache: Path) -> None:
    (snapshot_of(cache, "tiny") / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no \*\.safetensors.* broken off goes on where there is a network"):
        models.load("someone/tiny")


def test_another_blob_is_another_digest(cache: Path) -> None:
    snapshot = snapshot_of(cache, "tiny")
    before = checkpoints.digest(snapshot)
    weights = snapshot / "model.safetensors"
    weights.unlink()
    weights.symlink_to(snapshot / "config.json")
    assert checkpoints.digest(snapshot) != before


# A hub on this machine

COMMIT = "4" * 40


class Answer(BaseHTTPRequestHandler):
    """What a hub says: it has someone/tiny (the folder `server.files`), and knows of models that it does not give."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append((path, self.headers.get("Authorization")))
        files = {file.name: file.read_bytes() for file in self.server.files.iterdir()}
        listed = [
            {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for name, content in files.items()
        ]
        name = path.rpartition("/")[2]
        if path.startswith("/api/models/someone/gated/") and self.headers.get("Authorization") != "Bearer hf_mine":
            self.reply(403, {"X-Error-Code": "GatedRepo"})
        elif path.startswith("/api/models/someone/missing/"):
            self.reply(401, {"X-Error-Code": "RepoNotFound"})
        elif path.startswith("/api/models/someone/down/"):
            self.reply(500)
        elif path.endswith(("/revision/main", "/revision/v1")):
            self.reply(200, content=json.dumps({"id": "someone/tiny", "sha": COMMIT, "siblings": []}).encode())
        elif "/revision/" in path:
            self.reply(404, {"X-Error-Code": "RevisionNotFound"})
        elif path.endswith(f"/tree/{COMMIT}"):
            self.reply(200, content=json.dumps(listed).encode())
        else:
            headers = {"ETag": hashlib.sha1(files[name]).hexdigest(), "X-Repo-Commit": COMMIT}
            self.reply(200, headers, files[name])

    do_HEAD = do_GET

    def reply(self, status: int, headers: dict[str, str] | None = None, content: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": len(content)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        return


@pytest.fixture
def hub(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.files, server.asked = copy, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_a_download_takes_what_is_read_and_is_kept(
    hub: ThreadingHTTPServer, copy: Path, monkeypatch: pytest.MonkeyPatch, loaded: dict[str, Frozen]
) -> None:
    for name in ("pytorch_model.bin", "README.md", "special_tokens_map.json", "added_tokens.json"):
        (copy / name).write_text("{}")
    frozen = models.load("someone/tiny@v1", device="cpu")
    assert frozen.facts()["commit"] == COMMIT
    embeds = frozen.embed(torch.arange(5).unsqueeze(0))
    assert torch.equal(frozen.logits(embeds), loaded["llama"].logits(embeds))
    taken = {path.rpartition("/")[2] for path, _ in hub.asked if "/resolve/" in path}
    assert taken == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
        "added_tokens.json",
    }  # fmt: skip
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.asked)
    assert checkpoints.digest(checkpoints.locate(f"someone/tiny@{COMMIT}")) == frozen.revision
    assert len(hub.asked) == asked


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("gated", "it is gated: accept its licence .* HF_TOKEN"),
        ("missing", "check the name; a private model needs HF_TOKEN"),
        ("tiny@v9", "name a commit, branch or tag that it has"),
        ("down", "download it where there is a network"),
    ],
)
def test_what_the_hub_does_not_give(name: str, remedy: str, hub: ThreadingHTTPServer) -> None:
    with pytest.raises(ModelError, match=f"no model 'someone/{name}'.*What to do: {remedy}"):
        checkpoints.locate(f"someone/{name}")


@pytest.mark.slow
def test_a_gated_model_is_had_with_a_token(hub: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    assert checkpoints.locate("someone/gated").name == COMMIT


# Digests


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
        "added_tokens.json",
    ],
)  # fmt: skip
@pytest.mark.parametrize("linked", [False, True], ids=["file", "link"])
def test_one_changed_byte_changes_the_digest(name: str, linked: bool, copy: Path, tmp_path: Path) -> None:
    path = copy / name
    if not path.exists():
        path.write_text('{"bos_token": "<|endoftext|>"}')
    if linked:  # kept elsewhere under the same name
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        path.rename(elsewhere / name)
        path.symlink_to(elsewhere / name)
    before, content = checkpoints.digest(copy), path.read_bytes()
    at = len(content) // 2
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    changed = checkpoints.digest(copy)
    path.write_bytes(content)
    assert changed != before == checkpoints.digest(copy)


@pytest.mark.parametrize("name", ["README.md", "generation_config.json", "pytorch_model.bin"])
def test_what_is_not_read_is_not_in_the_digest(name: str, copy: Path, folders: dict[str, Path]) -> None:
    assert checkpoints.digest(copy) == checkpoints.digest(folders["llama"])
    (copy / name).write_text("{}")
    (copy / "tokenizer_parts").mkdir()
    assert checkpoints.digest(copy) == checkpoints.digest(folders["llama"])


def test_the_tokenizer_digest_is_of_its_definition(loaded: dict[str, Frozen], copy: Path) -> None:
    assert len({frozen.tokenizer_digest for frozen in loaded.values()}) == 1
    definition = json.loads((copy / "tokenizer.json").read_text())
    definition["model"]["merges"].pop()
    (copy / "tokenizer.json").write_text(json.dumps(definition))
    changed = checkpoints.tokenizer_digest(checkpoints.describe("copy", copy)[1])
    assert changed != loaded["llama"].tokenizer_digest


# Folders


@pytest.mark.parametrize("begins", [True, False])
def test_a_tokenizer_that_loads_and_cannot_encode_is_refused_in_one_line(begins: bool, copy: Path) -> None:
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({"<s>": 0, "word": 1})), bos_token="<s>" if begins else None
    ).save_pretrained(copy)
    experiments = sweep.grid(model=str(copy), n_texts=1, length=4, bos="auto")
    with pytest.raises(ValueError, match=r"^the tokenizer .*(encodes no text|can't encode the text) \(.*") as caught:
        sweep.cells(experiments)
    assert "\n" not in str(caught.value)


def test_pickled_weights_are_refused(copy: Path) -> None:
    frozen = models.load(str(copy), device="cpu")
    torch.save(frozen.model.state_dict(), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no \*\.safetensors.*convert them with save_pretrained"):
        models.load(str(copy))


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json; give a folder written by save_pretrained"):
        models.load(str(tmp_path))


@pytest.mark.parametrize("change", ["missing", "another shape", "more layers"])
def test_weights_are_never_made_up(change: str, copy: Path) -> None:
    weights, name = load_file(copy / "model.safetensors"), "model.norm.weight"
    if change == "more layers":
        settings = json.loads((copy / "config.json").read_text()) | {"num_hidden_layers": 3}
        (copy / "config.json").write_text(json.dumps(settings))
        name = "model.layers.2.input_layernorm.weight"
    elif change == "missing":
        del weights[name]
    else:
        weights[name] = torch.ones(7)
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=rf"\d+ weights of .* are not in its files.*\({name}.*give files of a whole"):
        models.load(str(copy))


def test_code_of_a_model_is_never_run(copy: Path, tmp_path: Path) -> None:
    sentinel = tmp_path / "ran"
    (copy / "strange.py").write_text(
        "from transformers import LlamaConfig as Config, LlamaForCausalLM as Model\n"
        f"open({str(sentinel)!r}, 'w').close()\n"
    )
    code = {"AutoConfig": "strange.Config", "AutoModelForCausalLM": "strange.Model"}
    settings = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(settings | {"auto_map": code}))
    models.load(str(copy), device="cpu")  # an architecture that transformers has: its own code is taken
    (copy / "config.json").write_text(json.dumps(settings | {"auto_map": code, "model_type": "strange"}))
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
    ("name", "content", "message"),
    [
        ("config.json", "{", "transformers cannot load"),
        ("config.json", '{"model_type": "strange"}', "transformers cannot load .* model type `strange`"),
        ("model.safetensors", "abc", "transformers cannot load .* header"),
        ("model.safetensors.index.json", "[]", "is no index of weights .* download the model again"),
        ("tokenizer.json", None, "transformers cannot load"),
    ],
)
def test_a_spoilt_folder_is_refused(name: str, content: str | None, message: str, copy: Path) -> None:
    if content is None:
        (copy / name).unlink()
    else:
        (copy / name).write_text(content)
    with pytest.raises(ModelError, match=message) as caught:
        models.load(str(copy))
    assert "\n" not in str(caught.value)


def test_a_path_to_nothing_is_no_name_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.md").touch()
    for name, says in {
        str(tmp_path / "gone"): "no such folder",
        "./gone": "no such folder",
        "notes.md": "is a file",
    }.items():
        with pytest.raises(ModelError, match=says):
            models.locate(name)
