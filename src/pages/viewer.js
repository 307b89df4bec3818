// @ts-check
/**
 * A viewer of the slices of one CT series, and of what a detector says about them.
 *
 * `new Viewer(root, series, read)` brings the elements of whole_series.html to life, found by their data-part.
 * Slices are int16 HU, packed as src/pages/codec.py says. They are decoded when they are looked at and windowed here;
 * of the decoded ones only some are kept. `viewer.on(name, act)` tells a page what happens, `judge` gives probabilities
 * that come later, `destroy` ends all.
 *
 * @typedef {object} Slice
 * @property {number} rows
 * @property {number} columns
 * @property {[number, number] | null} spacing  mm between the centres of rows and of columns
 * @property {number | null} z  mm
 * @property {string} id  SOPInstanceUID
 * @property {number[] | null} probabilities  by label; null while they are not known
 *
 * @typedef {object} Series
 * @property {string[]} labels
 * @property {number[] | null} study  probabilities of the study, by label; null while they are not known
 * @property {(number | null)[]} thresholds  of the study's probabilities, by label
 * @property {Slice[]} slices
 * @property {{rows: number, columns: number} | null} maps
 * @property {number} reduction  1, or how many pixels became one, each way
 *
 * @typedef {(kind: "slice" | "map", index: number) => Promise<Uint8Array>} Read  the packed bytes of one slice
 *
 * @typedef {object} Events  what the listeners of `viewer.on` are given
 * @property {{index: number}} go  a slice was asked for
 * @property {{index: number}} slice  a slice is shown
 * @property {{level: number, width: number}} window  HU
 * @property {{scale: number, x: number, y: number}} zoom
 * @property {{index: number, lengths: string[]}} rulers  of the slice shown
 * @property {KeyboardEvent} key  a key that means nothing to the viewer
 */

import { paintRamp } from "./colours.js";
import { listenControls } from "./controls.js";
import { listenPointers, listenWheel } from "./gestures.js";
import { actOf } from "./keys.js";
import { Loader } from "./loader.js";
import { paintMap } from "./maps.js";
import { Measuring } from "./measure.js";
import { describe, describePixel } from "./readout.js";
import { Strip } from "./strip.js";
import { Suspicious } from "./suspicious.js";
import { fillSlice, fillStudy } from "./table.js";
import { Windowing } from "./windowing.js";
import { clamp } from "./words.js";
import { Zoom } from "./zoom.js";

/** @type {Set<Viewer>} */
const alive = new Set();
/** @type {Viewer | undefined} */
let active; // the one that keys are for: the last one used, of those in the page

export class Viewer {
  /** @param {HTMLElement} root  @param {Series} series  @param {Read} read */
  constructor(root, series, read) {
    this.root = root;
    this.series = series;
    this.index = -1; // of the slice shown
    this.pixelsOn = false;
    /** @type {{clientX: number, clientY: number} | null} */
    this.pointer = null;
    /** @type {Int16Array | null} */
    this.hu = null; // of the slice shown
    /** @type {Uint8Array | null} */
    this.map = null; // its maps, where they are on: label by label, 255 for 1
    this.frame = 0; // the animation frame that will paint
    this.events = new EventTarget();
    this.ended = new AbortController();
    this.windowing = new Windowing();
    this.zoom = new Zoom(this.part("stage"), this.part("frame"), () => this.tellZoom());
    this.suspicious = new Suspicious(series);
    this.strip = new Strip(this.part("strip"), series);
    this.measuring = new Measuring(this);
    this.loader = new Loader(series, read, {
      show: (index, hu, map) => this.show(index, hu, map),
      fail: (index, why) => this.fail(index, why),
    });
    this.presets = /** @type {HTMLButtonElement[]} */ ([...root.querySelectorAll("button[data-window]")]);
    alive.add(this);
    active ??= this;
    this.fill();
    this.listen();
    this.usePreset(0);
    this.go(this.suspicious.first);
  }

  get destroyed() {
    return this.ended.signal.aborted;
  }

  /** The slice that was asked for last, and is or will be shown. */
  get wanted() {
    return this.loader.wanted;
  }

  get mapOn() {
    return this.loader.mapOn;
  }

  /** @param {string} name  @returns {any} the element of that data-part; null where the page has none */
  part(name) {
    return this.root.querySelector(`[data-part="${name}"]`);
  }

  /** Call `act` whenever something happens, until `signal` or the viewer ends.
   *  @template {keyof Events} Name  @param {Name} name  @param {(detail: Events[Name]) => void} act
   *  @param {AbortSignal} [signal] */
  on(name, act, signal) {
    const listener = (/** @type {Event} */ event) => act(/** @type {CustomEvent} */ (event).detail);
    this.events.addEventListener(name, listener, { signal });
  }

