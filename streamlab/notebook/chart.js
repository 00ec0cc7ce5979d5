// A chart that follows: closed points in rings of typed arrays, open ones replaced by every frame.
//
// A line of more points than pixels is drawn by the lowest and the highest of each column of pixels.
// What is open, and may still change, is dashed, hollow or pale.

const DASHES = [[], [6, 3], [2, 2]];
const CIVIDIS = [[0, 34, 78], [53, 69, 108], [102, 105, 112], [148, 142, 119], [200, 184, 102], [254, 232, 56]];
const NONE = new Float64Array(0);


// ---------------------------------------------------------------------------------- the points

const chartStore = () => ({
  about: null, series: [], status: "", paused: false,
  take(message, buffers) {
    if (message.full) {
      this.about = message;
      this.series = message.series.map((s, i) => ({
        ...s, index: i, plain: message.colors[i % message.colors.length],
        dash: DASHES[Math.floor(i / message.colors.length) % DASHES.length],
        x: NONE, y: NONE, start: 0, stop: 0, sorted: true, openX: NONE, openY: NONE,
      }));
    }
    this.status = message.status;
    this.paused = message.paused;
    const x = numbers(buffers[0], Float64Array), y = numbers(buffers[1], Float32Array);
    for (const series of this.series) series.openX = series.openY = NONE;
    let at = 0;
    for (const part of message.parts) {
      const series = this.series[part.s], end = at + part.closed;
      append(series, x.subarray(at, end), y.subarray(at, end));
      at = end + part.open;
      series.openX = x.subarray(end, at);
      series.openY = y.subarray(end, at);
    }
  },
});

/** Add points at the end of a ring; the oldest go. */
function append(series, x, y) {
  if (!x.length) return;
  if (series.stop + x.length > series.x.length) {
    const kept = series.stop - series.start, size = Math.max(1024, 2 * (kept + x.length));
    const grown = { x: new Float64Array(size), y: new Float32Array(size) };
    for (const name of ["x", "y"]) grown[name].set(series[name].subarray(series.start, series.stop));
    Object.assign(series, grown, { start: 0, stop: kept });
  }
  let last = series.stop > series.start ? series.x[series.stop - 1] : -Infinity;
  for (let i = 0; i < x.length && series.sorted; i++) { if (x[i] < last) series.sorted = false; last = x[i]; }
  series.x.set(x, series.stop);
  series.y.set(y, series.stop);
  series.stop += x.length;
  series.start = Math.max(series.start, series.stop - series.keep);
}

/** The closed points of a series as arrays, in the order of their places. */
function closedOf(series) {
  if (!series.sorted) {
    const order = Array.from({ length: series.stop - series.start }, (_, i) => series.start + i);
    order.sort((a, b) => series.x[a] - series.x[b]);
    const x = Float64Array.from(order, (i) => series.x[i]), y = Float32Array.from(order, (i) => series.y[i]);
    Object.assign(series, { x, y, start: 0, stop: x.length, sorted: true });
  }
  return [series.x.subarray(series.start, series.stop), series.y.subarray(series.start, series.stop)];
}

/** The first index whose place is at or after another. */
function indexOf(x, place) {
  let low = 0, high = x.length;
  while (low < high) { const mid = (low + high) >> 1; if (x[mid] < place) low = mid + 1; else high = mid; }
  return low;
}

// ---------------------------------------------------------------------------------------- frame

