"""The live table, as a person sees and uses it, in JupyterLab."""

import re

from playwright.sync_api import expect

OPEN = """
import tempfile, threading, time
import polars as pl
import streamlab as sl
lab = sl.open(tempfile.mkdtemp(), sync="os")
numbers = lab.create("numbers", {"n": list(range(100)), "text": ["row"] * 100})
running = True
def go():
    n = 100
    while running:
        numbers.append({"n": [n], "text": ["row"]})
        n += 1
        time.sleep(0.02)
thread = threading.Thread(target=go, daemon=True)
"""
TABLE = "view = numbers.live(rows=8)\nview"


def first_cell(page):
    return page.page.locator(".sl-table tbody tr").last.locator("td").first


def number(locator):
    return int(re.sub(r"\D", "", locator.inner_text()))


def test_a_live_table_follows_pauses_and_goes_back(notebook):
    """Rows come while it follows, stand while it is paused, and show the past when it is scrubbed."""
    page = notebook("table.ipynb", OPEN, TABLE, "thread.start()")
    page.run_all()
    table = page.page.locator(".sl-live")
    expect(table).to_have_count(1, timeout=60_000)
    expect(first_cell(page)).to_have_text(re.compile("1[1-9][0-9]"), timeout=30_000)
    page.page.get_by_label("Pause (space)").click()
    expect(page.page.locator(".sl-bar")).to_contain_text("paused at offset")
    stood = number(first_cell(page))
    page.page.wait_for_timeout(400)
    assert number(first_cell(page)) == stood
    page.page.get_by_label("Rows below this offset").fill("42")
    page.page.keyboard.press("Enter")
    expect(first_cell(page)).to_have_text("41")
    page.page.get_by_label("Follow the end (End)").click()
    expect(first_cell(page)).not_to_have_text("41")
    assert number(first_cell(page)) > stood
    page.page.get_by_label("Filter, a condition in SQL").fill("n % 10 = 3")
    page.page.keyboard.press("Enter")
    expect(first_cell(page)).to_have_text(re.compile(r"\d*3$"))
    page.page.get_by_label("Filter, a condition in SQL").fill("m = 3")
    page.page.keyboard.press("Enter")
    expect(page.page.locator(".sl-error")).to_contain_text("m")
    assert not page.outside and not page.errors
