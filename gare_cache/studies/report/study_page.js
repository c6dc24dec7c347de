// The table of variants: sorted by its headings, filtered by words, axis values and verdict.
(() => {
  const { place } = pageParts;
  const data = JSON.parse(place("variant-data").textContent);
  const table = place("variants");
  const rows = data.rows.map((row, index) => ({ ...row, index, body: table.tBodies[index] }));
  const buttons = [...table.querySelectorAll("[data-column]")];
  const state = { column: data.sorted, falling: false, words: "", told: false, axes: {} };

  // A variant without a value comes last whichever way the others run; equal ones stay by rank.
  const compare = (first, second) => {
    const [a, b] = [first.values[state.column], second.values[state.column]];
    if (a === null || b === null) return (a === null) - (b === null) || first.index - second.index;
    const order = a < b ? -1 : a > b ? 1 : 0;
    return (state.falling ? -order : order) || first.index - second.index;
  };
  const matches = (row) =>
    (!state.told || row.told)
    && Object.entries(state.axes).every(([axis, value]) => row.axes[axis] === value)
    && state.words.split(/\s+/).every((word) => row.text.includes(word));

  const show = () => {
    for (const row of [...rows].sort(compare)) table.append(row.body);
    for (const row of rows) row.body.hidden = !matches(row);
    const shown = rows.filter((row) => !row.body.hidden).length;
    place("variant-count").textContent = `${shown} of ${rows.length} ${rows.length === 1 ? "variant" : "variants"}`;
    const direction = state.falling ? "descending" : "ascending";
    buttons.forEach((button, column) => {
      button.closest("th").setAttribute("aria-sort", column === state.column ? direction : "none");
    });
  };
  const change = (values) => {
    Object.assign(state, values);
    show();
  };

  buttons.forEach((button, column) => {
    button.addEventListener("click", () => {
      const same = column === state.column;
      change({ column, falling: same ? !state.falling : !data.rising[column] });
    });
  });
  place("variant-words").addEventListener("input", (event) =>
    change({ words: event.target.value.trim().toLowerCase() }));
  place("variant-told").addEventListener("change", (event) =>
    change({ told: event.target.checked }));
  for (const select of document.querySelectorAll("[data-axis]")) {
    select.addEventListener("change", () => {
      const { [select.dataset.axis]: _, ...axes } = state.axes;
      if (select.value) axes[select.dataset.axis] = select.value.slice(1);
      change({ axes });
    });
  }
  place("variant-controls").hidden = false;
  show();
})();

// The queries that one variant wins from another. Counts come with the page, lists are made here.
(() => {
  const { place, element, number, picture, showPage } = pageParts;
  if (!place("query-data")) return;
  const TEXT = 0, VIDEO = 1, PICTURE = 2;
  const OUTCOMES = ["won", "lost", "both", "neither"];
  const TITLES = { t2v: "Text to video", v2t: "Video to text" };
  const data = JSON.parse(place("query-data").textContent);
  const chosen = data.chosen.map((name) => Math.max(0, data.variants.indexOf(name)));
  const state = {
    first: chosen[0], second: chosen[1], direction: Object.keys(data.directions)[0],
    outcome: "won", words: "", page: 0,
  };

  const unpacked = new Map();
  const numbers = (kind, variant) => {
    const key = `${state.direction} ${kind} ${variant}`;
    if (!unpacked.has(key)) {
      const text = atob(data.directions[state.direction][kind][variant]);
      const view = new DataView(Uint8Array.from(text, (letter) => letter.charCodeAt(0)).buffer);
      const [width, read] = kind === "hits"
        ? [2, (at) => view.getUint16(at, true)]
        : [4, (at) => view.getFloat32(at, true)];
      unpacked.set(key, Array.from({ length: text.length / width }, (_, row) => read(row * width)));
    }
    return unpacked.get(key);
  };
  const outcome = (a, b) => (a > b ? "won" : a < b ? "lost" : a > 0 ? "both" : "neither");
  const share = (hits) => `${number((100 * hits) / data.steps)} %`;

  const listed = () => {
    const [hitsA, hitsB] = [numbers("hits", state.first), numbers("hits", state.second)];
    const [ranksA, ranksB] = [numbers("ranks", state.first), numbers("ranks", state.second)];
    const words = state.words.split(/\s+/);
    return data.directions[state.direction].queries
      .map((query, row) => ({
        query, hits: [hitsA[row], hitsB[row]], ranks: [ranksA[row], ranksB[row]],
        gain: Math.abs(hitsA[row] - hitsB[row]),
        moved: Math.abs(ranksA[row] - ranksB[row]),
      }))
      .filter((row) => !row.ranks.some(Number.isNaN) && outcome(...row.hits) === state.outcome)
      .filter(({ query }) => {
        const searched = `${query[TEXT]} ${query[VIDEO]}`.toLowerCase();
        return words.every((word) => searched.includes(word));
      })
      .sort((one, other) => other.gain - one.gain || other.moved - one.moved);
  };
  const tableRow = ({ query, hits, ranks }) => {
    const made = element("tr");
    const asked = element("th", "asked");
    asked.scope = "row";
    asked.append(element("span", "words", query[TEXT]));
    if (query[TEXT] !== query[VIDEO]) asked.append(element("span", "name", query[VIDEO]));
    const own = element("td", "truth");
    own.append(picture(query[PICTURE], query[VIDEO], false));
    made.append(
      asked,
      own,
      ...ranks.map((value) => element("td", "figure", number(value))),
      ...hits.map((value) => element("td", "figure", share(value))),
    );
    return made;
  };

  const show = () => {
    const counts = data.directions[state.direction].counts[state.first][state.second];
    for (const button of document.querySelectorAll("[data-outcome]")) {
      const own = button.dataset.outcome;
      button.querySelector("b").textContent = number(counts[OUTCOMES.indexOf(own)]);
      button.setAttribute("aria-pressed", String(own === state.outcome));
    }
    const rows = listed();
    state.page = showPage(rows, state.page, tableRow);
  };
  const change = (values) => {
    Object.assign(state, { page: 0 }, values);
    show();
  };
  const fill = (id, names, selected) => {
    place(id).append(...names.map(([value, title]) => {
      const option = element("option", "", title);
      option.value = value;
      option.selected = value === selected;
      return option;
    }));
  };

  fill("query-first", data.variants.map((name, index) => [index, name]), state.first);
  fill("query-second", data.variants.map((name, index) => [index, name]), state.second);
  fill("query-direction", Object.keys(data.directions).map((name) => [name, TITLES[name]]), "");
  place("query-first").addEventListener("change", (event) =>
    change({ first: Number(event.target.value) }));
  place("query-second").addEventListener("change", (event) =>
    change({ second: Number(event.target.value) }));
  place("query-direction").addEventListener("change", (event) =>
    change({ direction: event.target.value }));
  place("query-words").addEventListener("input", (event) =>
    change({ words: event.target.value.trim().toLowerCase() }));
  for (const button of document.querySelectorAll("[data-outcome]")) {
    button.addEventListener("click", () => change({ outcome: button.dataset.outcome }));
  }
  place("query-back").addEventListener("click", () => change({ page: state.page - 1 }));
  place("query-on").addEventListener("click", () => change({ page: state.page + 1 }));
  place("query-browser").hidden = false;
  show();
})();
