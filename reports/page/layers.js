// The layers of the front's models, and how the pinned one castled.

const FAMILY_WORDS = {
  castled: "castled: linear, its softmax branch dropped", linear: "linear", quadratic: "quadratic",
  local: "local: windows, convolutions", none: "no token mixing", other: "other",
};

function familyLegend(places) {
  const seen = new Set(), codes = new Map();
  for (const place of places) for (const kind of kindsOf(place)) { seen.add(kind.family); codes.set(kind.code, kind.operator); }
  const boxes = data.families.filter((name) => seen.has(name)).map((name) => element("span", {}, element("i", { class: `mark family-${name}` }), FAMILY_WORDS[name]));
  const names = element("span", { text: [...codes].map(([code, name]) => `${code} ${name}`).join(", ") + ". Beside it the kernel, below heads and MLP ratio; the line is the mask's threshold." });
  return element("p", { class: "legend" }, ...boxes, names);
}

/** Copy a text; execCommand asks for no permission, which navigator.clipboard may do. */
function copy(text, button) {
  const before = button.textContent, field = element("textarea", {});
  field.value = text; document.body.append(field); field.select();
  const words = document.execCommand("copy") ? "copied" : text;
  field.remove(); button.textContent = words; button.dataset.copied = text;
  say(`${words}: ${text}`);
  setTimeout(() => { button.textContent = before; }, 1500);
}
const exportWords = (trial) => data.export.replaceAll("{}", String(trial));

function stripsView(host) {
  const places = data.front.map((trial) => placeOf.get(trial));
  if (!places.length) { host.append(empty("No model is on the front yet.")); return; }
  const most = Math.max(...places.map((place) => value(data.x, place) ?? 0));
  const slider = element("input", { type: "range", min: 0, max: places.length - 1, step: 1, id: "walk",
    oninput: (event) => pin(data.front[Number(event.target.value)]) });
  const shown = element("output", { for: "walk" });
  host.append(familyLegend(places), element("div", { class: "walk" }, element("label", { for: "walk", text: `${metrics[data.x].title} at most` }), slider, shown));
  const rows = places.map((place, order) => {
    const trial = data.front[order], least = metrics[data.x].log ? 0.04 : 0;
    const bar = element("i", { class: "bar" });
    bar.style.width = `${100 * Math.max(least, (value(data.x, place) ?? 0) / most)}%`;
    const castles = kindsOf(place).filter((kind) => kind.castles).length;
    const button = element("button", { text: "copy export", "aria-label": `copy the command that exports #${trial}`,
      onclick: (event) => { event.stopPropagation(); copy(exportWords(trial), event.currentTarget); } });
    const name = element("button", { class: "link", text: `#${trial}`, onclick: (event) => { event.stopPropagation(); pin(trial); } });
    const row = element("div", { class: "row", "data-trial": trial, onclick: () => pin(trial) },
      element("span", { class: "name" }, name, trial === data.knee ? element("em", { text: "knee", title: "the most gain for the least cost" }) : null),
      strip(kindsOf(place)),
      element("span", { class: "number", text: words(data.y, value(data.y, place)) }),
      element("span", { class: "cost" }, element("span", { class: "track" }, bar), element("span", { text: words(data.x, value(data.x, place)) })),
      element("span", { class: "number faint", text: data.x === "params" || value("params", place) === null ? "" : `${short(value("params", place))} params` }),
      element("span", { class: "number faint", text: `${castles} of ${kindsOf(place).length} castle` }), button);
    return row;
  });
  host.append(element("div", { class: "rows" }, ...rows));
  const mark = () => {
    const order = data.front.indexOf(state.pin);
    if (order >= 0) {
      slider.value = String(order);
      shown.textContent = `${words(data.x, value(data.x, places[order]))}: #${state.pin}, ${words(data.y, value(data.y, places[order]))}`;
      slider.setAttribute("aria-valuetext", shown.textContent);
    } else shown.textContent = "";
    rows.forEach((row, place) => {
      row.classList.toggle("pinned", place === order); row.classList.toggle("left-out", isFiltered() && !isChosen(places[place]));
      row.querySelector(".link").setAttribute("aria-pressed", String(place === order));
    });
  };
  onChange(mark); mark();
}