/** What is drawn where: the ranges of both axes, and how a place becomes a pixel. */
function frameOf(g, store, view, width, height) {
  const { about } = store, shown = store.series.filter((s) => !view.hidden.has(s.name));
  const heat = about.kind === "heat", based = about.kind === "bar" || about.kind === "area";
  let [x0, x1, gap] = [Infinity, -Infinity, Infinity];
  for (const series of shown) {
    const [x] = closedOf(series), open = series.openX;
    if (x.length) { x0 = Math.min(x0, x[0]); x1 = Math.max(x1, x[x.length - 1]); }
    for (const place of open) { x0 = Math.min(x0, place); x1 = Math.max(x1, place); }
    if (based || heat) gap = Math.min(gap, leastGap(x, open));
  }
  if (!(x0 <= x1)) return null;
  if (!Number.isFinite(gap)) gap = about.time ? 1000 : 1;
  if (about.kind === "bar" || heat) x1 += gap;
  if (x0 === x1) { x0 -= about.time ? 500 : 0.5; x1 += about.time ? 500 : 0.5; }
  if (view.range) [x0, x1] = view.range;
  let [y0, y1] = heat ? [0, shown.length] : rangeOfY(shown, about.kind, x0, x1, gap);
  if (based) { y0 = Math.min(0, y0); y1 = Math.max(0, y1); }
  if (!(y0 <= y1)) [y0, y1] = [0, 1];
  const room = heat ? 0 : (y1 - y0 || Math.abs(y1) || 1) * 0.06;
  if (!(based && y0 === 0)) y0 -= room;
  y1 += room;
  const box = { left: 0, top: 8, right: width - (heat ? 84 : 18), bottom: height - 38 };
  const names = heat ? shown.map((s) => s.name) : null;
  const rows = heat ? rowLabels(names, box) : numberTicks(y0, y1, Math.max(2, Math.floor((box.bottom - box.top) / 34)));
  box.left = 28 + Math.max(18, ...rows.map(([, text]) => g.measureText(text).width));
  const across = (box.right - box.left) / (x1 - x0), up = (box.bottom - box.top) / (y1 - y0) * (heat ? -1 : 1);  // the first row of a heat map is above
  return {
    about, shown, x0, x1, y0, y1, gap, box, names, rows, local: view.local,
    px: (x) => box.left + (x - x0) * across, py: (y) => (heat ? box.top : box.bottom) - (y - y0) * up,
    place: (px) => x0 + (px - box.left) / across,
  };
}

function leastGap(x, open) {
  let gap = Infinity;
  const check = (a, b) => { if (b > a) gap = Math.min(gap, b - a); };
  for (let i = Math.max(1, x.length - 2000); i < x.length; i++) check(x[i - 1], x[i]);
  if (x.length && open.length) check(x[x.length - 1], open[0]);
  for (let i = 1; i < open.length; i++) check(open[i - 1], open[i]);
  return gap;
}

function rangeOfY(shown, kind, x0, x1, gap) {
  let [low, high] = [Infinity, -Infinity];
  const stacks = kind === "bar" || kind === "area" ? new Map() : null;
  for (const series of shown) {
    eachPoint(series, x0 - (stacks ? gap : 0), x1, (x, y) => {
      if (stacks) stacks.set(x, y = (stacks.get(x) || 0) + y);
      if (y < low) low = y;
      if (y > high) high = y;
    });
  }
  return [low, high];
}

/** Call with each point of a series in a range that is a number: place, number, whether it is open. */
function eachPoint(series, x0, x1, act) {
  const [x, y] = closedOf(series);
  for (let i = indexOf(x, x0); i < x.length && x[i] <= x1; i++) if (y[i] === y[i]) act(x[i], y[i], false);
  for (let i = 0; i < series.openX.length; i++) {
    const place = series.openX[i];
    if (place >= x0 && place <= x1 && series.openY[i] === series.openY[i]) act(place, series.openY[i], true);
  }
}

// -------------------------------------------------------------------------------------- drawing

function drawAxes(g, frame, colors) {
  const { box, about } = frame;
  g.font = `11px ${colors.font}`;
  g.fillStyle = colors.muted; g.strokeStyle = colors.line; g.lineWidth = 1;
  const across = Math.max(2, Math.floor((box.right - box.left) / 90));
  const ticks = about.time ? timeTicks(frame.x0, frame.x1, across, frame.local) : numberTicks(frame.x0, frame.x1, across);
  g.textAlign = "center"; g.textBaseline = "top";
  for (const [place, text] of ticks) {
    const x = Math.round(frame.px(place)) + 0.5;
    if (!frame.names) rule(g, x, box.top, x, box.bottom);
    if (x + g.measureText(text).width / 2 < box.right + 18) g.fillText(text, x, box.bottom + 5);
  }
  g.textAlign = "right"; g.textBaseline = "middle";
  for (const [value, text] of frame.rows) {
    const y = Math.round(frame.py(value)) + 0.5;
    if (!frame.names) rule(g, box.left, y, box.right, y);
    g.fillText(text, box.left - 6, y);
  }
  g.textAlign = "center"; g.textBaseline = "bottom";
  g.fillText(xTitle(frame), (box.left + box.right) / 2, box.bottom + 36);
  g.save(); g.translate(11, (box.top + box.bottom) / 2); g.rotate(-Math.PI / 2); g.textBaseline = "middle";
  g.fillText(about.y, 0, 0); g.restore();
}

