import collections
import hashlib
import re

import numpy as np
import polars as pl
import pytest
from scipy import stats

from capacity import models, resources, store, sweep, texts
from capacity.pretraining import train_tokenizer
from capacity.texts import Text, TextError, random_texts

PASSAGES = sorted((resources.data() / "texts").glob("*.txt"))
LINES = [f"Line {n} tells of the {thing} beside the harbour." for n, thing in enumerate(["mill", "ferry", "bell"] * 4)]


@pytest.fixture(scope="module")
def byte_pairs():
    return train_tokenizer([path.read_text() for path in PASSAGES[:6]], vocab_size=400)


def ids_of(sample):
    return [text.ids for text in sample]


@pytest.fixture(params=["embedded", "random_words", "random_tokens", "shuffled:embedded", "file.csv", "file.txt"])
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
    known = random_texts.words()
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


def test_says_how_many_texts_are_long_enough(tmp_path, byte_pairs):
    lines = ["bell " * 30, "a", "ferry " * 30, "b", "c"]
    pl.DataFrame({"line": lines}).write_parquet(tmp_path / "lines.parquet")
    source = f"file:{tmp_path}/lines.parquet#line"
    found = texts.sample(source, byte_pairs, n_texts=2, length=20)
    assert {text.id for text in found} == {"lines.parquet-0", "lines.parquet-2"}
    assert [text.index for text in found] == [0, 1]
    with pytest.raises(
        TextError, match=r"3 texts of 20 tokens asked for, but .* has only 2 \(3 are shorter\)"
    ) as refused:
        texts.sample(source, byte_pairs, n_texts=3, length=20)
    assert str(refused.value).endswith(
        "ask for fewer (n_texts=2) or texts of at most 1 tokens (length, or longest of a search)"
    )
    assert len(texts.sample(source, byte_pairs, n_texts=3, length=1)) == 3
    with pytest.raises(TextError, match=r"6 texts .* ask for fewer \(n_texts=2\)$"):
        texts.sample(source, byte_pairs, n_texts=6, length=20)


@pytest.mark.parametrize(("n_texts", "length", "seed"), [(0, 8, 0), (-1, 8, 0), (1, 0, 0), (2, -8, 0), (1, 1, -1)])
def test_refuses_no_texts_no_tokens_and_no_seed(byte_pairs, n_texts, length, seed):
    wrong = r"(n_texts|length|seed) is -?\d+; give a whole number from [01] on"
    with pytest.raises(TextError, match=wrong):
        texts.sample("embedded", byte_pairs, n_texts=n_texts, length=length, seed=seed)


def test_a_source_is_checked_before_anything_is_sampled(tmp_path):
    (tmp_path / "a.csv").write_text("line\nbell\n")
    for source in ("embedded", "shuffled:random_words", f"file:{tmp_path}/a.csv#line"):
        texts.check(source)
    for source, wrong in [("wikipedia", "unknown source"), (f"file:{tmp_path}/a.csv#body", "no text column 'body'")]:
        with pytest.raises(TextError, match=wrong):
            texts.check(source)


def test_a_document_that_is_there_twice_is_no_other_text(tmp_path, byte_pairs):
    lines = ["bell " * 30, "ferry " * 30, "bell " * 30, "mill " * 30, "bell " * 25 + "mill " * 9]
    pl.DataFrame({"line": lines}).write_parquet(tmp_path / "lines.parquet")
    source = f"file:{tmp_path}/lines.parquet#line"
    mine = [text for text in texts.sample(source, byte_pairs, n_texts=4, length=20) if text.id[-2:] in ("-0", "-2")]
    beside = {text.id for text in mine}
    found = texts.others(source, byte_pairs, beside=beside, n_texts=2, length=20)
    assert not {text.ids for text in found} & {text.ids for text in mine}
    assert {text.id for text in found} == {"lines.parquet-1", "lines.parquet-3"}


def test_a_document_counts_once_in_a_sample(tmp_path, byte_pairs):
    """Else a mean over texts would take one text for several, and its interval would be too narrow."""
    path = tmp_path / "twice.csv"
    path.write_text("text\n" + "".join(f"{word} was here\n" for word in ("ann", "bob", "ann", "cid", "bob", "ann")))
    source = f"file:{path}#text"
    sample = texts.sample(source, byte_pairs, n_texts=3, length=3)
    assert len({text.digest for text in sample}) == 3
    assert [text.index for text in sample] == [0, 1, 2]
    with pytest.raises(TextError, match=r"has only 3 \(0 are shorter, 3 are there a second time\); ask for fewer"):
        texts.sample(source, byte_pairs, n_texts=4, length=3)
    assert len(texts.whole_lengths(source, byte_pairs, n_texts=6)) == 3
    assert len({text.ids for text in texts.sample("random_tokens:2", byte_pairs, n_texts=8, length=1)}) == 2  # draws


