// The watermark of a stream: event times in the order of arrival, the staircase, what is late.
//
// Each row carries the delay that it needs, so that moving the slider asks nobody.

const LATE = "#d55e00", STAIRS = "#009e73", IN_TIME = "#56b4e9";

const marksStore = () => ({
  frame: null,
  take(message, buffers) {
    const [x, y, appended, streamTime, needed, curve] = buffers.map((buffer) => numbers(buffer, Float64Array));
    this.frame = { ...message, x, y, appended, streamTime, needed, curve };
  },
});

/** A length of time in microseconds, in words. */
function lengthOf(micros) {
  if (micros === null) return "for ever";
  if (!micros) return "0 s";
  for (const [unit, name] of [[864e8, "d"], [36e8, "h"], [6e7, "min"], [1e6, "s"], [1e3, "ms"]])
    if (micros >= unit) return `${+(micros / unit).toPrecision(3)} ${name}`;
  return `${micros} \u00b5s`;
}

/** What is drawn, where that is not all. */
function captionOf(frame) {
  const count = (n) => n.toLocaleString("en"), parts = [];
  if (frame.rows > frame.kept) parts.push(`the last ${count(frame.kept)} rows are kept for the picture, all are counted`);
  if (frame.kept > frame.drawn) parts.push(`drawn: ${frame.latest < frame.behind_windows ? `the ${count(frame.latest)} latest` : `all ${count(frame.latest)}`} of the rows that some delay calls late, ${frame.one_in < 2 ? `${Math.round(100 / frame.one_in)}%` : `1 in ${count(Math.round(frame.one_in))}`} of the others, and more where the picture begins`);
  return parts.join("; ");
}

