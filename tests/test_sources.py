import collections
import io
import math

import numpy as np
import polars as pl
import pytest
from scipy import stats

from capacity import resources, texts
from capacity.texts import chunks, random_texts, sources
from capacity.texts.documents import TextError

COMMIT = "0" * 39 + "1"
PASSAGES = {path.stem: path.read_text() for path in (resources.data() / "texts").glob("*.txt")}
LINES = [f"Line {n} tells of the {thing}. It is {n} long." for n, thing in enumerate(["mill", "ferry", "bell"] * 40)]


def drawn(name, n, *, seed=0, length=8, tokenizer=None):
    draws = sources.named(name)(tokenizer, length, seed)
    assert draws.n is None or n <= draws.n
    return [draws.at(index) for index in range(n)]


@pytest.fixture
def lines(tmp_path):
    path = tmp_path / "lines.parquet"
    pl.DataFrame({"line": LINES}).write_parquet(path)
    return f"file:{path}#line"


# Documents


def test_every_document_comes_once_in_seeded_order(lines):
    whole = drawn(lines, 120)
    assert sources.named(lines)(None, 8, 0).n == 120
    assert collections.Counter(text for _, text in whole) == collections.Counter(LINES)
    assert all(name == f"lines.parquet-{LINES.index(text)}" for name, text in whole)
    assert [text for _, text in whole] != LINES
    assert drawn(lines, 120, seed=1) != whole
    assert drawn(lines, 5) == whole[:5]


def test_draws_are_the_same_in_any_order(lines):
    draws = sources.named(lines)(None, 8, 0)
    backwards = [draws.at(index) for index in reversed(range(120))]
    assert backwards[::-1] == drawn(lines, 120)


def test_documents_are_brought_in_few_passes(lines, monkeypatch):
    asked = []
    collect = pl.LazyFrame.collect

    def counted(self, **options):
        asked.append((made := collect(self, **options)).height)
        return made

    draws = sources.named(lines)(None, 8, 0)
    monkeypatch.setattr(pl.LazyFrame, "collect", counted)
    assert len({draws.at(index)[1] for index in range(120)}) == 120
    assert asked == [64, 56]


def test_embedded_texts_are_the_passages():
    assert dict(drawn("embedded", len(PASSAGES))) == PASSAGES


def test_a_path_may_lead_up_and_hold_a_hash(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "a#b.txt").write_text("A bell.")
    pl.DataFrame({"c#d": ["x"], "line": ["A mill."]}).write_csv(tmp_path / "a#b.csv")
    assert drawn(f"file:{tmp_path}/in/../a#b.txt", 1) == [("a#b.txt-0", "A bell.")]
    assert drawn(f"file:{tmp_path}/a#b.csv#line", 1) == [("a#b.csv-0", "A mill.")]
    assert drawn(f"file:{tmp_path}/a#b.csv#c#d", 1) == [("a#b.csv-0", "x")]


@pytest.mark.parametrize("name", ["wikipedia", "", "Embedded", "x" * 300, "../embedded", "em\0bedded", "embedded:x",
                                  "file", "shuffled", "file:" + "x/" * 3000, "shuffled:" * 2000])  # fmt: skip
def test_refuses_an_unknown_source(name):
    with pytest.raises(TextError, match=r"unknown source .*; known are embedded, pg19, .*hub:OWNER/NAME") as caught:
        sources.named(name)
    assert len(str(caught.value)) < 600


# The hub's datasets


def parquet(**columns):
    pl.DataFrame(columns).write_parquet(found := io.BytesIO())
    return found.getvalue()


def chunk(number):
    """Twenty short sentences that are told apart by number and place."""
    return " ".join(f"Chunk {number} goes on to {place}." for place in range(20))


def test_a_dataset_of_the_hub(lay_dataset):
    lay_dataset("some/tales", {"data/train-00000-of-00001.parquet": parquet(n=[1, 2, 3], line=["one", None, "three"])})
    assert dict(drawn("hub:some/tales#line", 3)) == {
        f"some/tales@{COMMIT[:8]}-0": "one", f"some/tales@{COMMIT[:8]}-1": "", f"some/tales@{COMMIT[:8]}-2": "three"
    }  # fmt: skip
    with pytest.raises(TextError, match=r"has no text column 'n'; it has \['line'\]"):
        sources.named("hub:some/tales#n")
    with pytest.raises(TextError, match=r"has no text column ''; it has \['line'\]: give #COLUMN after it"):
        sources.named("hub:some/tales")


