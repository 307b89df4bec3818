// @ts-check
/** Slices and maps from the bytes that src/pages/codec.py packs, and the few decoded ones that are kept. */

/** @param {Uint8Array} packed  of zlib  @param {number} size  in bytes, of what was packed */
export async function inflate(packed, size) {
  const { readable, writable } = new DecompressionStream("deflate");
  const writer = writable.getWriter();
  // damaged bytes also fail the reading below, which tells of them
  writer.write(/** @type {BufferSource} */ (packed)).catch(() => {});
  writer.close().catch(() => {});
  const bytes = new Uint8Array(size);
  const reader = readable.getReader();
  let at = 0;
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    if (at + part.value.length <= size) bytes.set(part.value, at);
    at += part.value.length;
  }
  if (at !== size) throw new Error(`${at} bytes in place of ${size}`);
  return bytes;
}

/** The HU of a slice, row by row. @param {Uint8Array} packed  @param {number} rows  @param {number} columns */
export async function unpackPixels(packed, rows, columns) {
  const n = rows * columns;
  const bytes = await inflate(packed, 2 * n);
  const hu = new Int16Array(n);
  for (let row = 0, i = 0; row < rows; row++) {
    for (let column = 0, left = 0; column < columns; column++, i++) {
      const zigzag = bytes[i] | (bytes[n + i] << 8);
      left += (zigzag >>> 1) ^ -(zigzag & 1);
      hu[i] = left; // wraps
    }
  }
  return hu;
}

/** The packed bytes of slices that are in the page itself.
 *  @param {HTMLElement} root  @returns {import("./viewer.js").Read} */
export function embedded(root) {
  return async (kind, index) => {
    const text = root.querySelector(`script[data-${kind}="${index}"]`)?.textContent;
    if (!text) throw new Error("it is not in the page");
    const letters = atob(text);
    const bytes = new Uint8Array(letters.length);
    // Uint8Array.from takes seven times as long
    for (let i = 0; i < bytes.length; i++) bytes[i] = letters.charCodeAt(i);
    return bytes;
  };
}

/** The results of some slow work, of which the last used are kept. @template T */
export class Kept {
  /** @param {number} most  @param {(index: number) => Promise<T>} make */
  constructor(most, make) {
    this.most = most;
    this.make = make;
    /** @type {Map<number, {promise: Promise<T>, value?: T}>} */
    this.results = new Map();
  }

  /** @param {number} index  @returns {Promise<T>} */
  get(index) {
    const result = this.results.get(index) ?? this.begin(index);
    this.results.delete(index);
    this.results.set(index, result); // the last used one is the last
    for (const oldest of this.results.keys()) {
      if (this.results.size <= this.most) break;
      this.results.delete(oldest);
    }
    return result.promise;
  }

  /** @param {number} index  @returns {T | undefined} what is there without waiting */
  ready(index) {
    const value = this.results.get(index)?.value;
    if (value !== undefined) this.get(index); // used
    return value;
  }

  /** @param {number} index */
  begin(index) {
    /** @type {{promise: Promise<T>, value?: T}} */
    const result = { promise: this.make(index) };
    result.promise.then(
      (value) => (result.value = value),
      () => this.results.get(index) === result && this.results.delete(index), // a later call tries again
    );
    return result;
  }

  clear() {
    this.results.clear();
  }
}
