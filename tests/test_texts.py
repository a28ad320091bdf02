import collections
import hashlib
import json
import re

import numpy as np
import polars as pl
import pytest
from scipy import stats

from capacity import resources, texts
from capacity.pretraining import train_tokenizer
from capacity.texts import Text, TextError

PASSAGES = sorted((resources.data() / "texts").glob("*.txt"))
LINES = [f"Line {n} tells of the {thing} beside the harbour." for n, thing in enumerate(["mill", "ferry", "bell"] * 4)]


@pytest.fixture(scope="module")
def byte_pairs():
    return train_tokenizer([path.read_text() for path in PASSAGES[:6]], vocab_size=400)


def ids_of(sample):
    return [text.ids for text in sample]


@pytest.fixture(params=["embedded", "random_words", "random_tokens", "file.csv", "file.txt"])
def source(request, tmp_path):
    """Each source; a file is named with its column."""
    if request.param == "file.csv":
        pl.DataFrame({"line": LINES}).write_csv(tmp_path / "lines.csv")
        return f"file:{tmp_path}/lines.csv#line"
    if request.param == "file.txt":
        (tmp_path / "lines.txt").write_text("\n".join(LINES))
        return f"file:{tmp_path}/lines.txt"
    return request.param


def n_of(source):
    return 1 if source.endswith(".txt") else 6


def test_a_sample_is_the_same_for_a_seed(byte_pairs, source):
    n = n_of(source)
    first = texts.sample(source, byte_pairs, n_texts=n, length=12, seed=3)
    assert first == texts.sample(source, byte_pairs, n_texts=n, length=12, seed=3)
    if n > 1:
        assert ids_of(first) != ids_of(texts.sample(source, byte_pairs, n_texts=n, length=12, seed=4))


def test_lengths_are_exact_and_texts_numbered(byte_pairs, source):
    for length in (1, 7, 12):
        found = texts.sample(source, byte_pairs, n_texts=n_of(source), length=length)
        assert [len(text.ids) for text in found] == [length] * n_of(source)
        assert [text.index for text in found] == list(range(n_of(source)))
        assert {text.source for text in found} == {source}
        assert len({text.id for text in found}) == n_of(source)


def test_the_first_of_a_larger_sample_are_the_smaller_one(byte_pairs, source):
    whole = texts.sample(source, byte_pairs, n_texts=n_of(source), length=12)
    for n in range(1, n_of(source)):
        assert texts.sample(source, byte_pairs, n_texts=n, length=12) == whole[:n]


def test_a_shorter_text_is_the_beginning_of_a_longer_one(byte_pairs, source):
    whole = texts.sample(source, byte_pairs, n_texts=n_of(source), length=12)
    short = texts.sample(source, byte_pairs, n_texts=n_of(source), length=5)
    assert [text.ids[:5] for text in whole] == ids_of(short)


def test_embedded_texts_are_the_passages_from_their_first_token(byte_pairs):
    found = texts.sample("embedded", byte_pairs, n_texts=len(PASSAGES), length=50)
    passages = {path.stem: path.read_text(encoding="utf-8") for path in PASSAGES}
    assert {text.id for text in found} == passages.keys()
    assert all(passages[text.id].startswith(byte_pairs.decode(text.ids)) for text in found)


def test_random_tokens_are_uniform_over_the_ordinary_ones(byte_pairs):
    (drawn,) = texts.sample("random_tokens", byte_pairs, n_texts=1, length=40_000)
    counts = np.bincount(drawn.ids, minlength=len(byte_pairs))
    special = byte_pairs.all_special_ids
    assert special == [0]
    assert counts[0] == 0
    assert len(counts) == len(byte_pairs)
    assert stats.chisquare(np.delete(counts, special)).pvalue > 0.001


