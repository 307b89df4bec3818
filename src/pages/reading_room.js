// @ts-check
/** The page of the reading room: what is dropped is sent, the list is asked for again and again, series are opened. */

import { Opened, linkOpened } from "./opened.js";
import { element, messageOf, request } from "./requests.js";
import { filesOfDrop, filesOfList, upload } from "./uploads.js";
import { showStudies, studyTitle } from "./worklist.js";

const BUSY_MS = 300; // from one look at the list to the next
const IDLE_MS = 1500;
const LOST_MS = 3000;

/** @typedef {{id: string, name: string, status: string, message: string, done: number, files: number,
 *             passed_over: number, named: {name: string, why: string}[]}} ListedBatch */

class ReadingRoom {
  constructor() {
    this.version = -1;
    /** @type {import("./worklist.js").ListedStudy[]} */
    this.studies = [];
    /** @type {ListedBatch[]} */
    this.batches = [];
    /** @type {Map<HTMLElement, AbortController>} */
    this.sending = new Map(); // uploads under way, by their line
    /** @type {Opened[]} */
    this.opened = []; // one, or two side by side
    this.unlink = () => {};
    this.listen();
    this.look();
  }

  /** @param {string} name  @returns {any} the element of that data-part */
  part(name) {
    return document.querySelector(`[data-part="room"] [data-part="${name}"]`);
  }

  /** Ask for the list, now and again: plain requests go on by themselves when a computer wakes up, and end with a tab. */
  async look() {
    let next = IDLE_MS;
    try {
      const answer = await request(`/api/worklist?since=${this.version}`);
      if (answer) {
        const told = await answer.json();
        [this.version, this.studies, this.batches] = [told.version, told.studies, told.batches];
        this.show();
      }
      this.part("lost").hidden = true;
      if (this.batches.some(({ status }) => status === "waiting" || status === "reading")) next = BUSY_MS;
    } catch (error) {
      const lost = error instanceof TypeError ? "The server has ended." : messageOf(error);
      this.part("lost").textContent = `${lost} This list may be out of date.`;
      this.part("lost").hidden = false;
      next = LOST_MS;
    }
    setTimeout(() => this.look(), next);
  }

  show() {
    const acts = {
      open: (/** @type {string} */ id) => this.goTo(id),
      cancel: (/** @type {string} */ id) => this.change(`/api/entries/${id}/cancel`, "POST"),
      remove: (/** @type {string} */ id) => this.change(`/api/entries/${id}`, "DELETE"),
    };
    showStudies(this.part("studies"), this.studies, acts);
    this.showBatches(acts);
    const unfinished = this.studies.filter((study) => study.unfinished).length;
    const count = `${this.studies.length} ${this.studies.length === 1 ? "study" : "studies"}, most urgent first`;
    this.part("counts").textContent = this.studies.length ? `${count}${unfinished ? `; ${unfinished} being read` : ""}` : "";
    this.part("empty").hidden = this.studies.length > 0;
    this.part("download").hidden = !this.studies.some((study) => study.series.some((each) => each.reading));
    this.showChoices();
    for (const each of this.opened) {
      const listed = this.series().find(({ series }) => series.id === each.id)?.series;
      if (each.viewer && each.pending && listed?.status === "read") {
        each.pending = false;
        each.complete().catch((error) => this.fail(messageOf(error)));
      }
    }
  }

  /** @param {import("./worklist.js").Acts} acts */
  showBatches(acts) {
    const lines = this.batches.flatMap((batch) => {
      const busy = batch.status === "waiting" || batch.status === "reading";
      if (!busy && batch.status === "done" && !batch.passed_over && this.studies.length) return [];
      const words = {
        waiting: "waits to be read", reading: batch.files ? "is being read" : "is looked through", failed: `failed: ${batch.message}`,
        cancelled: "was cancelled", done: batch.files ? "read" : "held no files",
      }[batch.status] ?? batch.status;
      const line = element("li", { "data-batch": batch.id }, element("span", {}, `${batch.name} ${words}`));
      if (batch.status === "reading") line.append(element("progress", { max: "1", value: String(batch.done), "aria-label": batch.name }));
      if (batch.passed_over) line.append(this.passedOver(batch));
      const act = element("button", { type: "button", "aria-label": `${busy ? "Cancel" : "Dismiss"}: ${batch.name}` }, busy ? "Cancel" : "Dismiss");
      act.addEventListener("click", () => (busy ? acts.cancel(batch.id) : acts.remove(batch.id)));
      line.append(act);
      return [line];
    });
    const text = JSON.stringify(this.batches);
    const list = this.part("batches");
    if (list.dataset.text === text) return;
    list.dataset.text = text;
    list.replaceChildren(...this.sending.keys(), ...lines);
  }

