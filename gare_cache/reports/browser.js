// The query browser: rows from the page's JSON, sorted, filtered and shown a page at a time.
// Words from outside reach the page through textContent alone.
(() => {
  const TEXT = 0, VIDEO = 1, PICTURE = 2, HEAD = 3, ZERO_SHOT = 4, FOUND = 5;
  const { place, element, number, picture, showPage } = pageParts;
  const data = JSON.parse(place("query-data").textContent);
  const wrong = (rank) => rank !== null && rank > 1;
  const FILTERS = {
    all: () => true,
    miss: (row) => wrong(row[HEAD]),
    lost: (row) => wrong(row[HEAD]) && row[ZERO_SHOT] === 1,
    won: (row) => row[HEAD] === 1 && wrong(row[ZERO_SHOT]),
    far: (row) => row[HEAD] !== null && row[HEAD] > 10,
    missing: (row) => row[HEAD] === null,
  };
  const KEYS = {
    text: (row) => row[TEXT].toLowerCase(),
    head: (row) => row[HEAD],
    zero: (row) => row[ZERO_SHOT],
    gain: (row) => (row[HEAD] === null ? null : row[ZERO_SHOT] - row[HEAD]),
  };
  const state = { direction: "t2v", filter: "all", words: "", key: "head", falling: true, page: 0 };

  // Rows without a rank come last whichever way the others run.
  const compare = (first, second) => {
    const [a, b] = [KEYS[state.key](first), KEYS[state.key](second)];
    if (a === null || b === null) return (a === null) - (b === null);
    const order = a < b ? -1 : a > b ? 1 : 0;
    return state.falling ? -order : order;
  };
  const matches = (row) => {
    if (!FILTERS[state.filter](row)) return false;
    const searched = `${row[TEXT]} ${row[VIDEO]}`.toLowerCase();
    return state.words.split(/\s+/).every((word) => searched.includes(word));
  };

  const queryCell = (row) => {
    const cell = element("th", "asked");
    cell.scope = "row";
    cell.append(element("span", "words", row[TEXT]));
    if (row[TEXT] !== row[VIDEO]) cell.append(element("span", "name", row[VIDEO]));
    return cell;
  };
  const foundCell = (row) => {
    const cell = element("td", "found");
    if (row[HEAD] === null) cell.append(element("span", "name", "no features"));
    const list = element("ol", state.direction === "t2v" ? "strip" : "sentences");
    for (const [name, className, isTrue] of row[FOUND]) {
      const item = element("li", isTrue ? "true" : "");
      if (state.direction === "t2v") item.append(picture(className, name, isTrue));
      else item.append(element("span", "words", name));
      list.append(item);
    }
    cell.append(list);
    return cell;
  };
  const tableRow = (row) => {
    const made = element("tr");
    const own = element("td", "truth");
    own.append(picture(row[PICTURE], row[VIDEO], false));
    const gain = KEYS.gain(row);
    const change = gain === null ? "—" : `${gain > 0 ? "+" : ""}${number(gain)}`;
    made.append(
      queryCell(row),
      own,
      element("td", "figure", number(row[HEAD])),
      element("td", "figure", number(row[ZERO_SHOT])),
      element("td", "figure", change),
      foundCell(row),
    );
    return made;
  };

  const show = () => {
    const rows = data[state.direction].filter(matches).sort(compare);
    state.page = showPage(rows, state.page, tableRow);
    for (const button of document.querySelectorAll("[data-key]")) {
      const falling = state.falling ? "descending" : "ascending";
      button.closest("th").setAttribute(
        "aria-sort", button.dataset.key === state.key ? falling : "none",
      );
    }
  };
  const change = (values) => {
    Object.assign(state, { page: 0 }, values);
    show();
  };

  place("query-direction").addEventListener("change", (event) =>
    change({ direction: event.target.value }));
  place("query-filter").addEventListener("change", (event) =>
    change({ filter: event.target.value }));
  place("query-words").addEventListener("input", (event) =>
    change({ words: event.target.value.trim().toLowerCase() }));
  place("query-back").addEventListener("click", () => change({ page: state.page - 1 }));
  place("query-on").addEventListener("click", () => change({ page: state.page + 1 }));
  for (const button of document.querySelectorAll("[data-key]")) {
    button.addEventListener("click", () => {
      const same = button.dataset.key === state.key;
      change({ key: button.dataset.key, falling: same ? !state.falling : button.dataset.key !== "text" });
    });
  }
  place("query-browser").hidden = false;
  show();
})();
