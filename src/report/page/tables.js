// What-if sliders, and tables that sort and filter.

function show(thresholds) {
  const now = judge(thresholds), was = judge(recorded());
  const name = i => i < 0 ? "nothing" : report.variants[i].name;
  const same = report.limits.every(l => thresholds[l.question] === l.value * l.scale);
  document.getElementById("whatif-ship").textContent = now.ship < 0 ? "Nothing is proven to ship" : `Ship ${name(now.ship)}`;
  const changes = report.variants.flatMap((v, i) =>
    now.outcomes[i] === was.outcomes[i] ? [] : [`${v.name}: ${OUTCOMES[was.outcomes[i]]} → ${OUTCOMES[now.outcomes[i]]}`]);
  if (now.ship !== was.ship) changes.unshift(`ship ${name(now.ship)} instead of ${name(was.ship)}`);
  document.getElementById("whatif-changes").replaceChildren(...changes.map(text => {
    const item = document.createElement("li");
    item.textContent = text;
    return item;
  }));
  document.getElementById("whatif-note").textContent =
    same ? "These are the run's own thresholds." : changes.length ? "" : "No verdict changes.";
  const accepts = report.limits.map(l => `--accept ${l.key}=${short(thresholds[l.question] / l.scale)}${l.unit === "MiB" ? "MiB" : ""}`);
  document.getElementById("whatif-command").textContent = `bench report RUN ${accepts.join(" ")}`;
  document.querySelectorAll("[data-whatif]").forEach(badge => {
    const i = Number(badge.dataset.whatif), kind = OUTCOMES[now.outcomes[i]];
    badge.hidden = now.outcomes[i] === was.outcomes[i];
    badge.className = `badge ${kind}`;
    badge.textContent = `what if: ${kind}`;
  });
  drawChart();
}

function buildSliders() {
  const box = document.getElementById("sliders");
  const inputs = report.limits.map(limit => {
    const label = document.createElement("label"), text = document.createElement("span");
    const slider = document.createElement("input"), number = document.createElement("input");
    text.textContent = `${limit.symbol}: ${limit.text}`;
    Object.assign(slider, { type: "range", min: 0, max: limit.most, step: "any", value: limit.value });
    Object.assign(number, { type: "number", min: 0, step: "any", value: limit.value });
    slider.setAttribute("aria-label", `${limit.symbol}, ${limit.text}, ${limit.unit}`);
    number.setAttribute("aria-label", `${limit.symbol} as a number, ${limit.unit}`);
    slider.dataset.question = limit.question;
    const unit = document.createElement("small");
    unit.textContent = limit.unit;
    label.append(text, slider, number, unit);
    box.append(label);
    const set = value => {
      state.thresholds[limit.question] = value * limit.scale;
      show(state.thresholds);
    };
    slider.addEventListener("input", () => { number.value = short(Number(slider.value)); set(Number(number.value)); });
    number.addEventListener("input", () => {
      if (number.value === "" || Number(number.value) < 0) return;
      slider.value = number.value;
      set(Number(number.value));
    });
    return { limit, slider, number };
  });
  document.getElementById("whatif-reset").addEventListener("click", () => {
    for (const { limit, slider, number } of inputs) slider.value = number.value = limit.value;
    state.thresholds = recorded();
    show(state.thresholds);
  });
}

// What a cell sorts by: its own key, else its number, else its text.
function sortKey(cell) {
  const text = cell.dataset.key ?? cell.textContent.trim();
  const number = parseFloat(text);
  return Number.isNaN(number) ? text.toLowerCase() : number;
}

// Sorts by clicking on a heading. A table with several bodies is sorted by bodies: each is one variant.
function makeSortable(table) {
  const bodies = [...table.tBodies];
  const rows = () => table.tBodies.length > 1 ? [...table.tBodies] : [...table.tBodies[0].rows];
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    if (!heading.textContent.trim()) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = row => sortKey((row.rows ? row.rows[0] : row).cells[column]);
      const compare = (a, b) => typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1;
      const sorted = rows().map(row => [key(row), row]).sort((a, b) => (down ? -1 : 1) * compare(a[0], b[0]));
      (bodies.length > 1 ? table : bodies[0]).append(...sorted.map(([, row]) => row));
    });
  });
}

// A field above a long table that hides the rows without its text.
function makeFilter(table) {
  const rows = table.tBodies.length > 1 ? [...table.tBodies] : [...table.tBodies[0].rows];
  if (rows.length < (table.tBodies.length > 1 ? 6 : 12)) return;
  const field = document.createElement("input");
  Object.assign(field, { type: "search", placeholder: `filter ${rows.length} rows`, className: "filter" });
  field.setAttribute("aria-label", "show only rows with this text");
  field.addEventListener("input", () => {
    const text = field.value.toLowerCase();
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(text);
  });
  table.before(field);
}

buildSliders();
document.querySelectorAll("table.sorts").forEach(table => { makeSortable(table); makeFilter(table); });
document.body.classList.add("scripted");
show(state.thresholds);
