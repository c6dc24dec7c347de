"use strict";
// What the scripts of the pages share. Words from outside reach a page through textContent alone.
const pageParts = (() => {
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

  return { place, element, number, picture };
})();
