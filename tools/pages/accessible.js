// What somebody needs who can't see the page, or not well, or uses no mouse: names, contrast, focus, size.
// Returns what is wrong, as a list of texts. Run in the page by tests/browser.rs.
"use strict";
return (() => {
  const wrong = [];
  const shown = (one) => one.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true });
  const about = (one) => `${one.tagName.toLowerCase()}${one.id ? `#${one.id}` : ""}.${[...one.classList].join(".")} "${(one.textContent || "").trim().slice(0, 30)}"`;

  // Every control has a name.
  for (const one of document.querySelectorAll("button, select, input, textarea, summary, a[href], [role=region], [role=group], nav, fieldset")) {
    if (!shown(one)) continue;
    const labelled = one.labels && one.labels.length > 0 && [...one.labels].some((label) => label.textContent.trim());
    const name = one.getAttribute("aria-label") || one.getAttribute("aria-labelledby") || labelled
      || (["BUTTON", "SUMMARY", "A"].includes(one.tagName) && one.textContent.trim())
      || (one.tagName === "FIELDSET" && one.querySelector("legend"));
    if (!name) wrong.push(`no name: ${about(one)}`);
  }

  // Ids are unique, references lead somewhere.
  const ids = [...document.querySelectorAll("[id]")].map((one) => one.id);
  for (const id of new Set(ids)) if (ids.filter((other) => other === id).length > 1) wrong.push(`id twice: ${id}`);
  for (const name of ["aria-labelledby", "aria-describedby", "for"]) {
    for (const one of document.querySelectorAll(`[${name}]`)) {
      for (const id of one.getAttribute(name).split(/\s+/)) {
        if (!document.getElementById(id)) wrong.push(`${name} leads nowhere: ${about(one)}`);
      }
    }
  }

  // Headings do not skip a level; the page has a language, a title and a main part.
  let level = 0;
  for (const one of document.querySelectorAll("h1, h2, h3, h4")) {
    const now = Number(one.tagName[1]);
    if (now > level + 1) wrong.push(`heading skips a level: ${about(one)}`);
    level = now;
  }
  if (!document.documentElement.lang || !document.title || document.querySelectorAll("main").length !== 1) wrong.push("lang, title or main");

  // What scrolls can be scrolled by keyboard.
  for (const one of document.querySelectorAll("main *, nav *")) {
    const style = getComputedStyle(one);
    const scrolls = ["auto", "scroll"].includes(style.overflowX) && one.scrollWidth > one.clientWidth + 1
      || ["auto", "scroll"].includes(style.overflowY) && one.scrollHeight > one.clientHeight + 1;
    const reached = one.tabIndex >= 0 || one.querySelector("button, select, input, textarea, a[href], [tabindex='0']");
    if (scrolls && shown(one) && !reached) wrong.push(`scrolls, but not by keyboard: ${about(one)}`);
  }

  // Controls are large enough to hit (WCAG 2.2, 2.5.8).
  for (const one of document.querySelectorAll("button, select, input, summary")) {
    const { width, height } = one.getBoundingClientRect();
    if (shown(one) && (width < 24 || height < 24)) wrong.push(`small (${Math.round(width)} by ${Math.round(height)}): ${about(one)}`);
  }

  // Text stands out from what is behind it (WCAG 1.4.3: 4.5, 3 for large text).
  const numbers = (colour) => (colour.match(/[\d.]+/g) || []).map(Number);
  const light = ([red, green, blue]) => {
    const [r, g, b] = [red, green, blue].map((part) => {
      const share = part / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (one, other) => {
    const [high, low] = [light(one), light(other)].sort((a, b) => b - a);
    return (high + 0.05) / (low + 0.05);
  };
  const behind = (one) => {
    if (one.namespaceURI.endsWith("svg")) {
      const box = one.parentNode.querySelector && one.parentNode.querySelector(":scope > rect");
      if (box) return numbers(getComputedStyle(box).fill);
    }
    for (let at = one; at; at = at.parentElement) {
      const colour = numbers(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const seen = new Set();
  for (const one of document.querySelectorAll("body *")) {
    const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !shown(one) || ["SCRIPT", "STYLE", "OPTION", "TITLE", "DESC"].includes(one.tagName.toUpperCase())) continue;
    if (one.disabled) continue;
    const style = getComputedStyle(one);
    const ink = numbers(one.namespaceURI.endsWith("svg") ? style.fill : style.color);
    const size = parseFloat(style.fontSize), least = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700) ? 3 : 4.5;
    const found = ratio(ink, behind(one));
    const key = `${ink} ${behind(one)} ${least}`;
    if (found < least && !seen.has(key)) {
      seen.add(key);
      wrong.push(`contrast ${found.toFixed(2)}: ${about(one)} ${style.color} ${style.fill}`);
    }
  }
  if (document.documentElement.scrollWidth > innerWidth) wrong.push(`the page is wider than the window: ${document.documentElement.scrollWidth} of ${innerWidth}`);
  return wrong;
})();
