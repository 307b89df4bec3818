// @ts-check
/** What keys do in a viewer. */

const FINE = 1; // pixels of the image that an arrow moves the cross of the ruler by
const COARSE = 10; // with Shift
const PAN = 0.1; // of what is seen, that an arrow with Shift pans by
export const ENLARGE = 1.5; // by which + enlarges

/** @type {Record<string, [number, number]>} right and down */
const ARROWS = { ArrowUp: [0, -1], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowRight: [1, 0] };

/** What a key does, if anything.
 *  @param {import("./viewer.js").Viewer} viewer  @param {KeyboardEvent} event  @returns {(() => void) | undefined} */
export function actOf(viewer, event) {
  const at = event.target instanceof HTMLElement ? event.target : null;
  if (event.defaultPrevented || event.ctrlKey || event.altKey || event.metaKey) return undefined;
  if (at?.matches("select, textarea, input:not([type=checkbox]), [contenteditable]")) return undefined;
  const arrow = ARROWS[event.key];
  const onStage = at === viewer.part("stage");
  if (viewer.measuring.on && onStage) {
    const act = ofRuler(viewer, event, arrow);
    if (act) return act;
  }
  if (arrow && event.shiftKey) {
    const box = viewer.part("stage").getBoundingClientRect();
    return () => viewer.zoom.pan(-arrow[0] * PAN * box.width, -arrow[1] * PAN * box.height);
  }
  if (arrow) return () => viewer.go(viewer.wanted + arrow[0] + arrow[1]);
  const shortcuts = viewer.part("shortcuts")?.checked ?? true; // single letters can be switched off (WCAG 2.1.4)
  return moves(viewer)[event.key] ?? (shortcuts ? letters(viewer)[event.key.toLowerCase()] : undefined);
}

/** @param {import("./viewer.js").Viewer} viewer  @returns {Record<string, () => void>} */
function moves(viewer) {
  const n = viewer.series.slices.length;
  const page = Math.max(2, Math.round(n / 10));
  return {
    PageUp: () => viewer.go(viewer.wanted - page),
    PageDown: () => viewer.go(viewer.wanted + page),
    Home: () => viewer.go(0),
    End: () => viewer.go(n - 1),
  };
}

/** @param {import("./viewer.js").Viewer} viewer  @returns {Record<string, () => void>} */
function letters(viewer) {
  /** @type {Record<string, () => void>} */
  const acts = {
    n: () => viewer.jump(1),
    p: () => viewer.jump(-1),
    m: () => viewer.showMap(!viewer.mapOn),
    r: () => viewer.reset(),
    i: () => viewer.showPixels(!viewer.pixelsOn),
    d: () => viewer.measuring.turn(!viewer.measuring.on, true),
    "+": () => viewer.zoom.by(ENLARGE),
    "=": () => viewer.zoom.by(ENLARGE), // the key of + without Shift
    "-": () => viewer.zoom.by(1 / ENLARGE),
    0: () => viewer.zoom.fit(),
  };
  viewer.presets.forEach((_, i) => (acts[String(i + 1)] = () => viewer.usePreset(i)));
  return acts;
}

/** Arrows move a cross, Enter sets one end of a ruler and then the other.
 *  @param {import("./viewer.js").Viewer} viewer  @param {KeyboardEvent} event
 *  @param {[number, number] | undefined} arrow  @returns {(() => void) | undefined} */
function ofRuler(viewer, event, arrow) {
  const step = event.shiftKey ? COARSE : FINE;
  if (arrow) return () => viewer.measuring.moveCross(step * arrow[0], step * arrow[1]);
  /** @type {Record<string, () => void>} */
  const acts = {
    Enter: () => viewer.measuring.setEnd(),
    " ": () => viewer.measuring.setEnd(),
    Escape: () => (viewer.measuring.rulers.open ? viewer.measuring.drop() : viewer.measuring.turn(false)),
    Backspace: () => viewer.measuring.remove(false),
    Delete: () => viewer.measuring.remove(event.shiftKey),
  };
  return acts[event.key];
}
