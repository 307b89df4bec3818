// @ts-check
/** Viewers side by side, of which one shows what the other does. */

/** The slice of a series that is nearest to a place along z; null where no z is known, or none is near.
 *  @param {import("./viewer.js").Series} series  @param {number} z in mm  @returns {number | null} */
export function nearestAt(series, z) {
  let nearest = null;
  let least = Infinity;
  series.slices.forEach((slice, i) => {
    const away = slice.z === null ? Infinity : Math.abs(slice.z - z);
    if (away < least) [nearest, least] = [i, away];
  });
  return nearest;
}

/** Whether two series have a part of z in common. @param {import("./viewer.js").Series} a
 *  @param {import("./viewer.js").Series} b */
function overlap(a, b) {
  const range = (/** @type {import("./viewer.js").Series} */ series) => {
    const known = series.slices.flatMap((slice) => (slice.z === null ? [] : [slice.z]));
    // infinite, and so without overlap, where none is known
    return { from: Math.min(...known), to: Math.max(...known) };
  };
  const [one, other] = [range(a), range(b)];
  return one.from <= other.to && other.from <= one.to;
}

/** Which slice of `to` belongs to a slice of `from`: the one nearest along z, in mm; the same fraction of the series
 *  where z is not known or the two have no part of it in common.
 *  @param {import("./viewer.js").Series} from  @param {number} index  @param {import("./viewer.js").Series} to */
export function counterpart(from, index, to) {
  const { z } = from.slices[index];
  const nearest = z === null || !overlap(from, to) ? null : nearestAt(to, z);
  const fraction = index / Math.max(1, from.slices.length - 1);
  return nearest ?? Math.round(fraction * (to.slices.length - 1));
}

/** Scrolling one viewer scrolls the others to the same z; window and zoom follow too, unless they are switched off.
 *  All follow the first one at once. Returns a function that unlinks them.
 *  @param {import("./viewer.js").Viewer[]} viewers  @param {{window?: boolean, zoom?: boolean}} [options] */
export function link(viewers, { window = true, zoom = true } = {}) {
  const ended = new AbortController();
  let following = false; // what a viewer does because another did it leads to nothing further
  /** @param {(other: import("./viewer.js").Viewer) => void} act  @param {import("./viewer.js").Viewer} leader */
  const lead = (leader, act) => {
    if (following) return;
    following = true;
    try {
      for (const other of viewers) if (other !== leader && !other.destroyed) act(other);
    } finally {
      following = false;
    }
  };
  for (const viewer of viewers) {
    const slices = () => lead(viewer, (other) => other.go(counterpart(viewer.series, viewer.wanted, other.series)));
    const windows = () => lead(viewer, (other) => other.setWindow(viewer.windowing.level, viewer.windowing.width));
    const zooms = () => lead(viewer, (other) => other.zoom.set(viewer.zoom.scale, viewer.zoom.x, viewer.zoom.y));
    viewer.on("go", slices, ended.signal);
    if (window) viewer.on("window", windows, ended.signal);
    if (zoom) viewer.on("zoom", zooms, ended.signal);
    if (viewer !== viewers[0]) continue;
    slices();
    if (window) windows();
    if (zoom) zooms();
  }
  return () => ended.abort();
}
