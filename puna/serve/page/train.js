// The curves of training runs, live while they run.

import { element, written } from "./dom.js";
import { get, getJson } from "./api.js";
import { Chart } from "./chart.js";
import { notice } from "./notice.js";
import { RunState } from "./run_state.js";

const pollMs = 2000;
const silentSeconds = 120; // after its last line a run without an end is called silent

const fixed = (digits) => (value) => value.toFixed(digits);
const exponent = (value) => (value === 0 ? "0" : value.toExponential(1));

export class Train {
  constructor(panel) {
    this.panel = panel;
    this.runs = [];
    this.states = new Map();
    this.chosen = null;
    this.timer = 0;
    this.isShown = false;
    this.build();
    document.addEventListener("visibilitychange", () => !document.hidden && this.poll());
    notice.onKey(() => this.poll());
  }

  build() {
    this.select = element("select", { "aria-label": "Run", "data-main-field": true });
    this.select.addEventListener("change", () => this.choose(this.select.value));
    this.beside = element("select", { "aria-label": "Another run beside it" });
    this.beside.addEventListener("change", () => this.poll());
    this.state = element("span", { class: "run-state", role: "status" });
    this.tiles = element("dl", { class: "tiles" });
    this.charts = {
      loss: new Chart({ title: "Loss", unit: "nats a token", format: fixed(3) }),
      bits: new Chart({ title: "Bits per byte", unit: "of text held out", format: fixed(3) }),
      rate: new Chart({ title: "Learning rate", unit: "", format: exponent }),
      norm: new Chart({ title: "Gradient norm", unit: "before clipping", format: fixed(2) }),
      speed: new Chart({ title: "Speed", unit: "tokens/s", format: written }),
      mfu: new Chart({ title: "Use of the machine", unit: "% of its peak", format: fixed(1) }),
    };
    this.samples = element("ol", { class: "samples" });
    const name = element("h2", {}, "What it wrote");
    this.written = element("section", { "aria-label": "Samples" }, name, this.samples);
    this.none = element("div", { class: "welcome", hidden: true });
    this.none.append(
      element("h2", {}, "No training run to show"),
      element("p", { class: "soft" }, "Start the server with the folder of a run, or of several:"),
      element("pre", {}, element("code", {}, "puna serve MODEL --runs DIR")),
      element("p", { class: "soft" },
        "A run that is under way is drawn live; `puna report` makes the page to keep."),
    );
    const charts = Object.values(this.charts).map((chart) => chart.element);
    this.body = element(
      "div", { class: "run", hidden: true },
      element("div", { class: "tool-foot" }, this.select, this.beside, this.state),
      this.tiles,
      element("div", { class: "charts" }, ...charts),
      this.written,
    );
    this.panel.append(element("div", { class: "train scroll" }, this.none, this.body));
  }

  shown() {
    this.isShown = true;
    this.poll();
  }

  hidden() {
    this.isShown = false;
    clearTimeout(this.timer);
  }

  choose(name) {
    this.chosen = name;
    this.poll();
  }

  async poll() {
    clearTimeout(this.timer);
    if (!this.isShown || document.hidden) return;
    try {
      await this.list();
      for (const name of [this.chosen, this.beside.value]) if (name) await this.read(name);
      this.draw();
      if (this.hasFailed) notice("");
      this.hasFailed = false;
    } catch (error) {
      notice.failure(error);
      this.hasFailed = true;
      if (error.status === 401) return; // it goes on with another key
    }
    this.timer = setTimeout(() => this.poll(), pollMs);
  }

  async list() {
    this.runs = (await getJson("runs")).data;
    this.none.hidden = this.runs.length > 0;
    this.body.hidden = !this.runs.length;
    const names = this.runs.map((run) => run.name);
    if (!names.includes(this.chosen)) this.chosen = names[0] ?? null;
    refill(this.select, names.map((name) => [name, name]), this.chosen);
    const others = names.filter((name) => name !== this.chosen);
    const choices = others.map((name) => [name, `beside ${name}`]);
    refill(this.beside, [["", "Compare with…"], ...choices], this.beside.value);
    this.beside.hidden = names.length < 2;
  }

