// Keeps a page up to date: events by server-sent events, and a look every few seconds where those are not to be had.
// Everything works without this script; it only saves reloading.
"use strict";

(() => {
  const EVENTS = ["asset.archived", "job.archived", "job.failed", "job.expired", "job.at_risk"];
  const LOOK_EVERY = 4000; // milliseconds
  const PAUSE = 300; // many events at once are one look
  const AT_MOST_EVERY = 2000;
  const SETTLED = 1500; // a page that is left sooner needs no listener, of which a server has few
  const root = document.documentElement;

  // Looks. Elements with data-live are asked for again when something happened, or some time has passed.

  let source = null;
  let planned = null;
  let looked = 0;
  let dead = false;

  function look() {
    planned = null;
    if (document.hidden) return;
    looked = Date.now();
    for (const element of document.querySelectorAll("[data-live]")) htmx.trigger(element, "look");
  }

  function planLook() {
    planned ??= setTimeout(look, Math.max(PAUSE, looked + AT_MOST_EVERY - Date.now()));
  }

  function listen() {
    if (source || document.hidden || !document.querySelector("[data-live]")) return;
    source = new EventSource("/api/stream");
    for (const name of EVENTS) source.addEventListener(name, planLook);
    // Sent away for good (too many listeners, or no session): the regular looks go on.
    source.onerror = () => { if (source?.readyState === EventSource.CLOSED) source = null; };
  }

  function hush() {
    source?.close();
    source = null;
  }

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) return hush();
    look();
    listen();
  });
  addEventListener("pagehide", hush);
  setInterval(look, LOOK_EVERY);

  // No connection: say so, and unsay it with the next answer.

  function tell(offline) {
    if (dead === offline) return;
    dead = offline;
    document.getElementById("offline").hidden = !offline;
  }

  document.addEventListener("htmx:sendError", () => tell(true));
  document.addEventListener("htmx:timeout", () => tell(true));
  document.addEventListener("htmx:responseError", (event) => tell(event.detail.xhr.status >= 500));
  document.addEventListener("htmx:afterOnLoad", () => tell(false));

  // Times: the reader's own clock, and what is left of a URL's life.

  const skew = Date.now() - Number(root.dataset.now); // of the reader's clock
  const clock = new Intl.DateTimeFormat(root.lang, { timeStyle: "medium" });
  const calendar = new Intl.DateTimeFormat(root.lang, { dateStyle: "medium", timeStyle: "short" });

  function written(moment) {
    return (moment.toDateString() === new Date().toDateString() ? clock : calendar).format(moment);
  }

  function localise(within) {
    for (const time of within.querySelectorAll("time[datetime]:not([data-until]):not([title])")) {
      time.title = time.textContent;
      time.textContent = written(new Date(time.dateTime));
    }
  }

  function left(seconds) {
    const parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, Math.floor(seconds) % 60];
    return parts.map((part) => String(part).padStart(2, "0")).join(":");
  }

  function tick() {
    for (const time of document.querySelectorAll("time[data-until]")) {
      const seconds = (new Date(time.dateTime) - Date.now() + skew) / 1000;
      time.textContent = seconds > 0 ? left(seconds) : time.dataset.until;
      time.classList.toggle("late", seconds < Number(time.dataset.risk));
    }
  }

  setInterval(tick, 1000);

  // Thumbnails that were not ready: the drawing in their place is two pixels wide. They are asked for again, each time later.

  function patient(image) {
    const asked = Number(image.dataset.asked ?? 0);
    if (image.naturalWidth !== 2 || asked >= 8) return;
    image.dataset.asked = asked + 1;
    setTimeout(() => { image.src = `${image.src.split("?")[0]}?again=${asked + 1}`; }, 700 * 1.6 ** asked);
  }

  document.addEventListener("load", (event) => { if (event.target.matches?.("img.thumb")) patient(event.target); }, true);

  // Buttons.

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button[data-copy]");
    if (!button) return;
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
    } catch { // without https browsers have no clipboard: select it, so that it can be copied by hand
      getSelection().selectAllChildren(document.getElementById(button.getAttribute("aria-describedby")));
      return;
    }
    const before = button.textContent;
    button.textContent = button.dataset.done;
    setTimeout(() => { button.textContent = before; }, 1500);
  });

  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.target.matches("input, textarea, select")) return;
    const search = document.getElementById("q");
    if (search) { event.preventDefault(); search.focus(); }
  });

  function arrive(within) {
    localise(within);
    tick();
    for (const image of within.querySelectorAll("img.thumb")) if (image.complete) patient(image);
  }

  document.addEventListener("htmx:load", (event) => arrive(event.detail.elt));
  document.addEventListener("DOMContentLoaded", () => { arrive(document); setTimeout(listen, SETTLED); });
})();
