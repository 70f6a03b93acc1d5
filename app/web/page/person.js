// One user: what it did beside what is recommended for it, with the reasons.

import { askPrivately, Refused } from "./ask.js";
import { day, el, sentence, svg } from "./words.js";

const TOP = 10;
const EVENTS = 30;
const PARTS = {
  vectors: ["vectors", 1],
  bank: ["popularity", 2],
  popularity: ["popularity", 2],
  paths: ["paths", 3],
  similar_users: ["similar users", 4],
  own: ["own items", 5],
  taste: ["tastes", 6],
  attribute_paths: ["attribute paths", 7],
};
const SOURCES = {
  list: "From the user's list, which is kept fresh.",
  embedding: "Ranked by the vector, since there is no list.",
  trending: "Nobody knows this user yet, so these are the rising items.",
  none: "Nothing is served yet.",
};
const form = document.getElementById("person-form");
const field = document.getElementById("person-id");
const said = document.getElementById("person-said");
const place = document.getElementById("person-shown");

/** Listen to the field. */
export function tendPerson() {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    load(field.value.trim());
  });
}

async function load(user) {
  if (!user) return;
  said.replaceChildren(el("p", { class: "quiet-text" }, "Asking …"));
  const path = encodeURIComponent(user);
  try {
    const found = await askPrivately(`/api/recommend/${path}?top=${TOP}&why=true`);
    if (found === null) {
      said.replaceChildren();
      return;
    }
    const events = await askPrivately(`/api/events/recent/${path}?top=${EVENTS}`).catch((error) => {
      if (!(error instanceof Refused)) throw error;
      return { why: sentence(error.message), events: [] };
    });
    said.replaceChildren(
      el(
        "p",
        { class: "quiet-text" },
        `${found.items.length} items for ${user}, by generation ${found.generation}.`,
      ),
    );
    place.replaceChildren(eventsOf(events), itemsOf(found));
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    said.replaceChildren(el("p", { class: "said bad" }, sentence(error.message)));
    place.replaceChildren();
  }
}

function eventsOf(found) {
  const rows = found.events.map((one) =>
    el(
      "li",
      {},
      el("span", {}, one.behavior, " ", el("span", { class: "id" }, one.item)),
      el("span", { class: "quiet-text" }, day(one.event_ms)),
    ),
  );
  return el(
    "div",
    { class: "card stack" },
    el("h3", {}, "What it did"),
    rows.length
      ? el("ol", { class: "events" }, rows)
      : el("p", { class: "quiet-text" }, found.why ?? "The window has no event of this user."),
  );
}

function itemsOf(found) {
  const known = found.items.filter((one) => one.why);
  const most = Math.max(...known.map((one) => positive(one.why.parts)), 0.001);
  const parts = [
    ...new Set(known.flatMap((one) => Object.keys(one.why.parts).filter((name) => one.why.parts[name] > 0))),
  ];
  const rows = found.items.map((one) =>
    el(
      "li",
      {},
      el("span", { class: "id" }, one.item),
      el("span", { class: "quiet-text" }, one.score.toFixed(3)),
      one.why ? [partsOf(one.why.parts, most), el("span", { class: "why" }, reasonOf(one.why))] : null,
    ),
  );
  return el(
    "div",
    { class: "card stack" },
    el("h3", {}, "What is recommended"),
    el(
      "p",
      { class: "quiet-text" },
      [
        SOURCES[found.source] ?? `Source: ${found.source}.`,
        found.why_not ? `There are no reasons. ${sentence(found.why_not)}` : null,
      ]
        .filter(Boolean)
        .join(" "),
    ),
    parts.length
      ? el(
          "ul",
          { class: "legend", "aria-label": "Parts of the score" },
          parts.map((name) => el("li", {}, swatch(name), title(name))),
        )
      : null,
    rows.length
      ? el("ol", { class: "events" }, rows)
      : el("p", { class: "quiet-text" }, "There is nothing to recommend yet."),
  );
}

const title = (name) => PARTS[name]?.[0] ?? name;
const color = (name) => `var(--c${PARTS[name]?.[1] ?? 6})`;
const positive = (parts) => Object.values(parts).reduce((sum, value) => sum + Math.max(0, value), 0);
const swatch = (name) =>
  svg(
    "svg",
    { class: "swatch", "aria-hidden": "true", viewBox: "0 0 8 8" },
    svg("rect", { width: 8, height: 8, fill: color(name) }),
  );

/** The parts that lift an item, one beside the other; what pulls it down is in the sentence. */
function partsOf(parts, most) {
  let from = 0;
  const pieces = Object.entries(parts)
    .filter(([, value]) => value > 0)
    .sort((a, b) => b[1] - a[1])
    .map(([name, value]) => {
      const piece = svg("rect", {
        x: ((100 * from) / most).toFixed(2),
        width: ((100 * value) / most).toFixed(2),
        height: 4,
        fill: color(name),
      });
      from += value;
      return piece;
    });
  return svg("svg", { "aria-hidden": "true", preserveAspectRatio: "none", viewBox: "0 0 100 4" }, pieces);
}

function reasonOf(why) {
  const strongest = Object.entries(why.parts)
    .sort((a, b) => b[1] - a[1])
    .filter(([, value]) => Math.abs(value) >= 0.005)
    .map(([name, value]) => `${title(name)} ${value >= 0 ? "+" : "−"}${Math.abs(value).toFixed(2)}`);
  const says = why.says ? `${sentence(why.says)} ` : "";
  return `${says}${strongest.join(", ")}`;
}
