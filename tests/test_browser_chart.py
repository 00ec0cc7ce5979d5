"""The live chart, as a person sees and uses it, in JupyterLab."""

import hashlib
import re

from playwright.sync_api import expect

OPEN = """
import datetime as dt, tempfile, threading, time
import polars as pl
import streamlab as sl
lab = sl.open(tempfile.mkdtemp(), sync="os")
start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
def rows(first, last):
    at = [start + dt.timedelta(seconds=i) for i in range(first, last)]
    return pl.DataFrame({"t": at, "k": ["a", "b"] * ((last - first) // 2), "v": [float(i % 37) for i in range(first, last)]})
readings = lab.create("readings", rows(0, 600), time="t")
query = readings.window(sl.tumbling("10s"), by="k").agg(v=pl.col("v").sum())
going = threading.Event()
def go():
    at = 600
    while True:
        going.wait()
        readings.append(rows(at, at + 20))
        at += 20
        time.sleep(0.03)
threading.Thread(target=go, daemon=True).start()
"""
TALL = (1280, 2000)
CHART = "view = query.live(kind='{kind}')\nview"


def pixels(page):
    """Return what the canvas shows, as a fingerprint."""
    data = page.page.evaluate("() => document.querySelector('.sl-canvas').toDataURL()")
    return hashlib.sha256(data.encode()).hexdigest()


def changed(page, before, timeout=15_000):
    """Wait until the canvas shows something else."""
    page.page.wait_for_function(
        "(before) => document.querySelector('.sl-canvas').toDataURL() !== before",
        arg=before,
        timeout=timeout,
    )


def picture(page):
    return page.page.evaluate("() => document.querySelector('.sl-canvas').toDataURL()")


def resting(page):
    """Wait until nothing more is drawn, and return the picture."""
    page.page.wait_for_function(
        """async () => { const c = document.querySelector('.sl-canvas'), a = c.toDataURL();
        await new Promise((r) => setTimeout(r, 250)); return c.toDataURL() === a; }""",
        timeout=15_000,
    )
    return picture(page)


def test_a_live_chart_moves_stops_and_zooms(notebook):
    """Pixels change while rows come, stop on pause, zoom and go back; nothing is asked of outside."""
    page = notebook("chart.ipynb", OPEN, CHART.format(kind="line"))
    page.run_all()
    expect(page.page.locator(".sl-drawn")).to_have_count(1, timeout=60_000)
    expect(page.page.locator(".sl-legend")).to_contain_text("open: may still change")
    still = resting(page)
    page.execute("going.set()")
    changed(page, still)
    page.page.get_by_label("Pause (space)").click()
    held = resting(page)
    page.page.get_by_label("Pause (space)").click()
    changed(page, held)
    page.execute("going.clear()")
    whole = resting(page)
    box = page.page.locator(".sl-canvas").bounding_box()
    page.page.mouse.move(box["x"] + 300, box["y"] + 80)
    expect(page.page.locator(".sl-tip")).to_contain_text("UTC")
    page.page.mouse.down()
    page.page.mouse.move(box["x"] + 500, box["y"] + 90, steps=4)
    page.page.mouse.up()
    page.page.mouse.move(5, 5)
    zoomed = resting(page)
    assert zoomed != whole
    page.page.keyboard.press("u")
    expect(page.page.get_by_label("Time in UTC or local (u)")).to_have_text("local")
    page.page.keyboard.press("u")
    page.page.keyboard.press("ArrowLeft")
    assert resting(page) != zoomed
    page.page.keyboard.press("0")
    assert resting(page) == whole
    page.page.get_by_role("button", name="a", exact=True).click()
    assert resting(page) != whole
    assert not page.outside and not page.errors


LEFT = """
import threading, time
import streamlab.notebook.live as live
def threads():
    return sum(t.name.startswith("streamlab view") for t in threading.enumerate())
until = time.monotonic() + 10  # that of a view that was closed may be about to end
while threads() > 1 and time.monotonic() < until:
    time.sleep(0.01)
print(len(live.live_views()), threads())
"""
"""Prints how many views and threads of views there are."""


def test_a_second_run_of_the_cell_leaves_one_view(notebook):
    """The cell run again has one live view, one thread, and the old one is closed."""
    page = notebook("again.ipynb", OPEN, CHART.format(kind="bar"))
    page.run_all()
    expect(page.page.locator(".sl-drawn")).to_have_count(1, timeout=60_000)
    for _ in range(2):
        page.run_cell(1)
        expect(page.page.locator(".sl-drawn")).to_have_count(1)
        expect(page.page.locator(".sl-live")).to_have_count(1)
    assert page.execute(LEFT).strip() == "1 1"


