// Any text as the model reads it: coloured pieces with their ids, and what may come next.

import { element, focusField, percentage, written } from "./dom.js";
import { postJson, tokensOf } from "./api.js";
import { chosenModel, onModel } from "./models.js";
import { notice } from "./notice.js";
import { bars, visible } from "./probability.js";
import { keep, kept } from "./store.js";

const waitMs = 200; // after the last key
const example = "The llama (Lama glama) is a domesticated South American camelid.\n"
  + "Tokenizers split words: unbelievable, Straßenbahn, Ελλάδα, 12345.";
const colours = 6;
const likeliest = 20;
const mostShown = 5000; // pieces; more would only slow the browser down

export class Inside {
  constructor(panel) {
    this.panel = panel;
    this.timer = 0;
    this.control = new AbortController();
    this.build();
    this.box.value = kept("inside", { text: example }).text;
    onModel(() => this.look());
    if (chosenModel()) this.look();
  }

  build() {
    this.box = element("textarea", {
      rows: "5", "aria-label": "Text to look into", "data-main-field": true, spellcheck: "false",
      oninput: () => this.lookSoon(),
    });
    this.special = element("input", { type: "checkbox", checked: true });
    this.special.addEventListener("change", () => this.look());
    this.ids = element("input", { type: "checkbox", checked: true });
    this.ids.addEventListener("change", () => {
      this.pieces.classList.toggle("without-ids", !this.ids.checked);
    });
    this.counts = element("p", { class: "counts", role: "status" });
    this.pieces = element("ol", { class: "pieces", "aria-label": "Pieces" });
    this.detail = element("p", { class: "detail soft" });
    this.next = element("div", { class: "next" });
    const options = element(
      "div", { class: "tool-foot" },
      element("label", { class: "check" }, this.special, "With the beginning-of-text token"),
      element("label", { class: "check" }, this.ids, "Ids"),
    );
    const pieces = element("section", { "aria-label": "Pieces of the text" });
    pieces.append(element("h2", {}, "Pieces"), this.counts, this.pieces, this.detail);
    const next = element("section", { class: "next-tokens", "aria-label": "Next token" });
    next.append(element("h2", {}, "Next token"), this.next);
    this.panel.append(element(
      "div", { class: "inside scroll" }, this.box, options,
      element("div", { class: "inside-parts" }, pieces, next),
    ));
  }

  shown() {
    focusField(this.box);
  }

  start() {
    this.look();
  }

  lookSoon() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.look(), waitMs);
  }

  async look() {
    const text = this.box.value;
    keep("inside", { text });
    this.control.abort(); // what was asked of the text before
    this.control = new AbortController();
    const { signal } = this.control;
    try {
      await this.showPieces(text, signal);
    } catch (error) {
      if (!signal.aborted) notice.failure(error);
      return;
    }
    try {
      await this.showNext(text, signal);
    } catch (error) {
      // A text beyond the model's context has pieces all the same.
      if (!signal.aborted) this.say(error.message);
    }
  }

  say(words) {
    this.next.replaceChildren(element("p", { class: "soft" }, words));
  }

  async showPieces(text, signal) {
    const asked = { model: chosenModel(), content: text, with_pieces: true };
    const body = { ...asked, add_special: this.special.checked };
    const { tokens } = await postJson("tokenize", body, signal);
    const bytes = new TextEncoder().encode(text).length;
    const each = tokens.length ? written(bytes / tokens.length) : "0";
    const characters = [...text].length;
    this.counts.textContent = [
      `${written(tokens.length)} tokens`, `${written(characters)} characters`,
      `${written(bytes)} bytes`, `${each} bytes a token`,
    ].join(" · ");
    const shown = tokens.slice(0, mostShown);
    this.pieces.replaceChildren(...shown.flatMap(pieceElements));
    const rest = tokens.length - shown.length;
    this.detail.textContent = rest > 0 ? `and ${written(rest)} more` : "";
  }

  async showNext(text, signal) {
    if (!text) {
      this.say("Write something first");
      return;
    }
    const body = { model: chosenModel(), prompt: text, max_tokens: 1, temperature: 0 };
    const { choices } = await postJson("v1/completions", { ...body, logprobs: likeliest }, signal);
    const { text: own, logprobs } = choices[0];
    const others = tokensOf(own, logprobs)[0]?.others ?? [];
    const known = others.reduce((sum, [, logprob]) => sum + Math.exp(logprob), 0);
    const rest = element("p", { class: "soft" });
    rest.textContent = `All other tokens together: ${percentage(Math.max(0, 1 - known))}`;
    const choose = (added) => {
      this.box.value += added;
      this.look();
    };
    const can = (other) => Boolean(other) && !other.includes("\ufffd");
    const soft = element("p", { class: "soft" }, "Press one to append it to the text.");
    if (!others.length) {
      this.say("The model ends the text here");
      return;
    }
    this.next.replaceChildren(bars(others, { choose, can }), rest, soft);
  }
}

/** A token's element, and a break after one that ends a line. */
function pieceElements({ id, piece, bytes }, index) {
  const isText = !piece.includes("\ufffd"); // else a part of a character, shown as its bytes
  const text = isText ? visible(piece) : bytesText(bytes);
  const kind = `piece colour-${index % colours}${isText ? "" : " is-bytes"}`;
  const made = element(
    "li", { class: kind, title: `${text}, id ${id}` },
    element("span", { class: "piece-text" }, text),
    element("span", { class: "piece-id" }, String(id)),
  );
  const ends = isText && piece.includes("\n");
  return ends ? [made, element("li", { class: "line-end", "aria-hidden": "true" })] : [made];
}

/** Bytes that are no whole character, as hexadecimal. */
function bytesText(bytes) {
  return bytes.map((byte) => byte.toString(16).toUpperCase().padStart(2, "0")).join(" ");
}
