"""What is written at the foot of a page."""

import importlib.metadata
import os
import platform
import subprocess
import sys

import pytest

from capacity import provenance


def test_versions_are_those_installed() -> None:
    found = provenance.versions()
    assert found["python"] == platform.python_version()
    assert found["polars"] == importlib.metadata.version("polars")
    assert {"torch", "transformers", "altair"} < set(found)


def test_the_machine_is_one_line() -> None:
    line = provenance.machine()
    assert "\n" not in line
    assert f" {os.cpu_count()} processors, " in line
    assert platform.machine() in line


@pytest.mark.slow
def test_nothing_heavy_is_imported() -> None:
    code = "import sys; from capacity import provenance; provenance.versions(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
