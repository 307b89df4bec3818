// @ts-check
/** Numbers as people read them. */

/** @param {number} low  @param {number} value  @param {number} high */
export const clamp = (low, value, high) => Math.min(Math.max(value, low), high);

/** A probability for people: none is rounded to 0 or 1. @param {number | undefined} value */
export function inWords(value) {
  if (value === undefined) return "–";
  if (value > 0 && value < 0.005) return "<0.01";
  return value >= 0.995 && value < 1 ? ">0.99" : value.toFixed(2);
}

/** @param {number} value in mm */
export function millimetres(value) {
  return `${value.toFixed(1).replace("-", "−")} mm`;
}
