// Curves and the placing beside published figures, drawn by ECharts as SVG so that they print sharp.

const LIGHT = { ink: "#1b1f24", faint: "#59636e", line: "#d3d9e0", base: "#005f99", tuned: "#b84200", shift: "#6b6b6b", own: "#000000" };
const DARK = { ink: "#e8ecf0", faint: "#a3adb8", line: "#343c46", base: "#7cc4f5", tuned: "#ff9a57", shift: "#c0c6cc", own: "#ffffff" };
const FLOOR_ANGLE = 1e-6, PAPER = 640;
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const drawn = new Map();
let printing = false;

const palette = () => (dark.matches && !printing ? DARK : LIGHT);

function draw(id, label, option) {
  const place = document.getElementById(id), colours = palette();
  drawn.get(id)?.dispose();
  place.replaceChildren();
  const chart = echarts.init(place, null, { renderer: "svg", width: printing ? PAPER : undefined });
  // Tooltips as drawings, not markup: nothing that a chart shows is ever parsed.
  chart.setOption({
    animation: false,
    textStyle: { color: colours.ink, fontFamily: "inherit" },
    aria: { enabled: true, label: { description: label } },
    tooltip: { renderMode: "richText", valueFormatter: (v) => short(Array.isArray(v) ? v[v.length - 1] : v) },
    ...option,
  });
  place.setAttribute("role", "img");
  place.setAttribute("aria-label", label);
  drawn.set(id, chart);
}

function axis(type, name, more = {}) {
  const c = palette();
  return {
    type, name, nameLocation: "middle", nameGap: 30, nameTextStyle: { color: c.faint },
    axisLine: { lineStyle: { color: c.faint } }, splitLine: { lineStyle: { color: c.line } },
    axisLabel: { color: c.faint, formatter: type === "category" ? undefined : (v) => short(v) }, ...more,
  };
}

function curve(name, xs, ys, colour, style, symbol) {
  const points = xs.map((x, i) => [x, ys[i]]).filter(([, y]) => y > 0);
  const shown = points.length <= 24;
  return { name, type: "line", data: points, symbol, symbolSize: 7, showSymbol: shown, lineStyle: { color: colour, type: style, width: 2 }, itemStyle: { color: colour } };
}

function curves(xName, yName, series) {
  const c = palette();
  return {
    legend: { top: 0, textStyle: { color: c.ink } },
    grid: { left: 70, right: 20, top: 40, bottom: 50 },
    xAxis: axis("log", xName), yAxis: axis("log", yName, { nameGap: 55 }),
    tooltip: { trigger: "axis", renderMode: "richText", valueFormatter: (v) => short(Array.isArray(v) ? v[1] : v) },
    series,
  };
}

const percent = (share) => `${(100 * share).toPrecision(2).replace(/\.0$/, "")} %`;

function drawSteps() {
  const home = document.getElementById("step-charts");
  if (!home) return;
  home.replaceChildren();
  audit.steps.forEach((run, i) => run.curves.forEach((curve, j) => {
    const figure = element("figure"), id = `steps-${i}-${j}`;
    figure.append(element("figcaption", `${curve.metric}, ${curve.unit}${audit.steps.length > 1 ? `, ${run.name}` : ""}`), element("div", undefined, { id, class: "chart small" }));
    home.append(figure);
    drawCurve(id, run, curve);
  }));
}

// The ends of an axis that holds all values and limits with some room, rounded so that their labels are short.
function span(type, every) {
  const low = Math.min(...every), high = Math.max(...every), room = (high - low || Math.abs(high) || 1) / 10;
  const ends = type === "log" ? [low / 1.4, high * 1.4] : [low - room, high + room];
  return { min: Number(ends[0].toPrecision(1)) > low ? ends[0] : Number(ends[0].toPrecision(1)), max: Number(ends[1].toPrecision(1)) < high ? ends[1] : Number(ends[1].toPrecision(1)) };
}

