// What the reader chose is in the address, so that a view can be sent.

const data = JSON.parse(document.getElementById("data").textContent);
const by = id => document.getElementById(id);
const names = data.rows.map(row => row.name);
const PAGE = 40;
let limit = PAGE, open = new Set();

function made(tag, attributes = {}, ...children) {
  const found = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) found.setAttribute(key, value);
  found.append(...children);
  return found;
}

// Sorting

function valueOf(cell) {
  const number = parseFloat(cell.textContent.replace(/[,+]/g, "").replace("−", "-"));
  return Number.isNaN(number) ? null : number;
}

function sortBy(table, column, header) {
  const upward = header.getAttribute("aria-sort") === "descending";
  for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", upward ? "ascending" : "descending");
  const rows = [...table.tBodies[0].rows], sign = upward ? 1 : -1;
  const numeric = rows.some(row => valueOf(row.cells[column]) !== null);
  const compare = (a, b) => {
    if (!numeric) return sign * a.cells[column].textContent.localeCompare(b.cells[column].textContent);
    const [x, y] = [valueOf(a.cells[column]), valueOf(b.cells[column])];
    return x === null || y === null ? (x === null) - (y === null) : sign * (x - y);
  };
  rows.sort(compare).forEach(row => table.tBodies[0].append(row));
}

for (const table of document.querySelectorAll("table.sortable"))
  [...table.tHead.rows[0].cells].forEach((header, column) =>
    header.firstElementChild.addEventListener("click", () => sortBy(table, column, header)));

// Two rows

// Runs of two rows that share a seed; the untrained backbone is one run, beside every seed.
function pairedRuns(first, second) {
  const [a, b] = [data.rows[first], data.rows[second]], lone = row => row.name === "frozen";
  const seeds = lone(a) ? b.seeds : lone(b) ? a.seeds : a.seeds.filter(seed => b.seeds.includes(seed));
  const place = (row, seed) => lone(row) ? 0 : row.seeds.indexOf(seed);
  return seeds.map(seed => [seed, place(a, seed), place(b, seed)]);
}

const scoreOf = (item, row, run) => {
  const number = item.by[row][run];
  return number < 0 ? NaN : item.given[number][2];
};

function flipsOf(item, first, second, runs) {
  let lost = 0, won = 0;
  for (const [, a, b] of runs) {
    const [before, after] = [scoreOf(item, first, a), scoreOf(item, second, b)];
    lost += after < before;
    won += after > before;
  }
  return { item, lost, won };
}

// Drawing what is chosen

const chosen = () => [names.indexOf(by("first").value), names.indexOf(by("second").value)];

function drawRows() {
  const pair = chosen().map(place => names[place]);
  const isDrawn = name => name !== "frozen" || pair.includes(name);  // far from all others
  const scored = Object.keys(data.averages).filter(name => data.averages[name].length && isDrawn(name));
  drawSpread(by("spread"), data.averages, scored, pair, data.averages_unit);
  drawCurves(by("loss"), data.curves, "loss", pair, "training loss, nats a token");
  drawCurves(by("accuracy"), data.curves, "accuracy", pair, "validation accuracy, %");
}

function drawAll() {
  if (by("differences")) drawDifferences(by("differences"), data.differences, data.unit);
  if (names.length) drawRows();
}

const many = (count, what) => `${count} ${what}${count === 1 ? "" : "s"}`;

function listItems() {
  const [first, second] = chosen(), runs = pairedRuns(first, second);
  const task = by("task").value, show = by("show").value, text = by("text").value.toLowerCase();
  const ofTask = task ? data.tasks.indexOf(task) : data.tasks.length;
  const [items, lost, won] = data.flips[first][second][ofTask];
  by("totals").textContent =
    `From ${names[first]} to ${names[second]}${task ? ` on ${task}` : ""}: ${many(items, "item")} differ ` +
    `in ${many(lost + won, "answer")}, ${lost} ${data.words[0]} and ${won} ${data.words[1]} ` +
    `(${many(runs.length, "seed")}).`;
  const wanted = data.items
    .filter(item => (!task || item.task === task) && (!text || textOf(item).includes(text)))
    .map(item => flipsOf(item, first, second, runs))
    .filter(each => show === "every" || (show === "lost" ? each.lost : show === "won" ? each.won : each.lost + each.won))
    .sort((a, b) => Math.abs(b.lost - b.won) - Math.abs(a.lost - a.won) || b.lost + b.won - a.lost - a.won);
  by("shown").textContent = wanted.length
    ? `${Math.min(limit, wanted.length)} of ${many(wanted.length, "item")} listed, those with the largest change first.`
    : "No item of this page is so.";
  by("list").replaceChildren(...wanted.slice(0, limit).map(each => entry(each, first, second, runs)));
  by("more").hidden = wanted.length <= limit;
}

