// What all live views share: a channel to the kernel, and views that draw when somebody looks.
//
// The data of a widget is kept once for its model, in a store; each view of it only draws. Frames are
// numbered: a delta after a gap is of no use, so everything is asked for again.

const channels = new WeakMap();

/** The channel of a model: made once, with the store that takes its frames. */
function channelOf(model, makeStore) {
  if (channels.has(model)) return channels.get(model);
  const channel = {
    store: makeStore(), views: new Set(), seq: null, error: "", ended: "", asked: 0, held: false, of: null,
    say(message) { model.send(message); },
    seen() { channel.say({ t: "seen", n: [...channel.views].filter((view) => view.visible).length }); },
    draw() { for (const view of channel.views) view.draw(); },
  };
  channels.set(model, channel);
  model.on("msg:custom", (message, buffers) => {
    if (message.t === "frame") takeFrame(channel, message, buffers || []);
    else if (message.t === "error") channel.error = message.text;
    else if (message.t === "ended") channel.ended = message.text;
    channel.draw();
  });
  channel.say({ t: "hello" });
  return channel;
}

function takeFrame(channel, message, buffers) {
  if (channel.held) return;  // paused in the browser: all is asked for when it goes on
  if (!message.full && message.seq !== channel.seq + 1) {
    const now = performance.now();
    if (now - channel.asked > 1000) channel.say({ t: "resync" });
    channel.asked = Math.max(channel.asked, now);
    return;
  }
  channel.seq = message.seq;
  channel.of = message.of;
  channel.error = message.problem || "";
  channel.store.take(message, buffers);
}

/** Numbers of a buffer, which is a DataView, an ArrayBuffer or bytes, as the front end has it. */
function numbers(buffer, Kind) {
  const at = buffer.byteOffset || 0, bytes = buffer.buffer || buffer;
  return new Kind(bytes.slice(at, at + buffer.byteLength));
}

/** A view in an element: `draw` soon, once per picture, and only while it is on the screen. */
function viewIn(channel, el, paint) {
  el.classList.add("sl-live");
  let asked = false;
  const view = {
    visible: true,
    draw() {
      if (asked || (!view.visible && el.classList.contains("sl-drawn"))) return;  // once in any case: the still goes
      asked = true;
      requestAnimationFrame(() => { asked = false; if (el.isConnected) { paint(); hideStill(channel, el); } });
    },
  };
  channel.views.add(view);
  const looks = new IntersectionObserver((entries) => {
    view.visible = entries[entries.length - 1].isIntersecting;
    channel.seen();
    view.draw();
  });
  looks.observe(el);
  const sizes = new ResizeObserver(() => view.draw());
  sizes.observe(el);
  const themes = new MutationObserver(() => view.draw());
  for (const node of [document.documentElement, document.body])
    themes.observe(node, { attributes: true, attributeFilter: ["data-jp-theme-light", "class", "style"] });
  view.draw();
  view.remove = () => {
    channel.views.delete(view);
    for (const observer of [looks, sizes, themes]) observer.disconnect();
    channel.seen();
  };
  return view;
}

/** Hide the still of a view that has drawn, where the front end shows both. */
function hideStill(channel, el) {
  if (!channel.of || !el.classList.contains("sl-drawn")) return;
  for (const still of document.querySelectorAll(".sl-still")) if (still.dataset.of === channel.of) still.style.display = "none";
}

/** An element with a class, attributes and children; text is always text. */
function make(tag, name, attributes, ...children) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

/** Signs of buttons, drawn: fonts that have them all are rare. */
const SIGNS = {
  play: "M4 2l9 6-9 6z", pause: "M3 2h4v12H3zM9 2h4v12H9z", stop: "M3 3h10v10H3z",
  step: "M3 2l7 6-7 6zM11 2h2v12h-2z", back: "M13 2L6 8l7 6zM3 2h2v12H3z",
  end: "M2 2l5.5 6L2 14zM7.5 2l5 6-5 6zM13 2h2v12h-2z", start: "M14 2L8.5 8l5.5 6zM8.5 2l-5 6 5 6zM1 2h2v12H1z",
  mark: "M4 2h8v12l-4-3.5L4 14z", plus: "M7 3h2v4h4v2H9v4H7V9H3V7h4z", minus: "M3 7h10v2H3z",
};

/** Draw a sign into a button. */
function sign(node, name) {
  if (node.dataset.sign === name) return;
  node.dataset.sign = name;
  const picture = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  for (const [key, value] of Object.entries({ viewBox: "0 0 16 16", width: 12, height: 12, "aria-hidden": "true" }))
    picture.setAttribute(key, value);
  path.setAttribute("d", SIGNS[name]);
  path.setAttribute("fill", "currentColor");
  picture.append(path);
  node.replaceChildren(picture);
}

/** A button with a sign, or a word, and a label for those who cannot see it. */
function button(name, label, act) {
  const node = make("button", "sl-button", { type: "button", "aria-label": label, title: label });
  if (SIGNS[name]) sign(node, name); else node.textContent = name;
  node.addEventListener("click", act);
  return node;
}

/** A function that calls another at most so often, and always once more with the last values. */
function paced(act, milliseconds) {
  let due = 0, timer = null, last = null;
  return (...values) => {
    last = values;
    if (timer !== null) return;
    const wait = Math.max(0, due - performance.now());
    timer = setTimeout(() => { timer = null; due = performance.now() + milliseconds; act(...last); }, wait);
  };
}

/** A colour of live.css as a canvas takes it, whatever functions and variables it is made of. */
function resolved(el, name) {
  el.probe ??= el.appendChild(make("span", "", { hidden: "", "aria-hidden": "true" }));
  el.probe.style.color = `var(--sl-${name})`;
  return getComputedStyle(el.probe).color;
}

/** Keep what is pressed inside of a view from the notebook around it. */
function keep(el) {
  el.tabIndex = 0;
  el.dataset.lmSuppressShortcuts = "true";
  for (const kind of ["keydown", "keypress", "keyup"])
    el.addEventListener(kind, (event) => { if (event.key !== "Tab" && event.key !== "Escape") event.stopPropagation(); });
}

/** A message under a view: an error, or that it stands still. */
function noteOf(channel, node) {
  node.textContent = channel.error || channel.ended;
  node.classList.toggle("sl-error", Boolean(channel.error));
  node.hidden = !node.textContent;
}
