// The large view: keys, swipes, zoom, and the neighbours loaded ahead; and the selection of pictures.
// Everything works without this script, by links and a form.
"use strict";

(() => {
  const SWIPE = 60; // pixels

  function follow(key) {
    document.querySelector(`#viewer [data-key="${key}"]`)?.click();
  }

  function isTyping(event) {
    return event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select, video, dialog[open]");
  }

  document.addEventListener("keydown", (event) => {
    if (!document.getElementById("viewer") || isTyping(event)) return;
    const stage = document.getElementById("stage");
    const scrolls = stage.classList.contains("actual") && event.target === stage;
    if (event.key.startsWith("Arrow") && scrolls) return;
    if (["ArrowLeft", "ArrowRight", "Escape", "z"].includes(event.key)) follow(event.key);
  });

  function prepareStage(stage) {
    let start = null;
    stage.addEventListener("touchstart", (event) => { start = event.touches.length === 1 ? event.touches[0] : null; }, { passive: true });
    stage.addEventListener("touchend", (event) => {
      if (!start || stage.classList.contains("actual")) return;
      const [x, y] = [event.changedTouches[0].clientX - start.clientX, event.changedTouches[0].clientY - start.clientY];
      if (Math.abs(x) > SWIPE && Math.abs(x) > 2 * Math.abs(y)) follow(x > 0 ? "ArrowLeft" : "ArrowRight");
    });
    const button = document.getElementById("zoom");
    if (!button) return;
    const zoom = () => button.setAttribute("aria-pressed", String(stage.classList.toggle("actual")));
    button.hidden = false;
    button.setAttribute("aria-pressed", String(stage.classList.contains("actual")));
    button.addEventListener("click", zoom);
    document.getElementById("large").addEventListener("dblclick", zoom);
  }

  function loadAhead() {
    for (const link of document.querySelectorAll("#viewer a[rel=next], #viewer a[rel=prev]")) {
      const [, , ref, index] = new URL(link.href).pathname.split("/");
      new Image().src = `/previews/${ref}/${index}`;
    }
  }

  function countSelected() {
    const selection = document.querySelector(".selection");
    if (!selection) return;
    const chosen = document.querySelectorAll(".pick input:checked").length;
    const button = selection.querySelector("button");
    button.dataset.label ??= button.lastChild.textContent;
    button.lastChild.textContent = chosen ? `${button.dataset.label} (${chosen})` : button.dataset.label;
    button.disabled = !chosen;
    selection.classList.toggle("some", chosen > 0);
  }

  document.addEventListener("change", countSelected);
  document.addEventListener("htmx:load", countSelected);
  document.addEventListener("DOMContentLoaded", () => {
    countSelected();
    const stage = document.getElementById("stage");
    if (!stage) return;
    prepareStage(stage);
    addEventListener("load", loadAhead);
  });
})();
