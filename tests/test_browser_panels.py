"""Panels and the picture of a watermark, as a person sees and uses them, in JupyterLab."""

import re

from playwright.sync_api import expect

OPEN = """
import tempfile, threading, time
import polars as pl
import streamlab as sl
from streamlab.demo import dataset
lab = sl.open(tempfile.mkdtemp(), sync="os")
orders = lab.create("orders", dataset("orders"), time="ts", key="country", delay="10s")
sales = orders.window(sl.tumbling("5m"), by="country").agg(n=pl.len())
"""


def test_a_panel_moves_and_its_buttons_work(notebook):
    """Rows in grow while the job runs, stand while it is paused; stop asks once more and stops."""
    page = notebook(
        "panel.ipynb",
        OPEN,
        "ticks = lab.create('ticks', {'n': [0]})\njob = ticks.filter(pl.col('n') >= 0).run(into='out')\n"
        "def go():\n    while True:\n        ticks.append({'n': [1] * 50}); time.sleep(0.02)\n"
        "threading.Thread(target=go, daemon=True).start()\nlab.jobs.live()",
    )
    page.run_all()
    count = page.page.locator(".sl-panel tbody tr").first.locator("td").nth(2)
    expect(count).to_have_text(re.compile(r"\d"), timeout=60_000)
    before = count.inner_text()
    expect(count).not_to_have_text(before)
    page.page.get_by_label("pause out").click()
    expect(page.page.locator(".sl-pill")).to_have_text("paused")
    page.page.get_by_label("resume out").click()
    expect(page.page.locator(".sl-pill")).to_have_text("running")
    stop = page.page.get_by_label("stop out")
    stop.click()
    expect(stop).to_have_text("stop?")
    assert page.execute("print(job.status)").strip() == "running"
    stop.click()
    expect(page.page.locator(".sl-pill")).to_have_text("stopped", timeout=15_000)
    assert page.execute("print(job.status)").strip() == "stopped"
    assert not page.outside and not page.errors


def test_the_delay_slider_counts_as_lateness_does(notebook):
    """Moved, the slider says at once how many rows are late, and that is what the engine says."""
    page = notebook("marks.ipynb", OPEN, "view = sales.watermarks()\nview")
    page.run_all()
    view = page.page.locator(".sl-live")
    said = int(page.execute("print(sales.lateness(['10s'])['rows_late'].item())"))
    expect(view).to_have_attribute("data-late", str(said), timeout=60_000)
    expect(view).to_contain_text(f"{said} of 60,000 rows late")
    slider = page.page.get_by_label("Delay", exact=True)
    seen = set()
    for step in (200, 500, 800, 1000):
        slider.evaluate(
            "(node, v) => { node.value = v; node.dispatchEvent(new Event('input')); }", step
        )
        page.page.wait_for_timeout(60)
        seen.add(int(view.get_attribute("data-late")))
        delay = int(view.get_attribute("data-delay"))
        ask = f"import datetime as dt; print(sales.lateness([dt.timedelta(microseconds={delay})])['rows_late'].item())"
        assert view.get_attribute("data-late") == page.execute(ask).strip()
    assert len(seen) == 4 and min(seen) == 0
    picture = "() => document.querySelector('.sl-canvas').toDataURL()"
    before = page.page.evaluate(picture)
    page.page.keyboard.press("b")
    view.focus()
    page.page.keyboard.press("b")
    page.page.wait_for_function(f"(before) => ({picture})() !== before", arg=before)
    assert not page.outside and not page.errors


def test_an_error_is_text_and_a_cell_has_one_view(notebook):
    """HTML in an error does nothing; run again, a cell leaves one panel; what starts again loses its error."""
    page = notebook(
        "failed.ipynb",
        OPEN,
        "mark = '<img src=x onerror=\"document.title = 1\"><b>no</b>'\n"
        "def bad(frame):\n    if mark: raise ValueError(mark)\n"
        "failed = orders.run(into=bad, name='bad')\nlab.jobs.live()",
    )
    page.run_all()
    failed = page.page.locator(".sl-failed")
    expect(failed).to_contain_text("<b>no</b>", timeout=60_000)
    assert failed.locator("b, img").count() == 0
    assert page.page.title() != "1"
    page.run_cell(1)
    expect(failed).to_contain_text("<b>no</b>", timeout=15_000)
    expect(page.page.locator(".sl-live")).to_have_count(1)
    live = "from streamlab.notebook.live import live_views; print(len(live_views()))"
    assert page.execute(live).strip() == "1"
    page.execute("mark = ''; job = orders.run(into=bad, name='bad')")
    expect(page.page.locator(".sl-pill")).to_have_text("running", timeout=15_000)
    expect(failed).to_have_count(0)
    assert not page.outside and not page.errors


def test_the_picture_of_a_watermark_moves_and_is_paused(notebook):
    """Rows that come extend it; paused it stands still; going on it has caught up."""
    page = notebook(
        "moves.ipynb",
        OPEN,
        "import datetime as dt\nstart = dt.datetime.now(dt.UTC)\n"
        "ticks = lab.create('ticks', {'t': [start]}, time='t', delay='1s')\n"
        "def go():\n    while True:\n"
        "        now = dt.datetime.now(dt.UTC)\n"
        "        ticks.append({'t': [now, now - dt.timedelta(seconds=3)]}); time.sleep(0.05)\n"
        "threading.Thread(target=go, daemon=True).start()\nview = ticks.watermarks()\nview",
    )
    page.run_all()
    rows = page.page.locator(".sl-live .sl-bar .sl-quiet").first
    expect(rows).to_have_text(re.compile(r"^\d+ rows"), timeout=60_000)
    before = rows.inner_text()
    expect(rows).not_to_have_text(before)
    page.page.get_by_label("Pause (space)").click()
    expect(rows).to_contain_text("paused")
    held = rows.inner_text()
    page.page.wait_for_timeout(800)
    assert rows.inner_text() == held
    page.page.get_by_label("Pause (space)").click()
    expect(rows).not_to_contain_text("paused")
    expect(rows).not_to_have_text(held.split(" \u00b7 ")[0])
    assert not page.outside and not page.errors
