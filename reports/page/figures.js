// The other figures: operators by layer, importance, axes, slices, ranks, hypervolume, calibration, the table.

function effectsView(host) {
  const draw = () => {
    const cells = new Map();
    let deepest = 0;
    columns.trial.forEach((_, place) => {
      const beyond = columns.excess[place];
      if (beyond === null || !isChosen(place)) return;
      kindsOf(place).forEach((kind, layer) => {
        deepest = Math.max(deepest, layer + 1);
        if (!cells.has(kind.operator)) cells.set(kind.operator, []);
        const row = cells.get(kind.operator);
        row[layer] ??= { sum: 0, number: 0, front: 0, kind };
        row[layer].sum += beyond;
        row[layer].number += 1;
        row[layer].front += columns.front[place];
      });
    });
    if (!cells.size) { host.replaceChildren(empty("No fully trained model is among the trials shown.")); return; }
    const most = Math.max(0.001, ...[...cells.values()].flat().filter((cell) => cell && cell.number >= 3).map((cell) => Math.abs(cell.sum / cell.number)));
    const factor = metrics[data.y].factor, unit = factor === 100 ? " pt" : "";
    const head = element("tr", {}, element("th", { text: "operator" }), ...Array.from({ length: deepest }, (_, layer) => element("th", { scope: "col", text: `layer ${layer}` })));
    const rows = [...cells].sort(([a], [b]) => a.localeCompare(b)).map(([operator, row]) => element("tr", {}, element("th", { scope: "row", text: operator }),
      ...Array.from({ length: deepest }, (_, layer) => {
        const cell = row[layer];
        if (!cell) return element("td", { class: "none", text: "·" });
        const mean = cell.sum / cell.number, few = cell.number < 3;
        const made = element("td", { class: few ? "few" : "" }, element("b", { text: `${mean > 0 ? "+" : ""}${(factor * mean).toFixed(1)}${unit}` }),
          element("small", { text: `n ${cell.number}, front ${cell.front}` }));
        if (!few) made.style.background = `color-mix(in oklab, ${paint(mean > 0 ? "plus" : "minus")} ${Math.round((60 * Math.abs(mean)) / most)}%, transparent)`;
        return made;
      })));
    host.replaceChildren(element("div", { class: "wide", tabindex: 0 }, element("table", { class: "effects" }, head, ...rows)),
      element("p", { class: "muted", text: "Grey: fewer than three trials. Stopped trials are left out." }));
  };
  onChange((changes) => { if (["box", "axes", "theme"].some((one) => one in changes)) draw(); });
  draw();
}

function mattersView(host) {
  const { dimensions, values, trials } = data.importance;
  const goals = Object.keys(values);
  if (!dimensions.length) host.append(empty(`Importance needs at least eight fully trained models and a dimension that varies; there are ${trials}.`));
  else {
    const most = Math.max(...goals.flatMap((goal) => values[goal]));
    const bars = dimensions.slice(0, 12).map((name, order) => element("div", { class: "matter" }, element("span", { class: "path", text: name }),
      element("span", {}, ...goals.map((goal, number) => {
        const bar = element("i", { class: `bar bar-${number % 3}` }), share = values[goal][order] ?? 0;
        bar.style.width = `${(78 * share) / (most || 1)}%`;
        return element("span", { class: "track" }, bar, element("small", { text: `${Math.round(100 * share)} %` }));
      }))));
    host.append(element("p", { class: "legend" }, ...goals.map((goal, number) => element("span", {}, element("i", { class: `mark bar-${number % 3}` }), `matters for ${metrics[goal]?.title ?? goal}`)),
      element("span", { text: `permutation importance over ${trials} fully trained models` })), element("div", {}, ...bars));
  }
  if (data.axes.length) host.append(element("h3", { text: "Trials over the dimensions" }), axesView(), element("h3", { text: "Slices" }), slicesView());
  const { epochs, rho, trials: number } = data.correlation;
  if (epochs.length) {
    host.append(element("h3", { text: "Early against final rank" }), element("p", { class: "intro", text: `How well the order of ${number} fully trained models after an epoch agrees with their final order (Spearman).` }));
    const box = element("div", {});
    host.append(box);
    whenResized(box, () => box.replaceChildren(lineChart(box.clientWidth, epochs, rho, { label: "epoch", low: Math.min(0, ...rho.filter((one) => one !== null)), high: 1, write: (one) => digits(one, 2) })));
  }
}

