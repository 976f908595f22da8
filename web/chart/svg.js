/** SVG elements and the paths of a chart. */

const SVG = "http://www.w3.org/2000/svg";

/** An SVG element with attributes. */
export function make(name, attributes = {}) {
  return set(document.createElementNS(SVG, name), attributes);
}

export function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  return element;
}

export function label(text, x, y, anchor) {
  const element = make("text", { x, y, "text-anchor": anchor });
  element.textContent = text;
  return element;
}

/** Through [step, value] pairs; a single one is a line of no length, which is drawn as a dot. */
export function linePath(pairs, x, y) {
  const path = pairs.map(([step, value], index) => `${index ? "L" : "M"}${pixel(x(step))} ${pixel(y(value))}`).join("");
  return pairs.length === 1 ? `${path}h0` : path;
}

/** From the highest of each column back along the lowest. */
export function areaPath(band, x, y) {
  const highest = band.map(({ x: step, high }) => [step, high]);
  const lowest = band.map(({ x: step, low }) => [step, low]).reverse();
  return `${linePath(highest, x, y)}${linePath(lowest, x, y).replace("M", "L")}Z`;
}

/** A filled circle. */
export function dot(x, y, radius) {
  return `M${pixel(x - radius)} ${pixel(y)}a${radius} ${radius} 0 1 0 ${2 * radius} 0a${radius} ${radius} 0 1 0 ${-2 * radius} 0`;
}

function pixel(value) {
  return Math.round(value * 10) / 10;
}