  /** @param {ListedBatch} batch */
  passedOver(batch) {
    const items = batch.named.map(({ name, why }) => element("li", {}, element("strong", {}, name), `: ${why}`));
    const more = batch.passed_over - items.length;
    if (more) items.push(element("li", {}, `and ${more} more`));
    const count = `${batch.passed_over} of ${batch.files} files passed over`;
    return element("details", { class: "left" }, element("summary", {}, count), element("ul", {}, ...items));
  }

  /** @param {string} path  @param {string} method */
  async change(path, method) {
    try {
      await request(path, { method });
      await this.refresh();
    } catch (error) {
      this.fail(messageOf(error));
    }
  }

  async refresh() {
    const answer = await request("/api/worklist");
    const told = await answer?.json();
    [this.version, this.studies, this.batches] = [told.version, told.studies, told.batches];
    this.show();
  }

  /** Say that something failed, in the list. @param {string} message */
  fail(message) {
    const line = element("li", { class: "row-warning", role: "alert" }, element("span", {}, message));
    const act = element("button", { type: "button" }, "Dismiss");
    act.addEventListener("click", () => {
      this.sending.delete(line);
      line.remove();
    });
    line.append(act);
    this.sending.set(line, new AbortController());
    this.part("batches").prepend(line);
  }

  /** @param {import("./uploads.js").Found[] | Promise<import("./uploads.js").Found[]>} coming */
  async send(coming) {
    const told = element("span", {}, "Looking through what was dropped");
    const bar = element("progress", { max: "1", value: "0", "aria-label": "Sending" });
    const stop = element("button", { type: "button", "aria-label": "Cancel sending" }, "Cancel");
    const line = element("li", {}, told, bar, stop);
    const ended = new AbortController();
    stop.addEventListener("click", () => ended.abort());
    this.sending.set(line, ended);
    this.part("batches").prepend(line);
    try {
      const found = await coming;
      if (!found.length) throw new Error("there are no files in what was dropped");
      const of = `${found.length} file${found.length > 1 ? "s" : ""}`;
      told.textContent = `Sending ${of}`;
      await upload(found, (sent) => (bar.value = sent / found.length), ended.signal);
      await this.refresh();
    } catch (error) {
      if (!ended.signal.aborted) this.fail(`Not sent: ${messageOf(error)}`);
    } finally {
      this.sending.delete(line);
      line.remove();
    }
  }

  listen() {
    const room = this.part("list").parentElement;
    addEventListener("dragover", (event) => {
      event.preventDefault();
      room.classList.add("dropping");
    });
    addEventListener("dragleave", (event) => event.relatedTarget === null && room.classList.remove("dropping"));
    addEventListener("drop", (event) => {
      event.preventDefault();
      room.classList.remove("dropping");
      this.goTo("");
      if (event.dataTransfer) this.send(filesOfDrop(event.dataTransfer));
    });
    for (const name of ["files", "folder"]) {
      const input = this.part(name);
      this.part(`choose-${name}`).addEventListener("click", () => input.click());
      input.addEventListener("change", () => {
        if (input.files.length) this.send(filesOfList(input.files));
        input.value = ""; // the same files may be chosen again
      });
    }
    addEventListener("hashchange", () => this.follow());
    document.addEventListener("keydown", (event) => this.key(event));
    this.part("back").addEventListener("click", () => this.goTo(""));
    this.part("before").addEventListener("click", () => this.step(-1));
    this.part("after").addEventListener("click", () => this.step(1));
    this.part("compare").addEventListener("change", () => this.compare(this.part("compare").value));
    this.part("linked").addEventListener("change", () => this.relink());
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    const at = event.target instanceof HTMLElement ? event.target : null;
    if (event.defaultPrevented || event.ctrlKey || event.altKey || event.metaKey || at?.matches("textarea, select")) return;
    if (this.part("reading").hidden) {
      const buttons = /** @type {HTMLElement[]} */ ([...document.querySelectorAll("button.open:enabled")]);
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (!step || !buttons.length || at?.matches("input")) return;
      event.preventDefault();
      const place = buttons.indexOf(/** @type {HTMLElement} */ (document.activeElement));
      buttons[place < 0 ? 0 : Math.min(Math.max(place + step, 0), buttons.length - 1)].focus();
    } else if (event.key === "Escape") {
      this.goTo("");
    } else if (event.key === "[" || event.key === "]") {
      this.step(event.key === "]" ? 1 : -1);
    }
  }