function axesView() {
  const plot = element("div", { class: "plot" }), canvas = element("canvas", { role: "img", tabindex: 0, "aria-label": `parallel coordinates of ${data.axes.map((axis) => axis.name).join(", ")}; drag along an axis to select, Escape clears` });
  plot.append(canvas);
  const quality = { name: data.y, values: columns[data.y], labels: null, log: false, isMetric: true };
  const all = [...data.axes, quality].filter((axis) => axis.values);
  let places = [], scales = [], upright = false, drag = null, width = 0, height = 0;
  const draw = () => {
    width = plot.clientWidth; upright = width < 720; height = upright ? 46 * all.length + 20 : 330;
    plot.style.height = `${height}px`;
    const ratio = devicePixelRatio || 1, context = canvas.getContext("2d");
    canvas.width = width * ratio; canvas.height = height * ratio; context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.font = "11px system-ui, sans-serif";
    const along = upright ? [20, width - 20] : [height - 52, 24];
    scales = all.map((axis) => (axis.isMetric ? metricScale(axis.name, extent(axis.values, false, 0), ...along) : scale(...(axis.labels ? [0, Math.max(axis.labels.length - 1, 1)] : extent(axis.values, axis.log, 0)), ...along, axis.log)));
    places = all.map((_, order) => (upright ? 22 + order * 46 : 50 + (order * (width - 100)) / Math.max(all.length - 1, 1)));
    const shown = columns.trial.map((_, place) => place).filter((place) => columns.counts[place]);
    const step = Math.max(1, Math.ceil(shown.length / 3000)), pinned = placeOf.get(state.pin);
    const range = extent(columns[data.y], false, 0), tone = metricScale(data.y, range, 0, 1);
    const trace = (place) => {
      let isOpen = false;
      context.beginPath();
      all.forEach((axis, order) => {
        const one = axis.values[place];
        if (one === null) { isOpen = false; return; }
        const at = scales[order](one), [x, y] = upright ? [at, places[order]] : [places[order], at];
        if (isOpen) context.lineTo(x, y); else context.moveTo(x, y);
        isOpen = true;
      });
      context.stroke();
    };
    for (const isIn of [false, true]) {
      for (let order = 0; order < shown.length; order += step) {
        const place = shown[order];
        if (isChosen(place) !== isIn) continue;
        context.globalAlpha = isIn ? (columns.front[place] ? 0.95 : 0.4) : 0.05; context.lineWidth = columns.front[place] ? 1.8 : 1;
        context.strokeStyle = between(tone(columns[data.y][place] ?? range[0])); trace(place);
      }
    }
    context.globalAlpha = 1;
    if (pinned !== undefined) { context.strokeStyle = paint("pin"); context.lineWidth = 3; trace(pinned); }
    all.forEach((axis, order) => drawAxis(context, axis, order));
  };
  const drawAxis = (context, axis, order) => {
    const place = places[order], at = scales[order], chosen = state.axes[axis.name];
    context.strokeStyle = paint("faint"); context.lineWidth = 1; context.beginPath();
    if (upright) { context.moveTo(20, place); context.lineTo(width - 20, place); } else { context.moveTo(place, 24); context.lineTo(place, height - 52); }
    context.stroke();
    if (chosen) {
      context.fillStyle = paint("pin");
      const [a, b] = chosen.map(at);
      if (upright) context.fillRect(Math.min(a, b), place - 4, Math.abs(b - a), 8); else context.fillRect(place - 4, Math.min(a, b), 8, Math.abs(b - a));
    }
    context.fillStyle = paint("ink"); context.strokeStyle = paint("back");
    const write = (text, x, y) => { context.lineWidth = 3; context.strokeText(text, x, y); context.fillText(text, x, y); };
    const values = axis.labels ? axis.labels.map((_, number) => number) : at.ticks(3);
    const named = (one) => (axis.labels ? axis.labels[one] : axis.isMetric ? tickWords(axis.name, one) : short(one));
    context.textAlign = "center";
    for (const one of values.slice(0, 8)) write(named(one).slice(0, 14), upright ? Math.min(Math.max(at(one), 30), width - 30) : place, upright ? place + 15 : at(one) + 3);
    const name = (axis.isMetric ? metrics[axis.name].title : axis.name.replace(/^(model|train)\./, "").replace("blocks.", ""));
    context.fillStyle = paint("muted");
    if (upright) { context.textAlign = "left"; write(name, 20, place - 8); return; }
    const room = (width - 100) / Math.max(all.length - 1, 1) - 6;
    name.split(/(?<=[._])/).reduce((lines, word) => {
      if (lines.length && context.measureText(lines[lines.length - 1] + word).width < room) lines[lines.length - 1] += word; else lines.push(word);
      return lines;
    }, []).slice(0, 3).forEach((line, number) => write(line, place, height - 36 + 13 * number));
  };
  const at = (event) => { const box = canvas.getBoundingClientRect(), point = [event.clientX - box.left, event.clientY - box.top]; return upright ? [point[1], point[0]] : point; };
  canvas.addEventListener("pointerdown", (event) => {
    const [across, along] = at(event), order = places.reduce((best, one, here) => (Math.abs(one - across) < Math.abs(places[best] - across) ? here : best), 0);
    drag = { order, along };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointerup", (event) => {
    if (!drag) return;
    const axis = all[drag.order], along = at(event)[1], kept = { ...state.axes };
    if (Math.abs(along - drag.along) < 4) delete kept[axis.name];
    else kept[axis.name] = [scales[drag.order].back(along), scales[drag.order].back(drag.along)].sort((a, b) => a - b);
    drag = null;
    change({ axes: kept });
  });
  canvas.addEventListener("keydown", (event) => { if (event.key === "Escape") change({ box: null, axes: {} }); });
  onChange((changes) => { if (!("theme" in changes)) draw(); });
  whenResized(plot, draw);
  return plot;
}