def test_random_words_are_uniform_over_the_known_ones(byte_pairs):
    known = texts.words()
    found = texts.sample("random_words", byte_pairs, n_texts=40, length=400)
    drawn = [word for text in found for word in byte_pairs.decode(text.ids).split(" ")[:-1]]  # the last may be cut
    assert len(drawn) > 2000
    assert set(drawn) <= set(known)
    place = {word: number for number, word in enumerate(known)}
    tenths = np.bincount([10 * place[word] // len(known) for word in drawn], minlength=10)
    assert stats.chisquare(tenths).pvalue > 0.001


def test_digest_of_known_ids():
    little_endian = b"\x01\x00\x00\x00\x02\x01\x00\x00"
    assert texts.digest([1, 258]) == hashlib.sha256(little_endian).hexdigest()[:16] == "fb8bbe2ad3ab5292"
    assert Text(source="s", index=0, id="a", ids=(1, 258)).digest == texts.digest((1, 258))
    assert len({texts.digest(ids) for ids in [(1, 2), (2, 1), (1,), (1, 2, 0), (513,)]}) == 5


@pytest.mark.parametrize("text", ["plain", "naïve — 日本 🎉", " \n\t spaces ", "<|x|>", "a\u202eb\x00c"])
def test_encoded_text_comes_back_with_no_special_token(byte_pairs, text):
    ids = texts.encode(byte_pairs, text)
    assert byte_pairs.decode(ids) == text
    assert 0 not in ids


@pytest.mark.parametrize(("text", "message"), [("", "empty"), ("ab\ud800c", "lone surrogate at character 2")])
def test_refuses_a_text_that_cannot_come_back(byte_pairs, text, message):
    for call in (texts.check_text, lambda text: texts.encode(byte_pairs, text)):
        with pytest.raises(TextError, match=message):
            call(text)


WRITERS = {
    "csv": lambda frame, path: frame.write_csv(path),
    "jsonl": lambda frame, path: frame.write_ndjson(path),
    "ndjson": lambda frame, path: frame.write_ndjson(path),
    "parquet": lambda frame, path: frame.write_parquet(path),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_column_of_a_file_is_read_back(tmp_path, byte_pairs, kind):
    lines = ["one, two", 'say "hi"', "naïve\nline", None, "  ", "five"]
    path = tmp_path / f"lines.{kind}"
    WRITERS[kind](pl.DataFrame({"n": range(6), "line": lines}), path)
    assert texts.read(path, "line") == ["one, two", 'say "hi"', "naïve\nline", "five"]
    found = texts.sample(f"file:{path}#line", byte_pairs, n_texts=4, length=1)
    assert {text.id for text in found} == {f"lines.{kind}-{n}" for n in range(4)}


def test_a_text_file_is_one_text(tmp_path, byte_pairs):
    (tmp_path / "story.md").write_text("A bell.\nA ferry — again.", encoding="utf-8")
    (found,) = texts.sample(f"file:{tmp_path}/story.md", byte_pairs, n_texts=1, length=10)
    assert "A bell.\nA ferry — again.".startswith(byte_pairs.decode(found.ids).rstrip("\ufffd"))


def test_a_path_may_lead_up_and_has_to_exist(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "beside.txt").write_text("A bell.")
    texts.check(f"file:{tmp_path}/in/../beside.txt")
    with pytest.raises(TextError, match=re.escape(f"no file '{tmp_path}/in/../absent.txt'")):
        texts.check(f"file:{tmp_path}/in/../absent.txt")


@pytest.mark.parametrize("source", ["wikipedia", "", "Embedded", "x" * 300, "../embedded", "em\0bedded"])
def test_refuses_an_unknown_source(source):
    with pytest.raises(
        TextError, match=r"unknown source .*; known are embedded, random_words, random_tokens"
    ) as caught:
        texts.check(source)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", ["no.txt", "", ".", "x" * 300, "a\0b.txt"])
def test_refuses_a_file_that_is_not_there(tmp_path, name):
    with pytest.raises(TextError, match="no file"):
        texts.check(f"file:{tmp_path}/{name}")


@pytest.mark.parametrize("kind", WRITERS)
def test_refuses_a_column_that_is_not_there_or_holds_no_text(tmp_path, kind):
    path = tmp_path / f"lines.{kind}"
    WRITERS[kind](pl.DataFrame({"n": [1], "line": ["a"]}), path)
    for end, named in [("#text", "'text'"), ("#n", "'n'"), ("", "None")]:
        with pytest.raises(TextError, match=rf"no text column {named}; it has \['line'\]: give file:.*#COLUMN"):
            texts.check(f"file:{path}{end}")


@pytest.mark.parametrize("kind", ["txt", *WRITERS])
@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\x00line\n\xe9\xa0\x80", b"caf\xe9 \xed\xa0\x80\n"], ids=["empty", "binary", "latin-1"]
)
def test_refuses_a_file_without_readable_text(tmp_path, kind, content):
    path = tmp_path / f"broken.{kind}"
    path.write_bytes(content)
    with pytest.raises(TextError, match=re.escape(str(path))):
        texts.check(f"file:{path}#line")


def test_refuses_a_column_of_another_encoding(tmp_path):
    path = tmp_path / "lines.csv"
    path.write_bytes("line\ncafé\n".encode("latin-1"))
    with pytest.raises(TextError, match=re.escape(str(path))):
        texts.check(f"file:{path}#line")


def test_refuses_a_cut_parquet_file(tmp_path):
    path = tmp_path / "lines.parquet"
    pl.DataFrame({"line": LINES}).write_parquet(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(TextError, match="can't be read as parquet"):
        texts.check(f"file:{path}#line")


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_refuses_a_file_of_nothing_but_space(tmp_path, text):
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "a.jsonl").write_text(json.dumps({"line": text}))
    for source in (f"file:{tmp_path}/a.txt", f"file:{tmp_path}/a.jsonl#line"):
        with pytest.raises(TextError, match="holds no text; give a file that does"):
            texts.check(source)


@pytest.mark.parametrize("escape", ["\\ud800", "\\udc00", "\\ud800\\ud800", "\\ud800 \\udc00", "\\u0000"])
def test_a_lone_surrogate_in_a_file_is_refused(tmp_path, escape):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"line": "ab{escape}c"}}\n')
    with pytest.raises(TextError, match=re.escape(str(path))):
        texts.check(f"file:{path}#line")
    path.write_text('{"line": "ab\\ud83d\\ude00c"}\n')  # a pair is one character
    assert texts.read(path, "line") == ["ab\N{GRINNING FACE}c"]


