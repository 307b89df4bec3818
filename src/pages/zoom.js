// @ts-check
/** Which part of the image is seen. style.css lays the image out from the numbers that are set here. */

import { clamp } from "./words.js";

const MOST = 16; // times the size at which the whole image fits
const BARS = [100, 50, 20, 10, 5, 2, 1, 0.5]; // mm that a scale bar may stand for
const LONGEST = 0.35; // of the width seen, that a scale bar may take

export class Zoom {
  /** @param {HTMLElement} stage  what the image is seen through  @param {HTMLElement} frame  the whole image
   *  @param {() => void} changed  is called when another part is seen */
  constructor(stage, frame, changed) {
    this.stage = stage;
    this.frame = frame;
    this.changed = changed;
    this.ratio = 1; // of width to height, in mm
    this.scale = 1; // 1 where the whole image just fits
    this.x = this.y = 0.5; // the point of the image in the middle of the stage, as fractions of its size
  }

  /** @param {number} ratio */
  setRatio(ratio) {
    if (ratio === this.ratio) return;
    this.ratio = ratio;
    this.set(this.scale, this.x, this.y);
  }

  /** @param {number} scale 1 for the whole image  @param {number} x  @param {number} y  the point of the image in the
   *  middle, as fractions of its size; kept so that the stage is filled as far as it can be */
  set(scale, x, y) {
    this.scale = clamp(1, scale, MOST);
    const part = this.seen();
    this.x = clamp(part.width / 2, x, 1 - part.width / 2);
    this.y = clamp(part.height / 2, y, 1 - part.height / 2);
    const numbers = { ratio: this.ratio, zoom: this.scale, x: this.x, y: this.y };
    for (const [name, value] of Object.entries(numbers)) this.stage.style.setProperty(`--${name}`, String(value));
    this.changed();
  }

  /** The whole image. */
  fit() {
    this.set(1, 0.5, 0.5);
  }

  /** The part of the image that is seen, as fractions of its size, 1 at most. */
  seen() {
    const [wide, high] = [this.stage.clientWidth || 1, this.stage.clientHeight || 1];
    const width = this.scale * Math.min(wide, high * this.ratio); // of the whole image, in CSS pixels
    return { width: Math.min(1, wide / width), height: Math.min(1, (high * this.ratio) / width) };
  }

  /** A point of the window as fractions of the image's size. @param {{clientX: number, clientY: number}} at */
  toImage(at) {
    const box = this.frame.getBoundingClientRect();
    return { x: (at.clientX - box.left) / box.width, y: (at.clientY - box.top) / box.height };
  }

  /** A point of the window as columns and rows from the upper left corner of a slice.
   *  @param {{clientX: number, clientY: number}} at  @param {import("./viewer.js").Slice} slice */
  toPixel(at, slice) {
    const { x, y } = this.toImage(at);
    return { x: x * slice.columns, y: y * slice.rows };
  }

  /** Enlarge so that what is at a point of the window, or in its middle, stays there. @param {number} factor
   *  @param {{clientX: number, clientY: number}} [at] */
  by(factor, at) {
    const { x, y } = at ? this.toImage(at) : this;
    const scale = clamp(1, this.scale * factor, MOST);
    const left = this.scale / scale;
    this.set(scale, x - (x - this.x) * left, y - (y - this.y) * left);
  }

  /** Move the image with the pointer. @param {number} right  @param {number} down  in CSS pixels */
  pan(right, down) {
    const box = this.frame.getBoundingClientRect();
    this.set(this.scale, this.x - right / box.width, this.y - down / box.height);
  }

  /** Move so that a point of the image, in fractions, is seen. @param {number} x  @param {number} y */
  reveal(x, y) {
    const { width, height } = this.seen();
    const near = (/** @type {number} */ at, /** @type {number} */ middle, /** @type {number} */ part) =>
      clamp(at - 0.45 * part, middle, at + 0.45 * part);
    this.set(this.scale, near(x, this.x, width), near(y, this.y, height));
  }

  /** Draw a scale bar, as long as what is seen has room for. @param {HTMLElement} bar
   *  @param {import("./viewer.js").Slice | undefined} slice */
  paintBar(bar, slice) {
    const width = slice?.spacing ? slice.columns * slice.spacing[1] : 0; // mm
    const mm = BARS.find((each) => each <= LONGEST * width * this.seen().width);
    bar.hidden = !mm;
    if (!mm) return;
    bar.style.setProperty("--part", String(mm / width));
    bar.textContent = mm >= 10 ? `${mm / 10} cm` : `${mm} mm`;
  }
}
