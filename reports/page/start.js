// Puts the views together.
restore();
const choice = element("button", { id: "theme", text: "dark or light", onclick: () => {
  const isDark = state.theme ? state.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  change({ theme: isDark ? "light" : "dark" });
} });
byId("tools").append(choice);
const applyTheme = () => {
  if (state.theme) document.documentElement.dataset.theme = state.theme;
  paints = {};
};
listeners.unshift((changes) => { if ("theme" in changes) applyTheme(); });
applyTheme();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => change({ theme: state.theme }));
if (data.live) byId("tools").prepend(element("span", { class: `badge ${data.live.state}`, role: "status", text: data.live.words }));

if (data.kind === "compare") compareView();
else {
  if (!placeOf.has(state.pin)) state.pin = null;
  const best = data.front.reduce((one, other) => (one === null || value(data.y, placeOf.get(other)) > value(data.y, placeOf.get(one)) ? other : one), null);
  state.pin ??= best;
  if (!metrics[state.x] || !metrics[state.y]) byId("front").append(empty("No trial was measured yet."));
  else {
    frontView(byId("front")); stripsView(byId("strips")); castlingView(byId("castling"));
    effectsView(byId("effects")); mattersView(byId("matters")); progressView(byId("progress"));
    calibrationView(byId("calibration")); tableView(byId("trials"));
  }
}
if (data.refresh) setTimeout(() => location.reload(), 1000 * data.refresh);
document.documentElement.dataset.ready = "yes";
