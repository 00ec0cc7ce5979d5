"""A live view: a widget that a thread of its own keeps up to date.

The kernel pushes and never waits for the browser, whose words do not reach it while a cell runs. So a
view paces itself (at most `FPS` frames a second, fewer when nobody looks or drawing is dear), numbers
its frames, and sends a full one now and then until it is greeted: a browser that has missed one asks
for all, or gets it unasked. What has not changed is not sent.

Invariants: a view owns nothing durable; it ends with the cell that made it, with its lab, with
`stop`, with the kernel; an error is shown where the picture is and is kept in `error`; everything
that the thread and the callbacks share is under one lock.

In the notebook a view leaves two outputs: a still, which is plain HTML and is all that a saved notebook
shows, and the widget, which hides the still as soon as it has drawn.
"""

from __future__ import annotations

import atexit
import collections
import datetime as dt
import html
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget

from streamlab.notebook import cells

__all__ = ["FPS", "Live", "escape", "live_views", "module", "text_of"]

FPS = 20.0
"""Frames a second at most."""

UNSEEN_SECONDS = 1.0
"""How long a frame lasts when nobody looks."""

FIRST_GAP, LAST_GAP = 0.4, 8.0
"""Seconds between full frames before a browser has said hello: from, doubling, up to."""

PATIENCE = 0.1
"""How long a cell, or a message of the browser, waits for a look that is under way, in seconds."""

STILL_SECONDS = 10.0
"""How old the still is at most while the picture changes."""

HERE = Path(__file__).parent

_LIVE: weakref.WeakSet[Live] = weakref.WeakSet()


def text_of(*names: str) -> str:
    """Return the text of files of this folder, one after the other."""
    return "\n".join((HERE / name).read_text(encoding="utf-8") for name in names)


def module(*names: str, store: str, render: str) -> str:
    """Return the JavaScript module of a widget: files, and which of their functions it is made of.

    ``store`` makes what keeps the data of a model; ``render`` draws a view of it.
    """
    main = f"initialize: ({{ model }}) => {{ channelOf(model, {store}); }}, render: {render}"
    return f"{text_of('live.js', *names)}\nexport default {{ {main} }};\n"


def live_views() -> list[Live]:
    """Return the views of this process that are live, in the order in which they were made."""
    return sorted((view for view in _LIVE if not view.ended), key=lambda view: view.number)


