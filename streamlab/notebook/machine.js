// The time machine: the transport bar, and under it panes that show what was as of that instant.

const machineStore = () => {
  const bar = transportStore();
  return {
    bar, panes: [], at: null, get frame() { return bar.frame; }, get heard() { return bar.heard; },
    take(message, buffers) {
      bar.take(message);
      this.at = message.at;
      let next = 0;
      this.panes = message.panes.map((pane, i) => {
        const own = buffers.slice(next, next += pane.buffers);
        if (pane.kind !== "chart") return pane;
        const chart = this.panes[i]?.store || chartStore();
        chart.take(pane.chart, own);
        return { ...pane, store: chart };
      });
    },
  };
};

function renderMachine({ model, el }) {
  const channel = channelOf(model, machineStore), { store } = channel, panes = [];
  const under = make("div"), over = make("div");
  el.append(over, under);
  const stop = renderTransport({ model, el: over });
  over.classList.remove("sl-live");
  el.classList.add("sl-live");

  function paint() {
    if (!store.frame) return;
    store.panes.forEach((pane, i) => {
      panes[i] ??= paneIn(under, pane.kind);
      panes[i](pane);
    });
    el.dataset.drawn = String(Number(el.dataset.drawn || 0) + 1);
    el.dataset.shown = String(store.at);
    el.classList.add("sl-drawn");
  }

  function paneIn(parent, kind) {
    const title = make("div", "sl-quiet"), name = make("b"), stale = make("span");
    title.append(name, stale);
    const body = kind === "chart" ? make("canvas", "sl-canvas", { role: "img" }) : make("table", "sl-table");
    const node = make("div", "sl-pane", {}, title, kind === "chart" ? body : make("div", "sl-scroll", {}, body));
    parent.append(node);
    return (pane) => {
      name.textContent = pane.title;
      stale.textContent = pane.problem ? ` \u00b7 ${pane.problem}` : pane.stale ? ` \u00b7 ${pane.stale}` : "";
      node.classList.toggle("sl-stale", Boolean(pane.stale));
      if (kind === "chart") drawPane(body, pane); else fillTable(body, pane, null);
    };
  }

  function drawPane(canvas, pane) {
    const width = Math.max(200, under.clientWidth), { height } = pane.chart, ratio = window.devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * ratio)) {
      canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio);
      canvas.style.height = `${height}px`;
    }
    canvas.setAttribute("aria-label", `${pane.title} as of ${new Date(store.at).toISOString()}`);
    const g = canvas.getContext("2d"), colors = { font: getComputedStyle(el).fontFamily };
    for (const name of ["muted", "line", "back"]) colors[name] = resolved(el, name);
    const dark = darkness(colors.back) > 0.6;
    for (const series of pane.store.series) series.color = dark ? lighter(series.plain) : series.plain;
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    g.clearRect(0, 0, width, height);
    g.font = `11px ${colors.font}`;
    const frame = frameOf(g, pane.store, { range: pane.range, hidden: new Set(), local: false }, width, height);
    if (!frame) { g.fillStyle = colors.muted; g.textAlign = "center"; g.fillText("no rows in this time", width / 2, height / 2); return; }
    drawAll(g, frame, colors);
    if (pane.store.series.length > 1) nameSeries(g, frame, colors);
  }

  /** The names of the series, above the picture, each in its colour. */
  function nameSeries(g, frame, colors) {
    let x = frame.box.left + 6;
    g.textAlign = "left"; g.textBaseline = "top";
    for (const series of frame.shown) {
      g.fillStyle = series.color; g.fillRect(x, frame.box.top + 5, 12, 3);
      g.fillStyle = colors.muted; g.fillText(series.name, x + 16, frame.box.top);
      x += 30 + g.measureText(series.name).width;
      if (x > frame.box.right - 60) break;
    }
  }
  const view = viewIn(channel, el, paint);
  return () => { stop(); view.remove(); };
}