@pytest.mark.parametrize("name", ["pg19", "fanfics"])
def test_the_papers_texts_are_second_halves_in_its_own_order(lay_dataset, name):
    dataset = {"pg19": "pg19_valid_1k_chunks", "fanfics": "fanfics_1k_chunks"}[name]
    table = pl.DataFrame({"text": [chunk(number) for number in range(60)]})
    lay_dataset(f"yurakuratov/{dataset}", {f"{dataset}.csv": table.write_csv().encode()})
    found = drawn(name, 60)
    assert [text for _, text in found] == [" ".join(chunk(n).split(" ")[60:]) for n in range(60)]
    assert found[7][0] == f"yurakuratov/{dataset}@{COMMIT[:8]}-7"
    again = drawn(name, 60, seed=1)
    assert sorted(again) == sorted(found)
    assert again != found
    form = f"halves:hub:yurakuratov/{dataset}#text"  # the long form, for another column or revision
    assert sorted(drawn(form, 60)) == sorted(found)


def test_another_column_of_the_papers_dataset_is_named(lay_dataset):
    lay_dataset("yurakuratov/pg19_valid_1k_chunks", {"a.csv": b"n,story\n1,bell\n"})
    with pytest.raises(TextError, match=r"has no text column 'text'; it has \['story'\]"):
        sources.named("pg19")


@pytest.mark.usefixtures("lay_dataset")
@pytest.mark.parametrize("name", ["pg19", "fanfics", "pg19_books", "hub:no/such#text", "shuffled:pg19"])
def test_what_is_not_in_the_cache_is_named_offline(name):
    with pytest.raises(TextError, match=r"dataset '[\w/]+', revision 'main', can't be had from hub or cache"):
        sources.named(name)


def test_books_of_pg19_are_cut_as_the_paper_cuts_them(lay_dataset):
    books = [" ".join(f"Book {b} tells this as its line {n} of many." for n in range(3000)) for b in "ab"]
    held_out = parquet(url=["u"] * 3, text=["A short book.", *books])
    files = {"data/validation-00000-of-00001-29a.parquet": held_out, "data/train-00000-of-00023-5.parquet": b"not read"}
    lay_dataset("emozilla/pg19", files)
    draws = sources.named("pg19_books")(None, 8, 5)
    assert draws.n == 60
    found = [draws.at(index) for index in range(12)]
    assert [text for name, text in found].count("") == 4  # the short book, in its turn
    texts = [text for _, text in found if text]
    assert len({name for name, text in found if text}) == len(set(texts)) == 8
    for text in texts:
        book = books["ab".index(text[5])]
        assert text in book
        assert text.startswith("Book")
        assert text.endswith("of many.")
        assert 6_000 <= len(text.split()) < 12_500 + 10
    again = sources.named("pg19_books")(None, 8, 5)
    assert [again.at(index) for index in (11, 3)] == [found[11], found[3]]
    assert [drawn("pg19_books", 12, seed=6)[n][1] for n in range(12)] != [text for _, text in found]


# Changes


def test_shuffled_words_are_the_same_words(lines):
    plain, mixed = drawn(lines, 120), drawn(f"shuffled:{lines}", 120)
    assert [name for name, _ in plain] == [name for name, _ in mixed]
    for (_, before), (_, after) in zip(plain, mixed, strict=True):
        assert sorted(before.split()) == sorted(after.split())
    assert sum(before == after for (_, before), (_, after) in zip(plain, mixed, strict=True)) < 5
    assert mixed == drawn(f"shuffled:{lines}", 120)
    assert mixed != drawn(f"shuffled:{lines}", 120, seed=1)


def test_every_place_is_as_likely(tmp_path):
    (tmp_path / "a.txt").write_text("zero one two three four five six seven")
    mixed = [drawn(f"shuffled:file:{tmp_path}/a.txt", 1, seed=seed)[0][1].split() for seed in range(400)]
    for word in ("zero", "seven"):
        places = np.bincount([text.index(word) for text in mixed], minlength=8)
        assert stats.chisquare(places).pvalue > 0.001


def test_halves_are_by_sentences(lines):
    for (_, before), (_, after) in zip(drawn(lines, 120), drawn(f"halves:{lines}", 120), strict=True):
        assert after == before.split(". ")[1]
    assert drawn(f"halves:halves:{lines}", 1)[0][1]


