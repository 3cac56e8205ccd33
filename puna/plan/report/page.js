"use strict";
// Asks again when a slider moves: the same mathematics as puna/plan/question.py and moving.py.
const data = JSON.parse(document.getElementById("points").textContent);
const { asked, frames } = data;
const sizes = data.parameters;
const indices = sizes.map((_, index) => index);
const COVERAGE = 0.9, SLACK = 1e-9;

// The law and the question

const lossOf = ([e, a, b, alpha, beta], n, d) => e + a / n ** alpha + b / d ** beta;

function tokensFor([e, a, b, alpha, beta], loss, n) {
  return (b / Math.max(loss - e - a / n ** alpha, 0)) ** (1 / beta);
}

function nearest(values, wanted) {
  const distance = (one) => Math.abs(Math.log(one / wanted));
  return values.reduce((best, one, i) => (distance(one) < distance(values[best]) ? i : best), 0);
}

function least(scores) {
  return scores.reduce((best, one, i) => (one < scores[best] ? i : best), 0);
}

function problem(state) {
  const cheaper = (state.price / asked.price) / (state.share / asked.share);
  const training = data.training.map((usd) => usd * cheaper);
  const served = data.servesAtSamePrice ? state.price / asked.price : 1;
  const inference = data.inference.map((usd) => (usd === null ? Infinity : usd * served));
  const use = inference.map((usd) => (state.used ? usd * state.used : 0));
  const limits = data.perToken.map(({ bound, each, price, share }) => {
    const times = (price ? state.price / asked.price : 1) / (share ? state.share / asked.share : 1);
    return { bound, each: each.map((one) => one * times) };
  });
  return { ...state, training, inference, use, limits };
}

function best(asks, law) {
  const target = asks.model ? lossOf(law, ...asks.model) : asks.loss;
  const tokens = indices.map((i) => {
    if (target !== null) return tokensFor(law, target, sizes[i]);
    const money = asks.budget === null ? Infinity : asks.budget - asks.use[i];
    const most = asks.limits.map(({ bound, each }) => bound / each[i]);
    return Math.max(0, Math.min(money / asks.training[i], ...most));
  });
  const usd = indices.map((i) => asks.training[i] * tokens[i] + asks.use[i]);
  const scores = indices.map((i) => {
    const kept = data.keeps[i] === "1" && Number.isFinite(tokens[i] + asks.use[i]) && tokens[i] > 0
      && (asks.budget === null || usd[i] <= asks.budget * (1 + SLACK))
      && asks.limits.every(({ bound, each }) => each[i] * tokens[i] <= bound * (1 + SLACK));
    if (!kept) return Infinity;
    return target === null ? lossOf(law, sizes[i], tokens[i]) : usd[i];
  });
  const index = least(scores);
  return scores[index] < Infinity ? { index, tokens: tokens[index], usd: usd[index] } : null;
}

function planned(asks, index, tokens) {
  const training = asks.training[index] * tokens, use = asks.use[index];
  const total = training + use;
  return { index, size: sizes[index], tokens, training, use, total };
}

function answer(state) {
  const asks = problem(state), found = best(asks, data.law);
  if (found === null) return null;
  const plan = planned(asks, found.index, found.tokens);
  const loss = lossOf(data.law, plan.size, plan.tokens);
  const tokens = sizes.map((size) => tokensFor(data.law, loss, size));
  const training = indices.map((i) => asks.training[i] * tokens[i]);
  const trained = least(training);
  const chinchilla = trained === plan.index ? plan : planned(asks, trained, tokens[trained]);
  const beside = (size) => {
    const i = nearest(sizes, size), isNear = Math.abs(Math.log(sizes[i] / size)) < data.near;
    return isNear && Number.isFinite(tokens[i]) ? planned(asks, i, tokens[i]) : null;
  };
  const [half, twice] = [beside(plan.size / 2), beside(plan.size * 2)];
  const named = state.model ? beside(state.model[0]) : null;
  const [each, otherEach] = [plan.index, trained].map((i) => asks.inference[i]);
  const pays = each < otherEach && otherEach < Infinity;
  const even = pays ? (plan.training - chinchilla.training) / (otherEach - each) : null;
  return {
    asks, plan, loss, tokens, training, even,
    others: { chinchilla, half, twice, named }, band: band(asks, plan),
  };
}