function renderMarks({ model, el }) {
  const channel = channelOf(model, marksStore), { store } = channel;
  const view = { delay: undefined, range: undefined, behind: false, byTime: false, local: false, cursor: null, drag: null };
  const title = make("span", "sl-title"), state = make("span", "sl-quiet");
  const pause = button("pause", "Pause (space)", () => channel.say({ t: "pause", on: !store.frame?.paused }));
  const what = button("how far behind", "Show how far behind the newest event rows were (b)", () => { view.behind = !view.behind; view.y = null; draw.draw(); });
  const order = button("by append time", "Order by append time or by offset (o)", () => { view.byTime = !view.byTime; view.range = view.byTime ? null : undefined; draw.draw(); });
  const zone = button("UTC", "Time in UTC or local (u)", () => { view.local = !view.local; draw.draw(); });
  const all = button("all", "Show all rows (0, double click)", () => { view.range = view.range === null ? undefined : null; draw.draw(); });
  const canvas = make("canvas", "sl-canvas", { role: "img" }), tip = make("div", "sl-tip"), plot = make("div", "sl-plot", {}, canvas, tip);
  const slider = make("input", "", { type: "range", min: 0, max: 1000, step: 1, "aria-label": "Delay" });
  const ownMark = make("i", "sl-own", { title: "the query's own delay" }), track = make("span", "sl-track", {}, slider, ownMark);
  const chosen = make("output"), says = make("span", "", { "aria-live": "polite" });
  const own = button("as it is", "The delay of the query", () => { view.delay = store.frame.delay; draw.draw(); });
  const key = (color, spot, text) => { const mark = make("i", spot ? "sl-spot" : ""), node = make("span", "sl-key sl-quiet", {}, mark, text); mark.style.background = color; return node; };
  const edgeKey = make("span", "sl-key sl-quiet", {}, make("i", "sl-edge"), "edge of a window");
  const note = make("div", "sl-note"), caption = make("div", "sl-quiet");
  el.append(
    make("div", "sl-bar", {}, title, state, make("span", "sl-space"), pause, what, order, zone, all),
    make("div", "sl-bar", {}, key(IN_TIME, true, "a row, at its event time"), key(STAIRS, false, "watermark: newest event less the delay"), key(LATE, true, "late: its windows had closed"), edgeKey),
    plot, make("div", "sl-delay", {}, "delay", track, chosen, says, own), caption, note,
  );
  keep(el);

  /** The slider is a logarithm: from a millisecond up to twice what the latest row needs. */
  const most = () => Math.max(1e7, 2 * (store.frame.curve[0] || 0), 2 * (store.frame.delay || 0));
  const delayAt = (step) => (step <= 0 ? 0 : Math.round(1e3 * (most() / 1e3) ** (step / 1000)));
  const stepOf = (delay) => (delay === null ? 1000 : delay < 1e3 ? 0 : Math.round((1000 * Math.log(delay / 1e3)) / Math.log(most() / 1e3)));
  slider.addEventListener("input", () => { view.delay = delayAt(Number(slider.value)); draw.draw(); });

  /** How many rows are late for a delay: those that need at least as much, and more. */
  function lateFor(delay) {
    if (delay === null) return 0;
    if (delay === store.frame.delay) return store.frame.exact;
    const { curve, every } = store.frame;
    let low = 0, high = curve.length;
    while (low < high) { const mid = (low + high) >> 1; if (curve[mid] >= delay) low = mid + 1; else high = mid; }
    return Math.min(low * every, store.frame.rows);
  }

  function paint() {
    noteOf(channel, note);
    const { frame } = store;
    if (!frame) { state.textContent = "waiting for the first rows"; return; }
    if (view.delay === undefined) view.delay = frame.chosen;
    const { delay } = view, late = lateFor(delay), rows = frame.rows.toLocaleString("en");
    title.textContent = frame.title;
    state.textContent = `${rows} rows${frame.behind ? ` \u00b7 ${frame.behind.toLocaleString("en")} to come` : ""}${frame.paused ? " \u00b7 paused" : ""}`;
    sign(pause, frame.paused ? "play" : "pause");
    what.setAttribute("aria-pressed", String(view.behind));
    order.setAttribute("aria-pressed", String(view.byTime));
    all.setAttribute("aria-pressed", String(view.range === null));
    zone.textContent = view.local ? "local" : "UTC";
    slider.value = stepOf(delay);
    slider.setAttribute("aria-valuetext", lengthOf(delay));
    ownMark.style.left = `${stepOf(frame.delay) / 10}%`;
    ownMark.hidden = frame.delay === null;
    own.disabled = delay === frame.delay;
    chosen.textContent = lengthOf(delay) + (delay === frame.delay ? " (the query's)" : "");
    const share = frame.rows ? ` (${((100 * late) / frame.rows).toPrecision(2)}%)` : "";
    const longest = frame.curve[0];
    says.textContent = `${frame.every > 1 && delay !== frame.delay ? "about " : ""}${late.toLocaleString("en")} of ${rows} rows late${late ? share : ""}` + (longest === undefined ? "; all are in order" : `; none with a delay over ${lengthOf(longest)}`);
    el.dataset.late = String(late);
    el.dataset.delay = String(delay);
    caption.textContent = captionOf(frame);
    drawPlot(frame, delay);
    el.classList.add("sl-drawn");
  }

  function drawPlot(frame, delay) {
    const width = Math.max(260, plot.clientWidth), { height } = frame, ratio = window.devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * ratio)) { canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio); canvas.style.height = `${height}px`; }
    const g = canvas.getContext("2d"), colors = { font: getComputedStyle(el).fontFamily };
    for (const name of ["ink", "muted", "line", "back"]) colors[name] = resolved(el, name);
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    g.clearRect(0, 0, width, height);
    g.font = `11px ${colors.font}`;
    canvas.setAttribute("aria-label", `${frame.title}; ${says.textContent}`);
    const xs = view.byTime ? frame.appended : frame.x, box = { left: 74, top: 8, right: width - 12, bottom: height - 38 };
    let [x0, x1] = view.range || (view.range === null || view.byTime ? [xs[0], xs[xs.length - 1]] : frame.range);
    if (!(x1 > x0)) [x0, x1] = [x0 - 0.5, x0 + 0.5];
    const behind = (i) => Math.max(0, frame.streamTime[i] - frame.y[i]), isLate = (i) => delay !== null && frame.needed[i] >= 0 && frame.needed[i] >= delay;
    let [y0, y1] = [Infinity, -Infinity];
    const inside = [];
    for (let i = 0; i < xs.length; i++) if (xs[i] >= x0 && xs[i] <= x1) {
      inside.push(i);
      const values = view.behind ? [behind(i)] : [frame.y[i], frame.streamTime[i]];
      for (const value of values) if (value === value) { y0 = Math.min(y0, value); y1 = Math.max(y1, value); }
    }
    if (!inside.length) { g.fillStyle = colors.muted; g.textAlign = "center"; g.fillText("no rows here yet", width / 2, height / 2); return; }
    if (view.behind) { y0 = 1; y1 = Math.max(1e4, y1 * 2); }
    const pad = view.behind ? 0 : (y1 - y0 || 1000) * 0.05, scale = view.behind ? Math.log10 : (v) => v;
    [y0, y1] = [y0 - pad, y1 + pad];
    const px = (v) => box.left + ((v - x0) / (x1 - x0)) * (box.right - box.left);
    const py = (v) => box.bottom - ((scale(Math.max(v, view.behind ? 1 : -Infinity)) - scale(y0)) / (scale(y1) - scale(y0))) * (box.bottom - box.top);
    view.place = (at) => x0 + ((at - box.left) / (box.right - box.left)) * (x1 - x0);
    view.shown = [x0, x1];
    axes(g, frame, box, colors, [x0, x1], [y0, y1], px, py);
    g.save(); g.beginPath(); g.rect(box.left, box.top, box.right - box.left + 6, box.bottom - box.top + 4); g.clip();
    edgeKey.hidden = !drawEdges(g, frame, box, colors, y0, y1, py);
    if (view.behind && delay) { g.strokeStyle = STAIRS; g.lineWidth = 2; rule(g, box.left, py(delay / 1000), box.right, py(delay / 1000)); }
    if (!view.behind && delay !== null) {
      g.strokeStyle = STAIRS; g.lineWidth = 2; g.beginPath();
      let last = null;
      for (const i of inside) { const x = px(xs[i]), y = py(frame.streamTime[i] - delay / 1000); if (last !== null) g.lineTo(x, last); g.lineTo(x, y); last = y; }
      if (last !== null) g.lineTo(box.right, last);
      g.stroke();
    }
    const small = inside.length > 3000 ? 1.3 : 2;
    g.fillStyle = IN_TIME;
    for (const i of inside) if (!isLate(i)) { g.beginPath(); g.arc(px(xs[i]), py(view.behind ? behind(i) : frame.y[i]), small, 0, 7); g.fill(); }
    g.fillStyle = LATE; g.strokeStyle = colors.back; g.lineWidth = 0.7;
    for (const i of inside) if (isLate(i)) { g.beginPath(); g.arc(px(xs[i]), py(view.behind ? behind(i) : frame.y[i]), 3.2, 0, 7); g.fill(); g.stroke(); }
    if (view.drag?.moved) { g.globalAlpha = 0.15; g.fillStyle = colors.muted; g.fillRect(Math.min(view.drag.from, view.drag.to), box.top, Math.abs(view.drag.to - view.drag.from), box.bottom - box.top); g.globalAlpha = 1; }
    g.restore();
    hover(frame, inside, xs, px, (i) => py(view.behind ? behind(i) : frame.y[i]), isLate);
  }

  function axes(g, frame, box, colors, [x0, x1], [y0, y1], px, py) {
    g.strokeStyle = colors.line; g.fillStyle = colors.muted; g.lineWidth = 1; g.textAlign = "center"; g.textBaseline = "top";
    const many = Math.floor((box.right - box.left) / 95);
    for (const [at, text] of view.byTime ? timeTicks(x0, x1, many, view.local) : numberTicks(x0, x1, many)) { rule(g, px(at), box.top, px(at), box.bottom); g.fillText(text, px(at), box.bottom + 5); }
    const logs = [[10, "10 ms"], [100, "100 ms"], [1e3, "1 s"], [1e4, "10 s"], [6e4, "1 min"], [6e5, "10 min"], [36e5, "1 h"], [864e5, "1 d"]].filter(([v]) => v <= y1);
    g.textAlign = "right"; g.textBaseline = "middle";
    for (const [at, text] of view.behind ? logs : timeTicks(y0, y1, Math.floor((box.bottom - box.top) / 34), view.local)) { rule(g, box.left, py(at), box.right, py(at)); g.fillText(text, box.left - 6, py(at)); }
    g.textAlign = "center"; g.textBaseline = "bottom";
    g.fillText(view.byTime ? `append time, ${view.local ? "local" : "UTC"}` : "order of arrival (offset)", (box.left + box.right) / 2, box.bottom + 36);
    g.save(); g.translate(10, (box.top + box.bottom) / 2); g.rotate(-Math.PI / 2); g.textBaseline = "middle";
    g.fillText(view.behind ? "behind the newest event" : `${frame.time}, ${view.local ? "local" : "UTC"}`, 0, 0); g.restore();
  }

  /** Where windows end, if that is not too close; whether there are any. */
  function drawEdges(g, frame, box, colors, y0, y1, py) {
    if (view.behind || !frame.edges || (y1 - y0) / frame.edges.every > (box.bottom - box.top) / 7) return false;
    const { every, first } = frame.edges, start = first + Math.ceil((y0 - first) / every) * every;
    g.strokeStyle = colors.muted; g.globalAlpha = 0.55; g.lineWidth = 1; g.setLineDash([2, 4]);
    for (let edge = start; edge <= y1; edge += every) rule(g, box.left, py(edge), box.right, py(edge));
    g.globalAlpha = 1; g.setLineDash([]);
    return start <= y1;
  }

  function hover(frame, inside, xs, px, yOf, isLate) {
    tip.hidden = true;
    if (!view.cursor || view.drag?.moved) return;
    let best = null;
    for (const i of inside) { const d = Math.hypot(px(xs[i]) - view.cursor.x, yOf(i) - view.cursor.y); if (d < 14 && (!best || d < best.d)) best = { d, i }; }
    if (!best) return;
    const { i } = best, stamp = (at) => clockOf(at, view.local).toISOString().replace("T", " ").replace("Z", "");
    const line = (name, value) => make("div", "", {}, make("span", "", {}, name), make("span", "", {}, value));
    tip.replaceChildren(line("offset", frame.x[i].toLocaleString("en")), line(frame.time, stamp(frame.y[i])), line("behind the newest", lengthOf(Math.round(1000 * Math.max(0, frame.streamTime[i] - frame.y[i])))),
      ...(frame.needed[i] >= 0 ? [line(isLate(i) ? "late; in time with over" : "in time; late up to", lengthOf(frame.needed[i]))] : []));
    tip.hidden = false;
    tip.style.left = `${view.cursor.x + 14 + tip.offsetWidth > canvas.clientWidth ? view.cursor.x - 14 - tip.offsetWidth : view.cursor.x + 14}px`;
    tip.style.top = `${Math.max(0, Math.min(view.cursor.y, canvas.clientHeight - tip.offsetHeight))}px`;
  }

  const spot = (event) => { const box = canvas.getBoundingClientRect(); return { x: event.clientX - box.left, y: event.clientY - box.top }; };
  canvas.addEventListener("pointerdown", (event) => { if (event.button || !view.place) return; canvas.setPointerCapture(event.pointerId); view.drag = { from: spot(event).x, to: spot(event).x, moved: false }; });
  canvas.addEventListener("pointermove", (event) => {
    view.cursor = spot(event);
    if (view.drag) { view.drag.to = view.cursor.x; view.drag.moved ||= Math.abs(view.drag.to - view.drag.from) > 4; }
    draw.draw();
  });
  canvas.addEventListener("pointerup", () => {
    if (view.drag?.moved) view.range = [view.drag.from, view.drag.to].sort((a, b) => a - b).map(view.place);
    view.drag = null;
    draw.draw();
  });
  canvas.addEventListener("pointerleave", () => { view.cursor = null; draw.draw(); });
  canvas.addEventListener("dblclick", () => all.click());
  el.addEventListener("keydown", (event) => {
    if (event.target === slider && event.key.startsWith("Arrow")) return;
    const zoom = (factor) => { const [low, high] = view.shown, mid = (low + high) / 2; view.range = [mid - ((high - low) / 2) * factor, mid + ((high - low) / 2) * factor]; draw.draw(); };
    const act = { " ": () => (event.target.tagName === "BUTTON" ? null : pause.click()), b: () => what.click(), o: () => order.click(), u: () => zone.click(), 0: () => all.click(), "+": () => zoom(0.7), "=": () => zoom(0.7), "-": () => zoom(1.4),
      ArrowLeft: () => { view.delay = delayAt(Number(slider.value) - 5); draw.draw(); }, ArrowRight: () => { view.delay = delayAt(Number(slider.value) + 5); draw.draw(); } }[event.key];
    if (!act || !store.frame || (event.key === " " && event.target.tagName === "BUTTON")) return;
    event.preventDefault();
    act();
  });
  const draw = viewIn(channel, el, paint);
  return () => draw.remove();
}
