"""A live view without a browser: what it says is recorded, what a browser would say is told."""

import contextlib
import threading
import time

import numpy as np


class Watched:
    """The frames of a view, as a browser would fold them."""

    def __init__(self, monkeypatch):
        from streamlab.notebook.live import Live

        self.said, self._lock = {}, threading.Lock()
        watched = self

        def send(view, content, buffers=None):
            with watched._lock:
                watched.said.setdefault(id(view), []).append((content, list(buffers or [])))

        monkeypatch.setattr(Live, "send", send)

    def frames(self, view):
        with self._lock:
            return [(c, b) for c, b in self.said.get(id(view), []) if c["t"] == "frame"]

    def last(self, view):
        return self.frames(view)[-1][0]

    def messages(self, view, kind):
        with self._lock:
            return [c for c, _ in self.said.get(id(view), []) if c["t"] == kind]


def tell(view, **message):
    """Say to a view what a browser would."""
    view._hear(view, message, [])


def eventually(what, timeout=10.0):
    """Wait until something is true, and return it; looked at again and again, for a while."""
    until = time.monotonic() + timeout
    while True:
        with contextlib.suppress(IndexError, KeyError):
            if found := what():
                return found
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.005)


def folded(frames):
    """Return the points of a chart's frames, folded as the browser does: {series: (x, y, open)}."""
    names, closed, opened = [], {}, {}
    for content, buffers in frames:
        if content["full"]:
            names = [series["name"] for series in content["series"]]
            keep = {series["name"]: series["keep"] for series in content["series"]}
            closed = {name: [] for name in names}
        opened = {name: [] for name in names}
        x, y = np.frombuffer(buffers[0], "<f8"), np.frombuffer(buffers[1], "<f4")
        at = 0
        for part in content["parts"]:
            name = names[part["s"]]
            both = list(zip(x.tolist(), y.tolist(), strict=True))
            closed[name] = (closed[name] + both[at : at + part["closed"]])[-keep[name] :]
            at += part["closed"]
            opened[name] = both[at : at + part["open"]]
            at += part["open"]
        assert at == len(x) == len(y)
    return closed, opened
