// The page: a text with blanks is filled while one watches; a click on a fill shows what else fits, and choosing it
// fills the others again around it. Whatever comes from a user or the model enters the page as text, never as markup.

import { EXAMPLES, QUESTIONS, TEXTS } from "/texts.js";

const BLANK = /\[MASK\]|\[sMASK\]|\[gMASK\]/g;
const COLOURS = 6;
const ALTERNATIVES = 6;
const $ = (id) => document.getElementById(id);

let language = stored("language") || (navigator.language.startsWith("zh") ? "zh" : "en");
let running = null; // AbortController of what is being written
let shown = null; // {literals, kinds, fills: [{text, pinned, state}]}
let open = -1; // blank whose alternatives are shown

function stored(name, value) {
  try {
    if (value === undefined) return localStorage.getItem(`openglm.${name}`);
    localStorage.setItem(`openglm.${name}`, value);
  } catch { /* private windows may have no storage */ }
  return value;
}

function say(name, values = {}) {
  return TEXTS[language][name].replace(/\{(\w+)\}/g, (_, key) => values[key]);
}

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function status(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

// --- talking to the server -------------------------------------------------------------------

async function call(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  const key = sessionStorage.getItem("openglm.key");
  if (key) headers.Authorization = `Bearer ${key}`;
  const options = body === undefined ? { headers, signal } : { method: "POST", headers, body: JSON.stringify(body), signal };
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    throw error.name === "AbortError" ? error : new Error(say("offline"));
  }
  if (response.ok) return response;
  if (response.status === 401) {
    $("key-form").hidden = false;
    $("key").focus();
  }
  let message = `${response.status}`;
  try {
    message = (await response.json()).error.message;
  } catch { /* not ours */ }
  throw new Error(message);
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    buffer += value;
    for (let end; (end = buffer.indexOf("\n\n")) >= 0; buffer = buffer.slice(end + 2)) {
      const lines = buffer.slice(0, end).split("\n");
      const name = lines.find((line) => line.startsWith("event: "));
      const data = lines.find((line) => line.startsWith("data: "));
      yield [name ? name.slice(7) : "", JSON.parse(data.slice(6))];
    }
  }
}

// --- filling ---------------------------------------------------------------------------------

function options() {
  const chosen = { temperature: Number($("temperature").value) || 0, top_p: Number($("top-p").value) || 1, truncate: "around" };
  if ($("seed").value !== "") chosen.seed = Number($("seed").value);
  if ($("max-tokens").value !== "") chosen.max_new_tokens = Number($("max-tokens").value);
  return chosen;
}

function parse(text) {
  return { literals: text.split(BLANK), kinds: text.match(BLANK) || [] };
}

// The text as the server wants it, with only some of the blanks open; text that is not a blank stays text.
function partsOf(page, isOpen) {
  const parts = [page.literals[0]];
  page.kinds.forEach((kind, i) => parts.push(isOpen(i) ? { blank: kind } : page.fills[i].text, page.literals[i + 1]));
  return parts.filter((part) => part !== "");
}

async function fillAll(page) {
  if (running) running.abort();
  const controller = (running = new AbortController());
  const wanted = page.kinds.map((_, i) => i).filter((i) => !page.fills[i].pinned);
  shown = page;
  closePanel();
  for (const i of wanted) page.fills[i] = { text: "", pinned: false, state: "waiting" };
  if (wanted.length) page.fills[wanted[0]].state = "writing";
  draw();
  $("result").scrollIntoView({ block: "nearest" });
  if (!wanted.length) return;
  busy(true);
  status(say("writing"));
  const began = performance.now();
  try {
    const body = { text: partsOf(page, (i) => wanted.includes(i)), stream: true, ...options() };
    const response = await call("/v1/fill", body, controller.signal);
    for await (const [name, data] of events(response)) {
      if (name === "error") throw new Error(data.error.message);
      if (name === "piece") write(page, wanted, data);
      if (name === "result") finish(data, (performance.now() - began) / 1000);
    }
  } catch (error) {
    if (running === controller) {
      const stopped = error.name === "AbortError";
      // Beside an error stands only what belongs to it: fills that were done or chosen before it came.
      if (!stopped && !page.fills.some((fill) => fill.text)) forget();
      status(stopped ? say("stopped") : error.message, !stopped);
    }
  } finally {
    if (running === controller) {
      running = null;
      busy(false);
      for (const fill of page.fills) if (fill.state === "writing") fill.state = "waiting";
      draw();
    }
  }
}

function forget() {
  shown = null;
  closePanel();
}

function write(page, wanted, piece) {
  const at = wanted[piece.blank];
  page.fills[at].text += piece.text;
  if (piece.finish_reason) {
    page.fills[at].state = "done";
    page.fills[at].reason = piece.finish_reason;
    const next = wanted[piece.blank + 1];
    if (next !== undefined) page.fills[next].state = "writing";
  }
  draw();
}

