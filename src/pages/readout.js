// @ts-check
/** What is said about a slice, and about a pixel of it. */

import { inWords, millimetres } from "./words.js";

/** @param {import("./viewer.js").Series} series  @param {number} index of the slice */
export function describe(series, index) {
  const { rows, columns, spacing, z, probabilities } = series.slices[index];
  const n = series.slices.length;
  const place = z === null ? "z unknown" : `z ${millimetres(z)}`;
  const any = probabilities ? `, any hemorrhage ${inWords(probabilities[0])}` : "";
  const pixel = spacing ? ` of ${spacing[0].toFixed(3)} × ${spacing[1].toFixed(3)} mm` : "";
  return {
    position: `Slice ${index + 1} / ${n}\n${place}`,
    spoken: `Slice ${index + 1} of ${n}, ${place}${any}`,
    matrix: `${rows} × ${columns} pixels${pixel}`,
    aspect: spacing ? "" : "Pixel spacing is not known: shown with square pixels, lengths are in pixels (px).",
  };
}

/** HU and place of the pixel at a point; nothing outside of the slice.
 *  @param {import("./viewer.js").Slice} slice  @param {Int16Array} hu
 *  @param {import("./ruler.js").Point} at  columns and rows from the upper left corner */
export function describePixel({ rows, columns, spacing }, hu, at) {
  const [row, column] = [Math.floor(at.y), Math.floor(at.x)];
  if (row < 0 || row >= rows || column < 0 || column >= columns) return "";
  const lines = [`${hu[row * columns + column]} HU`, `row ${row + 1}, column ${column + 1}`];
  // from the centre of the first pixel, which is where DICOM counts from
  if (spacing) lines.push(`↓ ${(row * spacing[0]).toFixed(1)}, → ${(column * spacing[1]).toFixed(1)} mm`);
  return lines.join("\n");
}