function slicesView() {
  const host = element("div", { class: "slices" });
  for (const axis of data.axes.slice(0, 6)) {
    const box = element("figure", {}), canvas = element("canvas", { role: "img", "aria-label": `${metrics[data.y].title} against ${axis.name}` });
    box.append(canvas, element("figcaption", { text: axis.name }));
    host.append(box);
    const draw = () => {
      const width = Math.max(box.clientWidth, 40), height = 120, ratio = devicePixelRatio || 1, context = canvas.getContext("2d");
      canvas.width = width * ratio; canvas.height = height * ratio; context.setTransform(ratio, 0, 0, ratio, 0, 0);
      const at = scale(...(axis.labels ? [-0.5, axis.labels.length - 0.5] : extent(axis.values, axis.log, 0.08)), 40, width - 6, axis.log);
      const up = metricScale(data.y, extent(columns[data.y].filter((_, place) => columns.counts[place]), false), height - 18, 6);
      context.font = "10px system-ui, sans-serif"; context.fillStyle = paint("muted"); context.textAlign = "right";
      for (const tick of up.ticks(2)) context.fillText(tickWords(data.y, tick), 36, up(tick) + 3);
      context.textAlign = "center";
      const marks = axis.labels ? axis.labels.map((_, number) => number) : at.ticks(3);
      for (const tick of marks) context.fillText((axis.labels ? axis.labels[tick] : short(tick)).slice(0, Math.max(4, Math.floor(width / marks.length / 6))), at(tick), height - 5);
      columns.trial.forEach((_, place) => {
        const one = axis.values[place];
        if (one === null || !columns.counts[place]) return;
        context.globalAlpha = isChosen(place) ? 0.8 : 0.1;
        context.fillStyle = paint(columns.trial[place] === state.pin ? "pin" : columns.front[place] ? "front" : "dim");
        context.beginPath();
        context.arc(at(one) + (axis.labels ? ((place * 7) % 11) - 5 : 0), up(columns[data.y][place]), columns.front[place] ? 3.5 : 2.5, 0, 7);
        context.fill();
      });
    };
    onChange((changes) => { if (!("theme" in changes)) draw(); });
    whenResized(box, draw);
  }
  return host;
}

