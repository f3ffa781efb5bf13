"use strict";

/** The data of this page: JSON, compressed, in base64. */
async function pageData() {
  const text = atob(document.getElementById("data").textContent);
  const bytes = Uint8Array.from(text, (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

/** An element with text, never HTML, inside. */
function element(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

/** A token in its spelled form, as `page.token` makes it: isolated, with marks for spaces and escapes. */
function showToken(spelled) {
  const parts = spelled.split(/( |\\(?:x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}|[^]))/u).filter(Boolean);
  const marked = parts.map((part) =>
    part === " " ? element("span", "space", part) : part[0] === "\\" ? element("span", "escape", part) : part,
  );
  return element("bdi", "token", ...marked);
}
