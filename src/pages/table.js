// @ts-check
/** The table of probabilities: those of the study, which stay, and those of the slice shown. */

import { inWords } from "./words.js";

/** @param {HTMLElement} root  @returns {HTMLElement[]} */
function rowsOf(root) {
  return [...root.querySelectorAll("tr[data-label]")].map((row) => /** @type {HTMLElement} */ (row));
}

/** @param {HTMLElement} row  @param {string} selector  @returns {HTMLElement} */
function cell(row, selector) {
  return /** @type {HTMLElement} */ (row.querySelector(selector));
}

/** @param {HTMLElement} root  @param {import("./viewer.js").Series} series */
export function fillStudy(root, series) {
  for (const row of rowsOf(root)) {
    const label = Number(row.dataset.label);
    const [study, threshold] = [series.study?.[label], series.thresholds[label]];
    const above = threshold !== null && study !== undefined && study >= threshold;
    cell(row, '[data-part="study-value"]').textContent = inWords(study);
    // beside the study's: "0.97 ≥ 0.42"
    const sign = study === undefined ? "" : above ? "≥ " : "< ";
    const text = threshold === null ? "none" : `${sign}${inWords(threshold)}`;
    cell(row, '[data-part="threshold-value"]').textContent = text;
    row.classList.toggle("above", above);
    cell(row, ".bar .study").style.left = `${100 * (study ?? 0)}%`;
    cell(row, ".bar .study").hidden = study === undefined;
    cell(row, ".bar .threshold").style.left = `${100 * (threshold ?? 0)}%`;
    cell(row, ".bar .threshold").hidden = threshold === null;
  }
}

/** @param {HTMLElement} root  @param {import("./viewer.js").Slice} slice */
export function fillSlice(root, slice) {
  for (const row of rowsOf(root)) {
    const value = slice.probabilities?.[Number(row.dataset.label)];
    cell(row, '[data-part="slice-value"]').textContent = inWords(value);
    cell(row, ".bar .fill").style.width = `${100 * (value ?? 0)}%`;
  }
}