def test_two_views_of_one_model_show_the_same(notebook):
    """Displayed twice, a chart is drawn twice from the same data, each zoomed as it likes."""
    page = notebook("twice.ipynb", OPEN, CHART.format(kind="area"), "view", size=TALL)
    page.run_all()
    expect(page.page.locator(".sl-drawn")).to_have_count(2, timeout=60_000)
    page.execute("going.set()")
    same = "() => new Set([...document.querySelectorAll('.sl-canvas')].map((c) => c.toDataURL())).size === 1"
    page.execute("going.clear()")
    page.page.wait_for_function(same, timeout=15_000)


def test_a_saved_notebook_shows_the_still(notebook):
    """Opened again without its kernel, the notebook shows the picture as it was, and says so."""
    page = notebook(
        "saved.ipynb", OPEN, CHART.format(kind="line"), "numbers = readings.live(rows=3)\nnumbers"
    )
    page.run_all()
    expect(page.page.locator(".sl-drawn")).to_have_count(2, timeout=60_000)
    expect(page.page.locator(".sl-still").first).to_be_hidden()
    page.execute("view.stop(), numbers.stop()")
    expect(page.page.locator(".sl-note").filter(has_text="stopped, as of").first).to_be_visible()
    page.save()
    page.lab.stop_kernels()
    page.open()
    expect(page.page.locator(".sl-still img")).to_be_visible(timeout=20_000)
    expect(page.page.locator(".sl-still").last).to_contain_text("run the cell for the live view")
    expect(page.page.locator(".sl-still").last).to_contain_text("599")
    expect(page.page.get_by_text("model not found")).to_have_count(0, timeout=15_000)


def test_a_busy_kernel_does_not_stop_the_picture(notebook):
    """While a cell computes, what comes is drawn all the same, and a pause holds at once."""
    page = notebook("busy.ipynb", OPEN, CHART.format(kind="line"))
    page.run_all()
    expect(page.page.locator(".sl-drawn")).to_have_count(1, timeout=60_000)
    page.page.evaluate(
        """() => { const k = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
        window.busy = k.requestExecute({code: 'going.set()\\nend = time.time() + 6\\nwhile time.time() < end: sum(range(10000))'}); }"""
    )
    changed(page, picture(page))
    changed(page, picture(page))
    page.page.get_by_label("Pause (space)").click()
    held = resting(page)
    expect(page.page.locator(".sl-bar")).to_contain_text("paused here")
    page.page.get_by_label("Pause (space)").click()
    changed(page, held)
    page.page.evaluate("async () => { await window.busy.done; }")


def test_what_is_malicious_is_text(notebook):
    """Names, values, titles and errors with HTML and mathematics in them do nothing."""
    evil = "<img src=x onerror=window.hacked=1>$\\\\frac{1}{2}$"
    page = notebook(
        "evil.ipynb",
        OPEN,
        f"evil = '{evil}'\ns = lab.create('evil', {{'x': [1, 2], evil: ['a' + evil, evil], 'y': [1.0, 2.0]}})\ns.live(rows=2)",
        "chart = s.live(x='x', y='y', color=evil, title=evil, unit=evil)\nchart",
        "def bad(frame):\n    if frame.height: raise ValueError(evil)\n    return frame\nfailed = s.map_batches(bad).live(x='x', y='y')\nfailed",
        size=TALL,
    )
    page.run_all()
    expect(page.page.locator(".sl-drawn")).to_have_count(2, timeout=60_000)
    expect(page.page.locator(".sl-error")).to_contain_text("<img src=x")
    expect(page.page.locator(".sl-table").first).to_contain_text("<img src=x")
    page.save()
    page.lab.stop_kernels()
    page.open()
    expect(page.page.locator(".sl-still").first).to_be_visible(timeout=20_000)
    assert page.page.evaluate("() => window.hacked") is None
    assert page.page.locator("mjx-container").count() == 0
    assert not page.outside and not page.errors


def test_pictures_of_matplotlib_change_too(notebook):
    """With the matplotlib backend the picture follows, and is in the notebook as it is saved."""
    page = notebook("mpl.ipynb", OPEN, "view = query.live(backend='matplotlib')\nview")
    page.run_all()
    image = page.page.locator(".jp-OutputArea-output img").first
    expect(image).to_be_visible(timeout=60_000)
    before = image.get_attribute("src")
    page.execute("going.set()")
    expect(image).not_to_have_attribute("src", re.compile(re.escape(before)), timeout=15_000)
