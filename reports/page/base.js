// What every view uses: the data, the state that they share, elements, scales, numbers in words.

const data = JSON.parse(document.getElementById("data").textContent);
const metrics = data.metrics;
const byId = (id) => document.getElementById(id);

/** Return a new element; text is never parsed as HTML. */
function element(name, options = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(options)) {
    if (key === "text") made.textContent = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** Return a new element of an SVG. */
function shape(name, attributes = {}, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  return made;
}

const state = { pin: null, hover: null, box: null, zoom: null, axes: {}, x: data.x, y: data.y, colour: "", theme: "", stretch: true };
const listeners = [];
const onChange = (listener) => listeners.push(listener);

function restore() {
  try {
    const kept = JSON.parse(decodeURIComponent(location.hash.slice(1)) || "{}");
    for (const name of ["x", "y"]) if (metrics[kept[name]]) state[name] = kept[name];
    if (Number.isInteger(kept.pin)) state.pin = kept.pin;
    if (kept.colour === "castled" || metrics[kept.colour]) state.colour = kept.colour;
    if (kept.stretch === false) state.stretch = false;
    if (kept.theme === "dark" || kept.theme === "light") state.theme = kept.theme;
    const isBox = (box) => Array.isArray(box) && box.length === 4 && box.every(Number.isFinite);
    if (isBox(kept.box)) state.box = kept.box;
    if (isBox(kept.zoom)) state.zoom = kept.zoom;
  } catch { /* an address of another page */ }
}

function change(changes) {
  Object.assign(state, changes);
  const { pin, x, y, colour, theme, box, zoom, stretch } = state;
  history.replaceState(null, "", "#" + encodeURIComponent(JSON.stringify({ pin, x, y, colour, theme, box, zoom, stretch })));
  for (const listener of listeners) listener(changes);
}

/** Say a sentence to screen readers. */
const say = (words) => { byId("said").textContent = words; };

function digits(value, number = 3) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-3) return value.toExponential(1).replace("e+", "e");
  return String(Number(value.toPrecision(number)));
}

function short(value) {
  for (const [size, suffix] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (Math.abs(value) >= 0.9995 * size) return digits(value / size) + suffix;
  }
  return digits(value);
}

/** Return a metric's value with its unit. */
function words(name, value, isPlain = false) {
  if (value === null || value === undefined) return "–";
  const metric = metrics[name];
  if (metric.factor === 100) return `${(100 * value).toFixed(2)} %`;
  const text = metric.count ? short(value) : digits(value, 4);
  return isPlain || !metric.unit ? text : `${text} ${metric.unit}`;
}

const tickWords = (name, value) => (metrics[name].factor === 100 ? digits(100 * value, 4) + " %" : short(value));

function scale(low, high, from, to, isLog) {
  const map = isLog ? Math.log : (value) => value, first = map(low), last = map(high), span = last - first || 1;
  const at = (value) => from + ((map(value) - first) / span) * (to - from);
  at.back = (place) => {
    const value = first + ((place - from) / (to - from)) * span;
    return isLog ? Math.exp(value) : value;
  };
  at.ticks = (number) => ticks(low, high, number, isLog);
  return at;
}

/** Return a scale of accuracies that gives the last percents the room: minus the logarithm of the error. */
function errorScale(low, high, from, to) {
  const map = (value) => -Math.log(1.002 - Math.min(value, 1)), first = map(low), span = map(high) - first || 1;
  const at = (value) => from + ((map(value) - first) / span) * (to - from);
  at.back = (place) => 1.002 - Math.exp(-(first + ((place - from) / (to - from)) * span));
  at.ticks = (number, apart = 15) => {
    const found = [0.2, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 1].filter((one) => one >= low && one <= high);
    const clear = [];
    for (const one of found.reverse()) if (!clear.length || Math.abs(at(one) - at(clear[clear.length - 1])) > apart) clear.push(one);
    return found.length > 2 ? clear : ticks(low, high, number, false);
  };
  return at;
}

/** Return the scale of a metric: an accuracy that comes close to 1 is stretched there, if wished. */
function metricScale(name, [low, high], from, to, isLog = false) {
  const metric = metrics[name], isStretched = state.stretch && metric.factor === 100 && metric.better === "max" && high > 0.9 && low >= 0;
  return isStretched ? errorScale(low, Math.min(high, 1), from, to) : scale(low, high, from, to, isLog);
}

function ticks(low, high, number, isLog) {
  if (isLog && high / low > 4) {
    const found = [];
    for (const steps of [[1, 2, 5], [1, 3], [1]]) {
      found.length = 0;
      for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
        for (const step of steps) {
          const value = step * 10 ** power;
          if (value >= low * 0.999 && value <= high * 1.001) found.push(value);
        }
      }
      if (found.length <= number + 2) break;
    }
    return found;
  }
  const rough = (high - low) / Math.max(number, 1) || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough), found = [];
  for (let place = Math.ceil(low / step); place * step <= high + 1e-9 * step; place++) found.push(place * step);
  return found;
}

/** Return the least and the largest of numbers, a little wider. */
function extent(values, isLog, margin = 0.04) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (value === null || value === undefined || (isLog && value <= 0)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (low > high) return [isLog ? 1 : 0, isLog ? 10 : 1];
  if (isLog) {
    const room = Math.max(high / low, 1.2) ** margin;
    return [low / room, high * room];
  }
  const room = margin * (high - low || Math.abs(high) || 1);
  return [low - room, high + room];
}

