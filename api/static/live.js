// Leaves a page that renews itself to whoever uses it, rests while nobody looks, and says when it is stale.
"use strict";

const renews = document.getElementById("renews"); // null where nothing will happen any more
const SCROLLING = ".scroll[id], .log[id]";
let gone = false; // what the page shows was deleted, so there is nothing to ask for any more
let kept = {}; // by ids: what people did to the page that the next renewal would undo

function ids(selector) {
  return [...document.querySelectorAll(selector)].map((one) => one.id);
}

function placeOf(one) {
  const atEnd = one.scrollTop + one.clientHeight >= one.scrollHeight - 1; // who reads the end goes on to read the end
  return { id: one.id, left: one.scrollLeft, top: atEnd ? null : one.scrollTop };
}

function remember() {
  kept = {
    selected: ids("input[type=checkbox]:checked"),
    open: ids("details[open] > summary"),
    places: [...document.querySelectorAll(SCROLLING)].map(placeOf),
    focused: [document.activeElement.id],
  };
}

function each(known, act) {
  for (const one of known.map((id) => document.getElementById(id))) if (one) act(one);
}

// What is open comes before what was scrolled or had the focus, which may lie in it.
function restore() {
  each(kept.selected, (box) => (box.checked = true));
  each(kept.open, (summary) => (summary.parentElement.open = true));
  for (const { id, left, top } of kept.places) each([id], (one) => one.scrollTo(left, top ?? one.scrollHeight));
  each(kept.focused, (one) => one.focus({ preventScroll: true }));
}

function offline(is) {
  document.querySelector(".offline").hidden = !is;
}

// An API that answers is there: it is not away because it has lost something, nor because it was asked too often.
function refuse(status) {
  gone ||= [404, 410].includes(status);
  document.querySelector(".gone").hidden = !gone;
  if (status !== 429) offline(!gone);
}

function resting() {
  return gone || document.hidden || renews?.checked === false;
}

document.addEventListener("htmx:beforeRequest", (event) => {
  if (resting()) event.preventDefault();
});

document.addEventListener("htmx:beforeSwap", remember);
document.addEventListener("htmx:afterSwap", restore);

document.addEventListener("htmx:sendError", () => offline(true));
document.addEventListener("htmx:responseError", (event) => refuse(event.detail.xhr.status));
document.addEventListener("htmx:afterOnLoad", (event) => {
  if (!event.detail.successful) return;
  offline(false);
  document.querySelector(".degraded").hidden = event.detail.xhr.getResponseHeader("Liverseg-Degraded") !== "true";
});
if (renews) renews.closest("p").hidden = false;
