// A conversation is a tree: editing and retrying add a branch beside the old one, nothing is lost.
// Pure functions and data; the page shows the path from the root along the chosen children.

export const fileKind = "puna.conversations";
const roles = ["user", "assistant"];

/** {id, title, created, updated, system, messages, chosen}: messages by id, each {id, parent, role,
 * text, created, ...}; `chosen` tells for each parent ("" is the root) which child is shown. */
export function newConversation() {
  const now = Date.now();
  return {
    id: crypto.randomUUID?.() ?? `${now}-${Math.random()}`,
    title: "", created: now, updated: now, system: "", messages: {}, chosen: {},
  };
}

/** The messages that are shown, from first to last. */
export function path(conversation) {
  const shown = [];
  let id = conversation.chosen[""];
  while (id !== undefined) {
    shown.push(conversation.messages[id]);
    id = conversation.chosen[id];
  }
  return shown;
}

/** Append a message below `parent` (an id, or "") and show it; returns it. */
export function add(conversation, parent, role, text) {
  const count = Object.keys(conversation.messages).length;
  const message = { id: `m${count}`, parent, role, text, created: Date.now() };
  conversation.messages[message.id] = message;
  conversation.chosen[parent] = message.id;
  conversation.updated = message.created;
  if (!conversation.title && role === "user") {
    conversation.title = text.trim().replace(/\s+/g, " ").slice(0, 80);
  }
  return message;
}

/** The messages beside `message` and itself, oldest first. */
export function siblings(conversation, message) {
  const all = Object.values(conversation.messages);
  return all.filter((one) => one.parent === message.parent);
}

/** Show `message` instead of its siblings. */
export function choose(conversation, message) {
  conversation.chosen[message.parent] = message.id;
}

/** The messages as the API takes them. */
export function asMessages(conversation, until) {
  const messages = [];
  if (conversation.system.trim()) messages.push({ role: "system", content: conversation.system });
  for (const { id, role, text } of path(conversation)) {
    const last = messages.at(-1);
    // Where an answer failed before its first word, what was asked twice is one message.
    if (last?.role === role) last.content += `\n\n${text}`;
    else if (text || role === "user") messages.push({ role, content: text });
    if (id === until) break;
  }
  return messages;
}

/** The text of a file with these conversations. */
export function toFile(conversations) {
  return JSON.stringify({ kind: fileKind, version: 1, conversations }, null, 1);
}

/** The conversations of a file: ours, or a plain list of {role, content}. Throws Error. */
export function fromFile(text) {
  let content;
  try {
    content = JSON.parse(text);
  } catch {
    throw new Error("The file should be JSON, but cannot be read as such");
  }
  if (Array.isArray(content)) return [fromMessages(content)];
  if (content?.kind !== fileKind || content.version !== 1) {
    throw new Error(`The file should be an export of this page (${fileKind}, version 1)`);
  }
  if (!Array.isArray(content.conversations)) throw new Error("The file holds no conversations");
  return content.conversations.map(checked);
}

function fromMessages(list) {
  const conversation = newConversation();
  let parent = "";
  list.forEach((message, index) => {
    const { role, content } = message ?? {};
    if (typeof content !== "string") throw new Error(`Message ${index + 1} has no text`);
    if (role === "system" && index === 0) conversation.system = content;
    else if (roles.includes(role)) parent = add(conversation, parent, role, content).id;
    else throw new Error(`Message ${index + 1} should be of the user or the assistant`);
  });
  return conversation;
}

/** A conversation made anew of what is known of it, under a new id. */
function checked(found, index) {
  const name = `Conversation ${index + 1}`;
  const { messages, chosen } = found ?? {};
  if (!messages || typeof messages !== "object" || !chosen || typeof chosen !== "object") {
    throw new Error(`${name} has no messages`);
  }
  const made = newConversation();
  made.title = String(found.title ?? "").slice(0, 200);
  made.system = String(found.system ?? "");
  const ids = new Map([["", ""]]); // those of the file, and ours
  for (const one of Object.values(messages)) {
    const fits = one && roles.includes(one.role) && typeof one.text === "string";
    if (!fits || typeof one.id !== "string" || ids.has(one.id) || !ids.has(one.parent)) {
      throw new Error(`${name} has a message that cannot be read`);
    }
    const message = add(made, ids.get(one.parent), one.role, one.text);
    ids.set(one.id, message.id);
    if (typeof one.model === "string") message.model = one.model;
    if (Number.isFinite(one.stats?.tokens)) message.stats = numbersOf(one.stats);
    message.finish = one.finish;
  }
  for (const [parent, child] of Object.entries(chosen)) {
    const message = made.messages[ids.get(child)];
    const fits = message && message.parent === ids.get(parent);
    if (!fits) throw new Error(`${name} has a broken branch`);
    choose(made, message);
  }
  if (Number.isFinite(found.updated)) made.updated = found.updated;
  return made;
}

function numbersOf({ finish, ...stats }) {
  const known = ["promptTokens", "cachedTokens", "firstSeconds", "tokensPerSecond"];
  const numbers = known.map((name) => [name, Number.isFinite(stats[name]) ? stats[name] : null]);
  return { tokens: stats.tokens, ...Object.fromEntries(numbers), finish };
}
