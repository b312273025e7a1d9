// The Pareto chart: two numbers of every variant with their intervals and a third as an area, thresholds as lines, the
// frontier of the two joined.
const SVG = "http://www.w3.org/2000/svg";
const chart = document.getElementById("chart");
const tip = document.getElementById("tip");

function element(name, attributes, parent, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  parent?.append(made);
  return made;
}

// About three digits, without needless zeros.
function short(value) {
  const size = Math.abs(value);
  if (size >= 1e5 || (size > 0 && size < 1e-3)) return value.toExponential(1);
  return String(Number(value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 4)));
}

function shown(measure, index) {
  const found = measure.values[index];
  if (!found) return "not measured";
  const [value, low, high] = found;
  const interval = low === null || high === null ? "" : ` [${short(low)}, ${short(high)}]`;
  return `${short(value)}${measure.unit === "x" ? "x" : measure.unit && " " + measure.unit}${interval}`;
}

// Round numbers inside a range, about `count`.
function ticks([low, high], count) {
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map(m => m * power).find(s => s >= raw);
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high && found.length < 20; i++) found.push(i * step);
  return found.map(value => Math.abs(value) < step / 1e6 ? 0 : value);
}

function threshold(measure) {
  if (!measure.limit) return null;
  const [question, factor] = measure.limit;
  return state.thresholds[question] * factor;
}

// Range of an axis; values far beyond a threshold are pinned to the edge so that they do not squeeze the others.
function range(measure, indices) {
  const limit = threshold(measure);
  const bounds = indices.map(i => measure.values[i].map((v, _, all) => v ?? all[0]));
  const far = limit === null ? Infinity : 6 * Math.abs(limit) || Infinity;
  const near = bounds.filter(([value]) => Math.abs(value) <= far || measure.limit[0] === "memory").flat();
  const all = limit === null ? near : [...near, limit];
  let low = Math.min(...all), high = Math.max(...all);
  const pad = (high > low ? high - low : Math.abs(high) || 1) * 0.09;
  low = low >= 0 && low < 0.5 * high && !measure.limit ? 0 : low - pad;
  return [low, high + pad];
}

// Whether variant `a` is at least as good as `b` in all measures and better in one.
function dominates(measures, a, b) {
  const better = measures.map(m => (m.higher ? 1 : -1) * (m.values[a][0] - m.values[b][0]));
  return better.every(d => d >= 0) && better.some(d => d > 0);
}

// Those that no other dominates.
function frontier(measures, indices) {
  return indices.filter(i => !indices.some(j => dominates(measures, j, i)));
}

// Radius of the disc whose area is the third number, the largest 30 pixels; 0 where it is not known.
function radius(measure, index) {
  const largest = Math.max(...measure.values.map(value => Math.abs(value?.[0] ?? 0)));
  const value = Math.abs(measure.values[index]?.[0] ?? 0);
  return largest > 0 ? 30 * Math.sqrt(value / largest) : 0;
}

function drawMark(kind, x, y, parent) {
  if (kind === "accept") return element("circle", { cx: x, cy: y, r: 6.5 }, parent);
  if (kind === "reject") return element("path", { d: `M${x - 5} ${y - 5}l10 10m0-10l-10 10`, class: "cross" }, parent);
  if (kind === "inconclusive") return element("path", { d: `M${x} ${y - 7}l7 12h-14z` }, parent);
  return element("rect", { x: x - 5.5, y: y - 5.5, width: 11, height: 11 }, parent);
}

// Places a name beside its mark, clear of names and marks already there.
function placeName(text, [x, y], frame, taken) {
  const width = 7.3 * text.length, height = 15;
  for (const away of [12, 22, 34, 48, 64]) {
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, -1], [0, 1], [1, -1], [-1, -1], [1, 1], [-1, 1]]) {
      const left = dx > 0 ? x + away : dx < 0 ? x - away - width : x - width / 2;
      const top = y + dy * away - height / 2;
      const box = [left, top, left + width, top + height];
      const inside = box[0] >= frame.left && box[2] <= frame.right && box[1] >= frame.top && box[3] <= frame.bottom;
      if (inside && !taken.some(o => box[0] < o[2] && o[0] < box[2] && box[1] < o[3] && o[1] < box[3])) {
        taken.push(box);
        return [left, top + 12];
      }
    }
  }
  return null;
}

