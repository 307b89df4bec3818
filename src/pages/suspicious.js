// @ts-check
/** The slices to jump to: of each run at or above the threshold its highest. */

/** @param {number[]} values  @param {number | null} threshold  @returns {number[]} in order */
function peaksOf(values, threshold) {
  const peaks = [];
  for (let i = 0; threshold !== null && i < values.length; i++) {
    if (values[i] < threshold) continue;
    let peak = i;
    for (; i < values.length && values[i] >= threshold; i++) if (values[i] > values[peak]) peak = i;
    peaks.push(peak);
  }
  return peaks;
}

export class Suspicious {
  /** @param {import("./viewer.js").Series} series  of which the first label counts */
  constructor(series) {
    const any = series.slices.flatMap(({ probabilities }) => (probabilities ? [probabilities[0]] : []));
    this.known = any.length > 0;
    this.threshold = series.thresholds[0];
    this.highest = any.indexOf(Math.max(...any));
    this.peaks = peaksOf(any, this.threshold);
    // where the threshold is reached by none, the highest is chance
    const reached = this.peaks.length > 0 || (this.known && this.threshold === null);
    this.first = reached ? this.highest : (series.slices.length - 1) / 2; // the slice to begin with
  }

  /** The next one after a slice, 1, or the one before it, -1; and what is said about it.
   *  @param {1 | -1} direction  @param {number} index  @returns {{to: number, told: string}} */
  from(direction, index) {
    if (!this.known) return { to: index, told: "Probabilities are not known yet." };
    if (!this.peaks.length) {
      const none = this.threshold === null ? "No threshold is given" : "No slice reaches the threshold";
      return { to: this.highest, told: `${none}: slice ${this.highest + 1} is the highest.` };
    }
    const ahead = this.peaks.filter((peak) => direction * (peak - index) > 0);
    if (ahead.length) return { to: direction > 0 ? ahead[0] : ahead[ahead.length - 1], told: "" };
    return { to: index, told: direction > 0 ? "No later one." : "No earlier one." };
  }
}
