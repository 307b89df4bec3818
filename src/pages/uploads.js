// @ts-check
/** Files to the server: found in what was dropped, sent a few at a time. */

import { request } from "./requests.js";

const AT_ONCE = 4; // requests
const TRIES = 2; // of a file: a connection may break

/** @typedef {{path: string, file: () => Promise<File>}} Found  a file and its path within what was dropped */

/** All files of a drop, folders at any depth. Must be called while the event is handled.
 *  @param {DataTransfer} dropped  @returns {Promise<Found[]>} */
export async function filesOfDrop(dropped) {
  const entries = [...dropped.items].map((item) => item.webkitGetAsEntry?.()).filter((entry) => entry !== null);
  const files = [...dropped.files];
  if (!entries.length) return filesOfList(files);
  /** @type {Found[]} */
  const found = [];
  for (const entry of entries) if (entry) await walk(entry, found);
  return found;
}

/** @param {Iterable<File>} files  @returns {Found[]} */
export function filesOfList(files) {
  return [...files].map((file) => ({ path: file.webkitRelativePath || file.name, file: async () => file }));
}

/** @param {FileSystemEntry} entry  @param {Found[]} found */
async function walk(entry, found) {
  if (entry.isFile) {
    const file = () => new Promise((give, fail) => /** @type {FileSystemFileEntry} */ (entry).file(give, fail));
    found.push({ path: entry.fullPath, file: /** @type {() => Promise<File>} */ (file) });
    return;
  }
  const reader = /** @type {FileSystemDirectoryEntry} */ (entry).createReader();
  for (;;) {
    /** @type {FileSystemEntry[]} */
    const some = await new Promise((give, fail) => reader.readEntries(give, fail)); // a hundred at most
    if (!some.length) return;
    for (const each of some) await walk(each, found);
  }
}

/** Send files, and let the server read them. Throws an Error that says what was refused; nothing is left there then.
 *  @param {Found[]} found  @param {(sent: number) => void} tell  @param {AbortSignal} signal */
export async function upload(found, tell, signal) {
  const { id, files } = await (await request("/api/uploads", { method: "POST", signal }))?.json();
  try {
    if (found.length > files) throw new Error(`${found.length} files; at most ${files} at once, or a zip of them`);
    const waiting = [...found];
    let sent = 0;
    const work = async () => {
      for (let each = waiting.shift(); each; each = waiting.shift()) {
        await send(id, each, signal);
        tell(++sent);
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, work));
    await request(`/api/uploads/${id}/finish`, { method: "POST", signal });
  } catch (error) {
    request(`/api/uploads/${id}`, { method: "DELETE" }).catch(() => {}); // it is removed after a time anyway
    throw error;
  }
}

/** @param {string} id  @param {Found} found  @param {AbortSignal} signal */
async function send(id, found, signal) {
  const body = await found.file();
  const headers = { "X-File-Name": encodeURIComponent(found.path), "Content-Type": "application/octet-stream" };
  for (let tries = 1; ; tries++) {
    try {
      await request(`/api/uploads/${id}/files`, { method: "POST", body, headers, signal });
      return;
    } catch (error) {
      if (!(error instanceof TypeError) || tries >= TRIES || signal.aborted) throw error; // refused, not lost
    }
  }
}