def test_chunks_go_through_the_books_in_turn(tmp_path, monkeypatch):
    monkeypatch.setattr(chunks.chunk, "__kwdefaults__", {"above": 10, "below": 40, "least": 2})
    books = [" ".join(f"The {b} has line {n}." for n in range(50)) for b in ("mill", "bell", "ferry")]
    pl.DataFrame({"line": [*books, "Too short."]}).write_csv(tmp_path / "a.csv")
    found = drawn(f"chunks:file:{tmp_path}/a.csv#line", 80)
    assert len({name for name, text in found if not text}) == 1
    texts = [text for _, text in found]
    assert texts.count("") == 20
    for start in range(0, 80, 4):
        kinds = [text.split()[1] for text in texts[start : start + 4] if text]
        assert sorted(kinds) == ["bell", "ferry", "mill"]
    assert len({text for text in texts if text}) > 40


@pytest.mark.parametrize("name", ["chunks:random_words", "chunks:random_tokens", "chunks:shuffled:random_words"])
def test_random_texts_are_no_books(name, tokenizer):
    with pytest.raises(TextError, match="has no books to cut chunks from"):
        drawn(name, 1, tokenizer=tokenizer)


@pytest.mark.parametrize("name", ["shuffled:random_tokens", "halves:random_tokens"])
def test_random_tokens_have_no_words(name, tokenizer):
    with pytest.raises(TextError, match="random tokens have no words or sentences"):
        drawn(name, 1, tokenizer=tokenizer)


def test_what_stands_after_some_tokens_is_the_rest_of_the_same_text(lines, tokenizer):
    for name, text in drawn(lines, 5, tokenizer=tokenizer):
        ids = tokenizer(text)["input_ids"]
        rest = dict(drawn(f"after:3:{lines}", 120, tokenizer=tokenizer))[name]
        assert rest == ids[3:]
        assert dict(drawn(f"after:0:{lines}", 120, tokenizer=tokenizer))[name] == ids
    ((_, ids),) = drawn("random_tokens", 1, length=20, tokenizer=tokenizer)
    assert drawn("after:12:random_tokens", 1, length=8, tokenizer=tokenizer)[0][1] == ids[12:]  # 12 + 8 are drawn
    sampled = texts.sample(f"after:12:{lines}", tokenizer, n_texts=4, length=3)
    whole = texts.sample(lines, tokenizer, n_texts=4, length=15)
    assert [text.ids for text in sampled] == [text.ids[12:] for text in whole]
    assert [text.id for text in sampled] == [text.id for text in whole]


@pytest.mark.parametrize("tokens", ["3", "-1:embedded", ":embedded", "x:embedded", "²:embedded", "9999999999:embedded"])
def test_refuses_what_is_no_count_of_tokens(tokens):
    with pytest.raises(TextError, match="is not after:TOKENS:SOURCE"):
        sources.named(f"after:{tokens}")


@pytest.mark.parametrize("change", ["shuffled", "halves", "chunks"])
def test_what_was_cut_by_tokens_has_no_words(change, tokenizer):
    with pytest.raises(TextError, match="put after: outermost"):
        drawn(f"{change}:after:3:embedded", 1, tokenizer=tokenizer)


def test_an_unknown_source_of_a_change_is_named():
    with pytest.raises(TextError, match="unknown source 'wikipedia'"):
        sources.named("shuffled:halves:wikipedia")


# Random texts


def test_a_vocabulary_is_the_first_words_of_a_glove_file(tmp_path):
    path = tmp_path / "glove.6B.3d.txt"
    words = ["the", ",", "naïve", "a\u00a0b", "x\x85y", "bell", "later"]
    path.write_text("".join(f"{word} 0.1 -0.2 3e-05\n" for word in words), encoding="utf-8", newline="\n")
    assert random_texts.make_vocab(path) == words
    assert random_texts.make_vocab(path, n_words=4) == words[:4]
    found = drawn(f"random_words:{path}", 30, length=100)
    assert {word for _, text in found for word in text.split(" ")} == set(words)


def test_a_large_glove_file_is_read_no_further_than_asked(tmp_path):
    path = tmp_path / "glove.txt"
    path.write_bytes(b"the 0.1\nbell 0.2\n" * 5000 + b"\xff\xff\n")
    assert len(random_texts.make_vocab(path, n_words=2000)) == 2000
    with pytest.raises(TextError, match=r"glove\.txt is not UTF-8 text"):
        random_texts.make_vocab(path)


