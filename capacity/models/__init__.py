"""Frozen causal language models: found, loaded, checked; their facts without their weights."""

import contextlib
import hashlib
import importlib.util
import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import transformers  # its classes take seconds to import: not before a model is loaded
from transformers import PreTrainedTokenizerBase

from capacity import files, provenance
from capacity.files import first_line
from capacity.models import contract, gguf, heads
from capacity.models.bars import no_bars
from capacity.models.beginning import BOS, bos_id, bos_policy
from capacity.models.checkpoints import (
    EMBEDDED,
    TRAINED,
    commit_of,
    context_of,
    describe,
    digest,
    loading,
    locate,
    tokenizer_digest,
    trained,
)
from capacity.models.contract import Contract
from capacity.models.errors import ModelError
from capacity.models.exhaustion import is_exhausted, total_bytes
from capacity.models.frozen import DTYPES, Frozen, check_length
from capacity.models.packaged import PACKAGED, fetch, is_cached
from capacity.models.products import WIDE

__all__ = [
    "BOS", "DTYPES", "EMBEDDED", "PACKAGED", "TRAINED", "WIDE", "Contract", "Frozen", "ModelError", "bos_id",
    "bos_policy", "check_length", "commit_of", "context_of", "describe", "digest", "fetch", "freeze", "is_cached",
    "is_exhausted", "load", "locate", "tokenizer_digest", "total_bytes", "trained",
]  # fmt: skip
__dir__ = __all__.copy  # what completion shows


def load(
    name: str | Path,
    *,
    revision: str | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    attention: str | None = None,
    bos: str = "none",
) -> Frozen:
    """Return the model, frozen and in evaluation mode.

    Args:
        name: an embedded or packaged name, a local folder or GGUF file, or a name on the hub; see `locate`.
        revision: a commit, branch or tag of the hub, where the name has none.
        device: None takes CUDA, then MPS, then CPU; `auto` spreads the model over all GPUs (extra `sharded`).
        dtype: float32 (None), bfloat16 or float16.
        attention: an implementation of transformers (`sdpa`, `eager`, ...); None takes the model's own choice.
        bos: policy for the beginning-of-sequence token, one of BOS, or `auto` (see bos_policy).

    What the project relies on is measured on the model (see contract.Contract), once in a process, of large ones once.
    CAPACITY_DETERMINISTIC=1 lets torch take deterministic algorithms alone, in this process from here on; on a GPU the
    same run gives the same bits then, more slowly, and an operation that has none raises.

    Raises ModelError where that does not hold, where weights are left over, missing or not finite, and when there is no
    such model, it has no safetensors, it needs code from a hub, the device is not there, or the tokenizer has no token
    that the policy needs.
    """
    kind = dtype if isinstance(dtype, torch.dtype) else DTYPES.get(dtype or "float32")
    if kind not in DTYPES.values():
        raise ModelError(f"unknown dtype {dtype!r}; known are {', '.join(DTYPES)}")
    if bos not in ("auto", *BOS):
        raise ModelError(f"unknown bos {bos!r}; known are auto, {', '.join(BOS)}")
    if attention is not None and (not isinstance(attention, str) or "/" in attention):
        raise ModelError(
            f"attention is {attention!r}, no name, or code from a hub, which never runs; give sdpa or eager"
        )
    _no_kernels_of_a_hub()
    _deterministic()
    place = _place(device)
    name = str(name) if isinstance(name, Path) else name
    folder = locate(name, revision=revision)
    config, tokenizer = describe(name, folder)
    bos = bos_policy(tokenizer, folder) if bos == "auto" else bos
    if bos != "none":
        bos_id(tokenizer, name=name)
    options: dict[str, Any] = {} if attention is None else {"attn_implementation": attention}
    if place is None:
        options["device_map"] = "auto"
    with loading(name), no_bars():
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=kind, use_safetensors=True, trust_remote_code=False,
            output_loading_info=True, ignore_mismatched_sizes=True, **options,
        )  # fmt: skip
    model, report = loaded
    wrong = sorted([*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])])
    if wrong:  # transformers makes them up
        raise ModelError(
            f"{len(wrong)} weights of {name!r} are not in its files, or of another shape than its config says "
            f"({', '.join(wrong[:3])}); give files of a whole causal model"
        )
    left_out = contract.unused(report["unexpected_keys"], name=name)
    if place is not None:
        torch.nn.Module.to(model, place)
    with contract.running(name):
        frozen = freeze(
            model, tokenizer, name=name, revision=digest(folder), bos=bos, commit=commit_of(folder),
            quantisation=gguf.facts(folder).get("quantisation"),
        )  # fmt: skip
    return replace(frozen, contract=_checked(frozen, left_out))


_CHECKED: dict[tuple, Contract] = {}  # by what the weights and their arithmetic are


_REMEMBERED_SECONDS = 1.0  # what took longer is written down


def _checked(frozen: Frozen, left_out: tuple[str, ...]) -> Contract:
    """Return a model's contract, measured once in a process; raises ModelError where it does not hold.

    One that took long to measure is remembered in CAPACITY_HOME, by the digest of the model's files, dtype, attention,
    device and the versions of what measured it.
    """
    facts = frozen.facts()
    at = (*(facts[name] for name in ("revision", "dtype", "attention")), str(frozen.device))
    if at not in _CHECKED:
        parts = json.dumps([*at, left_out, contract.TOLERANCES, provenance.versions()])
        path = gguf.home() / "contracts" / f"{hashlib.sha256(parts.encode()).hexdigest()[:32]}.json"
        own_contract = contract.read(path)
        if own_contract is None:
            own_contract = contract.measure(frozen, left_out=left_out)
            own_contract.require(frozen.name)
            if own_contract.seconds > _REMEMBERED_SECONDS:
                with contextlib.suppress(OSError):  # then it is measured again
                    files.write(path, json.dumps(asdict(own_contract)).encode())
        _CHECKED[at] = own_contract
    return _CHECKED[at]


def freeze(
    model: "transformers.PreTrainedModel",
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str,
    revision: str,
    bos: str = "none",
    commit: str | None = None,
    quantisation: str | None = None,
) -> Frozen:
    """Return a causal model that is in memory already, frozen and in evaluation mode; see Frozen for the fields."""
    model.eval().requires_grad_(False)
    weight, bias = heads.linear(model)
    return Frozen(
        model, tokenizer, name, revision, weight, bias, bos, commit, None if weight is not None else heads.tail(model),
        quantisation,
    )  # fmt: skip


def _no_kernels_of_a_hub() -> None:
    """Have transformers take the package `kernels`, which fetches code and runs it, for not installed."""
    from transformers.integrations import hub_kernels

    hub_kernels.is_kernels_available = lambda *_, **__: False  # pyright: ignore[reportPrivateImportUsage]


def _deterministic() -> None:
    if os.environ.get("CAPACITY_DETERMINISTIC", "0") not in ("", "0"):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
        torch.use_deterministic_algorithms(True)


def _place(device: str | torch.device | None) -> torch.device | None:
    """Return the device for a whole model, or None to spread it over all; raises ModelError if that can't be."""
    if device == "auto":
        if importlib.util.find_spec("accelerate") is None:
            raise ModelError("device='auto' needs accelerate; install it (the extra `sharded`), or name one device")
        return None
    if device is None:
        backends = (("cuda", torch.cuda), ("mps", torch.backends.mps))
        device = next((kind for kind, backend in backends if backend.is_available()), "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error)
        raise ModelError(
            f"no device {str(device)!r} here ({reason}); give cpu, cuda, cuda:N, mps, auto or None"
        ) from error
