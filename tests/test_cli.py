import os
import subprocess
import sys

import pytest

from capacity import models, vectors

SMALLEST = next(iter(models.EMBEDDED))


def capacity(*arguments, stdin=None, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "capacity", *map(str, arguments)],
        capture_output=True, text=True, input=stdin, cwd=cwd, check=False,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "200"},
    )  # fmt: skip


def test_cram_saves_what_decode_gives_back_in_a_new_process(tmp_path):
    text = "He said that"
    done = capacity("cram", text, "--model", SMALLEST, "--save", tmp_path / "x.safetensors")
    assert done.returncode == 0, done.stderr
    assert f"\n{text}\n" in done.stdout
    assert "tokens come back" in done.stdout
    assert "[mem], float32" in done.stdout
    stored = vectors.load(tmp_path / "x.safetensors")
    back = capacity("decode", tmp_path / "x.safetensors")
    assert back.returncode == 0, back.stderr
    assert back.stdout == text
    assert stored.n_tokens == len(models.load(SMALLEST).tokenizer(text)["input_ids"])
    wrong = capacity("decode", tmp_path / "x.safetensors", "--model", list(models.EMBEDDED)[-1])
    assert wrong.returncode == 2
    assert "made with" in wrong.stderr


def test_a_text_longer_than_one_vector_holds_says_so_and_takes_more(tmp_path):
    text = "It was a fine evening, and he went out."
    one = capacity("cram", "--model", SMALLEST, "--n-mem", 1, "--budget", 100, stdin=text)
    assert one.returncode == 1
    assert "1 [mem]: the first" in one.stdout
    assert "did not fit into 1 vectors; nothing is saved" in one.stderr
    (tmp_path / "text.txt").write_text(text)
    auto = capacity("cram", "--file", tmp_path / "text.txt", "--model", SMALLEST, "--budget", 1000)
    assert auto.returncode == 0, auto.stderr + auto.stdout
    assert "1 [mem]: the first" in auto.stdout
    assert " [mem]: all " in auto.stdout
    assert f"\n{text}\n" in auto.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["cram", ""], "the text is empty"),
        (["cram", "x", "--model", "nobody/nothing"], "no model 'nobody/nothing'"),
        (["cram", "x", "--recipe", "magic"], "unknown recipe 'magic'; known are paper, default"),
        (["cram", "x", "--n-mem", "0"], "--n-mem is '0'"),
        (["cram", "x", "--n-mem", "600", "--model", SMALLEST], "past the context"),
        (["cram", "word " * 600, "--model", SMALLEST], "past the context"),
        (["cram", "x", "--file", "y"], "give one of them"),
        (["cram", "--file", "no-such-file"], "can't be read"),
        (["decode", "no-such-file"], "no file"),
        (["run", "77_nothing"], "77_nothing"),
        (["run", "01_decoding_capacity", "-p", "treshold=0.9"], "threshold"),
        (["run", "01_decoding_capacity", "-p", "n_texts=many"], "n_texts"),
        (["run", "01_decoding_capacity", "-p", "n_texts"], "no name=value"),
        (["frobnicate"], "No such command"),
        (["cram", "x", "--frobnicate"], "No such option"),
    ],
)  # fmt: skip
def test_wrong_use_is_one_error_and_exit_code_2(arguments, says, tmp_path):
    done = capacity(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_text_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "latin").write_bytes("café".encode("latin-1"))
    done = capacity("cram", "--file", tmp_path / "latin")
    assert done.returncode == 2
    assert "not UTF-8 (byte 3)" in done.stderr


def test_what_is_printed_cannot_steer_the_terminal():
    done = capacity("cram", "a\x1b[2Jb", "--model", SMALLEST, "--n-mem", 1, "--budget", 100)
    assert "\x1b" not in done.stdout + done.stderr
