// @ts-check
/** From HU to greys: a window of level and width, and the slices painted through it. */

import { clamp } from "./words.js";

export class Windowing {
  constructor() {
    this.level = 0;
    this.width = 1;
    this.greys = new Uint32Array(65536); // the opaque pixel of each HU, from -32768
    /** @type {ImageData | null} */
    this.image = null; // used again for slices of the same size
  }

  /** @param {number} level  @param {number} width in HU */
  set(level, width) {
    this.level = clamp(-1024, Math.round(level), 3071);
    this.width = clamp(1, Math.round(width), 4096);
    const low = this.level - this.width / 2;
    for (let i = 0; i < 65536; i++) {
      const grey = clamp(0, Math.round((255 * (i - 32768 - low)) / this.width), 255);
      this.greys[i] = grey * 0x010101 + 0xff000000;
    }
  }

  /** @param {HTMLCanvasElement} canvas  @param {Int16Array} hu row by row
   *  @param {{rows: number, columns: number}} size */
  paint(canvas, hu, { rows, columns }) {
    if (canvas.width !== columns || canvas.height !== rows) [canvas.width, canvas.height] = [columns, rows];
    if (this.image?.width !== columns || this.image.height !== rows) this.image = new ImageData(columns, rows);
    const [words, greys] = [new Uint32Array(this.image.data.buffer), this.greys];
    for (let i = 0; i < words.length; i++) words[i] = greys[hu[i] + 32768];
    canvas.getContext("2d")?.putImageData(this.image, 0, 0);
  }
}
