import dataclasses
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from capacity import models, vector_files

SMALLEST = next(iter(models.EMBEDDED))


@pytest.fixture(scope="module")
def frozen():
    return models.load(SMALLEST)


def test_round_trip_keeps_every_bit_and_fact(frozen, tmp_path):
    mem = torch.randn(3, frozen.dim, generator=torch.Generator().manual_seed(1))
    vector_files.save(tmp_path / "sub" / "x.safetensors", mem, frozen, n_tokens=7, given=(5,))
    stored = vector_files.load(tmp_path / "sub" / "x.safetensors")
    assert stored.mem.numpy().tobytes() == mem.numpy().tobytes()
    assert (stored.n_tokens, stored.given, stored.bos) == (7, (5,), "none")
    assert (stored.model, stored.revision) == (SMALLEST, frozen.revision)
    stored.check(frozen)
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["x.safetensors"]  # no leftover


def test_another_model_is_refused(frozen, tmp_path):
    other = models.load(list(models.EMBEDDED)[-1])
    vector_files.save(tmp_path / "x.safetensors", torch.zeros(1, other.dim), other, n_tokens=1)
    with pytest.raises(vector_files.VectorError, match=f"made with {other.name}.*not with {SMALLEST}"):
        vector_files.load(tmp_path / "x.safetensors").check(frozen)


def test_another_policy_for_bos_is_refused(frozen, tmp_path):
    begun = dataclasses.replace(frozen, bos="before_mem")
    vector_files.save(tmp_path / "x.safetensors", torch.zeros(1, frozen.dim), begun, n_tokens=1)
    stored = vector_files.load(tmp_path / "x.safetensors")
    assert stored.bos == "before_mem"
    stored.check(begun)
    with pytest.raises(vector_files.VectorError, match=r"\(bos before_mem\), not with .* \(bos none\)"):
        stored.check(frozen)


def test_what_is_no_vector_file_is_refused(frozen, tmp_path):
    with pytest.raises(vector_files.VectorError, match="no file"):
        vector_files.load(tmp_path / "nothing.safetensors")
    (tmp_path / "text").write_text("not tensors")
    with pytest.raises(vector_files.VectorError, match="no safetensors file"):
        vector_files.load(tmp_path / "text")
    save_file({"mem": torch.zeros(1, 2)}, tmp_path / "plain")
    with pytest.raises(vector_files.VectorError, match="format None"):
        vector_files.load(tmp_path / "plain")
    vector_files.save(tmp_path / "x", torch.zeros(1, frozen.dim), frozen, n_tokens=1)
    with safe_open(tmp_path / "x", framework="pt") as file:
        facts = file.metadata()
    save_file({"mem": torch.zeros(1, 2)}, tmp_path / "later", facts | {"format": "capacity-mem-9"})
    with pytest.raises(vector_files.VectorError, match="capacity-mem-9"):
        vector_files.load(tmp_path / "later")


def test_a_folder_that_cannot_be_written_is_one_error(frozen, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(vector_files.VectorError, match="could not be written"):
        vector_files.save(tmp_path / "file" / "x", torch.zeros(1, frozen.dim), frozen, n_tokens=1)


def test_metadata_is_readable_without_this_package(frozen, tmp_path):
    vector_files.save(tmp_path / "x", torch.zeros(2, frozen.dim), frozen, n_tokens=4)
    with safe_open(tmp_path / "x", framework="pt") as file:
        facts = file.metadata()
    assert facts["format"] == "capacity-mem-1"
    assert json.loads(facts["given"]) == []
    assert "torch" in json.loads(facts["versions"])