function band(asks, plan) {
  if (!data.draws.length) return null;
  const others = data.draws.map((law) => best(asks, law)).filter((one) => one !== null);
  return {
    loss: interval(data.draws.map((law) => lossOf(law, plan.size, plan.tokens))),
    parameters: interval(others.map((one) => sizes[one.index])),
    tokens: interval(others.map((one) => one.tokens)),
    total_usd: interval(others.map((one) => one.usd)),
    unanswered: 1 - others.length / data.draws.length,
  };
}

function interval(values) {
  const sorted = [...values].sort((one, other) => one - other);
  return [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2].map((share) => {
    const place = share * (sorted.length - 1), low = Math.floor(place);
    const high = Math.min(low + 1, sorted.length - 1);
    return sorted.length ? sorted[low] + (place - low) * (sorted[high] - sorted[low]) : NaN;
  });
}

// Words, as puna.console writes them

const short = (value, digits = 3) => String(Number(value.toPrecision(digits)));

function count(value) {
  for (const [suffix, limit] of [["T", 1e12], ["B", 1e9], ["M", 1e6], ["k", 1e3]]) {
    if (Math.abs(value) >= limit * 999.5)
      return Math.round(value / limit).toLocaleString("en-US") + suffix;
    if (Math.abs(value) >= limit * 0.9995) return short(value / limit) + suffix;
  }
  return short(value);
}

const usd = (value) => "$" + count(value);

function duration(seconds) {
  const whole = Math.round(seconds), two = (value) => String(value).padStart(2, "0");
  const years = seconds / (365.25 * 86400);
  if (seconds < 9.95) return `${short(seconds, 2)} s`;
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  if (whole < 86400 * 2)
    return `${Math.floor(whole / 3600)} h ${two(Math.floor((whole % 3600) / 60))} min`;
  return years < 2 ? `${short(seconds / 86400)} days` : `${count(years)} years`;
}

function row(plan) {
  if (!plan) return { size: "-", tokens: "-", training: "-", use: "-", total: "-" };
  const { size, tokens, training, use, total } = plan;
  return {
    size: count(size), tokens: count(tokens),
    training: usd(training),
    use: use < Infinity ? usd(use) : "-", total: use < Infinity ? usd(total) : "-",
  };
}

function span(key, bounds) {
  if (!bounds || Number.isNaN(bounds[0])) return "not known";
  const [low, high] = bounds.map((one) => (key === "loss" ? one.toFixed(3) : count(one)));
  return low === high ? low : `${low} to ${high}`;
}

function beyond(plan) {
  if (!data.span) return "Which runs the law was fitted to is not known.";
  const values = [plan.size, plan.tokens, plan.tokens / plan.size];
  const found = ["parameters", "tokens", "tokens a parameter"].flatMap((what, i) => {
    const value = values[i], [low, high] = data.span[i];
    if (value > high * 1.01)
      return [`${short(value / high)} times the most ${what} (${count(high)})`];
    if (value >= low / 1.01) return [];
    return [`${short(value / low, 2)} of the fewest ${what} (${count(low)})`];
  });
  return found.length ? `The plan lies beyond the runs behind the law: ${found.join(", ")}.`
    : "The plan lies within the runs behind the law.";
}

function said({ asks, plan, loss, others, even, band }) {
  const words = {
    loss: loss.toFixed(3),
    shape: data.shapes[plan.index],
    "per-parameter": count(plan.tokens / plan.size),
    time: duration(86400 * data.days[plan.index] * plan.tokens * asked.share / asks.share),
    used: count(asks.used),
    beyond: beyond(plan),
    unanswered: band && band.unanswered
      ? `By ${(100 * band.unanswered).toFixed(1)}% of the refits nothing keeps to the limits.` : "",
    million: asks.used ? usd(1e6 * plan.use / asks.used) : "-",
    even: plan === others.chinchilla ? "It is Chinchilla's plan."
      : others.chinchilla.use === Infinity
        ? "Chinchilla's plan is too large for one node that serves."
      : even === null ? "Chinchilla's plan costs less however much it is used."
        : `It costs less than Chinchilla's from ${count(even)} tokens of use on.`,
  };
  for (const [name, one] of Object.entries({ plan, ...others }))
    for (const [key, text] of Object.entries(row(one))) words[`${name}-${key}`] = text;
  for (const times of data.ticks) words[`tick-${times}`] = count(times * plan.size);
  for (const key of ["loss", "parameters", "tokens", "total_usd"])
    words[`band-${key}`] = span(key, band && band[key]);
  return words;
}