function drawCurve(id, run, curve) {
  const c = palette(), at = (values) => curve.steps.map((step, i) => [step, values[i]]).filter(([, y]) => y !== null);
  const every = [...curve.lowest, ...curve.highest, ...curve.limits.map((l) => l.limit)].filter((v) => v !== null);
  const type = every.every((v) => v > 0) ? "log" : "value";
  const line = (name, values, colour, style) => ({ name, type: "line", data: at(values), symbol: "circle", symbolSize: 6, itemStyle: { color: colour }, lineStyle: { color: colour, type: style, width: name === "median" ? 2.5 : 1 } });
  const limits = curve.limits.map((l) => ({ yAxis: l.limit, label: { formatter: `${l.sign === "<=" ? "≤" : "≥"} ${short(l.limit)}`, position: "insideEndTop", color: c.tuned } }));
  const said = curve.steps.map((step, i) => `${step}: ${curve.median[i] === null ? "no value" : short(curve.median[i])}`).join(", ");
  draw(id, `${curve.metric} over the steps, median ${said}`, {
    ...curves("", "", []),
    legend: { top: 0, itemGap: 20, data: ["highest", "median", "lowest"], textStyle: { color: c.ink } },
    xAxis: axis("value", run.counted ? "position" : "step", { min: curve.steps[0], max: curve.steps[curve.steps.length - 1], axisLabel: { color: c.faint, hideOverlap: true, alignMinLabel: "left", alignMaxLabel: "right" } }),
    // The limit has to be on the picture, also where no value comes near it.
    yAxis: axis(type, "", span(type, every)),
    series: [line("highest", curve.highest, c.shift, "dotted"), line("median", curve.median, c.base, "solid"), line("lowest", curve.lowest, c.shift, "dotted"),
      { name: "limit", type: "line", data: [], markLine: { symbol: "none", silent: true, precision: 15, lineStyle: { color: c.tuned, type: "dashed", width: 2 }, data: limits } }],
  });
}

function drawSpectra() {
  const spectra = run().spectra, select = document.getElementById("matrix");
  document.getElementById("no-spectra").hidden = spectra.length > 0;
  document.getElementById("with-spectra").hidden = !spectra.length;
  select.replaceChildren(...spectra.map((s, i) => element("option", s.tensor, { value: i })));
  if (spectra.length) drawMatrix(0);
}

function drawMatrix(i) {
  const s = run().spectra[i], c = palette();
  const moved = s.shift.reduce((a, b) => Math.max(a, b), 0);
  const widest = [...s.left, ...s.right].reduce((a, b) => Math.max(a, b), 0);
  const tie = s.gap < 0.01 ? " The gap is so small that the leading subspace is ill-defined: the largest angles say little." : "";
  const facts = `${s.shape[0]} × ${s.shape[1]}, k = ${s.k}, spectral gap ${percent(s.gap)}. Exact, in float64. ` +
    `Largest singular value ${short(s.base[0])} in the base, ${short(s.tuned[0])} in the tuned; the farthest moved by ${short(moved)}. Widest angle ${short(widest)} degrees.${tie}`;
  document.getElementById("spectrum-facts").textContent = facts;
  draw("spectrum-chart", `Singular values of ${s.tensor} by rank, base and tuned, and the distance between them. ${facts}`,
    curves("rank of the singular value", "singular value", [
      curve("base", s.ranks, s.base, c.base, "solid", "circle"),
      curve("tuned", s.ranks, s.tuned, c.tuned, "dashed", "triangle"),
      curve("|tuned − base|", s.ranks, s.shift, c.shift, "dotted", "diamond"),
    ]));
  const raised = (angles) => angles.map((a) => Math.max(a, FLOOR_ANGLE));
  draw("angle-chart", `Principal angles of ${s.tensor}, ascending, left and right, in degrees. ${facts}`,
    curves("angle, ascending", "degrees", [
      curve("left", s.angleRanks, raised(s.left), c.base, "solid", "circle"),
      curve("right", s.angleRanks, raised(s.right), c.tuned, "dashed", "triangle"),
    ]));
  fill("spectrum-table", ["rank", "base", "tuned", "|tuned − base|"], s.ranks.map((r, j) => [r, s.base[j], s.tuned[j], s.shift[j]]));
  fill("angle-table", ["angle", "left, degrees", "right, degrees"], s.angleRanks.map((r, j) => [r, s.left[j], s.right[j]]));
}

