"use strict";

// Never the address as it stands: a page opened as http://user:TOKEN@host may fetch nothing that is relative to it.
const BASE = new URL(".", location.origin + location.pathname);
const WAIT_MS = 120_000;      // longer than any wait of the service, which then says itself what took so long
const PAUSES_MS = [300, 1200];  // before a request that got no answer is sent again, under the same request_id
const PENDING_MS = 400;       // a wait shorter than this is not shown
const PENDING = "Waiting for the service.";
const MAX_ENTRIES = 500;
const SHOWN_ELSEWHERE = ["text", "admissible_commands", "valid", "won"];
const WAITING = "What works at the moment appears here.";
const IN_ORDER = new Intl.Collator("en", {numeric: true});
const COARSE = matchMedia("(pointer: coarse)");  // there, focus would open a keyboard over the page

const $ = (id) => document.getElementById(id);
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

let fields = [];     // of an action: {name, required, box}
let total = null;    // tasks in the split
let game = null;     // {id, key, split, number, total, steps, reward, over, gone, shown}
let busy = false;
const said = [];     // earlier actions, for the arrow keys
let recalled = 0;

// --- the service ------------------------------------------------------------------------------------------------

class Refusal extends Error {
  constructor({code, message, next_step, detail}) {
    super(message);
    this.code = code;
    this.next = next_step;
    this.detail = detail ?? {};
  }
}

async function ask(method, path, {body, key, repeat = false, keepalive = false} = {}) {
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (key !== undefined) headers["X-Session-Key"] = key;
  let response;
  for (let attempt = 0; response === undefined; attempt++) {
    try {
      response = await fetch(new URL(path, BASE), {
        method, headers, body: JSON.stringify(body), keepalive, signal: AbortSignal.timeout(WAIT_MS),
      });
    } catch (problem) {
      const late = problem.name === "TimeoutError";
      if (late || !repeat || attempt >= PAUSES_MS.length) {
        throw new Refusal({
          code: "network",
          message: late ? "the service did not answer in time" : "the service cannot be reached",
          next_step: "see whether it still runs, then try again",
        });
      }
      await sleep(PAUSES_MS[attempt]);
    }
  }
  let answer = null;
  try {
    answer = await response.json();
  } catch {
    // not JSON: a proxy, say
  }
  if (response.ok && answer !== null) return answer;
  throw new Refusal(answer?.error ?? {
    code: `http.${response.status}`,
    message: `what answers here is not the service (HTTP ${response.status})`,
    next_step: "see whether a proxy stands in between, then try again",
  });
}

