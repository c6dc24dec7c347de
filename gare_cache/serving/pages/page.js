"use strict";
// Everything that comes from the server is set as text or as a property, never as markup.

const $ = (id) => document.getElementById(id);
const state = { info: null, examples: [], answers: [], shown: [], playing: -1, asked: null };
const FIELDS = { split: "split", folder: "folder", min: "min_seconds", max: "max_seconds" };
const ATTEMPTS = 4;
let running = null;

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function clock(seconds) {
  if (seconds === null) return "";
  const minutes = Math.floor(seconds / 60);
  const rest = (seconds - 60 * minutes).toFixed(1).padStart(4, "0");
  const hours = Math.floor(minutes / 60);
  return hours ? `${hours}:${String(minutes % 60).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

function count(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}

// --- asking ------------------------------------------------------------------------------------

async function ask(path, options = {}) {
  for (let attempt = 1; ; attempt += 1) {
    let response;
    try {
      response = await fetch(path, options);
    } catch (err) {
      if (err.name === "AbortError") throw err;
      throw new Error("The server does not answer. Is it still running?");
    }
    const after = Number(response.headers.get("Retry-After"));
    if (after && after <= 5 && attempt < ATTEMPTS) {
      $("status").textContent = "The server is busy, trying again …";
      await new Promise((resolve) => setTimeout(resolve, 1000 * after));
      continue;
    }
    let answer = null;
    try {
      answer = await response.json();
    } catch {
      answer = { error: `the server answered with status ${response.status}` };
    }
    if (response.ok) return answer;
    throw new Error(answer.error);
  }
}

function request() {
  const asked = { query: $("query").value.trim(), top: Number($("top").value) };
  if ($("without").value.trim()) asked.without = [$("without").value.trim()];
  for (const [id, name] of Object.entries(FIELDS)) {
    const value = $(id).value;
    if (value !== "") asked[name] = name.endsWith("seconds") ? Number(value) : value;
  }
  const keys = (kind) => state.examples.filter((of) => of.kind === kind).map((of) => of.key);
  if (keys("like").length) asked.like = keys("like");
  if (keys("images").length) asked.images = keys("images");
  return asked;
}

async function search({ remember = true } = {}) {
  const asked = request();
  running?.abort();
  running = null;
  $("fault").hidden = true;
  if (!asked.query && !state.examples.length) {
    state.answers = [];
    state.asked = null;
    show();
    return;
  }
  if (remember) history.pushState(null, "", `#${hash(asked)}`);
  const mine = new AbortController();
  running = mine;
  $("status").textContent = "Searching …";
  $("columns").setAttribute("aria-busy", "true");
  const both = $("compare").checked && state.info.runs.length > 1;
  const runs = state.info.runs.slice(0, both ? 2 : 1);
  try {
    const answers = await Promise.all(
      runs.map((run) =>
        ask("/api/search", {
          method: "POST",
          headers: { "Content-Type": "application/json" },
          body: JSON.stringify({ ...asked, run: run.name }),
          signal: mine.signal,
        }),
      ),
    );
    if (running !== mine) return;
    state.answers = answers;
    state.asked = asked;
    show();
  } catch (err) {
    if (running !== mine || err.name === "AbortError") return;
    state.answers = [];
    show();
    fault(err.message);
  } finally {
    if (running === mine) $("columns").removeAttribute("aria-busy");
  }
}

function fault(message) {
  $("status").textContent = "";
  $("fault").textContent = message.charAt(0).toUpperCase() + message.slice(1);
  $("fault").hidden = false;
}

// --- the address of a search -------------------------------------------------------------------

function hash(asked) {
  const parts = new URLSearchParams();
  if (asked.query) parts.set("q", asked.query);
  if (asked.without) parts.set("without", asked.without[0]);
  for (const key of asked.like || []) parts.append("like", key);
  for (const name of Object.values(FIELDS)) if (name in asked) parts.set(name, asked[name]);
  if (asked.top !== 24) parts.set("top", asked.top);
  return parts.toString();
}