def test_says_how_many_texts_are_long_enough(tmp_path, byte_pairs):
    lines = ["bell " * 30, "a", "ferry " * 30, "b", "c"]
    pl.DataFrame({"line": lines}).write_parquet(tmp_path / "lines.parquet")
    source = f"file:{tmp_path}/lines.parquet#line"
    found = texts.sample(source, byte_pairs, n_texts=2, length=20)
    assert {text.id for text in found} == {"lines.parquet-0", "lines.parquet-2"}
    assert [text.index for text in found] == [0, 1]
    with pytest.raises(TextError, match=r"3 texts of 20 tokens asked for, but .* has only 2 \(3 are shorter\)"):
        texts.sample(source, byte_pairs, n_texts=3, length=20)


@pytest.mark.parametrize(("n_texts", "length"), [(0, 8), (-1, 8), (1, 0), (2, -8)])
def test_refuses_no_texts_and_no_tokens(byte_pairs, n_texts, length):
    with pytest.raises(TextError, match=f"n_texts is {n_texts} and length {length}; both are at least 1"):
        texts.sample("embedded", byte_pairs, n_texts=n_texts, length=length)


def test_passages_are_many_plain_and_long():
    assert len(PASSAGES) >= 32
    for path in PASSAGES:
        text = path.read_bytes().decode("ascii")
        assert len(text.split()) >= 350, path
        assert all(letter.isprintable() or letter == "\n" for letter in text), path


def test_passages_begin_in_different_ways():
    begun = collections.Counter(tuple(path.read_text().split()[:2]) for path in PASSAGES)
    assert [words for words, n in begun.items() if n > 1] == []


def test_passages_share_no_run_of_eight_words():
    owners = {}
    for path in PASSAGES:
        found = re.findall(r"[a-z']+", path.read_text().lower())
        for start in range(len(found) - 7):
            run = tuple(found[start : start + 8])
            assert owners.setdefault(run, path) == path, (run, owners[run], path)


def test_words_are_distinct_and_many():
    words = texts.words()
    assert len(words) == len(set(words)) == 20_000
    assert all(re.fullmatch(r"[a-z]+(?:'[a-z]+)?", word) for word in words)