  /** @template {keyof Events} Name  @param {Name} name  @param {Events[Name]} detail */
  emit(name, detail) {
    this.events.dispatchEvent(new CustomEvent(name, { detail }));
  }

  /** Probabilities that were not known before, or new ones.
   *  @param {{study: number[], thresholds: (number | null)[], probabilities: number[][],
   *           maps?: {rows: number, columns: number} | null}} judgement  probabilities by slice and label */
  judge({ study, thresholds, probabilities, maps }) {
    Object.assign(this.series, { study, thresholds, maps: maps ?? this.series.maps });
    this.series.slices.forEach((slice, i) => (slice.probabilities = probabilities[i]));
    this.suspicious = new Suspicious(this.series);
    this.strip.cells = null;
    this.fill();
    if (this.index >= 0) this.paint();
  }

  /** End all: no listener, no decoded slice and no canvas is left. */
  destroy() {
    this.ended.abort();
    cancelAnimationFrame(this.frame);
    this.resized?.disconnect();
    alive.delete(this);
    if (active === this) [active] = alive;
    this.loader.close();
    [this.hu, this.map, this.strip.cells, this.windowing.image] = [null, null, null, null];
    for (const name of ["image", "map", "strip"]) [this.part(name).width, this.part(name).height] = [0, 0];
    this.events = new EventTarget(); // whoever listened is let go
  }

  /** What does not depend on the slice: the study's column, the thresholds, the ends of the strip. */
  fill() {
    const { series } = this;
    fillStudy(this.root, series);
    this.strip.tellEnds(this.part("first"), this.part("last"));
    for (const canvas of this.root.querySelectorAll("canvas")) if (canvas.dataset.ramp) paintRamp(canvas);
    if (this.part("map-on")) this.part("map-on").disabled = !series.maps;
  }

  /** Show a slice, or the one nearest to it that there is. @param {number} index */
  go(index) {
    if (this.loader.go(index)) this.emit("go", { index: this.wanted });
  }

