/** A loss chart in SVG: each step faint, a running mean strong, held-out losses as points. Mouse and keyboard are in gestures.js. */

import { nearest } from "../pure/curve.js";
import { averages, envelope, visible } from "../pure/downsample.js";
import { tick, ticks } from "../pure/format.js";
import { SMALLEST_STEPS, linearScale, logScale, zoomed } from "../pure/scale.js";
import { memoryOf, smoothed } from "../pure/smooth.js";
import { axisRange, linearTicks, logTicks } from "../pure/ticks.js";
import { Gestures } from "./gestures.js";
import { areaPath, dot, label, linePath, make, set } from "./svg.js";

const MARGIN = { left: 46, right: 10, top: 8, bottom: 22 };
/** Of a held-out point, and how far lines may leave the frame. */
const DOT_PIXELS = 3;
/** Between two figures of an axis; and how many there are at the most in a tall chart. */
const [ROW_PIXELS, COLUMN_PIXELS, MOST_ROWS] = [26, 70, 6];
/** So many losses tell how far the noise goes. */
const NOISE_SAMPLES = 2000;

export class Chart {
  /**
   * @param {(reading: object | null) => void} onRead is told which point is pointed at, or null
   * @param {(zoomedIn: boolean) => void} onZoom
   */
  constructor(onRead = () => {}, onZoom = () => {}) {
    this.onRead = onRead;
    this.onZoom = onZoom;
    this.data = null;
    this.view = null;
    this.log = false;
    this.smoothing = 0.5;
    /** Other curves to compare with: {curve, heldOut, color}. */
    this.others = [];
    this.size = [400, 180];
    this.cursor = null;
    /** The running mean at each point of the curve as it was drawn last. */
    this.smooth = [];
    this.#build();
    this.gestures = new Gestures(this);
  }

  /** @param {{curve: import("../pure/curve.js").Curve, heldOut: {step: number[], loss: number[]}}} data */
  show(data) {
    if (this.data && data !== this.data) this.view = null;
    this.data = data;
    this.draw();
  }

  set(options) {
    Object.assign(this, options);
    this.draw();
  }

  resize(width, height) {
    if (width === this.size[0] && height === this.size[1]) return;
    this.size = [width, height];
    this.draw();
  }

  showAll() {
    this.view = null;
    this.onZoom(false);
    this.draw();
  }

  // ------------------------------------------------------------ drawing

  draw() {
    const [width, height] = this.size;
    this.element.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.inner = { left: MARGIN.left, right: Math.max(MARGIN.left + 10, width - MARGIN.right), top: MARGIN.top, bottom: height - MARGIN.bottom };
    this.#frame();
    const curve = this.data?.curve;
    if (!curve || (!curve.length && !this.data.heldOut.step.length)) return this.#empty();
    this.smooth = smoothed(curve.mean, curve.count, memoryOf(this.smoothing, this.#last()));
    this.#scales();
    this.#axes();
    this.#curves();
    this.#otherCurves();
    this.#dots();
    this.#moveCursor();
  }

  #build() {
    this.element = make("svg", { class: "graft-chart-svg", "aria-hidden": "true", preserveAspectRatio: "none" });
    const id = `graft-clip-${Math.random().toString(36).slice(2)}`;
    this.clip = make("rect");
    const clip = make("clipPath", { id });
    clip.append(this.clip);
    this.grid = make("g", { class: "graft-grid" });
    this.lines = make("g", { "clip-path": `url(#${id})` });
    this.raw = make("path", { class: "graft-raw" });
    this.mean = make("path", { class: "graft-mean" });
    this.held = make("path", { class: "graft-held-line" });
    this.points = make("path", { class: "graft-held" });
    this.more = make("g", { class: "graft-others" });
    this.lines.append(this.raw, this.held, this.more, this.mean, this.points);
    this.brush = make("rect", { class: "graft-brush", visibility: "hidden" });
    this.mark = make("g", { class: "graft-mark", visibility: "hidden" });
    this.markLine = make("line");
    this.markDot = make("circle", { r: 3.5 });
    this.mark.append(this.markLine, this.markDot);
    this.element.append(clip, this.grid, this.lines, this.brush, this.mark);
  }

  #frame() {
    const { left, right, top, bottom } = this.inner;
    set(this.clip, { x: left - DOT_PIXELS, y: top - DOT_PIXELS, width: right - left + 2 * DOT_PIXELS, height: bottom - top + 2 * DOT_PIXELS });
  }

