// The chat: a conversation with the model, streamed, stopped, retried, edited into branches.

import { announce, element, find, fitHeight, icon, iconButton } from "./dom.js";
import { focusField, hasMouse, oncePerFrame, written } from "./dom.js";
import { chatPieces, postJson } from "./api.js";
import { ChatList } from "./chat_list.js";
import { messageElement, showText } from "./chat_message.js";
import { add, asMessages, newConversation, path } from "./conversation.js";
import { chosenModel, contextTokens, modelFacts, onModel } from "./models.js";
import { samplingControls } from "./sampling.js";
import { notice } from "./notice.js";
import { Answer } from "./stream.js";

const full = "This conversation fills the model's context. Begin a new one, or edit an earlier "
  + "message: what came after it stays in a branch of its own.";
const ideas = [
  ["Explain", "Why is the sky blue? Explain it to a child of ten."],
  ["Write", "Write a short poem about a llama in the high grassland."],
  ["Code", "Write a Python function that says whether a number is prime, and explain it."],
  ["Plan", "Plan a day in the mountains for someone who walks slowly."],
];
const nearEnd = 80; // pixels from the bottom within which the page follows the text
const narrow = matchMedia("(max-width: 1120px)"); // as the style says: the sides lie over the talk

export class Chat {
  constructor(panel) {
    this.panel = panel;
    this.conversation = newConversation();
    this.answer = null;
    this.list = new ChatList({
      open: (one) => {
        this.open(one);
        focusField(this.box);
      },
      begin: () => this.begin(),
      removed: (id) => id === this.conversation.id && this.change(newConversation()),
      failed: (error) => notice(error.message),
    });
    this.acts = {
      edit: (message, text) => this.edit(message, text),
      retry: (message) => this.reply(this.conversation.messages[message.parent]),
      goOn: (message) => this.goOn(message),
      show: (message, label) => this.showBranch(message, label),
    };
    this.sampling = samplingControls("chat");
    this.build();
    this.showConversation();
    this.list.load().catch(() => notice("This browser keeps no history: it is lost on reload"));
    onModel(() => this.modelChanged());
  }

