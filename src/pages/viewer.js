// @ts-check
/**
 * A viewer of the slices of one CT series, and of what a detector says about them.
 *
 * `new Viewer(root, series, read)` brings the elements of templates/series.html to life, found by their data-part.
 * Slices are int16 HU, packed as src/pages/codec.py says. They are decoded when they are looked at and windowed here;
 * of the decoded ones only some are kept.
 *
 * @typedef {object} Slice
 * @property {number} rows
 * @property {number} columns
 * @property {[number, number] | null} spacing  mm between the centres of rows and of columns
 * @property {number | null} z  mm
 * @property {string} id  SOPInstanceUID
 * @property {number[]} probabilities  by label
 *
 * @typedef {object} Series
 * @property {string[]} labels
 * @property {number[]} study  probabilities of the study, by label
 * @property {(number | null)[]} thresholds  of the study's probabilities, by label
 * @property {Slice[]} slices
 * @property {{rows: number, columns: number} | null} maps
 * @property {number} reduction  1, or how many pixels became one, each way
 *
 * @typedef {(kind: "slice" | "map", index: number) => Promise<Uint8Array>} Read  the packed bytes of one slice
 */

import { WARM, colour, paintRamp } from "./colours.js";
import { Kept, inflate, unpackPixels } from "./decode.js";
import { clamp, inWords, millimetres } from "./words.js";

const KEPT = 24; // decoded slices: 12 MB at 512 x 512
const AHEAD = 2; // slices to each side that are decoded before they are asked for
const NOTCH = 50; // pixels of the wheel that make a step; a mouse's notch is 100 or more, and one step
const SWIPE = 12; // pixels of a finger that make a step

/** The slices to jump to: of each run at or above the threshold its highest; without one, the highest of all.
 *  @param {number[]} values  @param {number | null} threshold */
function suspicious(values, threshold) {
  const peaks = [];
  for (let i = 0; threshold !== null && i < values.length; i++) {
    if (values[i] < threshold) continue;
    let peak = i;
    for (; i < values.length && values[i] >= threshold; i++) if (values[i] > values[peak]) peak = i;
    peaks.push(peak);
  }
  return peaks;
}

export class Viewer {
  /** @param {HTMLElement} root  @param {Series} series  @param {Read} read */
  constructor(root, series, read) {
    this.root = root;
    this.series = series;
    this.any = series.slices.map((slice) => slice.probabilities[0]);
    this.highest = this.any.indexOf(Math.max(...this.any));
    this.peaks = suspicious(this.any, series.thresholds[0]);
    this.index = this.wanted = 0; // the slice shown, and the one that will be
    this.level = 0;
    this.width = 1;
    this.mapOn = false;
    /** @type {{x: number, y: number} | null} */
    this.pointer = null; // where it is in the image, as fractions of its size
    /** @type {OffscreenCanvas | null} */
    this.cells = null; // the strip, painted once for each size
    this.greys = new Uint8ClampedArray(65536); // of each HU, from -32768
    this.pixels = new Kept(KEPT, async (i) => {
      const { rows, columns } = series.slices[i];
      return unpackPixels(await read("slice", i), rows, columns);
    });
    this.maps = new Kept(KEPT, async (i) => inflate(await read("map", i)));
    /** @type {Int16Array | null} */
    this.hu = null; // of the slice shown
    /** @type {Uint8Array | null} */
    this.map = null; // its maps, where they are on: label by label, 255 for 1
    this.presets = /** @type {HTMLButtonElement[]} */ ([...root.querySelectorAll("button[data-window]")]);
    this.fill();
    this.listen();
    this.usePreset(0);
    // where the threshold is reached by none, the highest is chance
    const reached = this.peaks.length || series.thresholds[0] === null;
    this.go(reached ? this.highest : (series.slices.length - 1) / 2);
  }

  /** @param {string} name  @returns {any} the element of that data-part; null where the page has none */
  part(name) {
    return this.root.querySelector(`[data-part="${name}"]`);
  }

