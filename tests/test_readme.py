import json
import re

import pytest

from capacity import fitting, models, resources
from capacity.store import schema
from capacity.texts import sources

ROOT = resources.root()
README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").glob("*.md")))
pytestmark = pytest.mark.skipif(not README.is_file(), reason="an installed wheel has no README beside it")


def text_of_all():
    return "\n".join(page.read_text() for page in PAGES)


def test_every_column_of_a_row_is_described_as_the_package_describes_it():
    text = text_of_all()
    for name, description in schema.COLUMNS.items():
        assert f"| `{name}` | {description} |" in text


def test_the_table_of_models_is_what_their_training_recorded():
    text = text_of_all()
    for name, folder in models.EMBEDDED.items():
        record = json.loads((folder / "training.json").read_text())
        cells = [f"`{name}`", record["width"], f"{record['parameters']:,}"]
        cells += [f"{record[f'held_out_{unit}']:.3f}" for unit in ("nats_per_token", "bits_per_token", "bits_per_byte")]
        cells += [f"{record['tokens_seen']:,}", f"{record['seconds']:,}"]
        assert "| " + " | ".join(map(str, cells)) + " |" in text


def test_recipes_are_those_of_the_package():
    text = text_of_all()
    assert set(re.findall(r"^\| `(\w+)` \| (?:mean cross-entropy|squared hinge)", text, re.M)) == set(fitting.RECIPES)
    default = fitting.RECIPES["default"]
    assert f"lr of {default.lr:.0f} standard deviations" in text
    assert f"margin of {default.margin} of its logits'" in text


def test_every_source_is_in_the_table():
    table = text_of_all().split("## Sources of texts")[1].split("\n## ")[0]
    named = set(re.findall(r"`(\w+)[`:]", "\n".join(line.split("|")[1] for line in table.splitlines() if "|" in line)))
    assert named == sources.SOURCES.keys() | sources.PREFIXES.keys()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_it_points_to_exists(page):
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert link.startswith("http") or (page.parent / link).exists(), link


def test_every_page_is_linked():
    assert set(re.findall(r"\((docs/\w+\.md)\)", README.read_text())) == {f"docs/{page.name}" for page in PAGES[1:]}


@pytest.mark.slow
def test_the_code_for_python_runs():
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    names = {}
    exec(code, names)
    assert names["crammed"].complete
    assert names["fit"].mem.shape == (4, 2, 128)
    assert len(names["longest"]) == 4


def test_the_map_has_one_line_for_each_name_at_the_top():
    lines = text_of_all().split("## The map")[1].split("## ")[0].splitlines()
    named = [line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "]
    there = {path.stem for path in (ROOT / "capacity").glob("*.py")} | {
        path.parent.name for path in (ROOT / "capacity").glob("[!_]*/__init__.py")
    }
    assert sorted(named) == sorted(there - {"__init__"})
