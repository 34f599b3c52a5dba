// What a page with numbers shows: one result, the table of all, and what its buttons do with them.
// All text that comes from outside (names of files, the model's phrases) is set as text, never as
// HTML. Shared by the page that numclip-export writes and the one that numclip serve shows.

import { COVERAGE, binEdges, numberText } from "./metadata.js";

export const $ = (id) => document.getElementById(id);
const MOST_BINS = 12; // bars that are shown; of more bins, those of the most probable ones
const FORMULA = /^[=+\-@\t\r]/; // a spreadsheet would run such a cell
export const results = []; // {name, file, prediction, reason, remarks, row}
let task, shown;

export function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

export function say(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

const percent = (share) => `${Math.round(share * 100)} %`;
const withUnit = (text) => (task.unit ? `${text} ${task.unit}` : text);
const ends = ({ interval }) => interval?.map((end) => numberText(task, end)).join(" to ");

// Say of what the numbers are; `facts` is the model's task.
export function showTask(facts) {
  task = facts;
  const bins = binEdges(task);
  const [low, high] = [bins[0][0], bins.at(-1)[1]].map((edge) => Number(edge.toPrecision(12)));
  document.title = $("title").textContent = task.name;
  $("range").textContent = `A number from ${withUnit(`${low} to ${high}`)} for each picture.`;
  $("unit").textContent = task.unit || "Number";
  $("coverage").textContent = `${percent(COVERAGE)} interval`;
}

// ---- one result

function showScale({ value, interval }) {
  const bins = binEdges(task), low = bins[0][0], width = bins.at(-1)[1] - low;
  const place = (number) => `${Math.min(Math.max((number - low) / width, 0), 1) * 100}%`;
  const marks = bins.slice(1, MOST_BINS).map(([edge]) => ["edge", edge]);
  if (interval) marks.unshift(["interval", ...interval]);
  marks.push(["value", value]);
  $("scale").replaceChildren(...marks.map(([kind, from, to]) => {
    const mark = element("i", undefined, kind);
    mark.style.left = place(from);
    if (to !== undefined) mark.style.width = `${((to - from) / width) * 100}%`;
    return mark;
  }));
}

function showBins({ bin, shares }) {
  const order = shares.map((_, k) => k).sort((a, b) => shares[b] - shares[a]);
  const kept = order.slice(0, MOST_BINS).sort((a, b) => a - b);
  $("bins").replaceChildren(...kept.map((k) => {
    const row = element("li", undefined, k === bin ? "best" : ""), bar = element("span", "", "bar");
    const length = element("i");
    length.style.width = `${shares[k] * 100}%`;
    bar.append(length);
    row.append(element("span", task.phrases[k]), bar, element("b", percent(shares[k])));
    return row;
  }));
}

function remarksOn({ value, bin }, remarks) {
  const [low, high] = binEdges(task)[bin];
  if (value >= low && value <= high || task.prediction === "class") return remarks;
  return ["The number weighs all bins, and so lies outside the most probable one.", ...remarks];
}

// Show a result: {name, file, prediction: {value, interval, bin, shares}, reason, remarks}.
export function show({ name, file, prediction, reason, remarks = [] }) {
  $("result").hidden = false;
  $("name").textContent = name;
  if ($("photo").src) URL.revokeObjectURL($("photo").src);
  $("photo").hidden = !file || !prediction;
  if (!$("photo").hidden) $("photo").src = URL.createObjectURL(file);
  $("number").classList.toggle("bad", !prediction);
  $("scale").hidden = $("bins").hidden = !prediction;
  $("interval").textContent = $("remarks").textContent = "";
  if (!prediction) {
    $("number").textContent = `${reason}.`;
    return;
  }
  $("number").replaceChildren(numberText(task, prediction.value), " ", element("small", task.unit));
  if (prediction.interval) {
    $("interval").textContent = `${percent(COVERAGE)} interval ${withUnit(ends(prediction))}`;
  }
  showScale(prediction);
  showBins(prediction);
  $("remarks").textContent = remarksOn(prediction, remarks).join(" ");
}

// Show again what was shown before; nothing if that is none.
export function showLast() {
  if (shown) show(shown);
  else $("result").hidden = true;
}

// ---- the table

export function select(result) {
  shown = result;
  for (const row of $("rows").children) row.removeAttribute("aria-current");
  result.row.setAttribute("aria-current", "true");
  show(result);
}

// Take a result into the table, and return what it says in a few words.
export function add(result) {
  const { name, prediction, reason } = result, row = element("tr"), first = element("td");
  const button = element("button", name);
  button.type = "button";
  button.addEventListener("click", () => select(result));
  first.append(button);
  row.append(first);
  if (prediction) {
    row.append(
      element("td", numberText(task, prediction.value)),
      element("td", ends(prediction) ?? "–"),
      element("td", task.phrases[prediction.bin]),
    );
  } else {
    const cell = element("td", `${reason}.`, "bad");
    cell.colSpan = 3;
    row.append(cell);
  }
  $("rows").append(row);
  $("all").hidden = false;
  result.row = row;
  results.push(result);
  return `${name}: ${reason ?? withUnit(numberText(task, prediction.value))}.`;
}

function table() {
  const head = ["file", "value", "unit", "interval_low", "interval_high", "bin"];
  const lines = [[...head, ...task.phrases.map((phrase) => `p_${phrase}`), "error"]];
  for (const { name, prediction, reason } of results) {
    const numbers = prediction
      ? [prediction.value, task.unit, ...(prediction.interval ?? ["", ""]),
        task.phrases[prediction.bin], ...prediction.shares]
      : Array(5 + task.phrases.length).fill("");
    lines.push([name, ...numbers, reason ?? ""]);
  }
  return lines;
}

function delimited(separator) {
  const cell = (value) => {
    const text = typeof value === "string" && FORMULA.test(value) ? `'${value}` : String(value);
    return /["\r\n]/.test(text) || text.includes(separator) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return table().map((line) => `${line.map(cell).join(separator)}\r\n`).join("");
}

// ---- what people do

// Hand over the files that are chosen, dropped or pasted.
export function takeFiles(take) {
  $("files").addEventListener("change", ({ target }) => {
    take(target.files);
    target.value = ""; // the same files can be chosen again
  });
  addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("over");
  });
  addEventListener("dragleave", () => document.body.classList.remove("over"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("over");
    take(event.dataTransfer.files);
  });
  addEventListener("paste", ({ clipboardData }) => take(clipboardData.files));
}

$("photo").addEventListener("error", () => { $("photo").hidden = true; }); // a format for us alone
$("copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText(delimited("\t")).then(
    () => say("The table was copied."), () => say("The browser refuses to copy; download it.", true),
  );
});
$("save").addEventListener("click", () => {
  const link = element("a");
  link.href = URL.createObjectURL(new Blob(["\ufeff", delimited(",")], { type: "text/csv" }));
  link.download = `${task.name}.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
});
$("clear").addEventListener("click", () => {
  results.length = 0;
  shown = undefined;
  $("rows").replaceChildren();
  $("all").hidden = $("result").hidden = true;
  say("Ready.");
});
