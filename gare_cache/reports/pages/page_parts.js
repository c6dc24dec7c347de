"use strict";
// What the scripts of the pages share. Words from outside reach a page through textContent alone.
const pageParts = (() => {
  const PAGE_SIZE = 20;
  const place = (id) => document.getElementById(id);
  const element = (tag, className, text) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const number = (value) =>
    value === null ? "—" : value.toLocaleString("en", { maximumFractionDigits: 1 });
  const picture = (className, id, isTrue) => {
    const made = element("span", `thumb ${className || "none"}${isTrue ? " own" : ""}`);
    made.setAttribute("role", "img");
    made.setAttribute("aria-label", `Frame of ${id}${isTrue ? ", the true video" : ""}`);
    made.title = id;
    return made;
  };

  const showPage = (rows, wanted, tableRow) => {
    const pages = Math.max(1, Math.ceil(rows.length / PAGE_SIZE));
    const page = Math.min(wanted, pages - 1);
    const start = page * PAGE_SIZE;
    const shown = rows.slice(start, start + PAGE_SIZE);
    place("query-rows").replaceChildren(...shown.map(tableRow));
    const range = rows.length ? `${number(start + 1)} to ${number(start + shown.length)} of ` : "";
    place("query-count").textContent =
      `${range}${number(rows.length)} ${rows.length === 1 ? "query" : "queries"}`;
    place("query-back").disabled = page === 0;
    place("query-on").disabled = page >= pages - 1;
    return page;
  };

  return { place, element, number, picture, showPage };
})();
