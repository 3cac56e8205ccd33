// Markdown as elements. What a model writes is never parsed as markup: every word goes through
// textContent, links are the only attribute it can set, and pictures are not fetched.

import { copyButton, element } from "./dom.js";
import { coloured } from "./colouring.js";
import { inline, unturned } from "./inline.js";

const deepest = 8; // quotes and lists within each other; browsers fail at some thousands
const fence = /^ {0,3}(`{3,}|~{3,})\s*([^`]*)$/;
const heading = /^ {0,3}(#{1,6})\s+(.*)$/;
const rule = /^ {0,3}([-*_])( *\1){2,} *$/;
const quote = /^ {0,3}> ?/;
const item = /^( {0,8})([-*+]|\d{1,9}[.)])(?: +(.*)|)$/;
const tableRule = /^ {0,3}\|? *:?-+:? *(\| *:?-+:? *)*\|? *$/;
const longestLine = 4_000; // characters of a line that may be more than plain paragraph

/** Show `text` in `container`. What has not changed since the last call keeps its elements, so
 * that a growing answer costs its last block, and a selection in the others stays. */
export function showMarkdown(container, text) {
  const blocks = blocksOf(text.split("\n"));
  const shown = container.shownBlocks ?? [];
  let same = 0;
  while (same < blocks.length && same < shown.length && blocks[same].key === shown[same]) same += 1;
  while (container.childNodes.length > same) container.lastChild.remove();
  container.append(...blocks.slice(same).map((block) => elementOf(block, 0)));
  container.shownBlocks = blocks.map((block) => block.key);
}

/** Split lines into blocks {kind, lines, key}; `key` tells whether a block has changed. */
function blocksOf(lines) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (!lines[at].trim()) {
      at += 1;
      continue;
    }
    const kind = kindOf(lines, at);
    const end = ends[kind](lines, at);
    const own = lines.slice(at, end);
    const isOpen = kind === "code" && !closesFence(own);
    blocks.push({ kind, lines: own, key: `${kind}${isOpen ? " open" : ""}\n${own.join("\n")}` });
    at = end;
  }
  return blocks;
}

function kindOf(lines, at) {
  const line = lines[at];
  if (line.length > longestLine) return "paragraph";
  if (fence.test(line)) return "code";
  if (heading.test(line)) return "heading";
  if (rule.test(line)) return "rule";
  if (quote.test(line)) return "quote";
  if (item.test(line)) return "list";
  return startsTable(line, lines[at + 1] ?? "") ? "table" : "paragraph";
}

function startsTable(line, next) {
  if (![line, next].every((one) => one.includes("|"))) return false;
  if (next.length > longestLine || !tableRule.test(next)) return false;
  return cellsOf(line).length === cellsOf(next).length;
}

// Where the block of each kind that begins at a line ends.
const ends = {
  code(lines, at) {
    const [, mark] = lines[at].match(fence);
    for (let end = at + 1; end < lines.length; end += 1) {
      if (isFenceEnd(lines[end], mark)) return end + 1;
    }
    return lines.length;
  },
  heading: (lines, at) => at + 1,
  rule: (lines, at) => at + 1,
  quote: (lines, at) => endWhile(lines, at, (line) => quote.test(line)),
  list(lines, at) {
    const isOrdered = /\d/.test(lines[at].match(item)[2]);
    return endWhile(lines, at, (line, previous) => {
      const found = line.length < longestLine && line.match(item);
      if (found && found[1].length < 2) return /\d/.test(found[2]) === isOrdered;
      if (!line.trim() || /^(\t| {2,})/.test(line)) return true;
      return Boolean(previous.trim()) && !startsBlock(line);
    });
  },
  table: (lines, at) => endWhile(lines, at, (line) => line.includes("|")),
  paragraph(lines, at) {
    const next = endWhile(lines, at, (line) => line.trim() && !startsBlock(line));
    return Math.max(next, at + 1);
  },
};

function endWhile(lines, at, goesOn) {
  let end = at + 1;
  while (end < lines.length && goesOn(lines[end], lines[end - 1])) end += 1;
  return end;
}

function startsBlock(line) {
  if (line.length > longestLine) return false;
  return [fence, heading, rule, quote, item].some((form) => form.test(line));
}

function isFenceEnd(line, mark) {
  const text = line.trim();
  return text.length >= mark.length && text === mark[0].repeat(text.length);
}

