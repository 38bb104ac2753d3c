"use strict";
// Small drawings in SVG, as wide as the page lets them be.

function element(name, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  for (const child of children) made.append(child);
  return made;
}

function titled(shape, words) {
  shape.append(element("title", {}, words));
  return shape;
}

function ticks(low, high, about) {
  const rough = (high - low) / about, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(n => n * power).find(n => n >= rough);
  const found = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n++)
    found.push(Number((n * step).toPrecision(12)));
  return found;
}

// A frame with an axis below; returns where to draw, and the scale.
function frame(figure, { height, left, low, high, label, format = String }) {
  const width = Math.max(300, figure.clientWidth || 640), right = width - 12, bottom = height - 34;
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
  const x = value => left + (right - left) * (high === low ? .5 : (value - low) / (high - low));
  for (const at of ticks(low, high, Math.max(2, (right - left) / 90))) {
    svg.append(element("line", { class: "axis", x1: x(at), x2: x(at), y1: 4, y2: bottom }));
    svg.append(element("text", { class: "note", x: x(at), y: bottom + 14, "text-anchor": "middle" }, format(at)));
  }
  svg.append(element("text", { class: "note", x: (left + right) / 2, y: height - 4, "text-anchor": "middle" }, label));
  figure.replaceChildren(svg);
  return { svg, x, left, right, bottom, width };
}

function widest(names) {
  return Math.min(220, 16 + 7.2 * Math.max(0, ...names.map(name => name.length)));
}

function extent(values, margin = .06) {
  const known = values.filter(Number.isFinite);
  if (!known.length) return [0, 1];
  const low = Math.min(...known), high = Math.max(...known), pad = (high - low || 1) * margin;
  return [low - pad, high + pad];
}

function shape(kind, x, y, classes) {
  const size = 4;
  return kind === "two"
    ? element("rect", { class: classes, x: x - size, y: y - size, width: 2 * size, height: 2 * size })
    : element("circle", { class: classes, cx: x, cy: y, r: size });
}

// Differences with their intervals: filled and thick where resolved, hollow where not.
function drawDifferences(figure, differences, unit) {
  const left = widest(differences.map(each => each.name));
  const [low, high] = extent(differences.flatMap(each => [0, each.mean, each.low, each.high, ...(each.bootstrap || [])].filter(v => v !== null)));
  const { svg, x, bottom } = frame(figure, { height: 46 + 26 * differences.length, left, low, high,
    label: `difference, ${unit}, 95 % (thick: over seeds, thin: bootstrap)` });
  svg.append(element("line", { x1: x(0), x2: x(0), y1: 4, y2: bottom, stroke: "currentColor" }));
  differences.forEach((each, place) => {
    const y = 18 + 26 * place, state = each.verdict === "resolved" ? "resolved" : "open";
    const row = element("g", {});
    row.append(element("text", { x: left - 8, y: y + 4, "text-anchor": "end" }, each.name));
    if (each.low !== null)
      row.append(element("line", { class: state, "stroke-width": 3, x1: x(each.low), x2: x(each.high), y1: y, y2: y }));
    if (each.bootstrap && each.bootstrap[0] !== null)
      row.append(element("line", { class: state, x1: x(each.bootstrap[0]), x2: x(each.bootstrap[1]), y1: y + 7, y2: y + 7 }));
    row.append(shape("one", x(each.mean), y, `${state} dot`));
    const reach = each.low === null ? "" : ` [${each.low.toFixed(2)}, ${each.high.toFixed(2)}]`;
    svg.append(titled(row, `${each.name}: ${each.mean.toFixed(2)}${reach}, ${each.verdict}`));
  });
}

// Each row's averages, a mark a seed; lines join the same seed of the two rows that are chosen.
function drawSpread(figure, averages, names, chosen, label) {
  const left = widest(names);
  const [low, high] = extent(names.flatMap(name => averages[name].map(point => point[1])));
  const { svg, x } = frame(figure, { height: 46 + 22 * names.length, left, low, high, label });
  const y = name => 16 + 22 * names.indexOf(name);
  const [first, second] = chosen;
  const of = Object.fromEntries((averages[second] || []).map(([seed, value]) => [seed, value]));
  for (const [seed, value] of averages[first] || [])
    if (seed in of)
      svg.append(element("line", { class: "faint", x1: x(value), y1: y(first), x2: x(of[seed]), y2: y(second) }));
  for (const name of names) {
    const kind = name === first ? "one" : name === second ? "two" : "faint";
    svg.append(element("text", { x: left - 8, y: y(name) + 4, "text-anchor": "end" }, name));
    const values = averages[name].map(point => point[1]);
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
    if (values.length)
      svg.append(element("line", { class: kind, x1: x(mean), x2: x(mean), y1: y(name) - 8, y2: y(name) + 8, "stroke-width": 2 }));
    for (const [seed, value] of averages[name])
      svg.append(titled(shape(kind, x(value), y(name), `${kind} dot`), `${name}, seed ${seed}: ${value.toFixed(2)}`));
  }
}

// Curves by step, one thin line a run; the rows that are chosen in front, with their means.
function drawCurves(figure, curves, what, chosen, label) {
  const drawn = Object.entries(curves).flatMap(([name, runs]) =>
    runs.filter(run => run[what].length).map(run => ({ name, points: run[what], seed: run.seed })));
  if (!drawn.length) {
    figure.textContent = `No ${label} was logged.`;
    return;
  }
  const steps = drawn.flatMap(run => run.points.map(point => point[0]));
  const [low, high] = extent(drawn.flatMap(run => run.points.map(point => point[1])));
  const height = 290, top = 44;  // room for the label and the names
  const { svg, x, left, bottom } = frame(figure, { height, left: 44, low: Math.min(...steps), high: Math.max(...steps), label: "optimizer step" });
  const y = value => bottom - (bottom - top) * (value - low) / (high - low);
  svg.append(element("text", { class: "note", x: 4, y: 12 }, label));
  for (const at of ticks(low, high, 5))
    svg.append(element("text", { class: "note", x: left - 6, y: y(at) + 4, "text-anchor": "end" }, String(at)));
  const path = points => points.map(([step, value], n) => `${n ? "L" : "M"}${x(step).toFixed(1)} ${y(value).toFixed(1)}`).join("");
  const kindOf = name => name === chosen[0] ? "one" : name === chosen[1] ? "two" : "faint";
  for (const kind of ["faint", "two", "one"])
    for (const run of drawn.filter(run => kindOf(run.name) === kind))
      svg.append(titled(element("path", { class: kind, d: path(run.points), "stroke-width": .8, opacity: kind === "faint" ? .28 : .5 }), `${run.name}, seed ${run.seed}`));
  [...new Set(chosen)].forEach((name, place) => {
    const runs = drawn.filter(run => run.name === name);
    if (!runs.length) return;
    const mean = runs[0].points.map(([step], n) => [step, runs.reduce((sum, run) => sum + (run.points[n] || run.points.at(-1))[1], 0) / runs.length]);
    svg.append(titled(element("path", { class: kindOf(name), d: path(mean), "stroke-width": 2.4, "stroke-dasharray": place ? "7 4" : "none" }), `${name}, mean over seeds`));
    svg.append(element("line", { class: kindOf(name), x1: left + 170 * place, x2: left + 26 + 170 * place, y1: 28, y2: 28, "stroke-width": 2.4, "stroke-dasharray": place ? "7 4" : "none" }));
    svg.append(element("text", { x: left + 32 + 170 * place, y: 32 }, name));
  });
}
