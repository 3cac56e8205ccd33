// Elements made with createElement and textContent only: no text ever becomes markup.

/** An element; `on...` properties are listeners, true stands for an empty attribute. */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== undefined && child !== null));
  return made;
}

/** An SVG element; its children are SVG elements or text. */
export function drawn(name, properties = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(properties)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** The one element that `selector` finds. */
export function find(selector, within = document) {
  const found = within.querySelector(selector);
  if (!found) throw new Error(`the page has no ${selector}`);
  return found;
}

// Each icon is one path of strokes in a square of 20 by 20.
const strokes = {
  menu: "M3 6h14M3 10h14M3 14h14",
  plus: "M10 4v12M4 10h12",
  close: "M5 5l10 10M15 5L5 15",
  left: "M12 5l-5 5 5 5",
  right: "M8 5l5 5-5 5",
  copy: "M7.5 7.5h8v8h-8zM12.5 7.5v-3h-8v8h3",
  done: "M4.5 10.5l3.5 3.5 7.5-8",
  edit: "M4 16l.8-3.6L13 4.2l2.8 2.8-8.2 8.2zM11.5 5.7l2.8 2.8",
  retry: "M15.5 8A6 6 0 1 0 16 11.2M15.8 4v4h-4",
  trash: "M4 6h12M8 6V4h4v2M5.5 6l.7 10.5h7.6L14.5 6",
  send: "M10 16V4.5M5 9.5l5-5 5 5",
  stop: "M6 6h8v8H6z",
  settings: "M3 6h6M13 6h4M11 4v4M3 14h2M9 14h8M7 12v4",
  key: "M7 13.5a3.5 3.5 0 1 1 3.3-4.7H17v3h-2v-1.5M10.3 11.2A3.5 3.5 0 0 1 7 13.5",
  light: "M10 6.5a3.5 3.5 0 1 0 0 7 3.5 3.5 0 0 0 0-7M10 2v1.5M10 16.5V18M2 10h1.5M16.5 10"
    + "H18M4.3 4.3l1.1 1.1M14.6 14.6l1.1 1.1M15.7 4.3l-1.1 1.1M5.4 14.6l-1.1 1.1",
  dark: "M16.5 12.2A7 7 0 0 1 7.8 3.5a7 7 0 1 0 8.7 8.7z",
  download: "M10 3v9.5M6 9l4 4 4-4M4 16.5h12",
  upload: "M10 13V3.5M6 7l4-4 4 4M4 16.5h12",
  keyboard: "M2.5 5.5h15v9h-15zM5.5 8.5h.01M8.5 8.5h.01M11.5 8.5h.01M14.5 8.5h.01M6.5 11.5h7",
  raw: "M7 6l-4 4 4 4M13 6l4 4-4 4",
  forward: "M4 5l6 5-6 5zM11 5l6 5-6 5z",
};

/** An icon by its name; screen readers pass over it. */
export function icon(name) {
  const properties = { viewBox: "0 0 20 20", class: "icon", "aria-hidden": "true" };
  return drawn("svg", properties, drawn("path", { d: strokes[name] }));
}

/** A button of one icon; `label` is read aloud and shown as a tooltip. */
export function iconButton(name, label, onclick, properties = {}) {
  const all = { type: "button", class: "icon-button", title: label, "aria-label": label, onclick };
  return element("button", { ...all, ...properties }, icon(name));
}

/** Copies `text`; resolves to whether it worked. */
export async function copyText(text) {
  if (navigator.clipboard) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // Refused without focus or permission: the old way below may still work.
    }
  }
  // The clipboard interface is missing where the page came by plain HTTP from another machine.
  const carrier = element("textarea", { class: "off-screen", "aria-hidden": "true" });
  carrier.value = text;
  document.body.append(carrier);
  carrier.select();
  const worked = document.execCommand("copy");
  carrier.remove();
  return worked;
}

/** A copy button that says for a moment that it worked. */
export function copyButton(text, label = "Copy") {
  const button = iconButton("copy", label, async () => {
    const worked = await copyText(text());
    button.replaceChildren(icon(worked ? "done" : "close"));
    announce(worked ? "Copied" : "The browser did not allow copying");
    setTimeout(() => button.replaceChildren(icon("copy")), 1500);
  });
  return button;
}

/** Say something to screen readers. */
export function announce(text) {
  find("#announcements").textContent = text;
}

/** Hand `text` to the user as a file. */
export function saveFile(name, text) {
  const address = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  const link = element("a", { href: address, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

/** `draw`, called at most once a frame however often the result is called. */
export function oncePerFrame(draw) {
  let isWaiting = false;
  return () => {
    if (isWaiting) return;
    isWaiting = true;
    requestAnimationFrame(() => {
      isWaiting = false;
      draw();
    });
  };
}

/** Whether there is a mouse, and with it a keyboard that is not drawn on the screen. */
export function hasMouse() {
  return matchMedia("(hover: hover)").matches;
}

/** Put the cursor into a field, but not on a phone, where that would call the keyboard. */
export function focusField(field) {
  if (hasMouse()) field.focus({ preventScroll: true });
}

/** Make a text box as high as its text. */
export function fitHeight(box) {
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight + 2}px`;
}

const numbers = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

/** A number with thousands separated and at most one decimal. */
export function written(number) {
  return numbers.format(number);
}

/** A character's number as Unicode writes it: U+202E. */
export function codePoint(character) {
  return `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
}

/** A share of 1 as a percentage: 43 %, 4.3 %, 0.04 %, < 0.01 %. */
export function percentage(share) {
  const percent = 100 * share;
  if (percent > 0 && percent < 0.01) return "< 0.01 %";
  const digits = percent >= 10 ? 0 : percent >= 0.1 ? 1 : 2;
  return `${percent.toFixed(digits)} %`;
}
