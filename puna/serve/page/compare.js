// Two models, or two settings, on one prompt, side by side.

import { copyButton, element, focusField, icon, oncePerFrame, written } from "./dom.js";
import { chatPieces, completionPieces } from "./api.js";
import { showMarkdown } from "./markdown.js";
import { fillModels, modelNames, onModel } from "./models.js";
import { notice } from "./notice.js";
import { samplingControls } from "./sampling.js";
import { keep, kept } from "./store.js";
import { Answer, statsText } from "./stream.js";

const letters = ["A", "B"];
const starts = [{ temperature: 0, max_tokens: 256 }, { temperature: 0.8, max_tokens: 256 }];

export class Compare {
  constructor(panel) {
    this.panel = panel;
    this.chosen = kept("compare", { way: "chat", prompt: "", system: "", A: "", B: "" });
    this.sides = letters.map((letter, index) => new Side(letter, starts[index], this.chosen));
    this.build();
    onModel(() => this.fill());
    this.fill();
  }

  build() {
    this.box = element("textarea", {
      rows: "3", "aria-label": "Prompt", "data-main-field": true,
      placeholder: "One prompt for both", oninput: () => this.keepWhatIsWritten(),
    });
    this.box.value = this.chosen.prompt;
    this.system = element("textarea", {
      rows: "1", "aria-label": "System prompt", placeholder: "System prompt, if any",
      oninput: () => this.keepWhatIsWritten(),
    });
    this.system.value = this.chosen.system;
    const ways = [["chat", "Chat"], ["complete", "Complete"]].map(([way, words]) => {
      const radio = element("input", { type: "radio", name: "compare-way", value: way });
      radio.checked = this.chosen.way === way;
      radio.addEventListener("change", () => {
        this.chosen.way = way;
        this.system.hidden = way !== "chat";
        this.keepWhatIsWritten();
      });
      return element("label", {}, radio, element("span", {}, words));
    });
    this.system.hidden = this.chosen.way !== "chat";
    this.go = element("button", { type: "button", class: "primary", onclick: () => this.start() });
    this.verdict = element("span", { class: "stats", role: "status" });
    const segments = { class: "segments", role: "radiogroup", "aria-label": "How to ask" };
    this.panel.append(element(
      "div", { class: "compare scroll" },
      element("div", { class: "compare-ask" }, this.system, this.box, element(
        "div", { class: "tool-foot" }, this.go, element("div", segments, ...ways), this.verdict,
      )),
      element("div", { class: "compare-sides" }, ...this.sides.map((side) => side.element)),
    ));
    this.setBusy(false);
  }

  fill() {
    for (const [index, side] of this.sides.entries()) {
      fillModels(side.model, this.chosen[side.letter] || modelNames()[index]);
    }
  }

  keepWhatIsWritten() {
    const [A, B] = this.sides.map((side) => side.model.value);
    Object.assign(this.chosen, { prompt: this.box.value, system: this.system.value, A, B });
    keep("compare", this.chosen);
  }

  shown() {
    focusField(this.box);
  }

  escape() {
    const running = this.sides.filter((side) => side.answer);
    for (const side of running) side.answer.stop();
    return running.length > 0;
  }

  /** Ask both, or stop them. */
  async start() {
    if (this.escape()) return;
    const prompt = this.box.value;
    if (!prompt.trim()) {
      this.box.focus();
      return;
    }
    this.keepWhatIsWritten();
    this.setBusy(true);
    this.verdict.textContent = "";
    const { way, system } = this.chosen;
    await Promise.all(this.sides.map((side) => side.ask(way, prompt, system)));
    this.setBusy(false);
    this.verdict.textContent = difference(...this.sides.map((side) => side.text));
  }

  setBusy(isBusy) {
    this.go.replaceChildren(icon(isBusy ? "stop" : "forward"), isBusy ? "Stop" : "Run both");
  }
}

/** What two texts have in common, in words. */
export function difference(one, other) {
  if (!one || !other) return "";
  if (one === other) return "The same text";
  let same = 0;
  while (one[same] === other[same]) same += 1;
  if (!same) return "Different from the first character";
  return `The same for ${written(same)} character${same === 1 ? "" : "s"}`;
}

class Side {
  constructor(letter, start, chosen) {
    this.letter = letter;
    this.answer = null;
    this.text = "";
    this.model = element("select", { "aria-label": `Model ${letter}` });
    this.model.addEventListener("change", () => {
      chosen[letter] = this.model.value;
      keep("compare", chosen);
    });
    this.sampling = samplingControls(`compare.${letter}`, start);
    this.body = element("div", { class: "side-text prose", tabindex: "0" });
    this.body.setAttribute("aria-label", `Answer ${letter}`);
    this.body.setAttribute("role", "region");
    this.stats = element("span", { class: "stats" });
    this.failure = element("p", { class: "failure", role: "alert" });
    const copy = copyButton(() => this.text, `Copy answer ${letter}`);
    this.chosen = element("span", {});
    const summary = element("summary", {}, icon("right"), this.chosen);
    const details = { class: "more", oninput: () => this.tell(), onclick: () => this.tell() };
    this.element = element(
      "article", { class: "compare-side", "aria-label": `Side ${letter}` },
      element("div", { class: "compare-head" }, element("b", {}, letter), this.model),
      element("details", details, summary, this.sampling.element),
      this.body, this.failure,
      element("div", { class: "message-foot" }, copy, this.stats),
    );
    this.tell();
  }

  /** Say, on what opens it, how this side samples: it may be all that differs. */
  tell() {
    const { temperature, max_tokens: most } = this.sampling.values();
    this.chosen.textContent = `Sampling: temperature ${temperature}, ${written(most)} tokens`;
  }

  async ask(way, prompt, system) {
    const body = { model: this.model.value, ...this.sampling.values() };
    const messages = [{ role: "user", content: prompt }];
    if (system.trim()) messages.unshift({ role: "system", content: system });
    const isChat = way === "chat";
    const pieces = (signal) => (isChat
      ? chatPieces({ ...body, messages }, signal)
      : completionPieces({ ...body, prompt }, signal));
    this.text = "";
    this.body.replaceChildren();
    this.body.shownBlocks = [];
    this.body.classList.toggle("is-plain", !isChat);
    this.stats.textContent = "";
    this.failure.textContent = "";
    const draw = oncePerFrame(() => {
      if (isChat) showMarkdown(this.body, this.text);
      else this.body.textContent = prompt + this.text;
    });
    this.answer = new Answer(pieces, (piece) => {
      this.text += piece.text;
      draw();
    });
    this.element.setAttribute("aria-busy", "true");
    try {
      this.stats.textContent = statsText(await this.answer.finished);
    } catch (error) {
      this.failure.textContent = error.message;
      if (error.status === 401) notice.askForKey(error.message);
    }
    this.element.removeAttribute("aria-busy");
    this.answer = null;
  }
}
