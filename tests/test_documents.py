import json
import re
import tracemalloc

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


@pytest.mark.slow
def test_only_the_rows_asked_for_come_into_memory(tmp_path, monkeypatch, kind):
    n, padding = 60_000, "\N{BELL}" * 60  # 240 bytes
    path = tmp_path / f"many.{kind}"
    lines = pl.DataFrame({"n": range(n)}).select("n", line=pl.format('Line {}, "quoted"\n{}', "n", pl.lit(padding)))
    WRITERS[kind](lines, path)
    heights, collect = [], pl.LazyFrame.collect

    def counted(self, **options):
        assert options == {"engine": "streaming"}  # a part of the file at a time
        heights.append((made := collect(self, **options)).height)
        return made

    monkeypatch.setattr(pl.LazyFrame, "collect", counted)
    tracemalloc.start()
    found = documents.load(path, "line")
    assert found.n == n
    assert found.read([n - 1, 7_777, 5]) == [f'Line {i}, "quoted"\n{padding}' for i in (n - 1, 7_777, 5)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < n * 240 / 10  # where each row begins is 8 bytes
    assert sum(heights) == (1 + 3 if kind == "parquet" else 0)  # the count, and the rows


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


@pytest.mark.parametrize("name", ["run[1]", "star*", "q?", "a{b,c}", "[!x]", "~", "k=v", "%41", "$HOME"])
def test_a_path_is_itself_and_no_pattern(tmp_path, kind, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, stem in enumerate([name, "run1", "starry", "qq", "ab", "y"]):
        WRITERS[kind](pl.DataFrame({"body": [f"of file {number}"]}), tmp_path / f"{stem}.{kind}")
    assert documents.load(f"{name}.{kind}", "body").read([0]) == ["of file 0"]
    (tmp_path / name).mkdir()
    WRITERS[kind](pl.DataFrame({"body": ["in the folder"]}), tmp_path / name / f"x.{kind}")
    for path in (f"{name}/x.{kind}", tmp_path / name / f"x.{kind}"):
        found = documents.load(path, "body")
        assert (found.n, found.read([0])) == (1, ["in the folder"])


@pytest.mark.parametrize("column", ["^b.*$", "*", "^.*$", "a#b", "", " b", "b\u0301", "[b]"])
def test_a_column_is_itself_and_no_pattern(tmp_path, kind, column):
    path = tmp_path / f"a.{kind}"
    WRITERS[kind](pl.DataFrame({"body": ["wrong"], column: ["right"], "bell": ["wrong"]}), path)
    assert documents.load(path, column).read([0]) == ["right"]
    with pytest.raises(TextError, match=r"no text column '.bo.*'; it has"):
        documents.load(path, "^bo.*$")


@pytest.mark.parametrize("first", [{}, {"body": None}], ids=["missing", "null"])
def test_no_type_is_guessed_from_the_first_rows(tmp_path, first):
    path = tmp_path / "a.jsonl"
    rows = [first | {"n": 4}] * 1500 + [{"n": 4.5, "other": [1]}, {"n": "four", "body": "a bell"}, {"body": ""}]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    found = documents.load(path, "body")
    assert (found.n, found.read([1501, 0, 1502])) == (1503, ["a bell", "", ""])


@pytest.mark.parametrize("cell", [4, 4.5, True, ["a bell"], {"text": "a bell"}])
def test_a_cell_that_is_no_text_is_refused_with_its_row(tmp_path, cell):
    path = tmp_path / "a.jsonl"
    path.write_text('{"body": "a bell"}\n' * 150 + "\n" + json.dumps({"body": cell}) + "\n")
    with pytest.raises(TextError, match=r"row 151 \(line 152\) of column 'body' is .*, no text; write it as a text"):
        documents.load(path, "body")


def test_a_csv_whose_first_cells_are_years(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("line,n\n" + "1984,1\n" * 1200 + "the year 1984,2\n")
    assert documents.load(path, "line").read([1200, 0]) == ["the year 1984", "1984"]


@pytest.mark.parametrize("dtype", [pl.Categorical, pl.Enum(["a bell", "a ferry"])])
def test_text_kept_as_categories(tmp_path, dtype):
    pl.DataFrame({"line": pl.Series(["a bell", None, "a ferry", "a bell"], dtype=dtype)}).write_parquet(
        tmp_path / "a.parquet"
    )
    assert documents.load(tmp_path / "a.parquet", "line").read([2, 1, 3]) == ["a ferry", "", "a bell"]


def test_a_byte_order_mark_before_objects(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"line": "\xef\xbb\xbfbell"}\r\n{"line": "ferry"}')
    found = documents.load(path, "line")
    assert (found.n, found.read([1, 0])) == (2, ["ferry", "\ufeffbell"])  # a mark within a text is text


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('n,line\n1,5" pipe\n2,bell\n3,6" pipe\n', 2),
        ('n,line\n1,bell\n2,say "hi" to\n', 3),
        ('n,line\n1,"the bell\n2,and "ferry\n', 3),  # else two rows become one
        ('n,line\n1,"the" bell\n', 2),
        ('n,line\n1,bell\n2,"the bell\n', 3),
        ("n,line\n1,bell\nand a ferry\n", 3),  # a line end within a text that has no quotes
    ],
)
def test_a_stray_quote_is_refused_with_its_line_and_a_remedy(tmp_path, content, line):
    said = broken("csv", content.encode(), tmp_path)
    assert f"line {line} has " in said
    assert "in quotes" in said


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_quotes_commas_and_line_ends_within_quotes(tmp_path, end):
    path = tmp_path / "a.csv"
    cells = ['say ""hi"", twice', f"one{end}two", "", "\r", '""', "plain"]
    path.write_bytes(end.join(["n,line", *(f'1,"{cell}"' for cell in cells), "", "2,unquoted"]).encode())
    found = documents.load(path, "line")
    right = [cell.replace('""', '"') for cell in cells]
    assert found.read(range(found.n)) == [*right, "", "unquoted"]
    assert found.read([7, 1]) == ["unquoted", right[1]]
