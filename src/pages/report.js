// @ts-check
/** What moves in the report: a slider that takes rows of a table, and cases that open in a viewer, one at a time. */

import { Viewer } from "./viewer.js";

/** @param {Element} root  @param {string} name  @returns {any} the element of that data-part */
function piece(root, name) {
  return root.querySelector(`[data-part="${name}"]`);
}

/** Without this script all rows of the table are shown. @param {Element} root */
function slide(root) {
  /** @type {string[]} */
  const stops = JSON.parse(piece(root, "stops").textContent);
  const rows = /** @type {HTMLElement[]} */ ([...root.querySelectorAll("tr[data-stop]")]);
  const range = piece(root, "range");
  const all = piece(root, "all");
  const show = () => {
    for (const row of rows) row.hidden = !all.checked && row.dataset.stop !== range.value;
    piece(root, "stop").textContent = `${stops[Number(range.value)]} %`;
    range.setAttribute("aria-valuetext", `${stops[Number(range.value)]} percent`);
  };
  for (const each of [range, all]) each.addEventListener("input", show);
  piece(root, "controls").hidden = false;
  show();
}

/** The case that is open, and its viewer. @type {{details: HTMLDetailsElement, viewer: Viewer} | null} */
let opened = null;

/** The packed bytes of the slices that lie in an element. @param {Element} root */
function packedIn(root) {
  return async (/** @type {"slice" | "map"} */ kind, /** @type {number} */ index) => {
    const text = root.querySelector(`script[data-${kind}="${index}"]`)?.textContent ?? "";
    return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  };
}

/** Only an open case holds a viewer: its slices are decoded, and it listens to keys. @param {HTMLDetailsElement} details */
function toggle(details) {
  if (!details.open) {
    if (opened?.details === details) close();
    return;
  }
  const before = opened?.details;
  close();
  if (before) before.open = false;
  const place = document.createElement("div");
  place.className = "series";
  details.append(place);
  place.append(/** @type {HTMLTemplateElement} */ (details.querySelector("template")).content.cloneNode(true));
  const map = piece(place, "map-label");
  if (map) map.value = details.dataset.label;
  const viewer = new Viewer(place, JSON.parse(piece(place, "series").textContent), packedIn(place));
  opened = { details, viewer };
  viewer.go(Number(details.dataset.at));
  piece(place, "stage").focus({ preventScroll: true });
}

function close() {
  if (!opened) return;
  const { viewer } = opened;
  opened = null;
  if ("destroy" in viewer && typeof viewer.destroy === "function") viewer.destroy();
  viewer.root.remove();
}

for (const root of document.querySelectorAll("[data-slider]")) slide(root);
for (const details of document.querySelectorAll("details[data-case]")) {
  if (details instanceof HTMLDetailsElement) details.addEventListener("toggle", () => toggle(details));
}
// a viewer takes the keys of a whole page that is its own; here they scroll the page, except within the open case
document.addEventListener(
  "keydown",
  (event) => {
    if (!(event.target instanceof Node && opened?.details.contains(event.target))) event.stopImmediatePropagation();
  },
  true,
);
