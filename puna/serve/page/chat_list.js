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
    this.all = [conversation, ...this.all.filter((one) => one.id !== conversation.id)];
    this.all.sort((one, other) => other.updated - one.updated);
    this.draw();
    await store.saveConversation(conversation);
  }

  show(conversation) {
    this.current = conversation.id;
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
    const open = { type: "button", class: "conversation", "aria-current": isCurrent && "true" };
    const title = conversation.title || "Untitled";
    const button = element("button", open, title);
    button.addEventListener("click", () => this.acts.open(conversation));
    const item = element("li", {}, button);
    const rename = iconButton("edit", `Rename: ${title}`, () => this.rename(item, conversation));
    const save = iconButton("download", `Export: ${title}`, () => {
      saveFile("puna-conversation.json", toFile([conversation]));
    });
    const remove = iconButton("trash", `Delete: ${title}`, () => this.remove(item, conversation));
    item.append(element("div", { class: "conversation-acts" }, rename, save, remove));
    return item;
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
      if (event.key === "Enter") leave(true);
      if (event.key === "Escape") leave(false);
    });
    field.addEventListener("blur", () => leave(true));
    item.replaceChildren(field);
    field.focus();
    field.select();
  }

  remove(item, conversation) {
    const undo = element("button", { type: "button", class: "quiet small" }, "Undo");
    const words = element("span", { class: "soft" }, "Deleted");
    item.replaceChildren(element("div", { class: "deleted" }, words, undo));
    announce("Conversation deleted");
    undo.focus();
    const done = setTimeout(async () => {
      this.all = this.all.filter((one) => one.id !== conversation.id);
      await store.deleteConversation(conversation.id).catch(this.acts.failed);
      this.draw();
      this.acts.removed(conversation.id);
    }, 4000);
    undo.addEventListener("click", () => {
      clearTimeout(done);
      this.draw();
    });
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
