// Emphasis, code, links within a line of Markdown, in time linear in its length: a model may write
// a hundred thousand stars.

import { codePoint, element } from "./dom.js";

const special = /[\\`*_~[\]<&]|https?:\/\//g;
const entity = /&(?:#(\d{1,7})|#[xX]([\da-fA-F]{1,6})|(amp|lt|gt|quot|apos|nbsp));/y;
const characters = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0" };
const plainPart = String.raw`[^\s()<>]{0,1000}`;
const destination = new RegExp(
  String.raw`\]\(\s{0,9}<?(${plainPart}(?:\(${plainPart}\)${plainPart}){0,4})>?`
    + String.raw`(?:\s{1,9}"[^"\n]{0,300}")?\s{0,9}\)`,
  "y",
);
const bareLink = /https?:\/\/[^\s<>"'`\\)\]]{1,2000}/y;
const angleLink = /<(https?:\/\/[^\s<>]{1,2000}|[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,64}){1,4})>/y;
const turns = /[\u202a-\u202e\u2066-\u2069]/g;
const names = { "*": "em", _: "em", "**": "strong", __: "strong", "~~": "del" };
const mostOpen = 20; // so deep may emphasis nest; the rest is plain text

/** Code with what turns the direction of text shown: with it, code reads otherwise than it runs. */
export function unturned(code) {
  return code.replace(turns, (one) => `⟨${codePoint(one)}⟩`);
}

/** The nodes that `text` stands for. */
export function inline(text) {
  return new Scanner(text).nodes();
}

class Scanner {
  constructor(text) {
    this.text = text;
    this.out = [];
    this.words = ""; // plain text that is not in `out` yet
    this.open = []; // {mark, index}: what waits for its end, where its nodes begin
    this.unclosed = new Set(); // lengths of backtick runs that end nowhere
  }

  nodes() {
    const { text } = this;
    let at = 0;
    for (;;) {
      special.lastIndex = at;
      const found = special.exec(text);
      if (!found) break;
      this.plain(text.slice(at, found.index));
      at = this.step(found.index, found[0]);
    }
    this.plain(text.slice(at));
    this.add();
    return this.out;
  }

  plain(text) {
    this.words += text;
  }

  /** Append nodes after the plain text so far. */
  add(...nodes) {
    if (this.words) this.out.push(document.createTextNode(this.words));
    this.words = "";
    this.out.push(...nodes);
  }

  /** Append what may turn out to be a mark. */
  begin(mark) {
    this.add(document.createTextNode(mark));
    return { mark, index: this.out.length - 1 };
  }

