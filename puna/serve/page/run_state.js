// A training run as its metrics.jsonl tells it, line by line as they come.

const least = 0.02; // weight of a new value in the smooth curve: about the last fifty steps

export class RunState {
  constructor() {
    this.after = 0; // bytes that are known
    this.session = null;
    this.steps = [];
    this.validations = [];
    this.samples = [];
    this.end = null;
    this.unread = 0; // lines that could not be read
  }

  /** Take whole lines of the file. */
  take(text) {
    for (const line of text.split("\n")) {
      if (!line) continue;
      try {
        this.event(JSON.parse(line));
      } catch (error) {
        if (!(error instanceof SyntaxError)) throw error;
        this.unread += 1;
      }
    }
  }

  event(event) {
    if (event.event === "start" || event.event === "resume") {
      // A resumed run goes on from a checkpoint: what came after that is done again.
      for (const name of ["steps", "validations", "samples"]) {
        this[name] = this[name].filter((one) => one.step <= event.step);
      }
      this.session = event;
      this.end = null;
    } else if (event.event === "step") this.steps.push(event);
    else if (event.event === "validation") this.validations.push(event);
    else if (event.event === "sample") this.samples.push(event);
    else if (event.event === "end") this.end = event;
  }

  get last() {
    return this.steps.at(-1) ?? null;
  }

  get wantedSteps() {
    return this.session?.recipe?.train?.steps ?? null;
  }

  /** Seconds that the rest will take, null where that is not known. */
  get secondsLeft() {
    const { last, wantedSteps } = this;
    if (!last || !wantedSteps || this.end) return null;
    return ((wantedSteps - last.step) * last.elapsed_seconds) / last.step;
  }

  curve(field, about) {
    const x = this.steps.map((step) => step.step);
    return { x, y: this.steps.map((step) => step[field] ?? null), ...about };
  }

  smooth(field, about) {
    let mean = null;
    const y = this.steps.map((step, index) => {
      const value = step[field];
      if (value === null || value === undefined) return null;
      // The first steps fall fast: a mean of many of them would lie far above the curve.
      const weight = Math.max(least, 1 / (2 + 0.1 * index));
      mean = mean === null ? value : mean + weight * (value - mean);
      return mean;
    });
    return { x: this.steps.map((step) => step.step), y, ...about };
  }

  dots(field, about) {
    const known = this.validations.filter((one) => Number.isFinite(one[field]));
    return { x: known.map((one) => one.step), y: known.map((one) => one[field]), ...about };
  }
}
