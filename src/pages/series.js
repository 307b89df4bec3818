// @ts-check
/** The script of pages that hold their series: a viewer for each. */

import { embedded } from "./decode.js";
import { Viewer } from "./viewer.js";

for (const root of document.querySelectorAll("[data-series]")) {
  if (!(root instanceof HTMLElement)) continue;
  const series = JSON.parse(root.querySelector('[data-part="series"]')?.textContent ?? "");
  new Viewer(root, series, embedded(root));
}
