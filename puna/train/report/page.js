"use strict";
// Follow the pointer (or the arrow keys) over one chart and read the same step off all of them.
const data = JSON.parse(document.getElementById("points").textContent);
const charts = [...document.querySelectorAll("[data-chart]")].map((figure) => {
  const own = data.charts[figure.dataset.chart];
  const readout = figure.querySelector("output");
  return {
    figure, readout, resting: readout.textContent,
    hit: figure.querySelector(".hit"),
    cross: figure.querySelector(".cross"),
    cursor: figure.querySelector(".cursor"),
    x: own.x || data.x, y: own.y, text: own.text, hasOwnSteps: Boolean(own.x),
  };
});

function nearest(positions, x) {
  let low = 0, high = positions.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (positions[middle] < x) low = middle; else high = middle;
  }
  return x - positions[low] <= positions[high] - x ? low : high;
}

function read(x) {
  for (const chart of charts) {
    const i = nearest(chart.x, x);
    const left = chart.x[i] / 10 + "%";
    chart.cross.setAttribute("x1", left);
    chart.cross.setAttribute("x2", left);
    chart.cursor.setAttribute("cx", left);
    chart.cursor.setAttribute("cy", (chart.y[i] === null ? -1000 : 100 - chart.y[i] / 10) + "%");
    chart.readout.textContent =
      chart.hasOwnSteps ? chart.text[i] : data.step[i] + " · " + chart.text[i];
    chart.figure.classList.add("is-reading");
    chart.hit.setAttribute("aria-valuenow", String(i));
    chart.hit.setAttribute("aria-valuetext", chart.readout.textContent);
  }
}

function rest() {
  for (const chart of charts) {
    chart.figure.classList.remove("is-reading");
    chart.readout.textContent = chart.resting;
  }
}

for (const chart of charts) {
  const { hit } = chart;
  hit.tabIndex = 0;
  hit.setAttribute("role", "slider");
  hit.setAttribute("aria-label", chart.figure.querySelector("h3").textContent + ", read a step");
  hit.setAttribute("aria-valuemin", "0");
  hit.setAttribute("aria-valuemax", String(chart.x.length - 1));
  hit.setAttribute("aria-valuenow", String(chart.x.length - 1));
  let at = chart.x.length - 1;
  const follow = (event) => {
    const box = hit.getBoundingClientRect();
    const x = (1000 * (event.clientX - box.left)) / box.width;
    at = nearest(chart.x, x);
    read(x);
  };
  hit.addEventListener("pointermove", follow);
  hit.addEventListener("pointerdown", follow);
  hit.addEventListener("pointerleave", rest);
  hit.addEventListener("blur", rest);
  hit.addEventListener("keydown", (event) => {
    const last = chart.x.length - 1;
    const stride = event.shiftKey ? Math.ceil(last / 20) : 1;
    if (event.key === "ArrowRight") at = Math.min(last, at + stride);
    else if (event.key === "ArrowLeft") at = Math.max(0, at - stride);
    else if (event.key === "Home") at = 0;
    else if (event.key === "End") at = last;
    else if (event.key === "Escape") return rest();
    else return;
    event.preventDefault();
    read(chart.x[at]);
  });
}

// A printed page shows what is folded away on the screen.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
