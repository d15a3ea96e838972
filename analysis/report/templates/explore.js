/* Points that answer: hover or arrow keys show a run's records, click or Enter its command. No library, no request. */
const SVG = "http://www.w3.org/2000/svg";
const REACH = 22; // CSS pixels from a point at which it is meant
const tip = document.getElementById("tip"), said = document.getElementById("said"), details = document.getElementById("details");

const element = (name, className, ...children) => {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children.filter((child) => child !== null && child !== ""));
  return made;
};
const button = (text, action) => {
  const made = element("button", "chip", text);
  made.type = "button";
  made.addEventListener("click", () => action(made));
  return made;
};

const places = new Map();
const placeOf = (key) => {
  if (!places.has(key)) places.set(key, JSON.parse(document.getElementById(`${key}-runs`).textContent));
  return places.get(key);
};
const unknown = "not recorded";
const runOf = (sweep, id) => {
  const [seed, state, loss, step, steps, tokens, hours, command, reason, machine, commit, data, link, log] = sweep.runs[id];
  return { id, seed, state, loss, step, steps, tokens, hours, command, reason, log, sweep: sweep.name, mean: sweep.hours,
    machine: machine || sweep.machine || unknown, commit: commit || sweep.commit || unknown,
    data: data || sweep.data || unknown, link: link || sweep.link };
};
const lossText = (loss) => loss === null ? "no loss" : `loss ${loss.toFixed(4)}`;
const countText = (count) => count === null ? unknown : Math.round(count).toLocaleString("en");
const hoursText = ({ hours, mean }) => hours !== null ? `${Number(hours.toPrecision(3))} h` : mean ? `about ${Number(mean.toPrecision(2))} h, the sweep's mean` : `hours ${unknown}`;
const valueText = (value) => value === null ? "" : Math.abs(value) < 0.01 || Math.abs(value) >= 1e5 ? String(Number(value.toPrecision(4))) : value.toFixed(4);
const labelText = (labels) => Object.entries(labels).map(([name, value]) => `${name} = ${value}`).join(" · ");

function pointText(point) {
  const interval = point.low === null || point.low === point.high ? "" : ` (${valueText(point.low)}…${valueText(point.high)}, 95%)`;
  const mean = point.runs.length > 1 && point.value ? `, mean of ${point.runs.length} runs` : "";
  return point.value ? `${point.value} ${valueText(point.y)}${interval}${mean}` : "";
}

function runRow(run) {
  return element("li", "run", element("span", "run-id", run.id), element("span", "",
    [`seed ${run.seed}`, run.state, lossText(run.loss), `step ${run.step} of ${run.steps}`,
      `${countText(run.tokens)} tokens`, hoursText(run)].join(" · ")), run.reason ? element("span", "why", run.reason) : "");
}

function origin(runs) {
  const list = element("dl", "");
  for (const name of ["machine", "commit", "data"]) {
    list.append(element("dt", "", name), element("dd", "", [...new Set(runs.map((run) => run[name]))].join(", ")));
  }
  return list;
}

function showTip(point, box) {
  tip.replaceChildren(element("strong", "", labelText(point.labels)), element("div", "value", pointText(point)),
    element("ul", "runs", ...point.runs.map(runRow)), origin(point.runs));
  said.textContent = `${labelText(point.labels)}. ${pointText(point)}. ${point.runs.map((run) => `seed ${run.seed} ${run.state}`).join(", ")}`;
  tip.hidden = false;
  const room = 12, { width, height } = tip.getBoundingClientRect();
  const left = box.x + room + width < innerWidth ? box.x + room : box.x - room - width;
  const top = box.y + room + height < innerHeight ? box.y + room : box.y - room - height;
  tip.style.left = `${Math.max(4, Math.min(left, innerWidth - width - 4))}px`;
  tip.style.top = `${Math.max(4, Math.min(top, innerHeight - height - 4))}px`;
}
const hideTip = () => { tip.hidden = true; };