// Curves, dots and bars

function position([low, high, isLog], value) {
  return isLog ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low);
}

const thousandths = (place) => place.map((one) => Math.round(one * 10000) / 10);
const isDrawable = (axis, value) => Number.isFinite(value) && (value > 0 || !axis[2]);

function at(xAxis, x, yAxis, y) {
  if (!isDrawable(xAxis, x) || !isDrawable(yAxis, y)) return null;
  const place = [position(xAxis, x), position(yAxis, y)];
  return place.every((one) => one >= -1e-9 && one <= 1 + 1e-9) ? thousandths(place) : null;
}

function curve(xAxis, xs, yAxis, ys) {
  return xs.map((x, i) => [x, ys[i]])
    .filter(([, y]) => isDrawable(yAxis, y))
    .map(([x, y]) => [position(xAxis, x), position(yAxis, y)])
    .filter(([x, y]) => x >= -0.02 && x <= 1.02 && y >= -0.5 && y <= 1.5)
    .map(thousandths);
}

function curves({ asks, plan, tokens, training }) {
  const total = training.map((one, i) => one + asks.use[i]);
  const near = indices.filter((i) => total[i] <= data.cheap * plan.total);
  const map = (which) => curve(
    frames.parameters, which.map((i) => sizes[i]), frames.tokens, which.map((i) => tokens[i]));
  const times = sizes.map((size) => size / plan.size);
  const cost = (values) =>
    curve(frames.times, times, frames.cost, values.map((one) => one / plan.total));
  return {
    iso: map(indices), cheap: map(near),
    "cost-total": cost(total), "cost-training": cost(training), "cost-use": cost(asks.use),
  };
}

function dots({ asks, plan, loss, tokens, training, others: { chinchilla }, band }) {
  const map = (n, d) => at(frames.parameters, n, frames.tokens, d);
  const law = (value) => at(frames.flops, 6 * plan.size * plan.tokens, frames.loss, value);
  const found = {
    plan: map(plan.size, plan.tokens),
    chinchilla: map(chinchilla.size, chinchilla.tokens),
    "law-plan": law(loss),
    "law-low": law(band ? band.loss[0] : loss),
    "law-high": law(band ? band.loss[1] : loss),
    "cost-chinchilla": at(
      frames.times, chinchilla.size / plan.size, frames.cost, chinchilla.total / plan.total),
  };
  data.uses.forEach((used, number) => {
    const i = least(training.map((one, i) => one + asks.inference[i] * used));
    found[`use-${number}`] = map(sizes[i], tokens[i]);
  });
  return { ...found, ...labels(curves({ asks, plan, tokens, training })) };
}

function labels(drawn) {
  const seen = (name) => drawn[`cost-${name}`].filter((point) =>
    point.every((one) => one >= 0 && one <= 1000));
  return {
    "label-total": seen("total").at(-1) || null,
    "label-training": seen("training").at(-1) || null,
    "label-use": seen("use")[0] || null,
  };
}

const GIB = 2 ** 30;
const sum = (values) => values.reduce((one, other) => one + other, 0);

function memory({ plan, others: { chinchilla } }) {
  const bars = {}, words = {};
  for (const [name, one] of Object.entries({ plan, chinchilla })) {
    const size = data.laid[nearest(data.laid.map((each) => each.parameters), one.size)];
    const kinds = [["training", size.training, size.layout], ["serving", size.serving, size.group]];
    kinds.forEach(([kind, parts, how], number) => {
      const key = `${name}-${kind}`, room = data.rooms[number];
      const total = sum(Object.values(parts)), whole = Math.max(room, total);
      const share = (value) => Math.round(10000 * value / whole) / 10;
      bars[key] = [...data.parts.map(([part]) => share(parts[part] || 0)), share(room)];
      const over = total > room ? `, ${((total - room) / GIB).toFixed(1)} too much` : "";
      words[`${key}-of`] = `${count(size.parameters)}: ${how}`;
      words[`${key}-total`] = total
        ? `${(total / GIB).toFixed(1)} of ${(room / GIB).toFixed(1)} GiB${over}` : "-";
      words[`${key}-parts`] = data.parts.filter(([part]) => parts[part])
        .map(([part, title]) => `${title} ${(parts[part] / GIB).toFixed(1)}`).join(", ");
    });
  }
  return { bars, words };
}

