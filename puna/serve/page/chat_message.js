// One message of a conversation: its text, its branches, and what can be done with it.

import { copyButton, element, fitHeight, iconButton } from "./dom.js";
import { showMarkdown } from "./markdown.js";
import { choose, siblings } from "./conversation.js";
import { statsText } from "./stream.js";

const speakers = { user: "You", assistant: "The model" };

/** The element of `message`; `acts` has edit(message, text), retry(message), goOn(message),
 * show(message): what to do when a button is pressed. */
export function messageElement(conversation, message, acts) {
  const body = element("div", { class: "message-body prose" });
  const own = { class: `message ${message.role}`, "data-id": message.id };
  const made = element("article", { ...own, "aria-label": speakers[message.role] }, body);
  if (message.role === "assistant") {
    const name = message.model ? `${message.model}` : "";
    made.prepend(element("p", { class: "speaker" }, name));
  }
  showText(made, message);
  if (message.error) made.append(element("p", { class: "failure", role: "alert" }, message.error));
  made.append(foot(conversation, message, acts, made));
  return made;
}

/** Show the text that the message has now. */
export function showText(made, message) {
  const body = made.querySelector(".message-body");
  if (message.role === "user") body.textContent = message.text;
  else showMarkdown(body, message.text);
}

function foot(conversation, message, acts, made) {
  const row = element("div", { class: "message-foot" });
  const beside = siblings(conversation, message);
  if (beside.length > 1) row.append(branchSwitch(conversation, beside, message, acts));
  row.append(copyButton(() => message.text, "Copy the text"));
  const edit = () => editor(made, message, acts);
  row.append(iconButton("edit", "Edit, as a new branch", edit, { "data-act": "edit" }));
  if (message.role === "assistant") {
    row.append(iconButton("retry", "Another answer, as a new branch", () => acts.retry(message)));
    const raw = iconButton("raw", "The text as it is", () => toggleRaw(made, message, raw));
    raw.setAttribute("aria-pressed", "false");
    row.append(raw);
    if (["length", "stopped"].includes(message.finish)) {
      row.append(iconButton("forward", "Let the model go on", () => acts.goOn(message)));
    }
  }
  if (message.stats) row.append(element("span", { class: "stats" }, statsText(message.stats)));
  return row;
}

function branchSwitch(conversation, beside, message, acts) {
  const at = beside.indexOf(message);
  const turn = (by) => () => {
    choose(conversation, beside[at + by]);
    acts.show(beside[at + by], by > 0 ? "Next branch" : "Previous branch");
  };
  const before = iconButton("left", "Previous branch", turn(-1), { disabled: at === 0 });
  const last = beside.length - 1;
  const after = iconButton("right", "Next branch", turn(1), { disabled: at === last });
  const label = `Branch ${at + 1} of ${beside.length}`;
  const count = element("span", { "aria-hidden": "true" }, `${at + 1}/${beside.length}`);
  const row = { class: "branches", role: "group", "aria-label": label };
  return element("div", row, before, count, after);
}

function toggleRaw(made, message, button) {
  const body = made.querySelector(".message-body");
  const isRaw = button.getAttribute("aria-pressed") === "true";
  button.setAttribute("aria-pressed", String(!isRaw));
  body.replaceChildren();
  body.shownBlocks = [];
  if (isRaw) showMarkdown(body, message.text);
  else body.append(element("pre", { class: "raw" }, message.text));
}

function editor(made, message, acts) {
  const own = { class: "edit-box", "aria-label": "Edit the message", dir: "auto" };
  const box = element("textarea", own);
  box.value = message.text;
  const before = [...made.childNodes];
  const wasFocused = document.activeElement;
  const leave = () => {
    form.replaceWith(...before);
    wasFocused.focus();
  };
  const save = message.role === "user" ? "Send" : "Keep";
  const form = element(
    "form",
    {
      class: "edit-form",
      onsubmit: (event) => {
        event.preventDefault();
        acts.edit(message, box.value);
      },
    },
    box,
    element(
      "div", { class: "row end" },
      element("button", { type: "button", class: "quiet", onclick: leave }, "Cancel"),
      element("button", { type: "submit", class: "primary" }, save),
    ),
  );
  box.addEventListener("input", () => fitHeight(box));
  box.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      leave();
    }
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  made.replaceChildren(form);
  fitHeight(box);
  box.focus();
}
