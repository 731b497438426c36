// The page of `tokay explore`: views by the address's hash, JSON from the same server. Whatever comes from documents,
// queries and answers is put on the page as text (textContent), never as markup.

const token = document.querySelector('meta[name="tokay-token"]').content;
const main = document.getElementById("main");
const notice = document.getElementById("notice");
const help = document.getElementById("help");
let about = null; // what /api/run said
let view = {}; // the keys that the view on the screen knows: {next, previous, accept, ...}
let asked = 0; // a view that is slower than the next one does not overwrite it

// -- small pieces --------------------------------------------------------------------------------------------------

function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key === "class") made.className = value;
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

const number = (value) => value.toLocaleString("en");
const tag = (text, kind = "") => el("span", { class: `tag ${kind}` }, text);
const id = (text) => el("bdi", { class: "id" }, text);

function grade(value, byHand) {
  const given = value !== null && value !== undefined;
  const said = given ? `grade ${value}${byHand ? ", by hand" : ""}` : "unjudged";
  return el("span", { class: `grade ${given ? `g${value}` : ""} ${byHand ? "hand" : ""}`, title: said, role: "img", "aria-label": said },
    given ? String(value) : "–");
}

const DECIDED = { accepted: ["accepted", "good"], rejected: ["rejected", "bad"], mended: ["mended", "warn"] };
const decided = (word) => (word ? tag(DECIDED[word][0], DECIDED[word][1]) : null);

let noticeTimer = 0;
function say(text, bad = false) {
  notice.textContent = text;
  notice.className = bad ? "bad" : "";
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => { notice.textContent = ""; }, bad ? 12000 : 4000);
}

async function ask(path, parameters = {}) {
  const kept = Object.entries(parameters).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return answer(fetch(path + (kept.length ? `?${new URLSearchParams(kept)}` : "")));
}

async function post(path, body) {
  return answer(fetch(path, {
    method: "POST", headers: { "Content-Type": "application/json", "X-Tokay-Token": token }, body: JSON.stringify(body),
  }));
}

async function answer(request) {
  let response;
  try {
    response = await request;
  } catch {
    throw new Error("the server does not answer; is 'tokay explore' still running?");
  }
  const value = await response.json().catch(() => ({}));
  if (!response.ok) {
    const error = new Error(value.error?.message || `the server answered ${response.status}`);
    error.status = response.status;
    throw error;
  }
  return value;
}

// A text whose rest comes when it is asked for. `part` has text, start, of (characters in all).
function textBlock(part, more) {
  const shown = part.start + part.limit;
  const block = el("div", {}, el("div", { class: "text", tabindex: 0, role: "group", "aria-label": "text" }, part.text));
  if (part.of > shown || part.start > 0) {
    const line = `characters ${number(part.start)} to ${number(Math.min(part.of, shown))} of ${number(part.of)}`;
    block.append(el("p", { class: "quiet small" }, line, " ", more ? more(part) : "(cut)"));
  }
  return block;
}

function place(passage) {
  const words = [passage.source, passage.heading && `under ${passage.heading}`, passage.page ? `page ${passage.page}` : "",
    passage.to ? `characters ${number(passage.from)} to ${number(passage.to)}` : ""];
  return el("span", { class: "quiet small" }, el("bdi", {}, words.filter(Boolean).join(", ")));
}

function titled(passage) {
  return el("bdi", { class: "title" }, passage.title || passage.passage_id);
}

function select(label, name, options, value, changed) {
  const box = el("select", { name, onchange: changed },
    options.map(([key, text]) => el("option", { value: key, selected: key === value }, text)));
  return el("label", {}, label, box);
}

function show(...parts) {
  main.replaceChildren(...parts.flat(3).filter(Boolean));
}

// -- lists ---------------------------------------------------------------------------------------------------------

