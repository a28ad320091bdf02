"""Where a model's files lie, what they are, and what they say without its weights."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from os.path import isfile
from pathlib import Path

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage]: of the client's HTTP library, whichever that is
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from capacity import resources
from capacity.files import first_line, list_hint
from capacity.models import gguf, packaged
from capacity.models.errors import ModelError

# What is downloaded and what a digest is of; settings of text generation are neither.
_FILES = (
    "config.json", "*.safetensors", "*.safetensors.index.json",
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "*.model", "vocab*", "merges*",
)  # fmt: skip
_INDEX = "model.safetensors.index.json"
TRAINED = "ladder:"  # before the folder's name of a model in `trained()`
# What to do, by what the hub's client raises; the first that fits.
_REMEDIES: tuple[tuple[type[Exception], str], ...] = (
    (GatedRepoError, "it is gated: accept its licence on its page of the hub, and set HF_TOKEN to a token of yours"),
    (RevisionNotFoundError, "name a commit, branch or tag that it has"),
    (RepositoryNotFoundError, "check the name; a private model needs HF_TOKEN"),
    (HFValidationError, "check the name; on the hub it is OWNER/NAME, or OWNER/NAME@REVISION"),
    (LocalEntryNotFoundError, "download it where there is a network (without HF_HUB_OFFLINE); HF_HOME holds the cache"),
    (Exception, "try again, or download it elsewhere and give its folder"),
)


def _embedded() -> dict[str, Path]:
    folders_by_size = sorted(
        (
            sum(file.stat().st_size for file in path.parent.glob("*.safetensors")),
            path.parent.name,
            path.parent,
        )
        for path in (resources.data() / "models").glob("*/config.json")
    )
    return {name: folder for _, name, folder in folders_by_size}


# Name -> folder, smallest first. Listed as this is imported: the folders are part of the package, and no file is read.
EMBEDDED: dict[str, Path] = _embedded()


def locate(name: str, *, revision: str | None = None) -> Path:
    """Return the folder of a model, downloaded if it is neither here nor in the hub's cache.

    Args:
        name: an embedded or packaged name, TRAINED and a name in `trained()`, a local folder or GGUF file, or a name on
            the hub: OWNER/NAME, OWNER/NAME@REVISION, or hub:OWNER/NAME/FILE.gguf. A GGUF file gives the folder that it
            is converted to.
        revision: a commit, branch or tag of the hub, where the name has none.

    Raises ModelError for an unknown name, a packaged model that was not fetched, what the hub does not give, a GGUF
    file that is not read, or a folder without safetensors.
    """
    if not isinstance(name, str):
        raise ModelError(
            f"{str(name)[:120]} is a {type(name).__name__}, and names no model; give a name or a path as text"
        )
    if not name or "\0" in name or (list_hint(name) and _local(name) is None):
        raise ModelError(f"{name[:120]!r} names no model; embedded are {', '.join(EMBEDDED)}{list_hint(name)}")
    if revision is not None and (name in EMBEDDED or name in packaged.PACKAGED or _local(name) is not None):
        raise ModelError(f"{name[:120]!r} lies on this machine and has no revision {revision!r}; leave it out")
    if name in packaged.PACKAGED:
        return packaged.locate(name)
    if name.partition("@")[0].endswith(".gguf") and (file := _file(name, revision)):
        return gguf.converted(file)
    if name.startswith(TRAINED):
        return _trained(name)
    folder = EMBEDDED.get(name) or _local(name) or _cached(name.removeprefix("hub:"), revision)
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json; give a folder written by save_pretrained")
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{folder} has no *.safetensors, and pickled weights are not read: convert them with save_pretrained, or "
            "name a revision that has safetensors (on the hub often refs/pr/N, by its conversion bot). A download "
            "that was broken off goes on where there is a network"
        )
    if missing := _missing_shards(folder):
        raise ModelError(
            f"{folder} lacks {', '.join(missing[:3])} ({len(missing)} of the files in {_INDEX}); a download that was "
            "broken off goes on where there is a network, without HF_HUB_OFFLINE"
        )
    return folder


def trained() -> Path:
    """Return the folder of models trained here for comparison (capacity.ladder): `ladder` in CAPACITY_HOME."""
    return gguf.home() / "ladder"


def _trained(name: str) -> Path:
    folder = trained() / name.removeprefix(TRAINED)
    if folder.parent != trained() or not (folder / "training.json").is_file():
        raise ModelError(
            f"{name[:120]!r} is not in {trained()}; ladder.train trains it, CAPACITY_HOME names another folder"
        )
    return folder


def _local(name: str) -> Path | None:
    try:
        folder = Path(name).expanduser()
        return folder if folder.is_dir() else None
    except (OSError, RuntimeError, ValueError):  # too long a name, no such user's home, odd characters
        return None


def _file(name: str, revision: str | None) -> Path | None:
    """Return the GGUF file of a name, downloaded if it is the hub's and not in its cache; None where a folder is named.

    Raises ModelError where there is no such file.
    """
    if name.startswith("hub:"):
        return _cached(name.removeprefix("hub:"), revision)
    try:
        path = Path(name).expanduser()
        if path.is_file() or path.is_dir():
            return path if path.is_file() else None
    except (OSError, RuntimeError, ValueError):
        pass
    raise ModelError(f"no GGUF file {name[:120]!r}; give its path, or hub:OWNER/NAME/FILE.gguf for one on the hub")


def _cached(name: str, revision: str | None) -> Path:
    """Return a repository's folder in the hub's cache, or, of OWNER/NAME/FILE.gguf, that file."""
    repository, _, pin = name.partition("@")
    if pin and revision and pin != revision:
        raise ModelError(f"{name!r} and revision {revision!r} name two revisions; give one")
    if isfile(name):
        raise ModelError(
            f"{name[:120]!r} is a file, and no GGUF file; give a folder written by save_pretrained, or one"
        )
    if name.startswith(("/", "./", "../", "~")):
        raise ModelError(
            f"no model {name[:120]!r}: no such folder; give one of save_pretrained, a GGUF file, or a model's name"
        )
    try:
        if repository.endswith(".gguf") and repository.count("/") > 1:
            owner, title, file = repository.split("/", 2)
            return Path(hf_hub_download(f"{owner}/{title}", file, revision=pin or revision))
        return Path(snapshot_download(repository, revision=pin or revision, allow_patterns=list(_FILES)))
    except (HTTPError, HFValidationError, OSError) as error:
        remedy = next(remedy for kind, remedy in _REMEDIES if isinstance(error, kind))
        raise ModelError(
            f"no model {name[:120]!r}: it is not embedded ({', '.join(EMBEDDED)}), not a local folder, and the hub "
            f"did not give it ({first_line(error)}). What to do: {remedy}"
        ) from error


def _missing_shards(folder: Path) -> list[str]:
    try:
        names = set(json.loads((folder / _INDEX).read_bytes())["weight_map"].values())
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{folder / _INDEX} is no index of weights ({error}); download the model again") from error
    return sorted(str(name) for name in names if not (folder / str(name)).is_file())


def commit_of(folder: Path) -> str | None:
    """Return the commit of a folder in the hub's cache (.../snapshots/COMMIT), else None."""
    return folder.name if folder.parent.name == "snapshots" and re.fullmatch("[0-9a-f]{40}", folder.name) else None


