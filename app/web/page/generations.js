// The generations that Redis keeps, and the acts of an operator: promote, roll back, and undo.

import { ask, askPrivately, confirmed, Refused } from "./ask.js";
import { day, el, share4, show, table, whole } from "./words.js";

const place = document.getElementById("generations-table");
const notice = document.getElementById("undo");
let rows = [];
let held = false;

/** The newest generations from Redis; the served one, or null. */
export async function loadGenerations() {
  rows = await ask("/api/generations");
  draw();
  return rows.find((one) => one.current) ?? null;
}

/** Redis does not answer: say so, once. */
export function generationsAway(why) {
  rows = [];
  show(place, `away${why}`, el("p", { class: "quiet-text" }, `The generations cannot be read: ${why}.`));
}

/** Whether an operator holds the served generation. */
export function showHeld(choice) {
  if ((choice?.held ?? false) === held) return;
  held = choice?.held ?? false;
  draw();
}

function draw() {
  if (!rows.length) {
    show(place, "none", el("p", { class: "quiet-text" }, "There is no generation yet. The first one comes soon after the window is full."));
    return;
  }
  const newestFirst = [...rows].reverse();
  const served = rows.find((one) => one.current);
  const before = rows.filter((one) => served && one.generation < served.generation).at(-1);
  const columns = [
    { title: "Generation", of: (one) => (one.current ? [`${one.generation} `, el("span", { class: `badge${held ? " held" : ""}` }, held ? "served, held" : "served")] : `${one.generation}`) },
    { title: "Made by", wide: true, of: (one) => (one.manifest.model_version ? `model version ${one.manifest.model_version}` : one.manifest.made_by ?? "–") },
    { title: "Published", of: (one) => day(one.manifest.published_ms) },
    { title: "Users", number: true, wide: true, of: (one) => whole(one.manifest.users) },
    { title: "Items", number: true, wide: true, of: (one) => whole(one.manifest.items) },
    { title: "Recall@20", number: true, of: (one) => share4(one.manifest.metrics?.model?.recall_at_20) },
    { title: "Act", of: (one) => actOf(one, served, before) },
  ];
  show(place, JSON.stringify([rows.map((one) => [one.generation, one.current, one.manifest.users, one.manifest.items]), held]),
    table("What can be served, newest first", columns, newestFirst, (one) => (one.current ? "served" : null)));
}

function actOf(one, served, before) {
  if (one.current) return held ? el("button", { onclick: () => act("promote", one, served, "End the hold") }, "End the hold") : "";
  if (one === before) return el("button", { onclick: () => act("rollback", one, served, "Roll back") }, "Roll back");
  return el("button", { onclick: () => act("promote", one, served, "Promote"), "aria-label": `Promote generation ${one.generation}` }, "Promote");
}

async function act(kind, target, served, go) {
  const hold = el("input", { type: "checkbox", id: "hold" });
  const isSame = target === served;
  const what = isSame
    ? [el("p", {}, `Generation ${target.generation} stays, and the next fit is published again.`)]
    : [el("p", {}, `Readers get generation ${target.generation} instead of ${served?.generation ?? "none"}, at once. The worker goes on with its model.`),
      el("label", { class: "check", for: "hold" }, hold, "Hold it: publish nothing else until the hold is ended")];
  if (!(await confirmed(`${go}${isSame ? "" : ` ${kind === "rollback" ? "to" : ""} generation ${target.generation}`}?`.replace("  ", " "), what, go))) return;
  const body = kind === "rollback" ? { hold: hold.checked } : { generation: target.generation, hold: hold.checked };
  const wasHeld = held;
  await tell(async () => {
    const done = await askPrivately(`/api/${kind}`, { method: "POST", body });
    return done && { done, undo: { generation: served?.generation, hold: wasHeld } };
  });
}

async function tell(doing) {
  try {
    const found = await doing();
    if (found === null) return;
    const { done, undo } = found;
    const said = `Generation ${done.generation} is served now${undo && undo.generation !== done.generation ? ` instead of ${undo.generation}` : ""}${done.held ? ", and held" : ""}.`;
    const children = [el("span", {}, said)];
    if (undo?.generation) children.push(el("button", { onclick: () => tell(async () => ({ done: await undone(undo), undo: null })) }, "Undo"));
    notice.replaceChildren(el("div", { class: "notice" }, children));
    await loadGenerations();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    notice.replaceChildren(el("div", { class: "notice bad" }, el("span", {}, `Nothing was changed: ${error.message}.`)));
  }
  (notice.querySelector("button") ?? place).focus();
}

async function undone(undo) {
  const done = await askPrivately("/api/promote", { method: "POST", body: undo });
  if (done === null) throw new Refused("no token was given");
  return done;
}
