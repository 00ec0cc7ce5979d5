"""What all live views share: pace, greeting, one view per cell, bounded memory."""

import gc
import threading
import time
import tracemalloc

import polars as pl
import pytest
from watching import Watched, eventually, tell

import streamlab as sl
from streamlab.notebook import cells, live
from streamlab.shown import notebook


@pytest.fixture
def watched(monkeypatch):
    return Watched(monkeypatch)


@pytest.fixture
def numbers(lab):
    return lab.create("numbers", {"n": [0.0]})


def test_frames_are_numbered_and_whole_until_somebody_greets(numbers, watched):
    """Before a hello everything is sent now and then; after it changes only; a resync brings all."""
    view = numbers.live(x="_offset", y="n").wait()
    eventually(lambda: len(watched.frames(view)) >= 2)  # nothing was appended: sent again unasked
    assert all(content["full"] for content, _ in watched.frames(view))
    tell(view, t="hello")
    view.wait()
    numbers.append({"n": [1.0]})
    view.wait()
    assert not watched.last(view)["full"]
    tell(view, t="resync")
    view.wait()
    assert watched.last(view)["full"]
    numbered = [content["seq"] for content, _ in watched.frames(view)]
    assert numbered == list(range(1, len(numbered) + 1))
    view.stop()


def test_a_flood_of_rows_is_no_flood_of_messages(numbers, watched):
    """However fast rows come, a view sends at most thirty frames a second."""
    view = numbers.live(x="_offset", y="n").wait()
    before, started = len(watched.frames(view)), time.monotonic()
    while time.monotonic() - started < 1.0:
        numbers.append({"n": [0.0] * 10})
    assert len(watched.frames(view)) - before <= 35
    view.stop()


def test_a_long_look_holds_up_neither_a_cell_nor_the_kernel(lab, watched):
    """While a query computes for seconds, showing the view and what the browser says do not wait for it."""
    going, arrived = threading.Event(), threading.Event()

    def slow(frame):
        if frame.height:
            arrived.set()
            going.wait(20)
        return frame

    numbers = lab.create("slow", {"x": [1, 2], "y": [1.0, 2.0]})
    query = numbers.map_batches(slow)
    view = query.live(x="x", y="y")
    assert arrived.wait(10)
    started = time.monotonic()
    view._ipython_display_()
    tell(view, t="hello")
    tell(view, t="pause", on=True)
    assert time.monotonic() - started < 5
    going.set()
    eventually(lambda: view.paused)
    assert view._greeted
    view.stop()


class Shell:
    """An IPython shell, as far as cells are concerned."""

    def __init__(self):
        self.request, self.hooks = {}, []
        self.events = self

    def register(self, _event, hook):
        self.hooks.append(hook)

    def get_parent(self):
        return self.request

    def run(self, cell, deleted=()):
        self.request = {"metadata": {"cellId": cell, "deletedCells": list(deleted)}}
        for hook in self.hooks:
            hook()


def test_a_cell_that_is_run_again_or_deleted_closes_its_views(numbers, watched, monkeypatch):
    """One view per cell: the old one ends when its cell runs again, or is gone; others go on."""
    shell = Shell()
    monkeypatch.setattr(cells, "_shell", lambda: shell)
    monkeypatch.setattr(cells, "_watched", [])
    shell.run("a")
    first = numbers.live()
    shell.run("b")
    second = numbers.live()
    assert not first.ended
    shell.run("a")
    third = numbers.live()
    assert first.ended and not second.ended
    shell.run("c", deleted=["b"])
    assert second.ended and not third.ended
    assert third in live.live_views() and first not in live.live_views()
    third.stop()


def test_where_the_front_end_gives_no_id_a_cell_is_its_text(monkeypatch):
    """Without ids of cells, the same text run again is the same cell."""
    shell = Shell()
    monkeypatch.setattr(cells, "_shell", lambda: shell)
    shell.request = {"metadata": {}, "content": {"code": "x.live()"}}
    assert cells.here() == "text:x.live()"
    monkeypatch.setattr(cells, "_shell", lambda: None)
    assert cells.here() is None


def test_an_hour_of_rows_leaves_memory_bounded(lab, watched):
    """An hour of rows, with a look every five seconds of it, leaves no more memory in use than a minute."""
    stream = lab.create("s", {"t": [0.0], "k": ["a"], "v": [0.0]})
    views = [
        stream.live(rows=20),
        stream.live(x="t", y="v", keep=1000),
        stream.filter(pl.col("v") >= 0).live(kind="table"),
    ]
    for view in views:
        view.wait().stop()
        view._results = view._followed() if hasattr(view, "_followed") else None
        if hasattr(view, "_forget"):
            view._forget()
    frame = pl.DataFrame({"t": [float(i) for i in range(50)], "k": ["a"] * 50, "v": [1.0] * 50})

    def look_on(looks):
        for _ in range(looks):
            stream.append(frame)
            for view in views:
                view._look(full=False)
            watched.said.clear()
        gc.collect()

    look_on(100)
    tracemalloc.start()
    look_on(50)
    before = tracemalloc.get_traced_memory()[0]
    look_on(720)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 300_000, grown
    assert len(views[1]._points) <= 1000


def test_many_views_end_without_a_thread_left(numbers, watched):
    """A hundred views, stopped, leave no thread and no live view."""
    views = [numbers.live() for _ in range(100)]
    for view in views:
        view.close()
    assert not [
        t for t in threading.enumerate() if t.name.startswith("streamlab view") and t.is_alive()
    ]
    assert not set(views) & set(live.live_views())


def test_without_widgets_the_error_names_the_pip_line(monkeypatch):
    """Where anywidget is missing, live() says what to install."""
    import builtins
    import sys

    real = builtins.__import__

    def without(name, *given, **named):
        if name.split(".")[0] == "anywidget":
            raise ModuleNotFoundError("No module named 'anywidget'", name="anywidget")
        return real(name, *given, **named)

    for name in [n for n in sys.modules if n.startswith("streamlab.notebook")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(sl.MissingExtra, match=r"pip install 'streamlab\[notebook\]'"):
        notebook("table")


def test_scripts_are_small_and_ask_nobody():
    """What a page is sent is less than 60 KB a widget, imports nothing and names no other host."""
    for path in live.HERE.glob("*.js"):
        text = path.read_text()
        assert len(text.encode()) < 40_000, path.name
        assert "import(" not in text and "\nimport " not in text
        assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
        assert "innerHTML" not in text and "eval(" not in text
        assert max(map(len, text.splitlines())) < 400, path.name
