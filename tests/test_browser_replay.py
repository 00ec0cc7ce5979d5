"""Transport bar and time machine, as a person sees and uses them, in JupyterLab."""

from playwright.sync_api import expect

OPEN = """
import tempfile
import polars as pl
import streamlab as sl
from streamlab.demo import dataset
lab = sl.open(tempfile.mkdtemp(), sync="os")
trades = lab.create("trades", dataset("trades"), time="ts", key="symbol", delay="5s")
replay = lab.replay("trades", speed=600)
"""


def settled(page, code):
    """Return the number that the kernel prints, once the last that was asked for has arrived."""
    known = None
    while True:
        found = int(page.execute(f"print({code})"))
        if found == known:
            return found
        known = found
        page.page.wait_for_timeout(150)


def test_the_bar_drives_a_table_and_a_chart(notebook):
    """Playing moves them, a pause stops them, a scrub shows the past, keys do what buttons do."""
    page = notebook(
        "replay.ipynb",
        OPEN,
        "bar = replay.controls()\nbar",
        "replay['trades'].live(rows=4)",
        "replay['trades'].window(sl.tumbling('1m')).agg(n=pl.len()).live(height=160)",
        size=(1280, 1500),
    )
    page.run_all()
    expect(page.page.locator(".sl-drawn")).to_have_count(3, timeout=60_000)
    strip = page.page.get_by_role("slider", name="Position of the replay")
    page.page.get_by_label("Play or pause (space)").click()
    page.page.wait_for_function(
        "() => Number((document.querySelector('.sl-table tbody tr:last-child td')?.textContent || '').replace(/\\D/g, '')) > 2000",
        timeout=20_000,
    )
    before = strip.get_attribute("aria-valuenow")
    expect(strip).not_to_have_attribute("aria-valuenow", before)
    page.page.get_by_label("Play or pause (space)").click()
    expect(page.page.locator(".sl-bar").nth(1)).to_contain_text("paused")
    stood = page.execute("print(replay.position.timestamp())")
    assert page.execute("print(replay.position.timestamp())") == stood
    box = strip.bounding_box()
    page.page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 40)
    page.page.mouse.down()
    page.page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 40, steps=8)
    page.page.mouse.up()
    middle = settled(page, "replay['trades'].end_offset")
    assert 60_000 < middle < 140_000
    expect(page.page.locator(".sl-table tbody tr").last.locator("td").first).to_have_text(
        f"{middle - 1:,}"
    )
    strip.focus()
    page.page.keyboard.press("m")
    page.page.keyboard.press("Home")
    expect(page.page.locator(".sl-live").nth(1)).to_contain_text("0 rows")
    page.page.keyboard.press("]")
    expect(page.page.locator(".sl-table tbody tr").last.locator("td").first).to_have_text(
        f"{middle - 1:,}"
    )
    page.page.keyboard.press("Shift+ArrowRight")
    page.page.wait_for_function(
        "(n) => Number((document.querySelector('.sl-table tbody tr:last-child td')?.textContent || '').replace(/\\D/g, '')) > n",
        arg=middle,
    )
    assert not page.outside and not page.errors


def test_the_time_machine_shows_the_past_while_it_is_dragged(notebook):
    """Dragging the slider changes chart, table and SQL together; the still is what a reload shows."""
    page = notebook(
        "machine.ipynb",
        OPEN,
        """tm = lab.time_machine("trades").chart("trades", y="price", last="5m").table("trades", rows=3)
tm.sql("SELECT count(*) AS n FROM trades")
tm""",
        size=(1280, 1500),
    )
    page.run_all()
    count = page.page.locator(".sl-pane").nth(2).locator("td").first
    expect(count).to_be_visible(timeout=60_000)
    strip = page.page.get_by_role("slider", name="Position of the replay")
    box = strip.bounding_box()
    picture = "() => document.querySelector('.sl-pane canvas').toDataURL()"
    page.page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + 40)
    page.page.mouse.down()
    shown = set()
    for step in range(10):
        page.page.mouse.move(box["x"] + box["width"] * (0.8 - step * 0.03), box["y"] + 40)
        page.page.wait_for_timeout(80)
        shown.add(page.page.evaluate(picture))
    page.page.mouse.up()
    assert len(shown) > 4
    was = settled(page, "tm._replay['trades'].end_offset")
    expect(count).to_have_text(f"{was:,}")
    expect(
        page.page.locator(".sl-pane").nth(1).locator("tbody tr").last.locator("td").first
    ).to_have_text(f"{was - 1:,}")
    page.execute("tm.at = '2026-01-05T12:00Z'; tm.stop()")
    page.save()
    page.lab.stop_kernels()
    page.open()
    expect(page.page.locator(".sl-still img >> nth=0")).to_be_visible(timeout=20_000)
    expect(page.page.locator(".sl-still")).to_contain_text("12:00:00 UTC")
    assert not page.outside and not page.errors
