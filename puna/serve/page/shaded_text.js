// A text box whose text is shaded token by token: the shades lie in a layer behind the box, set in
// the same type, so that the text can be edited like any other.

import { element, oncePerFrame } from "./dom.js";
import { shade } from "./probability.js";

/** A text box makes each of these a line break, which would move the tokens after it. */
function withBreaks(text) {
  return text.replace(/\r\n?/g, "\n");
}

export class ShadedText {
  /** `onToken(mark, span)` is called for the token below the pointer, with null for none;
   * `onPress(mark, span)` for one that was pressed; `onEdit()` after each edit. */
  constructor({ label, placeholder, onToken, onPress, onEdit }) {
    this.marks = []; // {at, end, logprob, others} in order; `at` and `end` count UTF-16 units
    this.spans = [];
    this.shownText = "";
    this.onEdit = onEdit;
    this.layer = element("div", { class: "shades", "aria-hidden": "true" });
    this.box = element("textarea", {
      class: "shaded-box", "aria-label": label, placeholder, spellcheck: "false",
      "data-main-field": true, oninput: () => this.edited(),
    });
    this.element = element("div", { class: "shaded" }, this.layer, this.box);
    this.box.addEventListener("pointermove", (event) => {
      if (event.pointerType === "mouse" && !event.buttons) onToken(...this.under(event));
    });
    this.box.addEventListener("pointerleave", () => onToken(null, null));
    this.box.addEventListener("click", (event) => {
      if (this.box.selectionStart === this.box.selectionEnd) onPress(...this.under(event));
    });
    this.drawSoon = oncePerFrame(() => this.draw());
    new ResizeObserver(() => this.fit()).observe(this.element);
  }

  get text() {
    return this.box.value;
  }

  /** Show another text; `marks` are its tokens. */
  show(text, marks) {
    this.box.value = withBreaks(text);
    this.marks = [...marks];
    this.spans = [];
    this.drawSoon();
  }

  /** Append tokens to the text. */
  append(text, tokens) {
    let at = this.text.length;
    this.box.value += withBreaks(text);
    for (const { text: said, logprob, others } of tokens) {
      const own = withBreaks(said);
      if (own) this.marks.push({ at, end: at + own.length, logprob, others });
      at += own.length;
    }
    this.drawSoon();
  }

  /** What was typed changes nothing before it: the tokens there keep their probabilities. */
  edited() {
    const { text, shownText } = this;
    let same = 0;
    const most = Math.min(text.length, shownText.length);
    while (same < most && text[same] === shownText[same]) same += 1;
    this.marks = this.marks.filter((mark) => mark.end <= same);
    this.drawSoon();
    this.onEdit();
  }

  /** The token at the cursor and its span, or nulls. */
  atCursor() {
    const at = this.box.selectionStart;
    const index = this.marks.findIndex((mark) => mark.at <= at && at < mark.end);
    const found = index >= 0 ? index : this.marks.findLastIndex((mark) => mark.end === at);
    return found < 0 ? [null, null] : [this.marks[found], this.spans[found]];
  }

  under({ clientX, clientY }) {
    const span = document.elementsFromPoint(clientX, clientY).find((one) => one.mark);
    return span ? [span.mark, span] : [null, null];
  }

  draw() {
    // While an answer grows, the tokens before keep their elements.
    let kept = 0;
    while (kept < this.spans.length && this.spans[kept].mark === this.marks[kept]) kept += 1;
    const end = kept ? this.marks[kept - 1].end : 0;
    const isSame = kept && this.text.startsWith(this.shownText.slice(0, end));
    if (!isSame) kept = 0;
    this.spans.length = kept;
    if (kept) while (this.layer.lastChild !== this.spans[kept - 1]) this.layer.lastChild.remove();
    else this.layer.replaceChildren();
    const added = document.createDocumentFragment();
    let at = kept ? end : 0;
    for (const mark of this.marks.slice(kept)) {
      if (mark.at > at) added.append(this.text.slice(at, mark.at));
      const own = this.text.slice(mark.at, mark.end);
      const span = element("span", { class: shade(mark.logprob) }, own);
      span.mark = mark;
      this.spans.push(span);
      added.append(span);
      at = mark.end;
    }
    // A line break at the very end shows only where something follows it.
    added.append(`${this.text.slice(at)}\u200b`);
    this.layer.append(added);
    this.shownText = this.text;
    this.fit();
  }

  fit() {
    this.box.style.height = `${this.layer.offsetHeight}px`;
  }
}
