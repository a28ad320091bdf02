import dataclasses
import json
from hashlib import sha256

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
    assert facts["format"] == "capacity-mem-3"
    assert json.loads(facts["given"]) == []
    assert "torch" in json.loads(facts["versions"])


@pytest.fixture
def written(frozen, tmp_path):
    """A vector file's path, numbers and metadata."""
    mem = torch.randn(2, frozen.dim, generator=torch.Generator().manual_seed(1))
    vector_files.save(tmp_path / "x", mem, frozen, n_tokens=4, given=(5,))
    with safe_open(tmp_path / "x", framework="pt") as file:
        return tmp_path / "x", mem, file.metadata()


def unsigned(facts):
    """The metadata as format 1 had it: no digest stands over what a test changes."""
    return {name: value for name, value in facts.items() if name != "digest"} | {"format": "capacity-mem-1"}


def test_formats_1_and_2_are_still_read_and_none_passes_for_another(written):
    path, mem, facts = written
    save_file({"mem": mem}, path, unsigned(facts))
    assert vector_files.load(path).mem.equal(mem)
    numbers = sha256(mem.numpy().tobytes()).hexdigest()
    save_file({"mem": mem}, path, facts | {"format": "capacity-mem-2", "digest": numbers})
    assert vector_files.load(path).mem.equal(mem)
    for named in ("capacity-mem-1", "capacity-mem-2"):
        save_file({"mem": mem}, path, facts | {"format": named})
        with pytest.raises(vector_files.VectorError, match="is damaged"):
            vector_files.load(path)


@pytest.mark.parametrize("changes", [{"n_tokens": "5"}, {"given": "[6]"}, {"bos": "none!"}, {"model": "another"}])
def test_what_the_metadata_says_is_covered_by_the_digest(written, changes):
    path, mem, facts = written
    save_file({"mem": mem}, path, facts | changes)
    with pytest.raises(vector_files.VectorError, match="is damaged"):
        vector_files.load(path)


def test_numbers_that_are_not_finite_are_not_written(frozen, tmp_path):
    with pytest.raises(vector_files.VectorError, match="1 numbers that are not finite"):
        vector_files.save(tmp_path / "x", torch.tensor([[1.0, torch.nan]]), frozen, n_tokens=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a" * 5000, "a/" * 3000, "a\0b", "."])
def test_a_name_that_no_file_can_have_is_one_error(name):
    with pytest.raises(vector_files.VectorError):
        vector_files.load(name)


def test_one_flipped_bit_of_the_numbers_is_found(written):
    path, _, _ = written
    data = bytearray(path.read_bytes())
    data[-4] ^= 1  # the least bit of the last number
    path.write_bytes(data)
    with pytest.raises(vector_files.VectorError, match="is damaged"):
        vector_files.load(path)


@pytest.mark.parametrize("change", [
    lambda mem: mem.index_fill(0, torch.tensor([1]), torch.nan), lambda mem: mem / 0, lambda mem: mem.int(),
    lambda mem: mem.bool(), lambda mem: mem.to(torch.complex64), lambda mem: mem.bfloat16(), lambda mem: mem[:0],
])  # fmt: skip
def test_numbers_of_another_type_or_not_finite_are_refused(written, change):
    path, mem, facts = written
    save_file({"mem": change(mem).contiguous()}, path, unsigned(facts))
    with pytest.raises(vector_files.VectorError, match="finite float32 ones, a row a vector, are needed"):
        vector_files.load(path)


@pytest.mark.parametrize("changes", [
    {"given": "5"}, {"given": "null"}, {"given": "[[1]]"}, {"given": "[Infinity]"}, {"given": "[true]"},
    {"given": "[-1]"}, {"given": "["}, {"n_tokens": "0"}, {"n_tokens": "4.0"}, {"n_tokens": "x"},
    {"given": "[1, 2, 3, 4, 5]"},
])  # fmt: skip
def test_metadata_of_another_type_or_range_is_refused(written, changes):
    path, mem, facts = written
    save_file({"mem": mem}, path, unsigned(facts) | changes)
    with pytest.raises(vector_files.VectorError, match=r"given|n_tokens"):
        vector_files.load(path)


def test_tokens_and_widths_that_the_model_has_not_are_refused(written, frozen):
    path, mem, facts = written
    save_file({"mem": mem}, path, unsigned(facts) | {"given": "[99999]"})
    with pytest.raises(vector_files.VectorError, match=f"tokens below {frozen.vocab_size}"):
        vector_files.load(path).check(frozen)
    save_file({"mem": mem[:, 1:].contiguous()}, path, unsigned(facts))
    with pytest.raises(vector_files.VectorError, match=f"takes {frozen.dim} numbers"):
        vector_files.load(path).check(frozen)