function castlingView(host) {
  const title = byId("castling-title");
  const draw = () => {
    host.replaceChildren();
    title.textContent = state.pin === null ? "How it castled" : `How #${state.pin} castled`;
    const curve = data.curves[state.pin];
    if (!curve) {
      host.append(empty(state.pin === null ? "No model is pinned." : `The page holds no curve of #${state.pin}: reports.load_curves(RUN) has it.`));
      return;
    }
    host.append(element("p", { class: "lead", text: curve.words }));
    const width = host.clientWidth, isNarrow = width < 620;
    const area = { left: isNarrow ? 56 : 120, right: isNarrow ? 12 : 150 };
    if (curve.density.some((layers) => layers.some((one) => one !== null))) host.append(heat(curve, width, area), heatScale());
    host.append(accuracy(curve, width, area));
  };
  onChange((changes) => { if ("pin" in changes) draw(); });
  whenResized(host, draw);
}

const alive = (density) => Math.max(0.06, 1 + Math.log10(density) / 5);

function heat(curve, width, area) {
  const place = placeOf.get(state.pin), kinds = place === undefined ? [] : kindsOf(place);
  const number = curve.density[0].length, row = 26, height = number * row + 26, last = curve.epochs.length;
  const drawn = shape("svg", { width, height, role: "img", "aria-label": `mask entries alive, by layer and epoch. ${curve.words}` });
  const step = (width - area.left - area.right) / last;
  for (let layer = 0; layer < number; layer++) {
    const y = layer * row, kind = kinds[layer];
    drawn.append(shape("text", { x: area.left - 8, y: y + 17, "text-anchor": "end", class: "label" },
      area.left > 100 && kind ? `layer ${layer}, ${kind.code}${kind.kernel ?? ""}` : `layer ${layer}`));
    drawn.append(shape("rect", { x: area.left, y: y + 2, width: step * last, height: row - 5, class: "cell-none" }));
    if (curve.density[0][layer] === null) {
      drawn.append(shape("text", { x: area.left + 8, y: y + 17, class: "label" }, "no branch"));
      continue;
    }
    curve.density.forEach((layers, epoch) => {
      if (!layers[layer]) return;
      const cell = shape("rect", { x: (area.left + epoch * step).toFixed(2), y: y + 2, width: (step + 0.3).toFixed(2), height: row - 5, class: "cell", "fill-opacity": alive(layers[layer]).toFixed(3) });
      drawn.append(cell);
    });
    const end = curve.ends[layer], after = end === null ? -1 : curve.epochs.findIndex((epoch) => epoch >= end);
    if (after >= 0) {
      const x = area.left + after * step;
      drawn.append(shape("line", { x1: x, x2: x, y1: y, y2: y + row - 1, class: "castle-line" }));
      const text = area.right > 100 ? `castled at epoch ${end}` : "";
      if (text) drawn.append(shape("text", { x: width - area.right + 8, y: y + 17, class: "label" }, text));
      else drawn.append(shape("text", { x: Math.min(x + 5, width - 40), y: y + 17, class: "label" }, String(end)));
    } else if (area.right > 100) drawn.append(shape("text", { x: width - area.right + 8, y: y + 17, class: "label" }, "alive at the end"));
  }
  const at = scale(0, last, area.left, width - area.right, false);
  for (const tick of ticks(0, curve.epochs[last - 1], width / 120, false)) {
    const x = at((tick / curve.epochs[last - 1]) * last);
    drawn.append(shape("text", { x, y: height - 8, "text-anchor": "middle", class: "label" }, String(tick)));
  }
  drawn.addEventListener("pointermove", (event) => {
    const box = drawn.getBoundingClientRect();
    const epoch = Math.floor((event.clientX - box.left - area.left) / step), layer = Math.floor((event.clientY - box.top) / row);
    const density = curve.density[epoch]?.[layer];
    if (density === undefined || density === null) { hideTip(); return; }
    showTip(event, element("div", { text: `layer ${layer}, epoch ${curve.epochs[epoch]}: ${digits(100 * density, 2)} % of the mask's entries alive` }));
  });
  drawn.addEventListener("pointerleave", hideTip);
  return drawn;
}

