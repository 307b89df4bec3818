// @ts-check
/** The strip of probabilities along z: a column for each slice, a row for each label. */

import { colour } from "./colours.js";
import { clamp, millimetres } from "./words.js";

export class Strip {
  /** @param {HTMLCanvasElement} canvas  @param {import("./viewer.js").Series} series */
  constructor(canvas, series) {
    this.canvas = canvas;
    this.series = series;
    /** @type {OffscreenCanvas | null} */
    this.cells = null; // painted once for each size: with 600 slices too slow to be painted for each
  }

  /** @param {number} index of the slice shown */
  paint(index) {
    const { canvas } = this;
    const scale = window.devicePixelRatio || 1;
    const [wide, high] = [Math.round(canvas.clientWidth * scale), Math.round(canvas.clientHeight * scale)];
    if (canvas.width !== wide || canvas.height !== high) [canvas.width, canvas.height] = [wide, high];
    if (!wide || !high) return; // not laid out yet
    if (this.cells?.width !== wide || this.cells.height !== high) this.cells = this.paintCells(wide, high, scale);
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    context.clearRect(0, 0, wide, high);
    context.drawImage(this.cells, 0, 0);
    const step = wide / this.series.slices.length;
    const width = Math.max(step, 5 * scale);
    const left = clamp(0, (index + 0.5) * step - width / 2, wide - width);
    context.lineWidth = 2 * scale;
    for (const [style, inset] of /** @type {[string, number][]} */ ([["#000", 2], ["#5fd0ff", 1]])) {
      context.strokeStyle = style;
      context.strokeRect(left + inset * scale, inset * scale, width - 2 * inset * scale, high - 2 * inset * scale);
    }
  }

  /** The strip without the place of the slice shown.
   *  @param {number} wide  @param {number} high  @param {number} scale */
  paintCells(wide, high, scale) {
    const cells = new OffscreenCanvas(wide, high);
    const context = /** @type {OffscreenCanvasRenderingContext2D} */ (cells.getContext("2d"));
    const { slices, labels, thresholds } = this.series;
    const [step, row] = [wide / slices.length, high / labels.length];
    const gap = step > 6 * scale ? scale : 0;
    slices.forEach((slice, i) => {
      const [from, to] = [Math.floor(i * step), Math.max(Math.floor((i + 1) * step) - gap, Math.floor(i * step) + 1)];
      labels.forEach((_, label) => {
        const [value, threshold] = [slice.probabilities?.[label], thresholds[label]];
        context.fillStyle = value === undefined ? "#14171c" : `rgb(${colour(value)})`;
        context.fillRect(from, Math.round(label * row), to - from, Math.round(row) - scale);
        if (value === undefined || threshold === null || value < threshold) return;
        context.fillStyle = "#fff";
        context.fillRect(from, Math.round((label + 1) * row) - 3 * scale, to - from, 2 * scale);
      });
    });
    return cells;
  }

  /** What the ends are: number, side of the patient where it is known, z.
   *  @param {HTMLElement} first  @param {HTMLElement} last */
  tellEnds(first, last) {
    const { slices } = this.series;
    for (const [end, i] of /** @type {[HTMLElement, number][]} */ ([[first, 0], [last, slices.length - 1]])) {
      const { z } = slices[i];
      const side = (end.dataset.end ??= end.textContent.trim()); // which the page says
      end.textContent = `${i + 1}${side && ` (${side})`}${z === null ? "" : `\nz ${millimetres(z)}`}`;
    }
    this.canvas.setAttribute("aria-valuemax", String(slices.length));
  }

  /** Call `go` with the place, as a fraction of the strip, of each press and drag.
   *  @param {(fraction: number) => void} go  @param {AbortSignal} signal */
  listen(go, signal) {
    const { canvas } = this;
    const follow = (/** @type {PointerEvent} */ event) => {
      if (!(event.buttons & 1)) return;
      const box = canvas.getBoundingClientRect();
      go((event.clientX - box.left) / box.width);
    };
    const press = (/** @type {PointerEvent} */ event) => {
      canvas.setPointerCapture(event.pointerId);
      follow(event);
    };
    canvas.addEventListener("pointerdown", press, { signal });
    canvas.addEventListener("pointermove", follow, { signal });
  }
}