def test_a_word_list_of_ones_own(tmp_path):
    path = tmp_path / "words.txt"
    path.write_bytes(b"\xef\xbb\xbfmill\r\nferry\r\n\r\nbell")
    assert random_texts.make_vocab(path) == ["mill", "ferry", "bell"]
    assert set(drawn(f"random_words:{path}", 1, length=60)[0][1].split()) == {"mill", "ferry", "bell"}
    path.write_text("gate")
    assert set(drawn(f"random_words:{path}", 1, length=9)[0][1].split()) == {"gate"}  # not the file as it was


@pytest.mark.parametrize("content", [None, b"", b" \n \n", b"\xff\xfe\x00"])
def test_refuses_a_word_list_without_words(tmp_path, content):
    path = tmp_path / "words.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TextError, match=r"no file|holds no words|is not UTF-8"):
        sources.named(f"random_words:{path}")


def test_words_are_distinct_and_many():
    words = random_texts.words()
    assert len(words) == len(set(words)) == 20_000
    assert all(word.isascii() and word == word.lower() and word.replace("'", "").isalpha() for word in words)


class Vocabulary:
    """As much of a tokenizer as drawing tokens needs: ids with a gap, specials, one added later."""

    all_special_ids = (0, 3)

    def get_vocab(self):
        return {"<s>": 0, "a": 1, "b": 2, "</s>": 3, "c": 7, "<added>": 8}

    def get_added_vocab(self):
        return {"<s>": 0, "<added>": 8}


def test_random_tokens_are_neither_special_nor_added_nor_missing():
    ((_, ids),) = drawn("random_tokens", 1, length=3000, tokenizer=Vocabulary())
    counts = collections.Counter(ids)
    assert counts.keys() == {1, 2, 7}
    assert min(counts.values()) > 900


def test_random_tokens_of_k_are_drawn_evenly_from_few_that_the_seed_takes(tokenizer):
    drawn = texts.sample("random_tokens:2", tokenizer, n_texts=20, length=30)
    counts = np.unique([text.ids for text in drawn], return_counts=True)
    assert len(counts[0]) == 2
    assert 240 < counts[1].min() <= 300
    more = {i for text in texts.sample("random_tokens:8", tokenizer, n_texts=20, length=30) for i in text.ids}
    assert set(counts[0]) < more
    assert len(more) == 8
    other = {i for text in texts.sample("random_tokens:2", tokenizer, n_texts=9, length=30, seed=1) for i in text.ids}
    assert other != set(counts[0])
    for wrong in ("", "1", "-2", "x", "2.0"):
        with pytest.raises(texts.TextError, match="is not random_tokens:K"):
            texts.check_name(f"random_tokens:{wrong}")
    with pytest.raises(texts.TextError, match="asks for more than the tokenizer's"):
        texts.sample("random_tokens:100000", tokenizer, n_texts=1, length=3)


def test_what_a_source_spends_is_known_of_random_texts_alone(tokenizer):
    assert texts.source_bits("random_tokens:4", tokenizer, [1] * 7) == 14
    everything = {i for text in texts.sample("random_tokens", tokenizer, n_texts=99, length=99) for i in text.ids}
    assert texts.source_bits("random_tokens", tokenizer, [1] * 3) >= 3 * math.log2(len(everything))
    assert texts.source_bits("embedded", tokenizer, [1]) is None
    assert texts.source_bits("shuffled:random_words", tokenizer, [1]) is None


def test_a_cut_word_is_worth_the_words_that_begin_so(tokenizer, tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("\n".join(["ab", "abc", "abd", "x", "yy", "yy", "zebra", "zebras"]))
    source = f"random_words:{path}"
    ids = {word: tokenizer(f"x {word}", add_special_tokens=False)["input_ids"] for word in path.read_text().split()}
    for text in texts.sample(source, tokenizer, n_texts=30, length=9):
        for n in (1, 4, 9):
            begun = tokenizer.decode(text.ids[:n]).split(" ")
            *whole, last = begun
            known = path.read_text().split()
            expected = sum(math.log2(8 / known.count(word)) for word in whole)
            spelled = tokenizer(" ".join(["x", last]), add_special_tokens=False)["input_ids"]
            if last in known and ids[last] == spelled:  # else its tokens may be another word's beginning
                alike = sum(word.startswith(last) for word in known)
                found = texts.source_bits(source, tokenizer, text.ids[:n])
                assert found >= expected + math.log2(8 / alike) - 1e-9
    # Every beginning of a text of one or two tokens: the chances of all sum to one.
    for n in (1, 2):
        starts = {text.ids for text in texts.sample(source, tokenizer, n_texts=300, length=n)}
        chances = [2 ** -texts.source_bits(source, tokenizer, start) for start in starts]
        assert sum(chances) == pytest.approx(1)
