"use strict";
// One reader's way through the study. All that is kept is `state`; the screen is drawn from it.
const study = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const STORE = "usmri-study-" + study.study;
const SCREENS = ["intro", "reading", "paused", "end"];
const NEAR_PX = 14;  // a click as near to a mark removes it
const STEP = Math.max(1, Math.round(study.size[0] / 60));  // of the cursor, in image pixels
const all = study.blocks.flat();
let state = null;
let cursor = null;
let shown = 0;  // when the image came up, ms
let stored = true;

function random(below) {
  const word = new Uint32Array(1);
  const limit = Math.floor(2 ** 32 / below) * below;
  do crypto.getRandomValues(word); while (word[0] >= limit);
  return word[0] % below;
}

function shuffled(list) {
  const copy = [...list];
  for (let i = copy.length - 1; i > 0; i--) {
    const j = random(i + 1);
    [copy[i], copy[j]] = [copy[j], copy[i]];
  }
  return copy;
}

function started() {
  const letters = "abcdefghjkmnpqrstuvwxyz23456789";
  const name = Array.from({ length: 10 }, () => letters[random(letters.length)]).join("");
  return {
    format: study.format, version: study.version, study: study.study, complete: false,
    reader: { id: name, kind: $("kind").value, years: Number($("years").value) },
    consent: true, started: new Date().toISOString(), finished: null, at: 0,
    order: study.blocks.flatMap(shuffled), readings: {},
  };
}

function isState(one) {
  const isReading = (reading) => reading !== null && typeof reading === "object" &&
    (reading.score === null || study.scale.some(([value]) => value === reading.score)) &&
    Array.isArray(reading.marks) && reading.marks.every((mark) => Number.isFinite(mark.x) && Number.isFinite(mark.y)) &&
    Number.isFinite(reading.seconds);
  return one !== null && typeof one === "object" && one.format === study.format && one.version === study.version &&
    Array.isArray(one.order) && one.order.length === all.length && new Set(one.order).size === all.length &&
    one.order.every((id) => all.includes(id)) && Number.isInteger(one.at) && one.at >= 0 && one.at < all.length &&
    one.reader !== null && typeof one.reader === "object" && typeof one.reader.id === "string" &&
    one.readings !== null && typeof one.readings === "object" &&
    Object.entries(one.readings).every(([id, reading]) => all.includes(id) && isReading(reading));
}

function keep() {
  try {
    localStorage.setItem(STORE, JSON.stringify(state));
  } catch {
    if (stored) say("This browser cannot keep your progress. Before you close the page, pause and save it to a file.");
    stored = false;
  }
}

function kept() {
  try {
    const found = JSON.parse(localStorage.getItem(STORE));
    return isState(found) && found.study === study.study ? found : null;
  } catch {
    return null;
  }
}

function say(text) {
  $("message").textContent = text;
  $("message").hidden = !text;
}

function show(screen) {
  for (const one of SCREENS) $(one).hidden = one !== screen;
  scrollTo(0, 0);
}

const id = () => state.order[state.at];
const reading = () => (state.readings[id()] ??= { score: null, marks: [], seconds: 0 });
const rated = () => state.order.filter((one) => state.readings[one]?.score != null).length;

function timed() {
  if (!state || $("reading").hidden || !shown) return;
  reading().seconds = Math.round(10 * (reading().seconds + (performance.now() - shown) / 1000)) / 10;
  shown = performance.now();
}

function drawMarks() {
  const [width, height] = study.size;
  const svg = $("marks");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren();
  const radius = width / 28;
  for (const [mark, kind] of [...reading().marks.map((mark) => [mark, ""]), ...(cursor ? [[cursor, "cursor"]] : [])]) {
    const circle = document.createElementNS("http://www.w3.org/2000/svg", "circle");
    for (const [name, value] of [["cx", mark.x], ["cy", mark.y], ["r", radius]]) circle.setAttribute(name, value);
    if (kind) circle.setAttribute("class", kind);
    svg.append(circle);
  }
  const count = reading().marks.length;
  $("marked").textContent = count ? `${count} place${count === 1 ? "" : "s"} marked as wrong.` :
    "Click what looks wrong in the image, if anything does.";
  $("undo").disabled = !count;
}

function drawReading() {
  show("reading");
  cursor = null;
  const source = "data:image/png;base64," + $("i-" + id()).textContent;
  if ($("image").src !== source) $("image").src = source;
  for (const button of $("scores").children) {
    const chosen = Number(button.dataset.score) === reading().score;
    button.setAttribute("aria-checked", String(chosen));
  }
  $("bar").max = all.length;
  $("bar").value = rated();
  $("place").textContent = `${state.at + 1} of ${all.length}`;
  $("previous").disabled = state.at === 0;
  $("next").disabled = reading().score === null;
  $("next").textContent = state.at === all.length - 1 ? "Finish" : "Next";
  drawMarks();
  shown = performance.now();
}

function rate(score) {
  timed();
  reading().score = score;
  keep();
  drawReading();
}

function move(step) {
  timed();
  if (step > 0 && reading().score === null) return;
  const target = state.at + step;
  if (target < 0) return;
  if (target >= all.length) return finish();
  state.at = target;
  keep();
  drawReading();
}

function finish() {
  const open = state.order.findIndex((one) => state.readings[one]?.score == null);
  if (open >= 0) {
    state.at = open;
    say("This image has no rating yet.");
    return drawReading();
  }
  state.complete = true;
  state.finished ??= new Date().toISOString();
  keep();
  show("end");
}

