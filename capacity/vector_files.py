"""A file that holds a text as [mem] vectors: safetensors, with what a decoder must know in its metadata."""

import json
import os
import uuid
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from capacity import provenance
from capacity.models import Frozen

FORMAT = "capacity-mem-1"
_FACTS = ("format", "model", "revision", "tokenizer_digest", "dtype", "bos", "n_tokens", "given", "versions")


class VectorError(ValueError):
    """A vector file that can't be read, or belongs to another model."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """The content of a vector file."""

    mem: Float[Tensor, "n_mem dim"]  # float32
    model: str  # name it was made with
    revision: str  # digest of that model's files
    tokenizer_digest: str
    dtype: str  # of the weights
    bos: str  # policy
    n_tokens: int  # of the text, given ones included
    given: tuple[int, ...]  # token ids put after [mem] before decoding

    def check(self, frozen: Frozen) -> None:
        """Raise VectorError unless `frozen` is what the vectors were made with: model, dtype, BOS policy."""
        for name in ("revision", "tokenizer_digest", "dtype", "bos"):
            ours, theirs = getattr(self, name), getattr(frozen, name)
            if ours != theirs:
                raise VectorError(
                    f"the vectors were made with {self.model} ({name} {ours}), not with {frozen.name} "
                    f"({name} {theirs}); "
                    "decode them with that model"
                )


def save(
    path: Path | str,
    mem: Float[Tensor, "n_mem dim"],
    frozen: Frozen,
    *,
    n_tokens: int,
    given: tuple[int, ...] = (),
) -> None:
    """Write one text's vectors to `path`, whole or not at all.

    mem: float32; n_tokens: what decoding gives back; given: tokens put after [mem], which count as given, not stored.
    """
    path = Path(path)
    facts = frozen.facts()
    metadata = {name: str(facts[name]) for name in ("model", "revision", "tokenizer_digest", "dtype", "bos")}
    metadata |= {
        "format": FORMAT, "n_tokens": str(n_tokens), "given": json.dumps(list(given)),
        "versions": json.dumps(provenance.versions()),
    }  # fmt: skip
    part = path.with_name(f".{path.name[:100]}.{uuid.uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(to_bytes({"mem": mem.float().cpu().contiguous()}, metadata))
        os.replace(part, path)
    except OSError as error:
        raise VectorError(f"{path} could not be written ({error}); choose another place") from error
    finally:
        if part.exists():
            part.unlink()


def load(path: Path | str) -> Stored:
    """Return the content of a vector file; no model is needed.

    Raises VectorError if there is no such file, it is no vector file, or its format is of another version.
    """
    path = Path(path)
    if not path.is_file():
        raise VectorError(f"no file {str(path)[:300]!r}; give one written by `capacity cram --save`")
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            mem = file.get_tensor("mem") if "mem" in file.keys() else None  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise VectorError(f"{path} is no safetensors file ({error})") from error
    if facts.get("format") != FORMAT or mem is None or mem.ndim != 2 or not set(_FACTS) <= facts.keys():
        raise VectorError(
            f"{path} has format {facts.get('format')!r} and is not a vector file of format {FORMAT!r}; "
            "make it again with `capacity cram --save`"
        )
    return Stored(
        mem=mem.float(), model=facts["model"], revision=facts["revision"], dtype=facts["dtype"], bos=facts["bos"],
        tokenizer_digest=facts["tokenizer_digest"], n_tokens=int(facts["n_tokens"]),
        given=tuple(json.loads(facts["given"])),
    )  # fmt: skip
