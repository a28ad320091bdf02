"""Sources of whole texts by name: alone (`SOURCES`), or with what follows a colon (`PREFIXES`)."""

from collections.abc import Callable, Iterable
from os.path import isfile

import numpy as np

from capacity import extensions, files, resources
from capacity.texts import chunks, documents, hub
from capacity.texts.documents import Documents, TextError
from capacity.texts.random_texts import Draws, Source, random_tokens, random_words

_LONGEST = 1000  # characters of a name
_BATCH = 64, 65_536  # documents that a pass over the files brings: the first, and at most
_PER_BOOK = 20  # chunks; the paper draws 1000 from 50 books


def named(name: str) -> Source:
    """Return the source of a name: a key of SOURCES, or a key of PREFIXES, a colon and what that one takes.

    Raises TextError for an unknown name, and as `documents.load` and `hub.fetch` where there is nothing to read.
    """
    head, colon, rest = name.partition(":")
    if head in PREFIXES and colon and len(name) <= _LONGEST:
        return PREFIXES[head](rest)
    if name not in SOURCES:
        if name in (own := extensions.own("sources", {*SOURCES, *PREFIXES})):
            return of_texts(name, own[name]())
        known = ", ".join([*SOURCES, *own, *FORMS])
        raise TextError(f"unknown source {name[:120]!r}; known are {known}{files.list_hint(name)}")
    return SOURCES[name]()


def check_name(name: str) -> None:
    """Raise TextError as `named`, but fetch nothing: of what lies on the hub the form of its name is checked alone."""
    if not isinstance(name, str):
        raise TextError(f"{str(name)[:120]} is a {type(name).__name__}, and names no source; give one name, as text")
    inner = base(name)
    if inner.partition(":")[0] == "hub" and len(name) <= _LONGEST:
        hub.check_name(inner.partition(":")[2])
    elif inner not in ("pg19", "pg19_books", "fanfics"):
        named(name)


# Documents


def embedded() -> Source:
    """Return the source of `data/texts/`: original passages of varied register, from their beginning."""
    paths = sorted((resources.data() / "texts").glob("*.txt"))
    return _documents(
        Documents("", len(paths), lambda at: [paths[i].read_text(encoding="utf-8") for i in at]),
        ids=[path.stem for path in paths],
    )


def of_texts(name: str, texts: Iterable[str]) -> Source:
    """Return the source of texts in memory, in seeded order; raises TextError for what is no list of texts."""
    text_list = list(texts) if isinstance(texts, Iterable) and not isinstance(texts, str) else []
    if not text_list or not all(isinstance(text, str) for text in text_list):
        raise TextError(f"source {name!r} gives {str(texts)[:80]!r}; it is to return a list of texts, at least one")
    return _documents(Documents(name, len(text_list), lambda at: [text_list[i] for i in at]))


def file(rest: str) -> Source:
    """Return the source of `PATH` (a text file) or `PATH#COLUMN` (CSV, JSONL, Parquet)."""
    cuts = [len(rest), *(at for at in reversed(range(len(rest))) if rest[at] == "#")]
    cut = next((at for at in cuts if isfile(rest[:at])), cuts[min(1, len(cuts) - 1)])  # either may hold a #
    return _documents(documents.load(rest[:cut], rest[cut + 1 :] if cut < len(rest) else None))


def on_hub(rest: str) -> Source:
    """Return the source of a dataset on the hub, named as in `hub.FORM`."""
    return _documents(_dataset(rest))


def pg19() -> Source:
    """Return the source of the paper's PG-19 texts; with seed 0 its 50 are the first 50."""
    return _halved(_documents(_dataset("yurakuratov/pg19_valid_1k_chunks#text"), in_order=True))


def fanfics() -> Source:
    """Return the source of the paper's fan fiction; with seed 0 its 50 are the first 50."""
    return _halved(_documents(_dataset("yurakuratov/fanfics_1k_chunks#text"), in_order=True))


def pg19_books() -> Source:
    """Return the source of PG-19's validation books, cut by `chunked`."""
    return chunked("hub:emozilla/pg19:default/validation#text")


def _dataset(name: str) -> Documents:
    dataset = hub.fetch(name)
    return documents.load_all(dataset.paths, dataset.column, name=dataset.name)


def _documents(collection: Documents, *, ids: list[str] | None = None, in_order: bool = False) -> Source:
    """Return the source of documents in seeded order; in_order: seed 0 keeps their own."""

    def source(tokenizer: object, length: int, seed: int) -> Draws:
        order = (
            np.arange(collection.n) if in_order and not seed else np.random.default_rng(seed).permutation(collection.n)
        )
        held: dict[int, str] = {}

        def at(index: int) -> tuple[str, str]:
            if index not in held:  # each pass over the files brings more
                places = range(index, min(collection.n, index + min(max(_BATCH[0], index), _BATCH[1])))
                held.clear()
                held.update(zip(places, collection.read(order[places].tolist()), strict=True))
            place = int(order[index])
            return ids[place] if ids else f"{collection.name}-{place}", held[index]

        return Draws(collection.n, at)

    return source