let opener = null;
function closeDetails() {
  details.hidden = true;
  if (opener) opener.focus({ preventScroll: true });
}
async function copy(text, from) {
  try {
    await navigator.clipboard.writeText(text);
    from.textContent = "Copied";
  } catch { // a page from file:// may not have the clipboard: the text is selected instead
    getSelection().selectAllChildren(from.parentElement.querySelector("code"));
    from.textContent = "Selected";
  }
  setTimeout(() => { from.textContent = "Copy"; }, 1500);
}
function showDetails(point, from) {
  const title = element("h2", "", labelText(point.labels));
  title.id = "details-title";
  const close = button("Close", closeDetails);
  const runs = point.runs.map((run) => element("section", "", element("ul", "runs", runRow(run)), origin([run]),
    element("p", "command", element("code", "", run.command), button("Copy", (own) => copy(run.command, own))),
    run.log ? element("pre", "", run.log) : "",
    element("p", "", run.link.startsWith("/") ? element("code", "", run.link)
      : Object.assign(element("a", "", `records of ${run.sweep}`), { href: run.link }))));
  details.replaceChildren(element("div", "headline", title, close), element("p", "value", pointText(point)),
    element("p", "note", "The command trains the run again, with the same seed and data, into a directory of its own."), ...runs);
  opener = from;
  details.hidden = false;
  close.focus({ preventScroll: true });
}
details.addEventListener("keydown", (event) => { if (event.key === "Escape") closeDetails(); });

function pointsOf(plot, prefix, sweep) {
  const recorded = JSON.parse(plot.querySelector("script").textContent);
  return recorded.curves.map((curve, number) => {
    const parts = curve.ids.map((id) => document.getElementById(`${prefix}-${id}`)).filter(Boolean);
    const points = curve.points.map(([x, y, value, low, high, runs, more]) => ({ at: [x, y], y: value, low, high, number,
      value: curve.value, labels: { ...curve.labels, ...more }, runs: runs.map((run) => runOf(sweep, recorded.runs[run])) }));
    return { ...curve, parts, points, shown: true };
  });
}

