// The tail of a stream, or the newest results of a query, as a table that follows.

/** What the kernel last sent; every frame is whole. */
const tableStore = () => ({ frame: null, take(message) { this.frame = message; } });

const classesOf = (column) => (column.right ? "sl-right" : "") + (column.system ? " sl-system" : "");

/** Draw rows into a table of a steady height; those with a key beyond `newest` light up. */
function fillTable(table, frame, newest) {
  const head = make("tr"), body = make("tbody");
  for (const column of frame.columns)
    head.append(make("th", classesOf(column), { scope: "col" }, column.name, make("small", "", {}, column.type)));
  for (const row of frame.rows) {
    const fresh = newest !== null && row.key > newest;
    const line = make("tr", (row.open ? "sl-open " : "") + (fresh ? "sl-new" : ""));
    row.cells.forEach((text, i) => {
      const cell = make("td", classesOf(frame.columns[i]) + (text === null ? " sl-null" : ""), {}, text ?? "null");
      if (text !== null && text.length > 40) cell.title = text;
      line.append(cell);
    });
    body.append(line);
  }
  for (let i = frame.rows.length; i < frame.size; i++)
    body.append(make("tr", "", {}, make("td", "", { colspan: Math.max(1, frame.columns.length) }, "\u00a0")));
  table.replaceChildren(make("thead", "", {}, head), body);
}

function renderTable({ model, el }) {
  const channel = channelOf(model, tableStore);
  const title = make("span", "sl-title"), state = make("span", "sl-quiet", { "aria-live": "off" });
  const pause = button("pause", "Pause (space)", () => channel.say({ t: "pause", on: !shown()?.paused }));
  const filter = make("input", "sl-filter", {
    type: "search", placeholder: "filter, in SQL: price > 100", "aria-label": "Filter, a condition in SQL",
    size: 28, spellcheck: "false",
  });
  const at = make("input", "sl-at", { type: "range", "aria-label": "As of offset", step: 1 });
  const place = make("input", "sl-place", { type: "text", "aria-label": "Rows below this offset", size: 11 });
  const end = button("end", "Follow the end (End)", () => channel.say({ t: "at", offset: null }));
  const note = make("div", "sl-note");
  const table = make("table", "sl-table"), scroll = make("div", "sl-scroll", {}, table);
  const history = make("span", "sl-history", {}, "as of offset ", place, " ", at, " ", end);
  el.append(make("div", "sl-bar", {}, title, state, make("span", "sl-space"), pause, filter, history), scroll, note);
  const shown = () => channel.store.frame;
  let newest = null, dragging = false;

  const go = paced((offset) => channel.say({ t: "at", offset }), 50);
  at.addEventListener("input", () => { dragging = true; go(Number(at.value)); });
  at.addEventListener("change", () => { dragging = false; });
  place.addEventListener("change", () => {
    const offset = Number(place.value.replaceAll(",", ""));
    if (Number.isInteger(offset)) go(offset);
  });
  filter.addEventListener("change", () => channel.say({ t: "filter", text: filter.value }));
  filter.addEventListener("search", () => channel.say({ t: "filter", text: filter.value }));
  keep(el);
  el.addEventListener("keydown", (event) => {
    if (event.target.tagName === "INPUT" && event.target.type !== "range") return;
    const frame = shown();
    const move = { ArrowUp: -1, ArrowDown: 1, PageUp: -(frame?.size ?? 20), PageDown: frame?.size ?? 20 }[event.key];
    if (event.key === " " && event.target.tagName !== "BUTTON") pause.click();
    else if (event.key === "End") end.click();
    else if (event.key === "Home" && frame) go(frame.first);
    else if (event.key === "/") filter.focus();
    else if (move && frame?.history) go(Math.min(frame.end, Math.max(frame.first, frame.at + move)));
    else return;
    event.preventDefault();
  });

  function paint() {
    noteOf(channel, note);
    const frame = shown();
    if (!frame) { state.textContent = "waiting for the first rows"; return; }
    title.textContent = frame.title;
    state.textContent = frame.state;
    sign(pause, frame.paused ? "play" : "pause");
    pause.setAttribute("aria-pressed", String(frame.paused));
    if (document.activeElement !== filter) filter.value = frame.filter;
    history.hidden = !frame.history;
    filter.hidden = !frame.filters;
    if (frame.history) {
      at.min = frame.first; at.max = frame.end;
      if (!dragging) at.value = frame.at;
      if (document.activeElement !== place) place.value = frame.at.toLocaleString("en");
      end.setAttribute("aria-pressed", String(frame.following));
    }
    fillTable(table, frame, newest);
    if (frame.following) newest = Math.max(newest ?? 0, ...frame.rows.map((row) => row.key));
    el.classList.add("sl-drawn");
  }

  const view = viewIn(channel, el, paint);
  return () => view.remove();
}
