// A base model's playground: it goes on with any text, each token shaded by its probability, and
// every alternative is a branch one can take.

import { announce, element, icon, iconButton, percentage } from "./dom.js";
import { completionPieces, postJson, tokensOf } from "./api.js";
import { chosenModel, modelFacts } from "./models.js";
import { notice } from "./notice.js";
import { presets } from "./presets.js";
import { bars, legend, shade, visible } from "./probability.js";
import { samplingControls } from "./sampling.js";
import { ShadedText } from "./shaded_text.js";
import { keep, kept } from "./store.js";
import { Answer, statsText } from "./stream.js";

const alternatives = 8;
const mostVersions = 50;
const hoverMs = 120;

export class Complete {
  constructor(panel) {
    this.panel = panel;
    this.answer = null;
    this.sampling = samplingControls("complete", { temperature: 0.8, max_tokens: 128 });
    this.paper = new ShadedText({
      label: "The text to go on with",
      placeholder: "Write a beginning, or choose one above. The model goes on from its end.",
      onToken: (mark, span) => this.hovered(mark, span),
      onPress: (mark, span) => this.openAlternatives(mark, span, true),
      onEdit: () => this.edited(),
    });
    this.versions = [{ text: "", marks: [] }];
    this.version = 0;
    this.build();
    const { text } = kept("complete.text", { text: presets[0].text });
    this.paper.show(text, []);
    this.save();
  }

  build() {
    this.go = element("button", { type: "button", class: "primary", onclick: () => this.start() });
    this.score = element(
      "button",
      { type: "button", class: "quiet", onclick: () => this.shadeAll(),
        title: "Shade every token of the text by its probability" },
      "Shade the text",
    );
    this.branches = element("div", { class: "branches", role: "group", hidden: true });
    this.stats = element("span", { class: "stats", role: "status" });
    this.popover = element("div", { class: "alternatives", role: "dialog", hidden: true });
    this.popover.setAttribute("aria-label", "Alternatives");
    this.popover.addEventListener("pointerleave", () => this.hovered(null));
    this.popover.addEventListener("pointerenter", () => clearTimeout(this.hoverTimer));
    const chips = presets.map((preset) => element(
      "button", { type: "button", class: "chip", onclick: () => this.take(preset) }, preset.name,
    ));
    const paper = element("div", { class: "paper" }, this.paper.element, this.popover);
    paper.addEventListener("click", (event) => {
      if (event.target === paper) this.paper.box.focus();
    });
    this.paper.box.addEventListener("keydown", (event) => this.pressed(event));
    addEventListener("pointerdown", (event) => {
      if (!this.popover.hidden && !paper.contains(event.target)) this.closeAlternatives();
    });
    const foot = element("div", { class: "tool-foot" });
    foot.append(this.go, this.score, this.branches, this.stats);
    const main = element(
      "div", { class: "tool-main" },
      element("div", { class: "chips", role: "group", "aria-label": "Beginnings" }, ...chips),
      paper, foot, legend(),
    );
    const side = element("aside", { class: "side settings", "aria-label": "Sampling" });
    side.append(element("h2", {}, "Sampling"), this.sampling.element);
    this.panel.append(element("div", { class: "tool" }, main, side));
    this.setBusy(false);
  }

  shown() {
    this.paper.fit();
  }

  escape() {
    if (!this.popover.hidden) {
      this.closeAlternatives();
      this.paper.box.focus();
      return true;
    }
    this.answer?.stop();
    return Boolean(this.answer);
  }

  async pressed(event) {
    if (!(event.altKey && event.key === "ArrowDown")) return;
    event.preventDefault();
    const [mark, span] = this.paper.atCursor();
    if (!mark) {
      announce("The token at the cursor has no alternatives yet");
      return;
    }
    await this.openAlternatives(mark, span, true);
    this.popover.querySelector("button:not([disabled])")?.focus();
  }

  edited() {
    this.closeAlternatives();
    keep("complete.text", { text: this.paper.text });
  }

  take(preset) {
    this.answer?.stop();
    this.remember();
    this.paper.show(preset.text, []);
    this.sampling.set(preset.sampling);
    this.begin();
    this.paper.box.focus();
  }

  /** Let the model go on, or stop it. */
  async start() {
    if (this.answer) {
      this.answer.stop();
      return;
    }
    if (!this.paper.text) {
      notice("Write a beginning first: a model needs at least one token to go on from");
      return;
    }
    this.remember();
    this.begin();
    await this.generate();
  }

  async generate() {
    this.closeAlternatives();
    const body = { model: chosenModel(), prompt: this.paper.text, logprobs: alternatives };
    const request = { ...body, ...this.sampling.values() };
    const answer = new Answer((signal) => completionPieces(request, signal), (piece) => {
      if (this.answer === answer) this.paper.append(piece.text, piece.tokens);
    });
    this.answer = answer;
    this.setBusy(true);
    try {
      this.stats.textContent = statsText(await answer.finished);
    } catch (error) {
      this.stats.textContent = "";
      notice.failure(error);
    }
    if (this.answer !== answer) return;
    this.answer = null;
    this.setBusy(false);
    this.save();
  }