  /** With the next frame. @param {number} index  @param {Int16Array} hu  @param {Uint8Array | null} map */
  show(index, hu, map) {
    if (index !== this.index) this.measuring.rulers.open = null;
    [this.index, this.hu, this.map] = [index, hu, map];
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.paint();
    });
  }

  /** In place of an image, so that none is taken for another's. @param {number} index  @param {string} why */
  fail(index, why) {
    cancelAnimationFrame(this.frame);
    [this.frame, this.index, this.hu, this.map] = [0, index, null, null];
    const canvas = this.part("image");
    canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
    this.paintMap();
    this.measuring.draw();
    this.tellPointer();
    delete this.root.dataset.shown;
    this.part("position").textContent = "";
    this.part("failure").textContent = `Slice ${index + 1} cannot be shown: ${why}`;
    this.part("failure").hidden = false;
  }

  /** All that depends on the slice. */
  paint() {
    const slice = this.series.slices[this.index];
    const [high, wide] = slice.spacing ?? [1, 1];
    const { position, spoken, matrix, aspect } = describe(this.series, this.index);
    this.part("failure").hidden = true;
    this.zoom.setRatio((slice.columns * wide) / (slice.rows * high));
    for (const [name, text] of Object.entries({ position, matrix, aspect, uid: slice.id })) this.tell(name, text);
    this.part("strip").setAttribute("aria-valuenow", String(this.index + 1));
    this.part("strip").setAttribute("aria-valuetext", spoken);
    this.part("image").setAttribute("aria-label", `CT: ${spoken}`);
    fillSlice(this.root, slice);
    this.paintImage();
    this.paintMap();
    this.strip.paint(this.index);
    this.zoom.paintBar(this.part("scale"), slice);
    this.measuring.draw();
    this.tellPointer();
    this.root.dataset.shown = String(this.index);
    this.emit("slice", { index: this.index });
  }

  paintImage() {
    if (this.hu) this.windowing.paint(this.part("image"), this.hu, this.series.slices[this.index]);
  }

  paintMap() {
    const { maps, labels, slices } = this.series;
    const canvas = this.part("map");
    canvas.hidden = !this.mapOn || !this.map;
    if (canvas.hidden || !maps || !this.map) return;
    const [label, opacity] = [Number(this.part("map-label").value), Number(this.part("map-opacity").value)];
    const n = this.map.length / labels.length;
    paintMap(canvas, this.map.subarray(label * n, (label + 1) * n), maps, slices[this.index], opacity);
    this.root.dataset.map = `${this.index} ${label} ${opacity}`;
  }

  /** @param {string} name  @param {string} text */
  tell(name, text) {
    const told = this.part(name);
    if (told) told.textContent = text;
  }

  /** @param {number} level  @param {number} width in HU */
  setWindow(level, width) {
    this.windowing.set(level, width);
    ({ level, width } = this.windowing);
    for (const each of this.presets) {
      const same = Number(each.dataset.level) === level && Number(each.dataset.width) === width;
      each.setAttribute("aria-pressed", String(same));
    }
    for (const [name, value] of Object.entries({ level, width })) if (this.part(name)) this.part(name).value = value;
    this.root.dataset.window = `${level} ${width}`;
    this.tellWindow();
    this.paintImage();
    this.emit("window", { level, width });
  }

  /** What lies between the HU and the eye: a picture of the page should say it. */
  tellWindow() {
    const preset = this.presets.find((each) => each.getAttribute("aria-pressed") === "true");
    const { level, width } = this.windowing;
    const lines = [`${preset?.dataset.name ?? "Free"} window`, `L ${level}  W ${width} HU`];
    if (this.zoom.scale > 1) lines.push(`Zoom ${this.zoom.scale.toFixed(1)} ×`);
    if (this.mapOn) lines.push(`Map: ${this.series.labels[Number(this.part("map-label").value)]}`);
    this.part("window").textContent = lines.join("\n");
  }

  /** @param {number} number from 0 */
  usePreset(number) {
    const preset = this.presets[number];
    if (preset) this.setWindow(Number(preset.dataset.level), Number(preset.dataset.width));
    else if (!this.presets.length) this.setWindow(40, 80);
  }

  /** The first window, and the whole image. */
  reset() {
    this.usePreset(0);
    this.zoom.fit();
  }

  tellZoom() {
    const { scale, x, y } = this.zoom;
    this.root.dataset.zoom = `${scale.toFixed(3)} ${x.toFixed(4)} ${y.toFixed(4)}`;
    this.zoom.paintBar(this.part("scale"), this.series.slices[this.index]);
    this.tellWindow();
    this.tellPointer();
    this.emit("zoom", { scale, x, y });
  }

  /** Large pixels as squares in place of smooth transitions. @param {boolean} on */
  showPixels(on) {
    this.pixelsOn = on;
    this.part("stage").classList.toggle("pixels", on);
    this.part("pixels")?.setAttribute("aria-pressed", String(on));
  }

  /** @param {boolean} on */
  showMap(on) {
    if (!this.series.maps || !this.part("map-on")) return;
    this.loader.mapOn = on;
    this.part("map-on").checked = on;
    if (!on) this.map = null;
    this.paintMap();
    this.tellWindow();
    this.go(this.wanted); // which reads the map
  }

  /** To the next suspicious slice, 1, or the one before, -1. @param {1 | -1} direction */
  jump(direction) {
    const { to, told } = this.suspicious.from(direction, this.wanted);
    this.tell("told", told);
    this.go(to);
  }

  /** Remember where the pointer is, and say what is there. @param {{clientX: number, clientY: number} | null} at */
  point(at) {
    this.pointer = at && { clientX: at.clientX, clientY: at.clientY };
    this.tellPointer();
  }

  /** The pixel at a point of the window, within the image: columns and rows from its upper left corner.
   *  @param {{clientX: number, clientY: number}} at */
  pixelAt(at) {
    const slice = this.series.slices[this.index];
    const { x, y } = this.zoom.toPixel(at, slice);
    return { x: clamp(0, x, slice.columns), y: clamp(0, y, slice.rows) };
  }

  /** HU and place under the pointer, or under the cross of the ruler. */
  tellPointer() {
    const slice = this.series.slices[this.index];
    const { cross } = this.measuring.rulers;
    const at = cross ?? (this.pointer && slice ? this.zoom.toPixel(this.pointer, slice) : null);
    this.tell("pointer", at && slice && this.hu ? describePixel(slice, this.hu, at) : "");
  }

  listen() {
    const { signal } = this.ended;
    listenWheel(this, signal);
    listenPointers(this, signal);
    this.strip.listen((fraction) => this.go(Math.floor(fraction * this.series.slices.length)), signal);
    document.addEventListener("keydown", (event) => this.key(event), { signal });
    for (const name of ["pointerdown", "focusin"]) this.root.addEventListener(name, () => (active = this), { signal });
    listenControls(this, signal);
    this.resized = new ResizeObserver(() => {
      if (this.index < 0) return;
      this.strip.paint(this.index);
      this.zoom.set(this.zoom.scale, this.zoom.x, this.zoom.y);
    });
    for (const name of ["strip", "stage"]) this.resized.observe(this.part(name));
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    if (active !== this || !this.root.checkVisibility()) return;
    const act = actOf(this, event);
    if (!act) {
      this.emit("key", event);
      return;
    }
    event.preventDefault();
    act();
  }
}
