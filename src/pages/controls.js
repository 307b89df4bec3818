// @ts-check
/** The buttons and fields around the image. */

import { ENLARGE } from "./keys.js";

/** @param {import("./viewer.js").Viewer} viewer  @param {AbortSignal} signal */
export function listenControls(viewer, signal) {
  viewer.presets.forEach((each, i) => each.addEventListener("click", () => viewer.usePreset(i), { signal }));
  for (const button of viewer.root.querySelectorAll("button[data-go]")) {
    const direction = button.getAttribute("data-go") === "forth" ? 1 : -1;
    button.addEventListener("click", () => viewer.jump(direction), { signal });
  }
  /** @type {Record<string, () => void>} */
  const clicks = {
    reset: () => viewer.reset(),
    enlarge: () => viewer.zoom.by(ENLARGE),
    reduce: () => viewer.zoom.by(1 / ENLARGE),
    fit: () => viewer.zoom.fit(),
    pixels: () => viewer.showPixels(!viewer.pixelsOn),
    ruler: () => viewer.measuring.turn(!viewer.measuring.on),
    "ruler-undo": () => viewer.measuring.remove(false),
    "ruler-clear": () => viewer.measuring.remove(true),
  };
  /** @type {Record<string, () => void>} */
  const changes = {
    level: () => viewer.setWindow(Number(viewer.part("level").value), viewer.windowing.width),
    width: () => viewer.setWindow(viewer.windowing.level, Number(viewer.part("width").value)),
    "map-on": () => viewer.showMap(viewer.part("map-on").checked),
    "map-label": () => viewer.showMap(true),
  };
  /** @type {[string, Record<string, () => void>][]} */
  const listeners = [["click", clicks], ["change", changes], ["input", { "map-opacity": () => viewer.showMap(true) }]];
  for (const [event, acts] of listeners) {
    for (const [name, act] of Object.entries(acts)) viewer.part(name)?.addEventListener(event, act, { signal });
  }
}