function fill(id, heads, rows) {
  const place = document.getElementById(id), details = place.closest("details");
  const build = () => place.replaceChildren(tableOf(heads, rows.map((row) => row.map(String))));
  place.replaceChildren();
  details.ontoggle = () => details.open && build();
  if (details.open) build();
}

const PANEL = { least: 190, height: 180, names: 90 };

function panels(count) {
  const place = document.getElementById("published-chart");
  const width = printing ? PAPER : place.clientWidth || PAPER;
  const columns = Math.max(1, Math.min(count, Math.floor((width - PANEL.names) / PANEL.least)));
  place.style.height = `${Math.max(1, Math.ceil(count / columns)) * PANEL.height}px`;
  const each = (width - PANEL.names) / columns;
  return (i) => ({ left: PANEL.names + (i % columns) * each, top: Math.floor(i / columns) * PANEL.height, width: each - 45, first: i % columns === 0 });
}

function drawPublished() {
  const rows = run().placed.filter((row) => row.value !== null), c = palette(), place = panels(rows.length);
  const option = { grid: [], xAxis: [], yAxis: [], series: [], title: [] };
  rows.forEach((row, i) => {
    const { left, top, width, first } = place(i), log = row.scale === "log";
    const floor = Math.min(row.value || 1, ...Object.values(row.regimes).flat().filter((v) => v > 0)) / 5;
    const at = (v) => (log ? Math.max(v, floor) : v);
    option.title.push({ text: row.name.split(",")[0], left, top, textStyle: { fontSize: 12, color: c.ink } });
    option.grid.push({ left, width, top: top + 30, height: PANEL.height - 66 });
    option.xAxis.push(axis(log ? "log" : "value", "", { gridIndex: i, splitNumber: 3, ...(log ? {} : { min: 0, max: 1 }), axisLabel: { color: c.faint, formatter: short, hideOverlap: true, alignMinLabel: "left", alignMaxLabel: "right" } }));
    option.yAxis.push(axis("category", "", { gridIndex: i, data: ["this run", "SFT", "distillation", "RLVR"], axisLabel: { show: first, color: c.ink }, axisTick: { show: false } }));
    for (const [key, y, colour] of [["sft", 1, c.tuned], ["distillation", 2, c.shift], ["rlvr", 3, c.base]]) {
      const [low, high] = row.regimes[key].map(at);
      option.series.push({ type: "line", xAxisIndex: i, yAxisIndex: i, data: [[low, y], [high, y]], symbol: "rect", symbolSize: 10, lineStyle: { width: 8, color: colour }, itemStyle: { color: colour } });
    }
    // A bound is no measurement: what is drawn is the range that it leaves, and no point in it.
    if (row.bound) option.series.push({ type: "line", xAxisIndex: i, yAxisIndex: i, data: [[at(0), 0], [at(row.value), 0]], symbol: "none", lineStyle: { width: 2, type: "dotted", color: c.own },
      endLabel: { show: true, formatter: "somewhere up to here", color: c.faint, align: "right", verticalAlign: "bottom" } });
    else option.series.push({ type: "scatter", xAxisIndex: i, yAxisIndex: i, data: [[at(row.value), 0]], symbol: "diamond", symbolSize: 16, itemStyle: { color: c.own },
      markLine: { symbol: "none", precision: 15, label: { show: false }, lineStyle: { color: c.own, type: "dashed" }, data: [{ xAxis: at(row.value) }] } });
  });
  const words = rows.map((row) => `${row.name}: this run ${row.bound ? "at most " : ""}${short(row.value)}, ${row.words}`).join(". ");
  draw("published-chart", `This run beside the published ranges. ${words || "Nothing was measured"}. The table below has every figure.`, option);
}
