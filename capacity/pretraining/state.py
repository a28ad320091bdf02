"""Where a training run stands: weights, moments, losses, written whole or not at all, and read back bit for bit."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save

from capacity import files


def digest(tokens: np.ndarray, *settings: Any) -> str:
    """Return 64 hex digits that change with the tokens trained on and the settings of a run (anything JSON takes)."""
    said = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(said.encode() + np.ascontiguousarray(tokens).tobytes()).hexdigest()


def write(
    path: Path,
    run: str,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    losses: list[float],
    seconds: float,
) -> None:
    """Write what a run needs to go on after `len(losses)` steps; `run`: its digest, `seconds`: what they took."""
    tensors = {f"weight.{name}": value for name, value in model.state_dict().items()}
    for number, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"moment.{number}.{name}": value for name, value in moments.items()}
    tensors["losses"] = torch.tensor(losses, dtype=torch.float64)
    facts = {"run": run, "seconds": str(seconds)}
    files.write(path, save({name: value.contiguous() for name, value in tensors.items()}, metadata=facts))


def read(path: Path, run: str, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> tuple[list[float], float]:
    """Put a state into model and optimiser, and return losses and seconds of the steps made; none where there is none.

    Raises ValueError for the state of another run: its config, tokens or schedule differ.
    """
    if not path.is_file():
        return [], 0.0
    with safe_open(path, framework="pt") as file:
        facts = file.metadata() or {}
        if facts.get("run") != run:
            raise ValueError(f"{path} is the state of another run; delete it, or train into another folder")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    losses = tensors.pop("losses").tolist()
    weights = {name.removeprefix("weight."): value for name, value in tensors.items() if name.startswith("weight.")}
    model.load_state_dict(weights)
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("moment."):
            _, number, moment = name.split(".")
            moments.setdefault(int(number), {})[moment] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": moments})
    return losses, float(facts["seconds"])