function rowLabels(names, box) {
  const every = Math.ceil(names.length / ((box.bottom - box.top) / 13));
  return names.map((name, i) => [i + 0.5, name.length > 24 ? `${name.slice(0, 23)}\u2026` : name]).filter((_, i) => i % every === 0);
}

function xTitle({ about, x0, x1, local }) {
  if (!about.time) return about.x;
  const [from, to] = [x0, x1].map((place) => clockOf(place, local).toISOString().slice(0, 10));
  return `${about.x}, ${local ? "local time" : "UTC"}, ${from === to ? from : `${from} to ${to}`}`;
}

/** A line through points, or through the lowest and highest of each column of pixels. */
function trace(g, frame, x, y) {
  const from = Math.max(0, indexOf(x, frame.x0) - 1), to = Math.min(x.length, indexOf(x, frame.x1) + 1);
  const dense = to - from > 4 * (frame.box.right - frame.box.left);
  let up = false;
  g.beginPath();
  for (let i = from; i < to;) {
    const px = frame.px(x[i]);
    if (y[i] !== y[i]) { up = false; i++; continue; }
    let low = y[i], high = y[i], last = y[i], j = i + 1;
    if (dense) for (const edge = Math.floor(px) + 1; j < to && y[j] === y[j] && frame.px(x[j]) < edge; j++) {
      last = y[j];
      if (last < low) low = last; else if (last > high) high = last;
    }
    if (up) g.lineTo(px, frame.py(y[i])); else g.moveTo(px, frame.py(y[i]));
    if (low !== high) { g.lineTo(px, frame.py(low)); g.lineTo(px, frame.py(high)); g.lineTo(px, frame.py(last)); }
    up = true;
    i = j;
  }
  g.stroke();
}

function drawLine(g, frame, series, colors) {
  const [x, y] = closedOf(series), open = series.openX.length;
  g.strokeStyle = g.fillStyle = series.color; g.lineWidth = 1.5; g.lineJoin = "round";
  g.setLineDash(series.dash);
  trace(g, frame, x, y);
  g.setLineDash([]);
  if (x.length && x.length < 80) for (let i = 0; i < x.length; i++) dot(g, frame, x[i], y[i], 1.8, true, colors);
  if (!open) return;
  g.setLineDash([3, 3]);
  trace(g, frame, joined(x.subarray(-1), series.openX, Float64Array), joined(y.subarray(-1), series.openY, Float32Array));
  g.setLineDash([]);
  if (open <= 80) for (let i = 0; i < open; i++) dot(g, frame, series.openX[i], series.openY[i], 3, false, colors);
}

function joined(a, b, Kind) {
  const both = new Kind(a.length + b.length);
  both.set(a);
  both.set(b, a.length);
  return both;
}

function dot(g, frame, x, y, radius, full, colors) {
  if (y !== y) return;
  g.beginPath(); g.arc(frame.px(x), frame.py(y), radius, 0, 7);
  if (!full) { g.save(); g.fillStyle = colors.back; g.fill(); g.restore(); g.lineWidth = 1.3; g.stroke(); } else g.fill();
}

