// What the user must know: a line at the top, and the question for the API key.

import { element, find, icon, iconButton } from "./dom.js";
import { apiKey, keepApiKey } from "./api.js";

/** Show `text` until it is closed; "" takes it away. */
export function notice(text) {
  const place = find("#notice");
  place.hidden = !text;
  if (text && place.textContent === text) return; // it is read aloud once
  const close = iconButton("close", "Close", () => notice(""));
  place.replaceChildren(element("span", {}, text), close);
}

const dialog = find("#key-dialog");
const field = find("#key-field");
const listeners = [];

/** Call `listener` when another key was given. */
notice.onKey = (listener) => listeners.push(listener);

/** Ask for the API key; `reason` is what the server said. */
notice.askForKey = (reason) => {
  if (dialog.open) return;
  if (reason) find("#key-reason").textContent = reason.replace(/ \(hint: .*\)$/, "");
  field.value = apiKey();
  dialog.returnValue = "";
  dialog.showModal();
};

/** Show what a request failed with: what is missing may be the key. */
notice.failure = (error) => {
  if (error.status === 401) notice.askForKey(error.message);
  else notice(error.message);
};

dialog.addEventListener("close", () => {
  if (dialog.returnValue !== "keep") return;
  keepApiKey(field.value.trim());
  for (const listener of listeners) listener();
});

// Enter in the field means its last button, not its first.
field.addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault();
  find("[value=keep]", dialog).click();
});

const button = find("#key-button");
button.append(icon("key"));
button.title = "API key";
button.setAttribute("aria-label", "API key");
button.addEventListener("click", () => notice.askForKey());
