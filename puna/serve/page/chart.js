// A chart of curves over steps, drawn as SVG; one reads off it with the pointer or the arrow keys.

import { drawn, element } from "./dom.js";

const most = 500; // points of a curve: more than a screen shows
const margin = { top: 8, right: 10, bottom: 22, left: 52 };
const height = 190; // as the style says

/** A curve {name, x, y, kind, tone}: kind "line", "faint" or "dots"; tone 0 or 1 its colour. */
export class Chart {
  constructor({ title, unit, format }) {
    Object.assign(this, { title, unit, format });
    this.curves = [];
    this.readout = element("output", {});
    this.plot = element("div", { class: "plot", tabindex: "0", role: "slider" });
    this.plot.setAttribute("aria-label", `${title}, read a step`);
    const name = element("h2", {}, title, " ", element("small", {}, unit));
    const head = element("figcaption", {}, name, this.readout);
    this.element = element("figure", { class: "chart" }, head, this.plot);
    this.plot.addEventListener("pointermove", (event) => this.pointed(event));
    this.plot.addEventListener("pointerdown", (event) => this.pointed(event));
    this.plot.addEventListener("pointerleave", () => this.rest());
    this.plot.addEventListener("keydown", (event) => this.pressed(event));
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  show(curves) {
    this.curves = curves.filter((curve) => curve.x.length).map(thinned);
    this.element.hidden = !this.curves.length;
    this.draw();
    this.rest();
  }

  draw() {
    const width = this.plot.clientWidth;
    if (!width || !this.curves.length) return;
    const values = this.curves.flatMap((curve) => curve.y.filter((value) => value !== null));
    const lastStep = Math.max(...this.curves.map((curve) => curve.x.at(-1)), 1);
    const [low, high, ticks] = this.axis(values);
    const inner = width - margin.left - margin.right;
    const tall = height - margin.top - margin.bottom;
    this.x = (step) => margin.left + (inner * step) / lastStep;
    this.y = (value) => margin.top + tall * (1 - (value - low) / (high - low || 1));
    const parts = [];
    for (const tick of ticks) {
      const y = this.y(tick);
      const line = { x1: margin.left, x2: width - margin.right, y1: y, y2: y };
      parts.push(drawn("line", { class: "grid", ...line }));
      const text = this.format(tick).replace(/(\.\d*?)0+(?=$|e)/, "$1").replace(/\.(?=$|e)/, "");
      parts.push(drawn("text", { class: "y", x: margin.left - 8, y: y + 4 }, text));
    }
    const steps = nice(0, lastStep, Math.max(2, Math.floor(inner / 110)));
    for (const tick of steps.filter((step) => step <= lastStep)) {
      const label = tick >= 10_000 ? `${tick / 1000}k` : String(tick);
      parts.push(drawn("text", { class: "x", x: this.x(tick), y: height - 4 }, label));
    }
    const window = { x: margin.left, y: margin.top, width: inner, height: tall };
    const viewBox = Object.values(window).join(" ");
    const lines = this.curves.filter((curve) => curve.kind !== "dots");
    parts.push(drawn("svg", { ...window, viewBox }, ...lines.map((curve) => this.line(curve))));
    for (const curve of this.curves.filter((one) => one.kind === "dots")) {
      parts.push(...this.dots(curve, high));
    }
    this.cross = drawn("line", { class: "cross", y1: margin.top, y2: height - margin.bottom });
    this.cross.style.visibility = "hidden";
    const picture = { viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true" };
    this.plot.replaceChildren(drawn("svg", picture, ...parts, this.cross));
    this.plot.setAttribute("aria-valuemin", "0");
    this.plot.setAttribute("aria-valuemax", String(lastStep));
  }

  /** Lowest and highest value shown, and where the lines are. */
  axis(values) {
    const sorted = [...values].sort((one, other) => one - other);
    // The first steps' loss would flatten the rest: of one value in fifty the axis knows nothing.
    const top = sorted[Math.floor(sorted.length * 0.98)] ?? 1;
    const low = sorted[0] ?? 0;
    const ticks = nice(low, Math.max(top, low + Math.abs(low) * 1e-3 + 1e-12), 4);
    return [ticks[0], ticks.at(-1), ticks];
  }

  dots({ x, y, tone }, high) {
    return x.map((step, index) => drawn("circle", {
      class: `dot tone-${tone}`, cx: this.x(step), cy: this.y(Math.min(y[index], high)), r: 3,
    }));
  }

  line({ x, y, kind, tone }) {
    let path = "";
    let isDrawing = false;
    x.forEach((step, index) => {
      if (y[index] !== null) {
        const place = `${this.x(step).toFixed(1)} ${this.y(y[index]).toFixed(1)}`;
        path += `${isDrawing ? "L" : "M"}${place}`;
      }
      isDrawing = y[index] !== null;
    });
    return drawn("path", { class: `${kind} tone-${tone}`, d: path });
  }

  pointed(event) {
    if (!this.curves.length) return;
    const left = this.plot.getBoundingClientRect().left;
    const share = (event.clientX - left - margin.left)
      / (this.plot.clientWidth - margin.left - margin.right);
    const lastStep = Math.max(...this.curves.map((curve) => curve.x.at(-1)));
    this.read(Math.min(Math.max(share, 0), 1) * lastStep);
  }

  pressed(event) {
    const main = this.curves[0];
    if (!main) return;
    const by = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    const at = nearest(main.x, this.at ?? main.x.at(-1));
    const next = Math.min(Math.max(at + by, 0), main.x.length - 1);
    this.read(main.x[next]);
  }

  read(step) {
    this.at = step;
    const main = this.curves[0];
    const shown = main.x[nearest(main.x, step)];
    this.tell(shown, `step ${Math.round(shown)}`, (curve) => curve.y[nearest(curve.x, step)]);
    if (!this.cross) return;
    this.cross.setAttribute("x1", this.x(shown));
    this.cross.setAttribute("x2", this.x(shown));
    this.cross.style.visibility = "visible";
  }

  /** Say the curves' values at a step, each that has a name after a mark of its colour. */
  tell(step, begin, valueOf) {
    const parts = this.curves.filter((curve) => curve.kind !== "faint").map((curve) => {
      const value = valueOf(curve);
      const words = `${curve.name} ${value === null ? "not finite" : this.format(value)}`;
      const mark = curve.name && `marked ${curve.kind} tone-${curve.tone}`;
      return element("span", { class: mark }, words.trim());
    });
    this.readout.replaceChildren(begin, ...parts);
    this.plot.setAttribute("aria-valuenow", String(Math.round(step)));
    const words = parts.map((part) => part.textContent);
    this.plot.setAttribute("aria-valuetext", [begin, ...words].join(" · "));
  }

  rest() {
    this.at = null;
    const last = Math.max(0, ...this.curves.map((curve) => curve.x.at(-1)));
    this.tell(last, "last", (curve) => curve.y.findLast((value) => value !== null) ?? null);
    if (this.cross) this.cross.style.visibility = "hidden";
  }
}

/** Means of as many neighbours as leave at most `most` points. */
function thinned(curve) {
  const size = Math.ceil(curve.x.length / most);
  if (size <= 1 || curve.kind === "dots") return curve;
  const x = [];
  const y = [];
  for (let at = 0; at < curve.x.length; at += size) {
    const values = curve.y.slice(at, at + size).filter((value) => value !== null);
    x.push(curve.x[Math.min(at + size, curve.x.length) - 1]);
    y.push(values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null);
  }
  return { ...curve, x, y };
}

/** Round numbers from at most `low` to at least `high`, about `count` of them. */
function nice(low, high, count) {
  const raw = (high - low || 1) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].find((factor) => factor * power >= raw) * power;
  const first = Math.floor(low / step + 1e-9);
  const ticks = [];
  for (let at = first; ticks.length < 20; at += 1) {
    ticks.push(Number((at * step).toPrecision(12)));
    if (at * step >= high - step * 1e-9) break;
  }
  return ticks;
}

function nearest(sorted, wanted) {
  let low = 0;
  let high = sorted.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < wanted) low = middle;
    else high = middle;
  }
  return wanted - sorted[low] <= sorted[high] - wanted ? low : high;
}