// One page of a list at a time. `spec`: title, path, filters (name -> options), draw (row -> <li>), note.
async function list(spec, query) {
  const mine = ++asked;
  const state = Object.fromEntries(query);
  const trail = [""]; // where each page began, so that "previous" knows
  const body = el("ol", { class: "list", "aria-label": spec.title });
  const count = el("span", { role: "status" });
  const buttons = {
    previous: el("button", { type: "button", onclick: () => turn(-1) }, "Previous"),
    next: el("button", { type: "button", onclick: () => turn(1) }, "Next"),
  };
  const search = el("input", { type: "search", name: "text", value: state.text || "", maxlength: 1000, placeholder: spec.hint,
    oninput: () => { clearTimeout(timer); timer = setTimeout(changed, 180); } });
  const form = el("form", { class: "filters", role: "search", onsubmit: (event) => { event.preventDefault(); changed(); } },
    el("label", { class: "wide" }, spec.label, search),
    spec.filters.map(([label, name, options]) => select(label, name, options, state[name] || "", changed)));
  let timer = 0, next = "", total = "", latest = 0;
  for (const [name, value] of Object.entries(state)) {
    if (!form.elements[name]) {
      const clear = el("button", { type: "button", onclick: () => { clear.remove(); held.remove(); changed(); } }, `${name} ${value} ✕`);
      const held = el("input", { type: "hidden", name, value });
      form.append(held, clear);
    }
  }
  show(el("h1", {}, spec.title), spec.note ? el("p", { class: "quiet" }, spec.note) : null, form,
    el("div", { class: "pager" }, count), body, el("div", { class: "pager" }, buttons.previous, buttons.next));
  view = { box: search, rows: () => [...body.querySelectorAll("a")], next: () => turn(1), previous: () => turn(-1) };
  await load();

  function changed() {
    clearTimeout(timer);
    trail.length = 1;
    const kept = Object.entries(said()).filter(([, value]) => value !== "");
    history.replaceState(null, "", `#/${spec.name}${kept.length ? `?${new URLSearchParams(kept)}` : ""}`);
    load();
  }

  function said() {
    return Object.fromEntries(new FormData(form));
  }

  async function turn(by) {
    if (by > 0 && next) trail.push(next);
    else if (by < 0 && trail.length > 1) trail.pop();
    else return;
    await load();
    window.scrollTo(0, 0);
    body.querySelector("a")?.focus({ preventScroll: true });
  }

  async function load() {
    const turnOf = ++latest;
    let found;
    try {
      found = await ask(spec.path, { ...said(), after: trail.at(-1) });
    } catch (error) {
      if (mine === asked && turnOf === latest) say(error.message, true);
      return;
    }
    if (mine !== asked || turnOf !== latest) return;
    next = found.next;
    if (found.count !== undefined) total = `${number(found.count)}${found.more ? "+" : ""}`;
    const first = (trail.length - 1) * 50;
    count.textContent = found.rows.length ? `${number(first + 1)} to ${number(first + found.rows.length)} of ${total}` : `nothing of this kind${spec.empty ? `: ${spec.empty}` : ""}`;
    body.replaceChildren(...found.rows.map(spec.draw));
    body.hidden = !found.rows.length;
    buttons.previous.disabled = trail.length < 2;
    buttons.next.disabled = !next;
    sessionStorage.setItem(spec.name, JSON.stringify(found.rows.map((row) => row.n)));
  }
}

const missing = (stage) => (about && !about.stages[stage] ? `the run has not come to ${stage}` : "");

const PARTS = [["", "all"], ["train", "training"], ["dev", "dev"], ["test", "held out"], ["out", "left out: repeats another"]];

function passages(query) {
  return list({
    name: "passages", title: "Passages", path: "/api/passages", label: "Words, ids, \"phrases in quotes\"", hint: "such as: read csv",
    filters: [["Part", "part", PARTS],
      ["Use", "use", [["", "any"], ["seed", "queries were written for it"], ["positive", "a positive"], ["negative", "a hard negative"], ["unused", "in no use"]]]],
    draw: (row) => el("li", {}, el("a", { href: `#/passage/${row.n}` },
      el("div", { class: "row-head" }, titled(row), row.part ? tag(row.part) : null, row.seeds ? tag(`seed of ${row.seeds}`) : null,
        row.positives ? tag(`positive ${row.positives}`, "positive") : null, row.negatives ? tag(`negative ${row.negatives}`, "negative") : null),
      el("p", { class: "excerpt" }, el("bdi", {}, row.text)), id(row.passage_id))),
  }, query);
}

function gain(value) {
  if (value === null || value === undefined) return null;
  return tag(`nDCG@10 ${value > 0 ? "+" : ""}${value.toFixed(3)}`, value > 0 ? "good" : value < 0 ? "bad" : "");
}

function queries(query) {
  return list({
    name: "queries", title: "Queries", path: "/api/queries", label: "Words, ids, \"phrases in quotes\"", hint: "such as: parse a date",
    empty: missing("generate"),
    filters: [["Part", "part", [...PARTS, ["seen", "seen documents"]]],
      ["State", "state", [["", "any"], ["judged", "judged"], ["unjudged", "not judged"], ["row", "makes a training row"], ["no row", "makes none"], ["relabelled", "relabelled"]]],
      ["By hand", "decided", [["", "any"], ["any", "decided"], ["accepted", "accepted"], ["mended", "mended"], ["rejected", "rejected"]]],
      ["Order", "sort", [["", "as written"], ["losses", "biggest losses"], ["wins", "biggest wins"]]]],
    draw: (row) => el("li", {}, el("a", { href: `#/query/${row.n}` },
      el("div", { class: "row-head" }, row.best === null ? null : grade(row.best), el("bdi", { class: "title" }, row.text), tag(row.part),
        row.relabelled ? tag("relabelled", "warn") : null, row.candidates ? tag(`${row.candidates} candidates`) : tag("not judged"),
        row.rows ? null : tag("no row"), gain(row.gain), decided(row.decided)),
      el("p", { class: "excerpt" }, el("bdi", {}, row.task)), id(row.query_id))),
  }, query);
}