/** Return a line over numbers as an SVG; isSteps for a value that holds until the next. */
function lineChart(width, xs, ys, { label, low, high, write, isSteps = false }) {
  const height = 220, left = 56, right = 14, bottom = 40;
  const drawn = shape("svg", { width, height, role: "img", "aria-label": `${label}: the last value is ${write(ys[ys.length - 1])}` });
  const x = scale(...(xs.length > 1 && xs[0] < xs[xs.length - 1] ? [xs[0], xs[xs.length - 1]] : extent(xs, false)), left, width - right, false), y = scale(low, high, height - bottom, 12, false);
  for (const tick of y.ticks(4)) {
    drawn.append(shape("line", { x1: left, x2: width - right, y1: y(tick), y2: y(tick), class: "grid" }), shape("text", { x: left - 8, y: y(tick) + 4, "text-anchor": "end", class: "label" }, write(tick)));
  }
  for (const tick of x.ticks(Math.round(width / 120))) drawn.append(shape("text", { x: x(tick), y: height - bottom + 16, "text-anchor": "middle", class: "label" }, short(tick)));
  drawn.append(shape("text", { x: (left + width) / 2, y: height - 6, "text-anchor": "middle", class: "label" }, label));
  let path = "", isOpen = false;
  ys.forEach((one, place) => {
    if (one === null) { isOpen = false; return; }
    path += isOpen ? (isSteps ? `H${x(xs[place]).toFixed(1)}V${y(one).toFixed(1)}` : `L${x(xs[place]).toFixed(1)} ${y(one).toFixed(1)}`) : `M${x(xs[place]).toFixed(1)} ${y(one).toFixed(1)}`;
    isOpen = true;
  });
  drawn.append(shape("path", { d: path, class: "line" }));
  drawn.addEventListener("pointermove", (event) => {
    const at = x.back(event.clientX - drawn.getBoundingClientRect().left);
    let place = 0;
    xs.forEach((one, here) => { if (isSteps ? one <= at : Math.abs(one - at) < Math.abs(xs[place] - at)) place = here; });
    showTip(event, element("div", { text: `${label} ${digits(xs[place], 4)}: ${ys[place] === null ? "–" : write(ys[place])}` }));
  });
  drawn.addEventListener("pointerleave", hideTip);
  return drawn;
}

function progressView(host) {
  const progress = data.progress;
  if (progress.saved) host.append(element("p", { class: "lead", text: progress.saved }));
  if (!progress.volumes.length) { host.append(empty(progress.why ? `No hypervolume: ${progress.why}` : "No model is fully trained yet.")); return; }
  const names = { trials: "ended trials", epochs: "trained epochs", hours: "hours since the start" };
  const box = element("div", {}), buttons = element("div", { class: "tools", role: "group", "aria-label": "across" });
  let over = "trials";
  const draw = () => {
    for (const button of buttons.children) button.setAttribute("aria-pressed", String(button.dataset.over === over));
    box.replaceChildren(lineChart(box.clientWidth, progress[over], progress.volumes, { label: names[over], low: Math.max(0, Math.min(...progress.volumes) - 0.02), high: Math.min(1, Math.max(...progress.volumes) + 0.02), write: (one) => digits(one, 3), isSteps: true }));
  };
  for (const name of Object.keys(names)) buttons.append(element("button", { text: names[name], "data-over": name, onclick: () => { over = name; draw(); } }));
  host.append(buttons, box); whenResized(box, draw);
}

