// The controls of how tokens are chosen, as every view that generates has them.

import { element, icon } from "./dom.js";
import { keep, kept } from "./store.js";

// `off`: the value that changes nothing, which is then not sent.
const controls = [
  { name: "temperature", label: "Temperature", least: 0, most: 2, step: 0.05, start: 0.7,
    hint: "0 always takes the likeliest token" },
  { name: "top_p", label: "Top p", least: 0.01, most: 1, step: 0.01, start: 0.95,
    hint: "Only the likeliest tokens that together have this probability" },
  { name: "max_tokens", label: "Most tokens", least: 1, most: 4096, step: 1, start: 1024,
    hint: "The answer ends here at the latest" },
  { name: "top_k", label: "Top k", least: 0, most: 200, step: 1, start: 0, off: 0, more: true,
    hint: "Only so many of the likeliest tokens; 0 is off" },
  { name: "min_p", label: "Min p", least: 0, most: 0.5, step: 0.01, start: 0, off: 0, more: true,
    hint: "Only tokens with this share of the likeliest one's probability" },
  { name: "repetition_penalty", label: "Repetition", least: 1, most: 2, step: 0.01, start: 1,
    off: 1, more: true, hint: "Above 1: tokens of the text so far become less likely" },
  { name: "presence_penalty", label: "Presence", least: -2, most: 2, step: 0.1, start: 0, off: 0,
    more: true, hint: "Subtracted once from every token that was used" },
  { name: "frequency_penalty", label: "Frequency", least: -2, most: 2, step: 0.1, start: 0,
    off: 0, more: true, hint: "Subtracted for each time that a token was used" },
];

/** Controls kept under `place`: {element, values(), set(changes)}; `starts` overrides where they
 * begin. values() has the request's fields. */
export function samplingControls(place, starts = {}) {
  const defaults = { seed: "", stop: "" };
  for (const { name, start } of controls) defaults[name] = start;
  Object.assign(defaults, starts);
  const values = kept(place, defaults);
  const fields = new Map();
  const change = (name, value) => {
    values[name] = value;
    keep(place, values);
  };
  const rows = controls.map((control) => {
    const id = `${place}.${control.name}`;
    const row = slider(control, id, values[control.name], (value) => change(control.name, value));
    fields.set(control.name, row.show);
    return { row: row.element, more: control.more };
  });
  for (const one of [seedField, stopField]) {
    const row = one(place, values, change);
    fields.set(row.name, row.show);
    rows.push({ row: row.element, more: true });
  }
  const set = (changes) => {
    for (const [name, value] of Object.entries(changes)) {
      change(name, value);
      fields.get(name)(value);
    }
  };
  const shown = rows.filter((one) => !one.more).map((one) => one.row);
  const hidden = rows.filter((one) => one.more).map((one) => one.row);
  const reset = { type: "button", class: "quiet small", onclick: () => set(defaults) };
  const summary = element("summary", {}, icon("right"), "More");
  return {
    element: element(
      "div", { class: "controls" }, ...shown,
      element("details", { class: "more" }, summary, ...hidden),
      element("button", reset, "Back to the defaults"),
    ),
    values: () => requestFields(values),
    set,
  };
}

function requestFields(values) {
  const fields = {};
  for (const { name, off } of controls) if (values[name] !== off) fields[name] = values[name];
  if (values.seed !== "") fields.seed = Number(values.seed);
  const stop = values.stop.split("\n").filter((line) => line);
  if (stop.length) fields.stop = stop.map((line) => line.replaceAll("\\n", "\n"));
  return fields;
}

function slider({ name, label, least, most, step, hint }, id, value, change) {
  const own = { min: least, max: most, step, "aria-label": label, "aria-describedby": id };
  const range = element("input", { type: "range", ...own, tabindex: "-1" });
  const number = element("input", { type: "number", ...own, name });
  const fill = () => range.style.setProperty("--share", (range.value - least) / (most - least));
  const show = (shown) => {
    range.value = shown;
    number.value = shown;
    fill();
  };
  const take = (from, other) => () => {
    const found = from.valueAsNumber;
    if (!(found >= least && (found <= most || name === "max_tokens"))) return;
    other.value = found;
    fill();
    change(found);
  };
  range.addEventListener("input", take(range, number));
  number.addEventListener("input", take(number, range));
  if (name === "max_tokens") number.removeAttribute("max");
  show(value);
  const head = element("span", { class: "control-head" }, element("span", {}, label), number);
  const words = element("small", { id }, hint);
  return { element: element("label", { class: "control" }, head, range, words), show };
}

function seedField(place, values, change) {
  const hint = "The same seed gives the same text; empty draws one";
  const own = { inputmode: "numeric", pattern: "[0-9]{1,15}" };
  const field = element("input", { type: "text", ...own, "aria-describedby": `${place}.seed` });
  field.value = values.seed;
  field.placeholder = "random";
  field.addEventListener("input", () => {
    if (field.checkValidity()) change("seed", field.value);
  });
  return { name: "seed", ...labelled(field, "Seed", hint) };
}

function stopField(place, values, change) {
  const hint = "Texts that end the answer, one a line; \\n stands for a line break";
  const own = { rows: "2", spellcheck: "false", "aria-describedby": `${place}.stop` };
  const field = element("textarea", own);
  field.value = values.stop;
  field.addEventListener("input", () => change("stop", field.value));
  return { name: "stop", ...labelled(field, "Stop at", hint) };
}

function labelled(field, name, hint) {
  const id = field.getAttribute("aria-describedby");
  field.setAttribute("aria-label", name);
  const words = [element("span", {}, name), field, element("small", { id }, hint)];
  const row = element("label", { class: "field" }, ...words);
  return { element: row, show: (value) => { field.value = value; } };
}