function drawChart() {
  const [x, y] = [report.measures[state.x], report.measures[state.y]];
  const indices = report.variants.map((_, i) => i).filter(i => x.values[i] && y.values[i]);
  const width = Math.max(300, Math.min(1000, chart.clientWidth)), height = Math.round(Math.min(540, 220 + 0.35 * width));
  const frame = { left: 58, right: width - 14, top: 26, bottom: height - 52 };
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "group" });
  svg.setAttribute("aria-label", `${y.label} against ${x.label}`);
  if (indices.length === 0) {
    element("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, svg, "No variant has both numbers.");
    chart.replaceChildren(svg);
    return;
  }
  const [xs, ys] = [range(x, indices), range(y, indices)];
  const share = (value, [low, high]) => Math.min(1, Math.max(0, (value - low) / (high - low)));
  const px = v => frame.left + (frame.right - frame.left) * share(v, xs);
  // Better is always up.
  const py = v => frame.bottom - (frame.bottom - frame.top) * (y.higher ? share(v, ys) : 1 - share(v, ys));
  drawLimits(svg, x, y, frame, px, py);
  drawAxes(svg, x, y, frame, px, py, [xs, ys]);
  const on = frontier([x, y], indices);
  on.sort((a, b) => x.values[a][0] - x.values[b][0]);
  const path = on.map(i => `${px(x.values[i][0])},${py(y.values[i][0])}`).join(" ");
  element("polyline", { points: path, class: "frontier" }, svg);
  drawVariants(svg, x, y, frame, px, py, indices, on);
  chart.replaceChildren(svg);
}

function drawLimits(svg, x, y, frame, px, py) {
  const [tx, ty] = [threshold(x), threshold(y)];
  const symbol = m => report.limits.find(l => l.question === m.limit[0]).symbol;
  if (tx !== null || ty !== null) {
    const [left, right] = tx === null ? [frame.left, frame.right] : x.higher ? [px(tx), frame.right] : [frame.left, px(tx)];
    const bottom = ty === null ? frame.bottom : py(ty);
    element("rect", { x: left, y: frame.top, width: right - left, height: bottom - frame.top, class: "meets" }, svg);
  }
  if (tx !== null) {
    element("line", { x1: px(tx), x2: px(tx), y1: frame.top, y2: frame.bottom, class: "limit" }, svg);
    element("text", { x: px(tx), y: frame.top - 8, "text-anchor": "middle" }, svg, `${symbol(x)} ${short(tx)} ${x.unit}`);
  }
  if (ty !== null) {
    element("line", { x1: frame.left, x2: frame.right, y1: py(ty), y2: py(ty), class: "limit" }, svg);
    element("text", { x: frame.left + 6, y: py(ty) + 16 }, svg, `${symbol(y)} ${short(Math.abs(ty))} ${y.unit}`);
  }
}

function drawAxes(svg, x, y, frame, px, py, [xs, ys]) {
  for (const value of ticks(xs, (frame.right - frame.left) / 90)) {
    element("line", { x1: px(value), x2: px(value), y1: frame.top, y2: frame.bottom, class: "grid" }, svg);
    element("text", { x: px(value), y: frame.bottom + 18, "text-anchor": "middle" }, svg, short(value));
  }
  for (const value of ticks(ys, (frame.bottom - frame.top) / 55)) {
    element("line", { x1: frame.left, x2: frame.right, y1: py(value), y2: py(value), class: "grid" }, svg);
    element("text", { x: frame.left - 7, y: py(value) + 4, "text-anchor": "end" }, svg, short(value));
  }
  const unit = m => m.unit && m.unit !== "x" ? `, ${m.unit}` : "";
  const better = m => m.higher ? " (right is better)" : " (left is better)";
  const middle = (frame.left + frame.right) / 2;
  element("text", { x: middle, y: frame.bottom + 42, "text-anchor": "middle", class: "title" }, svg,
    `${x.label}${unit(x)}${better(x)}`);
  const centre = (frame.top + frame.bottom) / 2;
  const turned = { x: 14, y: centre, "text-anchor": "middle", class: "title", transform: `rotate(-90 14 ${centre})` };
  element("text", turned, svg, `${y.label}${unit(y)}`);
}

