// Axes: where the ticks are, what is written at them, and colours for dark grounds.

const STEPS = [1, 2, 5, 10, 20, 50, 100, 200, 500, ...[1, 2, 5, 10, 15, 30].map((s) => s * 1e3),
  ...[1, 2, 5, 10, 15, 30].map((m) => m * 6e4), ...[1, 2, 3, 6, 12].map((h) => h * 36e5),
  ...[1, 2, 7, 14, 28, 91, 182, 365, 1826, 3652].map((d) => d * 864e5)];

const pad = (n, width = 2) => String(n).padStart(width, "0");

/** The time of a place, as a Date whose UTC parts are those of the zone. */
const clockOf = (place, local) => new Date(place - (local ? new Date(place).getTimezoneOffset() * 6e4 : 0));

function timeLabel(place, step, local) {
  const at = clockOf(place, local), hm = `${pad(at.getUTCHours())}:${pad(at.getUTCMinutes())}`;
  if (step >= 864e5) return at.toISOString().slice(0, 10);
  if (step >= 6e4) return hm;
  const s = `${hm}:${pad(at.getUTCSeconds())}`;
  return step >= 1e3 ? s : `${s}.${pad(at.getUTCMilliseconds(), 3)}`;
}

function timeTicks(low, high, most, local) {
  const step = STEPS.find((s) => (high - low) / s <= most) || STEPS[STEPS.length - 1];
  const shift = local ? -new Date(low).getTimezoneOffset() * 6e4 : 0, found = [];
  for (let t = Math.ceil((low + shift) / step) * step - shift; t <= high; t += step) found.push([t, timeLabel(t, step, local)]);
  return found;
}

function numberTicks(low, high, most) {
  const raw = (high - low) / most, power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((m) => m * power >= raw), found = [];
  const decimals = Math.max(0, Math.min(9, -Math.floor(Math.log10(step) + 1e-9)));
  for (let v = Math.ceil(low / step) * step; v <= high + step * 1e-9; v += step) found.push([v, numberLabel(Math.round(v / step) * step || 0, step, decimals)]);
  return found;
}

function numberLabel(value, step, decimals) {
  const size = Math.max(Math.abs(value), step || 0);
  for (const [unit, letter] of [[1e12, "T"], [1e9, "G"], [1e6, "M"]])
    if (size >= unit) return `${+(value / unit).toFixed(3)}${letter}`;
  if (size && size < 1e-4) return value.toExponential(1);
  return value.toLocaleString("en", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
}

const exact = (value) => Number.isNaN(value) ? "null" : value.toLocaleString("en", { maximumSignificantDigits: 7 });

function rule(g, x0, y0, x1, y1) { g.beginPath(); g.moveTo(x0, y0); g.lineTo(x1, y1); g.stroke(); }

/** How dark a resolved colour is, from 0 to 1. */
function darkness(color) {
  const parts = (color.match(/[\d.]+/g) || [255, 255, 255]).slice(0, 3).map(Number);
  const full = color.startsWith("color(") ? 1 : 255;
  return 1 - (0.3 * parts[0] + 0.59 * parts[1] + 0.11 * parts[2]) / full;
}

/** A colour of #rrggbb, a third of the way to white: for dark grounds. */
function lighter(color) {
  const parts = [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
  return `#${parts.map((part) => Math.round(part + (255 - part) / 3).toString(16).padStart(2, "0")).join("")}`;
}
