// Which models the server has, which one is chosen, and what is known of it.

import { element, find } from "./dom.js";
import { ApiError, getJson } from "./api.js";
import { keep, kept } from "./store.js";

const select = find("#model");
const facts = new Map(); // name -> promise of what /tokenizer_info says of it
const known = new Map(); // the same, as soon as it has been said
let models = [];

/** The chosen model's name; undefined, which JSON leaves out, while none is known. */
export function chosenModel() {
  return select.value || undefined;
}

export function modelNames() {
  return models.map((one) => one.id);
}

/** Call `listener` whenever another model is chosen or the list has changed. */
export function onModel(listener) {
  select.addEventListener("change", listener);
}

/** How many tokens a model reads at most, null while that is not known. */
export function contextTokens(name) {
  return known.get(name)?.max_model_len ?? null;
}

/** What /tokenizer_info says of a model; asked for once. */
export async function modelFacts(name) {
  if (!facts.has(name)) {
    const asked = getJson(`tokenizer_info?model=${encodeURIComponent(name)}`);
    facts.set(name, asked);
    asked.then((said) => known.set(name, said), () => facts.delete(name));
  }
  return facts.get(name);
}

/** Fill a select with the models' names; `wanted` is chosen if it is there. */
export function fillModels(box, wanted) {
  box.replaceChildren(...modelNames().map((name) => element("option", { value: name }, name)));
  if (modelNames().includes(wanted)) box.value = wanted;
}

/** Ask the server for its models. Throws ApiError. */
export async function loadModels() {
  const answer = await getJson("v1/models");
  models = answer.data;
  if (!models.length) throw new ApiError("The server has no model");
  fillModels(select, kept("model", { name: "" }).name);
  select.disabled = models.length < 2;
  select.dispatchEvent(new Event("change"));
}

select.addEventListener("change", () => keep("model", { name: select.value }));
