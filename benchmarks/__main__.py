"""``python -m benchmarks [p01 p02 ...] [--quick]``: run the benchmarks, all of them by default."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
from pathlib import Path

from benchmarks.measure import Scale

SCRIPTS = sorted(path.stem for path in Path(__file__).parent.glob("p[0-9]*.py"))
ASKED_FOR = ("memory", "nexmark")  # not among "all": they take long, or are no ratios


def find(name: str) -> str:
    """Return the script that is meant: p1, p01, p01_append and memory are all names."""
    if name in ASKED_FOR:
        return name
    number = name.lstrip("pP").split("_")[0]
    for script in SCRIPTS:
        if script == name or (number.isdigit() and script.startswith(f"p{int(number):02d}_")):
            return script
    raise SystemExit(f"no benchmark {name!r}; there are {', '.join([*SCRIPTS, *ASKED_FOR])}")


def main() -> None:
    """Read the command line, run, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="p1", help=", ".join([*SCRIPTS, *ASKED_FOR]))
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows, three rounds")
    parser.add_argument("--rounds", type=int, help="how often each is measured (5)")
    given = parser.parse_args()
    scale = Scale(10, given.rounds or 3) if given.quick else Scale(1, given.rounds or 5)
    print(
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; ",
        end="",
    )
    print("read the ratios, not the times")
    for script in [find(name) for name in given.names] or SCRIPTS:
        importlib.import_module(f"benchmarks.{script}").run(scale)


if __name__ == "__main__":
    main()
