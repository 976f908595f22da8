/** Mouse and keyboard on a chart: pointing reads, dragging looks closer, a double click shows all; arrows, plus, minus and Escape do the same. */

import { nearest } from "../pure/curve.js";
import { visible } from "../pure/downsample.js";
import { SMALLEST_STEPS } from "../pure/scale.js";
import { set } from "./svg.js";

const DRAG_PIXELS = 4;
/** So many presses of an arrow key walk along what is shown. */
const WALK_STEPS = 100;

export class Gestures {
  /** @param {import("./chart.js").Chart} chart is pointed at, zoomed and moved */
  constructor(chart) {
    this.chart = chart;
    this.pressedAt = null;
    const { element } = chart;
    element.addEventListener("pointermove", (event) => this.#moved(event));
    element.addEventListener("pointerdown", (event) => this.#pressed(event));
    element.addEventListener("pointerup", (event) => this.#released(event));
    element.addEventListener("pointercancel", () => this.#letGo());
    element.addEventListener("pointerleave", () => !this.pressedAt && chart.point(null));
    element.addEventListener("dblclick", () => chart.showAll());
  }

  /** @returns {boolean} whether the key meant something here */
  key(name) {
    const { chart } = this;
    const centre = chart.cursor ?? undefined;
    const actions = {
      ArrowLeft: () => this.#walk(-1), ArrowRight: () => this.#walk(1), Home: () => chart.point(chart.range.from), End: () => chart.point(chart.range.to),
      "+": () => chart.change(0.5, centre), "=": () => chart.change(0.5, centre), "-": () => chart.change(2, centre), Escape: () => chart.showAll(),
      PageUp: () => chart.change(1, undefined, -0.8), PageDown: () => chart.change(1, undefined, 0.8),
    };
    if (!chart.range || !actions[name]) return false;
    actions[name]();
    return true;
  }

  /** The step under the mouse, whatever scale ComfyUI's canvas has given to the panel. */
  #stepAt(event) {
    const { element, inner, size, x } = this.chart;
    const box = element.getBoundingClientRect();
    const pixel = ((event.clientX - box.left) / (box.width || 1)) * size[0];
    return x.invert(Math.min(Math.max(pixel, inner.left), inner.right));
  }

  #moved(event) {
    const { chart } = this;
    if (!chart.range) return;
    const step = this.#stepAt(event);
    chart.point(step);
    if (!this.pressedAt) return;
    const [from, to] = [chart.x(this.pressedAt.step), chart.x(step)].sort((left, right) => left - right);
    set(chart.brush, { x: from, width: to - from, y: chart.inner.top, height: chart.inner.bottom - chart.inner.top, visibility: "visible" });
  }

  #pressed(event) {
    if (!this.chart.range || event.button !== 0) return;
    event.stopPropagation();
    this.chart.element.setPointerCapture(event.pointerId);
    this.pressedAt = { step: this.#stepAt(event), pixel: event.clientX };
  }

  #released(event) {
    if (!this.pressedAt) return;
    const { step, pixel } = this.pressedAt;
    const [from, to] = [step, this.#stepAt(event)].sort((left, right) => left - right);
    this.#letGo();
    if (Math.abs(event.clientX - pixel) >= DRAG_PIXELS && to - from >= SMALLEST_STEPS) this.chart.zoom(from, to);
  }

  #letGo() {
    this.pressedAt = null;
    this.chart.brush.setAttribute("visibility", "hidden");
  }

  /** To the neighbouring point; in a long curve as far as one can see. */
  #walk(direction) {
    const { chart } = this;
    const { step } = chart.data.curve;
    if (!step.length) return;
    const [first, end] = visible(step, chart.range.from, chart.range.to);
    const stride = Math.max(1, Math.round((end - first) / WALK_STEPS));
    const index = chart.cursor === null ? end - 1 : nearest(step, chart.cursor) + direction * stride;
    chart.point(step[Math.min(Math.max(index, 0), step.length - 1)]);
  }
}
