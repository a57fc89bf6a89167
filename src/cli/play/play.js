// The editor: sends the text, shows what is answered. Decides nothing about a question.
"use strict";
(() => {
  const TYPING_MS = 120;
  const { Player, element } = globalThis.driftheap;
  const find = (selector) => document.querySelector(selector);
  const text = find("#question"), state = find(".state"), mistakes = find(".mistakes");
  const answer = find(".answer"), blocks = find(".blocks"), title = find(".title");
  const real = find("pre.real"), progress = find(".progress");
  const undo = find(".undo"), reset = find(".reset"), cancel = find(".cancel");
  const token = new URLSearchParams(location.search).get("token") || "";
  const client = crypto.getRandomValues(new Uint32Array(4)).join("-");
  const table = JSON.parse(find("script.rules").textContent);

  let original = text.value;      // of the lesson or file, as it came
  let before = [];                // texts before each flip
  let verdicts = new Map();       // of the answer that is shown
  let player = null;
  let asking = null;              // cuts off the question that is under way
  let timer = null;

  const post = (path, body, signal) => fetch(path, {
    method: "POST",
    headers: { "content-type": "application/json", "x-driftheap-token": token, "x-driftheap-client": client },
    body: JSON.stringify(body),
    signal,
  });
  const failure = async (response) => {
    try { return (await response.json()).error; } catch { return `the server answered ${response.status}`; }
  };
  const say = (words, bad) => {
    state.textContent = words;
    state.classList.toggle("bad", Boolean(bad));
  };

  // Ask for an answer to the text as it is now; a question that is under way is cut off.
  async function ask() {
    clearTimeout(timer);
    if (asking) asking.abort();
    const mine = asking = new AbortController();
    try {
      const variant = player ? player.current.data.name : "";
      const response = await post("/answer", { text: text.value, variant }, mine.signal);
      if (!response.ok) { say(await failure(response), true); return; }
      const told = await response.json();
      if (mine === asking) show(told);
    } catch (error) {
      if (error.name !== "AbortError") say("The server does not answer; is driftheap play still running?", true);
    } finally {
      if (mine === asking) asking = null;
    }
  }

  function show(told) {
    mistakes.replaceChildren(...told.mistakes.map((mistake) => {
      const button = element("button", { type: "button" }, `line ${mistake.line}, column ${mistake.column}: ${mistake.message}`);
      button.addEventListener("click", () => goTo(mistake.line, mistake.column));
      return element("li", {}, button, element("pre", { tabindex: 0, role: "region", "aria-label": "Where it is" }, mistake.shown));
    }));
    text.setAttribute("aria-invalid", told.mistakes.length > 0);
    showBlocks(told.blocks);
    if (told.mistakes.length > 0) {
      say(told.mistakes.length === 1 ? "1 mistake. The answer below is that of the text before it." : `${told.mistakes.length} mistakes. The answer below is that of the text before them.`, true);
      return;
    }
    const stopped = told.verdicts.filter((one) => one.stopped !== null);
    const list = told.verdicts.map((one) => `${one.variant === "-" ? "" : `${one.variant}: `}${one.observed}`);
    const short = list.length <= 4 ? list.join(", ") : `${list.length} variants`;
    if (stopped.length > 0) say(`${short}. ${stopped[0].variant}: ${stopped[0].stopped}.`, true);
    else say(`${short}. Answered in ${told.millis} ms.`, false);
    showAnswer(told);
  }

  function showAnswer(told) {
    const kept = player ? { variant: player.current.data.name, at: player.at } : null;
    if (player) player.stop();
    answer.innerHTML = told.html;
    const section = answer.querySelector(".player");
    player = section ? new Player(section) : null;
    if (section) section.player = player;
    if (player) {
      player.beyond = beyond;
      player.go(player.at);
    }
    if (player && kept && player.current.data.name === kept.variant) player.go(kept.at);
    if (section) section.querySelector(".variant").addEventListener("change", ask);
    const rows = [...answer.querySelectorAll("tbody tr")];
    told.verdicts.forEach((one, at) => {
      const was = verdicts.get(one.variant), cell = rows[at] && rows[at].children[2];
      if (cell && was !== undefined && was !== one.observed) {
        cell.classList.add("changed");
        cell.append(element("small", {}, `was ${was}`));
      }
    });
    verdicts = new Map(told.verdicts.map((one) => [one.variant, one.observed]));
  }

  // The states of a schedule of a variant that has more than the page holds.
  async function beyond(variant, schedule) {
    try {
      const response = await post("/step", { text: text.value, variant, schedule });
      if (response.ok) return await response.json();
      say(await failure(response), true);
    } catch {
      say("The server does not answer; is driftheap play still running?", true);
    }
    return null;
  }

  function goTo(line, column) {
    const lines = text.value.split("\n");
    const start = lines.slice(0, line - 1).reduce((sum, one) => sum + one.length + 1, 0);
    const at = start + [...(lines[line - 1] || "")].slice(0, column - 1).join("").length;
    text.focus();
    text.setSelectionRange(at, at + 1);
    text.scrollTop = (line - 4) * (text.scrollHeight / Math.max(1, lines.length));
  }

  // A block's rules: what the text sets first, then all others.
  function showBlocks(told) {
    const all = told.some((block) => block.kind === "host") ? told : [...told, { kind: "host", name: "", rules: [] }];
    const held = document.activeElement && document.activeElement.dataset.rule;
    const open = new Set([...blocks.querySelectorAll("details[open]")].map((one) => one.dataset.block));
    blocks.replaceChildren(...all.map((block) => {
      const name = `${block.kind} ${block.name}`.trim();
      const known = table.filter((rule) => rule.block === block.kind && rule.kind === "word");
      const set = known.filter((rule) => block.rules.some(([word]) => word === rule.rule));
      const rest = known.filter((rule) => !set.includes(rule));
      const more = element("details", { "data-block": name }, element("summary", {}, `${rest.length} more, as they are by default`),
        ...rest.map((rule) => ruleChoice(block, name, rule, null)));
      more.open = open.has(name);
      return element("fieldset", {}, element("legend", {}, name),
        ...set.map((rule) => ruleChoice(block, name, rule, block.rules.find(([word]) => word === rule.rule)[1])), more);
    }));
    if (held) {
      const again = [...blocks.querySelectorAll("select")].find((one) => one.dataset.rule === held);
      if (again) again.focus();
    }
  }

  function ruleChoice(block, name, rule, value) {
    const select = element("select", { "data-rule": `${name} ${rule.rule}` });
    const words = rule.values.map((one) => one.value);
    const now = value === null ? rule.default : value;
    if (!words.includes(now)) select.append(element("option", { value: now }, now));
    select.append(...rule.values.map((one) => element("option", { value: one.value, title: one.meaning }, one.value)));
    select.value = now;
    select.addEventListener("change", () => flip(block, rule.rule, select.value));
    return element("label", { title: rule.about }, rule.rule, select);
  }

  // One after the other: each begins with the text that the one before has made.
  let flips = Promise.resolve();
  const flip = (block, rule, value) => { flips = flips.then(() => flipNow(block, rule, value)); };

  async function flipNow(block, rule, value) {
    const response = await post("/rule", { text: text.value, kind: block.kind, name: block.name, rule, value });
    if (!response.ok) { say(await failure(response), true); return; }
    before.push(text.value);
    undo.disabled = false;
    text.value = (await response.json()).text;
    await ask();
  }

  async function open(name) {
    const response = await post("/lesson", { name });
    if (!response.ok) { say(await failure(response), true); return; }
    original = text.value = (await response.json()).text;
    before = [];
    undo.disabled = true;
    verdicts = new Map();
    if (player) player.stop();
    player = null;
    title.textContent = name;
    real.hidden = true;
    progress.textContent = "";
    mark(name);
    text.scrollTop = 0;
    await ask();
  }

  function mark(name) {
    for (const button of document.querySelectorAll("[data-lesson]")) {
      if (button.dataset.lesson === name) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
  }

  // Real memory: events as they come.
  async function askReal(path) {
    const buttons = [find(".editor .replay"), find(".editor .hunt")];
    buttons.forEach((one) => { one.disabled = true; });
    cancel.disabled = false;
    real.hidden = true;
    progress.textContent = "asked ...";
    const variant = player ? player.current.data.name : "";
    try {
      const response = await post(path, { text: text.value, variant });
      if (!response.ok) { progress.textContent = await failure(response); return; }
      await events(response.body, (kind, told) => {
        if (kind === "progress") { progress.textContent = told.text; return; }
        progress.textContent = kind === "done" ? "Real memory has answered." : "It could not be carried out.";
        real.textContent = told.text;
        real.hidden = false;
      });
    } catch {
      progress.textContent = "The server does not answer; is driftheap play still running?";
    } finally {
      buttons.forEach((one) => { one.disabled = false; });
      cancel.disabled = true;
    }
  }

  // The lines of a stream of server-sent events.
  async function events(stream, each) {
    const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        const field = (name) => part.split("\n").filter((line) => line.startsWith(`${name}:`)).map((line) => line.slice(name.length + 1).trim()).join("\n");
        if (field("data")) each(field("event"), JSON.parse(field("data")));
      }
    }
  }

  text.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(ask, TYPING_MS); });
  undo.addEventListener("click", () => {
    text.value = before.pop();
    undo.disabled = before.length === 0;
    ask();
  });
  reset.addEventListener("click", () => { text.value = original; before = []; undo.disabled = true; ask(); });
  cancel.addEventListener("click", () => post("/cancel", {}));
  find(".editor .replay").addEventListener("click", () => askReal("/replay"));
  find(".editor .hunt").addEventListener("click", () => askReal("/hunt"));
  for (const button of document.querySelectorAll("[data-lesson]")) {
    button.addEventListener("click", () => open(button.dataset.lesson));
  }
  find("details.lessons").open = matchMedia("(min-width: 75rem)").matches;
  mark(title.textContent.replace(/\.litmus$/, ""));
  ask();
})();