  /** What stays as it is: the study's column, the thresholds, the ends of the strip. */
  fill() {
    const { series } = this;
    for (const row of this.rows()) {
      const label = Number(row.dataset.label);
      const [study, threshold] = [series.study[label], series.thresholds[label]];
      const above = threshold !== null && study >= threshold;
      cell(row, "study-value").textContent = inWords(study);
      // beside the study's: "0.97 ≥ 0.42"
      const sign = above ? "≥" : "<";
      cell(row, "threshold-value").textContent = threshold === null ? "none" : `${sign} ${inWords(threshold)}`;
      row.classList.toggle("above", above);
      cell(row, "", ".bar .study").style.left = `${100 * study}%`;
      cell(row, "", ".bar .threshold").style.left = `${100 * (threshold ?? 0)}%`;
      cell(row, "", ".bar .threshold").hidden = threshold === null;
    }
    for (const [name, i] of /** @type {[string, number][]} */ ([["first", 0], ["last", series.slices.length - 1]])) {
      const { z } = series.slices[i];
      const end = this.part(name).textContent;
      this.part(name).textContent = `${i + 1}${end && ` (${end})`}${z === null ? "" : `\nz ${millimetres(z)}`}`;
    }
    this.root.querySelectorAll("canvas").forEach((canvas) => canvas.dataset.ramp && paintRamp(canvas));
  }

  /** @returns {HTMLElement[]} of the table of probabilities */
  rows() {
    return [...this.root.querySelectorAll("tr[data-label]")].map((row) => /** @type {HTMLElement} */ (row));
  }

  /** Show a slice, or the one nearest to it that there is. @param {number} index */
  async go(index) {
    const wanted = (this.wanted = clamp(0, Math.round(index), this.series.slices.length - 1));
    let hu, map;
    try {
      [hu, map] = await Promise.all([this.pixels.get(wanted), this.mapOn ? this.maps.get(wanted) : null]);
    } catch (error) {
      this.fail(`Slice ${wanted + 1} cannot be shown: ${error instanceof Error ? error.message : error}`);
      return;
    }
    if (wanted !== this.wanted) return; // another one was asked for meanwhile
    this.index = wanted;
    [this.hu, this.map] = [hu, map];
    this.part("failure").hidden = true;
    this.paint();
    for (let i = wanted - AHEAD; i <= wanted + AHEAD; i++) {
      if (i >= 0 && i < this.series.slices.length) this.pixels.get(i).catch(() => {}); // told when it is looked at
    }
  }

  /** In place of an image, so that none is taken for another's. @param {string} message */
  fail(message) {
    const canvas = this.part("image");
    canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
    [this.hu, this.map] = [null, null];
    this.paintMap();
    this.tellPointer();
    this.part("position").textContent = "";
    this.part("failure").textContent = message;
    this.part("failure").hidden = false;
  }

  /** All that depends on the slice. */
  paint() {
    const slice = this.series.slices[this.index];
    const [high, wide] = slice.spacing ?? [1, 1];
    const [height, width] = [slice.rows * high, slice.columns * wide];
    this.part("frame").style.setProperty("--ratio", String(width / height));
    this.part("scale").hidden = !slice.spacing || width < 60;
    this.part("scale").style.width = `${5000 / width}%`;
    this.part("aspect").textContent = slice.spacing ? "" : "Pixel spacing is not known: shown with square pixels.";
    const size = `${slice.rows} × ${slice.columns} pixels`;
    this.part("matrix").textContent = slice.spacing ? `${size} of ${high.toFixed(3)} × ${wide.toFixed(3)} mm` : size;
    this.part("uid").textContent = slice.id;
    const n = this.series.slices.length;
    const place = slice.z === null ? "z unknown" : `z ${millimetres(slice.z)}`;
    this.part("position").textContent = `Slice ${this.index + 1} / ${n}\n${place}`;
    const spoken = `Slice ${this.index + 1} of ${n}, ${place}, any hemorrhage ${inWords(slice.probabilities[0])}`;
    this.part("strip").setAttribute("aria-valuenow", String(this.index + 1));
    this.part("strip").setAttribute("aria-valuetext", spoken);
    this.part("image").setAttribute("aria-label", `CT: ${spoken}`);
    for (const row of this.rows()) {
      const value = slice.probabilities[Number(row.dataset.label)];
      cell(row, "slice-value").textContent = inWords(value);
      cell(row, "", ".bar .fill").style.width = `${100 * value}%`;
    }
    this.paintImage();
    this.paintMap();
    this.paintStrip();
    this.tellPointer();
    this.root.dataset.shown = String(this.index);
  }

