// @ts-check
/**
 * The worklist: studies by urgency, with what is being done for each.
 *
 * @typedef {object} ListedSeries
 * @property {string} id
 * @property {string} name
 * @property {number} slices
 * @property {string} status  waiting, reading, computing, read, refused, failed, cancelled or not read
 * @property {string} why
 * @property {number} done  the fraction of the present step
 * @property {boolean} viewable
 * @property {string} kernel
 * @property {number[] | null} probabilities  by label
 * @property {(boolean | null)[]} calls  by label
 * @property {string[]} warnings
 * @property {boolean} reading  whether somebody has judged it
 *
 * @typedef {object} ListedStudy
 * @property {string} id
 * @property {string} patient
 * @property {string} date
 * @property {string} description
 * @property {boolean} unfinished
 * @property {ListedSeries[]} series
 * @property {{name: string, why: string}[]} others
 *
 * @typedef {object} Acts
 * @property {(series: string) => void} open
 * @property {(id: string) => void} cancel
 * @property {(id: string) => void} remove
 */

import { element } from "./requests.js";
import { inWords } from "./words.js";

const LABELS = ["Any", "Epidural", "Intraparenchymal", "Intraventricular", "Subarachnoid", "Subdural"];

/** Show studies, in their order; what has not changed stays, with its focus.
 *  @param {HTMLElement} list  @param {ListedStudy[]} studies  @param {Acts} acts */
export function showStudies(list, studies, acts) {
  const focused = document.activeElement instanceof HTMLElement ? document.activeElement.dataset.key : undefined;
  const old = new Map([...list.children].map((each) => [/** @type {HTMLElement} */ (each).dataset.study, each]));
  const rows = studies.map((study) => {
    const text = JSON.stringify(study);
    const known = /** @type {HTMLElement | undefined} */ (old.get(study.id));
    if (known?.dataset.text === text) return known;
    const made = studyRow(study, acts);
    const opened = known?.querySelector("details")?.open;
    if (opened) made.querySelector("details")?.setAttribute("open", "");
    made.dataset.text = text;
    return made;
  });
  if (rows.length === list.children.length && rows.every((row, i) => row === list.children[i])) return;
  list.replaceChildren(...rows);
  if (!focused) return;
  const again = [...list.querySelectorAll("[data-key]")].find((each) => /** @type {HTMLElement} */ (each).dataset.key === focused);
  /** @type {HTMLElement | undefined} */ (again)?.focus({ preventScroll: true });
}

/** @param {ListedStudy} study */
export function studyTitle(study) {
  return [study.patient || "no patient ID", study.date, study.description].filter(Boolean).join(" · ");
}

/** @param {ListedStudy} study  @param {Acts} acts */
function studyRow(study, acts) {
  const head = element("h3", {}, studyTitle(study));
  const act = study.unfinished
    ? button("Cancel", `cancel ${study.id}`, () => acts.cancel(study.id), `Cancel ${studyTitle(study)}`)
    : button("Remove", `remove ${study.id}`, () => acts.remove(study.id), `Remove ${studyTitle(study)} from the list`);
  const row = element("li", { class: "study-row panel", "data-study": study.id }, element("div", { class: "study-head" }, head, act));
  const [chosen, left] = [study.series.filter((each) => each.status !== "not read"), study.series.filter((each) => each.status === "not read")];
  for (const each of chosen) row.append(seriesRow(each, acts));
  const reasons = [...left.map((each) => ({ name: `${each.name}, ${each.slices} slices`, why: each.why })), ...study.others];
  if (!reasons.length) return row;
  const count = `${reasons.length} other series not read`;
  const items = reasons.map(({ name, why }) => element("li", {}, element("strong", {}, name), `: ${why}`));
  const shown = element("details", { class: "left", open: !chosen.length }, element("summary", { "data-key": `left ${study.id}` }, count), element("ul", {}, ...items));
  row.append(shown);
  return row;
}

/** @param {ListedSeries} series  @param {Acts} acts */
function seriesRow(series, acts) {
  const row = element("div", { class: `series-row ${series.status}`, "data-listed": series.id, "data-status": series.status });
  const picture = element("span", { class: "thumbnail", "aria-hidden": "true" });
  if (series.viewable) picture.append(element("img", { src: `/api/series/${series.id}/thumbnail?${series.status}`, alt: "" }));
  const words = element("div", { class: "series-words" }, element("p", {}, element("strong", {}, series.name)));
  words.append(element("p", { class: "note" }, [`${series.slices} slices`, series.kernel && `kernel ${series.kernel}`].filter(Boolean).join(", ")));
  for (const each of series.warnings) words.append(element("p", { class: "row-warning" }, element("strong", {}, "Warning "), each));
  row.append(picture, words, series.probabilities ? chances(series) : progress(series));
  const open = button(series.reading ? "Open (judged)" : "Open", `open ${series.id}`, () => acts.open(series.id), `Open ${series.name}${series.reading ? ", judged" : ""}`);
  open.classList.add("open");
  open.disabled = !series.viewable;
  row.append(open);
  return row;
}

/** Probabilities of a series that is read. @param {ListedSeries} series */
function chances(series) {
  const cells = LABELS.map((label, i) => {
    const value = series.probabilities?.[i] ?? 0;
    const called = series.calls[i] === true;
    return element("div", { class: called ? "chance called" : "chance" }, element("dt", {}, label), element("dd", {}, inWords(value)));
  });
  const positive = LABELS.filter((_, i) => series.calls[i] === true).join(", ").toLowerCase();
  const verdict = positive ? `Positive: ${positive}` : "Below all thresholds";
  const told = element("p", { class: "row-verdict" }, verdict);
  return element("div", { class: "series-result" }, told, element("dl", { class: "chances" }, ...cells), ...(series.why && series.status === "read" ? [element("p", { class: "note" }, series.why)] : []));
}

/** What is being done, or why there is no result. @param {ListedSeries} series */
function progress(series) {
  const words = {
    waiting: "Waiting", reading: "Reading slices", computing: "Computing probabilities; slices can be seen already",
    refused: "Refused", failed: "Failed", cancelled: "Cancelled",
  }[series.status] ?? series.status;
  const busy = series.status === "reading" || series.status === "computing";
  const told = element("p", { class: "row-verdict" }, busy || series.status === "waiting" || !series.why ? words : `${words}: ${series.why}`);
  const result = element("div", { class: "series-result" }, told);
  if (busy) {
    const bar = element("progress", { max: "1", value: String(series.done), "aria-label": words });
    result.append(bar);
  }
  return result;
}

/** @param {string} text  @param {string} key  @param {() => void} act  @param {string} label */
function button(text, key, act, label) {
  const made = element("button", { type: "button", "data-key": key, "aria-label": label }, text);
  made.addEventListener("click", act);
  return made;
}
