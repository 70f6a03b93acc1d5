// What moved by the fit of the served generation: items and behaviors for everybody, users with the token.

import { askPrivately, Refused } from "./ask.js";
import { bars, el, percent, plural, sentence, show, table } from "./words.js";

const place = document.getElementById("drift-shown");
const SHOWN_MIN = 0.005; // a lower score would be shown as 0.00
let users = null; // {generation, rows}, once they were asked for

/** When another generation is served; null for none. */
export function showDrift(served) {
  const drift = served?.manifest?.drift ?? null;
  const known = users?.generation === served?.generation ? users : null;
  const key = JSON.stringify([served?.generation ?? null, drift, known]);
  if (!drift) {
    show(
      place,
      key,
      el(
        "div",
        { class: "card" },
        el(
          "p",
          { class: "quiet-text" },
          "Nothing to show: the served generation is not the successor of another one, so nothing has moved.",
        ),
      ),
    );
    return;
  }
  show(
    place,
    key,
    el("div", { class: "card stack" }, el("h3", {}, "Items"), moved(drift.items, "item")),
    el(
      "div",
      { class: "stack" },
      el("div", { class: "card stack" }, el("h3", {}, "Users"), usersOf(served, drift, known)),
      Object.keys(drift.behaviors).length
        ? el(
            "div",
            { class: "card scroll", tabindex: "0", role: "region", "aria-label": "Table of the behaviors" },
            behaviors(drift.behaviors),
          )
        : null,
    ),
  );
}

function moved(side, word) {
  const rows = side.top.filter((one) => one.score >= SHOWN_MIN);
  const usual = `${plural(side.measured, word)} measured, median ${(side.median ?? 0).toFixed(2)}.`;
  if (!rows.length)
    return [el("p", { class: "quiet-text" }, `No ${word} moved by ${SHOWN_MIN} or more. ${usual}`)];
  return [
    el("p", { class: "quiet-text" }, usual),
    bars(
      rows.map((one) => ({ name: one.id, value: one.score, said: one.score.toFixed(2), isId: true })),
      Math.max(...rows.map((one) => one.score)),
    ),
  ];
}

function usersOf(served, drift, known) {
  if (known) return known.why ? [el("p", { class: "said bad" }, known.why)] : moved(known.side, "user");
  return [
    el(
      "p",
      { class: "quiet-text" },
      `${plural(drift.users.measured, "user")} measured, median ${(drift.users.median ?? 0).toFixed(2)}. Who they are is shown with the token.`,
    ),
    el("div", {}, el("button", { onclick: () => ask(served) }, "Show who moved")),
  ];
}

async function ask(served) {
  try {
    const found = await askPrivately("/api/drift");
    if (found === null) return;
    users = { generation: served.generation, side: (found.drift ?? served.manifest.drift).users };
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    users = { generation: served.generation, why: sentence(error.message) };
  }
  showDrift(served);
}

function behaviors(found) {
  const columns = [
    { title: "Behavior", of: ([name]) => name },
    { title: "Share before", number: true, of: ([, one]) => percent(one.share_before) },
    { title: "Share now", number: true, of: ([, one]) => percent(one.share) },
    {
      title: "Its items changed, 0 to 1",
      number: true,
      of: ([, one]) => (one.distance === null ? "–" : one.distance.toFixed(2)),
    },
  ];
  return table(
    "The mix of behaviors, in the interval before and in this one",
    columns,
    Object.entries(found),
  );
}
