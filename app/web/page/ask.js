// Questions to the HTTP port. Those that show a user or change something send the token, which is asked for once.

import { el } from "./words.js";

const KEPT_AS = "driftgraph-token"; // in sessionStorage: until the tab is closed

export class Refused extends Error {}

/** The answer as a value. Throws ``Refused`` with a sentence. */
export async function ask(path, { method = "GET", body = undefined, token = null } = {}) {
  const headers = {};
  if (token !== null) headers.Authorization = `Bearer ${token}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-store",
    });
  } catch {
    throw new Refused("driftgraph does not answer; try again when the page is live");
  }
  const said = await answer.json().catch(() => ({}));
  if (!answer.ok) {
    const refused = new Refused(said.error ?? `driftgraph answered with status ${answer.status}`);
    refused.status = answer.status;
    throw refused;
  }
  return said;
}

/** The same with the token; null if the person gives none. */
export async function askPrivately(path, options = {}) {
  let token = sessionStorage.getItem(KEPT_AS);
  let wrong = "";
  for (;;) {
    token ??= await tokenFromPerson(wrong);
    if (token === null) return null;
    sessionStorage.setItem(KEPT_AS, token);
    try {
      return await ask(path, { ...options, token });
    } catch (error) {
      if (error.status !== 401) throw error;
      sessionStorage.removeItem(KEPT_AS);
      token = null;
      wrong = "That is not the token.";
    }
  }
}

function tokenFromPerson(wrong) {
  const field = el("input", {
    id: "token",
    type: "password",
    autocomplete: "off",
    required: true,
    "aria-describedby": "token-about",
    "aria-invalid": wrong ? "true" : null,
  });
  const about = el(
    "p",
    { id: "token-about", class: "quiet-text" },
    "What shows a user or changes something needs web.token of the configuration. It stays in this tab until the tab is closed.",
  );
  return dialog(
    "The token",
    [
      about,
      wrong ? el("p", { class: "said bad", role: "alert" }, wrong) : null,
      el("label", { for: "token" }, "Token"),
      field,
    ],
    "Go on",
    () => field.value.trim() || null,
  );
}

/** Ask before something is done: resolves to true or false. ``children`` say what will happen. */
export const confirmed = async (title, children, go) =>
  (await dialog(title, children, go, () => true)) !== null;

/** A dialog; resolves to what ``value()`` is when the person goes on, to null otherwise. */
export function dialog(title, children, go, value) {
  return new Promise((resolve) => {
    const back = document.activeElement;
    let found = null;
    const form = el(
      "form",
      {
        onsubmit: (event) => {
          event.preventDefault();
          found = value();
          box.close();
        },
      },
      el("h2", { id: "dialog-title" }, title),
      children,
      el(
        "div",
        { class: "row" },
        el("button", { type: "button", class: "plain", onclick: () => box.close() }, "Cancel"),
        el("button", { class: "main" }, go),
      ),
    );
    const box = el(
      "dialog",
      {
        "aria-labelledby": "dialog-title",
        onclose: () => {
          box.remove();
          back?.focus();
          resolve(found);
        },
      },
      form,
    );
    document.body.append(box);
    box.showModal();
  });
}