async function restore() {
  const parts = new URLSearchParams(location.hash.slice(1));
  $("query").value = parts.get("q") || "";
  $("without").value = parts.get("without") || "";
  for (const [id, name] of Object.entries(FIELDS)) $(id).value = parts.get(name) || "";
  $("top").value = parts.get("top") || "24";
  if ($("top").selectedIndex < 0) $("top").value = "24";
  state.examples = [];
  for (const key of parts.getAll("like")) {
    if (!/^[0-9a-f]{20}$/.test(key)) continue;
    try {
      addVideo(await ask(`/api/videos/${key}`));
    } catch (err) {
      fault(err.message);
    }
  }
  showExamples();
  showActive();
  closePlayer();
  await search({ remember: false });
}

// --- examples ----------------------------------------------------------------------------------

function addVideo(video) {
  state.examples = [
    { kind: "like", key: video.key, name: `like ${video.name}`, picture: video.thumbnail },
  ];
}

async function addImage(file) {
  if (!file) return;
  $("fault").hidden = true;
  if (file.size > state.info.image_bytes) {
    const limit = Math.round(state.info.image_bytes / 2 ** 20);
    fault(`The image is larger than ${limit} MiB, the limit.`);
    return;
  }
  $("status").textContent = "Sending the image …";
  const headers = { "Content-Type": file.type || "application/octet-stream" };
  try {
    const kept = await ask("/api/examples", { method: "POST", headers, body: file });
    const picture = URL.createObjectURL(file);
    state.examples = [{ kind: "images", key: kept.key, name: `like ${file.name}`, picture }];
    $("query").value = "";
    showExamples();
    await search();
  } catch (err) {
    fault(err.message);
  }
}

function showExamples() {
  $("examples").replaceChildren(
    ...state.examples.map((of) => {
      const remove = element("button", { type: "button", textContent: "×" });
      remove.setAttribute("aria-label", `Remove ${of.name}`);
      remove.addEventListener("click", () => {
        state.examples = state.examples.filter((other) => other !== of);
        showExamples();
        search();
      });
      const parts = of.picture ? [element("img", { src: of.picture, alt: "" })] : [];
      return element("li", {}, ...parts, element("span", { textContent: of.name }), remove);
    }),
  );
}

function moreLike(hit) {
  closePlayer();
  addVideo(hit.video);
  $("query").value = "";
  showExamples();
  scrollTo({ top: 0 });
  $("query").focus({ preventScroll: true });
  search();
}

// --- results -----------------------------------------------------------------------------------

function show() {
  const [first] = state.answers;
  $("start").hidden = Boolean(first);
  $("tools").hidden = !first;
  $("columns").className = state.answers.length > 1 ? "two" : "";
  state.shown = [];
  const others = state.answers.map((answer) => ({
    run: answer.run,
    ranks: new Map(answer.hits.map((hit) => [hit.video.key, hit.rank])),
  }));
  $("columns").replaceChildren(
    ...state.answers.map((answer, place) => column(answer, others[1 - place])),
  );
  const notes = [...new Set(state.answers.flatMap((answer) => answer.notes))];
  $("notes").hidden = !notes.length;
  $("notes").replaceChildren(...notes.map((note) => element("li", { textContent: note })));
  if (!first) {
    $("status").textContent = "";
    return;
  }
  const exact =
    first.reranked < first.searched
      ? `, ${first.reranked.toLocaleString("en")} of them scored exactly`
      : "";
  const best = `The best ${first.hits.length.toLocaleString("en")} of `;
  $("status").textContent = `${best}${count(first.searched, "video")}${exact}`;
}

function column(answer, other) {
  const fold = $("fold").checked;
  const folded = new Map();
  for (const hit of answer.hits) {
    if (fold && hit.same_as !== null) {
      folded.set(hit.same_as, [...(folded.get(hit.same_as) || []), hit]);
    }
  }
  const scores = answer.hits.map((hit) => hit.score);
  const scale = { least: Math.min(...scores), most: Math.max(...scores) };
  const grid = element("ol", { className: "grid" });
  for (const hit of answer.hits) {
    if (fold && hit.same_as !== null) continue;
    grid.append(card(hit, { scale, other, more: folded.get(hit.rank) || [] }));
  }
  const made = element("section", { className: "column" }, grid);
  if (state.answers.length > 1) {
    const run = state.info.runs.find((of) => of.name === answer.run);
    const head = element("small", { textContent: run ? run.head : "" });
    made.prepend(element("h2", {}, answer.run, head));
  }
  return made;
}

function places(video) {
  return [...new Set([video.folder, video.split])].filter(Boolean);
}

function ordinal(number) {
  const teen = number % 100 > 10 && number % 100 < 14;
  return number + ((!teen && ["th", "st", "nd", "rd"][number % 10]) || "th");
}

