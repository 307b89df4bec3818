// @ts-check
/** Series that are opened to be read: a viewer, or two side by side, and the form of a reading. */

import { link } from "./link.js";
import { messageOf, request } from "./requests.js";
import { Viewer } from "./viewer.js";

/** One opened series, in an element of its own. */
export class Opened {
  /** @param {string} id  @param {HTMLElement} root */
  constructor(id, root) {
    this.id = id;
    this.root = root;
    this.pending = true; // until its probabilities are there
    /** @type {Viewer | null} */
    this.viewer = null;
    this.ended = new AbortController();
  }

  async show() {
    const parts = await this.fetched();
    this.root.replaceChildren(...parts.body.childNodes);
    const side = /** @type {HTMLElement} */ (this.root.querySelector(".side"));
    side.insertBefore(this.form(), side.children[1]);
    const series = seriesIn(this.root);
    this.pending = series.study === null;
    this.root.toggleAttribute("data-pending", this.pending);
    this.viewer = new Viewer(this.root, series, async (kind, index) => {
      const answer = await request(`/api/series/${this.id}/${kind}/${index}`, { signal: this.ended.signal });
      if (!answer) throw new Error("it is empty");
      return new Uint8Array(await answer.arrayBuffer());
    });
    this.listen();
  }

  /** Put in what was not known when it was opened; image, window, zoom and rulers stay as they are. */
  async complete() {
    const parts = await this.fetched();
    const { study, thresholds, slices, maps } = seriesIn(parts.body);
    if (!study || !this.viewer) return;
    this.pending = false;
    this.root.removeAttribute("data-pending");
    for (const name of [".verdict", ".maps-note", "form.readings"]) {
      const [old, made] = [this.root.querySelector(name), parts.querySelector(name)];
      if (old && made) old.replaceWith(made);
    }
    const warnings = parts.querySelector(".warnings");
    if (warnings && !this.root.querySelector(".warnings")) this.root.prepend(warnings);
    if (!maps) for (const each of this.root.querySelectorAll(".map-fields")) each.remove();
    this.viewer.judge({ study, thresholds, maps, probabilities: slices.map((slice) => slice.probabilities ?? []) });
    this.listen();
  }

  end() {
    this.ended.abort();
    this.viewer?.destroy();
    this.root.remove();
  }

  async fetched() {
    const answer = await request(`/api/series/${this.id}`, { signal: this.ended.signal });
    // "<body>": what comes first would else be taken for a part of the head
    const parts = new DOMParser().parseFromString(`<!doctype html><body>${await answer?.text()}`, "text/html");
    for (const each of parts.querySelectorAll("noscript")) each.remove(); // which a parser without scripts lays open
    return parts;
  }

  form() {
    return /** @type {HTMLFormElement} */ (this.root.querySelector("form.readings"));
  }

  listen() {
    const form = this.form();
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.save(form);
    });
    form.addEventListener("reset", () => setTimeout(() => {
      for (const each of form.querySelectorAll("input")) each.checked = false;
      /** @type {HTMLTextAreaElement} */ (form.querySelector("textarea")).value = "";
    }));
  }

  /** @param {HTMLFormElement} form */
  async save(form) {
    const told = /** @type {HTMLElement} */ (form.querySelector('[data-part="saved"]'));
    const { note, ...labels } = Object.fromEntries(new FormData(form));
    try {
      const answer = await request(`/api/series/${this.id}/reading`, {
        method: "PUT",
        body: JSON.stringify({ labels, note }),
        headers: { "Content-Type": "application/json" },
      });
      const { disagreed } = await answer?.json();
      told.textContent = `Saved${disagreed.length ? `; you disagree on ${disagreed.join(", ")}` : ""}.`;
      told.classList.remove("row-warning");
    } catch (error) {
      told.textContent = `Not saved: ${messageOf(error)}`;
      told.classList.add("row-warning");
    }
  }
}

/** Two series side by side. @param {Opened[]} opened  @returns {() => void} what unlinks them */
export function linkOpened(opened) {
  const viewers = opened.flatMap(({ viewer }) => (viewer ? [viewer] : []));
  return viewers.length > 1 ? link(viewers) : () => {};
}

/** @param {ParentNode} root  @returns {import("./viewer.js").Series} */
function seriesIn(root) {
  return JSON.parse(root.querySelector('[data-part="series"]')?.textContent ?? "null");
}