let paints = {};
function paint(name) {
  paints[name] ??= getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  return paints[name];
}

/** Return a colour between the pale and the full end of a scale, at 0 to 1. */
const between = (share) => `color-mix(in oklab, ${paint("high")} ${Math.round(100 * share)}%, ${paint("low")})`;

const columns = data.columns;
const placeOf = new Map(columns ? columns.trial.map((trial, place) => [trial, place]) : []);
const kindsOf = (place) => data.architectures[place].map((kind) => data.kinds[kind]);
const value = (name, place) => (columns[name] ? columns[name][place] : null);
const stateOf = (place) => data.states[columns.state[place]];

/** Return whether the brushes of the front and of the axes leave a trial in. */
function isChosen(place) {
  if (state.box) {
    const [x0, x1, y0, y1] = state.box, x = value(state.x, place), y = value(state.y, place);
    if (x === null || y === null || x < x0 || x > x1 || y < y0 || y > y1) return false;
  }
  for (const [name, [low, high]] of Object.entries(state.axes)) {
    const axis = data.axes.find((one) => one.name === name), at = axis ? axis.values[place] : value(name, place);
    if (at === null || at < low || at > high) return false;
  }
  return true;
}
const isFiltered = () => state.box !== null || Object.keys(state.axes).length > 0;

const SHAPES = { linear: "M1 9 L8 2 L13 2", cosine: "M1 9 C4 9 5 2 8 2 L13 2", step: "M1 9 H4 V6 H7 V2 H13", constant: "M1 7 H13" };

function layerWords(kind, place) {
  const parts = [`layer ${place}: ${kind.operator} (${kind.family})`];
  if (kind.kernel) parts.push(`${kind.form === "grid" ? "2-D" : "1-D"} kernel ${kind.kernel}`);
  if (kind.heads) parts.push(`${kind.heads} head${kind.heads > 1 ? "s" : ""} of ${kind.head_size}`);
  if (kind.mlp_ratio) parts.push(`MLP ${digits(kind.mlp_ratio)}x`);
  if (kind.mask) parts.push(`mask ${kind.mask}${kind.end === null ? ", never empty" : `, empty at ${kind.end} % of training`}`);
  return parts.join(", ");
}

/** Return a model's layers as a strip of tiles; small ones show the operator and kernel alone. */
function strip(kinds, isSmall = false) {
  const label = kinds.map(layerWords).join("; ");
  const host = element("span", { class: isSmall ? "strip small" : "strip", role: "img", "aria-label": label || "no layers recorded" });
  kinds.forEach((kind, place) => {
    const tile = element("span", { class: `tile family-${kind.family}`, title: layerWords(kind, place) });
    tile.append(element("b", { text: kind.code }), element("i", { text: kind.kernel ?? "" }));
    if (!isSmall) {
      tile.append(element("small", { text: [kind.heads ? `${kind.heads}h` : "", kind.mlp_ratio ? `×${digits(kind.mlp_ratio, 2)}` : ""].join(" ").trim() }));
      if (kind.mask) {
        const glyph = shape("svg", { viewBox: "0 0 14 11", class: "glyph", "aria-hidden": "true" });
        glyph.append(shape("path", { d: SHAPES[kind.mask] ?? SHAPES.linear }));
        tile.append(glyph);
      }
    }
    host.append(tile);
  });
  return host;
}

function showTip(event, ...children) {
  const tip = byId("tip");
  tip.replaceChildren(...children); tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const left = event.clientX + 16 + width > innerWidth - 8 ? event.clientX - width - 16 : event.clientX + 16;
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${Math.min(Math.max(8, event.clientY - height / 2), innerHeight - height - 8)}px`;
}
const hideTip = () => { byId("tip").hidden = true; };

function trialTip(place) {
  const trial = columns.trial[place], name = stateOf(place);
  const counts = ["trained", "replayed"].includes(name) ? "" : ` ${name} after ${columns.epochs[place]} of ${columns.planned[place]} epochs`;
  const others = ["params", ...Object.keys(data.goals)].filter((one) => one !== state.x && one !== state.y && value(one, place) !== null);
  return [
    element("b", { text: `#${trial}  ${words(state.y, value(state.y, place))}` }),
    element("div", { text: [state.x, ...new Set(others)].map((one) => words(one, value(one, place))).join(", ") }),
    counts ? element("div", { text: counts.trim() }) : "",
    strip(kindsOf(place), true),
  ];
}

/** Pin a trial in all views. */
function pin(trial) {
  const place = placeOf.get(trial);
  change({ pin: trial });
  if (place !== undefined) say(`#${trial}: ${words(state.y, value(state.y, place))}, ${words(state.x, value(state.x, place))}; ${kindsOf(place).map((kind) => kind.code).join(" ")}`);
}

/** Redraw a view when its width or the colours change. */
function whenResized(host, draw) {
  let width = 0;
  new ResizeObserver(() => {
    if (Math.abs(host.clientWidth - width) < 1 || host.clientWidth < 40) return;
    width = host.clientWidth; draw();
  }).observe(host);
  onChange((changes) => { if ("theme" in changes || "stretch" in changes) draw(); });
}

const empty = (text) => element("p", { class: "muted", text });
