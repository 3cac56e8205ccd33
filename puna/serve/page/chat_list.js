// The conversations kept in this browser: search, open, rename, delete, export and import.

import { announce, element, icon, iconButton, saveFile } from "./dom.js";
import { fromFile, toFile } from "./conversation.js";
import * as store from "./store.js";

/** The list at the side. `acts`: open(conversation), begin(), removed(id), failed(error). */
export class ChatList {
  constructor(acts) {
    this.acts = acts;
    this.all = [];
    this.current = null;
    this.search = element("input", {
      type: "search", placeholder: "Search", "aria-label": "Search the conversations",
      oninput: () => this.draw(),
    });
    this.list = element("ul", { class: "conversations" });
    this.deleted = new Set(); // ids: an answer that ends late keeps none of these
    this.undo = element("div", { class: "deleted", hidden: true });
    const begin = { type: "button", class: "new-chat", onclick: () => acts.begin() };
    const file = element("input", { type: "file", accept: ".json,application/json", hidden: true });
    file.addEventListener("change", () => this.import(file));
    const exportAll = iconButton("download", "Export all conversations", () => {
      saveFile("puna-conversations.json", toFile(this.all));
    });
    const importFile = iconButton("upload", "Import conversations", () => file.click());
    this.element = element(
      "aside", { class: "side", id: "conversations", "aria-label": "Conversations" },
      element("button", begin, icon("plus"), "New conversation"),
      this.search,
      element("nav", { class: "scroll", "aria-label": "Conversations" }, this.list),
      this.undo,
      element(
        "div", { class: "side-foot" },
        element("span", { class: "soft" }, "Kept in this browser"), importFile, exportAll, file,
      ),
    );
  }

  /** Read what is kept; returns all conversations, the latest first. */
  async load() {
    this.all = await store.conversations();
    this.draw();
    return this.all;
  }

  /** Keep `conversation` and move it to the top. */
  async keep(conversation) {
    if (this.deleted.has(conversation.id)) return;
    this.all = [conversation, ...this.all.filter((one) => one.id !== conversation.id)];
    this.all.sort((one, other) => other.updated - one.updated);
    this.draw();
    await store.saveConversation(conversation);
  }

  show(conversation) {
    this.current = conversation.id;
    this.undo.hidden = true;
    this.draw();
  }

  draw() {
    const wanted = this.search.value.trim().toLowerCase();
    const found = this.all.filter((one) => !wanted || textOf(one).includes(wanted));
    this.list.replaceChildren(...found.map((one) => this.row(one)));
    if (!found.length) {
      const words = wanted ? "Nothing found" : "Nothing yet";
      this.list.append(element("li", { class: "soft nothing" }, words));
    }
  }

  row(conversation) {
    const isCurrent = conversation.id === this.current;
    const title = conversation.title || "Untitled";
    const open = { type: "button", class: "conversation", title, "data-id": conversation.id };
    const button = element("button", { ...open, "aria-current": isCurrent && "true" }, title);
    button.addEventListener("click", () => this.acts.open(conversation));
    const item = element("li", {}, button);
    const rename = iconButton("edit", `Rename: ${title}`, () => this.rename(item, conversation));
    const save = iconButton("download", `Export: ${title}`, () => {
      saveFile("puna-conversation.json", toFile([conversation]));
    });
    const remove = iconButton("trash", `Delete: ${title}`, () => this.remove(conversation));
    item.append(element("div", { class: "conversation-acts" }, rename, save, remove));
    return item;
  }

  focus(id) {
    this.list.querySelector(`[data-id="${CSS.escape(id)}"]`)?.focus();
  }

  rename(item, conversation) {
    const field = element("input", { type: "text", "aria-label": "Title", class: "rename" });
    field.value = conversation.title;
    let isLeft = false;
    const leave = (isKept) => {
      if (isLeft) return;
      isLeft = true;
      if (isKept && field.value.trim()) conversation.title = field.value.trim();
      this.keep(conversation).catch(this.acts.failed);
    };
    field.addEventListener("keydown", (event) => {
      if (!["Enter", "Escape"].includes(event.key) || event.isComposing) return;
      event.stopPropagation();
      leave(event.key === "Enter");
      this.focus(conversation.id);
    });
    field.addEventListener("blur", () => leave(true));
    item.replaceChildren(field);
    field.focus();
    field.select();
  }

  /** Delete it, in the browser before on the screen; until another is opened it can be undone. */
  async remove(conversation) {
    const { id } = conversation;
    this.deleted.add(id);
    await store.deleteConversation(id).catch(this.acts.failed);
    this.all = this.all.filter((one) => one.id !== id);
    this.draw();
    this.acts.removed(id);
    const back = () => {
      this.deleted.delete(id);
      this.undo.hidden = true;
      this.keep(conversation).catch(this.acts.failed);
      this.focus(id);
    };
    const button = { type: "button", class: "quiet small", onclick: back };
    const undo = element("button", button, "Undo");
    const words = element("span", {}, `Deleted: ${conversation.title || "Untitled"}`);
    this.undo.replaceChildren(words, undo);
    this.undo.hidden = false;
    announce("Conversation deleted");
    undo.focus();
  }

  async import(file) {
    try {
      const read = fromFile(await file.files[0].text());
      for (const conversation of read) await this.keep(conversation);
      announce(`${read.length} imported`);
      if (read.length) this.acts.open(read[0]);
    } catch (error) {
      this.acts.failed(error);
    }
    file.value = "";
  }
}

function textOf(conversation) {
  const texts = Object.values(conversation.messages).map((message) => message.text);
  return [conversation.title, ...texts].join("\n").toLowerCase();
}