function card(hit, { scale, other, more }) {
  const video = hit.video;
  const made = element("li", { className: video.file ? "card" : "card gone" });
  const shot = element("button", { type: "button", className: "shot" });
  shot.setAttribute("aria-label", `Play ${video.name} at ${clock(hit.best_time) || "its start"}`);
  state.shown.push({ hit, shot });
  shot.append(
    video.thumbnail
      ? element("img", { src: video.thumbnail, alt: "", loading: "lazy" })
      : element("span", { className: "none", textContent: video.name }),
    element("span", { className: "rank", textContent: String(hit.rank) }),
  );
  if (hit.best_time !== null) {
    shot.append(element("span", { className: "time", textContent: `▶ ${clock(hit.best_time)}` }));
  }
  shot.addEventListener("click", () => play(state.shown.findIndex((of) => of.shot === shot)));
  const bar = element("span");
  bar.style.width = `${10 + (90 * (hit.score - scale.least)) / (scale.most - scale.least || 1)}%`;
  const above = `Ranks above ${hit.percentile.toFixed(1)} % of the videos.`;
  const score = element(
    "div",
    { className: "score", title: `${above} The bar spans the scores of these results.` },
    element("span", { className: "meter" }, bar),
    hit.score.toFixed(3),
  );
  made.append(shot, score);
  if (video.captions.length) {
    const title = video.captions.join("\n");
    made.append(element("p", { className: "caption", textContent: video.captions[0], title }));
  }
  const where = [video.name, ...places(video)].join(" · ");
  made.append(element("p", { className: "name", textContent: where, title: video.video_id }));
  if (other) {
    const there = other.ranks.get(video.key);
    const text = there ? `${ordinal(there)} in ${other.run}` : `not shown in ${other.run}`;
    made.append(element("p", { className: there ? "other" : "name", textContent: text }));
  }
  const like = element("button", { type: "button", textContent: "More like this" });
  like.addEventListener("click", () => moreLike(hit));
  const buttons = element("div", { className: "buttons" }, like);
  if (more.length) buttons.append(unfolder(made, more, { scale, other }));
  made.append(buttons);
  return made;
}

function unfolder(above, more, options) {
  const label = `${more.length} more like it`;
  const button = element("button", { type: "button", className: "unfold", textContent: label });
  button.setAttribute("aria-expanded", "false");
  button.addEventListener("click", () => {
    const cards = more.map((hit) => card(hit, { ...options, more: [] }));
    for (const made of cards) made.classList.add("same");
    above.after(...cards);
    button.remove();
    state.shown.sort((a, b) => order(a.shot, b.shot));
    cards[0].querySelector(".shot").focus();
  });
  return button;
}

function order(one, other) {
  return one.compareDocumentPosition(other) & Node.DOCUMENT_POSITION_FOLLOWING ? -1 : 1;
}

// --- the player --------------------------------------------------------------------------------

function play(place) {
  const { hit } = state.shown[place];
  const { video } = hit;
  state.playing = place;
  const screen = $("video");
  $("player-name").textContent = video.name;
  $("player-place").textContent = [
    `rank ${hit.rank}`,
    `score ${hit.score.toFixed(3)}`,
    `above ${hit.percentile.toFixed(1)} %`,
    ...places(video),
  ].join(" · ");
  $("moment").textContent =
    hit.start === null
      ? "No times are known of this video."
      : `Moment ${clock(hit.start)} – ${clock(hit.end)}, best at ${clock(hit.best_time)}`;
  $("captions").replaceChildren(
    ...video.captions.map((caption) => element("li", { textContent: caption })),
  );
  $("timeline").hidden = true;
  $("previous").disabled = place === 0;
  $("next").disabled = place === state.shown.length - 1;
  $("save").hidden = !video.file;
  if (!$("player").open) $("player").showModal();
  $("video").focus();
  if (!video.file) {
    screen.removeAttribute("src");
    trouble(`This video cannot be played: ${video.missing}.`);
    return;
  }
  trouble("");
  $("save").href = video.file;
  $("save").download = video.name;
  screen.src = `${video.file}#t=${hit.start ?? video.clip_start}`;
  screen.play().catch(() => {});
}

function trouble(message) {
  $("trouble").textContent = message;
  $("trouble").hidden = !message;
  $("video").hidden = Boolean(message);
}