function candidates(query) {
  return list({
    name: "candidates", title: "Candidates and their grades", path: "/api/pairs", label: "Words of the query", hint: "such as: sort",
    empty: missing("mine") || missing("judge"),
    filters: [["Grade", "grade", [["", "any"], ["3", "3: answers fully"], ["2", "2: also right"], ["1", "1: same topic"], ["0", "0: not useful"], ["judged", "judged"], ["unjudged", "unjudged"]]],
      ["Role in training", "role", [["", "any"], ["positive", "positive"], ["negative", "hard negative"], ["relevant", "masked: answers too"], ["none", "none"]]],
      ["Odd ones", "odd", [["", "all"], ["near but wrong", "base's first 3, grade 0"], ["far but right", "right, and far in the base"], ["words only", "found by BM25 alone"], ["meaning only", "found by the base alone"]]]],
    draw: (row) => el("li", {}, el("a", { href: `#/query/${row.query}?at=${row.passage}` },
      el("div", { class: "row-head" }, grade(row.by_hand ?? row.grade, row.by_hand !== null), el("bdi", { class: "title" }, row.query_text),
        row.role ? tag(ROLES[row.role], row.role) : null, decided(row.decided)),
      el("div", {}, "→ ", el("bdi", {}, row.title || row.passage_id), " ", ranks(row)),
      el("p", { class: "excerpt" }, el("bdi", {}, row.text)))),
  }, query);
}

const ROLES = { positive: "positive", negative: "hard negative", relevant: "masked" };

function ranks(row) {
  const words = [["fused", row.rank], ["base", row.base_rank], ["initial", row.initial_rank], ["BM25", row.bm25_rank]];
  return el("span", { class: "quiet small" }, words.filter(([, rank]) => rank).map(([name, rank]) => `${name} ${rank}`).join(" · ") || "no retriever found it");
}

// -- overview ------------------------------------------------------------------------------------------------------

function overview() {
  view = {};
  const counts = about.counts;
  const card = (count, text, href) => el("li", {}, el(href ? "a" : "div", { href }, el("b", {}, number(count)), text));
  const undone = Object.entries(about.stages).filter(([, done]) => !done).map(([stage]) => stage);
  show(
    el("h1", {}, about.name),
    about.stale ? el("p", { class: "banner" }, "The run has changed since this page was started: start 'tokay explore' again.") : null,
    about.verdict ? el("p", { class: `verdict ${about.better ? "" : "no"}` }, about.verdict) : null,
    about.by_hand ? el("p", { class: "banner" }, `${about.by_hand}.`) : null,
    undone.length ? el("p", { class: "banner" }, `The run is not finished. Not there yet: ${undone.join(", ")}. The rest can be looked at.`) : null,
    el("ul", { class: "cards" },
      card(counts.passages, "passages", "#/passages"), card(counts.queries, "queries", "#/queries"),
      card(counts.judged, "queries judged", "#/queries?state=judged"), card(counts.rows, "training rows, listed by query", "#/queries?part=train&state=row"),
      card(counts.relabelled, "queries relabelled", "#/queries?state=relabelled"), card(counts["no row"], "queries without a row", "#/queries?state=no+row"),
      card(about.decided.queries, "queries decided by hand", "#/decisions")),
    el("h2", {}, "Grades"),
    el("ul", { class: "cards" }, Object.entries(counts.grades).map(([key, count]) =>
      card(count, key === "unjudged" ? "candidates unjudged" : `candidates of grade ${key}`, `#/candidates?grade=${key}`))),
    el("h2", {}, "Where to begin"),
    el("ul", {},
      about.stages.evaluate ? el("li", {}, el("a", { href: "#/queries?sort=losses" }, "Held-out queries that tuning made worse")) : null,
      el("li", {}, el("a", { href: "#/candidates?odd=near+but+wrong" }, "What the base puts first and the judge calls not useful")),
      el("li", {}, el("a", { href: "#/candidates?odd=far+but+right" }, "Right answers that the base does not find")),
      el("li", {}, el("a", { href: "#/queries?state=relabelled" }, "Queries whose best answer is not the passage that they were written from"))),
    about.decided["no longer fitting"] ? el("p", { class: "quiet" }, `${number(about.decided["no longer fitting"])} decisions are about texts that are gone or changed, and are not used.`) : null,
    el("p", { class: "quiet small" }, "Run folder ", el("code", {}, about.path)),
  );
}

// -- one passage ---------------------------------------------------------------------------------------------------