  paintImage() {
    if (!this.hu) return;
    const { rows, columns } = this.series.slices[this.index];
    const canvas = this.part("image");
    if (canvas.width !== columns || canvas.height !== rows) [canvas.width, canvas.height] = [columns, rows];
    const image = new ImageData(columns, rows);
    const words = new Uint32Array(image.data.buffer);
    for (let i = 0; i < words.length; i++) words[i] = this.greys[this.hu[i] + 32768] * 0x010101 + 0xff000000;
    canvas.getContext("2d").putImageData(image, 0, 0);
  }

  paintMap() {
    const canvas = this.part("map");
    const { maps, labels } = this.series;
    const values = this.map;
    canvas.hidden = !this.mapOn || !values;
    if (canvas.hidden || !maps || !values) return;
    const label = Number(this.part("map-label").value);
    const opacity = Number(this.part("map-opacity").value);
    const n = values.length / labels.length;
    const image = new ImageData(maps.columns, maps.rows);
    for (let i = 0; i < n; i++) {
      const value = values[label * n + i] / 255;
      // warm colours alone, since dark ones would dim the image; what is 0 hides nothing
      image.data.set([...colour(WARM + (1 - WARM) * value), 255 * value * opacity], 4 * i);
    }
    const small = new OffscreenCanvas(maps.columns, maps.rows);
    small.getContext("2d")?.putImageData(image, 0, 0);
    const { rows, columns } = this.series.slices[this.index];
    [canvas.width, canvas.height] = [columns, rows]; // which clears it
    const side = Math.max(rows, columns); // the network's input is the slice, centred in a square
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(small, -((side - columns) >> 1), -((side - rows) >> 1), side, side);
    this.root.dataset.map = `${this.index} ${label} ${opacity}`;
  }

