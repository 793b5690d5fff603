// The image page: zoom and pan over all tiles at once, and the way through a scan without loading the page anew.
"use strict";

const MOST = 32; // times
const PAN = 0.15; // of a tile, by an arrow key
const viewer = document.getElementById("viewer");
const slider = document.getElementById("slider");
const view = { zoom: 1, x: 0, y: 0 }; // x and y: where the picture's corner is, in widths and heights of a tile
const pointers = new Map(); // of fingers and mouse: where in their tile
let texts = new Map(); // address -> promise of the page there; neighbours alone, since pages hold live facts
let wanted = null; // address of the image that was asked for last
let noting = 0;

function draw() {
  for (const axis of ["x", "y"]) view[axis] = Math.min(0, Math.max(1 - view.zoom, view[axis]));
  for (const image of viewer.querySelectorAll(".pane img")) {
    image.style.transform = `translate(${100 * view.x}%, ${100 * view.y}%) scale(${view.zoom})`;
    image.classList.toggle("enlarged", image.clientWidth * view.zoom > image.naturalWidth);
  }
  viewer.classList.toggle("zoomed", view.zoom > 1);
  document.getElementById("zoom").value = `${Math.round(100 * view.zoom)} %`;
  clearTimeout(noting);
  // Not at once: browsers refuse hundreds of changes of an address.
  noting = setTimeout(() => history.replaceState(null, "", location.pathname + location.search + hash()), 250);
}

function hash() {
  const numbers = [view.zoom, view.x, view.y].map((one) => Number(one.toFixed(4)));
  return view.zoom > 1 ? `#zoom=${numbers.join(",")}` : "";
}

// What lies at a place of the tile stays there.
function zoom(factor, at = { x: 0.5, y: 0.5 }) {
  const next = Math.min(MOST, Math.max(1, view.zoom * factor));
  for (const axis of ["x", "y"]) view[axis] = at[axis] - ((at[axis] - view[axis]) * next) / view.zoom;
  view.zoom = next;
  draw();
}

function pan(x, y) {
  if (view.zoom === 1) return false;
  view.x += x;
  view.y += y;
  draw();
  return true;
}

function placeOf(event) {
  const box = event.target.closest(".pane").getBoundingClientRect();
  return { x: (event.clientX - box.x) / box.width, y: (event.clientY - box.y) / box.height };
}

// Middle of the fingers, and how far apart they are; 0 for one.
function spread() {
  const [one, other = one] = pointers.values();
  return { x: (one.x + other.x) / 2, y: (one.y + other.y) / 2, apart: Math.hypot(one.x - other.x, one.y - other.y) };
}

function move(event) {
  if (!pointers.has(event.pointerId)) return;
  const before = spread();
  pointers.set(event.pointerId, placeOf(event));
  const now = spread();
  pan(now.x - before.x, now.y - before.y);
  if (before.apart && now.apart) zoom(now.apart / before.apart, now);
}

function read(href) {
  const asked = () => fetch(href, { headers: { accept: "text/html" } }).then((answer) => (answer.ok ? answer.text() : null));
  if (!texts.has(href)) texts.set(href, asked().catch(() => null));
  return texts.get(href);
}

// The page there, once the browser holds its pictures; null where it could not be read.
async function ready(href) {
  const text = await read(href);
  const page = text && new DOMParser().parseFromString(text, "text/html");
  const held = [...(page?.querySelectorAll(".pane img") ?? [])].map((image) => {
    const copy = Object.assign(new Image(), { src: image.getAttribute("src") });
    return copy.decode().catch(() => null);
  });
  await Promise.all(held);
  return page;
}

async function show(href) {
  wanted = href;
  const page = await ready(href);
  if (wanted !== href) return;
  if (!page) return location.assign(href); // to show what is wrong
  const focused = document.activeElement.id;
  document.title = page.title;
  // The parts themselves stay: a screen reader tells what changes in a live one, and not that there is another one.
  for (const part of page.querySelectorAll("[data-fresh]")) document.getElementById(part.id).replaceChildren(...part.childNodes);
  document.getElementById(focused)?.focus({ preventScroll: true });
  history.replaceState(null, "", href + hash());
  settle();
}

function settle() {
  draw();
  const strip = [...viewer.querySelectorAll(".strip a")];
  slider.max = strip.length - 1;
  slider.value = strip.findIndex((link) => link.ariaCurrent);
  slider.hidden = strip.length < 2;
  const beside = [...viewer.querySelectorAll("a[rel]")].map((link) => link.href);
  texts = new Map([...texts].filter(([href]) => beside.includes(href)));
  beside.forEach(ready);
}

function go(rel) {
  const link = viewer.querySelector(`a[rel=${rel}]`);
  return link ? (show(link.href), true) : false;
}

const KEYS = {
  "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), 0: () => zoom(0), j: () => go("next"), k: () => go("prev"),
  ArrowLeft: () => pan(PAN, 0) || go("prev"), ArrowRight: () => pan(-PAN, 0) || go("next"), ArrowUp: () => pan(0, PAN), ArrowDown: () => pan(0, -PAN),
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.target === slider) return;
  if (Object.hasOwn(KEYS, event.key) && KEYS[event.key]() !== false) event.preventDefault();
});
viewer.addEventListener("click", (event) => {
  const [link, button] = ["a[data-stay]", "[data-zoom]"].map((kind) => event.target.closest(kind));
  if (button) zoom(Number(button.dataset.zoom));
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  show(link.href);
});
const on = (kind, act) => viewer.addEventListener(kind, (event) => event.target.closest(".pane") && act(event), { passive: false });
on("wheel", (event) => {
  if (view.zoom === 1 && event.deltaY >= 0) return; // the page scrolls on
  event.preventDefault();
  zoom(Math.exp(-event.deltaY / 400), placeOf(event));
});
on("pointerdown", (event) => {
  event.target.closest(".pane").setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, placeOf(event));
});
on("pointermove", move);
on("dblclick", () => zoom(0));
for (const kind of ["pointerup", "pointercancel"]) addEventListener(kind, (event) => pointers.delete(event.pointerId));
viewer.addEventListener("load", draw, true);
slider.addEventListener("input", () => show(viewer.querySelectorAll(".strip a")[slider.value].href));
addEventListener("resize", draw);
document.getElementById("tools").hidden = false;
const told = location.hash.replace("#zoom=", "").split(",").map(Number);
if (told.length === 3 && told.every(Number.isFinite) && told[0] >= 1) [view.zoom, view.x, view.y] = [Math.min(MOST, told[0]), told[1], told[2]];
settle();
