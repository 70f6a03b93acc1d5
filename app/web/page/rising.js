// The items that are trending.

import { ask, Refused } from "./ask.js";
import { bars, el, show } from "./words.js";

const place = document.getElementById("rising-shown");
const TOP = 10;

/** Ask again; what is trending changes in minutes. */
export async function loadRising() {
  try {
    const { items } = await ask(`/api/trending?top=${TOP}`);
    const most = items[0]?.score ?? 1;
    show(
      place,
      JSON.stringify(items),
      items.length
        ? bars(
            items.map((one) => ({
              name: one.item,
              value: one.score,
              said: one.score.toFixed(2),
              color: "var(--c3)",
              isId: true,
            })),
            most,
          )
        : el("p", { class: "quiet-text" }, "Nothing is rising yet."),
    );
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    show(
      place,
      error.message,
      el("p", { class: "quiet-text" }, `The rising items cannot be read: ${error.message}.`),
    );
  }
}
