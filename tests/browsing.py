"""A real JupyterLab and a real browser, for tests of what a person sees.

Both listen and look on loopback only; the server is stopped by its process, kernels by their sessions.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest

CHROMIUM = next(
    (
        found
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (found := shutil.which(name))
    ),
    None,
)
ARGS = [
    "--no-sandbox", "--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
]  # fmt: skip
TOKEN = "for-tests-only"


def free_port():
    with contextlib.closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def need_browser():
    """Skip where there is no browser, unless nothing is to be skipped."""
    missing = "Chromium is not installed: apt-get install chromium"
    with contextlib.suppress(ImportError):
        import playwright.sync_api  # noqa: F401

        if CHROMIUM:
            return
        if os.environ.get("STREAMLAB_NOTHING_SKIPPED"):
            pytest.fail(missing)
    if os.environ.get("STREAMLAB_NOTHING_SKIPPED"):
        pytest.fail("playwright is not installed")
    pytest.skip(missing)


class Lab:
    """A JupyterLab server over a folder."""

    def __init__(self, home):
        self.home, self.port = home, free_port()
        folders = {"JUPYTER_CONFIG_DIR": "cfg", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "rt",
                   "IPYTHONDIR": "ipy"}  # fmt: skip
        env = {
            **os.environ,
            "HOME": str(home),
            **{name: str(home / f) for name, f in folders.items()},
        }
        settings = home / "cfg" / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension"
        settings.mkdir(parents=True)
        quiet = {"fetchNews": "false", "checkForUpdates": False}
        (settings / "notification.jupyterlab-settings").write_text(json.dumps(quiet))
        self.base = f"http://127.0.0.1:{self.port}"
        command = [
            sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1",
            f"--port={self.port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}",
            f"--ServerApp.root_dir={home}", "--LabApp.expose_app_in_browser=True",
            "--LabApp.extension_manager=readonly",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        ]  # fmt: skip
        self.log = home / "lab.log"
        with self.log.open("w") as out:
            self.process = subprocess.Popen(
                command, env=env, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )
        self._await()

    def _await(self):
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                self.ask("status")
                return
            assert self.process.poll() is None, self.log.read_text()[-2000:]
            time.sleep(0.1)
        raise TimeoutError(self.log.read_text()[-2000:])

    def ask(self, path, method="GET"):
        url = f"{self.base}/api/{path}?token={TOKEN}"
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=10) as got:
            return json.loads(got.read() or "null")

    def write(self, name, *cells):
        """Write a notebook of code cells, and return its file."""
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        book.metadata["kernelspec"] = {
            "name": "python3",
            "display_name": "Python 3",
            "language": "python",
        }
        nbformat.write(book, self.home / name)
        return self.home / name

    def stop_kernels(self):
        for session in self.ask("sessions"):
            self.ask(f"sessions/{session['id']}", "DELETE")

    def close(self):
        with contextlib.suppress(OSError):
            self.stop_kernels()
        self.process.terminate()
        self.process.wait(15)


class Page:
    """A page of the browser that shows a notebook; `outside` is what it asked of other hosts."""

    def __init__(self, browser, lab, name, *, size=(1280, 1200), **context):
        self.lab, self.name = lab, name
        self.context = browser.new_context(
            viewport={"width": size[0], "height": size[1]}, **context
        )
        self.page = self.context.new_page()
        self.outside, self.errors = [], []
        self.page.on("request", self._asked)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.open()

    def _asked(self, request):
        if not request.url.startswith((self.lab.base, "data:", "blob:", "about:")):
            self.outside.append(request.url)

    def open(self):
        self.page.goto(f"{self.lab.base}/doc/tree/{self.name}?token={TOKEN}&reset")
        ready = "window.jupyterapp?.shell?.currentWidget?.sessionContext !== undefined"
        self.page.wait_for_function(ready, timeout=60_000)
        self.page.evaluate(
            """async () => { const a = window.jupyterapp; await a.restored; const w = a.shell.currentWidget;
            await w.context.ready; await w.sessionContext.ready; await w.sessionContext.session?.kernel?.info; }"""
        )

    def command(self, name, args=None):
        return self.page.evaluate(
            "([n, a]) => window.jupyterapp.commands.execute(n, a || {})", [name, args]
        )

    def run_all(self, *, wait=True):
        done = "" if wait else "void "
        self.page.evaluate(
            f"() => {done}window.jupyterapp.commands.execute('notebook:run-all-cells')"
        )

    def run_cell(self, index):
        """Run one cell again."""
        self.page.evaluate(
            """async (i) => { const a = window.jupyterapp; const n = a.shell.currentWidget.content;
            n.deselectAll(); n.activeCellIndex = i; await a.commands.execute('notebook:run-cell'); }""",
            index,
        )

    def execute(self, code):
        """Run code in the notebook's kernel, beside its cells, and return what it printed."""
        return self.page.evaluate(
            """async (code) => { const k = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
            let text = ''; const f = k.requestExecute({code, silent: false, store_history: false});
            f.onIOPub = (m) => { if (m.content.text) text += m.content.text;
              if (m.content.traceback) text += m.content.traceback.join('\\n'); };
            await f.done; return text; }""",
            code,
        )

    def theme(self, name):
        self.command("apputils:change-theme", {"theme": name})

    def save(self):
        self.command("docmanager:save")

    def shot(self, path, selector=None):
        target = self.page.locator(selector).first if selector else self.page
        target.screenshot(path=str(path))

    def close(self):
        self.context.close()
