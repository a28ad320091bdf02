"""`make gpu`: what is to be measured on the day that there is a GPU, kept part by part; the same command goes on.

`python tests/gpu.py [FOLDER] [--minutes N] [--device cpu]`. Alike parts share a process of their own, so that one that
dies or hangs takes no other along. Every part is one CSV file with its provenance; rows of searches are in FOLDER/rows.
"""

import argparse
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from itertools import groupby
from pathlib import Path
from xml.etree import ElementTree

import polars as pl
import torch

from capacity import benchmark, files, fitting, metrics, models, sweep
from capacity.fitting import graph
from capacity.models import Frozen

HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured, and for how long; the defaults are those of `make gpu`."""

    device: str = "cuda"
    shapes: Sequence[str] = ("pythia-160m", "llama-3.2-1b", "pythia-1.4b", "llama-3.1-8b")  # of benchmark.SHAPES
    lengths: Sequence[int] = (64, 512, 1568)  # tokens
    launched: Sequence[int] = (8, 64)  # tokens, where launching kernels weighs most: recorded and compiled beside
    tests: str = str(HERE / "test_cuda.py")
    real: Sequence[str] = (*models.EMBEDDED, *(name for name in models.PACKAGED if models.is_cached(name)))
    repeats: int = 3  # turns
    seconds: float = 0.5  # of each measurement, at least
    n_texts: int = 8  # of the searches
    longest: int = 64  # tokens, the most they try
    budget: int = 2000  # token-steps a text
    minutes: float = 10.0  # after which no part is begun, and the one under way is stopped

    def parts(self) -> list[tuple[str, ...]]:
        """Return kind, model, dtype and length of all parts, what decides most first."""
        eager = [("rates", shape, "bfloat16", str(n)) for shape in self.shapes for n in self.lengths]
        full = [("rates", shape, "float32", str(n)) for shape in self.shapes[:2] for n in self.lengths[:2]]
        compiled = [("compiled", shape, "bfloat16", str(n)) for n in self.lengths for shape in self.shapes]
        captured = [("captured", shape, "bfloat16", str(n)) for n in self.launched for shape in self.shapes[:2]]
        arithmetic = [("arithmetic", name, dtype) for name in self.real for dtype in models.DTYPES]
        return [("suite",), *eager, *captured, *arithmetic, *compiled, *full]


@lru_cache(maxsize=1)
def loaded(shape: str, dtype: str, device: str) -> Frozen:
    """Return a model of a published shape with random weights."""
    return benchmark.load(f"random:{shape}", device=device, dtype=dtype)


def memory(frozen: Frozen, recipe: fitting.Recipe, length: int, *, compile: bool | str) -> dict[str, float | None]:
    """Return slots, predicted and taken bytes of a batch at this length, the weights included, at its peak.

    reserved_bytes: on a GPU, with what a record keeps; made_seconds: the first step, which compiles or records;
    fell_back: that it could not.
    """
    on_gpu = frozen.device.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(frozen.device)
    one = benchmark.bench(frozen, recipe, length=length, compile=compile)
    started = time.perf_counter()
    one.step()
    made_seconds = time.perf_counter() - started
    one.step()
    shape = one.batch.shape
    return {
        "slots": shape.slots,
        "bucket": shape.bucket,
        "predicted_bytes": fitting.predicted_bytes(frozen, shape),
        "taken_bytes": fitting.peak_bytes(frozen.device),  # on a processor the whole process, imports included
        "reserved_bytes": torch.cuda.max_memory_reserved(frozen.device) if on_gpu else None,
        "made_seconds": made_seconds,
        "fell_back": any(made is None for name, made in graph._COMPILED.get(frozen, {}).items() if name[0] == compile),
    }


def rates(plan: Plan, kind: str, shape: str, dtype: str, length: str) -> pl.DataFrame:
    """Return benchmark.rates of one shape at one length, beside the recipe, memory predicted and taken."""
    frozen = loaded(shape, dtype, plan.device)
    asked = (
        {"paper": ["plain", "engine"], "default": ["engine"]}
        if kind == "rates"
        else {"paper": ["plain", "engine", kind]}
    )
    found = []
    for name, methods in asked.items():
        recipe = fitting.recipe(name)
        taken = [
            {"method": method} | memory(frozen, recipe.scaled_to(frozen), int(length), compile=benchmark.WAYS[method])
            for method in methods if method != "plain"
        ]  # fmt: skip
        table = benchmark.rates(
            frozen, recipe, lengths=[int(length)], methods=methods, repeats=plan.repeats, seconds=plan.seconds
        )
        found.append(
            table.join(pl.DataFrame(taken), on="method", how="left", maintain_order="left").with_columns(
                recipe=pl.lit(name), dtype=pl.lit(dtype)
            )
        )
    return pl.concat(found)


def arithmetic(plan: Plan, folder: Path, model: str, dtype: str) -> pl.DataFrame:
    """Return the mean exact length of a model's texts, the same for every dtype of its weights."""
    grid = sweep.grid(
        model=model, dtype=dtype, device=plan.device, n_texts=plan.n_texts, length=plan.longest,
        search="grow", budget=plan.budget, bos="auto",
    )  # fmt: skip
    rows = sweep.measure(grid, folder / "rows", travelling=False, progress=False).rows
    return metrics.exact_length(rows, by=["model", "dtype", "bos"])


