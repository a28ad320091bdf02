import json
import re

import polars as pl
import pytest

from capacity.texts import documents
from capacity.texts.documents import TextError

LINES = ["one, two", 'say "hi"', "naïve\nline", None, "  ", "five \N{GRINNING FACE}"]
WRITERS = {
    "csv": lambda frame, path: frame.write_csv(path),
    "jsonl": lambda frame, path: frame.write_ndjson(path),
    "ndjson": lambda frame, path: frame.write_ndjson(path),
    "parquet": lambda frame, path: frame.write_parquet(path),
}
PICTURE = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"


@pytest.fixture(params=WRITERS)
def kind(request):
    return request.param


@pytest.fixture
def path(tmp_path, kind):
    """A file with a column of numbers and one of lines."""
    path = tmp_path / f"lines.{kind}"
    WRITERS[kind](pl.DataFrame({"n": range(6), "line": LINES}), path)
    return path


def test_any_places_of_a_column_are_read(path):
    found = documents.load(path, "line")
    assert (found.name, found.n) == (path.name, 6)
    texts = ["one, two", 'say "hi"', "naïve\nline", "", "  ", "five \N{GRINNING FACE}"]
    assert found.read(range(6)) == texts
    assert found.read([5, 0, 2, 0]) == [texts[5], texts[0], texts[2], texts[0]]


def test_files_of_a_kind_are_read_as_one(tmp_path, kind):
    paths = [tmp_path / f"{part}.{kind}" for part in "ba"]
    for number, each in enumerate(paths):
        WRITERS[kind](pl.DataFrame({"line": [f"{number}-{n}" for n in range(3)]}), each)
    found = documents.load_all(paths, "line", name="both")
    assert (found.name, found.n) == ("both", 6)
    assert found.read([0, 5, 3]) == ["0-0", "1-2", "1-0"]
    texts = [tmp_path / f"{part}.txt" for part in "ab"]
    for number, each in enumerate(texts):
        each.write_text(f"text {number}")
    assert documents.load_all(texts, name="texts").read([1, 0]) == ["text 1", "text 0"]


def test_only_the_rows_asked_for_come_into_memory(tmp_path, monkeypatch, kind):
    n = 200_000
    path = tmp_path / f"many.{kind}"
    lines = pl.DataFrame({"n": range(n)}).select("n", line=pl.format('Line {}, "quoted"\n', "n"))
    WRITERS[kind](lines, path)
    heights, collect = [], pl.LazyFrame.collect

    def counted(self, **options):
        assert options == {"engine": "streaming"}  # a part of the file at a time
        heights.append((made := collect(self, **options)).height)
        return made

    monkeypatch.setattr(pl.LazyFrame, "collect", counted)
    found = documents.load(path, "line")
    assert found.n == n
    assert found.read([n - 1, 77_777, 5]) == [f'Line {i}, "quoted"\n' for i in (n - 1, 77_777, 5)]
    assert sum(heights) == 1 + 3  # the counts, and the rows


def test_a_file_that_changed_is_read_anew(path, kind):
    assert documents.load(path, "line").n == 6
    WRITERS[kind](pl.DataFrame({"line": ["only"]}), path)
    found = documents.load(path, "line")
    assert (found.n, found.read([0])) == (1, ["only"])


def test_a_text_file_is_kept_to_the_byte(tmp_path):
    path = tmp_path / "story.md"
    content = "A bell.\r\nA ferry\t—\u2028again.\r"
    path.write_bytes(content.encode())
    assert documents.load(path).read([0]) == [content]
    path.write_bytes(b"\xef\xbb\xbf" + content.encode())  # a byte-order mark is no text
    assert documents.load(path).read([0]) == [content]


def test_a_column_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbfline\nbell\n")
    assert documents.load(path, "line").read([0]) == ["bell"]


