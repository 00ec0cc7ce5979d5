"""P12: scrubbing over 10M rows with the time machine: a chart of the last minutes, and a table.

In the kernel: from an instant to the bytes that are sent. In the browser, where there is one: how
many pictures a second are drawn while the slider is dragged through history.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import polars as pl

import streamlab as sl
from benchmarks.measure import Bound, Scale, alternate, folder, heading, print_bounds

ROWS = 10_000_000
BATCH = 65_536
FRAMES = 60

OPEN = """
import streamlab as sl
lab = sl.open("{path}")
tm = lab.time_machine("points").chart("points", y="v", last="100s").table("points", rows=10)
tm
"""


def run(scale: Scale) -> None:
    """Print the table."""
    with folder() as place:
        rows = scale.rows(ROWS)
        with sl.open(place / "lab", sync="os") as lab:
            make(lab, rows)
            contenders = {"an instant, in the kernel": lambda: kernel(lab)}
            times = alternate(contenders, scale.rounds)
        heading("P12", f"scrubbing over {rows:,} rows: a chart of 100,000 of them, and a table")
        print_bounds(times, [Bound("an instant, in the kernel", 1 / 15)])
        drawn = in_browser(place)
        if drawn is not None:
            print(f"  pictures drawn in JupyterLab while dragging: {drawn:.1f} a second (reach 15)")


def make(lab: sl.Lab, rows: int) -> None:
    """Record points of a random walk, one a millisecond."""
    walk = np.random.default_rng(0).standard_normal(rows).cumsum()
    first = pl.DataFrame({"t": np.empty(0, "datetime64[us]"), "v": np.empty(0)})
    stream = lab.create("points", first, time="t")
    for start in range(0, rows, BATCH):
        at = np.arange(start, min(start + BATCH, rows))
        stream.append({"t": (at * 1000).astype("datetime64[us]"), "v": walk[at[0] : at[-1] + 1]})
    stream.seal()


def kernel(lab: sl.Lab) -> float:
    """Return the median seconds from an instant to the bytes of a frame."""
    machine = (
        lab.time_machine("points").chart("points", y="v", last="100s").table("points", rows=10)
    )
    machine.wait(60)
    low, high = machine._replay.span  # noqa: SLF001 - by hand, to be timed alone
    took = []
    for share in np.random.default_rng(1).random(FRAMES):
        with machine._lock:  # noqa: SLF001
            started = time.perf_counter()
            machine._replay.seek(low + (high - low) * float(share))  # noqa: SLF001
            machine._look(full=False)  # noqa: SLF001
            took.append(time.perf_counter() - started)
    machine.stop()
    return float(np.median(took))


def in_browser(place: Path) -> float | None:
    """Return how many pictures a second a browser draws; None where there is none."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    try:
        from browsing import ARGS, CHROMIUM, Lab, Page
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    if CHROMIUM is None:
        return None
    with folder() as home, sync_playwright() as playwright:
        server = Lab(home)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        server.write("p12.ipynb", OPEN.format(path=place / "lab"))
        page = Page(browser, server, "p12.ipynb")
        page.run_all()
        page.page.wait_for_selector(".sl-drawn", timeout=60_000)
        page.page.wait_for_timeout(1500)
        box = page.page.locator(".sl-strip").bounding_box()
        count = "() => Number(document.querySelector('.sl-live').dataset.drawn)"
        page.page.mouse.move(box["x"] + box["width"] * 0.95, box["y"] + 40)
        page.page.mouse.down()
        before, started = page.page.evaluate(count), time.perf_counter()
        for step in range(200):
            page.page.mouse.move(box["x"] + box["width"] * (0.95 - 0.0045 * step), box["y"] + 40)
            page.page.wait_for_timeout(20)
        drawn, took = page.page.evaluate(count) - before, time.perf_counter() - started
        page.page.mouse.up()
        page.close()
        browser.close()
        server.close()
    return drawn / took