function explore(figure, plot, prefix) {
  const svg = plot.querySelector("svg"), sweep = placeOf(figure.dataset.place)[figure.dataset.experiment];
  const curves = pointsOf(plot, prefix, sweep);
  const layer = document.createElementNS(SVG, "g"), ring = document.createElementNS(SVG, "circle");
  ring.setAttribute("r", 5);
  ring.setAttribute("class", "ring");
  ring.style.display = "none";
  layer.append(ring);
  svg.append(layer);
  let current = null;
  const seen = () => curves.filter((curve) => curve.shown).flatMap((curve) => curve.points);
  const onScreen = (point) => {
    const at = new DOMPoint(...point.at).matrixTransform(svg.getScreenCTM());
    return { x: at.x, y: at.y };
  };
  const choose = (point) => {
    current = point;
    ring.style.display = point ? "" : "none";
    if (!point) return hideTip();
    ring.setAttribute("cx", point.at[0]);
    ring.setAttribute("cy", point.at[1]);
    showTip(point, onScreen(point));
  };
  const nearest = (event) => {
    const matrix = svg.getScreenCTM(), at = new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix.inverse());
    let best = null, reach = REACH / matrix.a;
    for (const point of seen()) {
      const away = Math.hypot(point.at[0] - at.x, point.at[1] - at.y);
      if (away < reach) [best, reach] = [point, away];
    }
    return best;
  };
  svg.addEventListener("pointermove", (event) => { const point = nearest(event); if (point !== current) choose(point); });
  svg.addEventListener("pointerleave", () => choose(null));
  svg.addEventListener("click", (event) => { const point = nearest(event); if (point) { choose(point); hideTip(); showDetails(point, plot); } });
  plot.addEventListener("blur", () => choose(null));
  plot.addEventListener("keydown", (event) => {
    const moves = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };
    if (event.key === "Escape") return choose(null);
    if (event.key === "Enter" && current) { event.preventDefault(); hideTip(); return showDetails(current, plot); }
    if (!(event.key in moves)) return;
    event.preventDefault();
    const open = curves.filter((curve) => curve.shown && curve.points.length);
    if (!open.length) return;
    const [along, across] = moves[event.key];
    const at = open.findIndex((curve) => current && curve.points.includes(current));
    if (at < 0) return choose(open[0].points[0]);
    if (along) return choose(open[at].points[open[at].points.indexOf(current) + along] ?? current);
    const next = open[(at + across + open.length) % open.length];
    choose(next.points.reduce((a, b) => Math.abs(a.at[0] - current.at[0]) <= Math.abs(b.at[0] - current.at[0]) ? a : b));
  });
  const aside = [];
  const bySeed = (seed) => { // each run of one seed, where its own loss is: only on linear axes
    const drawn = document.createElementNS(SVG, "g");
    for (const curve of curves.filter((one) => one.line && one.value === "loss")) {
      const runs = curve.points.map((point) => [point, point.runs.find((run) => run.seed === seed && run.loss !== null)])
        .filter(([, run]) => run).map(([point, run]) => ({ ...point, runs: [run], y: run.loss, low: null, labels: { ...point.labels, seed },
          at: [point.at[0], curve.line[0] + curve.line[1] * run.loss] }))
        .filter((point) => point.at[1] >= curve.box[0] && point.at[1] <= curve.box[1]);
      const own = document.createElementNS(SVG, "g");
      const line = document.createElementNS(SVG, "polyline");
      line.setAttribute("points", runs.map((point) => point.at.join()).join(" "));
      own.append(line, ...runs.map((point) => {
        const dot = document.createElementNS(SVG, "circle");
        for (const [name, value] of Object.entries({ cx: point.at[0], cy: point.at[1], r: 1.6 })) dot.setAttribute(name, value);
        return dot;
      }));
      own.style.color = getComputedStyle(curve.parts[0]?.querySelector("path") ?? svg).stroke;
      drawn.append(own);
      curves.push({ ids: [], labels: { ...curve.labels }, parts: [own], points: runs, value: "loss", shown: curve.shown, seed });
    }
    drawn.setAttribute("class", "seed");
    layer.before(drawn);
    aside.push(drawn);
    return drawn;
  };
  return { curves, bySeed, choose };
}

const TOGGLED = ["N", "rule", "architecture"];
function toolbar(figure, views) {
  const bar = element("div", "toolbar"), hidden = new Set();
  const apply = () => {
    for (const { curves } of views) {
      for (const curve of curves) {
        curve.shown = !TOGGLED.some((name) => hidden.has(`${name} ${curve.labels[name]}`)) && !(curve.off ?? false);
        for (const part of curve.parts) part.style.display = curve.shown ? "" : "none";
      }
    }
  };
  const group = (name, chips) => { if (chips.length) bar.append(element("span", "group", element("span", "name", name), ...chips)); };
  for (const name of TOGGLED) {
    const values = [...new Set(views[0].curves.map((curve) => curve.labels[name]).filter((value) => value !== undefined))];
    if (values.length < 2) continue;
    values.sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
    group(name, values.map((value) => {
      const chip = button(value, () => {
        const key = `${name} ${value}`, off = !hidden.delete(key);
        if (off) hidden.add(key);
        chip.setAttribute("aria-pressed", String(!off));
        apply();
      });
      chip.setAttribute("aria-pressed", "true");
      chip.setAttribute("aria-label", `${name} ${value}`);
      return chip;
    }));
  }
  const losses = views[0].curves.filter((curve) => curve.line && curve.value === "loss" && curve.points.some((point) => point.runs.length > 1));
  const seeds = [...new Set(losses.flatMap((curve) => curve.points.flatMap((point) => point.runs.map((run) => run.seed))))].sort((a, b) => a - b);
  if (seeds.length > 1) {
    const drawn = new Map();
    group("seed", seeds.map((seed) => {
      const chip = button(String(seed), () => {
        const on = chip.getAttribute("aria-pressed") !== "true";
        chip.setAttribute("aria-pressed", String(on));
        if (!drawn.has(seed)) drawn.set(seed, views.map((view) => view.bySeed(seed)));
        for (const { curves } of views) for (const curve of curves) if (curve.seed === seed) curve.off = !on;
        apply();
      });
      chip.setAttribute("aria-pressed", "false");
      chip.setAttribute("aria-label", `seed ${seed}`);
      return chip;
    }));
  }
  const plots = [...figure.querySelectorAll(".plot")];
  if (plots.length > 1) {
    const chips = plots.map((plot) => {
      const chip = button(plot.dataset.range, () => {
        for (const [place, one] of plots.entries()) {
          one.hidden = one !== plot;
          chips[place].setAttribute("aria-pressed", String(one === plot));
        }
        views.forEach((view) => view.choose(null));
      });
      chip.setAttribute("aria-pressed", String(!plot.hidden));
      chip.setAttribute("aria-label", `y axis: ${plot.dataset.range}`);
      return chip;
    });
    group("y axis", chips);
  }
  bar.append(element("span", "group", button("CSV", () => save(`${figure.id}.csv`, pointRows(views[0].curves)))));
  bar.lastChild.firstChild.setAttribute("aria-label", "Points as CSV");
  figure.querySelector("figcaption").after(bar);
}

