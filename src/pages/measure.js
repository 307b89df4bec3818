// @ts-check
/** Measuring with rulers in a viewer: by drags (gestures.js), or by a cross that keys move (keys.js). */

import { Rulers, lengthOf } from "./ruler.js";

/** @typedef {import("./ruler.js").Ruler} Ruler */

export class Measuring {
  /** @param {import("./viewer.js").Viewer} viewer */
  constructor(viewer) {
    this.viewer = viewer;
    this.on = false;
    this.rulers = new Rulers(viewer.part("rulers"));
  }

  get slice() {
    return this.viewer.series.slices[this.viewer.index];
  }

  /** Turn the ruler on or off. @param {boolean} on  @param {boolean} [byKey] keys then go to the image */
  turn(on, byKey = false) {
    const { viewer, rulers } = this;
    this.on = on;
    [rulers.open, rulers.cross] = [null, null];
    viewer.part("ruler")?.setAttribute("aria-pressed", String(on));
    viewer.part("stage").classList.toggle("measuring", on);
    const keys = byKey ? "; or arrow keys (Shift: by 10), Enter at each end, Esc" : "";
    viewer.tell("told", on ? `Ruler: drag from point to point${keys}.` : "");
    if (on && byKey) viewer.part("stage").focus();
    this.draw();
    viewer.tellPointer();
  }

  /** @param {number} right  @param {number} down  in pixels of the image */
  moveCross(right, down) {
    const { viewer, slice } = this;
    if (!slice) return;
    const { x, y } = viewer.zoom;
    const at = this.rulers.moveCross(right, down, slice, { x: x * slice.columns, y: y * slice.rows });
    viewer.zoom.reveal(at.x / slice.columns, at.y / slice.rows);
    this.draw();
  }

  /** An end at the cross: the first one, or the second. */
  setEnd() {
    const { open, cross } = this.rulers;
    if (!cross) this.moveCross(0, 0);
    else if (open) this.end(open);
    else this.begin({ from: cross, to: cross });
  }

  /** @param {Ruler} ruler */
  begin(ruler) {
    if (!this.slice) return;
    this.rulers.open = ruler;
    this.draw();
  }

  /** Keep a ruler, unless both of its ends are at one point. @param {Ruler} ruler */
  end(ruler) {
    const kept = this.rulers.open === ruler && (ruler.from.x !== ruler.to.x || ruler.from.y !== ruler.to.y);
    this.rulers.open = null;
    if (kept) this.rulers.add(this.viewer.index, ruler);
    if (kept) this.tellLength(ruler);
    this.draw();
  }

  drop() {
    this.rulers.open = null;
    this.draw();
  }

  /** The last ruler of the slice shown, or all of them. @param {boolean} all */
  remove(all) {
    if (all) this.rulers.removeAll(this.viewer.index);
    else this.rulers.removeLast(this.viewer.index);
    this.viewer.tell("told", "");
    this.draw();
    this.changed();
  }

  /** @param {Ruler} ruler */
  tellLength(ruler) {
    this.viewer.tell("told", `Ruler: ${lengthOf(ruler, this.slice.spacing)}`);
    this.changed();
  }

  changed() {
    const { index } = this.viewer;
    const lengths = this.rulers.of(index).map((each) => lengthOf(each, this.slice.spacing));
    this.viewer.emit("rulers", { index, lengths });
  }

  draw() {
    const { viewer, rulers, slice } = this;
    if (slice && viewer.hu) rulers.draw(viewer.index, slice);
    else rulers.drawing.replaceChildren();
    for (const name of ["ruler-undo", "ruler-clear"]) {
      if (viewer.part(name)) viewer.part(name).disabled = !rulers.of(viewer.index).length;
    }
  }
}
