"""Where and with what a number was made."""

import importlib.metadata
import os
import platform
from functools import cache
from pathlib import Path

__all__ = ["machine", "versions"]
__dir__ = __all__.copy  # what completion shows

_PACKAGES = ("torch", "transformers", "polars", "altair")


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python, of this distribution and of what its numbers rest on, by name.

    Read from the installed metadata: nothing is imported.
    """
    own = importlib.metadata.packages_distributions().get("capacity", [])[:1]
    return {"python": platform.python_version()} | {name: _version(name) for name in (*own, *_PACKAGES)}


def machine() -> str:
    """Return one line on the machine: system, architecture, number and model of its processors."""
    facts = Path("/proc/cpuinfo")  # Linux; elsewhere platform knows
    lines = facts.read_text(encoding="utf-8").splitlines() if facts.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    model = (models or [platform.processor() or "unknown processor"])[0]
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors, {model}"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