const quoted = (text) => /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
function save(name, rows) {
  const text = rows.map((row) => row.map((cell) => quoted(String(cell ?? ""))).join()).join("\n") + "\n";
  const link = element("a", "");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}
function pointRows(curves) {
  const points = curves.filter((curve) => curve.seed === undefined).flatMap((curve) => curve.points);
  const names = [...new Set(points.flatMap((point) => Object.keys(point.labels)))];
  const rows = points.flatMap((point) => point.runs.map((run) => [...names.map((name) => point.labels[name]), point.value, point.y, point.low,
    point.high, run.id, run.seed, run.state, run.loss, run.step, run.steps, run.tokens, run.hours, run.machine, run.commit, run.data, run.command]));
  return [[...names, "quantity", "value", "low", "high", "run_id", "seed", "state", "val_loss", "step", "steps", "tokens", "hours", "machine",
    "commit", "data", "command"], ...rows];
}
for (const table of document.querySelectorAll("table.sortable")) {
  const name = table.caption ? table.caption.textContent : table.closest("section").querySelector("h2").textContent;
  const chip = button("CSV", () => {
    const headings = [...table.tHead.rows[0].cells].map((cell) => cell.textContent);
    const rows = [...table.tBodies[0].rows].map((row) => [...row.cells].flatMap((cell) => {
      const interval = cell.querySelector(".interval");
      const own = interval ? cell.textContent.slice(0, -interval.textContent.length) : cell.textContent;
      return [own.replace(/\s+/g, " ").trim(), interval ? interval.textContent : ""];
    }));
    const used = headings.flatMap((heading, place) => [true, rows.some((row) => row[2 * place + 1])]);
    const head = headings.flatMap((heading) => [heading, `${heading}, 95% interval`]);
    save(`${name.toLowerCase().replace(/[^a-z0-9]+/g, "-")}.csv`, [head, ...rows].map((row) => row.filter((_, place) => used[place])));
  });
  chip.setAttribute("aria-label", `${name} as CSV`);
  if (table.caption) table.caption.append(" ", chip);
  else table.before(element("p", "toolbar", chip));
}

for (const figure of document.querySelectorAll("figure")) {
  const plots = [...figure.querySelectorAll(".plot")];
  if (!plots.length) continue;
  const views = plots.map((plot) => explore(figure, plot, plot.dataset.range === "all" ? `${figure.id}-whole` : figure.id));
  for (const plot of plots) {
    plot.setAttribute("role", "group");
    plot.setAttribute("aria-label", "Figure: arrow keys move between points, Enter shows the command of a point");
  }
  toolbar(figure, views);
}
