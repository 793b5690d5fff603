// Follows a live run: renews its standing when something happened to it and hands epochs to the curve.
"use strict";

const followed = document.querySelector("[data-after]");
const AGAIN_MS = 3000; // the browser itself connects again only where a connection broke, not where it was refused
const LEAST_MS = 1000; // between two renewals of a part
const PATIENCE_MS = 3000; // every stream ends once a minute, so one that is away is no news before
let after = followed && followed.dataset.after;
let source = null;
const renewals = new Map(); // id of a part of the page -> when it will be renewed
let patience = null;

function renew(id) {
  if (renewals.has(id)) return;
  const begin = () => {
    renewals.delete(id);
    const part = document.getElementById(id);
    if (part) htmx.trigger(part, "changed");
  };
  renewals.set(id, setTimeout(begin, LEAST_MS));
}

function follow() {
  if (source || resting()) return;
  source = new EventSource(`/v1/runs/${followed.dataset.run}/events?after=${after}`);
  source.onopen = () => {
    calm();
    offline(false);
  };
  source.onerror = () => (source.readyState === EventSource.CLOSED ? refused() : lost());
  source.addEventListener("epoch", (event) => {
    document.dispatchEvent(new CustomEvent("epoch", { detail: JSON.parse(event.data) }));
    renew("epochs");
  });
  source.addEventListener("end", rest);
  for (const kind of ["move", "epoch", "progress", "end"]) {
    source?.addEventListener(kind, (event) => {
      after = event.lastEventId || after;
      renew("standing");
    });
  }
}

function lost() {
  patience ??= setTimeout(() => offline(true), PATIENCE_MS);
}

// Browsers do not tell why: the answer to a renewal does, to live.js.
function refused() {
  rest();
  renew("standing");
  setTimeout(follow, AGAIN_MS);
}

function calm() {
  clearTimeout(patience);
  patience = null;
}

function rest() {
  calm();
  source?.close();
  source = null;
}

// What was heard just before it rested was not asked for.
function wake() {
  follow();
  for (const id of ["standing", "epochs"]) renew(id);
}

function turn() {
  if (resting()) rest();
  else wake();
}

if (followed) {
  follow();
  // A browser opens six connections to a server at most: tabs that nobody looks at must not hold them.
  document.addEventListener("visibilitychange", turn);
  renews.addEventListener("change", turn);
}
