import re

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from capacity import coding, texts

LINES = ["今天天气很好", "go \N{GRINNING FACE}\N{FAMILY}!", "naïve café", "a \N{REPLACEMENT CHARACTER} kept", "plain"]


def fallback():
    """A tokenizer as sentencepiece's with a byte fallback: a few pieces, and every byte."""
    vocab = {f"<0x{byte:02X}>": byte for byte in range(256)} | {"\u2581": 256, "a": 257, "\u2581a": 258, "b": 259}
    tokenizer = Tokenizer(models.BPE(vocab, [("\u2581", "a")], byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0),
    ])  # fmt: skip
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.mark.parametrize("text", LINES)
@pytest.mark.parametrize("kind", ["byte level", "fallback"])
def test_the_bytes_of_tokens_are_those_of_the_text_wherever_it_is_cut(tokenizer, kind, text):
    tokenizer = tokenizer if kind == "byte level" else fallback()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    whole = text.encode()
    for n in range(1, len(ids) + 1):
        found = texts.token_bytes(tokenizer, ids[:n])
        assert whole.startswith(found)
    assert texts.token_bytes(tokenizer, ids) == whole


def test_a_density_counts_the_bytes_of_a_cut_character(tiny):
    ids = tiny.tokenizer("今天", add_special_tokens=False)["input_ids"]
    assert len(ids) == 6  # a token a byte
    for n in (2, 4, 5):
        (row,) = coding.densities(tiny, [texts.Text(source="s", index=0, id="t", ids=tuple(ids[:n]))])
        assert row["n_bytes"] == n


def changing(normalizer):
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "é": 2, "1": 3, "b": 4, "e": 5, " ": 6}, "[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")


@pytest.mark.parametrize(
    ("normalizer", "text", "says"),
    [
        (normalizers.NFC(), "ae\u0301b", r"4 characters become 3.*character 2 on 'e.b' \(U\+0301\) becomes 'éb'"),
        (normalizers.NFKC(), "a①", r"character 2 on '①' \(U\+2460\) becomes '1'"),
        (normalizers.Lowercase(), "aB", "character 2 on 'B' becomes 'b'"),
        (normalizers.Strip(), " a", "2 characters become 1, and from character 1"),
        (None, "az", r"character 2 on 'z' becomes '\[UNK\]'"),
    ],
)
def test_what_a_tokenizer_changes_is_said(normalizer, text, says):
    tokenizer = changing(normalizer or normalizers.NFC())
    ids = tokenizer(text)["input_ids"]
    found = texts.difference(tokenizer, text, ids)
    assert found is not None
    assert re.search(says, found), found


@pytest.mark.parametrize(("side", "text"), [("lstrip", "a <x>b"), ("rstrip", "a<x> b")])
def test_an_added_token_that_strips_its_neighbours_spaces_is_said(side, text):
    tokenizer = changing(normalizers.NFC())
    tokenizer.add_tokens([AddedToken("<x>", **{side: True})])
    found = texts.difference(tokenizer, text, tokenizer(text)["input_ids"])
    assert found is not None
    assert re.search("6 characters become 5", found), found


def test_nothing_is_said_of_a_text_that_comes_back(tokenizer):
    for text in LINES:
        assert texts.difference(tokenizer, text, tokenizer(text, add_special_tokens=False)["input_ids"]) is None