async function passage(n, query) {
  const mine = ++asked;
  const start = Number(query.get("start") || 0);
  const [found, written] = await Promise.all([ask(`/api/passages/${n}`, { start }), ask("/api/queries", { seed: n })]);
  if (mine !== asked) return;
  const more = (part) => [
    part.start > 0 ? el("a", { href: `#/passage/${n}?start=${Math.max(0, part.start - part.limit)}` }, "earlier part") : null, " ",
    part.start + part.limit < part.of ? el("a", { href: `#/passage/${n}?start=${part.start + part.limit}` }, "next part") : null];
  show(
    el("h1", {}, el("bdi", {}, found.title || found.passage_id)),
    el("p", {}, id(found.passage_id), " ", found.part ? tag(found.part) : null),
    el("p", {}, place(found)),
    el("h2", {}, "Text"), textBlock(found.text, more),
    el("p", {}, el("a", { href: `#/passages?document=${encodeURIComponent(found.document_id)}` }, "Passages of this document"), " · ",
      el("a", { href: `#/candidates?passage=${n}` }, "Queries that it is a candidate of")),
    el("h2", {}, `Queries written from it (${number(written.count)})`),
    written.rows.length ? el("ol", { class: "list" }, written.rows.map((row) => el("li", {}, el("a", { href: `#/query/${row.n}` },
      el("div", { class: "row-head" }, row.best === null ? null : grade(row.best), el("bdi", { class: "title" }, row.text), tag(row.part), decided(row.decided)))))) : el("p", { class: "quiet" }, "None."),
  );
  view = { rows: () => [...main.querySelectorAll(".list a")] };
}

// -- one query -----------------------------------------------------------------------------------------------------

async function query(n, parameters) {
  const mine = ++asked;
  const found = await ask(`/api/queries/${n}`);
  if (mine === asked) drawQuery(found, parameters.get("at"));
}

