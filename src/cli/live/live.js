// Shows what a running device tells, in the drawing of the pages. Decides nothing about it.
"use strict";
(() => {
  const EVENTS_SHOWN = 60;
  const { element, draw, inWords } = globalThis.driftheap;
  const find = (selector) => document.querySelector(selector);
  const token = new URLSearchParams(location.search).get("token") || "";
  const { control } = JSON.parse(find("script.start").textContent);
  const state = find(".state"), hold = find(".hold"), words = find(".inwords");

  let last = null;         // what was told last
  let held = false;        // whether the picture stands still
  let ended = false;
  let findings = 0;

  function show(told) {
    last = told;
    news(told);
    if (!held || ended) picture();
  }

  function picture() {
    if (!last) return;
    const { drawing, buffers, summary, more } = last;
    globalThis.driftheap.shown = drawing;
    const variant = { data: drawing, source: [] };
    find(".drawing").replaceChildren(draw(variant, drawing, { actor: null, hazards: drawing.hazards }));
    if (words.open) find(".words").replaceChildren(inWords(variant, drawing, last.noun));
    find(".summary").textContent = summary;
    find(".more").textContent = more;
    table(buffers);
  }

  // A row a buffer; rows stay, so that a button that is reached is not lost.
  function table(buffers) {
    const body = find(".buffers");
    const rows = new Map([...body.children].map((row) => [row.dataset.ino, row]));
    for (const buffer of buffers) {
      const ino = String(buffer.ino);
      const row = rows.get(ino) || body.appendChild(newRow(ino));
      rows.delete(ino);
      const [name, size, where, users] = row.children;
      text(name.firstChild, buffer.name);
      text(name.lastChild, buffer.about);
      text(size, buffer.size);
      text(where, buffer.where);
      text(users, buffer.users);
      if (control) for (const one of row.querySelectorAll("button")) one.disabled = ended || !buffer.live;
    }
    for (const row of rows.values()) row.remove();
  }

  const text = (one, words) => { if (one.textContent !== words) one.textContent = words; };

  function newRow(ino) {
    const row = element("tr", { "data-ino": ino },
      element("th", { scope: "row" }, element("span"), element("small")), element("td", { class: "number" }),
      element("td"), element("td", { class: "long" }));
    if (control) {
      const cell = element("td", { class: "long" });
      for (const verb of ["move", "evict", "purge", "revoke"]) {
        const button = element("button", { type: "button", "data-verb": verb }, verb);
        button.addEventListener("click", () => order(verb, Number(ino), row.querySelector("span").textContent));
        cell.append(button);
      }
      row.append(cell);
    }
    return row;
  }

  async function order(verb, ino, name) {
    const done = find(".done");
    done.textContent = `${verb} ${name} ...`;
    try {
      const response = await fetch("/order", {
        method: "POST",
        headers: { "content-type": "application/json", "x-driftheap-token": token },
        body: JSON.stringify({ verb, ino }),
      });
      const told = await response.json();
      done.textContent = told.error || (told.done ? told.text : `refused: ${told.text}`);
    } catch {
      done.textContent = "The device does not answer; has it ended?";
    }
  }

  // What happened and what was found since: nothing of it waits, also while the picture stands still.
  function news(told) {
    const list = find(".events");
    for (const line of told.events) list.prepend(element("li", {}, line));
    while (list.children.length > EVENTS_SHOWN) list.lastChild.remove();
    for (const [title, whole] of told.findings) {
      findings += 1;
      find(".findings").append(element("li", {}, element("details", {},
        element("summary", {}, title), element("pre", { tabindex: 0, role: "region", "aria-label": title }, whole))));
    }
    find(".none").textContent = findings > 0 ? `${findings} so far.` : told.looking;
    if (!ended) say(held ? "The picture stands still; what happens is still told." : "live");
  }

  const say = (words) => { if (state.textContent !== words) state.textContent = words; };

  function end(words) {
    ended = true;
    source.close();
    state.classList.add("ended");
    say(words);
    hold.disabled = true;
    picture();
  }

  hold.addEventListener("click", () => {
    held = !held;
    hold.textContent = held ? "go on" : "hold still";
    hold.setAttribute("aria-pressed", String(held));
    if (!held) picture();
  });
  words.addEventListener("toggle", picture);

  const source = new EventSource(`/events?token=${encodeURIComponent(token)}`);
  source.addEventListener("state", (event) => show(JSON.parse(event.data)));
  source.addEventListener("ended", (event) => {
    show(JSON.parse(event.data));
    end("The device has ended; this is the last that was seen of it.");
  });
  source.addEventListener("error", () => {
    if (!ended) end("The device does not answer any more; has it ended?");
  });
})();
