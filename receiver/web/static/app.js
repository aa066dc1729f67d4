// Keeps a page up to date: it is refreshed when a server-sent event arrives, and every few seconds.
// Everything works without this script; it only saves reloading.
"use strict";

(() => {
  const EVENTS = ["asset.archived", "job.archived", "job.failed", "job.expired", "job.at_risk"];
  // All times in milliseconds.
  const REFRESH_EVERY = 4000;
  const PAUSE = 300; // many events in a short time cause one refresh
  const AT_MOST_EVERY = 2000;
  const LISTEN_AFTER = 1500; // a page that is left sooner needs no stream; a server has few of them
  const root = document.documentElement;

  // Refreshing: the elements with data-live are requested again.

  let source = null;
  let planned = null;
  let refreshedAt = 0;
  let offline = false;

  function refresh() {
    planned = null;
    if (document.hidden) return;
    refreshedAt = Date.now();
    for (const element of document.querySelectorAll("[data-live]")) htmx.trigger(element, "refresh");
  }

  function planRefresh() {
    planned ??= setTimeout(refresh, Math.max(PAUSE, refreshedAt + AT_MOST_EVERY - Date.now()));
  }

  function listen() {
    if (source || document.hidden || !document.querySelector("[data-live]")) return;
    source = new EventSource("/api/stream");
    for (const name of EVENTS) source.addEventListener(name, planRefresh);
    // Refused (too many streams, or no session): the regular refreshes go on.
    source.onerror = () => { if (source?.readyState === EventSource.CLOSED) source = null; };
  }

  function stopListening() {
    source?.close();
    source = null;
  }

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) return stopListening();
    refresh();
    listen();
  });
  addEventListener("pagehide", stopListening);
  setInterval(refresh, REFRESH_EVERY);

  // Connection: show a banner while there is none, and hide it with the next response.

  function setOffline(now) {
    if (offline === now) return;
    offline = now;
    document.getElementById("offline").hidden = !now;
  }

  document.addEventListener("htmx:sendError", () => setOffline(true));
  document.addEventListener("htmx:timeout", () => setOffline(true));
  document.addEventListener("htmx:responseError", (event) => setOffline(event.detail.xhr.status >= 500));
  document.addEventListener("htmx:afterOnLoad", () => setOffline(false));

  // Times: in the reader's time zone; and countdowns to the expiry of a URL.

  const skew = Date.now() - Number(root.dataset.now); // of the reader's clock
  const timeOnly = new Intl.DateTimeFormat(root.lang, { timeStyle: "medium" });
  const zone = timeOnly.resolvedOptions().timeZone;
  // For pages whose numbers are those of whole days.
  document.cookie = `zone=${zone}; path=/; max-age=31536000; SameSite=Strict`;
  const dateAndTime = new Intl.DateTimeFormat(root.lang, { dateStyle: "medium", timeStyle: "short" });

  function formatMoment(moment) {
    const isToday = moment.toDateString() === new Date().toDateString();
    return (isToday ? timeOnly : dateAndTime).format(moment);
  }

  // As in "2 min ago"; times that are longer ago than a week, or to come, have their date alone.
  const ago = new Intl.RelativeTimeFormat(root.lang, { numeric: "auto", style: "short" });
  const UNITS = [["day", 86400], ["hour", 3600], ["minute", 60]];

  function formatAge(moment) {
    const seconds = (Date.now() - skew - moment) / 1000;
    if (seconds < -5 || seconds > 7 * 86400) return "";
    const [unit, length] = UNITS.find(([, length]) => seconds >= length) ?? ["second", Infinity]; // "now"
    return ago.format(-Math.floor(Math.max(0, seconds) / length), unit);
  }

  function localise(within) {
    for (const time of within.querySelectorAll("time[datetime]:not([data-until]):not([title])")) {
      time.title = time.textContent;
      time.textContent = formatMoment(new Date(time.dateTime));
      const age = document.createElement("span");
      age.className = "age";
      time.after(age);
    }
    updateAges();
  }

  function updateAges() {
    for (const age of document.querySelectorAll(".age")) {
      const text = formatAge(new Date(age.previousElementSibling.dateTime));
      const shown = text && ` (${text})`;
      if (age.textContent !== shown) age.textContent = shown;
    }
  }

  setInterval(updateAges, 10_000);

  // Filters mean whole days in the reader's time zone. A URL that has a zone keeps it.
  function nameZone(within) {
    for (const field of within.querySelectorAll("input[data-zone]")) if (!field.value) field.value = zone;
    for (const name of within.querySelectorAll("[data-zone-name]")) {
      name.textContent = name.closest("form")?.querySelector("input[data-zone]").value || zone;
    }
  }

  function formatRemaining(seconds) {
    const parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, Math.floor(seconds) % 60];
    return parts.map((part) => String(part).padStart(2, "0")).join(":");
  }

  function updateCountdowns() {
    for (const time of document.querySelectorAll("time[data-until]")) {
      const seconds = (new Date(time.dateTime) - Date.now() + skew) / 1000;
      time.textContent = seconds > 0 ? formatRemaining(seconds) : time.dataset.until;
      time.classList.toggle("late", seconds < Number(time.dataset.risk));
    }
  }

  setInterval(updateCountdowns, 1000);

  // Thumbnails that were not ready: the drawing sent instead is two pixels wide. They are requested
  // again, each time after a longer pause.

  function retryThumbnail(image) {
    const tries = Number(image.dataset.tries ?? 0);
    if (image.naturalWidth !== 2 || tries >= 8) return;
    image.dataset.tries = tries + 1;
    setTimeout(() => { image.src = `${image.src.split("?")[0]}?again=${tries + 1}`; }, 700 * 1.6 ** tries);
  }

  document.addEventListener("load", (event) => { if (event.target.matches?.("img.thumb, img.thumb-retry")) retryThumbnail(event.target); }, true);

  // Buttons and keys.

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button[data-copy], button[data-copy-of]");
    if (!button) return;
    const shown = document.getElementById(button.dataset.copyOf ?? button.getAttribute("aria-describedby"));
    try {
      await navigator.clipboard.writeText(button.dataset.copy ?? shown.textContent);
    } catch { // without https there is no clipboard: select the text instead, so that it can be copied
      getSelection().selectAllChildren(shown);
      return;
    }
    const before = button.textContent;
    button.textContent = button.dataset.done;
    setTimeout(() => { button.textContent = before; }, 1500);
  });

  // j and k move through the pictures or rows of a page; the script pictures.js has the keys of the
  // large view.

  function moveFocus(step) {
    const items = [...document.querySelectorAll("main [data-item]")];
    const at = items.findIndex((item) => item === document.activeElement);
    const next = items[at < 0 ? (step > 0 ? 0 : items.length - 1) : Math.min(Math.max(at + step, 0), items.length - 1)];
    next?.focus();
    next?.scrollIntoView({ block: "nearest" });
  }

  // The browser returns the focus to where it was, but not to an item that was refreshed meanwhile.
  function showKeys() {
    const keys = document.getElementById("keys");
    const { id } = document.activeElement;
    keys.addEventListener("close", () => {
      if (id && !document.activeElement.matches("[data-item]")) document.getElementById(id)?.focus();
    }, { once: true });
    keys.showModal();
  }

  document.addEventListener("click", (event) => { if (event.target.closest("#show-keys")) showKeys(); });

  const KEYS = {
    "/": () => document.getElementById("q")?.focus(),
    "?": showKeys,
    j: () => moveFocus(1),
    k: () => moveFocus(-1),
    o: () => document.activeElement.matches("[data-item]") && document.activeElement.click(),
    Escape: () => document.querySelector("main a[data-back]")?.click(),
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    // A button keeps the focus for a moment after its dialog has closed.
    if (event.target.closest("dialog[open]")) return;
    if (event.target.matches("input:not([type=checkbox]), textarea, select")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (!Object.hasOwn(KEYS, event.key)) return;
    if (event.key !== "Escape") event.preventDefault();
    KEYS[event.key]();
  });

  // Chosen files become data URLs in a text field: the form has no other fields than without script.

  function readFile(file) {
    return new Promise((resolve, reject) => {
      const reader = new FileReader();
      reader.onload = () => resolve(reader.result);
      reader.onerror = () => reject(reader.error);
      reader.readAsDataURL(file);
    });
  }

  document.addEventListener("change", async (event) => {
    const field = document.getElementById(event.target.dataset?.filesTo ?? "");
    if (!field) return;
    const urls = await Promise.all([...event.target.files].map(readFile));
    field.value = [field.value.trim(), ...urls].filter(Boolean).join("\n");
    event.target.value = "";
  });

  function prepare(within) {
    localise(within);
    nameZone(within);
    for (const label of within.querySelectorAll(".pick-files, .needs-script")) label.hidden = false;
    updateCountdowns();
    for (const image of within.querySelectorAll("img.thumb, img.thumb-retry")) if (image.complete) retryThumbnail(image);
  }

  document.addEventListener("htmx:load", (event) => prepare(event.detail.elt));
  document.addEventListener("DOMContentLoaded", () => { prepare(document); setTimeout(listen, LISTEN_AFTER); });
})();
