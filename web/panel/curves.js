/** The chart of a panel with what belongs to it: legend, smoothing, axis, and the values that are pointed at. */

import { Chart } from "../chart/chart.js";
import { element, say, show } from "../dom.js";
import { figure, whole } from "../pure/format.js";
import { filled } from "../pure/strings.js";

const LEAST_PIXELS = [120, 80];

export class Curves {
  /** `emptyHint` is what an empty chart says that nothing has been given to. */
  constructor(words, locale, emptyHint = words.waitingHint) {
    Object.assign(this, { words, locale, emptyHint });
    this.chart = new Chart((reading) => this.#read(reading), (zoomedIn) => show(this.showAll, zoomedIn));
    this.empty = element("p", { class: "graft-empty" });
    this.reading = element("output", { class: "graft-reading", hidden: true });
    this.box = element(
      "div",
      { class: "graft-chart", tabindex: 0, role: "group", "aria-label": words.chart, onkeydown: (event) => this.#pressed(event), onblur: () => this.chart.point(null) },
      this.chart.element, this.empty, this.reading,
    );
    this.element = element("div", { class: "graft-chart-section" }, this.#legend(), this.box);
    this.observer = new ResizeObserver(() => this.#fit());
    this.observer.observe(this.box);
  }

  /**
   * @param {{curve: import("../pure/curve.js").Curve, heldOut: {step: number[], loss: number[]}} | null} training
   * @param {object[]} others curves to compare with: {curve, heldOut, color}
   */
  show(training, others = []) {
    this.chart.others = others;
    this.chart.show(training);
    const isDrawn = training && (training.curve.length || training.heldOut.step.length);
    say(this.empty, isDrawn ? "" : training ? this.words.chartEmpty : this.emptyHint);
  }

  /** The running mean after the last step; undefined where there is none. */
  get loss() {
    return this.chart.data?.curve.length ? this.chart.smooth?.at(-1) : undefined;
  }

  remove() {
    this.observer.disconnect();
  }

  #legend() {
    const { words } = this;
    const key = (kind, text) => element("span", { class: `graft-key graft-key-${kind}` }, text);
    const smoothing = element("input", {
      type: "range", min: 0, max: 100, value: 50, class: "graft-smoothing", "aria-label": words.smoothing, title: words.smoothing,
      oninput: (event) => this.chart.set({ smoothing: event.target.value / 100 }),
    });
    const button = (text, title, onclick) => element("button", { type: "button", class: "graft-small", title, onclick }, text);
    this.showAll = button(words.showAll, words.showAllHelp, () => this.chart.showAll());
    const log = button(words.logarithmic, words.logarithmicHelp, () => this.#toggle(log));
    show(this.showAll, false);
    log.setAttribute("aria-pressed", "false");
    const keys = [key("raw", words.raw), key("mean", words.smoothed), key("held", words.heldOutLoss)];
    return element("div", { class: "graft-legend" }, ...keys, element("span", { class: "graft-tools" }, this.showAll, smoothing, log));
  }

  #toggle(log) {
    this.chart.set({ log: !this.chart.log });
    log.setAttribute("aria-pressed", String(this.chart.log));
  }

  #fit() {
    this.chart.resize(Math.max(LEAST_PIXELS[0], this.box.clientWidth), Math.max(LEAST_PIXELS[1], this.box.clientHeight));
  }

  #pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.chart.key(event.key)) return;
    event.preventDefault();
    event.stopPropagation();
  }

  #read(reading) {
    show(this.reading, Boolean(reading));
    if (!reading) return;
    this.reading.dataset.side = reading.side;
    this.reading.replaceChildren(...this.#lines(reading).map((line) => element("span", {}, line)));
  }

  #lines({ from, step, loss, smoothed, heldOut, rate }) {
    const { words } = this;
    const number = (value) => whole(value, this.locale);
    const told = (steps) => filled(words.stepOnly, { step: steps });
    const steps = told(from < step ? `${number(from)}–${number(step)}` : number(step));
    const held = heldOut ? [`${words.heldOutLoss} ${figure(heldOut.loss, 5)} (${told(number(heldOut.step))})`] : [];
    return [steps, `${words.loss} ${figure(loss, 5)}`, `${words.smoothed} ${figure(smoothed, 5)}`, ...held, `${words.rate} ${figure(rate, 3)}`];
  }
}
