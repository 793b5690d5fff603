// Keeps what a person has selected while the table renews itself, rests while nobody looks, and says when it is stale.
"use strict";

let selected = new Set();

function boxes() {
  return document.querySelectorAll("#runs input[type=checkbox]");
}

function offline(is) {
  document.querySelector(".offline").hidden = !is;
}

document.addEventListener("htmx:beforeRequest", (event) => {
  if (document.hidden) event.preventDefault();
});

document.addEventListener("htmx:beforeSwap", () => {
  selected = new Set([...boxes()].filter((box) => box.checked).map((box) => box.value));
  const open = [...document.querySelectorAll("#standing details")].map((one) => one.open);
  document.body.dataset.open = JSON.stringify(open);
});

document.addEventListener("htmx:afterSwap", () => {
  for (const box of boxes()) box.checked = selected.has(box.value);
  const open = JSON.parse(document.body.dataset.open || "[]");
  document.querySelectorAll("#standing details").forEach((one, number) => (one.open = open[number] || false));
});

document.addEventListener("htmx:sendError", () => offline(true));
document.addEventListener("htmx:responseError", () => offline(true));
document.addEventListener("htmx:afterOnLoad", (event) => {
  offline(false);
  document.querySelector(".degraded").hidden = event.detail.xhr.getResponseHeader("Liverseg-Degraded") !== "true";
});
