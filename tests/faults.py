"""`make faults`: the faults that the project is to survive, each done for real by tests, as a table of what was seen.

Tests are named by file and name; what was seen is how many of them ran as expected. `python tests/faults.py [FILE]`.
"""

import re
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

HERE = Path(__file__).parent
# case, what is expected, the tests that do it (file: names)
FAULTS: list[tuple[str, str, dict[str, str]]] = [
    ("SIGKILL and SIGTERM at random moments of a sweep, `cram --save`, papermill; the same command again",
     "nothing finished is lost, no half file, the same rows and vectors",
     {"kills": "killed_again_and_again", "sweep": "after_a_signal_the_same_command_goes_on"}),
    ("Ctrl-C, SIGTERM", "what is finished is kept, 130 / 143, the command that resumes, quoted for a shell",
     {"store": "ctrl_c_keeps_what_waits", "exits": "says_how_it_goes_on", "report": "an_interrupt_ends_the_build"}),
    ("a kill while a file is written", "the old or the new file; leftovers ignored, later cleaned",
     {"files": "over_whole|stays_where|leftovers",
      "store": "killed_while_writing|killed_before|killed_while_compacting", "report": "what_a_kill_left"}),
    ("disk full, a place that takes no file", "earlier results intact, a clear error, found before the work",
     {"store": "full_disk|cannot_be_written", "benchmark": "full_disk", "gguf": "disk_that_is_full",
      "packaged": "disk_that_is_full", "cli": "takes_no_file"}),
    ("a results file empty, cut, or a link to nothing; a table of rates empty or cut",
     "set aside, named, measured again", {"store": "damaged_shard|what_is_no_file", "benchmark": "was_cut"}),
    ("one flipped byte in rows or vectors", "a digest finds it",
     {"store": "any_flipped_byte", "vector_files": "one_flipped_bit"}),
    ("two processes, one store; one of them dies; a machine whose heart stops",
     "they share the work, no cell twice, the heir goes on",
     {"sweep": "two_processes_share", "claims": "", "store": "two_processes_with"}),
    ("a worker of the engine `ray` dies, or a cell ends every worker, or the driver dies",
     "another takes its cells, three times at most; nothing lost, the same rows",
     {"cluster": "one_that_dies|given_up|driver_that_dies"}),
    ("stores of other rows under one key", "named and refused", {"store": "disagree"}),
    ("files, revision, dtype, tokenizer, recipe or protocol changed, before or after the key was made",
     "a miss or a refusal, never a stale hit",
     {"sweep": "changed_byte|changed_setting|changed_recipe", "contract": "changed_between",
      "experiment": "change_the_key|changes_the_key"}),
    ("the model is gone", "its rows are found by their columns", {"sweep": "is_gone|without_the_model|packaged_model"}),
    ("rows of an older version", "read, or a clear error", {"store": "other_versions"}),
    ("out of memory in a fit, in scoring, in decoding", "halved; at one text a row `oom`, and the sweep goes on",
     {"engine": "out_of_memory|does_not_fit_alone", "pretend": "memory_running_out", "decoding": "memory_runs_out",
      "sweep": "too_large"}),
    ("a fit diverges; weights that are not finite", "its last finite vector, in no mean; refused at load by name",
     {"fitting": "diverge", "engine": "not_finite", "metrics": "did_not_finish|refuse_rows_that_diverged",
      "contract": "not_finite"}),
    ("the budget ends first", "censored, never a maximum", {"search": "censored", "metrics": "censored"}),
    ("batch 1 against many, other neighbours, another order, the same seed twice", "the same bits",
     {"engine": "alone|in_any_order", "sweep": "order_and_company", "fitting": "company_and_order"}),
    ("a text empty, of one token, too long, with lone surrogates", "a typed error before any work",
     {"texts": "cannot_come_back|one_token", "sweep": "past_the_context", "documents": "surrogate"}),
    ("a text that the tokenizer changes", "said before the fit; refused unless asked for",
     {"pieces": "tokenizer_changes", "cli": "as_tokenized"}),
    ("a tokenizer without BOS, with pad = EOS, or that can't encode", "a policy in the row, or one line",
     {"models": "without_bos", "sweep": "tokenizer_without_bos", "checkpoints": "cannot_encode"}),
    ("statistics of one text, of constants, of a denominator that may vanish", "flagged, no NaN",
     {"metrics": "flagged|may_be_nothing|nothing_in_both"}),
    ("code from a hub, pickled weights, files that are not the config's", "refused, with what to do",
     {"checkpoints": "pickled|never_run|never_made_up|spoilt", "contract": "left_over"}),
    ("a text or a file with script, ANSI codes, bidi marks", "inert in chart, page and terminal",
     {"harmless": "terminal_sequences|cannot_end", "cli": "cannot_steer", "page": "injected|no_script"}),
    ("a terminal of cp1252 or ASCII; a pipe that closes", "the vector is kept, the text escaped, exit 0",
     {"cli": "cannot_be_shown|other_encoding"}),
    ("a TMPDIR of 103 characters, or with braces", "works", {"environment": "tmpdir"}),
    ("a parameter with code, a typo, a wrong type, 100,000 minus signs", "refused before a kernel starts",
     {"parameters": "refused", "cli": "wrong_use"}),
    ("a name with `../`, NUL or 300 characters; a path or column like a pattern",
     "nothing outside; taken literally", {"checkpoints": "impossible_name", "documents": "no_pattern"}),
    ("HF_HUB_OFFLINE, cached or not", "works, or names what is missing, at once",
     {"checkpoints": "offline|not_cached", "hub": "offline|not_there"}),
    ("a kernel dies", "that page fails and says so, the others run", {"report": "one_failure"}),
    ("two reports at once", "no race", {"report": "two_builds"}),
    ("a page with no network", "every chart draws", {"page": "every_chart_draws"}),
    ("a vector file with other types, ranges or not finite", "refused in one line", {"vector_files": "refused"}),
    ("a page with no row, too few, or a budget of 1", "it runs and says so", {"notebooks": "without_its_rows"}),
]  # fmt: skip