def digest(folder: Path) -> str:
    """Return 16 hex digits that change with any file that `load` reads (a hub cache names blobs by their content).

    Of a folder that was made from a GGUF file they are the first of that file's SHA-256.
    """
    if source := gguf.facts(folder):
        return source["sha256"][:16]
    total = hashlib.sha256()
    for path in sorted({file for pattern in _FILES for file in folder.glob(pattern) if file.is_file()}):
        total.update(path.name.encode())
        blob = path.resolve()
        if blob.parent.name == "blobs" and re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", blob.name):
            total.update(blob.name.encode())
        else:
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:16]


def describe(name: str, folder: Path) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """Return the config and tokenizer in a model's folder, without its weights; raises ModelError as `models.load`."""
    with loading(name):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        return config, AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


@contextmanager
def loading(name: str) -> Iterator[None]:
    """Turn what transformers raises, as it reads a model's folder, into a ModelError."""
    try:
        yield
    except (ValueError, ImportError, KeyError, OSError, SafetensorError) as error:
        if "trust_remote_code" in str(error):
            raise ModelError(
                f"{name!r} needs code from a hub, which is never run; use a model of an architecture that transformers "
                "has"
            ) from error
        raise ModelError(f"transformers cannot load {name!r} as a causal model: {first_line(error)}") from error


def context_of(config: PreTrainedConfig) -> int | None:
    """Return the most input vectors at once, [mem] included; None where the architecture sets no limit.

    With the rotary scaling `longrope` it is where the factors switch, for all positions at once: past it the vectors
    before would be read otherwise than when they were fitted.
    """
    text = config.get_text_config()
    limits = [getattr(text, "max_position_embeddings", None)]
    rotary = getattr(text, "rope_parameters", None) or {}
    for settings in (rotary, *rotary.values()):  # of all layers, or of each type of layer
        if isinstance(settings, dict) and settings.get("rope_type", settings.get("type")) == "longrope":
            own = settings.get("original_max_position_embeddings")
            limits.append(own or getattr(text, "original_max_position_embeddings", None))
    return min((limit for limit in limits if limit), default=None)


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the first 16 hex digits of the SHA-256 of a tokenizer's definition."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
