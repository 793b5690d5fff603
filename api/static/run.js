// Follows a live run: renews its standing when something happened to it and hands epochs to the curve.
"use strict";

const followed = document.querySelector("[data-after]");
const AGAIN_MS = 3000; // the browser itself connects again only where a connection broke, not where it was refused
const LEAST_MS = 1000; // between two renewals
let after = followed && followed.dataset.after;
let source = null;
let renewal = null;

function renew() {
  renewal ??= setTimeout(() => {
    renewal = null;
    const standing = document.getElementById("standing");
    if (standing) htmx.trigger(standing, "changed");
  }, LEAST_MS);
}

function follow() {
  if (source || document.hidden) return;
  source = new EventSource(`/v1/runs/${followed.dataset.run}/events?after=${after}`);
  source.onopen = () => offline(false);
  source.onerror = () => {
    offline(true);
    if (source.readyState === EventSource.CLOSED) {
      rest();
      setTimeout(follow, AGAIN_MS);
    }
  };
  source.addEventListener("epoch", (event) => {
    document.dispatchEvent(new CustomEvent("epoch", { detail: JSON.parse(event.data) }));
  });
  source.addEventListener("end", rest);
  for (const kind of ["move", "epoch", "progress", "end"]) {
    source?.addEventListener(kind, (event) => {
      after = event.lastEventId || after;
      renew();
    });
  }
}

function rest() {
  source?.close();
  source = null;
}

if (followed) {
  follow();
  // A browser opens six connections to a server at most: tabs that nobody looks at must not hold them.
  document.addEventListener("visibilitychange", () => (document.hidden ? rest() : follow()));
}
