"""How long it takes to load a large study and to write its page, and how much memory that needs.

    python benchmarks/large_study.py [--trials 10000] [--dimensions 30]

The study is made up: records, configs of 12 layers and 300 curves as a search writes them.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


ROOT = Path(__file__).parents[1]


def measure(what: str, run: Path) -> None:
    """Print the seconds of one operation in this process, and the most memory it held."""
    import reports
    from reports.page import write_report

    begin = time.perf_counter()
    if what == "load":
        reports.load(run)
    else:
        write_report(run)
    seconds = time.perf_counter() - begin
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{what:5} {seconds:6.2f} s  {memory:5.2f} GB")


def main() -> None:
    """Write the study and measure each operation in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--dimensions", type=int, default=30)
    parser.add_argument("--measure", nargs=2, metavar=("WHAT", "RUN"))
    given = parser.parse_args()
    if given.measure:
        measure(given.measure[0], Path(given.measure[1]))
        return
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "shared")]
    from made_up_study import made_up_run

    with tempfile.TemporaryDirectory() as folder:
        sizes = {"dimensions": given.dimensions, "layers": 12}
        run = made_up_run(Path(folder) / "run", given.trials, **sizes)
        journal = (run / "study.journal").stat().st_size / 1e6
        print(f"{given.trials:,} trials, {given.dimensions} dimensions, journal {journal:.0f} MB")
        for what in ("load", "page"):
            command = [sys.executable, __file__, "--measure", what, str(run)]
            subprocess.run(command, check=True, cwd=ROOT)
        size = (run / "report" / "index.html").stat().st_size / 1e6
        print(f"index.html {size:.1f} MB")


if __name__ == "__main__":
    main()