  /** Read what the run wrote since the last time. */
  async read(name) {
    for (;;) {
      const state = this.states.get(name) ?? new RunState();
      const place = name.split("/").map(encodeURIComponent).join("/");
      const response = await get(`runs/${place}/metrics?after=${state.after}`);
      const isOther = Number(response.headers.get("Puna-From")) !== state.after;
      const current = isOther ? new RunState() : state;
      const text = await response.text();
      current.take(text);
      current.after = Number(response.headers.get("Puna-Next"));
      this.states.set(name, current);
      if (!text) return;
    }
  }

  draw() {
    const state = this.states.get(this.chosen);
    if (!state) return;
    const other = this.states.get(this.beside.value);
    const key = [this.chosen, state.after, this.beside.value, other?.after].join();
    this.state.textContent = this.words(state);
    if (key === this.drawn) return;
    this.drawn = key;
    this.tiles.replaceChildren(...tiles(state));
    const both = (make) => [make(state, 0), ...(other ? [make(other, 1)] : [])].flat();
    const of = (tone) => (other ? ` of ${tone ? this.beside.value : this.chosen}` : "");
    const smooth = (field, kind) => both((run, tone) => [
      run.curve(field, { name: "", kind: "faint", tone }),
      run.smooth(field, { name: kind + of(tone), kind: "line", tone }),
    ]);
    const dots = (field) => both((run, tone) =>
      run.dots(field, { name: `validation${of(tone)}`, kind: "dots", tone }));
    this.charts.loss.show([...smooth("loss", "training"), ...dots("loss")]);
    this.charts.bits.show(dots("bits_per_byte").map((curve) => ({ ...curve, kind: "line" })));
    this.charts.rate.show(both((run, tone) =>
      run.curve("learning_rate", { name: of(tone), kind: "line", tone })));
    this.charts.norm.show(smooth("gradient_norm", ""));
    this.charts.speed.show(smooth("tokens_per_second", ""));
    const percent = both((run, tone) => run.smooth("mfu", { name: of(tone), kind: "line", tone }));
    const known = percent.filter((curve) => curve.y.some((value) => value !== null));
    this.charts.mfu.show(known.map((curve) => ({
      ...curve, y: curve.y.map((value) => (value === null ? null : 100 * value)),
    })));
    this.samples.replaceChildren(...[...state.samples].reverse().map(sample));
    this.written.hidden = !state.samples.length;
  }

  words(state) {
    const { updated } = this.runs.find((run) => run.name === this.chosen);
    const unread = state.unread ? ` · ${state.unread} lines could not be read` : "";
    if (state.end) return state.end.reason + unread;
    const seconds = Date.now() / 1000 - updated;
    if (seconds > silentSeconds) return `silent for ${duration(seconds)}${unread}`;
    return `running${unread}`;
  }
}

function refill(select, options, wanted) {
  const now = [...select.options].map((option) => option.value).join("\n");
  if (now === options.map(([value]) => value).join("\n")) return;
  select.replaceChildren(...options.map(([value, words]) => element("option", { value }, words)));
  if (options.some(([value]) => value === wanted)) select.value = wanted;
}

function tiles(state) {
  const { last, session } = state;
  const validation = state.validations.at(-1);
  const facts = [];
  if (last) {
    const of = state.wantedSteps ? ` of ${written(state.wantedSteps)}` : "";
    facts.push(["Step", `${written(last.step)}${of}`]);
    facts.push(["Tokens", written(last.tokens)]);
    if (last.loss !== null) facts.push(["Loss", last.loss.toFixed(3)]);
  }
  if (validation?.bits_per_byte) facts.push(["Bits per byte", validation.bits_per_byte.toFixed(3)]);
  if (last) facts.push(["Time", duration(last.elapsed_seconds)]);
  if (state.secondsLeft) facts.push(["Left", duration(state.secondsLeft)]);
  if (session) facts.push(["Parameters", written(session.parameters)]);
  return facts.map(([name, value]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, value)));
}

function sample({ step, prompt, text }) {
  const quote = element("blockquote", {}, element("b", {}, prompt), text);
  return element("li", {}, element("p", { class: "soft" }, `After step ${written(step)}`), quote);
}

/** 95 seconds as "1 min 35 s", 4,000 as "1 h 6 min". */
function duration(seconds) {
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86_400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86_400)} d ${Math.floor((whole % 86_400) / 3600)} h`;
}
