"""A GGUF file as a folder of float32 safetensors: dequantised once, kept in a cache by the file's digest."""

import errno
import hashlib
import importlib.util
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import platformdirs
import torch
import transformers
from filelock import FileLock
from safetensors import SafetensorError

from capacity.files import first_line
from capacity.models.errors import ModelError

_FACTS = "gguf.json"
_EXTRA = ("gguf", "accelerate")


def home() -> Path:
    """Return the folder of fetched and converted models: CAPACITY_HOME, by default the user's cache directory."""
    chosen = os.environ.get("CAPACITY_HOME")
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("capacity")


def check_extra() -> None:
    """Raise ModelError unless what reads GGUF files is installed."""
    if missing := [name for name in _EXTRA if importlib.util.find_spec(name) is None]:
        raise ModelError(f"GGUF files need {' and '.join(missing)}; install the extra `gguf`")


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turn what the file system says, as a model is written to `place`, into a ModelError."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        remedy = "free some space" if full else "choose a folder that can be written"
        raise ModelError(
            f"{place} could not be written ({first_line(error)}), nothing half is kept; {remedy}, or set CAPACITY_HOME "
            "to a folder elsewhere"
        ) from error


def converted(path: Path) -> Path:
    """Return the folder that holds a GGUF file's model as float32 safetensors, made at the first call.

    It is named by the SHA-256 of the file and appears whole or not at all; one that was damaged since is made again.
    Raises ModelError for a file that is cut short, of an architecture or quantisation that transformers does not know,
    or whose tokenizer is not its model's.
    """
    sha256 = digest(path)
    folder = folder_of(sha256)
    if is_whole(folder):
        return folder
    check_extra()
    with writing(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_name(f".{sha256}.lock"))
        lock.acquire()
    try:
        if not is_whole(folder):
            _convert(path, folder, sha256)
    finally:
        lock.release()
    return folder


def digest(path: Path) -> str:
    """Return the SHA-256 of a file; raises ModelError for one that can't be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{path} can't be read ({first_line(error)}); give a GGUF file") from error


def folder_of(sha256: str) -> Path:
    """Return where the model of the GGUF file with this SHA-256 is kept once it is converted."""
    return home() / "gguf" / sha256


def facts(folder: Path) -> dict[str, Any]:
    """Return what is known of the GGUF file that a folder was made from: sha256, file, quantisation; else nothing."""
    try:
        known = json.loads((folder / _FACTS).read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) and known.get("sha256") == folder.name else {}


def is_whole(folder: Path) -> bool:
    """Return whether a folder has every file that was made of its GGUF file, each as long as it was."""
    files = facts(folder).get("bytes")
    try:
        return bool(files) and all((folder / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, AttributeError):  # one is not there, or that is no table of files
        return False


def _convert(path: Path, folder: Path, sha256: str) -> None:
    quantisation = _quantisation(path)
    model, tokenizer = _read(path)
    part = folder.with_name(f".{sha256}.part")
    try:
        with writing(folder.parent):
            shutil.rmtree(part, ignore_errors=True)  # of a conversion that was killed
            model.save_pretrained(part)
            tokenizer.save_pretrained(part)
            lengths = {file.name: file.stat().st_size for file in part.iterdir()}
            known = {"sha256": sha256, "file": path.name, "quantisation": quantisation, "bytes": lengths}
            (part / _FACTS).write_text(json.dumps(known | {"transformers": transformers.__version__}, indent=1))
            if folder.is_dir():  # one that was damaged
                shutil.rmtree(folder)
            folder.unlink(missing_ok=True)
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _quantisation(path: Path) -> str:
    """Return a file's quantisation, as in Q4_1, after checking that the file is whole and its tokenizer its own."""
    import gguf

    try:
        reader = gguf.GGUFReader(path)
    except Exception as error:  # it raises whatever numpy does at a place past the end
        raise ModelError(
            f"{path} is no whole GGUF file that can be read ({first_line(error)}): it is cut short, damaged or has a "
            "quantisation that gguf does not know; delete it and fetch it again"
        ) from error
    # The file's own tokens: transformers may add some (Gemma's has one that no row of the embedding stands for).
    words = reader.get_field("tokenizer.ggml.tokens")
    rows = next((int(tensor.shape[1]) for tensor in reader.tensors if tensor.name == "token_embd.weight"), 0)
    if words is None or len(words.data) > rows:
        raise ModelError(
            f"the tokenizer of {path} has {0 if words is None else len(words.data):,} tokens, its model's embedding "
            f"{rows:,} rows; give a file with its own tokenizer"
        )
    field = reader.get_field("general.file_type")
    try:
        name = gguf.LlamaFileType(int(field.contents())).name if field is not None else ""
    except ValueError:
        name = ""
    if not name:  # the type of most matrices
        kinds = Counter(tensor.tensor_type.name for tensor in reader.tensors if len(tensor.shape) > 1)
        name = max(kinds, key=kinds.__getitem__, default="unknown")
    return name.removeprefix("MOSTLY_").removeprefix("ALL_")


def _read(path: Path) -> tuple[Any, Any]:
    """Return the model, in float32 and free to be saved, and the tokenizer of a GGUF file."""
    source: dict[str, Any] = {"gguf_file": path.name, "trust_remote_code": False}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, **source)
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
            path.parent, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True, **source
        )
    except Exception as error:  # of an odd file it raises KeyError, IndexError, NotImplementedError and others
        raise ModelError(
            f"transformers cannot load {path} as a causal model ({type(error).__name__}: {first_line(error)}); give a "
            "GGUF file of an architecture, quantisation and tokenizer that it knows"
        ) from error
    model, report = loaded
    wrong = sorted([*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])])
    if wrong:
        raise ModelError(
            f"{len(wrong)} weights of the model are not in {path}, or of another shape than it says "
            f"({', '.join(wrong[:3])}); give a file of a whole causal model"
        )
    model.hf_quantizer = None  # what is in memory is plain float32, but save_pretrained would refuse
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model, tokenizer
