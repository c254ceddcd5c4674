// The page of several runs: their fronts on two axes, who wins at which budget, models by cost.

function compareView() {
  const { runs, winners } = data, host = byId("front"), plot = element("div", { class: "plot" });
  host.append(element("p", { class: "legend" }, ...runs.map((run, number) => element("span", {}, element("i", { class: `mark run-${number % 4}` }), run.name))), plot);
  const isLog = metrics[data.x].log;
  whenResized(plot, () => {
    const width = plot.clientWidth, height = Math.min(Math.max(260, width * 0.46), 520), left = 62, bottom = 44, right = 16;
    const all = (key) => runs.flatMap((run) => [...run[key], ...run.others[key]]);
    const x = scale(...extent(all("x"), isLog), left, width - right, isLog), y = metricScale(data.y, extent(all("y"), false), height - bottom, 12);
    const drawn = shape("svg", { width, height, role: "img", "aria-label": byId("answer").textContent });
    for (const tick of y.ticks(6)) drawn.append(shape("line", { x1: left, x2: width - right, y1: y(tick), y2: y(tick), class: "grid" }), shape("text", { x: left - 8, y: y(tick) + 4, "text-anchor": "end", class: "label" }, tickWords(data.y, tick)));
    for (const tick of x.ticks(Math.round(width / 110))) drawn.append(shape("text", { x: x(tick), y: height - bottom + 18, "text-anchor": "middle", class: "label" }, tickWords(data.x, tick)));
    drawn.append(shape("text", { x: (left + width) / 2, y: height - 6, "text-anchor": "middle", class: "label" }, metrics[data.x].axis + (isLog ? " (log)" : "")));
    runs.forEach((run, number) => {
      run.others.x.forEach((one, place) => drawn.append(shape("circle", { cx: x(one), cy: y(run.others.y[place]), r: 2, class: `run-${number % 4} other` })));
      const order = run.x.map((_, place) => place).sort((a, b) => run.x[a] - run.x[b]);
      if (!order.length) return;
      const path = order.map((place, step) => (step ? `H${x(run.x[place])}V${y(run.y[place])}` : `M${x(run.x[place])} ${height - bottom}V${y(run.y[place])}`)).join("") + `H${width - right}`;
      if (data.goals[data.x] === "min" && data.goals[data.y] === "max" && Object.keys(data.goals).length === 2) drawn.append(shape("path", { d: path, class: `line run-${number % 4}` }));
      for (const place of order) {
        const dot = shape(number % 2 ? "rect" : "circle", number % 2 ? { x: x(run.x[place]) - 5, y: y(run.y[place]) - 5, width: 10, height: 10, class: `run-${number % 4}` } : { cx: x(run.x[place]), cy: y(run.y[place]), r: 6, class: `run-${number % 4}` });
        dot.addEventListener("pointermove", (event) => showTip(event, element("b", { text: `${run.name} #${run.trials[place]}  ${words(data.y, run.y[place])}` }), element("div", { text: words(data.x, run.x[place]) }), strip(run.architectures[place].map((kind) => data.kinds[kind]), true)));
        dot.addEventListener("pointerleave", hideTip); drawn.append(dot);
      }
    });
    plot.style.height = `${height}px`;
    plot.replaceChildren(drawn);
  });
  const name = (number) => (number < 0 ? "equal" : runs[number].name);
  const band = element("div", { class: "band", role: "img", "aria-label": winners.cost.map((cost, place) => `from ${words(data.x, cost)} ${name(winners.winner[place])}`).join("; ") });
  winners.cost.forEach((_, place) => band.append(element("i", { class: winners.winner[place] < 0 ? "" : `run-${winners.winner[place] % 4}`, title: `from ${words(data.x, winners.cost[place])}: ${name(winners.winner[place])}` })));
  const rows = winners.cost.map((cost, place) => element("tr", {}, element("td", { class: "left", text: words(data.x, cost) }), ...runs.map((_, number) => element("td", { class: winners.winner[place] === number ? "best" : "", text: words(data.y, winners.values[number][place]) })), element("td", { class: "left", text: name(winners.winner[place]) })));
  byId("winners").append(band, element("div", { class: "wide", tabindex: 0 }, element("table", {}, element("tr", {}, element("th", { class: "left", text: "budget" }), ...runs.map((run) => element("th", { text: run.name })), element("th", { class: "left", text: "winner" })), ...rows)));
  const models = runs.flatMap((run, number) => run.trials.map((trial, place) => ({ run, number, trial, place }))).sort((a, b) => a.run.x[a.place] - b.run.x[b.place]);
  byId("strips").append(element("div", { class: "rows" }, ...models.map(({ run, number, trial, place }) => element("div", { class: "row pair" },
    element("span", { class: "name" }, element("i", { class: `mark run-${number % 4}` }), `${run.name} #${trial}`), strip(run.architectures[place].map((kind) => data.kinds[kind])),
    element("span", { class: "number", text: words(data.y, run.y[place]) }), element("span", { class: "number", text: words(data.x, run.x[place]) })))));
}