function finish(result, seconds) {
  const notes = [say("done", { tokens: result.usage.completion_tokens, seconds: seconds.toFixed(2) })];
  if (result.blanks.some((blank) => blank.finish_reason === "length")) notes.push(say("cutOff"));
  if (result.truncated) notes.push(say("truncated"));
  status(notes.join(" · "));
}

function busy(is) {
  $("go").hidden = is;
  $("stop").hidden = !is;
}

function fillAt(i) {
  return $("filled").querySelectorAll(".fill")[i];
}

// Nodes are kept while text grows, so that focus and selection stay where they are.
function draw() {
  const line = $("filled");
  $("result").hidden = !shown;
  if (!shown) return;
  if (line.page !== shown) {
    line.page = shown;
    line.replaceChildren(document.createTextNode(shown.literals[0]));
    shown.kinds.forEach((_, i) => {
      const fill = make("span", "fill"); // a <button> would not break across lines
      fill.setAttribute("role", "button");
      fill.tabIndex = 0;
      fill.addEventListener("click", () => togglePanel(i));
      fill.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        togglePanel(i);
      });
      line.append(fill, document.createTextNode(shown.literals[i + 1]));
    });
  }
  shown.fills.forEach((fill, i) => {
    const button = fillAt(i);
    button.className = ["fill", `b${i % COLOURS}`, fill.state, fill.pinned ? "pinned" : "", fill.text ? "" : "empty"].join(" ");
    if (button.textContent !== fill.text) button.textContent = fill.text;
    button.setAttribute("aria-label", say("blankName", { n: i + 1, text: fill.text || say("empty") }));
    button.setAttribute("aria-expanded", String(open === i));
    button.setAttribute("aria-disabled", String(fill.state !== "done"));
  });
  $("hint").hidden = open >= 0 || Boolean(running);
}

// --- alternatives ----------------------------------------------------------------------------

function closePanel(refocus = false) {
  const was = open;
  open = -1;
  $("panel").hidden = true;
  $("panel").replaceChildren();
  draw();
  if (refocus && was >= 0) fillAt(was).focus();
}

async function togglePanel(i) {
  if (shown.fills[i].state !== "done") return;
  if (open === i) return closePanel(true);
  open = i;
  const page = shown;
  const panel = $("panel");
  panel.className = `panel b${i % COLOURS}`;
  panel.hidden = false;
  panel.setAttribute("aria-label", say("alternatives", { n: i + 1 }));
  const head = make("div", "head");
  const close = make("button", "plain", "✕");
  close.type = "button";
  close.setAttribute("aria-label", say("close"));
  close.addEventListener("click", () => closePanel(true));
  head.append(make("h3", "", say("alternatives", { n: i + 1 })), make("span", "stretch"), close);
  const list = make("div", "list");
  list.append(make("p", "quiet", say("loading")));
  panel.replaceChildren(head, list, ownWords(i));
  draw();
  try {
    const found = await alternatives(page, i);
    if (open !== i || shown !== page) return;
    list.replaceChildren(...found.map((option) => optionButton(i, option)));
    list.querySelector("button").focus({ preventScroll: true });
    panel.scrollIntoView({ block: "nearest", behavior: "smooth" });
  } catch (error) {
    list.replaceChildren(make("p", "quiet", error.message));
  }
}

async function alternatives(page, i) {
  const text = partsOf(page, (other) => other === i);
  const now = page.fills[i].text;
  const body = { text, num_beams: ALTERNATIVES, num_return_sequences: ALTERNATIVES, truncate: "around" };
  if ($("max-tokens").value !== "") body.max_new_tokens = Number($("max-tokens").value);
  const answer = await (await call("/v1/fill", body)).json();
  const found = [answer, ...answer.alternatives].map((one) => one.blanks[0]).map(({ text, logprob }) => ({ text, logprob }));
  if (!found.some((one) => one.text === now)) {
    const scored = await (await call("/v1/score", { text, fills: now, truncate: "around" })).json();
    found.push({ text: now, logprob: scored.logprob });
  }
  return found.sort((a, b) => b.logprob - a.logprob).map((one) => ({ ...one, now: one.text === now }));
}

function percent(share) {
  return share >= 0.0995 ? `${(100 * share).toFixed(0)} %` : share >= 0.0005 ? `${(100 * share).toFixed(1)} %` : "< 0.1 %";
}

function bar(share) {
  const track = make("span", "track");
  const inner = make("i");
  inner.style.width = `${100 * share}%`;
  track.append(inner);
  return track;
}