function drawQuery(found, at) {
  let shown = found;
  const list = el("ol", { class: "candidates", "aria-label": "Candidates" });
  const rows = () => [...list.children];
  const current = () => rows().find((row) => row.contains(document.activeElement));

  async function decide(action, more = {}) {
    const position = current() ? Number(current().dataset.n) : null;
    try {
      shown = await post("/api/decisions", { query: shown.n, action, after: shown.newest, ...more });
      ask("/api/run").then((value) => { about = value; });
      draw();
      say(SAID[action]);
    } catch (error) {
      say(error.message, true);
      if (error.status === 409) { shown = await ask(`/api/queries/${shown.n}`); draw(); }
    }
    if (position !== null) rows().find((row) => Number(row.dataset.n) === position)?.focus();
  }

  function candidate(c) {
    const scores = [["base", c.base_rank, c.base_score], ["initial", c.initial_rank, c.initial_score], ["BM25", c.bm25_rank, c.bm25_score]]
      .filter(([, rank]) => rank).map(([name, rank, score]) => `${name} ${rank} (${score.toFixed(3)})`);
    const judged = [c.ql !== undefined ? `QL ${c.ql.toFixed(2)} nats, rank ${c.ql_rank}` : "", c.rc !== undefined ? `RC ${c.rc.toFixed(2)}, rank ${c.rc_rank}` : ""];
    const chosen = c.role === "positive";
    return el("li", { class: `candidate ${c.role}`, tabindex: -1, "data-n": c.n, "aria-label": `candidate ${c.title || c.passage_id}` },
      el("div", { class: "row-head" }, grade(c.grade, c.by_hand), titled(c), c.role ? tag(ROLES[c.role], c.role) : null,
        c.seed ? tag("seed") : null, c.best ? tag("best") : null, c.part && c.part !== shown.part ? tag(c.part, "warn") : null),
      el("p", { class: "why" }, c.why, c.by_hand && c.judge !== null && c.judge !== c.grade ? ` The judge gave ${c.judge}.` : ""),
      el("p", { class: "quiet small" }, [c.rank ? `fused rank ${c.rank}` : "no retriever found it", ...scores, ...judged.filter(Boolean)].join(" · ")),
      c.said ? el("p", { class: "quiet small" }, "judges: ", el("bdi", {}, c.said)) : null,
      el("details", { open: chosen }, el("summary", {}, "text"), textBlock(c.text, () => el("a", { href: `#/passage/${c.n}` }, "all of it")), place(c), " ", el("a", { href: `#/passage/${c.n}` }, "its page")),
      el("div", { class: "buttons", role: "group", "aria-label": "Decide" },
        el("button", { type: "button", disabled: !c.usable || chosen, title: c.usable ? null : "of another part of the split", onclick: () => decide("positive", { passage: c.n }) }, "Make it the positive"),
        el("span", { class: "quiet small" }, "grade"),
        [0, 1, 2, 3].map((g) => el("button", { type: "button", class: c.by_hand && c.grade === g ? "on" : "", "aria-pressed": String(c.by_hand && c.grade === g),
          "aria-label": `grade ${g}`, onclick: () => decide("grade", { passage: c.n, grade: g }) }, String(g)))));
  }

  function draw() {
    const open = new Set([...list.querySelectorAll("details[open]")].map((d) => d.closest("li").dataset.n));
    const word = shown.decided.word;
    list.replaceChildren(...shown.candidates.map(candidate));
    for (const row of rows()) if (open.has(row.dataset.n)) row.querySelector("details").open = true;
    show(
      el("h1", {}, el("bdi", {}, shown.text.text), shown.text.of > shown.text.limit ? ` (cut: ${number(shown.text.of)} characters)` : ""),
      el("p", {}, id(shown.query_id), " ", tag(shown.part), " ", decided(word), " ", shown.relabelled ? tag("relabelled", "warn") : null, " ",
        el("span", { class: "quiet" }, el("bdi", {}, shown.task)), " ", el("a", { href: `#/search?text=${encodeURIComponent(shown.text.text.slice(0, 500))}` }, "search it")),
      el("div", { class: "actions" },
        el("button", { type: "button", class: "main", disabled: word === "accepted" || (!shown.positive && word !== "rejected"), onclick: () => decide("accept") }, "Accept"),
        el("button", { type: "button", class: "bad", disabled: word === "rejected", onclick: () => decide("reject") }, "Reject"),
        el("button", { type: "button", disabled: !word, onclick: () => decide("undo") }, "Undo"),
        el("span", { class: "quiet small" }, word ? "decided by hand; the next training uses it" : "not decided by hand")),
      shown.held_out ? el("p", { class: "banner" }, "This is a held-out query: what you decide changes what the verdict is measured on, and the report says how many such decisions there are. Decide on the texts, not on which model it favours.") : null,
      el("h2", {}, shown.positive ? "Why this positive" : "Why there is no training row"),
      el("div", { class: "panel" },
        shown.positive ? el("p", {}, tag("positive", "positive"), " ", id(shown.positive)) : null, el("p", {}, shown.why),
        shown.changed ? el("p", { class: "quiet" }, "The stored row is another", shown.was ? [": its positive is ", id(shown.was)] : " (there is none)", ". The next 'tokay distill' or 'tokay train' makes the rows as shown here.") : null),
      shown.seed ? el("details", { class: "panel", open: !shown.candidates.length }, el("summary", {}, "The passage that it was written from"), el("p", {}, titled(shown.seed), " ", id(shown.seed.passage_id)),
        textBlock(shown.seed.text, () => el("a", { href: `#/passage/${shown.seed.n}` }, "all of it")), place(shown.seed), " ", el("a", { href: `#/passage/${shown.seed.n}` }, "its page")) : null,
      el("h2", {}, `Candidates (${shown.candidates.length})`),
      shown.candidates.length ? list : el("p", { class: "quiet" }, "None was mined or judged for this query; the passage that it was written from is the positive."),
      other(),
      el("details", { class: "panel" }, el("summary", {}, `The LLM's answers (${shown.answers.length})`),
        el("p", { class: "quiet small" }, "prompt ", el("code", {}, shown.prompt)),
        shown.answers.map((answer) => [el("p", {}, el("code", {}, answer.place)), textBlock(answer.text)])),
    );
    document.title = `${shown.text.text.slice(0, 60)} – tokay explore`;
  }

  // Any other passage as the positive, or graded.
  function other() {
    const results = el("ol", { class: "candidates" });
    const box = el("input", { type: "search", "aria-label": "Words of another passage", placeholder: "words of another passage" });
    const form = el("form", { class: "filters", onsubmit: async (event) => {
      event.preventDefault();
      try {
        const answered = await ask("/api/passages", { text: box.value, size: 5 });
        results.replaceChildren(...(answered.rows.length ? answered.rows.map((p) => el("li", { class: "panel" }, titled(p), " ", id(p.passage_id), " ", tag(p.part),
          el("p", { class: "excerpt" }, el("bdi", {}, p.text)),
          el("div", { class: "buttons" }, el("button", { type: "button", onclick: () => decide("positive", { passage: p.n }) }, "Make it the positive")))) : [el("li", {}, "nothing found")]));
      } catch (error) { say(error.message, true); }
    } }, el("label", { class: "wide" }, "Find", box), el("button", {}, "Find"));
    return el("details", { class: "panel" }, el("summary", {}, "Another passage answers it"), form, results);
  }

  draw();
  const beside = (by) => {
    const numbers = JSON.parse(sessionStorage.getItem("queries") || "[]");
    const there = numbers[numbers.indexOf(shown.n) + by];
    if (numbers.includes(shown.n) && there !== undefined) location.hash = `#/query/${there}`;
  };
  view = {
    rows, next: () => beside(1), previous: () => beside(-1),
    open: (row) => { const text = row.querySelector("details"); text.open = !text.open; },
    accept: () => decide("accept"), reject: () => decide("reject"), undo: () => decide("undo"),
    fix: () => (current() ? decide("positive", { passage: Number(current().dataset.n) }) : say("select a candidate first: j and k", true)),
    grade: (g) => (current() ? decide("grade", { passage: Number(current().dataset.n), grade: g }) : say("select a candidate first: j and k", true)),
  };
  if (at !== null) rows().find((row) => row.dataset.n === at)?.focus();
}

const SAID = { accept: "Accepted: the positive stays.", reject: "Rejected: the query makes no row.", positive: "It is the positive now.", grade: "Graded by hand.", undo: "Taken back." };

