"""What a notebook may be told, and what is refused before a kernel starts."""

from pathlib import Path

import pytest

from capacity import report
from capacity.report import parameters
from capacity.report.parameters import ParameterError, check, declared, share


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a notebook with one parameter of each type."""
    path = tmp_path / "07_source.py"
    path.write_text(
        "# %% tags=['parameters']\n# nothing is derived here\nn_texts: int = 8  # texts\n"
        "margin: float = 0.05  # logits\nengine: str = 'none'  # none, local\nfast: bool = False\n"
        "models: list[str] = ['llama-128', 'neox-128']  # names\nlimit: int | None = None  # tokens\n"
    )
    return path


def test_parameters_are_read_with_their_units(source: Path) -> None:
    found = declared(source)
    assert list(found) == ["n_texts", "margin", "engine", "fast", "models", "limit"]
    assert (found["n_texts"].default, found["n_texts"].annotation, found["n_texts"].comment) == (
        8,
        "int",
        "texts",
    )
    assert (found["models"].default, found["models"].comment) == (["llama-128", "neox-128"], "names")
    assert (found["fast"].comment, found["limit"].annotation) == ("", "int | None")


@pytest.mark.parametrize(
    "line",
    [
        "n = 8",
        "n: int = 4 * 2",
        "n: int",
        "n: int = True",
        "n: set = {1}",
        "import os",
        "n: int = 1\nn: int = 2",
        "n:",
    ],
)
def test_a_cell_that_holds_more_than_annotated_literals_is_refused(line: str, tmp_path: Path) -> None:
    path = tmp_path / "00_x.py"
    path.write_text(f"# %% tags=['parameters']\n{line}\n")
    with pytest.raises(ParameterError, match="00_x"):
        declared(path)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("n_text", 3, "did you mean n_texts"),
        ("unheard_of", 3, "allowed are n_texts, margin, engine, fast, models, limit"),
        ("n_texts = 1\nimport os; os.abort() #", 3, "no parameter name"),
        ("class", 3, "no parameter name"),
        ("n_texts", 3.0, "allowed is int, for example 8"),
        ("n_texts", True, "is a bool"),
        ("n_texts", None, "NoneType"),
        ("margin", "0.1", "allowed is float"),
        ("margin", False, "is a bool"),
        ("fast", 1, "allowed is bool"),
        ("models", "llama-128", "allowed is list"),
        ("models", ["llama-128", 2], "allowed is list"),
        ("limit", 2.5, "int | None"),
    ],
)
def test_a_wrong_parameter_is_refused_before_anything_runs(
    name: str, value: object, words: str, source: Path, tmp_path: Path
) -> None:
    for call in (
        report.execute,
        lambda *args, out: report.build(folder=source.parent, given=args[1], out=out),
    ):
        with pytest.raises(ParameterError) as refusal:
            call(source, {name: value}, out=tmp_path / "out")
        assert words in str(refusal.value)
    assert not (tmp_path / "out").exists()


def test_right_parameters_are_laid_over_the_defaults(source: Path) -> None:
    values = check(source, {"margin": 1, "models": [], "limit": 9})
    expected = {"n_texts": 8, "margin": 1, "engine": "none", "fast": False, "models": [], "limit": 9}
    assert values == expected


def test_each_notebook_gets_the_parameters_it_has(source: Path, tmp_path: Path) -> None:
    (tmp_path / "08_small.py").write_text("# %% tags=['parameters']\nn: int = 1  # texts\n")
    sources = [source, tmp_path / "08_small.py"]
    assert share(sources, {"n": 2, "fast": True}) == {"07_source": {"fast": True}, "08_small": {"n": 2}}


def test_a_file_of_parameters_is_read_as_papermill_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("n_texts: 8\nmodels: [a, b]\nlr: 0.5\nstore: ''\n")
    assert parameters.read_file(path) == {"n_texts": 8, "models": ["a", "b"], "lr": 0.5, "store": ""}
    assert parameters.read_file(None) == {}
    for text, says in {"- 1": "no table of names", "a: [": "line 1: no YAML"}.items():
        path.write_text(text)
        with pytest.raises(ParameterError, match=says):
            parameters.read_file(path)


def test_a_grid_of_parameters_is_each_combination(tmp_path: Path) -> None:
    source, path = tmp_path / "00_x.py", tmp_path / "grid.toml"
    lines = ["n: int = 1  # a", "names: list[str] = []  # b", 'model: str = ""  # c']
    source.write_text('# %% tags=["parameters"]\n' + "\n".join(lines) + "\n")
    path.write_text('n = [1, 2]\nnames = ["a", "b"]\nmodel = ["x", "y"]\n')
    assert parameters.combinations(source, path) == [
        {"n": n, "names": ["a", "b"], "model": model} for n in (1, 2) for model in ("x", "y")
    ]
    path.write_text('names = [["a"], ["b", "c"], ["a"]]\n')  # one twice is one
    assert parameters.combinations(source, path) == [{"names": ["a"]}, {"names": ["b", "c"]}]
    for text, says in {
        'n = [1, "2"]': "n = '2' is a str",
        "m = 1": "unknown parameter 'm'",
        "n = [": "no TOML",
    }.items():
        path.write_text(text)
        with pytest.raises(ParameterError, match=says):
            parameters.combinations(source, path)
