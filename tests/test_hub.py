"""Datasets laid out as the hub's cache lays them, and a hub on this machine: the client's own code runs on both."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants

from capacity.texts import hub
from capacity.texts.documents import TextError

COMMIT = "0" * 39 + "1"
OLDER = "0" * 39 + "2"


def names(found, snapshot):
    return [path.relative_to(snapshot).as_posix() for path in found.paths]


def card(text):
    return f"---\n{text}\n---\n# About\n".encode()


def test_a_cached_dataset_is_found_offline(lay_dataset):
    snapshot = lay_dataset("some/tales", {"data/train-00000-of-00001.parquet": b"x", "LICENSE.txt": b"y"})
    found = hub.fetch("some/tales#text")
    assert names(found, snapshot) == ["data/train-00000-of-00001.parquet"]
    assert (found.column, found.name) == ("text", f"some/tales@{COMMIT[:8]}")


def test_a_revision_is_a_branch_a_tag_or_a_commit(lay_dataset):
    new = lay_dataset("some/tales", {"a.csv": b"new"})
    old = lay_dataset("some/tales", {"a.csv": b"old"}, commit=OLDER, ref="refs/convert/parquet")
    assert hub.fetch("some/tales#text").paths == (new / "a.csv",)
    for revision in (OLDER, "refs/convert/parquet"):
        found = hub.fetch(f"some/tales@{revision}#text")
        assert found.paths == (old / "a.csv",)
        assert found.name == f"some/tales@{OLDER[:8]}"
    with pytest.raises(TextError, match="dataset 'some/tales', revision 'v9', can't be had"):
        hub.fetch("some/tales@v9#text")


BY_NAME = {
    "README.md": b"# no settings",
    "data/train-00000-of-00002.parquet": b"1", "data/train-00001-of-00002.parquet": b"2",
    "data/validation-00000-of-00001-29a571947c0b5ccc.parquet": b"3", "data/held_out-00000-of-00001.parquet": b"4",
}  # fmt: skip


def test_splits_are_told_by_the_names_of_files(lay_dataset):
    snapshot = lay_dataset("some/books", BY_NAME)
    for form in ("some/books:default/train#text", "some/books:data/train#text"):
        assert names(hub.fetch(form), snapshot) == [f"data/train-0000{n}-of-00002.parquet" for n in (0, 1)]
    assert names(hub.fetch("some/books:default/held_out"), snapshot) == ["data/held_out-00000-of-00001.parquet"]
    assert len(hub.fetch("some/books:default/validation").paths) == 1
    known = "held_out, train, validation"
    with pytest.raises(TextError, match=f"has the splits {known}; say which: some/books:default/SPLIT"):
        hub.fetch("some/books#text")
    with pytest.raises(TextError, match=f"has no split 'test'; it has {known}"):
        hub.fetch("some/books:default/test#text")
    with pytest.raises(TextError, match=r"has no config 'fr'; its card lists none, its folders are \['data'\]"):
        hub.fetch("some/books:fr#text")


@pytest.mark.parametrize(
    ("file", "split"),
    [
        ("a.csv", "train"),
        ("my_train_file.csv", "train"),
        ("pg_valid_1k.csv", "validation"),
        ("dev/0000.parquet", "validation"),
        ("partial-test/0000.parquet", "test"),
        ("contest.csv", "train"),
        ("data/third.part-00000-of-00001.parquet", "third.part"),
        ("data/val-00000-of-00001.parquet", "validation"),
    ],
)
def test_the_split_of_a_file(file, split, lay_dataset):
    snapshot = lay_dataset("some/one", {file: b"x"})
    assert names(hub.fetch(f"some/one:default/{split}"), snapshot) == [file]
    assert names(hub.fetch("some/one"), snapshot) == [file]  # the only one


CARD = card("""configs:
- config_name: en
  data_files:
  - split: first
    path: [en/a.csv, en/b.csv]
  - split: second
    path: "**/c*.csv"