// -- search --------------------------------------------------------------------------------------------------------

function search(parameters) {
  const mine = ++asked;
  const box = el("input", { type: "search", name: "text", value: parameters.get("text") || "", required: true, placeholder: "what you are looking for", maxlength: 10000 });
  const hybrid = el("input", { type: "checkbox", name: "hybrid", value: "1", checked: parameters.get("hybrid") === "1", onchange: () => box.value && go() });
  const button = el("button", { class: "main" }, "Search");
  const results = el("div", { "aria-live": "polite" });
  const form = el("form", { class: "filters", role: "search", onsubmit: (event) => { event.preventDefault(); go(); } },
    el("label", { class: "wide" }, "Query", box), el("label", { class: "check" }, hybrid, "with BM25"), button);
  show(el("h1", {}, "Search"), el("p", { class: "quiet" }, "Base and tuned side by side, over the run's passages; the arrows say what tuning moved."),
    about.search ? el("p", { class: "banner" }, about.search) : form, results);
  view = { box, rows: () => [...results.querySelectorAll("a")] };
  if (about.search) return;
  if (box.value) go(); else box.focus();

  async function go() {
    history.replaceState(null, "", `#/search?${new URLSearchParams({ text: box.value, ...(hybrid.checked ? { hybrid: "1" } : {}) })}`);
    button.disabled = true;
    results.replaceChildren(el("p", { class: "quiet" }, "Searching … the first search loads both models."));
    try {
      const found = await ask("/api/search", { text: box.value, hybrid: hybrid.checked ? "1" : "" });
      if (mine === asked) results.replaceChildren(summary(found), el("div", { class: "two" }, column("base", found), column("tuned", found)));
    } catch (error) {
      if (mine === asked) { results.replaceChildren(); say(error.message, true); }
    }
    button.disabled = false;
  }

  function summary(found) {
    const up = found.tuned.filter((hit) => hit.move > 0 && !hit.new).length, down = found.tuned.filter((hit) => hit.move < 0).length;
    const entered = found.tuned.filter((hit) => hit.new).length;
    return el("p", { role: "status" }, `In the tuned model's first ${found.tuned.length}: ${up} moved up, ${down} moved down, ${entered} new, ${found.gone.length} gone. The verdict recommends ${found.use}.`);
  }

  function column(side, found) {
    return el("section", { "aria-label": side }, el("h2", {}, side === found.use ? `${side} (recommended)` : side),
      el("ol", { class: "hits" }, found[side].map((hit, i) => el("li", {}, el("a", { href: `#/passage/${hit.n}`, class: `hit ${side === "tuned" && hit.new ? "new" : ""} ${side === "base" && found.gone.includes(hit.n) ? "gone" : ""}` },
        el("div", { class: "row-head" }, el("span", { class: "place" }, String(i + 1)), titled(hit), moved(hit, side, found)),
        el("p", { class: "excerpt" }, el("bdi", {}, hit.text)),
        el("span", { class: "quiet small" }, `score ${hit.score.toFixed(3)} · `, id(hit.passage_id)))))));
  }

  function moved(hit, side, found) {
    if (side === "base") return found.gone.includes(hit.n) ? tag(hit.tuned ? `gone: now ${hit.tuned}` : "gone: not in the first 100", "bad") : null;
    if (hit.new) return tag(hit.base ? `new: was ${hit.base}` : "new: was not in the first 100", "good");
    if (!hit.move) return tag("= same place");
    return hit.move > 0 ? tag(`▲ up ${hit.move}`, "good") : tag(`▼ down ${-hit.move}`, "bad");
  }
}

// -- map -----------------------------------------------------------------------------------------------------------

async function map() {
  const mine = ++asked;
  view = {};
  show(el("h1", {}, "Map"), about.map ? el("p", { class: "banner" }, about.map) : el("p", { class: "quiet", role: "status" }, "Working out the map …"));
  if (about.map) return;
  let found = await ask("/api/map");
  while (found.state === "working" && mine === asked) {
    await new Promise((done) => setTimeout(done, 700));
    found = await ask("/api/map");
  }
  if (mine !== asked) return;
  if (found.state === "off") { show(el("h1", {}, "Map"), el("p", { class: "banner" }, found.reason)); return; }
  drawMap(found);
}

