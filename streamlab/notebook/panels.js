// Panels: rows of numbers with small curves, and buttons that ask once more before they stop a job.

const panelStore = () => ({ frame: null, take(message) { this.frame = message; } });

function renderPanel({ model, el }) {
  const channel = channelOf(model, panelStore), { store } = channel;
  const title = make("span", "sl-title"), table = make("table", "sl-table sl-panel"), none = make("div", "sl-quiet"), note = make("div", "sl-note");
  el.append(make("div", "sl-bar", {}, title), make("div", "sl-scroll", {}, table), none, note);
  const head = make("tr"), body = make("tbody"), lines = new Map();
  table.append(make("thead", "", {}, head), body);
  keep(el);

  function paint() {
    noteOf(channel, note);
    const { frame } = store;
    if (!frame) return;
    title.textContent = frame.title;
    if (head.childElementCount !== frame.columns.length + 1)
      head.replaceChildren(...frame.columns.map((c) => make("th", c.right ? "sl-right" : "", { scope: "col" }, c.name)), make("th"));
    for (const [key, line] of lines) if (!frame.rows.some((row) => row.key === key)) { line.failed.remove(); line.remove(); lines.delete(key); }
    for (const row of frame.rows) {
      if (!lines.has(row.key)) { lines.set(row.key, lineOf(row, frame.columns)); body.append(lines.get(row.key)); }
      fillLine(lines.get(row.key), row);
    }
    none.textContent = frame.rows.length ? "" : frame.none;
    el.classList.add("sl-drawn");
  }

  function lineOf(row, columns) {
    const line = make("tr"), buttons = make("td");
    for (const column of columns) line.append(make("td", column.right ? "sl-right" : "", {}, make("span")));
    line.append(buttons);
    line.error = make("td", "sl-error", { colspan: columns.length + 1 });
    line.failed = make("tr", "sl-failed", {}, line.error);
    return line;
  }

  function fillLine(line, row) {
    row.cells.forEach((text, i) => {
      const cell = line.children[i];
      cell.firstChild.textContent = text;
      if (i === 1) { cell.firstChild.className = row.state ? "sl-pill" : ""; cell.firstChild.dataset.state = row.state; }
      if (row.curves[i]) drawCurve(cell, row.curves[i]);
    });
    const cell = line.lastChild, wanted = row.buttons.join();
    if (cell.dataset.of !== wanted) {
      cell.dataset.of = wanted;
      cell.replaceChildren(...row.buttons.map((kind) => action(kind, row.key)));
    }
    line.error.textContent = row.error;
    if (!row.error) line.failed.remove();
    else if (line.nextSibling !== line.failed) line.after(line.failed);
  }

  function action(kind, key) {
    const say = () => channel.say({ t: kind, key });
    if (kind !== "stop") return button(kind === "pause" ? "pause" : "play", `${kind} ${key}`, say);
    let sure = null;
    const node = button("stop", `stop ${key}`, () => {
      if (sure !== null) { clearTimeout(sure); node.disabled = true; node.textContent = "stopping"; say(); return; }
      node.textContent = "stop?"; node.title = "Stop? Click again"; delete node.dataset.sign;
      sure = setTimeout(() => { sure = null; node.title = `stop ${key}`; sign(node, "stop"); }, 3000);
    });
    return node;
  }

  function drawCurve(cell, values) {
    const canvas = cell.querySelector("canvas") || cell.appendChild(make("canvas", "sl-curve", { width: 144, height: 36, "aria-hidden": "true" }));
    const g = canvas.getContext("2d"), most = Math.max(1, ...values), step = 140 / 119;
    g.clearRect(0, 0, 144, 36);
    g.strokeStyle = resolved(el, "focus"); g.lineWidth = 2; g.beginPath();
    values.forEach((value, i) => g.lineTo(2 + (119 - values.length + 1 + i) * step, 33 - (value / most) * 30));
    g.stroke();
  }
  const view = viewIn(channel, el, paint);
  return () => view.remove();
}
