// Tokens with their probabilities: shades, bars, and how a token's text is written.

import { codePoint, element, percentage } from "./dom.js";

const steps = [0.02, 0.1, 0.3, 0.7]; // below the first: the strongest shade

/** The class that shades a token of this log-probability. */
export function shade(logprob) {
  if (logprob === null || logprob === undefined) return "token";
  const probability = Math.exp(logprob);
  const level = steps.findIndex((step) => probability < step);
  return level < 0 ? "token" : `token shade-${level}`;
}

/** The shades in order with what they mean. */
export function legend() {
  const words = ["< 2 %", "< 10 %", "< 30 %", "< 70 %", "likely"];
  const parts = words.map((word, level) => {
    const swatch = level < steps.length ? `token shade-${level}` : "token";
    return element("li", {}, element("span", { class: swatch }, word));
  });
  return element("ul", { class: "legend", "aria-label": "Probability of a token" }, ...parts);
}

/** A token's text with its white space, and what else has no shape of its own, to be seen. */
export function visible(text) {
  if (text === "") return "(nothing)";
  const shown = text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replace(/^ | $/g, "␣");
  return shown.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\u00a0]/gu, codePoint);
}

/** Rows of token, bar and percentage; `choose(text)` is called for a press, where given.
 * `chosen` is the text of the one that was taken, `can` tells whether a text can be chosen. */
export function bars(others, { choose, chosen, can = () => true } = {}) {
  const most = Math.exp(others[0]?.[1] ?? 0);
  const rows = others.map(([text, logprob]) => {
    const share = Math.exp(logprob);
    const bar = element("span", { class: "bar-fill" });
    bar.style.width = `${(100 * share) / most}%`;
    const parts = [
      element("code", {}, visible(text)),
      element("span", { class: "bar-track", "aria-hidden": "true" }, bar),
      element("span", { class: "share" }, percentage(share)),
    ];
    const own = { class: "bar-row", "aria-current": text === chosen && "true" };
    if (!choose) return element("li", own, ...parts);
    const button = { type: "button", ...own, disabled: !can(text), onclick: () => choose(text) };
    return element("li", {}, element("button", button, ...parts));
  });
  return element("ul", { class: "bars" }, ...rows);
}