  paintStrip() {
    const canvas = this.part("strip");
    const scale = window.devicePixelRatio || 1;
    const [wide, high] = [Math.round(canvas.clientWidth * scale), Math.round(canvas.clientHeight * scale)];
    if (canvas.width !== wide || canvas.height !== high) [canvas.width, canvas.height] = [wide, high];
    if (!wide || !high) return; // not laid out yet
    if (this.cells?.width !== wide || this.cells.height !== high) this.cells = this.paintCells(wide, high, scale);
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, wide, high);
    context.drawImage(this.cells, 0, 0);
    const step = wide / this.series.slices.length;
    const width = Math.max(step, 5 * scale);
    const left = clamp(0, (this.index + 0.5) * step - width / 2, wide - width);
    context.lineWidth = 2 * scale;
    for (const [style, inset] of /** @type {[string, number][]} */ ([["#000", 2], ["#5fd0ff", 1]])) {
      context.strokeStyle = style;
      context.strokeRect(left + inset * scale, inset * scale, width - 2 * inset * scale, high - 2 * inset * scale);
    }
  }

  /** The strip without the place of the slice: with 600 slices too slow to be painted for each.
   *  @param {number} wide  @param {number} high  @param {number} scale */
  paintCells(wide, high, scale) {
    const cells = new OffscreenCanvas(wide, high);
    const context = /** @type {OffscreenCanvasRenderingContext2D} */ (cells.getContext("2d"));
    const { slices, labels, thresholds } = this.series;
    const [step, row] = [wide / slices.length, high / labels.length];
    const gap = step > 6 * scale ? scale : 0;
    slices.forEach((slice, i) => {
      const [from, to] = [Math.floor(i * step), Math.max(Math.floor((i + 1) * step) - gap, Math.floor(i * step) + 1)];
      slice.probabilities.forEach((value, label) => {
        const threshold = thresholds[label];
        context.fillStyle = `rgb(${colour(value)})`;
        context.fillRect(from, Math.round(label * row), to - from, Math.round(row) - scale);
        if (threshold === null || value < threshold) return;
        context.fillStyle = "#fff";
        context.fillRect(from, Math.round((label + 1) * row) - 3 * scale, to - from, 2 * scale);
      });
    });
    return cells;
  }

  /** @param {number} level  @param {number} width in HU */
  setWindow(level, width) {
    this.level = clamp(-1024, Math.round(level), 3071);
    this.width = clamp(1, Math.round(width), 4096);
    const low = this.level - this.width / 2;
    for (let i = 0; i < 65536; i++) this.greys[i] = (255 * (i - 32768 - low)) / this.width; // rounds and clamps
    for (const each of this.presets) {
      const same = Number(each.dataset.level) === this.level && Number(each.dataset.width) === this.width;
      each.setAttribute("aria-pressed", String(same));
    }
    this.part("level").value = this.level;
    this.part("width").value = this.width;
    this.root.dataset.window = `${this.level} ${this.width}`;
    this.tellWindow();
    this.paintImage();
  }

  /** What lies between the HU and the eye: a picture of the page should say it. */
  tellWindow() {
    const preset = this.presets.find((each) => each.getAttribute("aria-pressed") === "true");
    const lines = [`${preset?.dataset.name ?? "Free"} window`, `L ${this.level}  W ${this.width} HU`];
    if (this.mapOn) lines.push(`Map: ${this.series.labels[Number(this.part("map-label").value)]}`);
    this.part("window").textContent = lines.join("\n");
  }

  /** @param {number} number from 0 */
  usePreset(number) {
    const preset = this.presets[number];
    if (preset) this.setWindow(Number(preset.dataset.level), Number(preset.dataset.width));
  }

  /** @param {boolean} on */
  showMap(on) {
    if (!this.series.maps) return;
    this.mapOn = on;
    this.part("map-on").checked = on;
    this.tellWindow();
    this.go(this.wanted); // which reads the map
  }

  /** To the next suspicious slice, 1, or the one before, -1. @param {1 | -1} direction */
  jump(direction) {
    const ahead = this.peaks.filter((peak) => direction * (peak - this.wanted) > 0);
    const told = this.part("told");
    if (!this.peaks.length) {
      const none = this.series.thresholds[0] === null ? "No threshold is given" : "No slice reaches the threshold";
      told.textContent = `${none}: slice ${this.highest + 1} is the highest.`;
      this.go(this.highest);
    } else if (ahead.length) {
      told.textContent = "";
      this.go(direction > 0 ? ahead[0] : ahead[ahead.length - 1]);
    } else {
      told.textContent = direction > 0 ? "No later one." : "No earlier one.";
    }
  }

  /** HU under the pointer. */
  tellPointer() {
    const { rows, columns } = this.series.slices[this.index];
    const told = this.part("pointer");
    if (!this.pointer || !this.hu) {
      told.textContent = "";
      return;
    }
    const [row, column] = [Math.floor(this.pointer.y * rows), Math.floor(this.pointer.x * columns)];
    const inside = row >= 0 && row < rows && column >= 0 && column < columns;
    told.textContent = inside ? `${this.hu[row * columns + column]} HU\nrow ${row + 1}, column ${column + 1}` : "";
  }

  listen() {
    this.listenStage();
    this.listenStrip();
    document.addEventListener("keydown", (event) => this.key(event));
    this.presets.forEach((each, i) => each.addEventListener("click", () => this.usePreset(i)));
    this.part("reset").addEventListener("click", () => this.usePreset(0));
    for (const name of ["level", "width"]) {
      this.part(name).addEventListener("change", () =>
        this.setWindow(Number(this.part("level").value), Number(this.part("width").value)));
    }
    for (const button of this.root.querySelectorAll("button[data-go]")) {
      const direction = button.getAttribute("data-go") === "forth" ? 1 : -1;
      button.addEventListener("click", () => this.jump(direction));
    }
    this.part("map-on")?.addEventListener("change", () => this.showMap(this.part("map-on").checked));
    this.part("map-label")?.addEventListener("change", () => this.showMap(true));
    this.part("map-opacity")?.addEventListener("input", () => this.showMap(true));
    new ResizeObserver(() => this.paintStrip()).observe(this.part("strip"));
  }

  /** Wheel and drags on the image: a mouse sets the window, a finger scrolls. */
  listenStage() {
    const stage = this.part("stage");
    let turned = 0;
    const turn = (/** @type {WheelEvent} */ event) => {
      if (event.ctrlKey) return; // the browser's zoom
      event.preventDefault();
      const pixels = event.deltaMode === 0 ? event.deltaY : event.deltaY * NOTCH;
      turned = Math.abs(pixels) >= NOTCH ? Math.sign(pixels) * NOTCH : turned + pixels;
      if (Math.abs(turned) < NOTCH) return;
      this.go(this.wanted + Math.sign(turned));
      turned = 0;
    };
    for (const name of ["stage", "strip"]) this.part(name).addEventListener("wheel", turn, { passive: false });
    /** @type {{x: number, y: number, level: number, width: number, index: number} | null} */
    let start = null;
    stage.addEventListener("pointerdown", (/** @type {PointerEvent} */ event) => {
      if (event.button !== 0 || !event.isPrimary) return;
      stage.setPointerCapture(event.pointerId);
      start = { x: event.clientX, y: event.clientY, level: this.level, width: this.width, index: this.wanted };
    });
    stage.addEventListener("pointermove", (/** @type {PointerEvent} */ event) => {
      const box = this.part("frame").getBoundingClientRect();
      this.pointer = { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
      this.tellPointer();
      if (!start || !event.isPrimary) return;
      const [right, down] = [event.clientX - start.x, event.clientY - start.y];
      if (event.pointerType === "touch") {
        this.go(start.index + Math.trunc(down / SWIPE));
      } else if (right || down) {
        const step = Math.max(start.width / 256, 0.25); // HU a pixel: a wide window moves in wide steps
        this.setWindow(start.level - down * step, start.width + right * step);
      }
    });
    for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, () => (start = null));
    stage.addEventListener("pointerleave", () => {
      this.pointer = null;
      this.tellPointer();
    });
  }

  listenStrip() {
    const strip = this.part("strip");
    const follow = (/** @type {PointerEvent} */ event) => {
      if (!(event.buttons & 1)) return;
      const box = strip.getBoundingClientRect();
      this.go(Math.floor(((event.clientX - box.left) / box.width) * this.series.slices.length));
    };
    strip.addEventListener("pointerdown", (/** @type {PointerEvent} */ event) => {
      strip.setPointerCapture(event.pointerId);
      follow(event);
    });
    strip.addEventListener("pointermove", follow);
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    const at = event.target instanceof HTMLElement ? event.target : null;
    if (event.ctrlKey || event.altKey || event.metaKey || at?.matches("select, input:not([type=checkbox])")) return;
    const page = Math.max(2, Math.round(this.series.slices.length / 10));
    /** @type {Record<string, () => void>} */
    const moves = {
      ArrowUp: () => this.go(this.wanted - 1),
      ArrowLeft: () => this.go(this.wanted - 1),
      ArrowDown: () => this.go(this.wanted + 1),
      ArrowRight: () => this.go(this.wanted + 1),
      PageUp: () => this.go(this.wanted - page),
      PageDown: () => this.go(this.wanted + page),
      Home: () => this.go(0),
      End: () => this.go(this.series.slices.length - 1),
    };
    /** @type {Record<string, () => void>} */
    const letters = {
      n: () => this.jump(1),
      p: () => this.jump(-1),
      m: () => this.showMap(!this.mapOn),
      r: () => this.usePreset(0),
    };
    this.presets.forEach((_, i) => (letters[String(i + 1)] = () => this.usePreset(i)));
    const act = moves[event.key] ?? (this.part("shortcuts").checked ? letters[event.key.toLowerCase()] : undefined);
    if (!act) return;
    event.preventDefault();
    act();
  }
}

/** @param {HTMLElement} row  @param {string} name  @param {string} [selector]  @returns {HTMLElement} */
function cell(row, name, selector) {
  return /** @type {HTMLElement} */ (row.querySelector(selector ?? `[data-part="${name}"]`));
}
