// Figure 2: total Dice by epoch, train orange, val blue; epochs that run.js hears of are added.
"use strict";

const place = document.getElementById("curve");
let plot = null;
let epochs = [];
let loaded = false;

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function line(label, name) {
  return {
    label,
    stroke: color(name),
    width: 2,
    points: { show: true, size: 5, fill: color(name) },
    value: (_, dice) => (dice == null ? "–" : dice.toFixed(4)),
  };
}

function options() {
  const axis = { stroke: color("--muted"), grid: { stroke: color("--rule"), width: 1 }, ticks: { show: false } };
  const whole = (_, splits) => splits.map((value) => (Number.isInteger(value) ? value : null));
  return {
    width: place.clientWidth,
    height: 300,
    scales: {
      x: { time: false, range: (_, low, high) => [low, Math.max(high, low + 1)] },
      y: { range: (_, low) => [Math.max(0, Math.floor(low * 10) / 10), 1] },
    },
    axes: [
      { ...axis, label: "Epoch", labelSize: 22, size: 34, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500], filter: whole },
      { ...axis, label: "Dice", labelSize: 20, size: 44, values: (_, ticks) => ticks.map((tick) => tick.toFixed(1 < ticks.length && ticks[1] - ticks[0] < 0.1 ? 2 : 1)) },
    ],
    series: [{ label: "Epoch" }, line("Train", "--train"), line("Val", "--val")],
    cursor: { drag: { x: false, y: false } },
  };
}

function draw() {
  plot?.destroy();
  place.classList.remove("waiting");
  const data = ["epoch", "dice", "val_dice"].map((name) => epochs.map((epoch) => epoch[name]));
  plot = new uPlot(options(), data, place);
  place.dataset.epochs = epochs.length;
}

// An epoch takes the place of an earlier one of its number and of all after it, which were computed again.
function add(epoch) {
  epochs = [...epochs.filter((one) => one.epoch < epoch.epoch), epoch];
}

async function asked() {
  const answer = await fetch(`/v1/runs/${place.dataset.run}/epochs`);
  return answer.ok ? (await answer.json()).epochs : null;
}

async function load() {
  const before = await asked().catch(() => null);
  loaded = before !== null;
  document.getElementById("curve-trouble").hidden = loaded;
  place.classList.toggle("waiting", loaded && !before.length && !epochs.length);
  if (!loaded) return;
  const heard = epochs;
  epochs = before;
  heard.forEach(add);
  if (epochs.length) draw();
}

function hear(event) {
  add(event.detail);
  if (loaded) draw();
  else load();
}

if (place) {
  document.addEventListener("epoch", hear);
  load();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plot && draw());
  addEventListener("resize", () => plot && plot.setSize({ width: place.clientWidth, height: 300 }));
}
