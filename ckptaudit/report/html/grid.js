"use strict";
// The map of layers and roles: a real table, built for the chosen metric alone, and the numbers of the chosen cell.

const audit = JSON.parse(document.getElementById("audit").textContent);
const [ROW, ROLE, COUNT, MISSING, WORST, MEAN, KIND, OVER, LISTED, MEAN_KIND] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
const NO_CHECK = -1, NOT_ADMITTED = -2, UNSETTLED = -3, OUTSIDE = "outside the layers";
const state = { run: 0, metric: "", allRoles: false, onlyBroken: false, chosen: null };

function element(tag, text = "", attributes = {}) {
  const made = document.createElement(tag);
  // Text only, never markup: names are written by strangers.
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function short(value) {
  if (value === null) return "none";
  if (value === 0 || (Number.isInteger(value) && Math.abs(value) < 1e5)) return String(value);
  const size = Math.abs(value);
  return size >= 1e5 || size < 1e-3 ? value.toExponential(1) : String(Number(value.toPrecision(3)));
}

function marked(value, kind) {
  return ({ upper_bound: "≤ ", lower_bound: "≥ " }[kind] ?? "") + value;
}

function factor(over) {
  const times = (t) => (t < 1.005 ? "just" : `${Number(t.toPrecision(3))}×`);
  if (over > 1) return over > 1e200 ? "beyond the limit" : `${times(over)} over`;
  return over > 0 ? `${times(1 / over)} inside` : "inside";
}

const run = () => audit.runs[state.run];
const gridOf = (metric) => run().grids.grids.find((grid) => grid.metric === metric);
const limitsOf = (grid, role) => grid.limits.filter((limit) => limit.roles.includes(role));
const inUnit = (text, unit) => (unit === "1" ? text : `${text} ${unit}`);

function verdictOf(check, rowName, roleName, cell) {
  const given = run().verdicts[check] ?? {};
  const tensor = cell && cell[LISTED].length ? audit.names[cell[LISTED][0][0]] : "";
  return given[rowName] ?? given[tensor] ?? given[roleName.replace(/\.bias$/, "")] ?? given.model;
}

function stateOf(grid, cell) {
  if (cell[MISSING]) return "blind";
  if (cell[OVER] === NO_CHECK) return "plain";
  if (cell[OVER] === NOT_ADMITTED) return "unjudged";
  if (cell[OVER] === UNSETTLED) return "unsettled";
  if (cell[OVER] <= 1) return "inside";
  const { rows, roles } = run().grids;
  const verdicts = limitsOf(grid, cell[ROLE]).map((l) => verdictOf(l.check, rows[cell[ROW]], roles[cell[ROLE]], cell));
  const held = verdicts.length && verdicts.every((v) => v && v[0] !== "failed" && v[0] !== "error");
  return held ? "excused" : "beyond";
}

const SIGNS = { beyond: "▲ ", excused: "△ ", blind: "! ", unjudged: "– ", unsettled: "? ", inside: "", plain: "" };
const MEANINGS = {
  beyond: "beyond the limit", excused: "beyond the limit, but the verdict holds or is waived", blind: "has no value",
  unjudged: "too little changed to be judged", unsettled: "known only as a bound beyond the limit", inside: "inside the limit", plain: "no check asks",
};

function shade(cell, kind, spread) {
  if (kind === "beyond") return 38 + 20 * Math.min(2, Math.log10(Math.min(cell[OVER], 100)));
  if (kind === "inside") return cell[OVER] > 0 ? 6 + 22 * Math.max(0, 2 + Math.log10(cell[OVER])) : 4;
  return 4 + 40 * spread(cell[WORST]);
}

function spreadOf(cells) {
  const logs = cells.map((c) => Math.log(Math.abs(c[WORST] ?? 0) + 1e-12));
  const low = logs.reduce((a, b) => Math.min(a, b), Infinity), high = logs.reduce((a, b) => Math.max(a, b), -Infinity);
  return (value) => (high > low ? (Math.log(Math.abs(value ?? 0) + 1e-12) - low) / (high - low) : 0);
}

function columnsOf(grid) {
  const present = new Set(grid.cells.map((cell) => cell[ROLE]));
  const asked = new Set(grid.limits.flatMap((limit) => limit.roles));
  const narrowed = !state.allRoles && asked.size ? [...present].filter((role) => asked.has(role)) : [...present];
  return narrowed.sort((a, b) => a - b);
}

function rowsOf(grid, checks, columns) {
  const filled = new Set(grid.cells.filter((c) => columns.includes(c[ROLE])).map((c) => c[ROW]));
  const numbers = run().grids.rows.map((_, i) => i).filter((i) => filled.has(i));
  if (!state.onlyBroken) return numbers;
  return numbers.filter((i) => checks.some((check) => {
    const verdict = run().verdicts[check]?.[run().grids.rows[i]];
    return verdict && verdict[0] !== "passed" && verdict[0] !== "skipped";
  }));
}

function drawGrid() {
  const grid = gridOf(state.metric), table = document.getElementById("grid");
  table.replaceChildren();
  if (!grid) return;
  const { rows, roles } = run().grids, columns = columnsOf(grid);
  const checks = grid.limits.map((l) => l.check).filter((c) => rows.some((name) => run().verdicts[c]?.[name]));
  const at = new Map(grid.cells.map((cell) => [`${cell[ROW]},${cell[ROLE]}`, cell]));
  const spread = spreadOf(grid.cells);
  const head = table.createTHead().insertRow();
  head.append(element("th", "layer", { scope: "col" }));
  for (const role of columns) head.append(element("th", roles[role], { scope: "col", class: "n" }));
  for (const check of checks) head.append(element("th", check, { scope: "col", class: "verdict" }));
  const body = table.createTBody();
  for (const i of rowsOf(grid, checks, columns)) {
    const row = body.insertRow();
    row.append(element("th", rows[i], { scope: "row" }));
    for (const role of columns) row.append(cellOf(grid, at.get(`${i},${role}`), spread));
    for (const check of checks) row.append(verdictCell(run().verdicts[check]?.[rows[i]]));
  }
  if (!body.rows.length) body.insertRow().append(element("td", "No layer to show: every verdict here holds."));
  const entry = table.querySelector("td.beyond, td.blind") ?? table.querySelector("td.cell");
  if (entry) entry.tabIndex = 0;
  describe(grid);
}

function cellOf(grid, cell, spread) {
  if (!cell) return element("td");
  const kind = stateOf(grid, cell), { rows, roles } = run().grids;
  const text = cell[WORST] === null ? "!" : SIGNS[kind] + marked(short(cell[WORST]), cell[KIND]);
  const made = element("td", text, { class: `cell ${kind}`, role: "gridcell", tabindex: "-1" });
  made.style.setProperty("--much", `${shade(cell, kind, spread).toFixed(0)}%`);
  made.dataset.row = cell[ROW];
  made.dataset.role = cell[ROLE];
  made.setAttribute("aria-label", `${rows[cell[ROW]]} ${roles[cell[ROLE]]}: ${short(cell[WORST])}, ${MEANINGS[kind]}`);
  return made;
}

function verdictCell(verdict) {
  if (!verdict) return element("td");
  const text = `${audit.symbols[verdict[0]]} ${verdict[0] === "passed" ? "" : `${audit.words[verdict[0]]} `}${verdict[5]}`;
  return element("td", text, { class: `verdict ${verdict[0]}` });
}

function describe(grid) {
  const many = grid.cells.some((cell) => cell[COUNT] > 1);
  const which = many ? ` A cell shows the ${grid.largest ? "largest" : "smallest"} of its tensors.` : "";
  document.getElementById("meaning").textContent = `${grid.meaning} Unit: ${grid.unit === "1" ? "dimensionless" : grid.unit}.${which}`;
  const limits = grid.limits.map((l) => `${l.check}: limit ${l.sign === "<=" ? "≤" : "≥"} ${short(l.limit)}`);
  const signs = ["beyond", "excused", "blind", "unjudged", "unsettled"].filter((kind) => document.querySelector(`#grid td.${kind}`));
  const key = signs.map((kind) => `${SIGNS[kind]}${MEANINGS[kind]}`);
  document.getElementById("legend").textContent = [...(limits.length ? limits : ["no check has a limit on this metric"]), ...key,
    grid.limits.length ? "the fuller the colour, the nearer to the limit or the farther beyond" : "the fuller the colour, the larger"].join(" · ");
}

function choose(td) {
  const grid = gridOf(state.metric);
  const cell = grid.cells.find((c) => c[ROW] === Number(td.dataset.row) && c[ROLE] === Number(td.dataset.role));
  document.querySelectorAll("#grid td.chosen").forEach((other) => { other.classList.remove("chosen"); other.removeAttribute("aria-selected"); });
  document.querySelectorAll("#grid td[tabindex='0']").forEach((other) => { other.tabIndex = -1; });
  td.tabIndex = 0;
  td.classList.add("chosen");
  td.setAttribute("aria-selected", "true");
  state.chosen = cell;
  document.getElementById("detail").replaceChildren(...detailOf(grid, cell));
}

function detailOf(grid, cell) {
  const { rows, roles } = run().grids, rowName = rows[cell[ROW]], roleName = roles[cell[ROLE]];
  const parts = [element("h3", `${rowName} ${roleName}`), element("div", grid.metric)];
  const value = cell[WORST] === null ? "no value" : inUnit(marked(String(cell[WORST]), cell[KIND]), grid.unit);
  parts.push(element("div", value, { class: `big ${stateOf(grid, cell) === "beyond" ? "failed" : ""}` }));
  if (cell[COUNT] > 1) {
    const missing = cell[MISSING] ? `, ${cell[MISSING]} without a value` : "";
    parts.push(element("div", `${grid.largest ? "largest" : "smallest"} of ${cell[COUNT]} tensors, mean ${marked(short(cell[MEAN]), cell[MEAN_KIND])}${missing}`));
  }
  if (cell[OVER] >= 0) parts.push(element("div", `${factor(cell[OVER])}, the worst tensor against the check's limit`));
  for (const limit of limitsOf(grid, cell[ROLE])) parts.push(...verdictWords(limit, rowName, roleName, cell));
  parts.push(element("h4", cell[COUNT] > cell[LISTED].length ? `The worst ${cell[LISTED].length} tensors` : "Tensors"));
  parts.push(tableOf(["tensor", "value"], cell[LISTED].map(([name, v, kind]) => [audit.names[name], marked(String(v), kind)])));
  parts.push(element("h4", "Every metric here"), othersOf(cell));
  return parts;
}

function verdictWords(limit, rowName, roleName, cell) {
  const verdict = verdictOf(limit.check, rowName, roleName, cell);
  const parts = [element("h4", `Check ${limit.check}`), element("div", audit.checks[limit.check]?.claim ?? "")];
  if (!verdict) return parts;
  const [outcome, value, kind, sign, bound, margin, reason] = verdict;
  const judged = (audit.checks[limit.check]?.judge_by ?? "worst").replace("_", " ");
  const said = `${audit.symbols[outcome]} ${audit.words[outcome]}: ${judged} ${marked(short(value), kind)}, limit ${sign === "<=" ? "≤" : "≥"} ${short(bound)}, ${margin}`;
  parts.push(element("div", said, { class: outcome }));
  if (reason) parts.push(element("div", reason));
  return parts;
}

function othersOf(cell) {
  const found = run().grids.grids.flatMap((grid) => {
    const same = grid.cells.find((c) => c[ROW] === cell[ROW] && c[ROLE] === cell[ROLE]);
    return same ? [[grid.metric, SIGNS[stateOf(grid, same)] + inUnit(marked(short(same[WORST]), same[KIND]), grid.unit)]] : [];
  });
  return tableOf(["metric", "worst"], found);
}

function breakable(name) {
  const td = element("td", "", { class: "tensor" });
  for (const part of name.split(/(?<=[._/])/)) td.append(part, document.createElement("wbr"));
  return td;
}

function tableOf(heads, rows) {
  const table = document.createElement("table");
  const head = table.createTHead().insertRow();
  heads.forEach((text, i) => head.append(element("th", text, { scope: "col", class: i ? "n" : "" })));
  const body = table.createTBody();
  for (const row of rows) {
    const tr = body.insertRow();
    row.forEach((text, i) => tr.append(i ? element("td", text, { class: "n" }) : breakable(text)));
  }
  return table;
}

function moved(td, key) {
  const row = td.parentElement, cells = [...row.querySelectorAll("td.cell")], i = cells.indexOf(td);
  if (key === "ArrowLeft") return cells[i - 1];
  if (key === "ArrowRight") return cells[i + 1];
  if (key === "Home") return cells[0];
  if (key === "End") return cells[cells.length - 1];
  const step = { ArrowUp: "previousElementSibling", ArrowDown: "nextElementSibling" }[key];
  for (let next = step && row[step]; next; next = next[step]) {
    const below = [...next.querySelectorAll("td.cell")].find((c) => c.dataset.role === td.dataset.role);
    if (below) return below;
  }
  return undefined;
}

function onGridKey(event) {
  const td = event.target.closest("td.cell");
  if (!td) return;
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    choose(td);
    return;
  }
  const next = moved(td, event.key);
  if (!next) return;
  event.preventDefault();
  td.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}
