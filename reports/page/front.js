// The front: every trial on two axes; hover, click, brush, arrow keys.

function frontView(host) {
  const tools = element("div", { class: "tools" });
  const plot = element("div", { class: "plot" });
  const base = element("canvas", { "aria-hidden": "true" });
  const top = element("canvas", {
    tabindex: 0, role: "img", "aria-describedby": "front-how",
    "aria-label": `${columns.trial.length} trials, ${data.front.length} on the front. ${byId("answer").textContent}`,
  });
  const how = element("p", { class: "muted", id: "front-how" },
    "Arrow keys walk the front, a click pins a model in all views, a drag selects the trials of all views, Escape clears.");
  plot.append(base, top); host.append(tools, plot, frontLegend(), how);
  let px = new Float64Array(0), py = px, sx, sy, height = 0, width = 0;
  const margin = { left: 62, right: 18, top: 14, bottom: 46 };
  const third = Object.keys(data.goals).find((name) => name !== data.x && name !== data.y);
  if (!state.colour && third && metrics[third]) state.colour = third;

  // ---- menus
  const names = Object.keys(metrics);
  const menu = (label, key, options) => {
    const box = element("select", { onchange: (event) => change({ [key]: event.target.value, ...(key === "colour" ? {} : { box: null, zoom: null }) }) },
      ...options.map(([name, text]) => element("option", { value: name, text, selected: state[key] === name })));
    return element("label", { text: label + " " }, box);
  };
  const titled = names.map((name) => [name, metrics[name].title]);
  const clear = element("button", { text: "clear selection", onclick: () => change({ box: null, axes: {} }) });
  const zoom = element("button", { text: "zoom in", onclick: () => change({ zoom: state.box, box: null }) });
  const whole = element("button", { text: "zoom out", onclick: () => change({ zoom: null }) });
  const stretch = element("label", {}, element("input", { type: "checkbox", checked: state.stretch, onchange: (event) => change({ stretch: event.target.checked, zoom: null }) }), " room for the last percents");
  const buttons = element("span", { class: "buttons" }, clear, zoom, whole);
  tools.append(menu("up", "y", titled), menu("across", "x", titled),
    menu("colour", "colour", [["", "front"], ["castled", "layers that castle"], ...titled]), stretch, buttons);
  const isLog = (name) => metrics[name].log && extent(columns[name], true)[1] / extent(columns[name], true)[0] > 3;
  function layout() {
    const ratio = devicePixelRatio || 1;
    width = plot.clientWidth; height = Math.round(Math.min(Math.max(260, width * 0.46), 520));
    plot.style.height = `${height}px`;
    for (const canvas of [base, top]) {
      canvas.width = width * ratio; canvas.height = height * ratio; canvas.getContext("2d").setTransform(ratio, 0, 0, ratio, 0, 0);
    }
    const bound = data.bounds[state.x], xs = columns[state.x], ys = columns[state.y];
    let [x0, x1] = extent(bound === undefined ? xs.filter((_, place) => ys[place] !== null) : [bound, ...xs.filter((_, place) => ys[place] !== null)], isLog(state.x));
    let [y0, y1] = extent(ys.filter((_, place) => xs[place] !== null), isLog(state.y));
    if (data.bins && state.x === data.x && state.y === data.y) {
      [x0, x1] = extent([x0, x1, ...data.bins.x], isLog(state.x), 0);
      [y0, y1] = extent([y0, y1, ...data.bins.y], isLog(state.y), 0);
    }
    if (state.zoom) [x0, x1, y0, y1] = state.zoom;
    sx = scale(x0, x1, margin.left, width - margin.right, isLog(state.x));
    sy = metricScale(state.y, [y0, y1], height - margin.bottom, margin.top, isLog(state.y));
    px = Float64Array.from(xs, (one) => (one === null ? NaN : sx(one)));
    py = Float64Array.from(ys, (one, place) => (stateOf(place) === "failed" ? height - margin.bottom - 5 : one === null ? NaN : sy(one)));
  }
  function shades() {
    if (!state.colour) return null;
    if (state.colour === "castled") {
      return columns.trial.map((_, place) => { const kinds = kindsOf(place); return kinds.length ? kinds.filter((kind) => kind.castles).length / kinds.length : null; });
    }
    const values = columns[state.colour], log = isLog(state.colour), at = scale(...extent(values, log, 0), 0, 1, log);
    return values.map((one) => (one === null ? null : at(one)));
  }
  function frame(context) {
    context.font = "12px system-ui, sans-serif"; context.strokeStyle = paint("grid"); context.fillStyle = paint("muted");
    context.lineWidth = 1; context.textBaseline = "middle"; context.textAlign = "right";
    for (const tick of sy.ticks(Math.round(height / 70))) {
      const y = Math.round(sy(tick)) + 0.5;
      context.beginPath(); context.moveTo(margin.left, y); context.lineTo(width - margin.right, y); context.stroke();
      context.fillText(tickWords(state.y, tick), margin.left - 8, y);
    }
    context.textAlign = "center";
    for (const tick of sx.ticks(Math.round(width / 110))) {
      const x = Math.round(sx(tick)) + 0.5;
      context.beginPath(); context.moveTo(x, margin.top); context.lineTo(x, height - margin.bottom); context.stroke();
      context.fillText(tickWords(state.x, tick), x, height - margin.bottom + 14);
    }
    const axis = metrics[state.x].axis + (isLog(state.x) ? " (log)" : "");
    context.fillText(axis, (margin.left + width - margin.right) / 2, height - 12);
    const bound = data.bounds[state.x];
    if (bound !== undefined && sx(bound) > margin.left && sx(bound) <= width) {
      context.strokeStyle = context.fillStyle = paint("pin"); context.setLineDash([5, 4]);
      context.beginPath(); context.moveTo(sx(bound), margin.top); context.lineTo(sx(bound), height - margin.bottom); context.stroke();
      context.setLineDash([]); context.textAlign = "right";
      context.fillText(`budget ${tickWords(state.x, bound)}`, sx(bound) - 6, margin.top + 8);
    }
  }
  const members = () => data.front.map((trial) => placeOf.get(trial)).filter((place) => value(state.x, place) !== null && value(state.y, place) !== null);
  const isStairs = () => data.goals[state.x] === "min" && data.goals[state.y] === "max" && Object.keys(data.goals).length === 2;
  function stairs(context) {
    const ends = members().sort((a, b) => px[a] - px[b]);
    if (!ends.length || !isStairs()) return;
    context.strokeStyle = paint("front"); context.lineWidth = 2; context.beginPath();
    context.moveTo(px[ends[0]], Math.max(py[ends[0]], height - margin.bottom));
    ends.forEach((place, order) => {
      context.lineTo(px[place], order ? py[ends[order - 1]] : height - margin.bottom); context.lineTo(px[place], py[place]);
    });
    context.lineTo(width - margin.right, py[ends[ends.length - 1]]); context.stroke(); context.fillStyle = paint("wash");
    context.lineTo(width - margin.right, height - margin.bottom); context.closePath(); context.fill();
  }
  function drawBins(context) {
    const bins = data.bins;
    if (!bins || state.x !== data.x || state.y !== data.y) return;
    const most = Math.max(...bins.n);
    context.fillStyle = paint("dim");
    bins.n.forEach((number, place) => {
      context.globalAlpha = 0.15 + 0.6 * Math.sqrt(number / most); context.fillRect(sx(bins.x[place]) - 2, sy(bins.y[place]) - 2, 4, 4);
    });
    context.globalAlpha = 1;
  }
  function dots(context) {
    const colours = shades(), filtered = isFiltered(), number = px.length, size = number > 4000 ? 3 : number > 600 ? 4 : 5;
    for (let place = 0; place < number; place++) {
      const x = px[place], y = py[place];
      if (!(x >= margin.left - 3 && x <= width - 8 && y >= margin.top - 6 && y <= height - margin.bottom + 3)) continue;
      if (columns.front[place]) continue;
      const name = stateOf(place), faded = filtered && !isChosen(place);
      context.globalAlpha = faded ? 0.12 : colours || number > 4000 ? 0.5 : 0.85;
      const colour = colours && colours[place] !== null ? between(colours[place]) : paint("dim");
      if (name === "failed") { context.fillStyle = paint("bad"); context.fillRect(x - 1, height - margin.bottom - 10, 2, 10); }
      else if (name === "stopped" || name === "running") { context.strokeStyle = colour; context.lineWidth = 1.2; context.beginPath(); context.arc(x, y, size * 0.7, 0, 7); context.stroke(); }
      else { context.fillStyle = colour; context.fillRect(x - size / 2, y - size / 2, size, size); }
    }
    for (const place of members()) {
      if (px[place] < margin.left - 3 || py[place] > height - margin.bottom + 3) continue;
      context.globalAlpha = filtered && !isChosen(place) ? 0.25 : 1;
      disc(context, place, 6, colours && colours[place] !== null ? between(colours[place]) : paint("front"));
    }
    context.globalAlpha = 1;
  }
  function disc(context, place, radius, colour) {
    context.fillStyle = colour; context.strokeStyle = paint("back"); context.lineWidth = 1.5;
    context.beginPath(); context.arc(px[place], py[place], radius, 0, 7); context.fill(); context.stroke();
  }
  function drawBase() {
    const begin = performance.now(), context = base.getContext("2d");
    context.clearRect(0, 0, width, height); frame(context); stairs(context); drawBins(context); dots(context);
    host.dataset.milliseconds = String(performance.now() - begin); clear.hidden = !isFiltered();
    zoom.hidden = !state.box; whole.hidden = !state.zoom; drawTop();
  }
  let drag = null;
  function drawTop() {
    const context = top.getContext("2d");
    context.clearRect(0, 0, width, height);
    const box = drag ?? (state.box ? [sx(state.box[0]), sx(state.box[1]), sy(state.box[3]), sy(state.box[2])] : null);
    if (box) {
      context.fillStyle = paint("wash"); context.strokeStyle = paint("front");
      context.fillRect(box[0], box[2], box[1] - box[0], box[3] - box[2]);
      context.strokeRect(box[0], box[2], box[1] - box[0], box[3] - box[2]);
    }
    const knee = placeOf.get(data.knee), isKnee = knee !== undefined && isStairs();
    context.font = "12px system-ui, sans-serif";
    if (isKnee) label(context, knee, "knee", paint("muted"), 22);
    for (const [trial, colour] of [[state.pin, "pin"], [state.hover, "ink"]]) {
      const place = placeOf.get(trial);
      if (place === undefined || !(px[place] >= 0) || !(py[place] >= 0)) continue;
      context.strokeStyle = paint(colour); context.lineWidth = 2.5;
      context.beginPath(); context.arc(px[place], py[place], 9, 0, 7); context.stroke();
      if (colour === "pin") { disc(context, place, 6.5, paint("pin")); label(context, place, `#${trial}`, paint("pin"), 8, true); }
    }
  }
  function label(context, place, text, colour, gap, isBold = false) {
    context.font = `${isBold ? "bold " : ""}12px system-ui, sans-serif`;
    const room = context.measureText(text).width;
    const x = Math.max(margin.left + 2, px[place] - room - 10), y = Math.max(margin.top + 4, py[place] - gap);
    context.lineWidth = 3; context.strokeStyle = paint("back"); context.textAlign = "left"; context.strokeText(text, x, y);
    context.fillStyle = colour; context.fillText(text, x, y);
  }
  function nearest(x, y) {
    let best = -1, least = 22 ** 2;
    for (let place = 0; place < px.length; place++) {
      const distance = (px[place] - x) ** 2 + (py[place] - y) ** 2 - (columns.front[place] ? 60 : 0);
      if (distance < least) { least = distance; best = place; }
    }
    return best;
  }
  const at = (event) => { const place = top.getBoundingClientRect(); return [event.clientX - place.left, event.clientY - place.top]; };
  let begin = null;
  top.addEventListener("pointerdown", (event) => { begin = at(event); top.setPointerCapture(event.pointerId); });
  top.addEventListener("pointermove", (event) => {
    const [x, y] = at(event);
    if (begin && event.pointerType !== "touch" && Math.hypot(x - begin[0], y - begin[1]) > 5) {
      drag = [Math.min(x, begin[0]), Math.max(x, begin[0]), Math.min(y, begin[1]), Math.max(y, begin[1])]; hideTip(); drawTop();
      return;
    }
    const place = nearest(x, y), trial = place < 0 ? null : columns.trial[place];
    if (place < 0) hideTip(); else showTip(event, ...trialTip(place));
    top.style.cursor = place < 0 ? "crosshair" : "pointer";
    if (trial !== state.hover) { state.hover = trial; drawTop(); }
  });
  top.addEventListener("pointerup", (event) => {
    const place = nearest(...at(event));
    if (drag) change({ box: [sx.back(drag[0]), sx.back(drag[1]), sy.back(drag[3]), sy.back(drag[2])] });
    else if (begin && place >= 0) pin(columns.trial[place]);
    begin = drag = null; drawTop();
  });
  top.addEventListener("pointerleave", () => { state.hover = null; hideTip(); drawTop(); });
  top.addEventListener("pointercancel", () => { begin = drag = null; });
  top.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (event.key === "Escape") change({ box: null, axes: {} });
    const goal = event.key === "Home" ? 0 : event.key === "End" ? data.front.length - 1 : null;
    if (!data.front.length || (step === undefined && goal === null)) return;
    event.preventDefault();
    const order = data.front.indexOf(state.pin);
    const next = goal ?? Math.min(Math.max((order < 0 ? (step > 0 ? -1 : data.front.length) : order) + step, 0), data.front.length - 1);
    pin(data.front[next]);
  });
  const draw = () => { paints = {}; layout(); drawBase(); };
  onChange((changes) => {
    if ("x" in changes || "y" in changes || "zoom" in changes) draw();
    else if ("box" in changes || "axes" in changes || "colour" in changes) drawBase();
    else if (!("theme" in changes || "stretch" in changes)) drawTop();
  });
  whenResized(plot, draw);
}

function frontLegend() {
  const items = [["mark front", "on the front"], ["mark trained", "trained"]];
  const has = (name) => columns.state.includes(data.states.indexOf(name));
  if (has("stopped")) items.push(["mark stopped", "stopped early"]);
  if (has("failed")) items.push(["mark failed", "failed"]);
  if (data.bins) items.push(["mark trained", `${data.bins.trials.toLocaleString("en")} dominated trials more, in bins`]);
  return element("p", { class: "legend" }, ...items.map(([kind, text]) => element("span", {}, element("i", { class: kind }), text)));
}