  build() {
    this.log = element("div", { class: "log" });
    this.scroll = element("div", { class: "scroll", tabindex: "-1" }, this.log);
    this.box = element("textarea", {
      rows: "1", placeholder: "Write to the model", "aria-label": "Message",
      "data-main-field": true, dir: "auto", enterkeyhint: hasMouse() ? "send" : "enter",
      oninput: () => fitHeight(this.box),
    });
    this.box.addEventListener("keydown", (event) => this.pressed(event));
    this.send = element("button", { type: "submit", class: "send" });
    this.gauge = element("div", { class: "gauge", hidden: true });
    const composer = element("form", { class: "composer" }, this.box, this.send);
    composer.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.answer) this.answer.stop();
      else this.submit();
    });
    this.setBusy(false);
    const sides = [this.list.element, this.settings()];
    this.drawers = [
      this.drawer("menu", "Conversations", "is-listing", sides[0]),
      this.drawer("settings", "Settings of the chat", "is-setting", sides[1]),
    ];
    const [left, right] = this.drawers.map((one) => one.button);
    const head = element("div", { class: "chat-head" }, left, this.gauge, right);
    const talk = element("div", { class: "talk" }, head, this.scroll, composer);
    const shade = element("div", { class: "shade", onclick: () => this.closeDrawers() });
    this.panel.append(sides[0], talk, sides[1], shade);
    narrow.addEventListener("change", () => this.closeDrawers());
    this.closeDrawers();
  }

  /** The button of a side: with room for it, the side is open until `state` is set. */
  drawer(name, label, state, side) {
    const button = iconButton(name, label, () => {
      const isOpen = this.panel.classList.toggle(state) === narrow.matches;
      button.setAttribute("aria-expanded", String(isOpen));
      if (isOpen && narrow.matches) find("button, textarea", side).focus();
    });
    return { button, state, side };
  }

  closeDrawers() {
    for (const { button, state, side } of this.drawers) {
      if (narrow.matches && side.contains(document.activeElement)) button.focus();
      this.panel.classList.remove(state);
      button.setAttribute("aria-expanded", String(!narrow.matches));
    }
  }

  settings() {
    this.system = element("textarea", {
      rows: "4", placeholder: "You are a helpful assistant.", "aria-label": "System prompt",
      dir: "auto",
    });
    this.system.addEventListener("input", () => {
      this.conversation.system = this.system.value;
      if (path(this.conversation).length) this.keep();
    });
    const name = element("span", {}, "System prompt");
    const label = element("label", { class: "field" }, name, this.system);
    return element(
      "aside", { class: "side settings", "aria-label": "Settings of the chat" },
      label, element("h2", {}, "Sampling"), this.sampling.element,
    );
  }

  /** Called when the view is shown. */
  shown() {
    focusField(this.box);
  }

  /** Called for Escape: returns whether something was stopped or closed. */
  escape() {
    if (this.answer) {
      this.answer.stop();
      return true;
    }
    const isOpen = narrow.matches && this.panel.matches(".is-listing, .is-setting");
    if (isOpen) this.closeDrawers();
    return isOpen;
  }

  begin() {
    this.open(newConversation());
    focusField(this.box);
  }

  open(conversation) {
    if (narrow.matches) this.closeDrawers();
    this.change(conversation);
    this.toEnd();
  }

  change(conversation) {
    this.answer?.stop();
    this.conversation = conversation;
    this.showConversation();
  }

  pressed(event) {
    // Safari says 229 of the Enter that ends a composed word. A drawn keyboard has no Shift Enter
    // for a new line: there the button alone sends.
    const isComposing = event.isComposing || event.keyCode === 229;
    const sends = hasMouse() ? !event.shiftKey : event.ctrlKey || event.metaKey;
    if (event.key === "Enter" && sends && !isComposing) {
      event.preventDefault();
      if (!this.answer) this.submit();
    }
    if (event.key === "ArrowUp" && !this.box.value) {
      const edit = [...this.log.querySelectorAll(".message.user [data-act=edit]")].at(-1);
      if (!edit) return;
      event.preventDefault();
      edit.click();
    }
  }

  submit() {
    const text = this.box.value.trim();
    if (!text) return;
    this.box.value = "";
    fitHeight(this.box);
    this.say(path(this.conversation).at(-1)?.id ?? "", text);
  }

  say(parent, text) {
    this.conversation.system = this.system.value;
    const message = add(this.conversation, parent, "user", text);
    this.reply(message);
  }

  /** Let the model answer `message` of the user. */
  reply(message) {
    const reply = add(this.conversation, message.id, "assistant", "");
    reply.model = chosenModel();
    this.run(reply, { messages: asMessages(this.conversation, message.id) });
  }

  /** Let the model go on with its own message, as a new branch. */
  goOn(message) {
    if (!message.text) {
      this.acts.retry(message);
      return;
    }
    const reply = add(this.conversation, message.parent, "assistant", message.text);
    reply.model = chosenModel();
    const continued = { continue_final_message: true, add_generation_prompt: false };
    this.run(reply, { messages: asMessages(this.conversation), ...continued });
  }

  async run(reply, request) {
    this.answer?.stop();
    const { conversation } = this;
    const body = { model: reply.model, ...request, ...this.sampling.values() };
    const isCurrent = () => this.conversation === conversation;
    this.showConversation();
    this.toEnd();
    focusField(this.box); // what was pressed is gone
    const made = this.log.lastElementChild;
    made.setAttribute("aria-busy", "true");
    const draw = oncePerFrame(() => {
      if (!isCurrent() || !made.isConnected) return;
      const isFollowing = this.isAtEnd();
      showText(made, reply);
      if (isFollowing) this.toEnd();
      this.showGauge(answer.stats());
    });
    const answer = new Answer((signal) => chatPieces(body, signal), (piece) => {
      reply.text += piece.text;
      draw();
    });
    this.answer = answer;
    this.setBusy(true);
    this.keep();
    try {
      reply.stats = await answer.finished;
      reply.finish = reply.stats.finish;
    } catch (error) {
      reply.error = error.code === "context_length_exceeded" ? full : error.message;
      if (error.status === 401) notice.askForKey(error.message);
    }
    if (this.answer === answer) {
      this.answer = null;
      this.setBusy(false);
    }
    conversation.updated = Date.now();
    if (isCurrent()) this.finished(reply, made);
    if (reply.stats?.promptTokens === null) {
      reply.stats.promptTokens = await promptTokens(reply.model, request).catch(() => null);
      if (isCurrent() && !this.answer) this.showGauge(reply.stats);
    }
    this.list.keep(conversation).catch((error) => notice(error.message));
  }

  /** Show the whole of an answer; what is open beside it, an edit perhaps, stays. */
  finished(reply, made) {
    const isFollowing = this.isAtEnd();
    made.replaceWith(messageElement(this.conversation, reply, this.acts));
    this.showGauge(reply.stats ?? null);
    if (isFollowing) this.toEnd();
  }

  keep() {
    this.list.keep(this.conversation).catch((error) => notice(error.message));
  }

  setBusy(isBusy) {
    this.send.replaceChildren(icon(isBusy ? "stop" : "send"));
    const label = isBusy ? "Stop" : "Send";
    this.send.setAttribute("aria-label", label);
    this.send.title = label;
    this.send.classList.toggle("is-stop", isBusy);
  }

  showConversation() {
    const messages = path(this.conversation);
    const made = messages.map((one) => messageElement(this.conversation, one, this.acts));
    this.log.replaceChildren(...made);
    if (!messages.length) this.log.append(this.welcome());
    this.system.value = this.conversation.system;
    this.list.show(this.conversation);
    const stats = messages.findLast((one) => one.stats?.promptTokens)?.stats;
    this.showGauge(stats ?? null);
  }

  showBranch(message, label) {
    this.answer?.stop();
    this.showConversation();
    this.keep();
    // The focus stays on the button that was pressed, whose message is another one now.
    const place = this.log.querySelector(`[data-id="${message.id}"]`);
    place?.querySelector(`[aria-label="${label}"]:not([disabled])`)?.focus();
    announce(find(".branches", place).getAttribute("aria-label"));
  }

  edit(message, text) {
    if (message.role === "user") {
      if (text.trim()) this.say(message.parent, text.trim());
      return;
    }
    const edited = add(this.conversation, message.parent, "assistant", text);
    edited.model = message.model;
    this.showConversation();
    focusField(this.box);
    this.keep();
  }

  welcome() {
    const buttons = ideas.map(([kind, text]) => {
      const own = { type: "button", class: "idea", onclick: () => this.say("", text) };
      return element("button", own, element("b", {}, kind), element("span", {}, text));
    });
    this.hint = element("p", { class: "hint", hidden: true });
    const name = element("h2", {}, "What shall we talk about?");
    const isHere = ["127.0.0.1", "localhost", "[::1]"].includes(location.hostname);
    const words = isHere ? "Everything stays on this machine: the model, the page, what you write."
      : "What you write goes to this server alone; the history stays in your browser.";
    const soft = element("p", { class: "soft" }, words);
    const made = element("div", { class: "welcome" }, name, soft, this.hint);
    made.append(element("div", { class: "ideas" }, ...buttons));
    this.hintForBase();
    return made;
  }

  modelChanged() {
    this.hintForBase();
    const stats = path(this.conversation).findLast((one) => one.stats?.promptTokens)?.stats;
    this.showGauge(stats ?? null);
  }

  /** A model without a chat template goes on with texts: say so before the first message. */
  async hintForBase() {
    if (!this.hint || !chosenModel()) return;
    const { hint } = this;
    try {
      const { chat_template: template } = await modelFacts(chosenModel());
      hint.hidden = Boolean(template);
    } catch {
      hint.hidden = true; // the first message will tell what is wrong
    }
    const link = element("a", { href: "#complete" }, "Complete");
    const words = "has no chat template: it was made to go on with a text. Try it in";
    hint.replaceChildren(`${chosenModel()} ${words} `, link, ".");
  }

  showGauge(stats) {
    const most = contextTokens(chosenModel());
    const before = stats?.promptTokens ?? this.usedBefore ?? 0;
    if (stats?.promptTokens) this.usedBefore = stats.promptTokens + stats.tokens;
    this.gauge.hidden = !stats;
    if (!stats) {
      this.usedBefore = 0;
      return;
    }
    const used = before + stats.tokens;
    const words = most ? `${written(used)} of ${written(most)} tokens` : `${written(used)} tokens`;
    const speed = stats.tokensPerSecond ? ` · ${written(stats.tokensPerSecond)} tokens/s` : "";
    const meter = element("meter", { min: 0, max: most ?? used, high: 0.9 * (most ?? used) });
    meter.setAttribute("aria-label", "Context used");
    meter.value = used;
    this.gauge.replaceChildren(...(most ? [meter] : []), element("span", {}, words + speed));
  }

  isAtEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroll;
    return scrollHeight - scrollTop - clientHeight < nearEnd;
  }

  toEnd() {
    this.scroll.scrollTop = this.scroll.scrollHeight;
  }
}

/** The tokens of a request's prompt: of an answer that was stopped the server does not say. */
async function promptTokens(model, request) {
  const { prompt } = await postJson("apply-template", { model, ...request });
  const exact = { add_special_tokens: false, parse_special: true };
  return (await postJson("tokenize", { model, prompt, ...exact })).count;
}
