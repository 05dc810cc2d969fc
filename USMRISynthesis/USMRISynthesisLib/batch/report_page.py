"""The parts of the batch report's page: markup, style, script. `report.py` fills in the places named @LIKE_THIS@.

The script makes rows from data, as text, and only as many as are scrolled to: ten thousand stay usable. No at sign may
stand in the markup but for places.
"""

from __future__ import annotations

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
@MARK@
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data: file: 'self';
  style-src '@STYLE_HASH@'; script-src '@SCRIPT_HASH@'; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>Batch report - @NOTICE@</title>
<style>@STYLE@</style>
</head>
<body>
<header>
<p class="notice">@NOTICE@</p>
<h1>Batch report</h1>
<p class="made">@MADE@. The figures help to find results that need checking; none says that an image is right.</p>
<noscript><p>This page needs JavaScript to show its table.</p></noscript>
</header>
<section class="tools" aria-label="Filter and sort">
<div id="states" role="group" aria-label="Cases by state"></div>
<label class="search">Search <input id="text" type="search" autocomplete="off" spellcheck="false"></label>
<label class="sorted">Sort by <select id="by"></select></label>
<p id="count" role="status"></p>
<p id="linked" hidden></p>
</section>
<main>
<table>
<thead><tr id="heads"></tr></thead>
<tbody id="rows"></tbody>
</table>
<p id="none" hidden>No case matches.</p>
<div id="end"></div>
</main>
@THUMBNAILS@<script type="application/json" id="data">@DATA@</script>
<script>@SCRIPT@</script>
</body>
</html>
"""

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1a1c20; --pale: #565c66; --line: #d5d8dd; --tool: #f2f3f5;
  --notice: #8c1d18; --warn: #7a4b00; --warn-paper: #fff4dc; --bad: #a3201a; --good: #17662f; --focus: #0b57d0; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #111317; --ink: #e8eaed; --pale: #a5abb5; --line: #353a42; --tool: #1b1e24; --warn: #ffc454;
    --warn-paper: #2c2410; --bad: #ff8a80; --good: #7bd490; --focus: #8ab4f8; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }
header, .tools, main { padding: 0 20px; }
h1 { font-size: 22px; margin: 12px 0 0; }
p { margin: 4px 0; }
.notice { margin: 0 -20px; padding: 8px 20px; background: var(--notice); color: #fff; font-weight: 700; }
.made, #count, #linked { color: var(--pale); }
.tools { display: flex; flex-wrap: wrap; gap: 10px 18px; align-items: center; margin-top: 10px; padding-top: 10px;
  padding-bottom: 10px; position: sticky; top: 0; z-index: 2; background: var(--tool);
  border-block: 1px solid var(--line); }
#states { display: flex; flex-wrap: wrap; gap: 6px; }
#states button { border: 1px solid var(--line); border-radius: 16px; background: var(--paper); padding: 5px 12px; }
#states button[aria-pressed="true"] { border-color: var(--focus); box-shadow: inset 0 0 0 1px var(--focus); }
button, input, select { font: inherit; color: inherit; }
input, select { background: var(--paper); border: 1px solid var(--line); border-radius: 6px; padding: 5px 8px; }
:focus-visible { outline: 2px solid var(--focus); outline-offset: 2px; }
table { border-collapse: collapse; width: 100%; margin-top: 8px; }
th { text-align: left; vertical-align: bottom; padding: 0; border-bottom: 2px solid var(--line); }
th:last-child { padding: 6px 0; font-size: 12px; }
main { overflow-x: auto; }
th button { all: unset; display: block; cursor: pointer; padding: 6px 8px 6px 0; font-size: 12px; font-weight: 600; }
th button:focus-visible { outline: 2px solid var(--focus); }
th[aria-sort] button::after { content: " \\2195"; color: var(--pale); font-weight: 400; }
th[aria-sort="ascending"] button::after { content: " \\2191"; color: var(--ink); }
th[aria-sort="descending"] button::after { content: " \\2193"; color: var(--ink); }
td { vertical-align: top; padding: 8px 8px 8px 0; border-bottom: 1px solid var(--line); }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
td[data-key="name"], td[data-key="note"] { overflow-wrap: anywhere; }
td[data-key="name"] { min-width: 130px; font-weight: 600; }
td[data-key="note"] { min-width: 170px; max-width: 420px; }
.note { background: var(--warn-paper); color: var(--warn); border-left: 3px solid currentColor; padding: 4px 8px; }
.state-failed, .state-refused { color: var(--bad); font-weight: 600; }
.state-done { color: var(--good); }
.picture { all: unset; cursor: zoom-in; display: block; width: clamp(150px, 15vw, 260px); min-height: 60px; }
.picture.large { cursor: zoom-out; width: min(776px, 90vw); }
.picture:focus-visible { outline: 2px solid var(--focus); }
.picture img { display: block; width: 100%; height: auto; image-rendering: auto; }
.sorted { display: none; }
@media (max-width: 900px) {
  header, .tools, main { padding-left: 12px; padding-right: 12px; }
  .notice { margin: 0 -12px; padding-left: 12px; }
  .tools { position: static; }
  .sorted { display: block; }
  .search input { width: 160px; }
  table, tbody, tr, td { display: block; }
  thead { display: none; }
  tr { border-bottom: 2px solid var(--line); padding: 10px 0; }
  td, td[data-key="note"] { border: 0; padding: 2px 0; max-width: none; min-width: 0; }
  td[data-label]::before { content: attr(data-label) ": "; color: var(--pale); font-weight: 400; }
  td[data-key="name"]::before, td[data-key="note"]::before { content: none; }
  td:empty { display: none; }
  .picture { width: 100%; max-width: 388px; }
}
@media print {
  :root { color-scheme: light; --paper: #fff; --ink: #000; --pale: #444; --line: #bbb; --warn: #5c3900;
    --warn-paper: #fff; --bad: #8c1d18; --good: #000; --tool: #fff; }
  @page { size: A4 landscape; margin: 12mm; }
  body { font-size: 9px; }
  .notice { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
  .tools { position: static; border: 0; }
  .search, .sorted, #end { display: none; }
  #states button:not([aria-pressed="true"]) { border-color: transparent; }
  table { table-layout: auto; }
  thead { display: table-header-group; }
  tr { break-inside: avoid; }
  th button { font-size: 8px; padding: 2px 4px 2px 0; }
  td { padding: 3px 4px 3px 0; }
  td[data-key="name"], td[data-key="note"] { min-width: 0; }
  .picture, .picture.large { width: 120px; min-height: 0; }
}
"""

