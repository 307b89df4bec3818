// @ts-check
/** Class activation maps over a slice. */

import { WARM, colour } from "./colours.js";

/** @param {HTMLCanvasElement} canvas  @param {Uint8Array} values of one label, row by row, 255 for 1
 *  @param {{rows: number, columns: number}} size of the map  @param {{rows: number, columns: number}} slice
 *  @param {number} opacity  of 1 */
export function paintMap(canvas, values, size, slice, opacity) {
  const image = new ImageData(size.columns, size.rows);
  values.forEach((byte, i) => {
    const value = byte / 255;
    // warm colours alone, since dark ones would dim the image; what is 0 hides nothing
    image.data.set([...colour(WARM + (1 - WARM) * value), 255 * value * opacity], 4 * i);
  });
  const small = new OffscreenCanvas(size.columns, size.rows);
  small.getContext("2d")?.putImageData(image, 0, 0);
  const { rows, columns } = slice;
  [canvas.width, canvas.height] = [columns, rows]; // which clears it
  const side = Math.max(rows, columns); // the network's input is the slice, centred in a square
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.imageSmoothingQuality = "high";
  context.drawImage(small, -((side - columns) >> 1), -((side - rows) >> 1), side, side);
}