def run(report: Path) -> dict[tuple[str, str], tuple[str, float]]:
    """Return outcome and seconds of every test of the table, by file and name."""
    wanted = {file for *_, tests in FAULTS for file in tests}
    parts = {part for *_, tests in FAULTS for names in tests.values() for part in names.split("|") if part}
    names = " or ".join(sorted(parts))
    command = [sys.executable, "-m", "pytest", "-q", f"--junit-xml={report}", "-k", f"({names}) or test_claims"]
    subprocess.run(
        [*command, *(str(HERE / f"test_{file}.py") for file in sorted(wanted))], cwd=HERE.parent, check=False
    )
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        ended = next((kind for kind in ("failure", "error", "skipped") if case.find(kind) is not None), "passed")
        file = case.get("classname", "").rpartition("test_")[2]
        found[file, case.get("name", "")] = ended, float(case.get("time", 0))
    return found


def lines(found: dict[tuple[str, str], tuple[str, float]]) -> list[str]:
    """Return the table in markdown, one case a line: what was expected and what was seen."""
    table = ["| case | expected | seen |", "|---|---|---|"]
    for case, expected, tests in FAULTS:
        counts, seconds = defaultdict(int), 0.0
        for (file, name), (ended, took) in found.items():
            if file in tests and re.search(tests[file], name):
                counts[ended] += 1
                seconds += took
        bad = counts["failure"] + counts["error"]
        seen = f"as expected, {counts['passed']} tests" if counts["passed"] else "NOT as expected: not done"
        if bad:
            seen = f"NOT as expected in {bad} of {sum(counts.values())} tests"
        skipped = f", {counts['skipped']} not possible here" if counts["skipped"] else ""
        table.append(f"| {case} | {expected} | {seen}{skipped}, {seconds:.0f} s |")
    return table


def main() -> int:
    """Run all, print the table, write it where a file is named; return 1 where something was not as expected."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    started = time.monotonic()
    report = HERE.parent / "build" / "faults.xml"
    report.parent.mkdir(exist_ok=True)
    found = run(report)
    text = "\n".join([*lines(found), "", f"{len(found)} tests, {time.monotonic() - started:.0f} s."])
    print(text)
    if target is not None:
        target.write_text(f"# Faults, as `make faults` saw them\n\n{text}\n")
    return int("NOT as expected" in text)


if __name__ == "__main__":
    sys.exit(main())
