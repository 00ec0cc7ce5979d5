"""The widgets in marimo, where cells are a graph and outputs are its own."""

import contextlib
import os
import subprocess
import sys
import time
import urllib.request

import pytest
from browsing import free_port
from playwright.sync_api import expect

APP = """
import marimo
app = marimo.App()

@app.cell
def _():
    import tempfile, threading, time
    import polars as pl
    import streamlab as sl
    lab = sl.open(tempfile.mkdtemp(), sync="os")
    readings = lab.create("readings", {"n": list(range(50)), "v": [float(i % 7) for i in range(50)]})
    def go():
        n = 50
        while True:
            readings.append({"n": [n], "v": [float(n % 7)]})
            n += 1
            time.sleep(0.05)
    threading.Thread(target=go, daemon=True).start()
    return lab, readings

@app.cell
def _(readings):
    readings.live(rows=5)
    return

@app.cell
def _(readings):
    readings.live(x="n", y="v")
    return

if __name__ == "__main__":
    app.run()
"""


@pytest.fixture
def marimo(tmp_path):
    """A marimo server that runs the notebook, on loopback."""
    (tmp_path / "app.py").write_text(APP)
    port = free_port()
    command = [sys.executable, "-m", "marimo", "run", "app.py", "--headless", "--no-token", "--host",
               "127.0.0.1", "--port", str(port)]  # fmt: skip
    env = {**os.environ, "HOME": str(tmp_path), "MARIMO_SKIP_UPDATE_CHECK": "1"}
    with (tmp_path / "marimo.log").open("w") as out:
        process = subprocess.Popen(
            command, cwd=tmp_path, env=env, stdout=out, stderr=subprocess.STDOUT
        )
    base = f"http://127.0.0.1:{port}"
    until = time.monotonic() + 60
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{base}/health", timeout=1):
            break
        assert process.poll() is None and time.monotonic() < until, (
            tmp_path / "marimo.log"
        ).read_text()
        time.sleep(0.1)
    yield base
    process.terminate()
    process.wait(15)


def test_the_widgets_live_in_marimo_too(marimo, browser):
    """Table and chart follow, and the table can be paused, with nothing but anywidget's contract."""
    page = browser.new_context(viewport={"width": 1200, "height": 1200}).new_page()
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(marimo)
    expect(page.locator(".sl-drawn")).to_have_count(2, timeout=60_000)
    last = page.locator(".sl-table tbody tr").last.locator("td").first
    before = last.inner_text()
    expect(last).not_to_have_text(before)
    shown = page.locator(".sl-canvas").evaluate("(c) => c.toDataURL()")
    until = time.monotonic() + 10
    while page.locator(".sl-canvas").evaluate("(c) => c.toDataURL()") == shown:
        assert time.monotonic() < until
    page.get_by_label("Pause (space)").first.click()
    expect(page.locator(".sl-bar").first).to_contain_text("paused at offset")
    assert not errors
    page.context.close()
