// @ts-check
/**
 * Distances between two points of a slice.
 *
 * @typedef {{x: number, y: number}} Point  columns and rows from the upper left corner of the image; a pixel's centre
 *   is at a half
 * @typedef {{from: Point, to: Point}} Ruler
 */

import { clamp } from "./words.js";

/** @param {Ruler} ruler  @param {[number, number] | null} spacing  mm between the centres of rows and of columns
 *  @returns {string} the length in mm, or in pixels where the spacing is not known */
export function lengthOf({ from, to }, spacing) {
  const [high, wide] = spacing ?? [1, 1];
  const length = Math.hypot((to.x - from.x) * wide, (to.y - from.y) * high);
  return `${length.toFixed(1)} ${spacing ? "mm" : "px"}`;
}

export class Rulers {
  /** @param {SVGElement} drawing  that covers the image */
  constructor(drawing) {
    this.drawing = drawing;
    /** @type {Map<number, Ruler[]>} */
    this.bySlice = new Map();
    /** @type {Ruler | null} */
    this.open = null; // with one end set, on the slice shown
    /** @type {Point | null} */
    this.cross = null; // where keys set the next end
  }

  /** @param {number} index of a slice  @returns {Ruler[]} */
  of(index) {
    return this.bySlice.get(index) ?? [];
  }

  /** The end of a ruler that is near a point, with the ruler. @param {number} index  @param {Point} point
   *  @param {(a: Point, b: Point) => number} distance  @param {number} most */
  endNear(index, point, distance, most) {
    /** @type {{ruler: Ruler, end: "from" | "to"} | null} */
    let nearest = null;
    for (const ruler of this.of(index)) {
      for (const end of /** @type {("from" | "to")[]} */ (["from", "to"])) {
        const away = distance(ruler[end], point);
        if (away <= most) [nearest, most] = [{ ruler, end }, away];
      }
    }
    return nearest;
  }

  /** @param {number} index  @param {Ruler} ruler */
  add(index, ruler) {
    this.bySlice.set(index, [...this.of(index), ruler]);
  }

  /** @param {number} index */
  removeLast(index) {
    this.bySlice.set(index, this.of(index).slice(0, -1));
  }

  /** @param {number} index */
  removeAll(index) {
    this.bySlice.delete(index);
    this.open = null;
  }

  /** Draw those of a slice, in percent of its size, so that they stay in place at every zoom.
   *  @param {number} index  @param {import("./viewer.js").Slice} slice */
  draw(index, slice) {
    const x = (/** @type {Point} */ point) => `${(100 * point.x) / slice.columns}%`;
    const y = (/** @type {Point} */ point) => `${(100 * point.y) / slice.rows}%`;
    const rulers = this.open ? [...this.of(index), this.open] : this.of(index);
    /** @type {SVGElement[]} */
    const shapes = [];
    for (const ruler of rulers) {
      const { from, to } = ruler;
      for (const kind of ["under", "over"]) {
        shapes.push(this.shape("line", { class: kind, x1: x(from), y1: y(from), x2: x(to), y2: y(to) }));
        for (const at of [from, to]) shapes.push(this.shape("circle", { class: kind, cx: x(at), cy: y(at), r: "4" }));
      }
      // beside the end that is further right, on the side where there is room
      const right = from.x > to.x ? from : to;
      const inside = right.x < 0.75 * slice.columns;
      const place = { x: x(right), y: y(right), dx: inside ? "9" : "-9", dy: right.y < slice.rows / 2 ? "16" : "-8" };
      const text = this.shape("text", { ...place, "text-anchor": inside ? "start" : "end" });
      text.textContent = lengthOf(ruler, slice.spacing);
      shapes.push(text);
    }
    for (const kind of this.cross ? ["under", "over"] : []) {
      const at = /** @type {Point} */ (this.cross);
      const inner = { class: "cross", x: x(at), y: y(at) };
      const cross = this.shape("svg", inner);
      for (const [x1, y1, x2, y2] of [[-12, 0, -3, 0], [3, 0, 12, 0], [0, -12, 0, -3], [0, 3, 0, 12]]) {
        const ends = { x1: `${x1}`, y1: `${y1}`, x2: `${x2}`, y2: `${y2}` };
        cross.append(this.shape("line", { class: kind, ...ends }));
      }
      shapes.push(cross);
    }
    this.drawing.replaceChildren(...shapes);
  }

  /** Move the cross by pixels, from the middle of what is seen where there is none.
   *  @param {number} right  @param {number} down  @param {import("./viewer.js").Slice} slice  @param {Point} middle */
  moveCross(right, down, slice, middle) {
    const { x, y } = this.cross ?? middle;
    const at = (/** @type {number} */ value, /** @type {number} */ n) => clamp(0.5, Math.floor(value) + 0.5, n - 0.5);
    this.cross = { x: at(x + right, slice.columns), y: at(y + down, slice.rows) };
    if (this.open) this.open.to = this.cross;
    return this.cross;
  }
  /** @param {string} name  @param {Record<string, string>} attributes  @returns {SVGElement} */
  shape(name, attributes) {
    const made = document.createElementNS(this.drawing.namespaceURI, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return /** @type {SVGElement} */ (made);
  }
}
