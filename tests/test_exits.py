import shlex
import sys

import pytest
import typer

from capacity.commands.exits import Terminated, coded

ARGUMENTS = ["run", "01_decoding_capacity", "-p", 'models=["llama-64"]', "-p", "store=a b"]


@pytest.mark.parametrize(
    ("resumes", "kept"),
    [
        (lambda given: given == 1, "what is finished is kept; the same command goes on, fits under way begin again: "),
        (lambda given: given == 2, "nothing is kept of the fit under way; to begin again: "),
    ],
)
@pytest.mark.parametrize(
    ("ends", "word", "code"), [(KeyboardInterrupt(), "interrupted", 130), (Terminated(143), "terminated", 143)]
)
def test_a_command_that_is_ended_says_how_it_goes_on(ends, word, code, resumes, kept, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/somewhere/capacity", *ARGUMENTS])

    @coded(resumes=resumes)
    def command(given):
        raise ends

    with pytest.raises(typer.Exit) as caught:
        command(given=1)
    assert caught.value.exit_code == code
    said = capsys.readouterr().err.strip()
    assert said.startswith(f"{word}; {kept}capacity run ")
    assert shlex.split(said.rpartition(": ")[2]) == ["capacity", *ARGUMENTS]  # as pasted into a shell
