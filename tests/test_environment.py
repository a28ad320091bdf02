"""Places and terminals that the authors do not have."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from capacity import resources

pytestmark = pytest.mark.slow

NOTEBOOK = """# %% [markdown]
# # Where?
# %% tags=["parameters"]
n: int = 1  # things
# %%
import tempfile
print(n, tempfile.gettempdir())
"""
RUN = """
import sys
from pathlib import Path
from capacity import report
print(report.execute(Path(sys.argv[1]), {"n": 7}, out=Path(sys.argv[2])).read_text())
"""


@pytest.mark.parametrize("name", ["long", "t{x}", "a b{}", "{0}"])
def test_a_tmpdir_of_any_name_works(name: str, tmp_path: Path) -> None:
    room = tmp_path / name
    if name == "long":
        room = Path(os.path.join("/tmp", "x" * (103 - len("/tmp/"))))
    room.mkdir(exist_ok=True)
    (tmp_path / "00_where.py").write_text(NOTEBOOK)
    try:
        done = subprocess.run(
            [sys.executable, "-c", RUN, tmp_path / "00_where.py", tmp_path / "out"],
            env=os.environ | {"TMPDIR": str(room), "PYTHONPATH": str(resources.root())},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        (printed,) = json.loads(done.stdout)["cells"][-1]["outputs"]
        assert "".join(printed["text"]).split(maxsplit=1) == ["7", f"{room}\n"]
        left = [path.name for path in room.iterdir() if path.name.startswith("capacity-")]
        assert left == []
    finally:
        if name == "long":
            for path in room.iterdir():
                path.unlink()
            room.rmdir()