function drawVariants(svg, x, y, frame, px, py, indices, on) {
  const { outcomes } = judge(state.thresholds);
  const area = state.area === null ? null : report.measures[state.area];
  const onAll = area && frontier([x, y, area], indices.filter(i => area.values[i]));
  const at = i => [px(x.values[i][0]), py(y.values[i][0])];
  const taken = indices.flatMap(i => {
    const [cx, cy] = at(i), [, xl, xh] = x.values[i], [, yl, yh] = y.values[i];
    const [top, bottom] = yl === null || yh === null ? [cy, cy] : [py(yl), py(yh)].sort((a, b) => a - b);
    return [[cx - 9, cy - 9, cx + 9, cy + 9], [px(xl ?? 0) - 2, cy - 2, px(xh ?? 0) + 2, cy + 2],
      [cx - 2, top - 2, cx + 2, bottom + 2]].slice(0, xl === null || xh === null ? 1 : 3);
  });
  for (const i of indices) {
    const variant = report.variants[i], [cx, cy] = at(i);
    const kind = variant.reference ? "reference" : OUTCOMES[outcomes[i]];
    const place = variant.reference ? "the reference" : `${kind} at these thresholds`;
    const lines = [variant.name, place, `${x.label}: ${shown(x, i)}`, `${y.label}: ${shown(y, i)}`,
      on.includes(i) ? "on the frontier of these two axes" : "dominated in these two axes"];
    if (area?.values[i]) {
      lines.push(`${area.label}: ${shown(area, i)}`);
      lines.push(onAll.includes(i) ? "on the frontier of all three" : "dominated in all three");
    }
    const group = element("g", { class: `mark ${kind}`, tabindex: 0, role: "img", "aria-label": lines.join("; ") }, svg);
    const [, xl, xh] = x.values[i], [, yl, yh] = y.values[i];
    if (xl !== null && xh !== null) element("line", { x1: px(xl), x2: px(xh), y1: cy, y2: cy, class: "bar" }, group);
    if (yl !== null && yh !== null) element("line", { x1: cx, x2: cx, y1: py(yl), y2: py(yh), class: "bar" }, group);
    element("circle", { cx, cy, r: 14, class: "touch" }, group);
    if (area) element("circle", { cx, cy, r: radius(area, i), class: "area" }, group);
    drawMark(kind, cx, cy, group);
    const show = () => showTip(lines, cx, cy, svg);
    group.addEventListener("pointerenter", show);
    group.addEventListener("focus", show);
    group.addEventListener("pointerleave", hideTip);
    group.addEventListener("blur", hideTip);
  }
  for (const i of indices) {
    const place = placeName(report.variants[i].name, at(i), frame, taken);
    if (place) element("text", { x: place[0], y: place[1], class: "name" }, svg, report.variants[i].name);
  }
}

function showTip(lines, x, y, svg) {
  const [first, ...rest] = lines;
  const strong = document.createElement("strong");
  strong.textContent = first;
  tip.replaceChildren(strong, ...rest.flatMap(line => [document.createElement("br"), line]));
  tip.hidden = false;
  const scale = svg.clientWidth / svg.viewBox.baseVal.width;
  const left = Math.min(x * scale + 14, svg.clientWidth - tip.offsetWidth);
  tip.style.left = `${Math.max(0, left)}px`;
  tip.style.top = `${Math.max(0, y * scale - tip.offsetHeight - 14)}px`;
}

function hideTip() {
  tip.hidden = true;
}

// The axes' selectors.
for (const axis of ["x", "y", "area"]) {
  const select = document.getElementById(`axis-${axis}`);
  report.measures.forEach((measure, i) => select.append(new Option(measure.label, i, false, i === state[axis])));
  if (axis === "area") select.append(new Option("nothing", "", false, state.area === null));
  select.addEventListener("change", () => {
    state[axis] = select.value === "" ? null : Number(select.value);
    hideTip();
    drawChart();
  });
}
document.addEventListener("keydown", event => { if (event.key === "Escape") hideTip(); });
addEventListener("resize", drawChart);
