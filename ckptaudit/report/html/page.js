// Wiring: choosers, keys, themes, printing.

function showMetrics() {
  const select = document.getElementById("metric"), { grids } = run().grids;
  select.replaceChildren(...grids.map((g) => element("option", g.metric + (g.limits.length ? "" : " (no limit)"), { value: g.metric })));
  // The check that closed the gate may be about no matrix; then the first metric that has a limit is shown.
  state.metric = gridOf(run().first) ? run().first : grids[0]?.metric ?? "";
  select.value = state.metric;
  drawGrid();
}

function showMetric(metric) {
  if (!gridOf(metric)) return;
  state.metric = metric;
  document.getElementById("metric").value = metric;
  drawGrid();
}

function showRun(number) {
  state.run = number;
  for (const part of document.querySelectorAll(".run")) part.hidden = Number(part.dataset.run) !== number;
  document.getElementById("detail").replaceChildren(element("p", "Choose a cell for its numbers: click it, or move with the arrow keys and press Enter.", { id: "grid-help" }));
  showMetrics();
  drawCharts();
}

function drawCharts() {
  const chosen = Number(document.getElementById("matrix").value || 0);
  drawSpectra();
  if (chosen && chosen < run().spectra.length) {
    document.getElementById("matrix").value = String(chosen);
    drawMatrix(chosen);
  }
  drawPublished();
  drawSteps();
}

document.getElementById("metric").addEventListener("change", (event) => showMetric(event.target.value));
document.getElementById("matrix").addEventListener("change", (event) => drawMatrix(Number(event.target.value)));
document.getElementById("run")?.addEventListener("change", (event) => showRun(Number(event.target.value)));
document.getElementById("only-broken").addEventListener("change", (event) => { state.onlyBroken = event.target.checked; drawGrid(); });
document.getElementById("more-columns").addEventListener("click", (event) => {
  state.allRoles = !state.allRoles;
  event.target.setAttribute("aria-pressed", String(state.allRoles));
  drawGrid();
});
const table = document.getElementById("grid");
table.addEventListener("click", (event) => { const td = event.target.closest("td.cell"); if (td) choose(td); });
table.addEventListener("keydown", onGridKey);
for (const button of document.querySelectorAll("button.show")) {
  button.addEventListener("click", () => {
    showMetric(button.dataset.metric);
    document.getElementById("map").scrollIntoView();
    document.querySelector("#grid td[tabindex='0']")?.focus({ preventScroll: true });
  });
}
for (const button of document.querySelectorAll("button.show-run")) {
  button.addEventListener("click", () => {
    document.getElementById("run").value = button.dataset.run;
    showRun(Number(button.dataset.run));
  });
}
dark.addEventListener("change", drawCharts);
window.addEventListener("resize", () => { drawn.forEach((chart) => chart.resize()); drawPublished(); });
window.addEventListener("beforeprint", () => { printing = true; drawCharts(); });
window.addEventListener("afterprint", () => { printing = false; drawCharts(); });
showRun(audit.first);
if (document.getElementById("run")) document.getElementById("run").value = String(audit.first);
