// Steps through the states that the page holds. Draws what src/report/svg draws, at the same
// places; computes nothing about the test.
"use strict";
(() => {
  const LANE_WIDTH = 216, GAP = 92, CELL_WIDTH = 150, CELL_HEIGHT = 30, STATEMENT_CHARS = 28;
  const PLAY_MS = 1200;

  const element = (name, attributes, ...children) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };
  const svg = (name, attributes, ...children) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };
  const cut = (text, chars) => {
    const all = [...text];
    return all.length <= chars ? text : all.slice(0, chars - 1).join("").trimEnd() + "\u2026";
  };

  // What a variant's tables say of one state.
  class Variant {
    constructor(data, source) { this.data = data; this.source = source; }
    picture(node) {
      const data = this.data;
      const [cells, arrows, notes, hands] = data.pictures[data.nodes[node][0]];
      return {
        cells: cells.map((at) => {
          const [owner, holds, look] = data.cells[at];
          return { owner: data.texts[owner], holds: data.texts[holds], look: data.texts[look] };
        }),
        arrows: arrows.map((at) => {
          const [slot, to, stale, note] = data.arrows[at];
          return { slot, to, stale: stale === 1, note: data.texts[note] };
        }),
        notes: notes.map((at) => data.texts[at]),
        hands,
      };
    }
    steps(node) {
      const row = this.data.nodes[node], steps = [];
      for (let at = 1; at < row.length; at += 2) {
        const [actor, line, statement, what, hazards] = this.data.steps[row[at]];
        steps.push({
          actor, line, to: row[at + 1],
          statement: this.data.texts[statement], what: this.data.texts[what],
          hazards: hazards.map(([kind, slot, place]) => ({ kind: this.data.texts[kind], slot, place })),
        });
      }
      return steps;
    }
    follow(schedule) {
      const path = [{ node: 0, step: null }];
      for (const actor of schedule) {
        const step = this.steps(path[path.length - 1].node).find((one) => one.actor === actor);
        if (!step || step.to < 0) break;
        path.push({ node: step.to, step });
      }
      return path;
    }
  }

  const note = (arrow) => [arrow.note, arrow.stale ? "stale" : ""].filter((word) => word).join(", ");

  function drawArrow(variant, slot, to, stale, red) {
    const { layout, slots, places } = variant.data;
    const x1 = LANE_WIDTH, y1 = layout.slots[slot], x2 = LANE_WIDTH + GAP;
    const y2 = layout.cells[to] + 5 + Math.floor((CELL_HEIGHT - 10) * (slot + 1) / (layout.slots.length + 1));
    return svg("g", {
      class: "arrow" + (stale ? " stale" : "") + (red ? " red" : ""),
      "data-slot": slots[slot][2], "data-to": places[to], "data-stale": stale,
    },
      svg("path", { d: `M${x1} ${y1} C${x1 + GAP / 2} ${y1} ${x2 - GAP / 2} ${y2} ${x2 - 8} ${y2}` }),
      svg("path", { class: "head", d: `M${x2} ${y2}l-9 -4v8z` }));
  }

  const atHand = (variant, line) => (line > 0 ? variant.source[line - 1].trim() : "(at its end)");

  function drawLane(variant, picture, lane, active) {
    const { layout, lanes, slots } = variant.data;
    const { y, height } = layout.lanes[lane];
    const text = picture.doing ? picture.doing[lane] : atHand(variant, picture.hands[lane]);
    const parts = [svg("g", { class: active ? "lane active" : "lane" },
      svg("rect", { x: 1, y, width: LANE_WIDTH - 1, height, rx: 5 }),
      svg("text", { x: 9, y: y + 16, "font-size": 13, "font-weight": "bold" }, cut(lanes[lane], STATEMENT_CHARS - 2)),
      svg("text", { class: "dim", x: 9, y: y + 32, "font-size": 12 }, cut(text, STATEMENT_CHARS)))];
    slots.forEach(([of, kind, name], index) => {
      if (of !== lane) return;
      const arrow = picture.arrows.find((one) => one.slot === index);
      const group = svg("g", { class: arrow ? "slot held" : "slot" },
        svg("text", { x: 9, y: layout.slots[index] + 4, "font-size": 12 }, `${kind} ${name}`));
      if (arrow) {
        group.append(svg("text", {
          class: "dim", x: LANE_WIDTH - 7, y: layout.slots[index] + 4, "font-size": 11, "text-anchor": "end",
        }, note(arrow)));
      }
      parts.push(group);
    });
    return parts;
  }

  function drawCell(variant, picture, place, hit) {
    const { layout, places } = variant.data;
    const cell = picture.cells[place], x = LANE_WIDTH + GAP, y = layout.cells[place];
    return svg("g", {
      class: `cell ${cell.look}${hit ? " hit" : ""}`, "data-frame": places[place], "data-owner": cell.owner,
    },
      svg("rect", { x, y: y + 2, width: CELL_WIDTH, height: CELL_HEIGHT - 4, rx: 3 }),
      svg("text", { x: x + 7, y: y + 19, "font-size": 13, "font-weight": "bold" }, (hit ? "! " : "") + cell.owner + cell.holds),
      svg("text", { class: "dim", x: x + CELL_WIDTH - 5, y: y + 19, "font-size": 10, "text-anchor": "end" }, places[place]));
  }

  function draw(variant, picture, step) {
    const { layout, lanes, places } = variant.data;
    const sights = step ? step.hazards : [];
    const drawing = svg("svg", { viewBox: `0 0 ${layout.width} ${layout.height}`, "aria-hidden": "true" });
    lanes.forEach((_, lane) => drawing.append(...drawLane(variant, picture, lane, step !== null && step.actor === lane)));
    for (const [y, name] of layout.groups) {
      drawing.append(svg("text", { class: "dim", x: LANE_WIDTH + GAP, y, "font-size": 12 }, name));
    }
    places.forEach((_, place) => drawing.append(drawCell(variant, picture, place, sights.some((one) => one.place === place))));
    for (const arrow of picture.arrows) {
      const red = sights.some((one) => one.slot === arrow.slot && one.place === arrow.to);
      drawing.append(drawArrow(variant, arrow.slot, arrow.to, arrow.stale, red));
    }
    for (const { slot, place } of sights) {
      if (slot < 0 || place < 0) continue;
      if (picture.arrows.some((arrow) => arrow.slot === slot && arrow.to === place)) continue;
      drawing.append(drawArrow(variant, slot, place, true, true));
    }
    picture.notes.forEach((text, index) => {
      drawing.append(svg("text", { class: "dim", x: 2, y: layout.notes[index], "font-size": 12 }, text));
    });
    return drawing;
  }

  // The picture as a list, for who can't see it.
  function inWords(variant, picture, noun) {
    const { slots, places, lanes } = variant.data;
    const cells = picture.cells.map((cell, at) => element("li", {}, `${noun}${places[at]}: ${cell.owner}${cell.holds}`));
    const arrows = picture.arrows.map((arrow) => {
      const [lane, kind, name] = slots[arrow.slot];
      const more = note(arrow) ? ` (${note(arrow)})` : "";
      return element("li", {}, `${lanes[lane]}: ${kind} ${name} points at ${places[arrow.to]}, ${picture.cells[arrow.to].owner}${more}`);
    });
    const notes = picture.notes.map((text) => element("li", {}, text));
    return element("ul", {}, ...cells, ...arrows, ...notes);
  }

  class Player {
    constructor(section) {
      const find = (selector) => section.querySelector(selector);
      const data = JSON.parse(find("script.data").textContent);
      this.source = data.source;
      this.variants = data.variants.map((one) => new Variant(one, data.source));
      this.parts = {};
      for (const name of ["variant", "way", "start", "back", "play", "forward", "hazard", "scrub", "said",
        "drawing", "next", "text", "words", "memory", "told", "verdict", "prevented"]) {
        this.parts[name] = find(`.${name}`);
      }
      this.axes = [...section.querySelectorAll(".axis")];
      this.timer = null;
      this.wire(section);
      this.pick(data.first);
      section.hidden = false;
    }

    wire(section) {
      const parts = this.parts;
      parts.variant.addEventListener("change", () => this.pick(Number(parts.variant.value)));
      for (const axis of this.axes) {
        axis.addEventListener("change", () => {
          const name = this.axes.map((one) => one.value).join("/");
          parts.variant.value = this.variants.findIndex((one) => one.data.name === name);
          parts.variant.dispatchEvent(new Event("change"));
        });
      }
      parts.way.addEventListener("change", () => this.show(Number(parts.way.value)));
      parts.start.addEventListener("click", () => this.go(0));
      parts.back.addEventListener("click", () => this.go(this.at - 1));
      parts.forward.addEventListener("click", () => this.go(this.at + 1));
      parts.hazard.addEventListener("click", () => this.toHazard());
      parts.play.addEventListener("click", () => this.play());
      parts.scrub.addEventListener("input", () => this.go(Number(parts.scrub.value)));
      section.addEventListener("keydown", (event) => {
        if (event.ctrlKey || event.altKey || event.metaKey) return;
        if (["SELECT", "INPUT"].includes(event.target.tagName)) return;
        if (event.key === " " && ["BUTTON", "SUMMARY"].includes(event.target.tagName)) return;
        const digit = /^[1-9]$/.test(event.key) ? Number(event.key) : 0;
        const keys = {
          ArrowRight: () => this.go(this.at + 1), ArrowLeft: () => this.go(this.at - 1),
          Home: () => this.go(0), End: () => this.go(this.path.length - 1),
          " ": () => this.play(), h: () => this.toHazard(), H: () => this.toHazard(),
        };
        if (digit) this.choose(digit - 1);
        else if (keys[event.key]) keys[event.key]();
        else return;
        event.preventDefault();
      });
    }

    pick(index) {
      const before = this.current;
      this.current = this.variants[index];
      const { data } = this.current;
      const was = before && before.data.answer !== data.answer ? ` (was ${before.data.answer})` : "";
      this.parts.verdict.textContent = `Answer of this variant: ${data.answer}${was}.`;
      data.name.split("/").forEach((label, at) => { if (this.axes[at]) this.axes[at].value = label; });
      this.parts.prevented.hidden = data.prevented.length === 0;
      this.parts.prevented.querySelector("ul").replaceChildren(...data.prevented.map((line) => element("li", {}, line)));
      this.parts.way.replaceChildren(...data.ways.map(([title], at) => element("option", { value: at }, title)));
      this.parts.memory.textContent = `Real memory, this variant: ${data.real}` +
        (data.kernel ? `\nKernel, this variant: ${data.kernel}` : "");
      this.parts.told.hidden = data.story === "";
      this.parts.told.querySelector("pre").textContent = data.story;
      this.show(0);
    }

    show(way) {
      const chosen = this.current.data.ways[way];
      const schedule = chosen ? chosen[1] : [];
      this.path = this.current.follow(schedule);
      this.stop();
      this.go(0);
      if (this.path.length <= schedule.length) this.reach(schedule, 0);
    }

    // Asks for the states of a schedule that the page does not hold, where there is somebody to ask.
    async reach(schedule, at) {
      const { current } = this;
      if (!this.beyond) return;
      const told = await this.beyond(current.data.name, schedule);
      if (!told || current !== this.current) return;
      Object.assign(current.data, told);
      this.path = current.follow(schedule);
      this.go(at);
    }

    stop() {
      clearInterval(this.timer);
      this.timer = null;
      this.parts.play.textContent = "play";
    }

    play() {
      if (this.timer !== null) { this.stop(); return; }
      if (this.at + 1 >= this.path.length) this.go(0);
      this.parts.play.textContent = "stop";
      this.timer = setInterval(() => {
        this.go(this.at + 1);
        if (this.at + 1 >= this.path.length) this.stop();
      }, PLAY_MS);
    }

    toHazard() {
      const at = this.path.findIndex(({ step }) => step !== null && step.hazards.length > 0);
      if (at >= 0) this.go(at);
    }

    // Take the step with this number of those that can be taken here.
    choose(index) {
      const step = this.current.steps(this.path[this.at].node)[index];
      if (!step) return;
      if (step.to < 0) {
        const before = this.path.slice(1, this.at + 1).map((one) => one.step.actor);
        return this.reach([...before, step.actor], this.at + 1);
      }
      const ahead = this.path[this.at + 1];
      if (!ahead || ahead.node !== step.to || ahead.step.actor !== step.actor) {
        this.path = [...this.path.slice(0, this.at + 1), { node: step.to, step }];
      }
      this.go(this.at + 1);
    }

    go(at) {
      this.at = Math.max(0, Math.min(at, this.path.length - 1));
      const { node, step } = this.path[this.at];
      const picture = this.current.picture(node);
      const { parts } = this;
      parts.scrub.max = this.path.length - 1;
      parts.scrub.value = this.at;
      parts.scrub.setAttribute("aria-valuetext", `step ${this.at} of ${this.path.length - 1}`);
      parts.start.disabled = parts.back.disabled = this.at === 0;
      parts.forward.disabled = this.at + 1 >= this.path.length;
      parts.hazard.disabled = !this.path.some((one) => one.step !== null && one.step.hazards.length > 0);
      parts.drawing.replaceChildren(draw(this.current, picture, step));
      this.say(node, step);
      this.list(node);
      this.text(picture, step);
      this.words(picture);
    }

    say(node, step) {
      const said = this.parts.said;
      const where = `Step ${this.at} of ${this.path.length - 1}`;
      if (step === null) {
        said.replaceChildren(`${where}: nobody has done anything yet.`);
      } else {
        said.replaceChildren(`${where}: P${step.actor}, ${step.statement}: ${step.what}. `);
        if (step.hazards.length > 0) {
          said.append(element("strong", {}, `! ${step.hazards.map((one) => one.kind).join(", ")}`), ". ");
        }
      }
      const end = this.current.data.ends[node];
      if (end) {
        const holds = end[1] ? "What is asked holds" : "What is asked does not hold";
        said.append(`The end: ${this.current.data.texts[end[0]]}. ${holds}.`);
      }
    }

    list(node) {
      const steps = this.current.steps(node);
      const ahead = this.path[this.at + 1];
      const title = element("h3", {}, steps.length > 0 ? "Who goes next?" : "Nobody can go on.");
      const buttons = steps.map((step, index) => {
        const button = element("button", { type: "button", "data-actor": step.actor, "data-to": step.to },
          `${index + 1}. P${step.actor}: ${step.statement}`, element("small", {}, step.what));
        if (step.hazards.length > 0) button.dataset.hazard = step.hazards.map((one) => one.kind).join(" ");
        if (ahead && ahead.step.actor === step.actor) {
          button.classList.add("taken");
          button.setAttribute("aria-description", "the schedule that is shown takes this one");
        }
        if (step.to < 0) button.disabled = !this.beyond;
        button.addEventListener("click", async () => {
          this.stop();
          await this.choose(index);
          const next = this.parts.next.querySelector("button");
          if (next) next.focus({ preventScroll: true });
        });
        return button;
      });
      this.parts.next.replaceChildren(title, ...buttons);
      if (!this.current.data.complete) {
        this.parts.next.append(element("p", {}, this.beyond
          ? "This variant has more states than a page holds: each further one is asked for as you go."
          : "This variant has more states than a page holds: only the schedules above can be stepped through; driftheap play goes on from there."));
      }
    }

    text(picture, step) {
      const lines = this.source.map((line, index) => {
        const number = index + 1;
        const here = picture.hands.map((at, lane) => (at === number ? `P${lane}` : "")).filter((name) => name);
        const row = element("div", {},
          element("span", { class: "no" }, String(number)), element("span", { class: "at" }, here.join(" ")),
          element("span", {}, line));
        if (step !== null && step.line === number) {
          row.className = "now";
          row.setAttribute("aria-current", "step");
        }
        return row;
      });
      const box = this.parts.text;
      box.replaceChildren(...lines);
      const now = box.querySelector(".now");
      if (now) box.scrollTop = now.offsetTop - box.clientHeight / 2;
    }

    words(picture) {
      this.parts.words.replaceChildren(inWords(this.current, picture, "frame "));
    }
  }

  globalThis.driftheap = { Player, element, draw, inWords };

  // In a page of many tests, only what comes near the window is set up.
  const sections = [...document.querySelectorAll(".player")];
  const start = (section) => { if (!section.player) section.player = new Player(section); };
  if (sections.length <= 3) {
    sections.forEach(start);
  } else {
    const watch = new IntersectionObserver((entries) => {
      for (const entry of entries) if (entry.isIntersecting) start(entry.target.querySelector(".player"));
    }, { rootMargin: "600px" });
    sections.forEach((section) => watch.observe(section.closest("article")));
  }
})();