function identifier() {  // crypto.randomUUID exists on https and localhost only
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// --- the page ---------------------------------------------------------------------------------------------------

function make(tag, names = "", ...content) {  // text only ever becomes a text node
  const made = document.createElement(tag);
  if (names) made.className = names;
  made.append(...content);
  return made;
}

function sentence(text) {
  const trimmed = String(text).trim();
  return trimmed.charAt(0).toUpperCase() + trimmed.slice(1) + (/[.!?…]$/.test(trimmed) ? "" : ".");
}

function add(entry) {
  const log = $("log");
  $("welcome")?.remove();
  log.append(entry);
  while (log.childElementCount > MAX_ENTRIES) log.firstElementChild.remove();
  const taller = entry.offsetHeight > log.clientHeight - 24;
  log.scrollTop = taller ? entry.offsetTop - log.offsetTop - 12 : log.scrollHeight;
}

function button(label, act, names = "plain") {
  const made = make("button", names, label);
  made.type = "button";
  made.addEventListener("click", act);
  return made;
}

function note(title, text, kind, ...buttons) {
  const entry = make("div", `note ${kind}`, make("h3", "", title));
  if (text) entry.append(make("p", "", text));
  if (buttons.length) entry.append(make("div", "acts", ...buttons));
  return entry;
}

function showProblem(problem, ...buttons) {
  if (!(problem instanceof Refusal)) throw problem;
  const entry = note(sentence(problem.message), sentence(problem.next), "bad", ...buttons);
  entry.querySelector("p").append(" ", make("code", "", problem.code));
  entry.setAttribute("role", "alert");
  add(entry);
}

function observed(observation, before) {
  const parts = [];
  if (typeof observation.text === "string") parts.push(make("div", "text", observation.text));
  const facts = make("dl", "facts");
  for (const [name, value] of Object.entries(observation)) {
    if (SHOWN_ELSEWHERE.includes(name) || value === null || value === "" || value === before?.[name]) continue;
    if (Array.isArray(value) && value.length === 0) continue;
    const text = typeof value === "string" ? value : JSON.stringify(value, null, 1);
    if (typeof value === "string" && value.includes("\n")) {
      parts.push(make("div", "facts", name), make("div", "text code", text));
    } else {
      facts.append(make("div", "", make("dt", "", name.replaceAll("_", " ")), make("dd", "", text)));
    }
  }
  if (facts.childElementCount) parts.push(facts);
  return parts;
}

function addTurn(action, answer) {
  const {observation, reward, done} = answer;
  const invalid = observation.valid === false;
  const turn = make("div", invalid ? "turn mute" : "turn", make("div", "place", game.steps ? String(game.steps) : ""));
  if (action !== null) {
    const line = make("div", "said");
    for (const [name, value] of Object.entries(action)) {
      const label = fields.length > 1 ? [make("small", "", name)] : [];
      line.append(make("div", "did", ...label, value));
    }
    if (invalid) line.append(make("span", "tag warn", "invalid"));
    if (reward) line.append(make("span", `tag ${reward > 0 ? "good" : "bad"}`, `reward ${signed(reward)}`));
    turn.append(line);
  }
  turn.append(...observed(observation, game.shown));
  game.shown = observation;
  add(turn);
  if (done) addEnd(observation);
}

function addEnd(observation) {
  const won = observation.won ?? game.reward > 0;
  const kind = won ? "good" : "even";
  const title = won ? "Won" : observation.won === false ? "Not won" : "Finished";
  const steps = `${game.steps} ${game.steps === 1 ? "step" : "steps"}`;
  const {split, number, total} = game;
  const next = button("Next task", () => begin(split, number === null ? null : (number + 1) % total), "main");
  const again = number === null ? [] : [button("Play it again", () => begin(split, number))];
  add(note(title, `${steps}, reward ${plain(game.reward)}.`, `end ${kind}`, next, ...again));
  $("status").textContent = `${title} after ${steps}.`;
  if (!COARSE.matches) next.focus({preventScroll: true});
}

const plain = (number) => String(Math.round(number * 1e6) / 1e6).replace("-", "−");
const signed = (number) => (number > 0 ? "+" : "") + plain(number);

function showCommands() {
  const listed = game === null || game.over ? null : game.shown?.admissible_commands;
  const commands = Array.isArray(listed) ? [...listed].sort(IN_ORDER.compare) : [];
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const chosen = commands.filter((command) => words.every((word) => command.toLowerCase().includes(word)));
  const groups = new Map();
  for (const command of chosen) {
    const chip = button(command, () => act({[fields[0].name]: command}), "chip");
    const verb = command.split(" ", 1)[0];
    if (!groups.has(verb)) groups.set(verb, []);
    groups.get(verb).push(chip);
  }
  // What is rare is what matters here and now; what there is much of, such as places to go to, comes last.
  const alone = [...groups.values()].filter((chips) => chips.length === 1).flat();
  const many = [...groups.values()].filter((chips) => chips.length > 1).sort((a, b) => a.length - b.length);
  const shown = [alone, ...many].filter((chips) => chips.length).map((chips) => make("div", "group", ...chips));
  if (words.length) shown.flatMap((group) => [...group.children])[0]?.classList.add("next");
  const hint = commands.length ? "No command has these words." : game?.over ? "This game is over." : WAITING;
  $("chips").replaceChildren(...(shown.length ? shown : [make("p", "hint", hint)]));
  $("chips").scrollTop = 0;
  $("count").textContent = !commands.length ? "" : words.length ? `${chosen.length} of ${commands.length}` : commands.length;
}

function refresh() {
  const playing = game !== null && !game.over;
  $("steps").textContent = game ? game.steps : "–";
  $("reward").textContent = game ? plain(game.reward) : "–";
  $("send").disabled = !playing;
  $("filter").disabled = !playing;
  for (const {box} of fields) box.disabled = !playing;
  showCommands();
}

async function whileBusy(work) {
  if (busy) return;
  busy = true;
  const pending = setTimeout(() => {
    $("status").textContent = PENDING;
    document.body.classList.add("pending");
  }, PENDING_MS);
  try {
    await work();
  } finally {
    busy = false;
    clearTimeout(pending);
    if ($("status").textContent === PENDING) $("status").textContent = "";
    document.body.classList.remove("pending");
  }
}

// --- playing ----------------------------------------------------------------------------------------------------

const lookUp = async (split) => (await ask("GET", `tasks?${new URLSearchParams({split, start: 0, count: 0})}`)).total;

async function countTasks() {
  const split = $("split").value;
  total = null;
  $("range").textContent = "";
  $("number").removeAttribute("max");
  if (!split) return;
  try {
    const counted = await lookUp(split);
    if (split !== $("split").value) return;
    total = counted;
    $("range").textContent = `0–${(total - 1).toLocaleString("en")}`;
    $("number").max = total - 1;
  } catch (problem) {
    const existing = problem.detail?.existing;
    if (Array.isArray(existing)) $("splits").replaceChildren(...existing.map((name) => new Option(name, name)));
    showProblem(problem);
  }
}

const someNumber = () => Math.floor(Math.random() * total);

async function begin(split, number) {
  $("number").value = number ?? "";
  if ($("split").value !== split) {
    $("split").value = split;
    await countTasks();
  }
  $("setup").requestSubmit();
}

const start = () => whileBusy(async () => {
  await leave();
  const split = $("split").value;
  if ($("number").value === "" && total !== null) $("number").value = someNumber();
  const number = $("number").value === "" ? null : $("number").valueAsNumber;
  let answer, state;
  try {
    answer = await ask("POST", "sessions", {body: number === null ? {split} : {split, index: number}});
    game = {
      id: answer.session_id, key: answer.session_key, split, number, total,
      steps: 0, reward: 0, over: answer.done, gone: false, shown: null,
    };
    state = await ask("GET", place(game), {key: game.key, repeat: true});
  } catch (problem) {
    await leave();
    refresh();
    showProblem(problem, button("Try again", start));
    return;
  }
  const choice = new URLSearchParams(number === null ? {split} : {split, task: number});
  history.replaceState(null, "", `?${choice}`);  // relative: a user and token in the address have to stay
  $("log").replaceChildren();
  $("task").textContent = $("task").title = state.task_id ?? "";
  settle(null, answer);
});

const act = (action) => whileBusy(async () => {
  if (game === null || game.over) return;
  const body = {action, request_id: identifier()};
  await send(body);
});

async function send(body) {
  let answer;
  try {
    answer = await ask("POST", `${place(game)}/step`, {body, key: game.key, repeat: true});
  } catch (problem) {
    refused(problem, body);
    return;
  }
  remember(body.action);
  game.steps += 1;
  game.reward += answer.reward ?? 0;
  game.over = answer.done;
  settle(body.action, answer);
}

function settle(action, answer) {
  $("filter").value = "";
  for (const {box} of fields) box.value = "";
  addTurn(action, answer);
  refresh();
  if (game.over) release(game);
  else if (!COARSE.matches) fields[0]?.box.focus({preventScroll: true});
}

function refused(problem, body) {
  const code = problem.code ?? "";
  if (code === "network" || code.startsWith("http.") || code.startsWith("service.")) {
    const again = button("Try again", () => {
      again.disabled = true;
      whileBusy(() => send(body));
    });
    showProblem(problem, again);
  } else if (code.startsWith("session.") || code.startsWith("env.")) {  // nobody can play this one on
    const {split, number} = game;
    game.over = true;
    refresh();
    showProblem(problem, button("Start again", () => begin(split, number), "main"));
  } else {
    showProblem(problem);
  }
}

const place = ({id}) => `sessions/${encodeURIComponent(id)}`;

async function release(left) {
  if (left.gone) return;
  left.gone = true;
  try {
    await ask("DELETE", place(left), {key: left.key, keepalive: true});
  } catch {
    // it is over already, or its lease will end it
  }
}

async function leave() {
  const left = game;
  game = null;
  if (left !== null) await release(left);
}

function remember(action) {
  const text = fields.length === 1 ? action[fields[0].name] : null;
  if (text !== null && text !== said.at(-1)) said.push(text);
  recalled = said.length;
}

// --- the form of an action --------------------------------------------------------------------------------------

function takesText(schema) {
  return schema.type === "string" || (schema.anyOf ?? []).some((choice) => choice.type === "string");
}

function buildFields(schema) {
  const required = schema.required ?? [];
  const wanted = Object.entries(schema.properties ?? {}).filter(([name, of]) => name !== "metadata" && takesText(of));
  fields = wanted.map(([name, of]) => {
    const box = make("textarea");
    box.rows = 1;
    box.name = name;
    box.placeholder = of.description ?? (wanted.length > 1 ? "" : `Your ${name.replaceAll("_", " ")}`);
    box.spellcheck = false;
    box.autocapitalize = "none";
    box.setAttribute("autocomplete", "off");
    box.enterKeyHint = "send";
    box.disabled = true;
    if (of.maxLength !== undefined) box.maxLength = of.maxLength;
    box.addEventListener("keydown", typed);
    $("inputs").append(make("label", "", make("span", "", name.replaceAll("_", " ")), box));
    return {name, required: required.includes(name), box};
  });
  $("inputs").classList.toggle("single", fields.length === 1);
}

function typed(event) {
  const box = event.currentTarget;
  if (event.isComposing) return;
  if (event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    $("composer").requestSubmit();
    return;
  }
  const step = {ArrowUp: -1, ArrowDown: 1}[event.key];
  if (step === undefined || fields.length !== 1 || event.shiftKey || event.altKey) return;
  const beside = step < 0 ? box.value.slice(0, box.selectionStart) : box.value.slice(box.selectionEnd);
  const place = recalled + step;
  if (beside.includes("\n") || place < 0 || place > said.length) return;
  event.preventDefault();
  recalled = place;
  box.value = said[place] ?? "";
}

// --- events -----------------------------------------------------------------------------------------------------

$("setup").addEventListener("submit", (event) => {
  event.preventDefault();
  start();
});
$("split").addEventListener("change", countTasks);
$("random").addEventListener("click", () => {
  $("number").value = total === null ? "" : someNumber();
});
$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const action = {};
  for (const {name, required, box} of fields) {
    if (box.value !== "" || (required && fields.length > 1)) action[name] = box.value;
  }
  if (Object.values(action).some((text) => text.trim())) act(action);
});
$("filter").addEventListener("input", showCommands);
$("filter").addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault();
  if ($("filter").value.trim()) document.querySelector(".chip.next")?.click();
});
addEventListener("pagehide", () => {
  if (game !== null) release(game);
});
addEventListener("pageshow", (event) => {
  if (event.persisted && game !== null && !game.over) {
    refused(new Refusal({code: "session.ended", message: "this game ended when you left the page", next_step: "start again"}));
  }
});

async function open() {
  const asked = new URLSearchParams(location.search);
  if (asked.get("split")) $("split").value = asked.get("split");
  if (/^\d{1,15}$/.test(asked.get("task") ?? "")) $("number").value = asked.get("task");
  try {
    const [about, schema] = await Promise.all([ask("GET", "metadata"), ask("GET", "schema")]);
    document.title = `Play ${about.name}`;
    $("name").textContent = about.name;
    $("description").textContent = about.description;
    buildFields(schema.action);
    const lists = "admissible_commands" in (schema.observation?.properties ?? {});
    $("commands").hidden = !lists;
    document.body.classList.toggle("alone", !lists);
  } catch (problem) {
    showProblem(problem, button("Load again", () => location.reload()));
    return;
  }
  await countTasks();
}

open();