function current() {
  return state.shown[state.playing]?.hit;
}

async function cannotPlay() {
  const hit = current();
  if (!hit || !$("video").hasAttribute("src")) return;
  let missing = null;
  try {
    ({ missing } = await ask(`/api/videos/${hit.video.key}`));
  } catch (err) {
    missing = err.message;
  }
  if (current() !== hit) return;
  trouble(
    missing
      ? `This video cannot be played: ${missing}.`
      : `This browser cannot play the format of ${hit.video.name}. ` +
          "Save the file and open it in another player.",
  );
}

function loaded() {
  const screen = $("video");
  const hit = current();
  if (!hit) return;
  if (!screen.videoWidth) {
    cannotPlay();
    return;
  }
  if (hit.start === null || !Number.isFinite(screen.duration)) return;
  if (Math.abs(screen.currentTime - hit.start) > 0.05) screen.currentTime = hit.start;
  const from = hit.video.clip_start;
  const whole = (hit.video.clip_end ?? screen.duration) - from;
  const percent = (time) => `${Math.max(0, Math.min(100, (100 * (time - from)) / whole))}%`;
  $("span").style.left = percent(hit.start);
  $("span").style.width = percent(from + hit.end - hit.start);
  $("best").style.left = percent(hit.best_time);
  $("timeline").hidden = false;
}

function again() {
  const hit = current();
  $("video").currentTime = hit?.start ?? 0;
  $("video").play().catch(() => {});
}

function keepInMoment() {
  const hit = current();
  const screen = $("video");
  if (!$("player").open || screen.paused) return;
  if ($("loop").checked && hit && hit.end !== null && screen.currentTime >= hit.end) again();
  requestAnimationFrame(keepInMoment);
}

// At once, not when the event "close" comes: by then another key may have moved the focus.
function closePlayer() {
  if (state.playing < 0) return;
  const { shot } = state.shown[state.playing];
  state.playing = -1;
  $("player").close();
  $("video").removeAttribute("src");
  $("video").load();
  shot.focus();
}

// --- keyboard ----------------------------------------------------------------------------------

function move(event) {
  const here = state.shown.findIndex((of) => of.shot === document.activeElement);
  if (here < 0) return false;
  const box = (of) => of.shot.getBoundingClientRect();
  const from = box(state.shown[here]);
  const middle = (of) => (box(of).left + box(of).right) / 2;
  let target = null;
  if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
    target = state.shown[here + (event.key === "ArrowRight" ? 1 : -1)];
  } else {
    // The nearest row above or below, and in it the card whose middle is nearest.
    const down = event.key === "ArrowDown" ? 1 : -1;
    const beyond = state.shown.filter((of) => down * (box(of).top - from.top) > from.height / 2);
    const near = Math.min(...beyond.map((of) => down * box(of).top));
    const row = beyond.filter((of) => down * box(of).top < near + from.height / 2);
    const gap = (of) => Math.abs(middle(of) - (from.left + from.right) / 2);
    [target] = row.sort((a, b) => gap(a) - gap(b));
    if (!target && down < 0) {
      $("query").focus();
      return true;
    }
  }
  if (target) {
    target.shot.focus();
    target.shot.scrollIntoView({ block: "nearest" });
  }
  return true;
}

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || $("player").open) return;
  const typing = event.target.matches("input, select, textarea");
  if (event.key === "/" && !typing) {
    event.preventDefault();
    $("query").focus();
    $("query").select();
  } else if (event.key === "ArrowDown" && event.target === $("query") && state.shown.length) {
    event.preventDefault();
    state.shown[0].shot.focus();
  } else if (event.key.startsWith("Arrow") && !typing) {
    if (move(event)) event.preventDefault();
  } else if (event.key === "m" && !typing) {
    const here = state.shown.find((of) => of.shot === document.activeElement);
    if (here) moreLike(here.hit);
  } else if (event.key === "Escape" && event.target !== $("query") && !typing) {
    $("query").focus();
  }
}

// --- CSV ---------------------------------------------------------------------------------------