SCRIPT = r"""
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const CHUNK = 40;
const MOST_PRINTED = 500;  // rows that are printed with their pictures
const KNOWN = ["done", "kept", "failed", "refused", "skipped", "cancelled", "running", "waiting"];
const $ = (id) => document.getElementById(id);
const make = (tag, text, attributes = {}) => {
  const one = document.createElement(tag);
  if (text !== undefined) one.textContent = text;
  for (const [name, value] of Object.entries(attributes)) one.setAttribute(name, value);
  return one;
};
const labels = new Map(data.columns.map(([key, label]) => [key, label]));
const used = new Set(data.rows.flatMap((row) => Object.keys(row)));
const columns = data.columns.filter(([key]) => used.has(key));
const numeric = new Set(data.columns.filter((one) => one[2]).map((one) => one[0]));
const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
const searched = data.rows.map((row) =>
  [row.name, row.state, row.note, row.answer].join("\n").toLowerCase());
const view = { state: "", text: "", by: "", down: false, order: [], drawn: 0 };

function counted() {
  const counts = new Map();
  for (const row of data.rows) counts.set(row.state, (counts.get(row.state) || 0) + 1);
  const place = (state) => (KNOWN.includes(state) ? KNOWN.indexOf(state) : KNOWN.length);
  const states = [...counts.keys()].sort((a, b) => place(a) - place(b) || collator.compare(a, b));
  const warned = data.rows.filter((row) => row.warned).length;
  return [["", "all", data.rows.length], ...states.map((one) => ["state:" + one, one, counts.get(one)]),
    ["warned", "with warnings", warned]];
}

function chosen() {
  const words = view.text.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = (row, index) =>
    (!view.state || (view.state === "warned" ? row.warned : "state:" + row.state === view.state)) &&
    words.every((word) => searched[index].includes(word));
  const found = [];
  data.rows.forEach((row, index) => { if (fits(row, index)) found.push(index); });
  if (!view.by) return found;
  const sign = view.down ? -1 : 1;
  const compare = numeric.has(view.by) ? (a, b) => a - b : collator.compare;
  return found.sort((a, b) => {
    const one = data.rows[a][view.by], other = data.rows[b][view.by];
    if (one === undefined || other === undefined) return (one === undefined) - (other === undefined) || a - b;
    return sign * compare(one, other) || a - b;
  });
}

function cell(row, key) {
  const value = row[key];
  const one = make("td", undefined, { "data-key": key, "data-label": labels.get(key) });
  if (value === undefined) return one;
  if (key === "note") one.append(make("div", value, { class: "note" }));
  else if (key === "state")
    one.append(make("span", value, { class: "state-" + (KNOWN.includes(value) ? value : "other") }));
  else if (numeric.has(key)) { one.className = "number"; one.textContent = value.toFixed(key === "seconds" ? 1 : 3); }
  else one.textContent = value;
  return one;
}

function pictured(row, wanted) {
  const one = make("td", undefined, { "data-key": "picture" });
  if (!row.picture || !wanted) return one;
  const stored = row.picture.startsWith("#") ? $("t" + row.picture.slice(1)) : null;
  if (row.picture.startsWith("#") && !stored) return one;
  const name = "Enlarge the pictures of " + row.name;
  const button = make("button", undefined, { class: "picture", type: "button", "aria-label": name });
  const text = "Ultrasound, MR-like image, both fused, unreliable parts in colour";
  const image = make("img", undefined, { alt: text, title: text, loading: "lazy", decoding: "async" });
  image.src = stored ? "data:image/png;base64," + stored.textContent : row.picture;
  button.append(image);
  button.addEventListener("click", () => button.classList.toggle("large"));
  one.append(button);
  return one;
}

function draw(count, pictures = true) {
  const part = document.createDocumentFragment();
  for (const index of view.order.slice(view.drawn, view.drawn + count)) {
    const line = make("tr");
    const row = data.rows[index];
    line.append(...columns.map(([key]) => cell(row, key)), pictured(row, pictures));
    part.append(line);
  }
  view.drawn = Math.min(view.order.length, view.drawn + count);
  $("rows").append(part);
}

function fill() {  // until the end of the table lies below the window
  while (view.drawn < view.order.length && $("end").getBoundingClientRect().top < 2 * innerHeight) draw(CHUNK);
}

function refresh() {
  view.order = chosen();
  view.drawn = 0;
  $("rows").replaceChildren();
  $("none").hidden = view.order.length > 0;
  const all = data.rows.length;
  const part = view.order.length === all ? "" : `${view.order.length} of `;
  $("count").textContent = `${part}${all} case${all === 1 ? "" : "s"}`;
  for (const button of $("states").children)
    button.setAttribute("aria-pressed", String(button.dataset.state === view.state));
  for (const head of $("heads").querySelectorAll("[data-key]"))
    head.setAttribute("aria-sort", head.dataset.key !== view.by ? "none" : view.down ? "descending" : "ascending");
  $("by").value = view.by + (view.by && view.down ? "-" : "");
  fill();
}

for (const [state, label, count] of counted()) {
  const button = make("button", `${count} ${label}`, { type: "button", "data-state": state });
  button.addEventListener("click", () => { view.state = state; refresh(); });
  $("states").append(button);
}
$("by").append(make("option", "the order of the run", { value: "" }));
for (const [key, label] of columns) {
  const head = make("th", undefined, { scope: "col", "data-key": key, "aria-sort": "none" });
  const button = make("button", label, { type: "button" });
  button.addEventListener("click", () => {
    view.down = view.by === key && !view.down;
    view.by = key;
    refresh();
  });
  head.append(button);
  $("heads").append(head);
  $("by").append(make("option", `${label}, ascending`, { value: key }));
  $("by").append(make("option", `${label}, descending`, { value: key + "-" }));
}
$("heads").append(make("th", "Pictures", { scope: "col" }));
$("by").addEventListener("change", () => {
  view.down = $("by").value.endsWith("-");
  view.by = $("by").value.replace(/-$/, "");
  refresh();
});
let typing = 0;
$("text").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => { view.text = $("text").value; refresh(); }, 120);
});
if (data.linked) {
  $("linked").textContent =
    `The pictures of ${data.linked} cases lie in files beside this page, too many for it: keep them together.`;
  $("linked").hidden = false;
}
addEventListener("scroll", fill, { passive: true });
addEventListener("resize", fill, { passive: true });
addEventListener("beforeprint", () => {
  draw(view.order.length, view.order.length <= MOST_PRINTED);
  for (const image of $("rows").querySelectorAll("img")) image.loading = "eager";
});
refresh();
"""