function drawMap(found) {
  const dark = () => matchMedia("(prefers-color-scheme: dark)").matches;
  // Okabe and Ito's colours, which people who see few colours can tell apart
  const PART = { train: "#0072b2", dev: "#e69f00", test: "#d55e00", out: "#8a8f96", "": "#0072b2" };
  const tip = el("div", { class: "tip", hidden: true });
  const frames = ["before", "after"].map((side) => ({ side, canvas: el("canvas", { role: "img",
    "aria-label": `Map of ${found.n.length} passages as the ${side === "before" ? "base" : "tuned"} model places them; the table below says which ones changed most` }) }));
  let colour = "kept", chosen = -1;
  const legend = el("div", { class: "legend", "aria-live": "polite" });
  const most = found.neighbours || 1;
  // from Okabe and Ito's vermilion over grey to their blue
  const ENDS = () => [[213, 94, 0], dark() ? [120, 124, 130] : [176, 178, 180], dark() ? [86, 180, 233] : [0, 114, 178]];
  const shade = (share) => {
    const [low, middle, high] = ENDS();
    const [a, b, t] = share < 0.5 ? [low, middle, share * 2] : [middle, high, share * 2 - 1];
    return `rgb(${a.map((value, i) => Math.round(value + (b[i] - value) * t)).join(" ")})`;
  };
  const colourOf = (i) => (colour === "kept" ? shade(found.kept[i] / most) : colour === "part" ? PART[found.parts[i]] : found.seeds[i] ? "#d55e00" : "#8a8f96");

  function paint() {
    for (const { side, canvas } of frames) {
      const scale = window.devicePixelRatio || 1, size = canvas.clientWidth;
      canvas.width = canvas.height = size * scale;
      const pen = canvas.getContext("2d");
      pen.scale(scale, scale);
      const radius = found.n.length > 2000 ? 2 : 3;
      pen.globalAlpha = 0.75;
      found[side].forEach((point, i) => {
        const [x, y] = at(point, size);
        pen.fillStyle = colourOf(i);
        pen.beginPath();
        pen.arc(x, y, radius, 0, 7);
        pen.fill();
      });
      if (chosen >= 0) {
        const [x, y] = at(found[side][chosen], size);
        pen.globalAlpha = 1;
        pen.lineWidth = 3;
        pen.strokeStyle = dark() ? "#fff" : "#000";
        pen.beginPath();
        pen.arc(x, y, 8, 0, 7);
        pen.stroke();
      }
    }
    const dot = (c, text) => {
      const mark = el("span", { class: "dot" });
      mark.style.background = c; // set by script, which the policy allows
      return el("span", {}, mark, text);
    };
    legend.replaceChildren(...(colour === "kept" ? [0, 0.5, 1].map((share) => dot(shade(share), `${Math.round(share * most)} of ${most} nearest kept`))
      : colour === "part" ? [dot(PART.train, "training"), dot(PART.dev, "dev"), dot(PART.test, "held out"), dot(PART.out, "left out")]
        : [dot("#d55e00", "queries were written for it"), dot("#8a8f96", "none")]));
  }

  const at = ([x, y], size) => [12 + (x / found.grid) * (size - 24), 12 + (1 - y / found.grid) * (size - 24)];

  function nearest(side, canvas, event) {
    const box = canvas.getBoundingClientRect();
    let best = -1, distance = 144;
    found[side].forEach((point, i) => {
      const [x, y] = at(point, canvas.clientWidth);
      const d = (x - (event.clientX - box.left)) ** 2 + (y - (event.clientY - box.top)) ** 2;
      if (d < distance) { distance = d; best = i; }
    });
    return best;
  }

  for (const { side, canvas } of frames) {
    canvas.addEventListener("pointermove", (event) => {
      const i = nearest(side, canvas, event);
      if (i !== chosen) { chosen = i; paint(); }
      tip.hidden = i < 0;
      if (i >= 0) {
        tip.textContent = `${found.titles[i]} – ${found.kept[i]} of ${most} nearest kept`;
        tip.style.left = `${Math.min(event.clientX + 14, innerWidth - 260)}px`;
        tip.style.top = `${event.clientY + 14}px`;
      }
    });
    canvas.addEventListener("pointerleave", () => { tip.hidden = true; chosen = -1; paint(); });
    canvas.addEventListener("click", (event) => { const i = nearest(side, canvas, event); if (i >= 0) location.hash = `#/passage/${found.n[i]}`; });
  }

  const order = found.kept.map((kept, i) => i).sort((a, b) => found.kept[a] - found.kept[b] || a - b).slice(0, 50);
  const mean = found.kept.reduce((sum, kept) => sum + kept, 0) / Math.max(1, found.kept.length);
  const table = el("table", {}, el("caption", { class: "quiet small" }, "The passages whose neighbours changed most"),
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "passage"), el("th", { scope: "col" }, "part"), el("th", { scope: "col", class: "n" }, `of its ${most} nearest, kept`))),
    el("tbody", {}, order.map((i) => el("tr", {}, el("td", {}, el("a", { href: `#/passage/${found.n[i]}`, onfocus: () => { chosen = i; paint(); } }, el("bdi", {}, found.titles[i]))), el("td", {}, found.parts[i]), el("td", { class: "n" }, String(found.kept[i]))))));
  show(el("h1", {}, "Map"),
    el("p", { class: "quiet" }, `${number(found.n.length)}${found.n.length < found.of ? ` of ${number(found.of)}` : ""} passages; near ones are alike to the model. The second map begins at the first one's places, so what moved was moved by tuning. On average ${mean.toFixed(1)} of a passage's ${most} nearest neighbours are the same in both.`),
    el("div", { class: "filters" }, select("Colour", "colour", [["kept", "neighbours kept"], ["part", "part of the split"], ["seeds", "has queries"]], colour, (event) => { colour = event.target.value; paint(); }), legend),
    el("div", { class: "two" }, frames.map(({ side, canvas }) => el("div", { class: "map-frame" }, el("h3", {}, side === "before" ? "base" : "tuned"), canvas))), tip,
    el("div", { class: "wide-table", tabindex: 0, role: "region", "aria-label": "Passages whose neighbours changed most" }, table));
  view = { rows: () => [...table.querySelectorAll("a")], resize: paint };
  paint();
}

