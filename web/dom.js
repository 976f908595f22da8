/** Small helpers for the page's elements. */

/** An element with attributes and children; `on…` attributes are listeners. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== undefined) made.setAttribute(name, String(value));
  }
  made.append(...children);
  return made;
}

/** Changes a text only if it is another: the page has less to do, and readers say nothing twice. */
export function say(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

/** Shows or hides. */
export function show(target, visible) {
  target.hidden = !visible;
}

/** Adds a style sheet to the page; resolves when it holds (or cannot be had). */
export function addStyleSheet(url) {
  return new Promise((done) => document.head.append(element("link", { rel: "stylesheet", href: url, onload: done, onerror: done })));
}