def suite(plan: Plan, folder: Path) -> pl.DataFrame:
    """Return the tests marked `cuda` with their outcome and seconds; raises RuntimeError where one fails."""
    report = folder.resolve() / "suite.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", plan.tests, f"--junitxml={report}"]
    done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"pytest ended with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
    cases = list(ElementTree.parse(report).iter("testcase"))
    other = ("failure", "error", "skipped")
    outcome = [next((one.tag for one in case if one.tag in other), "passed") for case in cases]
    table = pl.DataFrame({
        "test": [case.get("name") for case in cases], "outcome": outcome,
        "seconds": [float(case.get("time", 0)) for case in cases],
    })  # fmt: skip
    if done.returncode:
        files.write(folder / "suite.failed.csv", table.write_csv().encode())
        raise RuntimeError(f"tests failed:\n{done.stdout[-6000:]}")
    return table


def path_of(folder: Path, part: Sequence[str]) -> Path:
    """Return the file that a part is kept in."""
    return folder / f"{'-'.join(part).replace('/', '--')}.csv"


def here(folder: Path, plan: Plan, parts: Sequence[Sequence[str]], seconds: float) -> bool:
    """Measure parts in this process, each kept as it ends; return whether all went well."""
    gpu = torch.cuda.get_device_name(plan.device) if plan.device.startswith("cuda") else plan.device
    failed = 0
    for kind, *of in parts:
        work: Callable[[], pl.DataFrame] = {
            "suite": partial(suite, plan, folder),
            "arithmetic": partial(arithmetic, plan, folder, *of),
        }.get(kind, partial(rates, plan, kind, *of))
        try:
            benchmark.kept(path_of(folder, [kind, *of]), lambda work=work: work().with_columns(device=pl.lit(gpu)))
        except Exception:  # whatever it is, the next part may do
            traceback.print_exc()
            failed += 1
    return not failed


def apart(folder: Path, plan: Plan, parts: Sequence[Sequence[str]], seconds: float) -> bool:
    """Measure parts in a process of their own, which is stopped after some seconds; return whether it went well."""
    given = json.dumps([str(folder), asdict(plan), list(parts)])
    try:
        return subprocess.run([sys.executable, __file__, "--parts", given], timeout=seconds).returncode == 0
    except subprocess.TimeoutExpired:
        print(f"stopped after {seconds:.0f} s", file=sys.stderr)
        return False


def _process(part: tuple[str, ...]) -> tuple[str, ...]:
    """Return what parts of one process have in common: a model, and its dtype where it stays loaded; a graph alone."""
    return part[: {"arithmetic": 2, "rates": 3}.get(part[0], 4)]


def measure(folder: Path, plan: Plan, run: Callable[..., bool] = apart) -> int:
    """Measure what is not there yet, say what came out, and return how many parts are left."""
    end = time.monotonic() + 60 * plan.minutes
    missing = [part for part in plan.parts() if not path_of(folder, part).is_file()]
    for _, group in groupby(missing, key=_process):
        parts, left = list(group), end - time.monotonic()
        if left <= 0:
            break
        print(f"{time.strftime('%H:%M:%S')} {', '.join(' '.join(part) for part in parts)}", flush=True)
        if not run(folder, plan, parts, left):
            print("failed; the others go on", file=sys.stderr)
    there = [part for part in plan.parts() if path_of(folder, part).is_file()]
    files.write(folder / "summary.md", told(folder, there).encode())
    n_left = len(plan.parts()) - len(there)
    print(f"{len(there)} parts are in {folder}, {n_left} are left" + (": the same command goes on" if n_left else ""))
    return n_left


def told(folder: Path, parts: Sequence[Sequence[str]]) -> str:
    """Return the parts that are there as Markdown: rates with their ratio, share and memory; exact lengths by dtype."""
    lines = []
    tables = [pl.read_csv(path_of(folder, part)) for part in parts if part[0] in ("rates", "captured", "compiled")]
    if tables:
        lines += [
            "| model, dtype, recipe | length | texts | method | token-steps/s | times plain | share of the peak | "
            "GB predicted | GB taken |",
            "|" + "---|" * 9,
        ]
    for table in tables:
        memory = {row["method"]: row for row in table.iter_rows(named=True)}
        for recipe, dtype in table.select("recipe", "dtype").unique(maintain_order=True).iter_rows():
            for row in benchmark.medians(table.filter(recipe=recipe)).iter_rows(named=True):
                ratio = "" if row["ratio"] is None else f"{row['ratio']:.1f}"
                sizes = [memory[row["method"]][name] for name in ("predicted_bytes", "taken_bytes")]
                sizes = ["" if size is None else f"{size / 1e9:.1f}" for size in sizes]
                lines.append(
                    f"| {row['model']}, {dtype}, {recipe} | {row['length']} | {row['texts']} | {row['method']} | "
                    f"{row['rate']:,.0f} | {ratio} | {row['share']:.0%} | {' | '.join(sizes)} |"
                )
    found = [pl.read_csv(path_of(folder, part)) for part in parts if part[0] == "arithmetic"]
    if found:
        lines += ["", "| model | dtype | mean exact length | texts | censored |", "|" + "---|" * 5]
    for row in (row for table in found for row in table.iter_rows(named=True)):
        lines.append(f"| {row['model']} | {row['dtype']} | {row['value']:.1f} | {row['n']} | {row['n_censored']} |")
    return "\n".join(["# What `make gpu` measured", "", *lines, ""])


def main(arguments: Sequence[str]) -> int:
    """Measure what the command line asks for; return 0 where everything is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=HERE.parent / "build" / "gpu")
    parser.add_argument("--minutes", type=float, default=Plan.minutes)
    parser.add_argument("--device", default=Plan.device)
    parser.add_argument("--parts", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.parts:
        folder, plan, parts = json.loads(given.parts)
        return 0 if here(Path(folder), Plan(**plan), parts, 0.0) else 1
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        print("torch sees no GPU here; nothing was measured", file=sys.stderr)
        return 1
    return min(1, measure(given.folder, Plan(device=given.device, minutes=given.minutes)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
