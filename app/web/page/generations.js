// The generations that Redis keeps, and the acts of an operator: promote, roll back, and undo.

import { ask, askPrivately, confirmed, Refused } from "./ask.js";
import { day, el, sentence, share4, show, table, whole } from "./words.js";

const place = document.getElementById("generations-table");
const notice = document.getElementById("undo");
let rows = [];
let held = false;
const TOLD_WITHIN_MS = 10_000; // until then the feed may tell of the time before an act
let acted = { atMs: 0, endMs: 0 }; // the newest act from here, and until when the feed may be behind it

/** The newest generations from Redis; the served one, or null. */
export async function loadGenerations() {
  rows = await ask("/api/generations");
  draw();
  return rows.find((one) => one.current) ?? null;
}

/** Redis does not answer: say so, once. */
export function generationsAway(why) {
  rows = [];
  show(place, `away${why}`, el("p", { class: "quiet-text" }, sentence(`the generations cannot be read: ${why}`)));
}

/** Whether an operator holds the served generation. */
export function showHeld(choice) {
  if ((choice?.at_ms ?? 0) < acted.atMs && Date.now() < acted.endMs) return;
  setHeld(choice?.held ?? false);
}

function setHeld(now) {
  if (now === held) return;
  held = now;
  draw();
}

function draw() {
  if (!rows.length) {
    show(
      place,
      "none",
      el(
        "p",
        { class: "quiet-text" },
        "There is no generation yet. The first one comes soon after the window is full.",
      ),
    );
    return;
  }
  const newestFirst = [...rows].reverse();
  const served = rows.find((one) => one.current);
  const columns = [
    {
      title: "Generation",
      of: (one) =>
        one.current
          ? [
              `${one.generation} `,
              el("span", { class: `badge${held ? " held" : ""}` }, held ? "served, held" : "served"),
            ]
          : `${one.generation}`,
    },
    {
      title: "Made by",
      wide: true,
      of: (one) =>
        one.manifest.model_version
          ? `model version ${one.manifest.model_version}`
          : (one.manifest.made_by ?? "–"),
    },
    { title: "Published", wide: true, of: (one) => day(one.manifest.published_ms) },
    { title: "Users", number: true, wide: true, of: (one) => whole(one.manifest.users) },
    { title: "Items", number: true, wide: true, of: (one) => whole(one.manifest.items) },
    { title: "Recall@20", number: true, of: (one) => share4(one.manifest.metrics?.model?.recall_at_20) },
    { title: "Serve instead", of: (one) => actOf(one, served) },
  ];
  show(
    place,
    JSON.stringify([
      rows.map((one) => [one.generation, one.current, one.manifest.users, one.manifest.items]),
      held,
    ]),
    table("What can be served, newest first", columns, newestFirst, (one) => (one.current ? "served" : null)),
  );
}

function actOf(one, served) {
  if (one.current) return held ? el("button", { onclick: () => endHold(one) }, "End the hold") : "";
  const [go, name] =
    served && one.generation < served.generation ? ["Roll back", "Roll back to"] : ["Promote", "Promote"];
  const label = `${name} generation ${one.generation}`;
  return el("button", { onclick: () => serve(one, served, go, label), "aria-label": label }, go);
}

/** Serve a generation: by its number, so that what was confirmed is done, whatever was published meanwhile. */
async function serve(target, served, go, label) {
  const hold = el("input", { type: "checkbox", id: "hold" });
  hold.checked = held;
  const what = [
    el(
      "p",
      {},
      `Readers get generation ${target.generation} instead of ${served?.generation ?? "none"}, at once.`,
    ),
    el("p", {}, `It was published on ${day(target.manifest.published_ms)}. The worker goes on with its model.`),
    el(
      "label",
      { class: "check", for: "hold" },
      hold,
      "Hold it: publish nothing else until the hold is ended",
    ),
  ];
  if (await confirmed(`${label}?`, what, go)) await promote(target.generation, hold.checked, served);
}

async function endHold(served) {
  const what = el("p", {}, `Generation ${served.generation} stays, and the next fit is published again.`);
  if (await confirmed("End the hold?", what, "End the hold")) await promote(served.generation, false, served);
}

/** Ask for it, say what is so now, and offer the way back. */
async function promote(generation, hold, was) {
  const undo = was && { generation: was.generation, hold: held };
  let said;
  try {
    const body = { generation, hold };
    const done = await askPrivately("/api/promote", { method: "POST", body });
    if (done === null) return;
    acted = { atMs: done.at_ms, endMs: Date.now() + TOLD_WITHIN_MS };
    setHeld(done.held);
    const instead = was && was.generation !== generation ? ` instead of ${was.generation}` : "";
    const children = [
      el(
        "span",
        {},
        `Generation ${done.generation} is served now${instead}${done.held ? ", and held" : ""}.`,
      ),
    ];
    const back = () => promote(undo.generation, undo.hold, null);
    if (undo) children.push(el("button", { onclick: back }, "Undo"));
    said = el("div", { class: "notice" }, children);
    await loadGenerations();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    said ??= el("div", { class: "notice bad" }, el("span", {}, sentence(`nothing was changed: ${error.message}`)));
  }
  notice.replaceChildren(said);
  (notice.querySelector("button") ?? place).focus();
}