- config_name: fr
  data_files: fr/*
- config_name: la
  data_dir: la
""")
BY_CARD = dict.fromkeys(("en/a.csv", "en/b.csv", "en/c1.csv", "fr/a.csv", "la/test.csv", "other.csv"), b"x")


@pytest.mark.parametrize("name", ["run[1].csv", "a?.csv", "[!x].csv", ".data/a.csv"])
def test_a_file_of_a_dataset_is_itself_and_no_pattern(lay_dataset, name):
    files = dict.fromkeys((name, "run1.csv", "ab.csv", "y.csv", "data/a.csv"), b"x")
    lines = f"configs:\n- config_name: one\n  data_files: '{name}'\n- config_name: in\n  data_dir: ./.data/\n"
    snapshot = lay_dataset("some/names", files | {"README.md": card(lines)})
    found = names(hub.fetch("some/names:one"), snapshot)
    assert name in found
    assert set(found) <= {name, "ab.csv", "y.csv", "run1.csv"}  # a card's names may be patterns, too
    if name.startswith("."):
        assert names(hub.fetch("some/names:in"), snapshot) == [name]


def test_a_card_says_which_files_a_config_has(lay_dataset):
    snapshot = lay_dataset("some/tongues", BY_CARD | {"README.md": CARD})
    for form, files in {
        "en/first": ["en/a.csv", "en/b.csv"], "en/second": ["en/c1.csv"], "fr": ["fr/a.csv"],
        "fr/train": ["fr/a.csv"], "la/test": ["la/test.csv"],
    }.items():  # fmt: skip
        assert names(hub.fetch(f"some/tongues:{form}"), snapshot) == files
    with pytest.raises(TextError, match=r"has no config 'default'; it has en, fr, la: give some/tongues:CONFIG"):
        hub.fetch("some/tongues#text")
    with pytest.raises(TextError, match=r"has no config 'de'; it has en, fr, la"):
        hub.fetch("some/tongues:de#text")


@pytest.mark.parametrize("default", ["config_name: default", "default: true\n  config_name: main", "config_name: only"])
def test_the_default_config_of_a_card(default, lay_dataset):
    more = "" if default.endswith("only") else "\n- config_name: zz\n  data_files: b.csv"
    lay_dataset("some/one", {"README.md": card(f"configs:\n- {default}\n  data_files: a.csv{more}"), "a.csv": b"x"})
    assert [path.name for path in hub.fetch("some/one").paths] == ["a.csv"]


def test_a_card_cannot_lead_out_of_the_cache(lay_dataset, tmp_path):
    (tmp_path / "secret.csv").write_text("text\nsecret\n")
    lay_dataset("some/one", {"README.md": card("configs:\n- config_name: default\n  data_files: ../../../../*.csv")})
    with pytest.raises(TextError, match="no files of texts here"):
        hub.fetch("some/one#text")


def test_one_kind_of_files_is_read(lay_dataset):
    files = {"a.csv": b"1", "b.jsonl": b"2", "c.txt": b"3", "d.png": b"4"}
    snapshot = lay_dataset("some/mix", files)
    assert names(hub.fetch("some/mix"), snapshot) == ["b.jsonl"]
    lay_dataset("some/images", {"d.png": b"4", "loader.py": b"5"})
    with pytest.raises(TextError, match=r"no files of texts here .*; it has \['.png', '.py'\]"):
        hub.fetch("some/images")


@pytest.mark.parametrize(
    "name",
    [
        "", "#text", "tales#text", "/etc/passwd#text", "../../etc/passwd#text", "some/../tales#text", "some/tales:..#t",
        "some/tales:../../other/x#text", "some/tales:default/../x#text", "some/tales@../../../x#text",
        "some/ta\0les#text", "some/tales #text", "some/tales:#text", "some/tales@#text", "a/b/c/d#text", "é/tales#text",
    ],
    ids=ascii,
)  # fmt: skip
@pytest.mark.usefixtures("lay_dataset")
def test_a_name_of_another_form_is_refused(name, tmp_path):
    with pytest.raises(TextError, match="names no dataset; give hub:OWNER/NAME"):
        hub.fetch(name)
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("lay_dataset")
@pytest.mark.parametrize(
    "name", ["no/such#text", f"no/{'x' * 300}#text", f"no/such@{'x' * 300}#text", "-a/b-#t", "a--b/c#t"]
)
def test_what_is_not_there_is_refused_at_once_and_leaves_nothing(name, tmp_path):
    before = set(tmp_path.rglob("*"))
    with pytest.raises(TextError, match=r"can't be had .*Check the name, or download") as caught:
        hub.fetch(name)
    assert len(str(caught.value)) < 800
    assert set(tmp_path.rglob("*")) == before


def test_a_cache_that_lacks_a_shard_is_refused(lay_dataset):
    snapshot = lay_dataset("some/books", BY_NAME)
    trees = snapshot.parent.parent / "trees"
    trees.mkdir()
    listed = {name: {"size": len(content), "blob_id": "0" * 40} for name, content in BY_NAME.items()}
    (trees / f"{COMMIT}.json").write_text(json.dumps({"format_version": 1, "files": listed}))
    assert len(hub.fetch("some/books:default/train").paths) == 2
    (snapshot / "data/train-00001-of-00002.parquet").unlink()
    hub.fetch.cache_clear()
    with pytest.raises(TextError, match="can't be had from hub or cache"):
        hub.fetch("some/books:default/train")
    assert len(hub.fetch("some/books:default/validation").paths) == 1


class Server(ThreadingHTTPServer):
    """A hub with one dataset; `asked` lists the files it was asked for."""

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), Answer)
        self.files, self.asked = files, []


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        path = self.path.partition("?")[0]
        home = "/api/datasets/some/books"
        files = self.server.files
        if path == f"{home}/revision/main":
            self.reply(json.dumps({"id": "some/books", "sha": COMMIT, "siblings": []}).encode())
        elif path == f"{home}/tree/{COMMIT}":
            listed = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in files.items()
            ]
            self.reply(json.dumps(listed).encode())
        elif path.startswith(f"/datasets/some/books/resolve/{COMMIT}/"):
            name = path.removeprefix(f"/datasets/some/books/resolve/{COMMIT}/")
            if self.command == "GET":
                self.server.asked.append(name)
            self.reply(files[name], {"ETag": hashlib.sha1(files[name]).hexdigest(), "X-Repo-Commit": COMMIT})
        else:
            self.send_error(404)

    do_HEAD = do_GET

    def reply(self, content, headers=()):
        self.send_response(200)
        for name, value in dict(headers, **{"Content-Length": len(content)}).items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *args):
        return


def test_only_the_files_of_the_split_are_downloaded(tmp_path, monkeypatch):
    server = Server(BY_NAME)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    hub.fetch.cache_clear()
    try:
        found = hub.fetch("some/books:default/validation#text")
        assert [path.read_bytes() for path in found.paths] == [b"3"]
        assert sorted(server.asked) == ["README.md", "data/validation-00000-of-00001-29a571947c0b5ccc.parquet"]
        with pytest.raises(TextError, match="dataset 'some/other', revision 'main', can't be had"):
            hub.fetch("some/other#text")
    finally:
        server.shutdown()
        server.server_close()
    hub.fetch.cache_clear()
    again = hub.fetch("some/books:default/validation#text")  # the hub is gone
    assert again == found
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.fetch.cache_clear()
    assert hub.fetch("some/books:default/validation#text") == found
    hub.fetch.cache_clear()
    with pytest.raises(TextError, match="can't be had from hub or cache"):
        hub.fetch("some/books:default/train#text")
