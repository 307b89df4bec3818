// @ts-check
/** The script of pages that hold their series: a viewer for each; those in one element of data-linked are linked. */

import { embedded } from "./decode.js";
import { link } from "./link.js";
import { Viewer } from "./viewer.js";

/** @type {Map<Element | null, Viewer[]>} */
const linked = new Map();
for (const root of document.querySelectorAll("[data-series]")) {
  if (!(root instanceof HTMLElement)) continue;
  const series = JSON.parse(root.querySelector('[data-part="series"]')?.textContent ?? "");
  const group = root.closest("[data-linked]");
  linked.set(group, [...(linked.get(group) ?? []), new Viewer(root, series, embedded(root))]);
}
for (const [group, viewers] of linked) if (group) link(viewers);
