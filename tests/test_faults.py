import re

import pytest
from faults import FAULTS, HERE, lines


@pytest.mark.parametrize(("case", "tests"), [(case, tests) for case, _, tests in FAULTS])
def test_every_fault_is_done_by_tests_that_exist(case, tests):
    for file, names in tests.items():
        there = re.findall(r"^def (test_\w+)", (HERE / f"test_{file}.py").read_text(), re.M)
        for part in names.split("|"):
            assert any(part in name for name in there), f"no test of test_{file}.py has {part!r} in its name"


def test_what_failed_is_said():
    ((case, expected, tests), *_) = FAULTS
    names = [(file, part.split("|")[0]) for file, part in tests.items()]
    found = {names[0]: ("passed", 1.0), names[1]: ("failure", 2.0), ("other", "test"): ("failure", 4.0)}
    assert lines(found)[2] == f"| {case} | {expected} | NOT as expected in 1 of 2 tests, 3 s |"
    assert lines({names[0]: ("passed", 1.0)})[2] == f"| {case} | {expected} | as expected, 1 tests, 1 s |"
    assert "NOT as expected: not done" in lines({})[2]