# Changes to the texts of another source


def base(name: str) -> str:
    """Return the source that is changed by whatever stands before it: `embedded` of `after:8:shuffled:embedded`."""
    while (head := name.partition(":")[0]) in (*_CHANGES, "after"):
        name = name.partition(":")[2].partition(":")[2] if head == "after" else name.partition(":")[2]
    return name


def halves(rest: str) -> Source:
    """Return the source of the second half, by sentences, of each text of another source."""
    return _halved(named(rest))


def shuffled(rest: str) -> Source:
    """Return the source of another source's texts, each with its words in seeded order: the same words, no syntax."""

    def shuffle(text: str, seed: int, index: int) -> str:
        words = text.split()
        return " ".join(words[i] for i in np.random.default_rng([seed, index, 1]).permutation(len(words)))

    return _changed(named(rest), shuffle)


def chunked(rest: str) -> Source:
    """Return the source of chunks of another source's books, the second half of each: how the paper made its texts.

    Books come in turn, 20 times each.
    """
    inner = named(rest)

    def source(tokenizer: object, length: int, seed: int) -> Draws:
        books = inner(tokenizer, length, seed)
        n_books = books.n
        if n_books is None:
            raise TextError(f"{rest} has no books to cut chunks from; take it as it is, without chunks:")
        short: dict[int, str] = {}  # books that give no chunk, not read again: place -> id

        def at(index: int) -> tuple[str, str]:
            book = index % n_books
            name, text = (short[book], "") if book in short else books.at(book)
            chunk = chunks.chunk(_words_of(text), np.random.default_rng([seed, index]))
            if chunk is None:
                short[book] = name
                return name, ""
            return f"{name}-s{chunk[0]}", chunks.second_half(chunk[1])

        return Draws(n_books * _PER_BOOK, at)

    return source


def _halved(inner: Source) -> Source:
    return _changed(inner, lambda text, seed, index: chunks.second_half(chunks.sentences(text)))


def _changed(inner: Source, change: Callable[[str, int, int], str]) -> Source:
    def source(tokenizer: object, length: int, seed: int) -> Draws:
        draws = inner(tokenizer, length, seed)

        def at(index: int) -> tuple[str, str]:
            name, text = draws.at(index)
            return name, change(_words_of(text), seed, index)

        return Draws(draws.n, at)

    return source


def _words_of(text: str | list[int]) -> str:
    if not isinstance(text, str):
        raise TextError(
            "random tokens have no words or sentences, nor has what after: has cut; take random_tokens as it is, and "
            "put after: outermost"
        )
    return text


def after(rest: str) -> Source:
    """Return the source of `TOKENS:SOURCE`: another source's texts from behind that many tokens on, as token ids.

    What stands before is a real prefix of each: the other source's texts of TOKENS + length tokens have both.
    """
    tokens, colon, name = rest.partition(":")
    if not (colon and tokens.isascii() and tokens.isdigit() and len(tokens) <= 9):
        raise TextError(
            f"after:{rest[:120]!r} is not after:TOKENS:SOURCE; give a count of tokens, as after:64:embedded"
        )
    inner, before = named(name), int(tokens)

    def source(tokenizer, length: int, seed: int) -> Draws:
        draws = inner(tokenizer, before + length, seed)

        def at(index: int) -> tuple[str, list[int]]:
            name, text = draws.at(index)
            ids = (
                tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] if isinstance(text, str) else text
            )
            return name, list(ids[before:])

        return Draws(draws.n, at)

    return source


SOURCES: dict[str, Callable[[], Source]] = {
    "embedded": embedded,
    "pg19": pg19,
    "pg19_books": pg19_books,
    "fanfics": fanfics,
    "random_words": random_words,
    "random_tokens": random_tokens,
}
_CHANGES: dict[str, Callable[[str], Source]] = {"shuffled": shuffled, "halves": halves, "chunks": chunked}
PREFIXES: dict[str, Callable[[str], Source]] = {
    "file": file, "hub": on_hub, "random_words": random_words, "random_tokens": random_tokens, "after": after,
} | _CHANGES  # fmt: skip
FORMS = {  # of names with a colon, and what they mean
    "file:PATH[#COLUMN]": "a text file; a column of CSV, JSONL or Parquet",
    hub.FORM: "a column of a dataset on the hub",
    "random_tokens:K": "ids drawn evenly from a seeded subset of K ordinary tokens",
    "random_words:PATH": "words drawn evenly from a word list or GloVe file",
    "shuffled:SOURCE": "another source's texts, each with its words in seeded order",
    "halves:SOURCE": "the second half, by sentences, of each text of another source",
    "chunks:SOURCE": "chunks of another source's books, the second half of each",
    "after:TOKENS:SOURCE": "another source's texts from behind that many tokens on",
}
