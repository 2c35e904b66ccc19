// The opacity slider, arrow keys between images, live progress, and a pointer that is shown in two pictures.
"use strict";
(() => {
  const root = document.documentElement;
  const all = (selector) => [...document.querySelectorAll(selector)];
  const plain = { mode: "overlay", colours: "blue-red", opacity: "85" }; // defaults, which an address leaves out

  // ---- opacity of maps over images: the slider sets a variable of the style sheet
  function setOpacity(value) {
    root.style.setProperty("--opacity", String(value / 100));
    for (const slider of all("[data-opacity]")) {
      slider.value = value;
      slider.nextElementSibling.value = `${value} %`;
    }
  }
  const first = document.querySelector("[data-opacity]");
  const requested = new URLSearchParams(location.search).get("opacity");
  const opacity = Number(requested ?? sessionStorage.getItem("opacity") ?? first?.value);
  if (first && opacity !== Number(plain.opacity)) setOpacity(opacity); // otherwise the first paint would wait for a second layout
  document.addEventListener("input", (event) => {
    if (!event.target.matches("[data-opacity]")) return;
    setOpacity(Number(event.target.value));
    sessionStorage.setItem("opacity", event.target.value);
  });
  document.addEventListener("change", (event) => {
    if (!event.target.matches("[data-opacity]") || !event.target.form) return;
    const address = new URL(location.href); // the address is the view
    address.searchParams.set("opacity", event.target.value);
    history.replaceState(history.state, "", address);
  });

  // ---- the gallery's form: a choice is applied at once, and the address contains only values other than the defaults
  const view = document.getElementById("view");
  if (view) {
    view.addEventListener("change", (event) => {
      if (event.target.matches("select, [type=radio]")) view.requestSubmit();
    });
    document.addEventListener("htmx:configRequest", (event) => {
      const { parameters, elt } = event.detail;
      if (elt !== view) return;
      for (const name of Object.keys(parameters)) {
        if (parameters[name] === "" || parameters[name] === plain[name]) delete parameters[name];
      }
    });
    document.addEventListener("htmx:historyRestore", () => location.reload());
  }

  // ---- arrows: among the tiles of a grid, and from image to image in the order in which they were shown
  const key = `images:${location.pathname.split("/")[2] ?? ""}`;
  document.addEventListener("click", (event) => {
    if (!event.target.closest("[data-image]")) return;
    const shown = all("[data-image]").map((link) => link.getAttribute("href"));
    sessionStorage.setItem(key, JSON.stringify({ shown, back: location.href }));
  });
  const before = document.querySelector("[data-before]");
  const after = document.querySelector("[data-after]");
  const kept = JSON.parse(sessionStorage.getItem(key) ?? "null");
  const place = kept ? kept.shown.indexOf(location.pathname) : -1;
  if (place >= 0) {
    const back = document.querySelector("[data-back]");
    if (back && kept.back.startsWith(location.origin)) back.href = kept.back;
    if (before && place > 0) before.href = kept.shown[place - 1];
    if (after && place + 1 < kept.shown.length) after.href = kept.shown[place + 1];
  }
  function moveInGrid(event) {
    const links = all(".grid [data-image]");
    const here = links.indexOf(document.activeElement);
    if (here < 0) return;
    const top = links[0].getBoundingClientRect().top;
    const columns = links.filter((link) => Math.abs(link.getBoundingClientRect().top - top) < 4).length;
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    const next = links[here + step];
    if (next) {
      event.preventDefault();
      next.focus();
    }
  }
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || !event.key.startsWith("Arrow")) return;
    if (event.target.closest("input, select, textarea")) return;
    if (event.key === "ArrowLeft" && before) before.click();
    else if (event.key === "ArrowRight" && after) after.click();
    else moveInGrid(event);
  });

  // ---- live parts: the server sends them again whenever they change, and an event when the run is over
  for (const part of all("[data-live]")) {
    const source = new EventSource(part.dataset.live);
    source.onmessage = (event) => { part.innerHTML = event.data; };
    source.addEventListener("over", () => {
      source.close();
      location.reload();
    });
  }
  if (document.querySelector("[data-again]")) setTimeout(() => location.reload(), 1500);

  // ---- two runs side by side: the point under the pointer is marked in both pictures
  for (const pair of all("[data-synced]")) {
    pair.addEventListener("pointermove", (event) => {
      const frame = event.target.closest(".frame");
      if (!frame) return;
      const box = frame.getBoundingClientRect();
      pair.style.setProperty("--x", `${(100 * (event.clientX - box.left)) / box.width}%`);
      pair.style.setProperty("--y", `${(100 * (event.clientY - box.top)) / box.height}%`);
      pair.classList.add("pointed");
    });
    pair.addEventListener("pointerleave", () => pair.classList.remove("pointed"));
  }

  document.addEventListener("submit", (event) => {
    const question = event.target.dataset.confirm;
    if (question && !window.confirm(question)) event.preventDefault();
  });
})();
