// Run in a page by tests/browser.rs: takes the steps of the first schedule of every
// variant by clicking their buttons, and returns what it saw.
"use strict";
return (() => {
  const said = { steps: 0, hazards: 0, wrong: [] };
  try {
    for (const section of document.querySelectorAll(".player")) {
      if (!section.player) { said.wrong.push("a player did not start"); continue; }
      const player = section.player;
      for (const option of section.querySelector(".variant").options) {
        section.querySelector(".variant").value = option.value;
        section.querySelector(".variant").dispatchEvent(new Event("change"));
        const steps = player.path.length - 1;
        player.go(0);
        for (let at = 0; at < steps; at += 1) {
          const button = section.querySelector(".next button.taken");
          if (!button) { said.wrong.push(`${option.text}: no button for step ${at + 1}`); break; }
          const hazard = button.dataset.hazard;
          button.click();
          said.steps += 1;
          const { node } = player.path[player.at];
          const picture = player.current.picture(node);
          const ends = [...section.querySelectorAll(".drawing .arrow:not(.red)")].length;
          const red = section.querySelectorAll(".drawing .arrow.red").length;
          const owners = [...section.querySelectorAll(".drawing .cell")].map((cell) => cell.dataset.owner).join();
          if (owners !== picture.cells.map((cell) => cell.owner).join()) said.wrong.push(`${option.text}: cells at step ${at + 1}`);
          if (ends + red < picture.arrows.length) said.wrong.push(`${option.text}: arrows at step ${at + 1}`);
          for (const arrow of picture.arrows) {
            const to = player.current.data.places[arrow.to];
            const name = player.current.data.slots[arrow.slot][2];
            const drawn = [...section.querySelectorAll(".drawing .arrow")].some((one) => one.dataset.to === to && one.dataset.slot === name);
            if (!drawn) said.wrong.push(`${option.text}: no arrow from ${name} to ${to}`);
          }
          if (hazard) {
            said.hazards += 1;
            if (!section.querySelector(".said strong")) said.wrong.push(`${option.text}: ${hazard} is not said`);
          }
        }
      }
      if (document.documentElement.scrollWidth > window.innerWidth) said.wrong.push("the page is wider than the window");
    }
  } catch (error) {
    said.wrong.push(String(error));
  }
  return said;
})();