function calibrationView(host) {
  const known = data.calibration;
  if (!known) { host.append(empty("Not computed: castling report does so for searches with a learnt objective, at least eight fully trained models and a space of this version.")); return; }
  const box = element("div", { class: "square" });
  host.append(element("p", { class: "lead", text: known.words }), box, element("p", { class: "muted", text: `Across: measured ${metrics[data.y].title}; up: predicted from the others, with two standard deviations.` }));
  whenResized(box, () => {
    const width = box.clientWidth, height = Math.min(width, 420), left = 60, bottom = 44;
    const drawn = shape("svg", { width, height, role: "img", "aria-label": known.words });
    const range = extent([...known.measured, ...known.expected], false), x = metricScale(data.y, range, left, width - 12), y = metricScale(data.y, range, height - bottom, 10);
    for (const tick of x.ticks(4, 48)) drawn.append(shape("text", { x: x(tick), y: height - bottom + 16, "text-anchor": "middle", class: "label" }, tickWords(data.y, tick)));
    for (const tick of y.ticks(4)) drawn.append(shape("text", { x: left - 8, y: y(tick) + 4, "text-anchor": "end", class: "label" }, tickWords(data.y, tick)));
    drawn.append(shape("line", { x1: x(range[0]), y1: y(range[0]), x2: x(range[1]), y2: y(range[1]), class: "grid" }));
    const clamp = (one) => Math.min(Math.max(one, range[0]), range[1]);
    known.measured.forEach((one, place) => {
      const [low, high] = [-2, 2].map((times) => y(clamp(known.expected[place] + times * known.std[place])));
      const dot = shape("circle", { cx: x(one), cy: y(known.expected[place]), r: 4, class: "front-dot" });
      dot.addEventListener("pointermove", (event) => showTip(event, element("b", { text: `#${known.trial[place]}` }), element("div", { text: `measured ${words(data.y, one)}, predicted ${words(data.y, known.expected[place])}` })));
      dot.addEventListener("pointerleave", hideTip);
      dot.addEventListener("click", () => pin(known.trial[place]));
      drawn.append(shape("line", { x1: x(one), x2: x(one), y1: low, y2: high, class: "whisker" }), dot);
    });
    box.replaceChildren(drawn);
  });
}

function tableView(host) {
  const names = Object.keys(metrics).filter((name) => name !== "training_macs" && name !== "loss");
  const fields = ["trial", "state", "layers", ...names, "epochs"];
  let by = "trial", isDown = false, shown = 50;
  const body = element("tbody"), count = element("p", { class: "muted" }), more = element("button", { text: "show more", onclick: () => { shown += 200; draw(); } });
  const heads = fields.map((field) => {
    const button = element("button", { class: "link", text: metrics[field]?.title ?? field, onclick: () => { isDown = by === field ? !isDown : metrics[field]?.better === "max"; by = field; draw(); } });
    return element("th", { scope: "col", class: metrics[field] || field === "epochs" ? "" : "left" }, field === "layers" ? "layers" : button);
  });
  const draw = () => {
    const chosen = columns.trial.map((_, place) => place).filter(isChosen);
    chosen.sort((a, b) => {
      const [one, two] = [columns[by][a], columns[by][b]];
      if (one === null || two === null) return (one === null) - (two === null);
      return isDown ? two - one : one - two;
    });
    heads.forEach((head, order) => head.setAttribute("aria-sort", fields[order] === by ? (isDown ? "descending" : "ascending") : "none"));
    body.replaceChildren(...chosen.slice(0, shown).map((place) => element("tr", { "data-trial": columns.trial[place], class: columns.trial[place] === state.pin ? "pinned" : "", onclick: () => pin(columns.trial[place]) },
      ...fields.map((field) => {
        if (field === "trial") return element("td", { class: "left" }, element("button", { class: "link", text: `#${columns.trial[place]}` }));
        if (field === "state") return element("td", { class: "left", text: stateOf(place) + (columns.front[place] ? ", front" : "") });
        if (field === "layers") return element("td", { class: "left" }, strip(kindsOf(place), true));
        if (field === "epochs") return element("td", { text: `${columns.epochs[place]} of ${columns.planned[place]}` });
        return element("td", { text: words(field, columns[field][place], true) });
      }))));
    count.textContent = `${Math.min(shown, chosen.length)} of ${chosen.length.toLocaleString("en")} trials${isFiltered() ? " in the selection" : ""}`;
    more.hidden = shown >= chosen.length;
  };
  host.append(element("div", { class: "wide", tabindex: 0 }, element("table", {}, element("thead", {}, element("tr", {}, ...heads)), body)), count, more);
  onChange((changes) => {
    if ("box" in changes || "axes" in changes) draw();
    else if ("pin" in changes) for (const row of body.children) row.classList.toggle("pinned", Number(row.dataset.trial) === state.pin);
  });
  draw();
}