/** Points, each pixel once however many fall on it; every series has its own shape. */
function drawScatter(g, frame, series, colors) {
  const taken = new Set(), shape = series.index % 3;
  g.fillStyle = g.strokeStyle = series.color;
  eachPoint(series, frame.x0, frame.x1, (x, y, open) => {
    const px = Math.round(frame.px(x)), py = Math.round(frame.py(y)), key = px * 16384 + py;
    if (open) return dot(g, frame, x, y, 3, false, colors);
    if (taken.has(key)) return;
    taken.add(key);
    if (shape === 0) g.fillRect(px - 1, py - 1, 3, 3);
    else if (shape === 1) { g.fillRect(px - 2, py, 5, 1); g.fillRect(px, py - 2, 1, 5); }
    else { g.beginPath(); g.moveTo(px, py - 3); g.lineTo(px + 3, py + 2); g.lineTo(px - 3, py + 2); g.fill(); }
  });
}

function drawBars(g, frame, colors) {
  const stand = new Map(), width = Math.max(1, (frame.px(frame.x0 + frame.gap) - frame.box.left) * 0.9);
  for (const series of frame.shown) eachPoint(series, frame.x0 - frame.gap, frame.x1, (x, y, open) => {
    const base = stand.get(x) || 0, px = frame.px(x), top = frame.py(base + y), height = frame.py(base) - top;
    stand.set(x, base + y);
    g.fillStyle = g.strokeStyle = series.color;
    g.globalAlpha = open ? 0.35 : 1;
    g.fillRect(px, top, width, height || 1);
    g.globalAlpha = 1;
    if (open && width > 3) { g.setLineDash([3, 2]); g.lineWidth = 1; g.strokeRect(px + 0.5, top + 0.5, width - 1, height - 1); g.setLineDash([]); }
  });
}

function drawAreas(g, frame) {
  const stand = new Map();
  for (const series of frame.shown) {
    const points = [];
    eachPoint(series, frame.x0 - frame.gap, frame.x1 + frame.gap, (x, y, open) => points.push([x, stand.get(x) || 0, y, open]));
    for (const [x, base, y] of points) stand.set(x, base + y);
    g.fillStyle = g.strokeStyle = series.color;
    let first = 0;
    for (const isOpen of [false, true]) {
      let last = points.findIndex((point) => point[3]);
      if (last < 0 || isOpen) last = points.length;
      const some = points.slice(first, last);
      if (some.length) {
        g.globalAlpha = isOpen ? 0.3 : 0.7;
        g.beginPath();
        for (const [x, base, y] of some) g.lineTo(frame.px(x), frame.py(base + y));
        for (const [x, base] of some.reverse()) g.lineTo(frame.px(x), frame.py(base));
        g.fill();
      }
      first = Math.max(0, last - 1);
    }
    g.globalAlpha = 1;
  }
}

function shade(share) {
  const at = Math.min(Math.max(share, 0), 1) * (CIVIDIS.length - 1), i = Math.min(Math.floor(at), CIVIDIS.length - 2);
  return `rgb(${CIVIDIS[i].map((c, k) => Math.round(c + (CIVIDIS[i + 1][k] - c) * (at - i))).join(",")})`;
}

function drawHeat(g, frame, colors) {
  let [low, high] = [Infinity, -Infinity];
  for (const series of frame.shown) eachPoint(series, frame.x0, frame.x1, (_, y) => { low = Math.min(low, y); high = Math.max(high, y); });
  const width = Math.max(1, frame.px(frame.x0 + frame.gap) - frame.box.left), span = high - low || 1;
  frame.shown.forEach((series, row) => eachPoint(series, frame.x0 - frame.gap, frame.x1, (x, y, open) => {
    const px = frame.px(x), top = frame.py(row), height = frame.py(row + 1) - top;
    g.fillStyle = shade((y - low) / span);
    g.fillRect(px, top + 0.5, width - (width > 4 ? 0.5 : 0), height - (height > 4 ? 1 : 0));
    if (open && width > 5) { g.strokeStyle = colors.back; g.setLineDash([3, 2]); g.lineWidth = 1.5; g.strokeRect(px + 1.5, top + 2, width - 3.5, height - 4); g.setLineDash([]); }
  }));
  const { box } = frame, steps = 40;
  for (let i = 0; i < steps; i++) {
    g.fillStyle = shade(i / (steps - 1));
    g.fillRect(box.right + 14, box.bottom - ((i + 1) * (box.bottom - box.top)) / steps, 10, (box.bottom - box.top) / steps + 1);
  }
  g.fillStyle = colors.muted; g.textAlign = "left"; g.textBaseline = "middle"; g.font = `11px ${colors.font}`;
  if (low <= high) for (const [value, at] of [[low, box.bottom - 6], [high, box.top + 7]]) g.fillText(numberLabel(value, 0, Math.abs(value) < 10 ? 2 : 0), box.right + 28, at);
  g.save(); g.translate(frame.box.right + 42, (box.top + box.bottom) / 2); g.rotate(-Math.PI / 2); g.textAlign = "center";
  g.fillText(frame.about.value, 0, 0); g.restore();
}

