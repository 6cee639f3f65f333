"use strict";
// Pieces of the page come as they change; each says where it belongs. What a reader opened or scrolled stays so.

const link = document.getElementById("link");
const offset = Number(document.body.dataset.now) - Date.now(); // the server's clock, not this one's
const spans = [["s", 119.5, 1], ["min", 5970, 60], ["h", 172800, 3600], ["d", Infinity, 86400]];

function made(piece) {
  const template = document.createElement("template");
  template.innerHTML = piece.svg ? `<svg>${piece.html}</svg>` : piece.html;
  return piece.svg ? template.content.firstElementChild.firstElementChild : template.content.firstElementChild;
}

function put(piece) {
  const before = document.getElementById(piece.id);
  if (piece.gone) {
    before?.remove();
  } else if (piece.set) {
    for (const [name, value] of Object.entries(piece.set)) before?.setAttribute(name, value);
  } else {
    const now = made(piece);
    now.dataset.order = piece.order;
    if (before && before.parentElement.id === piece.parent) {
      keep(before, now);
      before.replaceWith(now);
    } else {
      before?.remove();
      insert(document.getElementById(piece.parent), now);
    }
    now.querySelectorAll("time[data-ms]").forEach(tell);
  }
}

function insert(parent, child) {
  const order = Number(child.dataset.order);
  let after = parent.lastElementChild;
  while (after && Number(after.dataset.order) > order) after = after.previousElementSibling;
  if (after) after.after(child);
  else parent.prepend(child);
}

function keep(before, now) {
  for (const [kind, name] of [["details", "open"], [".scroll, .picture", "scrollLeft"]]) {
    const old = before.querySelectorAll(kind);
    const young = now.querySelectorAll(kind);
    if (old.length === young.length && name === "open") old.forEach((each, n) => { young[n].open = each.open; });
    if (old.length === young.length && name === "scrollLeft") {
      const places = [...old].map((each) => each.scrollLeft);
      if (places.some((place) => place)) requestAnimationFrame(() => young.forEach((each, n) => { each.scrollLeft = places[n]; }));
    }
  }
}

function tell(time) {
  const seconds = Math.max(0, (Date.now() + offset - Number(time.dataset.ms)) / 1000);
  const [unit, , size] = spans.find((each) => seconds < each[1]);
  const text = `${Math.round(seconds / size)} ${unit} ago`;
  if (time.textContent !== text) time.textContent = text;
}

function tellAll() {
  document.querySelectorAll("details[open] time[data-ms]").forEach(tell);
}

function linked(text, live) {
  link.textContent = text;
  link.classList.toggle("live", live);
}

function listen() {
  const events = new EventSource(document.body.dataset.events);
  events.addEventListener("pieces", (event) => {
    JSON.parse(event.data).forEach(put);
    linked("Live.", true);
  });
  events.addEventListener("still", () => linked("Live.", true));
  events.addEventListener("reload", () => { events.close(); location.reload(); });
  events.onerror = () => {
    linked(events.readyState === EventSource.CLOSED
      ? "Not live: the server refused. Load the page again."
      : "Not live: the server does not answer. Trying again…", false);
  };
}

// A row of the lists and its curves are shown together.
function shine(event) {
  const training = event.target.closest?.("[data-training]")?.dataset.training;
  document.querySelectorAll(".shine").forEach((each) => each.classList.remove("shine"));
  if (training) document.querySelectorAll(`[data-training="${CSS.escape(training)}"]`).forEach((each) => each.classList.add("shine"));
}

document.addEventListener("pointerover", shine);
setInterval(tellAll, 5000);
document.addEventListener("toggle", tellAll, true);
listen();