  #empty() {
    this.smooth = [];
    this.grid.replaceChildren();
    this.more.replaceChildren();
    for (const path of [this.raw, this.mean, this.held, this.points]) path.setAttribute("d", "");
    this.mark.setAttribute("visibility", "hidden");
  }

  #last() {
    return Math.max(1, ...this.#all().map(({ curve, heldOut }) => Math.max(curve.lastStep, heldOut.step.at(-1) ?? 0)));
  }

  #first() {
    return Math.min(...this.#all().map(({ curve, heldOut }) => Math.min(curve.length ? curve.step[0] : Infinity, heldOut.step[0] ?? Infinity)));
  }

  #all() {
    return [this.data, ...this.others];
  }

  /** A curve's running mean in the columns of the chart: [step, loss] pairs. */
  #meanOf(curve, from, to, columns) {
    return averages(curve.step, smoothed(curve.mean, curve.count, memoryOf(this.smoothing, this.#last())), from, to, columns);
  }

  #scales() {
    const { left, right, top, bottom } = this.inner;
    const [from, to] = this.view ?? [this.#first(), this.#last()];
    const { curve, heldOut } = this.data;
    const [first, end] = visible(curve.step, from, to);
    const held = heldOut.loss.filter((_, index) => heldOut.step[index] >= from && heldOut.step[index] <= to);
    const others = this.others.flatMap((other) => this.#meanOf(other.curve, from, to, 200));
    const firm = [...averages(curve.step, this.smooth, from, to, 200), ...others].map(([, value]) => value);
    const stride = Math.ceil((end - first) / NOISE_SAMPLES) || 1;
    const noise = Array.from({ length: Math.ceil((end - first) / stride) }, (_, index) => curve.mean[first + index * stride]);
    const [low, high] = axisRange([...firm, ...held], noise, this.log);
    this.x = linearScale(from, to > from ? to : from + 1, left, right);
    this.y = (this.log ? logScale : linearScale)(low, high, bottom, top);
    this.range = { from, to, low, high };
  }

  #axes() {
    const { left, right, top, bottom } = this.inner;
    const { from, to, low, high } = this.range;
    const rows = Math.min(MOST_ROWS, Math.max(3, Math.round((bottom - top) / ROW_PIXELS)));
    const columns = Math.max(2, Math.round((right - left) / COLUMN_PIXELS));
    const parts = [];
    const values = (this.log ? logTicks : linearTicks)(low, high, rows);
    const texts = this.log ? values.map(tick) : ticks(values);
    values.forEach((value, index) => {
      const y = Math.round(this.y(value)) + 0.5;
      parts.push(make("line", { x1: left, x2: right, y1: y, y2: y }), label(texts[index], left - 6, y + 3.5, "end"));
    });
    for (const value of linearTicks(from, to, columns, true)) {
      const x = this.x(value);
      if (x > right + 1) continue;
      parts.push(label(tick(value), Math.min(x, right - 4), bottom + 15, x > right - 16 ? "end" : "middle"));
    }
    parts.push(make("line", { class: "graft-axis", x1: left, x2: right, y1: bottom + 0.5, y2: bottom + 0.5 }));
    this.grid.replaceChildren(...parts);
  }

  #curves() {
    const { curve } = this.data;
    const { from, to } = this.range;
    const columns = Math.max(50, Math.round(this.inner.right - this.inner.left));
    const band = envelope(curve.step, curve.lowest, curve.highest, from, to, columns);
    const isDense = band.some(({ low, high }) => low !== high);
    this.raw.setAttribute("class", isDense ? "graft-raw-area" : "graft-raw");
    this.raw.setAttribute("d", isDense ? areaPath(band, this.x, this.y) : linePath(band.map(({ x, low }) => [x, low]), this.x, this.y));
    const means = averages(curve.step, this.smooth, from, to, columns);
    this.mean.setAttribute("class", means.length === 1 ? "graft-mean graft-alone" : "graft-mean");
    this.mean.setAttribute("d", linePath(means, this.x, this.y));
  }

  #otherCurves() {
    const { from, to } = this.range;
    const paths = this.others.map(({ curve, color }) => make("path", { d: linePath(this.#meanOf(curve, from, to, 400), this.x, this.y), style: `stroke: ${color}` }));
    this.more.replaceChildren(...paths);
  }

  #dots() {
    const { step, loss } = this.data.heldOut;
    const { from, to } = this.range;
    const [first, end] = visible(step, from, to);
    const pairs = step.slice(first, end).map((value, index) => [value, loss[first + index]]);
    this.held.setAttribute("d", linePath(pairs, this.x, this.y));
    const shown = pairs.length > 60 ? [] : pairs;
    this.points.setAttribute("d", shown.map(([value, height]) => dot(this.x(value), this.y(height), DOT_PIXELS)).join(""));
  }

  // ------------------------------------------------------------ reading

  /** Points at the curve's point nearest to a step; null lets go. */
  point(step) {
    this.cursor = step;
    this.#moveCursor();
  }

  /** A point that has come since the curve was drawn is not to be pointed at yet. */
  #moveCursor() {
    const curve = this.data?.curve;
    const index = this.cursor === null || !curve ? -1 : Math.min(nearest(curve.step, this.cursor), this.smooth.length - 1);
    this.mark.setAttribute("visibility", index < 0 ? "hidden" : "visible");
    if (index < 0) return this.onRead(null);
    const x = this.x(curve.step[index]);
    set(this.markLine, { x1: x, x2: x, y1: this.inner.top, y2: this.inner.bottom });
    set(this.markDot, { cx: x, cy: this.y(this.smooth[index]) });
    this.onRead(this.#reading(index));
  }

  #reading(index) {
    const { curve, heldOut } = this.data;
    const held = nearest(heldOut.step, curve.step[index]);
    return {
      from: curve.step[index] - curve.count[index] + 1, step: curve.step[index], loss: curve.mean[index], smoothed: this.smooth[index],
      rate: curve.rate[index], heldOut: held < 0 ? null : { step: heldOut.step[held], loss: heldOut.loss[held] },
      side: this.x(curve.step[index]) > (this.inner.left + this.inner.right) / 2 ? "left" : "right",
    };
  }

  /** @returns {boolean} whether the key meant something here */
  key(name) {
    return this.gestures.key(name);
  }

  /** Shows these steps only. */
  zoom(from, to) {
    this.view = [from, to];
    this.onZoom(true);
    this.draw();
  }

  /** Scales what is shown by a factor around a step, or moves it by a part of its width; all of it is the most. */
  change(factor, centre, shift = 0) {
    if (!this.range) return;
    const all = [this.#first(), this.#last()];
    const next = zoomed([this.range.from, this.range.to], all, factor, centre, shift, SMALLEST_STEPS);
    if (next[1] - next[0] >= all[1] - all[0]) this.showAll();
    else this.zoom(...next);
  }
}
