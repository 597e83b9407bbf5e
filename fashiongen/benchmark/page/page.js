// Draws the page from its JSON block. Text is inserted as text, never as markup; nothing is fetched or stored.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const COSTS = [
  ["seeds", "seeds"], ["time", "time per sample"], ["memory", "peak memory"], ["training", "training"], ["parameters", "parameters"],
];
const PLACES = { best: "1st", second: "2nd" };
const ARROWS = { true: "↑", false: "↓" };
const SVG = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);
const state = { filter: "", published: false, built: new Map() };

function put(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) node.append(child);
  }
  return node;
}
const el = (tag, attributes, ...children) => put(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => put(document.createElementNS(SVG, tag), attributes, children);
// A name from a file: isolated from the text around it, in its own direction.
const name = (text) => el("bdi", { dir: "auto" }, text);
// The same for a table cell: it may wrap after an underscore and before a bracket, and anywhere if it is too wide.
const label = (text) => el("span", { class: "label" }, el("bdi", { dir: "auto" },
  text.split(/(?<=_)|(?=\[)/).map((part, index) => [index ? el("wbr") : null, part])));
const links = (list) => list.map(([text, address]) => [el("a", { href: address }, text), " "]);
const matches = (text) => text.toLowerCase().includes(state.filter);

// ---- tabs

const tabs = [];
function addTab(title, subtitle, build) {
  const index = tabs.length;
  const panel = el("section", { id: `panel-${index}`, role: "tabpanel", "aria-labelledby": `tab-${index}`, hidden: true, tabindex: 0 });
  const tab = el("button", {
    id: `tab-${index}`, type: "button", role: "tab", "aria-controls": `panel-${index}`, "aria-selected": "false", tabindex: -1,
    onclick: () => select(index),
  }, name(title), el("small", {}, name(subtitle)));
  tabs.push({ tab, panel, build });
  byId("tabs").append(tab);
  byId("panels").append(panel);
}

function select(index, focus = false) {
  tabs.forEach(({ tab, panel }, other) => {
    tab.setAttribute("aria-selected", String(other === index));
    tab.tabIndex = other === index ? 0 : -1;
    panel.hidden = other !== index;
  });
  if (!state.built.has(index)) state.built.set(index, tabs[index].build(tabs[index].panel));
  if (focus) tabs[index].tab.focus();
}

byId("tabs").addEventListener("keydown", (event) => {
  const here = tabs.findIndex(({ tab }) => tab === document.activeElement);
  const there = {
    ArrowRight: (here + 1) % tabs.length, ArrowLeft: (here + tabs.length - 1) % tabs.length, Home: 0, End: tabs.length - 1,
  }[event.key];
  if (here < 0 || there === undefined) return;
  event.preventDefault();
  select(there, true);
});

// ---- a table that sorts

// columns: {key, title, value(row), text, better}; `better` is 1 if the first click puts high values first, else -1.
function sortable(columns, rows, draw, caption) {
  const order = { column: null, direction: 1 };
  const body = el("tbody");
  const heads = columns.map((column) => el("th", { scope: "col", class: column.text ? "text" : null, "aria-sort": "none" },
    el("button", { type: "button", onclick: () => sort(column) }, label(column.title))));
  const table = el("table", {}, el("caption", { class: "hidden" }, caption), el("thead", {}, el("tr", {}, heads)), body);

  function sort(column) {
    order.direction = order.column === column ? -order.direction : column.better || -1;
    order.column = column;
    heads.forEach((head, index) => head.setAttribute("aria-sort",
      columns[index] !== column ? "none" : order.direction === 1 ? "descending" : "ascending"));
    refresh();
  }

  function refresh() {
    const shown = rows.filter((row) => matches(row.name));
    if (order.column) {
      const key = order.column.value;
      const missing = (row) => key(row) === null || key(row) === undefined;
      shown.sort((a, b) => {
        if (missing(a) || missing(b)) return missing(a) - missing(b);
        const [one, other] = [key(a), key(b)];
        return order.direction * (typeof one === "string" ? other.localeCompare(one) : other - one);
      });
    }
    body.replaceChildren(...shown.map(draw));
    return shown.length;
  }
  refresh();
  return { box: el("div", { class: "scroll", role: "region", "aria-label": caption, tabindex: 0 }, table), refresh };
}

// ---- a board

function buildBoard(board, panel) {
  const columns = [
    { key: "name", title: "method", text: true, value: (row) => row.name },
    ...board.columns.map((column) => ({
      key: column.key, title: `${column.key} ${ARROWS[column.higher] ?? ""}`.trim(), better: column.higher === false ? -1 : 1,
      value: (row) => row.cells[column.key] ? row.cells[column.key].value : null,
    })),
    ...COSTS.map(([key, title]) => ({ key, title, value: (row) => row.costs[key].value })),
  ];
  const table = sortable(columns, board.rows, (row) => drawRow(board, row), `${board.label}, protocol ${board.protocol}`);
  const published = drawPublished(board);
  const plots = drawPlots(board);
  const notes = board.rows.filter((row) => row.notes.length);
  put(panel, {}, [
    el("h2", {}, name(board.label), ", protocol ", name(board.protocol)),
    board.split ? el("p", { class: "quiet" }, "Split ", name(board.split), board.conditions.map(([key, told]) => [" · ", key.replaceAll("_", " "), " ", name(told)])) : null,
    el("details", { class: "protocol" }, el("summary", {}, "The protocol in full"), board.protocol_text
      ? el("pre", { dir: "auto" }, board.protocol_text)
      : el("p", {}, "Only the protocol's name is known: its file was not found in recipes/tasks when this page was written.")),
    table.box,
    el("p", { class: "quiet" },
      "↑ higher is better, ↓ lower is better. 1st and 2nd mark the best of a column. The small line is the interval. ",
      "?: not compared with the best, for example a metric of a whole set. Click a number for its record, log and command. ",
      "Memory on a CPU is that of the whole process; compare times on the same device only."),
    board.statistics.length ? el("ul", { class: "quiet" }, board.statistics.map((text) => el("li", {}, text))) : null,
    board.notes.map((text) => el("p", { class: "note" }, text)),
    notes.length ? el("ul", { class: "notes" }, notes.map((row) => el("li", {}, name(row.name), ": ", el("span", { class: "note" }, name(row.notes.join("; ")))))) : null,
    board.absent.length ? [el("h3", {}, "Not in this table"), el("ul", {}, board.absent.map((node) =>
      el("li", {}, name(node.node), ": ", el("span", { class: node.status }, node.status), ", ", name(node.reason), " ", links(node.links))))] : null,
    published.box,
    plots.box,
    drawGallery(board),
  ]);
  return () => { table.refresh(); published.refresh(); plots.refresh(); };
}

function drawRow(board, row) {
  return el("tr", {},
    el("th", { scope: "row" }, label(row.name), row.notes.length ? el("span", { class: "note", title: "see the note below the table" }, " †") : null),
    board.columns.map((column) => drawCell(board, row, column)),
    COSTS.map(([key, title]) => el("td", {}, key === "seeds"
      ? [el("button", { class: "number", type: "button", "aria-label": `${row.name}: its ${row.costs.seeds.text} records`, onclick: () => openDetails(board, row, null) }, row.costs.seeds.text),
        row.costs.seeds.value === 1 ? el("small", {}, row.about) : null]
      : row.costs[key].text)));
}

function drawCell(board, row, column) {
  const cell = row.cells[column.key];
  if (!cell) return el("td", {}, "-");
  const rank = cell.rank ? `, ${cell.rank === "best" ? "best" : "second best"}` : "";
  return el("td", { class: cell.rank },
    el("button", { class: "number", type: "button", "aria-label": `${row.name}, ${column.key}: ${cell.text}${rank}; details`, onclick: () => openDetails(board, row, column) }, cell.text),
    cell.rank ? el("span", { class: "place", "aria-hidden": "true" }, ` ${PLACES[cell.rank]}`) : null,
    cell.apart === false ? el("span", { title: "not told apart from the best" }, " ≈") : cell.untested ? el("span", { title: cell.untested }, " ?") : null,
    cell.note ? el("span", { class: "note", title: cell.note }, " †") : null,
    cell.interval ? el("small", {}, `${cell.interval[0]} to ${cell.interval[1]}`) : null);
}

// ---- details of a number

function openDetails(board, row, column) {
  const cell = column && row.cells[column.key];
  const body = [];
  if (cell) {
    body.push(el("p", {}, el("strong", {}, cell.text), column.higher === null ? "" : `, ${column.higher ? "higher" : "lower"} is better`,
      cell.interval ? `; 95 % interval ${cell.interval[0]} to ${cell.interval[1]} over ${cell.over}` : "; without an interval"));
    if (cell.difference) {
      const { mean, interval, p, adjusted, family, samples, clusters, seeds } = cell.difference;
      body.push(el("p", {}, `Against the best: ${mean} (95 % interval ${interval[0]} to ${interval[1]}, p ${p}; adjusted for the column's ${family} comparisons: ${adjusted}), `,
        `paired over ${samples} samples in ${clusters} clusters, seeds: ${seeds[0]} here, ${seeds[1]} of the best. `,
        cell.apart ? "Told apart." : "Not told apart.",
        seeds.includes(1) ? " With one seed this is about that run, not about the method." : ""));
    }
    if (cell.untested) body.push(el("p", {}, "Against the best: ", cell.untested, "."));
    if (cell.note) body.push(el("p", { class: "note" }, cell.note));
  }
  if (row.notes.length) body.push(el("p", { class: "note" }, name(row.notes.join("; "))));
  for (const run of row.runs) body.push(drawRun(run, column));
  for (const run of row.fits) body.push(drawRun(run, null));
  byId("details-title").replaceChildren(name(row.name), ...(column ? [", ", name(column.key)] : []));
  byId("details-body").replaceChildren(...body);
  byId("details").showModal();
}

function drawRun(run, column) {
  const value = column ? run.values[column.key] : undefined;
  return el("section", { class: "run" },
    el("h3", {}, run.kind === "fit" ? "training, " : "test, ", `seed ${run.seed === null ? "unknown" : run.seed}`, value === undefined ? null : `: ${value}`),
    el("p", {}, links(run.links)),
    run.command ? el("pre", { dir: "ltr" }, run.command) : el("p", { class: "quiet" }, "The record names no command."),
    el("dl", {}, [["node", run.node], ...run.facts].map(([key, told]) => [el("dt", {}, key), el("dd", {}, name(told))])));
}

byId("close").addEventListener("click", () => byId("details").close());
byId("details").addEventListener("click", (event) => { if (event.target === byId("details")) byId("details").close(); });

// ---- published numbers: a block of their own, never a column of ours

function drawPublished(board) {
  const box = el("section", { class: "published", "aria-label": "Published numbers" },
    el("h3", {}, "Published numbers"),
    el("p", { class: "quiet" }, "As printed in the papers, not measured here. Compare them only where the protocol is the same, and read the notes."),
    board.published.length ? null : el("p", {}, "No published numbers for this task and dataset."),
    board.published.map((block) => [
      el("h4", {}, name(block.title), `, Table ${block.table}`),
      el("p", { class: "quiet" }, name(block.caption), " · ", name(block.dataset), " · protocol ", name(block.protocol), ": ",
        block.unlike.length ? el("span", { class: "note" }, `not comparable: ${block.unlike.join(", ")}`) : "the same as in this tab", " · ", name(block.protocol_note)),
      el("div", { class: "scroll", role: "region", tabindex: 0, "aria-label": `${block.paper}, Table ${block.table}` }, el("table", {},
        el("thead", {}, el("tr", {}, ["row as printed", ...block.metrics].map((text) => el("th", { scope: "col" }, name(text))), el("th", { scope: "col", class: "text" }, "who ran it"))),
        el("tbody", {}, block.rows.map((row) => el("tr", {}, el("th", { scope: "row" }, label(row.row)),
          row.values.map((value) => el("td", {}, value === null ? "-" : value)),
          el("td", { class: "text" }, row.origin, row.notes.map((note) => el("small", { class: "wrap" }, name(note))))))))),
      block.notes.length ? el("ul", { class: "quiet" }, block.notes.map((note) => el("li", {}, name(note)))) : null,
    ]));
  const refresh = () => { box.hidden = !state.published; };
  refresh();
  return { box, refresh };
}

// ---- quality against cost

function drawPlots(board) {
  const choice = el("select", { onchange: refresh }, board.columns.map((column) => el("option", { value: column.key }, column.key)));
  const figures = el("div", { class: "plots" });
  function refresh() {
    const column = board.columns.find(({ key }) => key === choice.value);
    if (!column) return;
    const rows = board.rows.filter((row) => matches(row.name) && row.cells[column.key] && row.cells[column.key].value !== null);
    figures.replaceChildren(...[["time", "time per sample"], ["memory", "peak memory"]].map(([cost, title]) =>
      drawPlot(rows.filter((row) => row.costs[cost].value !== null), column, cost, title)));
  }
  refresh();
  const box = el("section", { class: "costs" }, el("h3", {}, "Quality against cost"), board.columns.length
    ? [el("p", {}, el("label", { class: "field" }, "Metric ", choice)), figures] : el("p", {}, "No metric."));
  return { box, refresh };
}

function drawPlot(rows, column, cost, title) {
  const [width, height, left, right, top, bottom] = [480, 320, 64, 16, 16, 44];
  const heading = `${column.key}${column.higher === null ? "" : ` (${column.higher ? "higher" : "lower"} is better)`} against ${title}`;
  if (!rows.length) return el("figure", {}, el("p", {}, `${heading}: nothing to draw.`));
  const xs = rows.map((row) => row.costs[cost].value), ys = rows.map((row) => row.cells[column.key].value);
  const logarithmic = Math.min(...xs) > 0 && Math.max(...xs) / Math.min(...xs) > 20;
  const scale = (values, from, to, transform) => {
    const moved = values.map(transform), low = Math.min(...moved), high = Math.max(...moved);
    const margin = (high - low) * 0.08 || Math.abs(high) * 0.1 || 1;
    const [start, end] = [low - margin, high + margin];
    return { place: (value) => from + (transform(value) - start) / (end - start) * (to - from), ends: [low, high] };
  };
  const x = scale(xs, left, width - right, logarithmic ? Math.log10 : (value) => value);
  const y = scale(ys, height - bottom, top, (value) => value);
  const text = (row) => `${row.name}: ${row.cells[column.key].text}, ${row.costs[cost].text}`;
  const ticks = [rows[ys.indexOf(Math.min(...ys))], rows[ys.indexOf(Math.max(...ys))]];
  const ends = [rows[xs.indexOf(Math.min(...xs))], rows[xs.indexOf(Math.max(...xs))]];
  const boxes = [];
  const free = (box) => boxes.every((other) => box.x2 < other.x1 || other.x2 < box.x1 || box.y2 < other.y1 || other.y2 < box.y1);
  const points = rows.map((row) => ({ row, px: x.place(row.costs[cost].value), py: y.place(row.cells[column.key].value) }));
  points.forEach(({ px, py }) => boxes.push({ x1: px - 5, x2: px + 5, y1: py - 5, y2: py + 5 }));
  const marks = points.map(({ row, px, py }) => {
    const characters = Array.from(row.name), caption = characters.length > 26 ? `${characters.slice(0, 25).join("")}…` : row.name;
    const length = 7 * Array.from(caption).length, turned = px + 8 + length > width;
    const box = (shift) => ({ x1: turned ? px - 8 - length : px + 8, x2: turned ? px - 8 : px + 8 + length, y1: py - 7 + shift, y2: py + 6 + shift });
    const shift = [0, -13, 13, -26, 26, -39, 39].find((by) => free(box(by)) && py + by > top && py + by < height - bottom);
    if (shift !== undefined) boxes.push(box(shift));
    return svg("g", {}, svg("title", {}, text(row)),
      shift ? svg("line", { class: "rule", x1: px, y1: py, x2: turned ? px - 7 : px + 7, y2: py + shift }) : null,
      svg("circle", { cx: px, cy: py, r: 5 }),
      shift === undefined ? null : svg("text", { x: turned ? px - 8 : px + 8, y: py + 4 + shift, "text-anchor": turned ? "end" : "start", direction: "ltr" }, caption));
  });
  const image = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${heading}; the values are in the text below` },
    svg("line", { class: "axis", x1: left, y1: height - bottom, x2: width - right, y2: height - bottom }),
    svg("line", { class: "axis", x1: left, y1: top, x2: left, y2: height - bottom }),
    Array.from(new Set(ticks)).map((row) => svg("text", { x: left - 6, y: y.place(row.cells[column.key].value) + 4, "text-anchor": "end" }, row.cells[column.key].text)),
    Array.from(new Set(ends)).map((row, index) => svg("text", { x: x.place(row.costs[cost].value), y: height - bottom + 16, "text-anchor": index ? "end" : "start" }, row.costs[cost].text)),
    svg("text", { x: (left + width - right) / 2, y: height - 8, "text-anchor": "middle" }, `${title}${logarithmic ? ", logarithmic" : ""}`),
    marks);
  return el("figure", {}, el("figcaption", {}, name(heading)), image,
    el("details", {}, el("summary", {}, "The plot as text"), el("ul", {}, rows.map((row) => el("li", {}, name(text(row)))))));
}

// ---- gallery

function drawGallery(board) {
  const gallery = board.gallery;
  const box = el("section", { class: "gallery-box" }, el("h3", {}, "The same samples for every method"));
  if (!gallery || !gallery.lines.length) return put(box, {}, [el("p", { class: "quiet" }, "No images: the records of this table have none of a common sample.")]);
  const without = gallery.without.length ? [" Without images: ", gallery.without.map((text, index) => [index ? ", " : "", name(text)]), "."] : null;
  return put(box, {}, [
    el("div", { class: "scroll gallery", role: "region", tabindex: 0, "aria-label": "Images" }, el("table", {},
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "sample"), gallery.columns.map((text, index) => el("th", { scope: "col" }, label(text),
        gallery.seeds[index] === null ? null : el("small", {}, ` seed ${gallery.seeds[index]}`))))),
      el("tbody", {}, gallery.lines.map((line) => el("tr", {}, el("th", { scope: "row" }, label(line.id)),
        line.images.map((image, index) => el("td", {}, image ? drawImage(image, `${gallery.columns[index]}, sample ${line.id}`) : "unreadable"))))))),
    el("p", { class: "quiet" }, `The first samples, by id, that every method has; ${gallery.left_out} more are in the records' folders. `,
      "Large images are reduced.", without),
  ]);
}