function heatScale() {
  const marks = [1, 0.1, 0.01, 0.001, 0.0001].map((density) => {
    const box = element("i", { class: "mark cell-mark" });
    box.style.opacity = String(alive(density));
    return element("span", {}, box, `${digits(100 * density)} %`);
  });
  return element("p", { class: "legend" }, "epochs; mask entries alive, log scale: ", ...marks, element("span", {}, element("i", { class: "mark cell-none" }), "none: castled"));
}

function accuracy(curve, width, area) {
  const isAccuracy = metrics[data.y]?.factor === 100, height = 200, low = 22;
  const [y0, y1] = extent([...curve.castled, ...curve.branch], false, 0.06);
  const x = scale(curve.epochs[0], Math.max(curve.epochs[curve.epochs.length - 1], curve.epochs[0] + 1), area.left, width - area.right, false);
  const y = metricScale(isAccuracy ? data.y : data.x, [y0, isAccuracy ? Math.min(y1, 1) : y1], height - low, 10);
  const drawn = shape("svg", { width, height, role: "img", "aria-label": "accuracy castled and with the branch, by epoch" });
  for (const tick of y.ticks(4)) {
    drawn.append(shape("line", { x1: area.left, x2: width - area.right, y1: y(tick), y2: y(tick), class: "grid" }));
    drawn.append(shape("text", { x: area.left - 8, y: y(tick) + 4, "text-anchor": "end", class: "label" }, tickWords(metrics[data.y] ? data.y : data.x, tick)));
  }
  const path = (values) => values.map((one, place) => (one === null ? "" : `${place && values[place - 1] !== null ? "L" : "M"}${x(curve.epochs[place]).toFixed(1)} ${y(one).toFixed(1)}`)).join("");
  const both = curve.epochs.map((epoch, place) => [epoch, curve.castled[place], curve.branch[place]]).filter(([, a, b]) => a !== null && b !== null && b !== undefined);
  if (both.length) {
    const there = both.map(([epoch, a]) => `${x(epoch).toFixed(1)} ${y(a).toFixed(1)}`), back = both.map(([epoch, , b]) => `${x(epoch).toFixed(1)} ${y(b).toFixed(1)}`).reverse();
    drawn.append(shape("polygon", { points: [...there, ...back].join(" "), class: "gap" }));
    drawn.append(shape("path", { d: path(curve.branch), class: "line branch" }));
  }
  drawn.append(shape("path", { d: path(curve.castled), class: "line" }));
  drawn.addEventListener("pointermove", (event) => {
    const epoch = x.back(event.clientX - drawn.getBoundingClientRect().left);
    const place = curve.epochs.reduce((best, one, here) => (Math.abs(one - epoch) < Math.abs(curve.epochs[best] - epoch) ? here : best), 0);
    const branch = curve.branch[place];
    showTip(event, element("b", { text: `epoch ${curve.epochs[place]}` }), element("div", { text: `castled ${words(data.y, curve.castled[place])}` }),
      branch === null || branch === undefined ? "" : element("div", { text: `with the branch ${words(data.y, branch)}` }));
  });
  drawn.addEventListener("pointerleave", hideTip);
  const legend = element("p", { class: "legend" }, element("span", {}, element("i", { class: "mark line-mark" }), "castled"),
    element("span", {}, element("i", { class: "mark line-mark dashed" }), "with the branch; shaded: what castling at that epoch would cost"));
  return element("div", {}, drawn, legend);
}