function csv() {
  const cell = (value) => {
    if (typeof value === "number" || value === null) return value === null ? "" : String(value);
    // A spreadsheet would run a cell that starts like a formula.
    const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const of = ["rank", "score", "percentile", "best_time", "start", "end", "same_as"];
  const named = ["video_id", "name", "folder", "split"];
  const query = [state.asked.query, ...state.examples.map((example) => example.name)]
    .filter(Boolean)
    .join(" + ");
  const rows = state.answers.flatMap((answer) =>
    answer.hits.map((hit) => [
      query,
      answer.run,
      ...of.map((name) => hit[name]),
      ...named.map((name) => hit.video[name]),
    ]),
  );
  const lines = [["query", "run", ...of, ...named], ...rows].map((row) => row.map(cell).join(","));
  const file = new Blob([`${lines.join("\r\n")}\r\n`], { type: "text/csv" });
  const link = element("a", { href: URL.createObjectURL(file), download: "search.csv" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// --- start -------------------------------------------------------------------------------------

function showActive() {
  const active = Object.keys(request()).filter((name) => !/query|top|like|images/.test(name)).length;
  $("active").textContent = active ? ` (${active})` : "";
}

function showInfo(info) {
  state.info = info;
  document.title = `${info.project}: search`;
  $("project").textContent = info.project;
  const failed = info.failed ? `, ${info.failed.toLocaleString("en")} without features` : "";
  $("size").textContent = count(info.videos, "video") + failed;
  $("query").maxLength = info.query_characters;
  $("without").maxLength = info.query_characters;
  for (const [id, names] of [["split", info.splits], ["folder", info.folders]]) {
    $(id).append(...names.map((name) => element("option", { value: name, textContent: name })));
    $(id).parentElement.hidden = names.length < 2;
  }
  $("compare-label").hidden = info.runs.length < 2;
  $("fold-label").title = `Videos whose mean frames have a cosine above ${info.fold_above}`;
  const tries = info.suggestions.map((text) => [text, () => ($("query").value = text)]);
  if (!info.encodes) {
    // Without an encoder only the gallery's own videos can be searched for.
    $("query").disabled = true;
    $("query").placeholder = "More like a video: sentences and images need an encoder";
    $("without").disabled = true;
    $("image").disabled = true;
    $("how").textContent = `${info.encoder_note} Begin with a video, and go on with “More like this”:`;
    tries.splice(0, tries.length, ...info.examples.map((of) => [of.name, () => addVideo(of)]));
  }
  $("suggestions").replaceChildren(
    ...tries.map(([text, choose]) => {
      const button = element("button", { type: "button", textContent: text });
      button.addEventListener("click", () => {
        choose();
        $("query").focus();
        search();
      });
      return element("li", {}, button);
    }),
  );
}

function listen() {
  $("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    search();
  });
  for (const id of ["split", "folder", "top", "min", "max", "without"]) {
    $(id).addEventListener("change", () => {
      showActive();
      search();
    });
  }
  $("compare").addEventListener("change", () => search({ remember: false }));
  $("fold").addEventListener("change", show);
  $("csv").addEventListener("click", csv);
  $("image").addEventListener("change", (event) => {
    addImage(event.target.files[0]);
    event.target.value = "";
  });
  addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files].find((of) => of.type.startsWith("image/"));
    if (file) addImage(file);
  });
  let depth = 0;
  const over = (change) => (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    depth = Math.max(0, depth + change);
    $("drop").hidden = !depth;
  };
  addEventListener("dragenter", over(1));
  addEventListener("dragleave", over(-1));
  addEventListener("dragover", over(0));
  addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    $("drop").hidden = true;
    addImage(event.dataTransfer.files[0]);
  });
  addEventListener("keydown", pressed);
  addEventListener("popstate", restore);
  $("player").addEventListener("cancel", (event) => {
    event.preventDefault();
    closePlayer();
  });
  $("player").addEventListener("close", closePlayer);
  $("player").addEventListener("click", (event) => {
    if (event.target === $("player")) closePlayer();
  });
  $("close").addEventListener("click", closePlayer);
  $("timeline").addEventListener("click", again);
  $("video").addEventListener("error", cannotPlay);
  $("video").addEventListener("loadedmetadata", loaded);
  $("video").addEventListener("play", () => requestAnimationFrame(keepInMoment));
  $("previous").addEventListener("click", () => play(state.playing - 1));
  $("next").addEventListener("click", () => play(state.playing + 1));
  $("like").addEventListener("click", () => moreLike(current()));
}

async function start() {
  try {
    showInfo(await ask("/api/info"));
  } catch (err) {
    fault(err.message);
    return;
  }
  listen();
  await restore();
}

start();
