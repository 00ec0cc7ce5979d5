"""Fixtures of all tests: a lab in a temporary folder, with the clock on the wall or a manual one."""

import sys
from pathlib import Path

import polars as pl
import pytest

import streamlab as sl
from streamlab.testing import ManualClock, temp_lab

sys.path.insert(0, str(Path(__file__).parent))  # oracle.py, faults.py

from browsing import ARGS, CHROMIUM, Lab, Page, need_browser


@pytest.fixture
def lab(tmp_path):
    with sl.open(tmp_path / "lab", sync="os") as opened:
        yield opened


@pytest.fixture
def clock():
    return ManualClock("2026-01-01T12:00:00Z")


@pytest.fixture
def timed_lab(clock):
    with temp_lab(clock=clock) as opened:
        yield opened


@pytest.fixture
def trades():
    """A thousand trades, one a second, out of order now and then."""
    seconds = pl.Series([i - 30 if i % 97 == 0 and i > 30 else i for i in range(1000)])
    start = pl.datetime(2026, 1, 1, time_zone="UTC")
    return pl.DataFrame({"n": range(1000), "second": seconds}).select(
        ts=(start + pl.duration(seconds=pl.col("second"))).dt.cast_time_unit("us"),
        symbol=pl.concat_str(pl.lit("S"), pl.col("n") % 7),
        price=100.0 + pl.col("n") / 8,
        size=pl.col("n") % 13,
    )


@pytest.fixture(scope="session")
def jupyter(tmp_path_factory):
    """A JupyterLab server, on loopback, for the tests of this process."""
    need_browser()
    server = Lab(tmp_path_factory.mktemp("jupyter"))
    yield server
    server.close()


@pytest.fixture(scope="module")  # its event loop is in the way of tests that have their own
def browser():
    """A Chromium without a window."""
    need_browser()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield found
        found.close()


@pytest.fixture
def notebook(jupyter, browser):
    """Open a notebook of these cells in a page of its own; kernels end with the test."""
    pages = []

    def opened(name, *cells, **options):
        jupyter.write(name, *cells)
        pages.append(Page(browser, jupyter, name, **options))
        return pages[-1]

    yield opened
    for page in pages:
        page.close()
    jupyter.stop_kernels()
