// The page: which view is shown, the colours, the keyboard, and the server's state.

import { find, icon } from "./dom.js";
import { getJson } from "./api.js";
import { loadModels } from "./models.js";
import { notice } from "./notice.js";
import { keep, kept } from "./store.js";
import { Chat } from "./chat.js";
import { Complete } from "./complete.js";
import { Compare } from "./compare.js";
import { Inside } from "./inside.js";
import { Train } from "./train.js";

const views = { chat: Chat, complete: Complete, compare: Compare, inside: Inside, train: Train };
const names = Object.keys(views);
const made = {};
const againMs = 1500;
const isMac = /Mac|iP/.test(navigator.platform);
let current = null;
let isLost = false; // whether the notice says why there are no models

function show() {
  const wanted = location.hash.slice(1);
  if (wanted === "main" && current) return; // the link that skips to the content
  const name = names.includes(wanted) ? wanted : "chat";
  if (name === current) return;
  made[current]?.hidden?.();
  current = name;
  for (const other of names) find(`#${other}`).hidden = other !== name;
  for (const link of document.querySelectorAll(".tabs a")) {
    const isCurrent = link.hash === `#${name}`;
    if (isCurrent) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${find(`#${name}`).getAttribute("aria-label")} · Puna`;
  made[name] ??= new views[name](find(`#${name}`));
  made[name].shown();
}

/** List the models; while the server loads them or is gone, ask it again and again. */
async function connect() {
  try {
    await getJson("health");
    await loadModels();
    if (isLost) notice("");
    isLost = false;
  } catch (error) {
    isLost = true;
    notice.failure(error);
    if ([0, 503].includes(error.status)) setTimeout(connect, againMs);
  }
}

const themes = ["auto", "light", "dark"];

function paint(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  const isDark = theme === "dark"
    || (theme === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);
  const button = find("#theme-button");
  const label = `Colours: ${{ auto: "as the system", light: "light", dark: "dark" }[theme]}`;
  button.replaceChildren(icon(isDark ? "dark" : "light"));
  button.title = label;
  button.setAttribute("aria-label", label);
}

function turnTheme() {
  const { name } = kept("theme", { name: "auto" });
  const next = themes[(themes.indexOf(name) + 1) % themes.length];
  keep("theme", { name: next });
  paint(next);
}

function pressed(event) {
  const isTyping = event.target.matches("input, textarea, select, [contenteditable]");
  const { key } = event;
  // Alt writes characters in a Mac's fields, and so does Ctrl with Alt elsewhere (AltGr).
  const isAlt = event.altKey && !event.ctrlKey && !(isMac && isTyping);
  if (document.querySelector("dialog[open]")) return;
  if (isAlt && /^Digit[1-5]$/.test(event.code)) {
    location.hash = names[Number(event.code.at(-1)) - 1];
  } else if (isAlt && event.code === "KeyN") {
    location.hash = "chat";
    made.chat?.begin();
  } else if (key === "Escape") {
    if (!made[current].escape?.()) return;
  } else if (key === "Enter" && (event.ctrlKey || event.metaKey) && made[current].start) {
    made[current].start();
  } else if (key === "/" && !isTyping) {
    find(`#${current} [data-main-field]`).focus();
  } else if (key === "?" && !isTyping) {
    find("#shortcuts-dialog").showModal();
  } else return;
  event.preventDefault();
}

const shortcuts = find("#shortcuts-button");
shortcuts.append(icon("keyboard"));
shortcuts.title = "Keyboard";
shortcuts.setAttribute("aria-label", "Keyboard shortcuts");
shortcuts.addEventListener("click", () => find("#shortcuts-dialog").showModal());
find("#theme-button").addEventListener("click", turnTheme);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  paint(kept("theme", { name: "auto" }).name);
});
notice.onKey(connect);
addEventListener("hashchange", show);
addEventListener("keydown", pressed);
paint(kept("theme", { name: "auto" }).name);
show();
connect();