def test_documents_that_begin_alike_are_other_texts_further_on(tmp_path, byte_pairs):
    lines = ["bell bell bell bell " + f"{thing} " * 20 for thing in ("mill", "ferry", "harbour", "line")]
    pl.DataFrame({"line": lines}).write_parquet(tmp_path / "lines.parquet")
    source = f"file:{tmp_path}/lines.parquet#line"
    mine = texts.sample(source, byte_pairs, n_texts=1, length=4)
    found = texts.others(source, byte_pairs, beside={mine[0].id}, n_texts=3, length=4)
    assert len({text.id for text in found}) == 3
    assert not {text.ids for text in found} & {mine[0].ids}
    with pytest.raises(TextError, match="has only"):  # it ends where the documents do
        texts.others(source, byte_pairs, beside={mine[0].id}, n_texts=999, length=4)


def test_draws_that_are_alike_by_chance_are_other_texts(byte_pairs):
    mine = texts.sample("random_tokens:2", byte_pairs, n_texts=8, length=2)  # 4 texts there are
    found = texts.others("random_tokens:2", byte_pairs, beside={text.id for text in mine}, n_texts=20, length=2)
    assert {text.ids for text in found} == {text.ids for text in mine}
    assert not {text.id for text in found} & {text.id for text in mine}


def test_a_column_of_blanks_has_no_text_of_any_length(tmp_path, byte_pairs):
    pl.DataFrame({"line": [None, "", None]}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(
        TextError, match=r"1 texts of 1 tokens asked for, but .* has only 0 \(3 are shorter\); give a source with"
    ):
        texts.sample(f"file:{tmp_path}/a.parquet#line", byte_pairs, n_texts=1, length=1)


def test_a_text_of_one_token(byte_pairs, tmp_path):
    assert len(texts.encode(byte_pairs, "a")) == 1
    with pytest.raises(TextError, match="the text has 1 tokens, at least 2 are needed; give a longer one"):
        texts.encode(byte_pairs, "a", least=2)
    (tmp_path / "a.txt").write_text("a")
    source = f"file:{tmp_path}/a.txt"
    assert texts.sample(source, byte_pairs, n_texts=1, length=1)[0].ids == tuple(texts.encode(byte_pairs, "a"))
    with pytest.raises(TextError, match=r"has only 0 \(1 are shorter\)"):
        texts.sample(source, byte_pairs, n_texts=1, length=2)


def test_words_that_make_no_tokens_come_to_an_end(tmp_path):
    (tmp_path / "words.txt").write_text("mill\nbell\n")

    def mute(text, **options):
        return {"input_ids": []}

    with pytest.raises(TextError, match=r"has only 0 \(200 are shorter\)"):
        texts.sample(f"random_words:{tmp_path}/words.txt", mute, n_texts=2, length=3)


def test_texts_are_those_that_were_measured():
    """On whatever machine the rows were made: source, seed and tokenizer give the same tokens."""
    rows = (
        store.read([sweep.measured()])
        .filter(pl.col("model").is_in([*models.EMBEDDED]), search="fixed")
        .select("model", "source", "length", "text_index", "text_digest")
    )
    rows = rows.unique().filter(pl.col("length") == pl.col("length").max().over("model", "source"))
    assert rows["source"].n_unique() >= 3
    for (model, source, length), part in rows.group_by("model", "source", "length"):
        _, tokenizer = models.describe(model, models.EMBEDDED[model])
        found = texts.sample(source, tokenizer, n_texts=part.height, length=length)
        assert [text.digest for text in found] == part.sort("text_index")["text_digest"].to_list()


def test_whole_texts_are_as_long_as_they_are(byte_pairs, tmp_path):
    lengths = texts.whole_lengths("embedded", byte_pairs, n_texts=len(PASSAGES))
    assert lengths == sorted(len(byte_pairs(path.read_text())["input_ids"]) for path in PASSAGES)
    few = texts.whole_lengths("embedded", byte_pairs, n_texts=3, seed=2)
    longest = texts.sample("embedded", byte_pairs, n_texts=3, length=min(few), seed=2)
    assert len(longest) == len(few) == 3
    assert texts.whole_lengths("random_words", byte_pairs, n_texts=3) == []
    (tmp_path / "a.txt").write_text("bell")
    assert len(texts.whole_lengths(f"file:{tmp_path}/a.txt", byte_pairs, n_texts=9)) == 1


def test_lengths_are_drawn_as_the_paper_draws_them():
    found = texts.drawn_lengths(4000, longest=9, seed=1)
    assert found == texts.drawn_lengths(4000, longest=9, seed=1) != texts.drawn_lengths(4000, longest=9, seed=2)
    assert set(found) == set(range(2, 10))
    assert stats.chisquare(np.bincount(found)[2:]).pvalue > 0.001
    assert texts.drawn_lengths(3, longest=2) == [2, 2, 2]
    assert texts.drawn_lengths(5, longest=9) == texts.drawn_lengths(50, longest=9)[:5]
    for n_texts, longest in [(0, 9), (3, 1)]:
        with pytest.raises(TextError, match=f"n_texts is {n_texts} and longest {longest}; at least 1 and 2"):
            texts.drawn_lengths(n_texts, longest=longest)


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


def test_what_is_in_place_of_the_tokenizer_is_named():
    for call in (lambda: texts.encode("abc", "text"), lambda: texts.sample("embedded", 3, n_texts=1, length=1)):
        with pytest.raises(TextError, match="is in place of the tokenizer; give that of a model"):
            call()
