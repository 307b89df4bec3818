// @ts-check
/** Colours of probabilities and of class activation maps. */

import { clamp } from "./words.js";

export const WARM = 0.4; // from here on the colours of RAMP are for maps

/** Colours of 0 to 1, each brighter than the one before. */
const RAMP = [[24, 28, 34], [84, 37, 104], [178, 56, 75], [240, 128, 40], [252, 220, 130]];

/** @param {number} value in [0, 1]  @returns {[number, number, number]} red, green, blue */
export function colour(value) {
  const place = clamp(0, value, 1) * (RAMP.length - 1);
  const low = Math.min(Math.floor(place), RAMP.length - 2);
  const part = (/** @type {number} */ i) => RAMP[low][i] + (place - low) * (RAMP[low + 1][i] - RAMP[low][i]);
  return [part(0), part(1), part(2)];
}

/** The colours from data-ramp to 1, as a key. @param {HTMLCanvasElement} canvas */
export function paintRamp(canvas) {
  const context = canvas.getContext("2d");
  const from = Number(canvas.dataset.ramp);
  for (let x = 0; context && x < canvas.width; x++) {
    context.fillStyle = `rgb(${colour(from + ((1 - from) * x) / (canvas.width - 1))})`;
    context.fillRect(x, 0, 1, canvas.height);
  }
}
