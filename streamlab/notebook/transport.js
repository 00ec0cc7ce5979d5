// The transport bar: what the kernel says of the clock, and a strip of events to scrub over.
//
// Between two frames the playhead glides on at the replay's speed; the next frame puts it right.

const transportStore = () => ({
  frame: null, heard: 0,
  take(message) { this.frame = { ...(this.frame || {}), ...message }; this.heard = performance.now(); },
});

function renderTransport({ model, el }) {
  const channel = channelOf(model, transportStore), { store } = channel;
  const view = { local: false, drag: null, hover: null, step: "1s", asked: null };
  const now = () => store.frame, say = (message) => channel.say(message);

  const clock = make("span", "sl-clock"), state = make("span", "sl-quiet");
  const go = button("play", "Play or pause (space)", () => { view.asked = !now()?.playing; say({ t: "play", on: view.asked }); bar.draw(); });
  go.classList.add("sl-go");
  const first = button("start", "To the start (Home)", () => seek(now().start));
  const back = button("back", "A step back (\u2190)", () => say({ t: "back", by: view.step }));
  const step = button("step", "A step on (\u2192)", () => say({ t: "step", by: view.step }));
  const last = button("end", "To the end (End)", () => seek(now().stop));
  const steps = make("select", "", { "aria-label": "Length of a step" });
  const speeds = make("select", "", { "aria-label": "Speed (+ and -)" });
  const mark = button("mark", "Mark this place (m)", () => say({ t: "mark", at: position(), label: "" }));
  const zone = button("UTC", "Time in UTC or local (u)", () => { view.local = !view.local; zone.textContent = view.local ? "local" : "UTC"; bar.draw(); });
  const canvas = make("canvas"), strip = make("div", "sl-strip", { role: "slider", tabindex: "0", "aria-label": "Position of the replay" }, canvas);
  const note = make("div", "sl-note");
  el.append(
    make("div", "sl-bar", {}, first, back, go, step, last, make("span", "sl-quiet", {}, "step"), steps, make("span", "sl-quiet", {}, "speed"), speeds, mark, zone, make("span", "sl-space"), clock),
    strip, make("div", "sl-bar", {}, state), note,
  );
  keep(el);
  steps.addEventListener("change", () => { view.step = steps.value; });
  speeds.addEventListener("change", () => say({ t: "speed", value: speeds.value === "max" ? null : Number(speeds.value) }));

  const sendSeek = paced((at) => say({ t: "seek", at }), 40);
  function seek(at) {
    view.drag = Math.min(Math.max(at, now().start), now().stop);
    sendSeek(view.drag);
    bar.draw();
  }

  /** Where the playhead is: where it is dragged to, or where the clock must be by now. */
  function position() {
    const frame = now();
    if (view.drag !== null) return view.drag;
    const gone = frame.playing && frame.speed ? (performance.now() - store.heard) * frame.speed : 0;
    return Math.min(frame.stop, frame.position + gone);
  }

  const box = () => ({ left: 6, right: strip.clientWidth - 6 });
  const pixel = (at) => { const { left, right } = box(), frame = now(); return left + ((at - frame.start) / (frame.stop - frame.start || 1)) * (right - left); };
  const place = (x) => { const { left, right } = box(), frame = now(); return frame.start + ((x - left) / (right - left)) * (frame.stop - frame.start); };
  const said = (at) => clockOf(at, view.local).toISOString().replace("T", " ").replace("Z", view.local ? " local" : " UTC");

  function paint() {
    noteOf(channel, note);
    const frame = now();
    if (!frame) return;
    if (view.drag !== null && !view.holding && Math.abs(frame.position - view.drag) < 1) view.drag = null;
    if (view.asked === frame.playing) view.asked = null;
    const at = position();
    clock.textContent = said(at);
    sign(go, (view.asked ?? frame.playing) ? "pause" : "play");
    go.disabled = frame.stopped;
    fillSelect(steps, frame.steps, view.step);
    fillSelect(speeds, frame.speeds.map((s) => s ?? "max"), frame.speed ?? "max", (s) => (s === "max" ? "max" : `${s}\u00d7`));
    const doing = frame.stopped ? "stopped" : frame.done ? "at the end" : frame.playing ? "playing" : "paused";
    const rows = frame.released.map(([name, done, total]) => `${name} ${done.toLocaleString("en")} of ${total.toLocaleString("en")} rows`);
    const wanted = view.asked !== null && view.asked !== frame.playing ? ` \u00b7 ${view.asked ? "play" : "pause"} requested` : "";
    state.textContent = [doing, ...rows].join(" \u00b7 ") + wanted;
    for (const [name, value] of Object.entries({ valuemin: frame.start, valuemax: frame.stop, valuenow: at, valuetext: said(at) })) strip.setAttribute(`aria-${name}`, String(value));
    drawStrip(frame, at);
    el.classList.add("sl-drawn");
    el.dataset.at = String(at);
    if (frame.playing && frame.speed && view.drag === null && at < frame.stop) bar.draw();
  }

  function fillSelect(node, values, chosen, label = String) {
    const known = values.map(String).includes(String(chosen)) ? values : [...values, chosen];
    const key = JSON.stringify(known);
    if (node.dataset.of !== key) {
      node.replaceChildren(...known.map((value) => make("option", "", { value: String(value) }, label(value))));
      node.dataset.of = key;
    }
    if (document.activeElement !== node || node === steps) node.value = String(chosen);
  }

  function drawStrip(frame, at) {
    const width = Math.max(120, strip.clientWidth), height = 92, ratio = window.devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * ratio)) { canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio); }
    const g = canvas.getContext("2d"), ink = resolved(el, "ink"), muted = resolved(el, "muted"), line = resolved(el, "line"), focus = resolved(el, "focus");
    const { left, right } = box(), top = 16, bottom = 70, head = pixel(at);
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    g.clearRect(0, 0, width, height);
    const most = Math.max(1, ...frame.density), each = (right - left) / frame.density.length;
    g.strokeStyle = line; rule(g, left, bottom + 0.5, right, bottom + 0.5);
    frame.density.forEach((count, i) => {
      const x = left + i * each, tall = count ? Math.max(1, (count / most) * (bottom - top - 4)) : 0;
      for (const [from, to, color] of [[x, Math.min(x + each, head), focus], [Math.max(x, head), x + each, line]]) {
        if (to <= from) continue;
        g.fillStyle = color;
        g.fillRect(from, bottom - tall, Math.max(0.5, to - from - (each > 3 ? 0.6 : 0)), tall);
      }
    });
    g.font = `11px ${getComputedStyle(el).fontFamily}`; g.fillStyle = muted; g.textAlign = "center"; g.textBaseline = "top";
    for (const [tick, text] of timeTicks(frame.start, frame.stop, Math.floor((right - left) / 90), view.local)) {
      const x = pixel(tick), half = g.measureText(text).width / 2;
      g.strokeStyle = line; rule(g, x, bottom, x, bottom + 4);
      if (x - half > 0 && x + half < width) g.fillText(text, x, bottom + 6);
    }
    for (const [markAt, label] of frame.marks) {
      const x = pixel(markAt);
      g.fillStyle = "#e69f00"; g.strokeStyle = "#e69f00";
      rule(g, x, 10, x, bottom);
      g.beginPath(); g.moveTo(x - 5, 2); g.lineTo(x + 5, 2); g.lineTo(x + 5, 8); g.lineTo(x, 12); g.lineTo(x - 5, 8); g.fill();
      if (label) { g.fillStyle = ink; g.textAlign = x > right - 90 ? "right" : "left"; g.fillText(label, x + (x > right - 90 ? -8 : 8), 1); g.textAlign = "center"; }
    }
    if (view.hover !== null && view.drag === null) {
      g.strokeStyle = muted; g.setLineDash([2, 2]); rule(g, pixel(view.hover), top, pixel(view.hover), bottom); g.setLineDash([]);
      g.fillStyle = ink; g.textAlign = pixel(view.hover) > width / 2 ? "right" : "left"; g.textBaseline = "bottom";
      g.fillText(said(view.hover), pixel(view.hover) + (pixel(view.hover) > width / 2 ? -6 : 6), top + 12);
    }
    g.strokeStyle = g.fillStyle = ink; g.lineWidth = 2; rule(g, head, top - 4, head, bottom + 2); g.lineWidth = 1;
    g.beginPath(); g.arc(head, bottom + 2, 5, 0, 7); g.fill();
  }

  // -- scrubbing and keys

  const spot = (event) => place(event.clientX - strip.getBoundingClientRect().left);
  strip.addEventListener("pointerdown", (event) => {
    if (event.button || !now()) return;
    strip.setPointerCapture(event.pointerId);
    view.holding = true;
    const near = now().marks.find(([at]) => Math.abs(pixel(at) - pixel(spot(event))) < 6);
    seek(near ? near[0] : spot(event));
  });
  strip.addEventListener("pointermove", (event) => {
    if (!now()) return;
    view.hover = Math.min(Math.max(spot(event), now().start), now().stop);
    if (view.holding) seek(spot(event)); else bar.draw();
  });
  strip.addEventListener("pointerup", () => { view.holding = false; bar.draw(); });
  strip.addEventListener("pointerleave", () => { view.hover = null; bar.draw(); });
  function jump(forward) {
    const at = position(), found = now().marks.map(([t]) => t).filter((t) => (forward ? t > at + 1 : t < at - 1));
    if (found.length) seek(forward ? found[0] : found[found.length - 1]);
  }
  function faster(by) {
    const known = now().speeds, i = known.findIndex((s) => s === now().speed);
    const next = known[Math.min(Math.max((i < 0 ? 2 : i) + by, 0), known.length - 1)];
    say({ t: "speed", value: next });
  }
  el.addEventListener("keydown", (event) => {
    if (event.target.tagName === "SELECT" || !now()) return;
    const tenth = (now().stop - now().start) / 10, big = event.shiftKey;
    const act = {
      " ": () => (event.target.tagName === "BUTTON" ? null : go.click()), ArrowRight: () => (big ? seek(position() + tenth) : step.click()),
      ArrowLeft: () => (big ? seek(position() - tenth) : back.click()), Home: () => first.click(), End: () => last.click(),
      "+": () => faster(1), "=": () => faster(1), "-": () => faster(-1), m: () => mark.click(), u: () => zone.click(), "]": () => jump(true), "[": () => jump(false),
    }[event.key];
    if (!act || (event.key === " " && event.target.tagName === "BUTTON")) return;
    event.preventDefault();
    act();
  });
  const bar = viewIn(channel, el, paint);
  return () => bar.remove();
}
