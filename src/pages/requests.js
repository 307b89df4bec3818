// @ts-check
/** What the reading room asks its server, and elements made of the answers. */

/** The answer to a request; null where nothing has changed. Throws an Error that says why, for people.
 *  @param {string} path  @param {RequestInit} [options] */
export async function request(path, options) {
  const answer = await fetch(path, { credentials: "same-origin", ...options });
  if (answer.status === 204) return null;
  if (!answer.ok) throw new Error(await refusalOf(answer));
  return answer;
}

/** @param {Response} answer */
async function refusalOf(answer) {
  const text = await answer.text();
  try {
    return String(JSON.parse(text).error);
  } catch {
    return text.trim() || `the server says ${answer.status}`;
  }
}

/** @param {unknown} error */
export const messageOf = (error) => (error instanceof Error ? error.message : String(error));

/** An element with text or elements in it; texts are never read as HTML.
 *  @template {keyof HTMLElementTagNameMap} Tag  @param {Tag} tag  @param {Record<string, string | boolean>} attributes
 *  @param {(Node | string)[]} content  @returns {HTMLElementTagNameMap[Tag]} */
export function element(tag, attributes = {}, ...content) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(name, "");
    else if (value !== false) made.setAttribute(name, value);
  }
  made.append(...content);
  return made;
}