function moving(state) {
  const found = answer(state);
  if (found === null) return null;
  const { bars, words } = memory(found);
  return { said: { ...said(found), ...words }, curves: curves(found), dots: dots(found), bars };
}

// The page

const one = (id) => document.getElementById(id);
const percent = (value) => value / 10 + "%";

function place(element, attributes) {
  element.removeAttribute("display");
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
}

function draw(moved) {
  for (const element of document.querySelectorAll("[data-say]"))
    element.textContent = moved.said[element.dataset.say];
  for (const [key, points] of Object.entries(moved.curves)) {
    const steps = points.map(([x, y], i) =>
      `${i ? "L" : "M"}${x} ${Math.round(10000 - 10 * y) / 10}`);
    one(`curve-${key}`).setAttribute("d", steps.join(""));
  }
  for (const [key, point] of Object.entries(moved.dots)) {
    const element = one(`dot-${key}`);
    if (!element) continue;
    if (point) place(element, { x: percent(point[0]), y: percent(1000 - point[1]) });
    else element.setAttribute("display", "none");
    if (key === "plan" && point) {
      const isLeft = point[0] > data.labelLeft;
      const [x, anchor] = isLeft ? [-11, "end"] : [11, "start"];
      place(element.querySelector("text"), { x, "text-anchor": anchor });
    }
  }
  one("row-named").hidden = moved.said["named-size"] === "-";
  const whisker = one("law-whisker"), low = moved.dots["law-low"], high = moved.dots["law-high"];
  if (low && high) {
    const x = percent(low[0]);
    const y1 = percent(1000 - low[1]), y2 = percent(1000 - high[1]);
    place(whisker, { x1: x, x2: x, y1, y2 });
  } else whisker.setAttribute("display", "none");
  for (const [key, shares] of Object.entries(moved.bars)) {
    const [...parts] = one(`bar-${key}`).children;
    parts.forEach((part, i) => {
      part.style[i < data.parts.length ? "width" : "left"] = percent(shares[i]); // the last: a mark
    });
  }
}

// The sliders

const form = one("controls");
const state = { ...asked };
const logs = ["price", "budget"];
const shown = {
  loss: (value) => value.toFixed(3), used: count, price: (value) => "$" + value.toFixed(2),
  share: (value) => (100 * value).toFixed(1) + " %", budget: usd,
};

function label(key) {
  const slider = one(key);
  if (!slider) return;
  const value = key === "loss" ? target() : state[key];
  one(`${key}-said`).textContent = shown[key](value);
  slider.setAttribute("aria-valuetext", shown[key](value));
}

const target = () => (state.model ? lossOf(data.law, ...state.model) : state.loss);

function show() {
  Object.keys(shown).forEach(label);
  const moved = moving(state);
  document.body.classList.toggle("is-impossible", moved === null);
  one("impossible").textContent =
    moved === null ? "No model keeps to all that is asked: below is the last that did." : "";
  if (moved) draw(moved);
  const isMoved = Object.keys(asked).some((key) => state[key] !== asked[key]);
  if (one("warnings")) one("warnings").hidden = isMoved; // they are of the answer as it was asked
}

form.addEventListener("input", ({ target: control }) => {
  const value = Number(control.value);
  if (control.id === "model") {
    state.model = control.value === "asked" ? asked.model : data.models[control.value] || null;
    state.loss = state.model ? null : Number(one("loss").value);
    one("loss").value = target();
  } else if (control.id === "loss") {
    state.model = null;
    state.loss = value;
    if (one("model")) one("model").value = "";
  } else if (control.id === "used") {
    state.used = value <= Number(control.min) ? 0 : 10 ** value;
  } else {
    state[control.id] = logs.includes(control.id) ? 10 ** value : value;
  }
  show();
});

form.addEventListener("reset", () => {
  Object.assign(state, asked);
  setTimeout(show); // the sliders go back after this event
});

form.hidden = false;
show();