function drawImage(address, alt) {
  const image = el("img", { alt, src: address });
  image.addEventListener("load", () => image.classList.toggle("small", image.naturalHeight < 128));
  return image;
}

// ---- nodes

function buildNodes(panel) {
  const rows = data.nodes.map((node) => ({ ...node, name: node.node }));
  const order = { ok: 1 };
  rows.sort((a, b) => (order[a.status] || 0) - (order[b.status] || 0));
  const columns = [
    { key: "node", title: "node", text: true, value: (row) => row.node },
    { key: "status", title: "status", text: true, value: (row) => row.status },
    { key: "reason", title: "reason", text: true, value: (row) => row.reason },
    { key: "exit", title: "exit status", value: (row) => row.exit_status },
    { key: "seconds", title: "wall time", value: (row) => row.seconds.value },
    { key: "links", title: "files", text: true, value: (row) => row.links.length },
  ];
  const table = sortable(columns, rows, (row) => el("tr", {},
    el("th", { scope: "row" }, label(row.node)), el("td", { class: `text ${row.status}` }, row.status),
    el("td", { class: "text" }, name(row.reason), row.command ? el("details", {}, el("summary", {}, "command"), el("pre", { dir: "ltr" }, row.command)) : null),
    el("td", {}, row.exit_status === null ? "-" : row.exit_status), el("td", {}, row.seconds.text), el("td", { class: "text" }, links(row.links))), "Nodes");
  put(panel, {}, [el("h2", {}, "Nodes"), el("p", { class: "quiet" },
    "Each training and each test of the suite. failed: ended with an error. killed: ended by a signal, for example when out of memory. ",
    "timeout: exceeded its time limit. skipped: cannot run here. waiting: planned, without a record. damaged: its record cannot be read. ",
    "unplanned: a record of a node that is no longer in the suite."), table.box]);
  return table.refresh;
}