  setBusy(isBusy) {
    this.go.replaceChildren(icon(isBusy ? "stop" : "forward"), isBusy ? "Stop" : "Continue");
    this.score.disabled = isBusy;
    this.paper.box.readOnly = isBusy;
    this.paper.box.setAttribute("aria-busy", String(isBusy));
  }

  /** The probabilities of all of the text, as the model reads it. */
  async shadeAll() {
    const { text } = this.paper;
    if (!text) return;
    const asked = { model: chosenModel(), prompt: text, logprobs: alternatives, echo: true };
    try {
      const { choices } = await postJson("v1/completions", { ...asked, max_tokens: 0 });
      if (this.paper.text !== text) return;
      const marks = [];
      let at = 0;
      for (const token of tokensOf(text, choices[0].logprobs)) {
        const end = at + token.text.length;
        if (token.text) marks.push({ at, end, logprob: token.logprob, others: token.others });
        at = end;
      }
      this.paper.show(text, marks);
      const known = marks.filter((mark) => mark.logprob !== null);
      const mean = known.reduce((sum, mark) => sum - mark.logprob, 0) / known.length;
      this.stats.textContent = known.length
        ? `${known.length} tokens · perplexity ${Math.exp(mean).toFixed(2)}` : "";
      this.save();
    } catch (error) {
      notice.failure(error);
    }
  }

  // Versions: each run and each branch begins one, and one can go back.

  remember() {
    this.versions[this.version] = { text: this.paper.text, marks: [...this.paper.marks] };
  }

  begin() {
    if (this.versions.length >= mostVersions) this.versions.shift();
    this.versions.push({ text: this.paper.text, marks: [...this.paper.marks] });
    this.version = this.versions.length - 1;
    this.save();
  }

  save() {
    this.remember();
    keep("complete.text", { text: this.paper.text });
    const count = this.versions.length;
    const turn = (by) => () => {
      this.answer?.stop();
      this.remember();
      this.version += by;
      const { text, marks } = this.versions[this.version];
      this.paper.show(text, marks);
      this.stats.textContent = "";
      this.save();
    };
    this.branches.hidden = count < 2;
    this.branches.setAttribute("aria-label", `Version ${this.version + 1} of ${count}`);
    this.branches.replaceChildren(
      iconButton("left", "Previous version", turn(-1), { disabled: this.version === 0 }),
      element("span", {}, `${this.version + 1}/${count}`),
      iconButton("right", "Next version", turn(1), { disabled: this.version === count - 1 }),
    );
  }

  // Alternatives

  hovered(mark, span) {
    clearTimeout(this.hoverTimer);
    if (this.isPinned || this.answer) return;
    this.hoverTimer = setTimeout(() => {
      if (mark) this.openAlternatives(mark, span, false);
      else this.closeAlternatives();
    }, hoverMs);
  }

  async openAlternatives(mark, span, isPinned) {
    this.closeAlternatives();
    if (!mark || this.answer) return;
    this.isPinned = isPinned;
    const text = this.paper.text.slice(mark.at, mark.end);
    const head = element("div", { class: "alternatives-head" });
    head.append(element("code", { class: shade(mark.logprob) }, visible(text)));
    const share = mark.logprob === null ? "the first token" : percentage(Math.exp(mark.logprob));
    head.append(element("span", { class: "share" }, share));
    const ends = await modelFacts(chosenModel()).catch(() => ({}));
    const can = (other) => Boolean(other) && !other.includes("\ufffd") && other !== ends.eos_token;
    const choose = (other) => this.branch(mark, other);
    this.popover.replaceChildren(head);
    if (mark.others.length) {
      this.popover.append(bars(mark.others, { choose, chosen: text, can }));
      this.popover.append(element("p", { class: "soft" }, "Choose one to go on from there"));
    }
    this.popover.hidden = false;
    this.place(span);
  }

  place(span) {
    const paper = this.popover.parentElement.getBoundingClientRect();
    const rects = span.getClientRects();
    const rect = rects[rects.length - 1] ?? span.getBoundingClientRect();
    const room = paper.width - this.popover.offsetWidth - 8;
    this.popover.style.left = `${Math.max(8, Math.min(rect.left - paper.left, room))}px`;
    const below = rect.bottom - paper.top + this.popover.parentElement.scrollTop;
    this.popover.style.top = `${below + 2}px`;
    this.popover.scrollIntoView({ block: "nearest" });
  }

  closeAlternatives() {
    clearTimeout(this.hoverTimer);
    this.popover.hidden = true;
    this.isPinned = false;
  }

  /** Go on from `mark` with another token in its place. */
  async branch(mark, text) {
    this.remember();
    const index = this.paper.marks.indexOf(mark);
    const logprob = mark.others.find(([other]) => other === text)[1];
    const taken = { at: mark.at, end: mark.at + text.length, logprob, others: mark.others };
    const before = this.paper.marks.slice(0, index);
    this.paper.show(this.paper.text.slice(0, mark.at) + text, [...before, taken]);
    this.begin();
    this.paper.box.focus();
    await this.generate();
  }
}