function optionButton(i, option) {
  const share = Math.exp(option.logprob);
  const button = make("button", "option");
  button.type = "button";
  button.setAttribute("aria-pressed", String(option.now));
  button.append(make("span", "words", option.text.trim() || say("empty")), bar(share), make("span", "share", percent(share)));
  button.addEventListener("click", () => choose(i, option.text));
  return button;
}

function ownWords(i) {
  const form = make("form");
  const input = make("input");
  input.placeholder = say("own");
  input.setAttribute("aria-label", say("own"));
  const use = make("button", "", say("use"));
  form.append(input, use);
  if (shown.fills[i].pinned) {
    const release = make("button", "", say("release"));
    release.type = "button";
    release.addEventListener("click", () => {
      shown.fills[i].pinned = false;
      fillAll(shown);
    });
    form.append(release);
  }
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    // Where words are written with spaces, a fill brings the one in front of it.
    const space = /[\w.,;:!?)]$/.test(shown.literals[i]) && /^\w/.test(input.value) ? " " : "";
    choose(i, space + input.value);
  });
  return form;
}

function choose(i, text) {
  shown.fills[i] = { text, pinned: true, state: "done" };
  const page = shown;
  fillAll(page).then(() => {
    if (shown === page && open < 0) fillAt(i).focus({ preventScroll: true });
  });
}

// --- choosing among answers --------------------------------------------------------------------

async function rank() {
  const text = $("question").value;
  const blanks = parse(text).kinds.length;
  const choices = $("choices").value.split("\n").map((line) => line.trim()).filter(Boolean);
  $("bars").replaceChildren(); // what was ranked before says nothing about this
  if (!blanks) return status(say("noBlank"), true);
  if (choices.length < 2) return status(say("noChoices"), true);
  const began = performance.now();
  try {
    const body = {
      text, truncate: "around", calibrate: $("calibrate").checked,
      choices: choices.map((line) => (blanks > 1 ? line.split("|").map((word) => word.trim()) : line)),
    };
    const ranked = (await (await call("/v1/choose", body)).json()).choices;
    $("bars").replaceChildren(...ranked.map((one, i) => barItem(i, one.fills.join(" | "), one.probability)));
    status(say("ranked", { seconds: ((performance.now() - began) / 1000).toFixed(2) }));
  } catch (error) {
    status(error.message, true);
  }
}

function barItem(i, words, share) {
  const item = make("li", `b${i % COLOURS}`);
  item.append(make("span", "words", words), bar(share), make("span", "share", percent(share)));
  return item;
}

// --- labels --------------------------------------------------------------------------------------

async function classify() {
  const example = {};
  for (const area of $("fields").querySelectorAll("textarea")) example[area.dataset.field] = area.value;
  $("labels").replaceChildren();
  if (!Object.values(example).some((value) => value.trim())) return status(say("noText"), true);
  const began = performance.now();
  try {
    const { probabilities } = await (await call("/v1/classify", { text: example })).json();
    const ranked = Object.entries(probabilities).sort((a, b) => b[1] - a[1]);
    $("labels").replaceChildren(...ranked.map(([label, share], i) => barItem(i, label, share)));
    status(say("ranked", { seconds: ((performance.now() - began) / 1000).toFixed(2) }));
  } catch (error) {
    status(error.message, true);
  }
}

function showFields(names) {
  const kept = Object.fromEntries([...$("fields").querySelectorAll("textarea")].map((area) => [area.dataset.field, area.value]));
  $("fields").replaceChildren(...names.flatMap((name, i) => {
    const label = make("label", "", name);
    const area = make("textarea");
    label.htmlFor = area.id = `field-${i}`;
    area.dataset.field = name;
    area.rows = 3;
    area.spellcheck = false;
    area.value = kept[name] || "";
    return [label, area];
  }));
}

// --- the rest of the page ------------------------------------------------------------------------

function highlight(area) {
  const { literals, kinds } = parse(area.value);
  const backdrop = area.parentElement.querySelector(".backdrop");
  backdrop.replaceChildren(literals[0]);
  kinds.forEach((kind, i) => backdrop.append(make("mark", `b${i % COLOURS}`, kind), literals[i + 1]));
  backdrop.append("\n");
  backdrop.scrollTop = area.scrollTop;
}

function setText(area, value) {
  area.value = value;
  highlight(area);
}

function insert(area, blank) {
  area.focus();
  area.setRangeText(blank, area.selectionStart, area.selectionEnd, "end");
  highlight(area);
}