// ---- the page

function refreshAll() {
  for (const refresh of state.built.values()) refresh();
  const count = data.boards.reduce((sum, board) => sum + board.rows.filter((row) => matches(row.name)).length, 0);
  byId("status").textContent = state.filter ? `${count} rows match` : "";
}
byId("filter").addEventListener("input", (event) => { state.filter = event.target.value.trim().toLowerCase(); refreshAll(); });
byId("published").addEventListener("click", (event) => {
  state.published = !state.published;
  event.currentTarget.setAttribute("aria-checked", String(state.published));
  refreshAll();
});
const THEMES = ["system", "light", "dark"];
byId("theme").addEventListener("click", (event) => {
  const root = document.documentElement;
  const next = THEMES[(THEMES.indexOf(root.dataset.theme || "system") + 1) % THEMES.length];
  if (next === "system") delete root.dataset.theme; else root.dataset.theme = next;
  event.currentTarget.textContent = `Theme: ${next}`;
});

const counts = {};
for (const node of data.nodes) counts[node.status] = (counts[node.status] || 0) + 1;
byId("title").replaceChildren("Leaderboard: ", name(data.name));
byId("summary").replaceChildren(`${data.nodes.length} nodes: ${Object.entries(counts).map(([status, count]) => `${count} ${status}`).join(", ")}.`,
  ...(data.suite_sha256 ? [` Suite file ${data.suite_sha256.slice(0, 16)}.`] : []));
for (const board of data.boards) addTab(board.label, board.protocol, (panel) => buildBoard(board, panel));
addTab("Nodes", `${data.nodes.length - (counts.ok || 0)} without a result`, buildNodes);
select(0);
