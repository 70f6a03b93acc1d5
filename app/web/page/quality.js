// Quality over the generations: the live model beside what it is held against, and what carries its score.

import { Chart } from "./charts.js";
import { bars, el, percent, share4, show } from "./words.js";

const SCORERS = [
  { scorer: "model", name: "live model", color: 1, dash: 0, width: 3 },
  { scorer: "co_visitation", name: "co-visitation", color: 4, dash: 1 },
  { scorer: "recent_popularity", name: "recent popularity", color: 2, dash: 2 },
  { scorer: "frozen_first", name: "frozen first model", color: 5, dash: 3 },
];
const PARTS = {
  vectors: "vectors",
  bank: "popularity",
  paths: "paths of the graph",
  similar_users: "similar users",
  own: "own items",
  taste: "tastes",
  attribute_paths: "attribute paths",
};

const chart = new Chart(document.getElementById("chart-quality"), {
  title: "Recall@20 on events not yet trained on",
  unit: "by generation",
  x: (value) => `generation ${value}`,
  xName: "generation",
  isTime: false,
  empty: "Nothing yet: the second generation of a model is the first that says how good the one before was.",
  lines: SCORERS.map((one) => ({ ...one, said: share4, tick: (tick) => `${Number(tick.toFixed(3))}` })),
});
const shares = document.getElementById("shares");

/** When a generation is new. */
export function showQuality(rows) {
  const measured = rows.filter((row) => Object.keys(row.recall_at_20).length);
  chart.set([
    measured.map((row) => row.generation),
    ...SCORERS.map(({ scorer }) => measured.map((row) => row.recall_at_20[scorer] ?? null)),
  ]);
  const newest = measured.filter((row) => Object.values(row.shares).some((one) => one > 0)).at(-1);
  show(
    shares,
    JSON.stringify(newest ?? null),
    newest
      ? sharesOf(newest)
      : [
          el("h3", {}, "What carries the score"),
          el("p", { class: "quiet-text" }, "Nothing yet: no model was measured."),
        ],
  );
}

function sharesOf(row) {
  const rows = Object.entries(row.shares)
    .filter(([, share]) => share > 0.0005)
    .sort((a, b) => b[1] - a[1])
    .map(([part, share]) => ({
      name: PARTS[part] ?? part,
      value: share,
      said: percent(share),
      alone: row.recall_at_20[part],
    }));
  return el(
    "div",
    { class: "stack" },
    el("h3", {}, "What carries the score"),
    el(
      "p",
      { class: "quiet-text" },
      `By how much each part moves the score of generation ${row.generation}; beside it, Recall@20 of the part alone.`,
    ),
    bars(
      rows.map((one) => ({
        ...one,
        said: one.alone === undefined ? one.said : `${one.said} · ${share4(one.alone)} alone`,
      })),
      1,
    ),
  );
}
