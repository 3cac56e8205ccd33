// Modest colours for code: comments, strings, numbers, keywords and names that are called.

import { element } from "./dom.js";

const longest = 50_000; // characters; colours beyond cost more time than a frame has

const words = (text) => new Set(text.trim().split(/\s+/));
const strings = String.raw`"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?`;
const slashes = String.raw`\/\/[^\n]*|\/\*[\s\S]*?(?:\*\/|$)`;
const hash = String.raw`#[^\n]*`;

const families = {
  python: {
    comments: hash,
    strings: String.raw`[rbfuRBFU]{0,2}(?:"""[\s\S]*?(?:"""|$)|'''[\s\S]*?(?:'''|$)|${strings})`,
    keywords: words(`and as assert async await break case class continue def del elif else except
      False finally for from global if import in is lambda match None nonlocal not or pass raise
      return True try while with yield self`),
  },
  braces: {
    comments: slashes,
    strings: `${strings}|\`(?:\\\\[\\s\\S]|[^\`\\\\])*\`?`,
    keywords: words(`abstract as async auto await bool boolean break byte case catch char class
      const constexpr continue crate default defer delete do double else enum export extends extern
      false final finally float fn for foreach from func function go if impl implements import in
      inline instanceof int interface internal is let long loop map match mod module move mut
      namespace new nil null nullptr of operator override package private protected pub public
      readonly ref return self short signed sizeof static string struct super switch template this
      throw throws trait true try type typedef typename typeof undefined union unsafe unsigned use
      using val var virtual void volatile where while yield`),
  },
  shell: {
    comments: String.raw`(?<=^|\s)#[^\n]*`,
    strings: strings,
    keywords: words(`case do done elif else esac exit export fi for function if in local return set
      then unset until while cd echo sudo source`),
  },
  sql: {
    comments: String.raw`--[^\n]*|\/\*[\s\S]*?(?:\*\/|$)`,
    strings: strings,
    isCaseless: true,
    keywords: words(`add all alter and as asc between by case check column constraint create
      database default delete desc distinct drop else end exists foreign from full group having if
      in index inner insert into is join key left like limit not null offset on or order outer
      primary references right select set table then union unique update values view when where
      with`),
  },
  markup: {
    comments: String.raw`<!--[\s\S]*?(?:-->|$)`,
    strings: strings,
    keywords: words(""),
    names: String.raw`<\/?[\w:-]+|\/?>`,
  },
  data: { comments: hash, strings: strings, keywords: words("true false null yes no on off") },
};

const languages = {
  python: "py python3 pycon ipython starlark",
  braces: `js javascript mjs jsx ts typescript tsx c h cpp c++ cc hpp cuda java kotlin kt scala
    swift go golang rust rs csharp cs php dart zig css scss json json5 jsonc proto groovy`,
  shell: "sh bash zsh fish console shell-session dockerfile docker makefile make powershell ps1",
  sql: "sqlite postgres postgresql mysql",
  markup: "html xml svg xhtml vue svelte",
  data: "yaml yml toml ini cfg conf properties r julia ruby rb perl pl elixir",
};

const familyOf = new Map();
for (const [family, names] of Object.entries(languages)) {
  for (const name of [family, ...words(names)]) familyOf.set(name, families[family]);
}

for (const family of Object.values(families)) {
  const names = family.names ?? String.raw`[A-Za-z_$][\w$]*`;
  family.form = new RegExp(
    `(?<comment>${family.comments})|(?<string>${family.strings})`
      + String.raw`|(?<number>\b(?:0[xXbBoO][\da-fA-F_]+|\d[\d_]*(?:\.\d+)?(?:[eE][+-]?\d+)?)\b)`
      + `|(?<name>${names})`,
    "gm",
  );
}

/** `code` as a fragment with its parts in spans; plain where the language is not known. */
export function coloured(code, language) {
  const fragment = document.createDocumentFragment();
  const family = familyOf.get(language.toLowerCase());
  if (!family || code.length > longest) {
    fragment.append(code);
    return fragment;
  }
  let at = 0;
  for (const found of code.matchAll(family.form)) {
    const kind = kindOf(found, code, family);
    if (!kind) continue;
    fragment.append(code.slice(at, found.index), element("span", { class: kind }, found[0]));
    at = found.index + found[0].length;
  }
  fragment.append(code.slice(at));
  return fragment;
}

function kindOf({ 0: text, index, groups }, code, family) {
  if (groups.comment) return "code-comment";
  if (groups.string) return "code-string";
  if (groups.number) return "code-number";
  if (family.names) return "code-keyword";
  if (family.keywords.has(family.isCaseless ? text.toLowerCase() : text)) return "code-keyword";
  return code[index + text.length] === "(" ? "code-called" : null;
}