// -- decisions -----------------------------------------------------------------------------------------------------

async function decisions() {
  const mine = ++asked;
  const found = await ask("/api/decisions");
  if (mine !== asked) return;
  const words = (d) => ({ accept: "accepted", reject: "rejected", positive: "chose the positive", grade: `gave grade ${d.grade}`, undo: "took a decision back" })[d.action];
  show(el("h1", {}, "Decisions"),
    el("p", { class: "quiet" }, "What people decided, newest first; the file is decisions.jsonl in the run folder. The next 'tokay distill' makes the rows again, and 'tokay train RUN' trains on them at once."),
    found.stale ? el("p", { class: "banner" }, `${number(found.stale)} of them are about texts that are gone or changed, and are not used.`) : null,
    found.decisions.length ? el("ol", { class: "list" }, found.decisions.slice(0, 500).map((d) => el("li", {}, el("a", { href: d.query === null ? "#/decisions" : `#/query/${d.query}` },
      el("div", { class: "row-head" }, tag(words(d), d.undone ? "" : { accept: "good", reject: "bad" }[d.action] || "warn"), el("bdi", { class: "title" }, d.text || d.query_id), d.undone ? tag("undone") : null),
      d.passage_id ? id(d.passage_id) : null, " ", el("span", { class: "quiet small" }, [d.who, d.made, d.why].filter(Boolean).join(" · ")))))) : el("p", {}, "None yet. Open a query and accept, reject or fix it."));
  view = { rows: () => [...main.querySelectorAll(".list a")] };
}

// -- addresses and keys --------------------------------------------------------------------------------------------

const VIEWS = { "": overview, passages, queries, candidates, search, map, decisions };
const OF = { passage: "passages", query: "queries" };

async function route() {
  const [path, said = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, n] = path.split("/");
  const parameters = new URLSearchParams(said);
  for (const link of document.querySelectorAll("nav a")) {
    const current = link.getAttribute("href") === `#/${OF[name] || name}`;
    if (current) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
  notice.textContent = "";
  view = {};
  ++asked;
  try {
    about = about && name ? about : await ask("/api/run");
    document.title = `${name || about.name} – tokay explore`;
    if (name === "passage") await passage(n, parameters);
    else if (name === "query") await query(n, parameters);
    else if (!name || (VIEWS[name] && !n)) await (VIEWS[name] || overview)(parameters);
    else throw new Error(`there is no page #/${path}; the menu above leads to all`);
  } catch (error) {
    show(el("h1", {}, "That did not work"), el("p", { class: "banner" }, error.message), el("p", {}, el("a", { href: "#/" }, "Overview")));
  }
}

function move(by) {
  const rows = view.rows?.() || [];
  if (!rows.length) return;
  const at = rows.findIndex((row) => row === document.activeElement || row.contains(document.activeElement));
  const next = rows[at < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.max(0, Math.min(rows.length - 1, at + by))];
  next.focus();
  next.scrollIntoView({ block: "nearest" });
}

const KEYS = {
  j: () => move(1), k: () => move(-1), n: () => view.next?.(), p: () => view.previous?.(), b: () => history.back(),
  a: () => view.accept?.(), r: () => view.reject?.(), f: () => view.fix?.(), u: () => view.undo?.(),
  0: () => view.grade?.(0), 1: () => view.grade?.(1), 2: () => view.grade?.(2), 3: () => view.grade?.(3),
  "/": () => (view.box ? view.box.focus() : main.querySelector("input[type=search]")?.focus()), "?": () => help.showModal(),
};
const keysOn = document.getElementById("keys-on");
keysOn.checked = localStorage.getItem("tokay-keys") !== "off";
keysOn.addEventListener("change", () => localStorage.setItem("tokay-keys", keysOn.checked ? "on" : "off"));
document.getElementById("help-button").addEventListener("click", () => help.showModal());

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
  const target = event.target;
  if (target.matches("input, select, textarea")) {
    if (event.key === "Escape") target.blur();
    return;
  }
  if (event.key === "Enter" && target.matches(".candidate")) { event.preventDefault(); view.open?.(target); return; }
  if (keysOn.checked && Object.hasOwn(KEYS, event.key)) { event.preventDefault(); KEYS[event.key](); }
});
addEventListener("hashchange", () => { route(); window.scrollTo(0, 0); });
addEventListener("resize", () => view.resize?.());
route();