function drawAll(g, frame, colors) {
  drawAxes(g, frame, colors);
  const { box } = frame, { kind } = frame.about;
  g.save(); g.beginPath(); g.rect(box.left, box.top - 2, box.right - box.left + (kind === "heat" ? 84 : 7), box.bottom - box.top + 4); g.clip();
  if (kind === "bar") drawBars(g, frame, colors);
  else if (kind === "area") drawAreas(g, frame);
  else if (kind === "heat") drawHeat(g, frame, colors);
  else for (const series of frame.shown) (kind === "scatter" ? drawScatter : drawLine)(g, frame, series, colors);
  g.restore();
}

// ----------------------------------------------------------------------------------------- view

function renderChart({ model, el }) {
  const channel = channelOf(model, chartStore), { store } = channel;
  const view = { range: null, hidden: new Set(), local: null, cursor: null, drag: null };
  const title = make("span", "sl-title"), status = make("span", "sl-quiet");
  const pause = button("pause", "Pause (space)", () => {
    channel.held = !store.paused && !channel.held;  // at once, however busy the kernel is
    channel.say({ t: "pause", on: channel.held });
    if (!channel.held) channel.say({ t: "resync" });
    drawn.draw();
  });
  const zone = button("UTC", "Time in UTC or local (u)", () => { view.local = !view.local; drawn.draw(); });
  const all = button("all", "Show all and follow (0, double click)", () => { view.range = null; drawn.draw(); });
  const canvas = make("canvas", "sl-canvas", { role: "img" }), tip = make("div", "sl-tip"), legend = make("div", "sl-legend");
  const plot = make("div", "sl-plot", {}, canvas, tip), note = make("div", "sl-note");
  el.append(make("div", "sl-bar", {}, title, status, make("span", "sl-space"), pause, zone, all), legend, plot, note);
  let frame = null, legendOf = "";
  keep(el);

  function paint() {
    noteOf(channel, note);
    tip.hidden = true;
    if (!store.about) { status.textContent = "waiting for the first rows"; return; }
    const { about } = store, colors = { font: getComputedStyle(el).fontFamily };
    for (const name of ["muted", "line", "back"]) colors[name] = resolved(el, name);
    view.local ??= about.zone === "local";
    title.textContent = about.title;
    status.textContent = store.status + (channel.held && !store.paused ? " \u00b7 paused here" : store.paused ? " \u00b7 paused" : "");
    sign(pause, store.paused || channel.held ? "play" : "pause");
    zone.textContent = view.local ? "local" : "UTC";
    zone.hidden = !about.time;
    all.setAttribute("aria-pressed", String(!view.range));
    const width = Math.max(200, plot.clientWidth), height = about.height, ratio = window.devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio);
      canvas.style.height = `${height}px`;
    }
    canvas.setAttribute("aria-label", `${about.kind} chart of ${about.title}; ${store.status}`);
    const g = canvas.getContext("2d");
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    g.clearRect(0, 0, width, height);
    const dark = darkness(colors.back) > 0.6;
    for (const series of store.series) series.color = dark ? lighter(series.plain) : series.plain;
    drawLegend(colors);
    g.font = `11px ${colors.font}`;
    frame = frameOf(g, store, view, width, height);
    if (frame) { drawAll(g, frame, colors); drawOver(g, colors); }
    else { g.fillStyle = colors.muted; g.font = `12px ${colors.font}`; g.textAlign = "center"; g.fillText("nothing to draw yet", width / 2, height / 2); }
    el.dataset.drawn = String(Number(el.dataset.drawn || 0) + 1);
    el.classList.add("sl-drawn");
  }

  function drawOver(g, colors) {
    const { box } = frame;
    g.strokeStyle = g.fillStyle = colors.muted; g.lineWidth = 1;
    if (view.drag?.moved && !view.drag.pan) {
      g.globalAlpha = 0.15;
      g.fillRect(Math.min(view.drag.from, view.drag.to), box.top, Math.abs(view.drag.to - view.drag.from), box.bottom - box.top);
      g.globalAlpha = 1;
    } else if (view.cursor && view.cursor.x >= box.left && view.cursor.x <= box.right) {
      g.setLineDash([2, 2]); rule(g, view.cursor.x + 0.5, box.top, view.cursor.x + 0.5, box.bottom); g.setLineDash([]);
      showTip();
    }
  }

  /** What each series is at the cursor: its nearest point. */
  function showTip() {
    const at = frame.place(view.cursor.x), found = [];
    for (const series of frame.shown) {
      let best = null;
      const reach = frame.about.kind === "bar" || frame.about.kind === "heat" ? frame.gap : (frame.x1 - frame.x0) / 20;
      const near = (x, y, open) => { const d = Math.abs(x + (frame.about.kind === "bar" || frame.about.kind === "heat" ? frame.gap / 2 : 0) - at); if (!best || d < best.d) best = { d, x, y, open, series }; };
      eachPoint(series, at - reach, at + reach, near);
      if (best) found.push(best);
    }
    if (!found.length) return;
    const place = found.reduce((a, b) => (a.d <= b.d ? a : b)).x;
    const head = frame.about.time ? clockOf(place, view.local).toISOString().replace("T", " ").replace(/(\.000)?Z$/, view.local ? " local" : " UTC") : exact(place);
    tip.replaceChildren(make("div", "", {}, head));
    for (const { series, y, open, x } of found.filter((f) => f.x === place || frame.about.kind === "line" || frame.about.kind === "scatter").slice(0, 16)) {
      const mark = make("i");
      mark.style.background = frame.about.kind === "heat" ? "none" : series.color;
      tip.append(make("div", "", {}, make("span", "", {}, mark, series.name), make("span", "", {}, exact(Number(y.toPrecision(7))) + (open ? " (open)" : ""))));
    }
    tip.hidden = false;
    const left = view.cursor.x + 14 + tip.offsetWidth > canvas.clientWidth;
    tip.style.left = `${left ? view.cursor.x - 14 - tip.offsetWidth : view.cursor.x + 14}px`;
    tip.style.top = `${Math.max(0, Math.min(view.cursor.y, canvas.clientHeight - tip.offsetHeight))}px`;
  }

  function drawLegend(colors) {
    const { about, series } = store, open = about.provisional;
    const key = JSON.stringify([series.map((s) => s.name), [...view.hidden], open, about.kind, colors]);
    if (key === legendOf) return;
    legendOf = key;
    const shown = about.kind === "heat" || (series.length < 2 && !open) ? [] : series;
    legend.replaceChildren(...shown.map((s) => {
      const item = make("button", "", { type: "button", "aria-pressed": String(!view.hidden.has(s.name)), title: s.name }, sample(s.color, s.dash, about.kind, s.index), make("span", "", {}, s.name));
      item.addEventListener("click", () => { if (!view.hidden.delete(s.name)) view.hidden.add(s.name); drawn.draw(); });
      return item;
    }));
    if (open) legend.append(make("button", "sl-quiet", { type: "button", disabled: "", title: "a window that is not closed yet" }, sample(colors.muted, null, about.kind, 0), make("span", "", {}, "open: may still change")));
  }

  function sample(color, dash, kind, index) {
    const node = make("canvas", "", { width: 44, height: 24, "aria-hidden": "true" }), g = node.getContext("2d");
    g.scale(2, 2); g.strokeStyle = g.fillStyle = color; g.lineWidth = 2;
    if (kind === "line") { g.setLineDash(dash || [3, 3]); rule(g, 1, 6, 21, 6); g.setLineDash([]); if (!dash) { g.beginPath(); g.arc(11, 6, 3, 0, 7); g.globalCompositeOperation = "destination-out"; g.fill(); g.globalCompositeOperation = "source-over"; g.lineWidth = 1.3; g.stroke(); } }
    else if (kind === "scatter") { if (!dash) { g.beginPath(); g.arc(11, 6, 3, 0, 7); g.stroke(); } else if (index % 3 === 0) g.fillRect(8, 3, 6, 6); else if (index % 3 === 1) { g.fillRect(7, 5.5, 8, 1.5); g.fillRect(10.3, 2, 1.5, 8); } else { g.beginPath(); g.moveTo(11, 2); g.lineTo(15, 9); g.lineTo(7, 9); g.fill(); } }
    else { g.globalAlpha = dash ? 1 : 0.35; g.fillRect(3, 1, 16, 10); g.globalAlpha = 1; if (!dash) { g.setLineDash([3, 2]); g.lineWidth = 1; g.strokeRect(3.5, 1.5, 15, 9); } }
    return node;
  }

  // -- zoom, hover, keys

  const spot = (event) => { const box = canvas.getBoundingClientRect(); return { x: event.clientX - box.left, y: event.clientY - box.top }; };
  const span = () => view.range || [frame.x0, frame.x1];
  function zoom(center, factor) {
    const [low, high] = span(), at = Math.min(Math.max(center, low), high);
    view.range = [at - (at - low) * factor, at + (high - at) * factor];
    drawn.draw();
  }
  function pan(share) {
    const [low, high] = span(), by = (high - low) * share;
    view.range = [low + by, high + by];
    drawn.draw();
  }
  canvas.addEventListener("pointerdown", (event) => {
    if (!frame || event.button) return;
    el.focus({ preventScroll: true });
    view.drag = { from: spot(event).x, to: spot(event).x, pan: event.shiftKey, start: span(), moved: false };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    view.cursor = spot(event);
    if (view.drag && frame) {
      view.drag.to = view.cursor.x;
      view.drag.moved ||= Math.abs(view.drag.to - view.drag.from) > 4;
      if (view.drag.pan) {
        const [low, high] = view.drag.start, by = ((view.drag.from - view.drag.to) * (high - low)) / (frame.box.right - frame.box.left);
        view.range = [low + by, high + by];
      }
    }
    drawn.draw();
  });
  canvas.addEventListener("pointerup", () => {
    const { drag } = view;
    if (drag?.moved && !drag.pan) view.range = [drag.from, drag.to].sort((a, b) => a - b).map((px) => frame.place(px));
    view.drag = null;
    drawn.draw();
  });
  canvas.addEventListener("pointerleave", () => { view.cursor = null; drawn.draw(); });
  canvas.addEventListener("dblclick", () => all.click());
  canvas.addEventListener("wheel", (event) => {
    if (!frame || !el.contains(document.activeElement)) return;  // the page scrolls, until the chart is chosen
    event.preventDefault();
    zoom(frame.place(spot(event).x), event.deltaY < 0 ? 0.8 : 1.25);
  }, { passive: false });
  el.addEventListener("keydown", (event) => {
    if (!frame) return;
    const middle = (frame.x0 + frame.x1) / 2;
    const act = {
      " ": () => event.target.tagName === "BUTTON" ? null : pause.click(), "+": () => zoom(middle, 0.7), "=": () => zoom(middle, 0.7),
      "-": () => zoom(middle, 1.4), ArrowLeft: () => pan(-0.1), ArrowRight: () => pan(0.1), 0: () => all.click(),
      Home: () => all.click(), u: () => zone.click(),
    }[event.key];
    if (!act) return;
    if (event.key !== " " || event.target.tagName !== "BUTTON") event.preventDefault();
    act();
  });
  const drawn = viewIn(channel, el, paint);
  return () => drawn.remove();
}