function toggleMark(x, y) {
  const [width, height] = study.size;
  if (!(x >= 0 && y >= 0 && x <= width && y <= height)) return;
  timed();
  const reach = NEAR_PX * width / $("image").clientWidth;
  const marks = reading().marks;
  const near = marks.findIndex((mark) => Math.hypot(mark.x - x, mark.y - y) < reach);
  if (near >= 0) marks.splice(near, 1);
  else marks.push({ x: Math.round(10 * x) / 10, y: Math.round(10 * y) / 10 });
  keep();
  drawMarks();
}

function download(name, content) {
  const link = document.createElement("a");
  const address = URL.createObjectURL(new Blob([JSON.stringify(content, null, 1) + "\n"], { type: "application/json" }));
  link.href = address;
  link.download = name;
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

function exported() {
  const { order, readings, at, ...rest } = state;
  const answered = order.flatMap((item, position) =>
    readings[item]?.score == null ? [] : [{ item, position, ...readings[item] }]);
  return { ...rest, complete: answered.length === all.length, image_size: study.size, readings: answered };
}

function begin() {
  const years = Number($("years").value);
  if (!$("agree").checked) return say("Please tick that you take part of your own free will.");
  if (!$("kind").value) return say("Please choose your profession.");
  if ($("years").value === "" || !Number.isFinite(years) || years < 0 || years > 70)
    return say("Please give your years of experience, from 0 to 70.");
  say("");
  state = started();
  keep();
  drawReading();
}

function goOn() {
  say("");
  drawReading();
}

async function load(file) {
  let found = null;
  try { found = JSON.parse(await file.text()); } catch { /* told below */ }
  if (!found || typeof found !== "object" || !("study" in found)) return say("This file holds no saved progress.");
  if (found.study !== study.study) return say("This file is of another study.");
  if (!isState(found)) return say("This file holds no progress that can be gone on with.");
  state = found;
  keep();
  goOn();
}

for (const [value, word] of study.scale) {
  const button = document.createElement("button");
  button.type = "button";
  button.setAttribute("role", "radio");
  button.dataset.score = value;
  button.textContent = `${value} ${word}`;
  button.addEventListener("click", () => rate(value));
  $("scores").append(button);
}
for (const [value, label] of study.kinds) $("kind").append(new Option(label, value));
for (const paragraph of study.consent) {
  const one = document.createElement("p");
  one.textContent = paragraph;
  $("consent").append(one);
}
$("image").style.setProperty("--ratio", study.size[0] / study.size[1]);
$("title").textContent = document.title = study.title;
$("start").addEventListener("click", begin);
$("resume").addEventListener("click", () => { state = kept(); if (state) goOn(); });
$("load").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => { if ($("file").files[0]) load($("file").files[0]); });
$("next").addEventListener("click", () => { say(""); move(1); });
$("previous").addEventListener("click", () => { say(""); move(-1); });
$("undo").addEventListener("click", () => { timed(); reading().marks.pop(); keep(); drawMarks(); });
$("pause").addEventListener("click", () => {
  timed();
  keep();
  $("kept").textContent = stored ? "Your progress is kept in this browser. Open the page again to go on, or save it to a file." :
    "This browser cannot keep your progress: save it to a file, and load it when you go on.";
  show("paused");
});
$("go-on").addEventListener("click", goOn);
$("save").addEventListener("click", () => download(`progress-${study.study}-${state.reader.id}.json`, state));
$("export").addEventListener("click", () => download(`reading-${study.study}-${state.reader.id}.json`, exported()));
$("review").addEventListener("click", () => { state.at = 0; goOn(); });
$("stage").addEventListener("click", (event) => {
  const box = $("image").getBoundingClientRect();
  toggleMark((event.clientX - box.left) * study.size[0] / box.width, (event.clientY - box.top) * study.size[1] / box.height);
});
$("stage").addEventListener("keydown", (event) => {
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  if (event.key in steps) {
    cursor ??= { x: study.size[0] / 2, y: study.size[1] / 2 };
    const far = event.shiftKey ? 5 : 1;
    cursor.x = Math.min(study.size[0], Math.max(0, cursor.x + far * STEP * steps[event.key][0]));
    cursor.y = Math.min(study.size[1], Math.max(0, cursor.y + far * STEP * steps[event.key][1]));
    drawMarks();
  } else if (event.key === " " && cursor) toggleMark(cursor.x, cursor.y);
  else if (event.key === "Escape") $("next").focus();
  else return;
  event.preventDefault();
});
addEventListener("keydown", (event) => {
  if ($("reading").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.toLowerCase();
  if (study.scale.some(([value]) => String(value) === key)) rate(Number(key));
  else if (key === "n") { say(""); move(1); }
  else if (key === "p") { say(""); move(-1); }
  else if (key === "u") $("undo").click();
  else if (key === "m") { $("stage").focus(); cursor ??= { x: study.size[0] / 2, y: study.size[1] / 2 }; drawMarks(); }
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) { timed(); if (state) keep(); } else shown = performance.now();
});

const before = kept();
if (before) {
  $("resume").hidden = false;
  const done = before.order.filter((one) => before.readings[one]?.score != null).length;
  $("resume").textContent = `Resume (${done} of ${all.length} rated)`;
}
show("intro");