  /** Take what stands at `at`; returns where the rest begins. */
  step(at, found) {
    const { text } = this;
    if (found === "\\") {
      const isEscape = /[!-/:-@[-`{-~]/.test(text[at + 1] ?? "");
      this.plain(isEscape ? text[at + 1] : "\\");
      return at + (isEscape ? 2 : 1);
    }
    if (found === "`") return this.code(at);
    if (found === "&") return this.entity(at);
    if (found === "[") return this.bracket(at);
    if (found === "]") return this.closeBracket(at);
    if (found === "<") return this.address(angleLink, at, 1) ?? this.literal(at, 1);
    if (found.startsWith("http")) return this.address(bareLink, at, 0) ?? this.literal(at, 4);
    return this.emphasis(at);
  }

  entity(at) {
    entity.lastIndex = at;
    const found = entity.exec(this.text);
    if (!found) return this.literal(at, 1);
    const [whole, decimal, hexadecimal, name] = found;
    const code = name ? 0 : Number.parseInt(decimal ?? hexadecimal, decimal ? 10 : 16);
    const isReal = code > 0 && code <= 0x10ffff;
    this.plain(name ? characters[name] : isReal ? String.fromCodePoint(code) : "\ufffd");
    return at + whole.length;
  }

  literal(at, length) {
    this.plain(this.text.slice(at, at + length));
    return at + length;
  }

  code(at) {
    const { text } = this;
    let start = at;
    while (text[start] === "`") start += 1;
    const length = start - at;
    if (this.unclosed.has(length)) return this.literal(at, length);
    const mark = "`".repeat(length);
    let end = text.indexOf(mark, start);
    while (end >= 0 && (text[end + length] === "`" || text[end - 1] === "`")) {
      let after = end;
      while (text[after] === "`") after += 1;
      end = text.indexOf(mark, after);
    }
    if (end < 0) {
      this.unclosed.add(length);
      return this.literal(at, length);
    }
    const inner = text.slice(start, end);
    const isPadded = /^ .*[^ ].* $/s.test(inner);
    this.add(element("code", {}, unturned(isPadded ? inner.slice(1, -1) : inner)));
    return end + length;
  }

  bracket(at) {
    const isFull = this.open.length >= mostOpen || this.open.some((one) => one.mark === "[");
    if (isFull) return this.literal(at, 1);
    this.open.push(this.begin("["));
    return at + 1;
  }

  closeBracket(at) {
    const place = this.open.findLastIndex((one) => one.mark === "[");
    if (place < 0) return this.literal(at, 1);
    destination.lastIndex = at;
    const found = destination.exec(this.text);
    const { index } = this.open[place];
    this.open.length = place;
    const address = found && safeAddress(found[1]);
    if (!address) return this.literal(at, 1);
    this.add();
    const [, ...children] = this.out.splice(index);
    // A picture would be fetched from wherever the model says: it is shown as a link.
    const last = this.out.at(-1);
    if (last?.nodeType === Node.TEXT_NODE && last.data.endsWith("!")) {
      last.deleteData(last.length - 1, 1);
    }
    this.add(linkTo(address, children));
    return at + found[0].length;
  }

  address(form, at, mark) {
    form.lastIndex = at;
    const found = form.exec(this.text);
    if (!found || this.open.some((one) => one.mark === "[")) return null;
    const shown = mark ? found[1] : found[0].replace(/[.,;:!?*_~]+$/, "");
    const address = safeAddress(shown.includes("://") ? shown : `mailto:${shown}`);
    if (!address) return null;
    this.add(linkTo(address, [shown]));
    return at + (mark ? found[0].length : shown.length);
  }

  emphasis(at) {
    const { text } = this;
    let end = at;
    while (text[end] === text[at]) end += 1;
    const run = text.slice(at, end);
    const before = text[at - 1] ?? " ";
    const after = text[end] ?? " ";
    const isPlain = run.length > 3 || (text[at] === "~" && run.length !== 2);
    if (isPlain) return this.literal(at, run.length);
    const isWord = text[at] === "_";
    const canOpen = !/\s/.test(after) && !(isWord && /[\p{L}\p{N}]/u.test(before));
    const canClose = !/\s/.test(before) && !(isWord && /[\p{L}\p{N}]/u.test(after));
    const marks = run.length === 3 ? [run[0], run.slice(0, 2)] : [run];
    if (canClose && this.close(marks)) return end;
    const isFull = this.open.length + marks.length > mostOpen;
    if (!canOpen || isFull) return this.literal(at, run.length);
    for (const mark of marks) this.open.push(this.begin(mark));
    return end;
  }

  /** Wrap what stands since the marks were opened, all of them or none. */
  close(marks) {
    const wanted = marks.length === 2 ? [...marks].reverse() : marks;
    if (!wanted.every((mark) => this.open.some((one) => one.mark === mark))) return false;
    for (const mark of wanted) {
      const place = this.open.findLastIndex((one) => one.mark === mark);
      if (place < 0) continue;
      const { index } = this.open[place];
      this.open.length = place;
      this.add();
      const [, ...children] = this.out.splice(index);
      this.add(element(names[mark], {}, ...children));
    }
    return true;
  }
}

/** An address that a click may go to, or null: no script, no data, nothing relative. */
function safeAddress(text) {
  let address;
  try {
    address = new URL(text);
  } catch {
    return null;
  }
  return ["http:", "https:", "mailto:"].includes(address.protocol) ? address.href : null;
}

function linkTo(address, children) {
  const apart = { target: "_blank", rel: "noopener noreferrer" };
  const shown = children.length ? children : [address];
  return element("a", { href: address, title: address, ...apart }, ...shown);
}