def test_a_column_is_text_whatever_stands_in_it_further_down(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("n,line\n" + "1,bell\n" * 300 + "x,17\n")
    assert documents.load(path, "line").read([300]) == ["17"]


@pytest.mark.parametrize("name", ["no.txt", "", ".", "x" * 300, "a\0b.txt", "../no.txt"])
def test_refuses_a_file_that_is_not_there(tmp_path, name):
    with pytest.raises(TextError, match="no file"):
        documents.load(f"{tmp_path}/{name}")


@pytest.mark.parametrize("column", ["text", "n", "", None])
def test_refuses_a_column_that_is_not_there_or_holds_no_text(path, column):
    with pytest.raises(TextError, match=rf"no text column '{column or ''}'; it has \['line'\]: give #COLUMN after it"):
        documents.load(path, column)


def test_refuses_a_column_of_a_text_file(tmp_path):
    (tmp_path / "a.tsv").write_text("n\tline\n1\tbell\n")
    with pytest.raises(TextError, match=r"has no columns, but column 'line' is asked for; files with columns end in"):
        documents.load(tmp_path / "a.tsv", "line")


def broken(kind, content, tmp_path):
    path = tmp_path / f"broken.{kind}"
    path.write_bytes(content)
    with pytest.raises(TextError, match=re.escape(str(path))) as caught:
        documents.load(path, None if kind == "txt" else "line").read([0])
    return str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfel\x00i\x00n\x00e\x00", b"line\ncaf\xe9\n", b"line\n\xed\xa0\x80\n", PICTURE, b"l\0i\0n\0e\0\n\0"],
    ids=["empty", "UTF-16", "latin-1", "surrogate", "picture", "UTF-16 without a mark"],
)
@pytest.mark.parametrize("kind", ["txt", *WRITERS])
def test_refuses_a_file_without_readable_text(tmp_path, kind, content):
    assert len(broken(kind, content, tmp_path)) < 600


@pytest.mark.parametrize(
    ("kind", "really"),
    [
        ("txt", "parquet"), ("csv", "parquet"), ("jsonl", "parquet"), ("csv", "jsonl"), ("parquet", "jsonl"),
        ("jsonl", "csv"), ("parquet", "csv"),
    ],
)  # fmt: skip
def test_refuses_a_file_that_is_not_what_its_name_says(tmp_path, kind, really):
    WRITERS[really](pl.DataFrame({"line": ["a bell"] * 40}), tmp_path / f"right.{really}")
    broken(kind, (tmp_path / f"right.{really}").read_bytes(), tmp_path)


def test_refuses_another_encoding_wherever_it_stands(tmp_path):
    for end in ("line\n" + "bell\n" * 5000 + "café\n", "line,n\n" + "bell,1\n" * 5000 + "bell,é\n"):
        assert "in UTF-8" in broken("csv", end.encode("latin-1"), tmp_path)


def test_refuses_lines_with_too_many_fields(tmp_path):
    """A text with a comma and no quotes would else be cut at the comma."""
    assert "fields" in broken("csv", b"n,line\n1,bell\n2,the bell, and the ferry\n", tmp_path)


def test_refuses_a_quote_that_never_ends(tmp_path):
    assert "can't be read as csv" in broken("csv", b'n,line\n1,"the bell\n2,and the ferry\n', tmp_path)


def test_refuses_a_cut_or_changed_parquet_file(tmp_path):
    path = tmp_path / "whole.parquet"
    pl.DataFrame({"line": ["cafXX bell"] * 3}).write_parquet(path, compression="uncompressed")
    content = path.read_bytes()
    assert "can't be read as parquet" in broken("parquet", content[:-20], tmp_path)
    assert "can't be read as parquet" in broken("parquet", content.replace(b"cafXX", b"caf\xe9\xe9"), tmp_path)


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_refuses_a_file_of_nothing_but_space(tmp_path, text):
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "a.jsonl").write_text(json.dumps({"line": text}))
    (tmp_path / "a.csv").write_text(f'line\n"{text}"\n')
    pl.DataFrame({"line": []}, schema={"line": pl.String}).write_parquet(tmp_path / "a.parquet")
    for path in tmp_path.iterdir():
        with pytest.raises(TextError, match="holds no text"):
            documents.load(path, None if path.suffix == ".txt" else "line")


@pytest.mark.parametrize("escape", ["\\ud800", "\\udc00", "\\ud800\\ud800", "\\ud800 \\udc00", "\\u0000"])
def test_a_lone_surrogate_is_refused_wherever_it_stands(tmp_path, escape):
    path = tmp_path / "a.jsonl"
    path.write_text('{"line": "bell"}\n' * 1000 + f'{{"line": "ab{escape}c"}}\n')
    with pytest.raises(TextError, match=r"a\.jsonl (holds a lone surrogate or a NUL in|can't be read as jsonl)"):
        documents.load(path, "line")
    path.write_text('{"line": "ab\\ud83d\\ude00c"}\n')  # a pair is one character
    assert documents.load(path, "line").read([0]) == ["ab\N{GRINNING FACE}c"]