const textOf = item =>
  [item.prompt, item.answer, ...item.given.map(each => each[0])].join("\n").toLowerCase();

function entry({ item, lost, won }, first, second, runs) {
  const id = `${item.task}:${item.index}`, count = runs.length;
  const head = made("summary", {}, made("strong", {}, `${item.task} ${item.index}`));
  if (lost) head.append(made("span", { class: "lost" }, `${lost} of ${count} ${data.words[0]}`));
  if (won) head.append(made("span", { class: "won" }, `${won} of ${count} ${data.words[1]}`));
  head.append(made("span", { class: "first-words" }, (item.prompt || item.answer).trim().split("\n")[0]));
  const found = made("details", { class: "item", "data-item": id }, head);
  const fill = () => {
    if (found.childElementCount > 1) return;
    if (item.prompt !== null) found.append(made("pre", {}, item.prompt.trim()));
    found.append(made("p", {}, "right answer: ", made("code", {}, item.answer)));
    found.append(made("div", { class: "sides" },
      side(item, first, runs.map(run => [run[0], run[1]])), side(item, second, runs.map(run => [run[0], run[2]]))));
  };
  if (open.has(id)) {
    found.open = true;
    fill();
  }
  found.addEventListener("toggle", () => {
    if (found.open) fill();
    if (found.open === open.has(id)) return;
    found.open ? open.add(id) : open.delete(id);
    remember();
  });
  return found;
}

// The answers of one row, equal ones together.
function side(item, row, runs) {
  const seeds = new Map();
  for (const [seed, run] of runs) {
    const number = item.by[row][run];
    seeds.set(number, [...(seeds.get(number) || []), seed]);
  }
  const list = made("ul");
  for (const [number, of] of seeds) {
    if (number < 0) continue;
    const [output, extracted, score] = item.given[number];
    const verdict = score === 1 ? "✓ right" : score === 0 ? "✗ wrong" : `score ${score.toFixed(2)}`;
    const line = made("li", {}, made("span", { class: score === 1 ? "won" : score === 0 ? "lost" : "" }, `${verdict} `));
    line.append(made("code", {}, output.trim() || "(nothing)"));
    if (extracted !== null && extracted !== output.trim()) line.append(` read as “${extracted}”`);
    if (extracted === null) line.append(" no answer in it");
    const which = names[row] === "frozen" ? "one run" : `seed ${of.join(", ")}`;
    line.append(made("span", { class: "soft small" }, ` ${which}`));
    list.append(line);
  }
  return made("div", {}, made("h3", {}, names[row]), list);
}

// The address

const KEPT = ["first", "second", "task", "show", "text"];

function remember() {
  const said = new URLSearchParams();
  for (const id of KEPT) if (by(id).value) said.set(id, by(id).value);
  if (open.size) said.set("open", [...open].join(","));
  history.replaceState(null, "", `#view?${said}`);
}

function recall() {
  const said = new URLSearchParams(location.hash.split("?")[1] || "");
  for (const id of KEPT)
    if (said.has(id) && [...(by(id).options || [])].every(option => option.value !== said.get(id)) && id !== "text") continue;
    else if (said.has(id)) by(id).value = said.get(id);
  open = new Set((said.get("open") || "").split(",").filter(Boolean));
  return said.size > 0;
}

function refresh() {
  drawRows();
  listItems();
}

function begin() {
  drawAll();
  if (!names.length) {
    by("shown").textContent = "No trial has finished.";
    return;
  }
  for (const id of ["first", "second"]) by(id).append(...names.map(name => made("option", {}, name)));
  const trained = names.filter(name => name !== "frozen" && name !== data.reference);
  by("first").value = trained[0] || names[0];
  by("second").value = names.includes(data.reference) ? data.reference : names.at(-1);
  const sent = recall();
  refresh();
  if (sent) (document.querySelector(".item[open]") || by("items")).scrollIntoView();
  for (const id of KEPT)
    by(id).addEventListener("input", () => {
      limit = PAGE;
      refresh();
      remember();
    });
  by("swap").addEventListener("click", () => {
    [by("first").value, by("second").value] = [by("second").value, by("first").value];
    refresh();
    remember();
  });
  by("more").addEventListener("click", () => {
    limit += PAGE;
    listItems();
  });
  by("link").addEventListener("click", () => {
    remember();
    const done = () => { by("link").textContent = "Copied"; };
    if (navigator.clipboard) navigator.clipboard.writeText(location.href).then(done, () => {});
    else by("link").textContent = "It is in the address bar";
  });
  addEventListener("hashchange", () => { if (recall()) refresh(); });
  let resized;
  addEventListener("resize", () => { clearTimeout(resized); resized = setTimeout(drawAll, 150); });
}

begin();