function closesFence(lines) {
  return lines.length > 1 && isFenceEnd(lines.at(-1), lines[0].match(fence)[1]);
}

function elementOf({ kind, lines }, depth) {
  if (depth > deepest) return element("p", {}, lines.join("\n"));
  return makers[kind](lines, depth);
}

const makers = {
  code(lines) {
    const language = lines[0].match(fence)[2].trim().split(/\s/)[0];
    const text = lines.slice(1, closesFence(lines) ? -1 : undefined).join("\n");
    const code = element("code", {}, coloured(unturned(text), language));
    const name = element("span", { class: "language" }, language || "text");
    const bar = element("div", { class: "code-bar" }, name, copyButton(() => text, "Copy code"));
    return element("div", { class: "code-block" }, bar, element("pre", { tabindex: "0" }, code));
  },
  heading(lines) {
    const [, marks, text] = lines[0].match(heading);
    // The page's own headings are h1 and h2.
    const made = element(`h${Math.min(marks.length + 2, 6)}`);
    made.append(...inline(withoutEnd(text)));
    return made;
  },
  rule: () => element("hr"),
  quote(lines, depth) {
    const inner = blocksOf(lines.map((line) => line.replace(quote, "")));
    return element("blockquote", {}, ...inner.map((block) => elementOf(block, depth + 1)));
  },
  list(lines, depth) {
    const [, , mark] = lines[0].match(item);
    const start = Number.parseInt(mark, 10);
    const isOrdered = !Number.isNaN(start);
    const list = element(isOrdered ? "ol" : "ul", isOrdered && start !== 1 ? { start } : {});
    // In a list without blank lines each item's text stands in the item itself.
    const isTight = !lines.join("\n").trimEnd().includes("\n\n");
    list.append(...itemsOf(lines).map((own) => itemElement(own, isTight, depth)));
    return list;
  },
  table(lines) {
    const rows = lines.map(cellsOf);
    const sides = rows[1].map((cell) => side(cell.trim()));
    const row = (cells, name) =>
      element("tr", {}, ...sides.map((where, index) => {
        const cell = element(name, { class: where });
        cell.append(...inline((cells[index] ?? "").trim()));
        return cell;
      }));
    const head = element("thead", {}, row(rows[0], "th"));
    const body = element("tbody", {}, ...rows.slice(2).map((cells) => row(cells, "td")));
    const scroll = { class: "table", tabindex: "0", role: "region", "aria-label": "Table" };
    return element("div", scroll, element("table", {}, head, body));
  },
  paragraph(lines) {
    const made = element("p");
    made.append(...inline(lines.join("\n")));
    return made;
  },
};

/** A heading's text without the `#` that may close it. */
function withoutEnd(text) {
  let end = text.trimEnd();
  while (end.endsWith("#")) end = end.slice(0, -1);
  return end.trimEnd();
}

function itemsOf(lines) {
  const items = [];
  let width = 2;
  for (const line of lines) {
    const found = line.length < longestLine && line.match(item);
    if (found && (found[1].length < 2 || !items.length)) {
      items.push([found[3] ?? ""]);
      width = found[1].length + found[2].length + 1;
    } else {
      const indent = line.startsWith("\t") ? 1 : Math.min(line.match(/^ */)[0].length, width);
      items.at(-1).push(line.slice(indent));
    }
  }
  return items;
}

function itemElement(lines, isTight, depth) {
  const task = lines[0].match(/^\[([ xX])\] (.*)$/);
  const own = task ? [task[2], ...lines.slice(1)] : lines;
  const blocks = blocksOf(own);
  const made = element("li");
  if (task) {
    const isDone = task[1] !== " ";
    made.classList.add("task");
    made.append(element("input", { type: "checkbox", disabled: true, checked: isDone }));
  }
  for (const block of blocks) {
    const child = elementOf(block, depth + 1);
    if (isTight && block.kind === "paragraph") made.append(...child.childNodes);
    else made.append(child);
  }
  return made;
}

function cellsOf(line) {
  const cells = line.trim().replace(/^\|/, "").replace(/\|$/, "").split(/(?<!\\)\|/);
  return cells.map((cell) => cell.replaceAll("\\|", "|"));
}

function side(mark) {
  if (mark.endsWith(":")) return mark.startsWith(":") ? "centre" : "end";
  return "start";
}
