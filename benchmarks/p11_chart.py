"""P11: a live chart of 100,000 points, 1,000 more with each update.

In the kernel: from rows that are in the log to the bytes that are sent, for the canvas and for the
matplotlib backend. In the browser, where there is one: how many pictures a second are drawn in a real
JupyterLab while rows come as fast as frames are sent.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import polars as pl

import streamlab as sl
from benchmarks.measure import Bound, Scale, alternate, folder, heading, print_bounds

POINTS, MORE = 100_000, 1_000
UPDATES = 100
SECONDS = 6

CELLS = f"""
import tempfile, threading, time
import numpy as np
import polars as pl
import streamlab as sl
lab = sl.open(tempfile.mkdtemp(), sync="os")
walk = np.random.default_rng(0).standard_normal(2_000_000).cumsum()
def rows(first, last):
    return pl.DataFrame({{"t": (np.arange(first, last) * 1000).astype("datetime64[us]"), "v": walk[first:last]}})
points = lab.create("points", rows(0, {POINTS}), time="t")
view = points.live(x="t", y="v")
view
""", f"""
def go():
    at = {POINTS}
    while at < 2_000_000 - {MORE}:
        points.append(rows(at, at + {MORE}))
        at += {MORE}
        time.sleep(1 / 60)
threading.Thread(target=go, daemon=True).start()
"""  # fmt: skip


def run(scale: Scale) -> None:
    """Print the table."""
    with folder() as place, sl.open(place / "lab", sync="os") as lab:
        contenders = {
            "canvas, one update in the kernel": lambda: kernel(lab, "canvas"),
            "matplotlib, the same": lambda: kernel(lab, "matplotlib"),
        }
        results = alternate(contenders, scale.rounds)
    heading("P11", "live chart of 100,000 points, 1,000 more an update")
    print_bounds(
        results, [Bound("canvas, one update in the kernel", 0.001), Bound("matplotlib, the same")]
    )
    drawn = in_browser()
    if drawn is not None:
        print(f"  pictures drawn in JupyterLab: {drawn:.1f} a second (reach 30)")


def rows(first: int, last: int) -> pl.DataFrame:
    """Return points of a sine, one a millisecond."""
    at = np.arange(first, last)
    return pl.DataFrame({"t": (at * 1000).astype("datetime64[us]"), "v": np.sin(at / 5000)})


def kernel(lab: sl.Lab, backend: str) -> float:
    """Return the median seconds of an update, without what the network adds."""
    if "points" in lab:
        lab.drop("points")
    stream = lab.create("points", rows(0, POINTS), time="t")
    view = stream.live(x="t", y="v", backend=backend).wait()
    view.stop()
    view._results = view._followed()  # noqa: SLF001 - by hand, to be timed alone
    view._points.clear()  # noqa: SLF001
    view._look(full=True)  # noqa: SLF001
    took, updates = [], UPDATES if backend == "canvas" else 5
    for update in range(updates):
        first = POINTS + update * MORE
        stream.append(rows(first, first + MORE))
        started = time.perf_counter()
        view._say_frame(view._look(full=False), full=False)  # noqa: SLF001
        took.append(time.perf_counter() - started)
    return float(np.median(took))


def in_browser() -> float | None:
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
        server.write("p11.ipynb", *CELLS)
        page = Page(browser, server, "p11.ipynb")
        page.run_all()
        page.page.wait_for_selector(".sl-drawn", timeout=60_000)
        count = "() => Number(document.querySelector('.sl-live').dataset.drawn)"
        page.page.wait_for_timeout(2000)
        before, started = page.page.evaluate(count), time.perf_counter()
        page.page.wait_for_timeout(SECONDS * 1000)
        drawn = page.page.evaluate(count) - before
        took = time.perf_counter() - started
        page.close()
        browser.close()
        server.close()
    return drawn / took