  /** All series that can be seen, in the order of the list. */
  series() {
    return this.studies.flatMap((study) => study.series.flatMap((series) => (series.viewable ? [{ study, series }] : [])));
  }

  /** To the next or the previous series of the list. @param {number} by */
  step(by) {
    const all = this.series();
    const next = all[all.findIndex(({ series }) => series.id === this.opened[0]?.id) + by];
    if (next) this.goTo(next.series.id);
  }

  /** Open a series, or the list: the browser's own Back leads to the list. @param {string} id */
  goTo(id) {
    if (location.hash.slice(1) === id) this.follow();
    else location.hash = id;
  }

  /** Show what the address says. */
  async follow() {
    const id = location.hash.slice(1);
    const before = this.opened[0]?.id;
    if (id && id === before) return;
    this.unlink();
    for (const each of this.opened.splice(0)) each.end();
    this.part("list").hidden = Boolean(id);
    this.part("reading").hidden = !id;
    if (!id) {
      /** @type {HTMLElement | null} */ (document.querySelector(`[data-listed="${CSS.escape(before ?? "")}"] button.open`))?.focus();
      return;
    }
    const listed = this.series().find(({ series }) => series.id === id);
    this.part("opened-title").textContent = listed ? `${studyTitle(listed.study)} · ${listed.series.name}` : "";
    this.part("compare").value = "";
    await this.add(id);
  }

  /** Open a series beside what is opened. @param {string} id */
  async add(id) {
    const root = element("section", { class: "series", "aria-label": "Series", "data-series": id });
    const opened = new Opened(id, root);
    this.opened.push(opened);
    this.part("opened").append(root);
    this.arrange();
    try {
      await opened.show();
      if (this.opened.length === 1) this.part("opened").querySelector('[data-part="stage"]')?.focus({ preventScroll: true });
      this.relink();
    } catch (error) {
      if (!opened.ended.signal.aborted) root.replaceChildren(element("p", { class: "warning" }, `It cannot be shown: ${messageOf(error)}`));
    }
  }

  /** Show a second series beside the first one, or none. @param {string} id */
  compare(id) {
    for (const each of this.opened.splice(1)) each.end();
    this.unlink();
    this.arrange();
    if (id) this.add(id);
  }

  arrange() {
    this.showChoices();
    this.part("opened").classList.toggle("two", this.opened.length > 1);
    this.part("linked-label").hidden = this.opened.length < 2;
  }

  relink() {
    this.unlink();
    this.unlink = this.part("linked").checked ? linkOpened(this.opened) : () => {};
  }

  /** What a series can be compared with. */
  showChoices() {
    const select = this.part("compare");
    const choices = this.series().filter(({ series }) => series.id !== this.opened[0]?.id);
    const text = JSON.stringify(choices.map(({ study, series }) => [series.id, studyTitle(study), series.name]));
    if (select.dataset.text === text) return;
    const value = select.value;
    const options = choices.map(({ study, series }) => element("option", { value: series.id }, `${studyTitle(study)} · ${series.name}`));
    select.replaceChildren(element("option", { value: "" }, choices.length ? "no other series" : "nothing: no other series"), ...options);
    [select.value, select.dataset.text] = [value, text];
  }
}

new ReadingRoom();