function setLanguage(to) {
  const from = language;
  language = stored("language", to);
  document.documentElement.lang = to === "zh" ? "zh-CN" : "en";
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = say(element.dataset.text);
  for (const element of document.querySelectorAll("[data-label]")) element.setAttribute("aria-label", say(element.dataset.label));
  $("language").textContent = say("other");
  $("examples").replaceChildren(...EXAMPLES[to].map((example) => {
    const chip = make("button", "", example);
    chip.type = "button";
    chip.addEventListener("click", () => {
      setText($("text"), example);
      $("text").focus();
    });
    return chip;
  }));
  // What nobody has changed yet follows the language.
  if (!$("text").value || $("text").value === EXAMPLES[from][1]) setText($("text"), EXAMPLES[to][1]);
  if (!$("question").value || $("question").value === QUESTIONS[from][0]) setText($("question"), QUESTIONS[to][0]);
  if (!$("choices").value || $("choices").value === QUESTIONS[from][1]) $("choices").value = QUESTIONS[to][1];
  closePanel();
}

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = stored("theme", theme);
}

function select(tab) {
  for (const other of document.querySelectorAll("[role=tab]")) {
    const chosen = other === tab;
    other.setAttribute("aria-selected", String(chosen));
    other.tabIndex = chosen ? 0 : -1;
    $(other.getAttribute("aria-controls")).hidden = !chosen;
  }
  status("");
  for (const area of document.querySelectorAll(".editor textarea")) highlight(area);
}

async function showModel() {
  try {
    const { data: [model] } = await (await call("/v1/models")).json();
    $("model").textContent = model.id;
    for (const button of document.querySelectorAll("[data-blank]")) button.hidden = !model.blanks.includes(button.dataset.blank);
    $("key-form").hidden = true;
    status("");
    const { fill, choose, classify: labels } = model.capabilities;
    $("tab-fill").hidden = !fill;
    $("tab-choose").hidden = !choose;
    $("tab-classify").hidden = !labels;
    showFields(model.fields);
    if (!fill && labels) select($("tab-classify"));
  } catch (error) {
    status(error.message, true);
  }
}

$("fill-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const { literals, kinds } = parse($("text").value);
  if (!kinds.length) {
    if (running) running.abort();
    forget();
    return status(say("noBlank"), true);
  }
  fillAll({ literals, kinds, fills: kinds.map(() => ({ text: "", pinned: false, state: "waiting" })) });
});
$("choose-form").addEventListener("submit", (event) => {
  event.preventDefault();
  rank();
});
$("classify-form").addEventListener("submit", (event) => {
  event.preventDefault();
  classify();
});
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("openglm.key", $("key").value);
  showModel();
});
$("stop").addEventListener("click", () => running && running.abort());
$("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText($("filled").textContent);
    status(say("copied"));
  } catch { // only for secure pages
    getSelection().selectAllChildren($("filled"));
  }
});
$("language").addEventListener("click", () => setLanguage(language === "zh" ? "en" : "zh"));
$("theme").addEventListener("click", () => {
  const set = document.documentElement.dataset.theme;
  const dark = set ? set === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  setTheme(dark ? "light" : "dark");
});
for (const button of document.querySelectorAll("[data-blank]")) {
  button.addEventListener("click", () => insert($("text"), button.dataset.blank));
}
for (const area of document.querySelectorAll(".editor textarea")) {
  area.addEventListener("input", () => highlight(area));
  area.addEventListener("scroll", () => highlight(area));
  new ResizeObserver(() => highlight(area)).observe(area);
}
const tabs = [...document.querySelectorAll("[role=tab]")];
tabs.forEach((tab) => {
  tab.addEventListener("click", () => select(tab));
  tab.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    const seen = tabs.filter((other) => !other.hidden);
    const next = seen[(seen.indexOf(tab) + (event.key === "ArrowRight" ? 1 : seen.length - 1)) % seen.length];
    select(next);
    next.focus();
  });
});
document.addEventListener("keydown", (event) => {
  const area = document.activeElement;
  const editing = area instanceof HTMLTextAreaElement;
  const blank = { Digit1: "[MASK]", Digit2: "[sMASK]", Digit3: "[gMASK]" }[event.code];
  if (event.altKey && !event.ctrlKey && !event.metaKey && blank && editing && area.closest(".editor")) {
    event.preventDefault(); // macOS would write ¡, ™ or £
    insert(area, blank);
  } else if ((event.ctrlKey || event.metaKey) && event.key === "Enter") {
    event.preventDefault();
    const chosen = tabs.find((tab) => tab.getAttribute("aria-selected") === "true");
    $(`${chosen.getAttribute("aria-controls")}-form`).requestSubmit();
  } else if (event.key === "Escape") {
    if (running) running.abort();
    else if (open >= 0) closePanel(true);
  } else if ((event.key === "ArrowDown" || event.key === "ArrowUp") && area.classList.contains("option")) {
    event.preventDefault();
    const next = event.key === "ArrowDown" ? area.nextElementSibling : area.previousElementSibling;
    if (next) next.focus();
  }
});

setTheme(stored("theme"));
setLanguage(language);
showModel();
