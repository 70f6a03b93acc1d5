// Line charts by uPlot, each with a title, a unit, a legend of numbers, and the same as a table.

import { clock, el, svg, table } from "./words.js";

const HEIGHT = 200;
const DASHES = [[], [9, 4], [2, 4], [12, 4, 2, 4], [5, 3], [1, 3]];
const ROWS = 12; // of the table
const WHOLE = [...Array(10).keys()].flatMap((power) => [1, 2, 5].map((one) => one * 10 ** power));
const charts = new Set();

/**
 * A chart in ``place``.
 *
 * lines: [{name, color (1 to 6), said: value => text, fill, dash}]; x: value => text; ``isTime`` for seconds of Unix time;
 * ``isCount`` for values that are whole: no tick between 0 and 1.
 */
export class Chart {
  constructor(
    place,
    {
      title,
      unit,
      lines,
      x = (value) => clock(value * 1000),
      xName = "time",
      isTime = true,
      isCount = false,
      empty,
      from0 = true,
    },
  ) {
    Object.assign(this, { title, unit, lines, x, xName, isTime, isCount, empty, from0 });
    this.data = [[], ...lines.map(() => [])];
    this.plot = el("div", { class: "plot" });
    this.numbers = lines.map(() => el("b", {}, "–"));
    this.when = el("span", {});
    this.more = el("details", { ontoggle: () => this.fillTable() }, el("summary", {}, "As a table"));
    this.tablePlace = el("div", {
      class: "scroll",
      tabindex: "0",
      role: "region",
      "aria-label": `${title}, as a table`,
    });
    this.more.append(this.tablePlace);
    this.figure = el(
      "figure",
      { class: "chart card" },
      el("figcaption", {}, el("b", {}, title), el("span", {}, unit)),
      el(
        "ul",
        { class: "legend" },
        lines.map((line, n) => el("li", {}, key(line), line.name, this.numbers[n])),
      ),
      this.plot,
      el("div", { class: "under" }, this.more, this.when),
    );
    place.replaceChildren(this.figure);
    charts.add(this);
    sizes.observe(this.plot);
    this.build();
  }

  /** Draw it anew: the first time, in another width, and in other colors. */
  build() {
    this.drawn?.destroy();
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(name).trim();
    const axis = {
      stroke: color("--quiet"),
      grid: { stroke: color("--grid"), width: 1 },
      ticks: { show: false },
      font: "12px system-ui, sans-serif",
    };
    this.width = this.plot.clientWidth;
    if (!this.width) return;
    this.drawn = new uPlot(
      {
        width: this.width,
        height: HEIGHT,
        legend: { show: false },
        cursor: { drag: { x: false, y: false }, points: { size: 7 } },
        hooks: { setCursor: [(drawn) => this.say(drawn.cursor.idx)] },
        scales: { x: { time: this.isTime }, y: { range: (_, low, high) => this.range(low, high) } },
        axes: [
          {
            ...axis,
            size: 30,
            ...(this.isTime
              ? {
                  values: (_, ticks) => ticks.map((t) => clock(t * 1000).slice(0, isLong(ticks) ? 5 : 8)),
                  space: 80,
                }
              : { incrs: WHOLE, values: (_, ticks) => ticks.map(String) }),
          },
          {
            ...axis,
            size: 58,
            ...(this.isCount ? { incrs: WHOLE } : {}),
            values: (_, ticks) => ticks.map((tick) => this.lines[0].tick(tick)),
          },
        ],
        series: [
          {},
          ...this.lines.map((line) => ({
            label: line.name,
            stroke: color(`--c${line.color}`),
            width: line.width ?? 2,
            dash: DASHES[line.dash ?? 0],
            spanGaps: false,
            fill: line.fill
              ? mixed(color(`--c${line.color}`), color("--card"), line.fill === "soft" ? 0.15 : 0.45)
              : undefined,
            points: { show: this.isTime ? false : undefined, size: 6 },
          })),
        ],
      },
      this.data,
      this.plot,
    );
    this.drawn.over.setAttribute("aria-hidden", "true");
    this.blank();
  }

  range(low, high) {
    if (low === null || high === null) return [0, 1];
    const top = high <= 0 ? 1 : high * 1.08;
    return [this.from0 ? 0 : low * 0.98, top];
  }

  /** New values: a column of x, then one for each line. ``shown`` are the values that numbers say, where lines are stacked. */
  set(data, shown = data) {
    this.data = data;
    this.shown = shown;
    if (document.hidden) return;
    this.drawn?.setData(data);
    this.blank();
    if (this.drawn?.cursor.idx === null || this.drawn?.cursor.idx === undefined) this.say(null);
    if (this.more.open) this.fillTable();
  }

  /** What the legend says: at the place of the pointer, else the newest. */
  say(index) {
    const shown = this.shown ?? this.data;
    const at = index ?? shown[0].length - 1;
    this.lines.forEach((line, n) => {
      this.numbers[n].textContent = at < 0 ? "–" : line.said(shown[n + 1][at]);
    });
    this.when.textContent = index === null || index === undefined ? "" : `at ${this.x(shown[0][at])}`;
  }

  blank() {
    const isEmpty = !this.data.slice(1).some((values) => values.some((value) => value !== null));
    const there = this.plot.querySelector(".empty");
    if (isEmpty && !there) this.plot.append(el("p", { class: "empty" }, this.empty));
    if (!isEmpty) there?.remove();
  }

  fillTable() {
    if (!this.more.open) return;
    const shown = this.shown ?? this.data;
    const step = Math.max(1, Math.ceil(shown[0].length / ROWS));
    const places = [...shown[0].keys()].reverse().filter((_, n) => n % step === 0);
    const columns = [
      { title: this.xName, of: (at) => this.x(shown[0][at]) },
      ...this.lines.map((line, n) => ({
        title: line.name,
        number: true,
        of: (at) => line.said(shown[n + 1][at]),
      })),
    ];
    this.tablePlace.replaceChildren(table(`${this.title}, ${this.unit}, newest first`, columns, places));
  }

  remove() {
    this.drawn?.destroy();
    sizes.unobserve(this.plot);
    charts.delete(this);
  }
}

const isLong = (seconds) => seconds.length > 1 && seconds[1] - seconds[0] >= 60;

/** A color with a share of another one: what stands before other areas must not let them through. */
function mixed(color, ground, share) {
  const [a, b] = [color, ground].map((hex) => [1, 3, 5].map((n) => parseInt(hex.slice(n, n + 2), 16)));
  return `rgb(${a.map((one, n) => Math.round(one * share + b[n] * (1 - share))).join()})`;
}

function key(line) {
  return svg(
    "svg",
    { class: "key", "aria-hidden": "true", viewBox: "0 0 28 12" },
    svg("line", {
      x1: 0,
      x2: 28,
      y1: 6,
      y2: 6,
      stroke: `var(--c${line.color})`,
      "stroke-dasharray": DASHES[line.dash ?? 0].join(" ") || null,
    }),
  );
}

const sizes = new ResizeObserver((changed) => {
  for (const chart of charts) {
    if (changed.some((one) => one.target === chart.plot) && chart.plot.clientWidth !== chart.width)
      chart.build();
  }
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
  charts.forEach((chart) => chart.build()),
);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) charts.forEach((chart) => chart.set(chart.data, chart.shown));
});
