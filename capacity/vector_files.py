"""A file that holds a text as [mem] vectors: safetensors, with what a decoder must know in its metadata."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from capacity import files, provenance
from capacity.files import first_line, whole_number
from capacity.models import Frozen

__all__ = ["FORMAT", "Stored", "VectorError", "load", "save"]
__dir__ = __all__.copy  # what completion shows

FORMAT = "capacity-mem-3"  # 1 had no digest, 2 one of the numbers alone
_KNOWN = ("capacity-mem-1", "capacity-mem-2", FORMAT)
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
        if (
            self.mem.ndim != 2
            or self.mem.shape[1] != frozen.dim
            or any(token >= frozen.vocab_size for token in self.given)
        ):
            raise VectorError(
                f"the vectors have shape {tuple(self.mem.shape)}, given are {list(self.given)[:9]}; {frozen.name} "
                f"takes {frozen.dim} numbers a vector and tokens below {frozen.vocab_size}"
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

    mem: finite, kept as float32; n_tokens: what decoding gives back; given: tokens put after [mem], which count as
    given, not stored. Raises VectorError for numbers that are not finite, or where the file cannot be written.
    """
    path = Path(path)
    if not mem.float().isfinite().all():
        raise VectorError(f"the vectors have {int((~mem.float().isfinite()).sum())} numbers that are not finite")
    given = tuple(given or ())
    made = Stored(
        mem=mem, n_tokens=whole_number("n_tokens", n_tokens, least=max(1, len(given))),
        given=tuple(whole_number("a given token", token, least=0) for token in given),
        **{name: getattr(frozen, name) for name in ("revision", "tokenizer_digest", "dtype", "bos")}, model=frozen.name,
    )  # fmt: skip
    made.check(frozen)
    frozen.check_length(made.n_tokens, len(mem))
    facts = frozen.facts()
    metadata = {name: str(facts[name]) for name in ("model", "revision", "tokenizer_digest", "dtype", "bos")}
    metadata |= {
        "format": FORMAT, "n_tokens": str(made.n_tokens), "given": json.dumps(made.given),
        "versions": json.dumps(provenance.versions()),
    }  # fmt: skip
    metadata["digest"] = _digest(mem.float(), metadata)
    try:
        files.write(path, to_bytes({"mem": mem.float().cpu().contiguous()}, metadata))
    except OSError as error:
        raise VectorError(f"{path} could not be written ({error}); choose another place") from error


def load(path: Path | str) -> Stored:
    """Return the content of a vector file; no model is needed.

    Raises VectorError if there is no such file, it is no vector file, or its format is of another version.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise VectorError(f"no file {str(path)[:300]!r}; give one written by `capacity cram --save`")
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            mem = file.get_tensor("mem") if "mem" in file.keys() else None  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise VectorError(f"{str(path)[:300]} is no safetensors file ({first_line(error)})") from error
    if facts.get("format") not in _KNOWN or mem is None or mem.ndim != 2 or not set(_FACTS) <= facts.keys():
        raise VectorError(
            f"{path} has format {facts.get('format')!r} and is not a vector file of format {FORMAT!r}; "
            "make it again with `capacity cram --save`"
        )
    if str(mem.dtype) != "torch.float32" or not mem.numel() or not mem.isfinite().all():
        raise VectorError(
            f"{path} holds {str(mem.dtype).removeprefix('torch.')} numbers of shape {tuple(mem.shape)}; finite float32 "
            "ones, a row a vector, are needed. Make it again with `capacity cram --save`"
        )
    covered = {"capacity-mem-1": None, "capacity-mem-2": _digest(mem, {}), FORMAT: _digest(mem, facts)}
    if facts.get("digest") != covered[facts["format"]]:
        raise VectorError(f"{path} is damaged: its content is not what was written; take another copy")
    return Stored(
        mem=mem, model=facts["model"], revision=facts["revision"], dtype=facts["dtype"], bos=facts["bos"],
        tokenizer_digest=facts["tokenizer_digest"], **_counts(path, facts),
    )  # fmt: skip


def _digest(mem: Float[Tensor, "n_mem dim"], facts: dict[str, str]) -> str:
    """Return the hash of the numbers and of all that the metadata says beside it."""
    said = json.dumps({name: value for name, value in sorted(facts.items()) if name != "digest"}) if facts else ""
    return hashlib.sha256(mem.cpu().contiguous().numpy().tobytes() + said.encode()).hexdigest()


def _counts(path: Path, facts: dict[str, str]) -> dict[str, Any]:
    """Return `n_tokens` and `given` of a file's metadata; raises VectorError where they are not what `save` writes."""
    try:
        n_tokens, given = json.loads(facts["n_tokens"]), json.loads(facts["given"])
    except (ValueError, RecursionError) as error:
        raise VectorError(f"{path} has n_tokens or given that is no JSON ({str(error)[:100]})") from error
    if not isinstance(given, list) or any(type(token) is not int or token < 0 for token in given):
        raise VectorError(f"{path} has given {facts['given'][:100]!r}; a list of token ids is needed")
    if type(n_tokens) is not int or not max(1, len(given)) <= n_tokens < 2**31:
        raise VectorError(f"{path} has n_tokens {facts['n_tokens'][:100]!r}; at least 1 and the given ones are needed")
    return {"n_tokens": n_tokens, "given": tuple(given)}
