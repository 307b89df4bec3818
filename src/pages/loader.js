// @ts-check
/** Which slice is shown next: the one asked for last, as soon as it is decoded, with those around it decoded ahead. */

import { Kept, inflate, unpackPixels } from "./decode.js";
import { clamp } from "./words.js";

const KEPT_BYTES = 16e6; // of decoded slices: 30 of 512 x 512
const KEPT = { least: 8, most: 64 }; // decoded slices
const AHEAD = 4; // slices that are decoded before they are asked for, in the direction of scrolling
const IN_FLIGHT = 3; // slices that are read at once

/**
 * @typedef {object} Shows  what is done with a slice: shown, or told to have failed
 * @property {(index: number, hu: Int16Array, map: Uint8Array | null) => void} show
 * @property {(index: number, why: string) => void} fail
 */

export class Loader {
  /** @param {import("./viewer.js").Series} series  @param {import("./viewer.js").Read} read  @param {Shows} shows */
  constructor(series, read, shows) {
    const { slices, labels } = series;
    this.n = slices.length;
    this.shows = shows;
    this.wanted = 0; // the slice asked for last
    this.mapOn = false;
    this.direction = 0; // of scrolling
    this.asked = this.shown = 0; // requests are counted; the one that is shown
    /** @type {Set<number>} */
    this.inFlight = new Set(); // slices that are being read to be shown
    this.closed = false;
    const most = Math.floor(KEPT_BYTES / Math.max(...slices.map(({ rows, columns }) => 2 * rows * columns)));
    const kept = clamp(KEPT.least, most, KEPT.most);
    /** @type {Kept<Int16Array>} */
    this.pixels = new Kept(kept, async (i) => unpackPixels(await read("slice", i), slices[i].rows, slices[i].columns));
    /** @type {Kept<Uint8Array>} */
    this.maps = new Kept(kept, async (i) => {
      const { rows, columns } = series.maps ?? { rows: 0, columns: 0 };
      return inflate(await read("map", i), labels.length * rows * columns);
    });
  }

  /** Ask for a slice, or the one nearest to it that there is. Returns whether it is another one than before.
   *  @param {number} index */
  go(index) {
    const wanted = clamp(0, Math.round(index), this.n - 1);
    const changed = wanted !== this.wanted;
    if (changed && this.asked) this.direction = Math.sign(wanted - this.wanted);
    this.wanted = wanted;
    this.asked++;
    this.load();
    return changed;
  }

  /** Show the wanted slice at once where it is decoded. Those passed by too fast to be decoded are left out. */
  load() {
    if (this.closed) return;
    const [index, request, mapped] = [this.wanted, this.asked, this.mapOn];
    const [hu, map] = [this.pixels.ready(index), mapped ? this.maps.ready(index) : null];
    if (hu && map !== undefined) {
      this.show(index, request, hu, map);
      return;
    }
    if (this.inFlight.has(index) || this.inFlight.size >= IN_FLIGHT) return; // until one of them is there
    this.inFlight.add(index);
    this.get(index).then(
      ([pixels, maps]) => {
        this.inFlight.delete(index);
        const latest = index === this.wanted ? this.asked : request; // it may have been asked for again meanwhile
        if (mapped === this.mapOn && latest > this.shown) this.show(index, latest, pixels, maps);
        if (index !== this.wanted || mapped !== this.mapOn) this.load();
      },
      (error) => {
        this.inFlight.delete(index);
        if (index !== this.wanted) this.load();
        else if (!this.closed) this.shows.fail(index, error instanceof Error ? error.message : String(error));
      },
    );
  }

  /** @param {number} index  @returns {Promise<[Int16Array, Uint8Array | null]>} HU, and maps where they are on */
  get(index) {
    return Promise.all([this.pixels.get(index), this.mapOn ? this.maps.get(index) : null]);
  }

  /** @param {number} index  @param {number} request  @param {Int16Array} hu  @param {Uint8Array | null} map */
  show(index, request, hu, map) {
    if (this.closed) return;
    this.shown = request;
    this.shows.show(index, hu, map);
    if (index === this.wanted) this.readAhead();
  }

  /** Decode the slices that may be asked for next, one by one, for as long as nothing else is. */
  async readAhead() {
    const request = this.asked;
    const forth = Array.from({ length: AHEAD }, (_, i) => this.direction * (i + 1));
    // where nobody has scrolled yet, either side is as likely
    for (const step of this.direction ? [...forth, -this.direction] : [1, -1, 2, -2]) {
      const index = this.wanted + step;
      if (index < 0 || index >= this.n) continue;
      await this.get(index).catch(() => {}); // told of when it is looked at
      if (request !== this.asked || this.closed) return;
    }
  }

  close() {
    this.closed = true;
    this.pixels.clear();
    this.maps.clear();
  }
}