class Live(anywidget.AnyWidget):
    """A widget with a thread that looks, and sends what has changed.

    A subclass says in `_look` what there is to send, in `_told` what the browser asks for, and in
    `_still_html` what a saved notebook shows.
    """

    _css = text_of("live.css")
    _made = 0
    ended = True  # until the constructor is through
    left = False  # whether the process ends
    error: BaseException | None = None

    def __init__(self) -> None:
        super().__init__()
        Live._made += 1
        self.number = Live._made
        self.ended = False
        self._lock = threading.RLock()
        self._wake = threading.Event()
        self._heard: collections.deque[dict[str, Any]] = collections.deque()
        self._seq = 0
        self._problem = ""  # why what the browser asked for last was not done
        self._full = True  # whether the next frame is to hold everything
        self._greeted = False
        self._seen = 1  # how many views are on a screen
        self._gap, self._next_full = FIRST_GAP, 0.0
        self._still: Any = None
        self._still_due = 0.0
        self._changed = False
        self._at_end: list[Callable[[], None]] = []
        self._fps = FPS
        self.on_msg(self._hear)
        self._thread = threading.Thread(
            target=self._main, name=f"streamlab view {self.number}", daemon=True
        )
        self._cell = cells.here()
        _LIVE.add(self)
        cells.watch(_stop_views_of)

    def _begin(self) -> Live:
        """Start the thread; the last thing that a constructor does."""
        self._thread.start()
        return self

    # -- what a subclass says ----------------------------------------------------------------

    def _look(self, *, full: bool) -> tuple[dict[str, Any], list[bytes]] | None:
        """Return what has changed since the last look, or all of it; None: nothing has."""
        raise NotImplementedError

    def _told(self, message: dict[str, Any]) -> None:
        """Do what the browser asks for; called under the lock."""

    def _still_html(self) -> str:
        """Return what a saved notebook shows, as HTML with every value escaped."""
        raise NotImplementedError

    def _about(self) -> str:
        """Return in one line what is shown, as plain text."""
        raise NotImplementedError

    # -- what users do -----------------------------------------------------------------------

    def stop(self, timeout: float | None = 5.0) -> None:
        """Leave the picture as it is, for good; a look that takes longer ends by itself.

        Doing so twice is harmless.
        """
        if self.ended:
            return
        self.ended = True
        self._wake.set()
        if threading.current_thread() is not self._thread and self._thread.is_alive():
            self._thread.join(timeout)

    def close(self) -> None:
        """Stop, and take the widget out of the notebook; the still stays."""
        self.stop(PATIENCE)
        super().close()

    def send(self, content: Any, buffers: Any = None) -> None:
        """Send a message to the browser; nothing once the kernel ends."""
        if not self.left:
            super().send(content, buffers)

    def wait(self, timeout: float | None = 10.0) -> Live:
        """Return when everything there was at the call has been looked at.

        Raises:
            TimeoutError: it takes longer than ``timeout`` seconds.
        """
        done = threading.Event()
        with self._lock:
            self._waiting = done
            self._wake.set()
        if not (self.ended or done.wait(timeout)):
            raise TimeoutError(f"still looking: {self._about()}")
        return self

    _waiting: threading.Event | None = None

    def __repr__(self) -> str:
        state = "stopped" if self.ended else "live"
        error = "" if self.error is None else f", {type(self.error).__name__}: {self.error}"
        return f"<{type(self).__name__} of {self._about()}: {state}{error}>"

    # -- the thread --------------------------------------------------------------------------

    def _main(self) -> None:
        due = time.monotonic()
        while not self.ended:
            started = time.monotonic()
            self._wake.clear()
            self._turn(started)
            now = time.monotonic()
            spent = now - started
            due = max(due + 1 / self._fps, started)  # a delay is made up for by one frame at most
            due = max(due, now + spent)  # half of one core's time at most
            self._wake.wait(due - now if self._seen else UNSEEN_SECONDS)
        self._turn(time.monotonic(), last=True)
        self._finish()

    def _turn(self, now: float, *, last: bool = False) -> None:
        """Look once, and send what is new."""
        with self._lock:
            self._take_heard()
            waiting, self._waiting = self._waiting, None
            full = self._full or last or (not self._greeted and now >= self._next_full)
            if full and not self._greeted:
                self._next_full, self._gap = now + self._gap, min(2 * self._gap, LAST_GAP)
            try:
                found = self._look(full=full)
                if found is not None:
                    self.error, self._full, self._changed = None, False, True
                    self._say_frame(found, full=full)
                still = self._still is not None and not self.left
                if still and self._changed and (last or now >= self._still_due):
                    self._show_still(now)
            except Exception as error:  # noqa: BLE001 - shown in the view, kept in `error`
                self._fail(error)
        if waiting is not None:
            waiting.set()

    def _say_frame(self, found: tuple[dict[str, Any], list[bytes]], *, full: bool) -> None:
        content, buffers = found
        self._seq += 1
        self.send(
            {
                "t": "frame", "seq": self._seq, "full": full, "problem": self._problem,
                "of": self.model_id, **content,
            },
            buffers,
        )  # fmt: skip

    def _fail(self, error: Exception) -> None:
        """Show an error and go on looking; one that stays is sent once."""
        if self._full or repr(error) != repr(self.error):
            self.send({"t": "error", "text": f"{type(error).__name__}: {error}"})
        self.error, self._full = error, False
        if cells.is_over(error):
            self.ended = True

    def _finish(self) -> None:
        self.ended = True
        with self._lock:
            actions, self._at_end = self._at_end, []
        for action in actions:
            action()
        self.send({"t": "ended", "text": f"stopped, as of {_now()}"})

    # -- what the browser says ---------------------------------------------------------------

    def _hear(self, _widget: Any, content: Any, _buffers: Any) -> None:
        """Take a message; which thread calls this is not known, and it is not to wait for a look."""
        if not isinstance(content, dict):
            return
        self._heard.append(content)
        if self._lock.acquire(timeout=PATIENCE):
            try:
                self._take_heard()
            finally:
                self._lock.release()
        self._wake.set()

    def _take_heard(self) -> None:
        """Do what was heard, in order; called under the lock."""
        while self._heard:
            content = self._heard.popleft()
            match content.get("t"):
                case "hello" | "resync":
                    self._greeted = self._full = True
                    if self.ended:
                        self._turn(time.monotonic(), last=True)
                        self.send({"t": "ended", "text": f"stopped, as of {_now()}"})
                case "seen":
                    self._seen = int(content.get("n", 1))
                case _:
                    self._asked(content)

    def _asked(self, content: dict[str, Any]) -> None:
        """Do what is asked; what cannot be done is said until something else is asked."""
        try:
            self._told(content)
            self._problem = ""
        except Exception as error:  # noqa: BLE001 - shown in the view
            self._problem = f"{type(error).__name__}: {error}"
        self._full = True

    # -- the notebook ------------------------------------------------------------------------

    def _ipython_display_(self, **_: Any) -> None:
        from IPython import display

        show: Any = display.display  # without types
        free = self._lock.acquire(timeout=PATIENCE)  # a cell does not wait for a long first look
        try:
            still = self._still_bundle() if free else {"text/plain": f"{self!r}"}
            self._still = show(still, raw=True, display_id=f"streamlab-{self.model_id}")
        finally:
            if free:
                self._lock.release()
        widget: Any = super()._repr_mimebundle_()
        data = dict(widget[0] if isinstance(widget, tuple) else widget)
        show({**data, "text/plain": ""}, raw=True)  # where no widget is shown the still says it all

    def _still_bundle(self) -> dict[str, str]:
        try:
            body = self._still_html()
        except Exception as error:  # noqa: BLE001 - what is broken still has a place
            body = f"<pre>{escape(f'{type(error).__name__}: {error}')}</pre>"
        note = f"{self._about()}, as of {_now()}; run the cell for the live view"
        text = f'<div class="sl-note" style="opacity:.7;font-size:85%">{escape(note)}</div>'
        page = (
            f'{STILL_STYLE}<div class="sl-still tex2jax_ignore mathjax_ignore" '
            f'data-of="{self.model_id}">{body}{text}</div>'
        )
        return {"text/html": page, "text/plain": f"{self!r}"}

    def _show_still(self, now: float) -> None:
        self._changed = False
        self._still_due = now + STILL_SECONDS
        self._still.update(self._still_bundle(), raw=True)


STILL_STYLE = (
    "<style>"
    # a still is hidden while the widget behind it has something to show
    ".jp-OutputArea-child:has(.sl-still):has(+ .jp-OutputArea-child .sl-drawn){display:none}"
    # a widget that a saved notebook has lost says so in words that help nobody
    ".jp-OutputArea-child:has(.sl-still) + .jp-OutputArea-child"
    ":not(:has(.jp-OutputArea-output > *)){display:none}"
    "</style>"
)


def escape(text: str) -> str:
    """Return text for HTML, in which a dollar sign begins no mathematics."""
    return html.escape(text, quote=True).replace("$", "<span>$</span>")


@atexit.register
def _leave() -> None:
    """Say nothing more: whoever listens has gone before us."""
    for view in live_views():
        view.ended = view.left = True


def _now() -> str:
    return f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M:%S} UTC"


def _stop_views_of(cell: str) -> None:
    """Stop what a cell has shown: it is run again, or gone."""
    for view in live_views():
        if view._cell == cell:  # noqa: SLF001 - one class
            view.close()
