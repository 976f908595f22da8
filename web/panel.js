/** The panel of one Train Steps node: what its training does, and the buttons to act on it. Draws at most once per frame. */

import { Chart } from "./chart.js";
import { element, say, show } from "./dom.js";
import { Pictures } from "./pictures.js";
import { bytes, duration, figure, nowAndPeak, speed, whole } from "./pure/format.js";
import { filled } from "./pure/strings.js";

const ACTIONS = ["stop", "sample", "save"];
const CONFIRMED_MILLISECONDS = 5000;
/** As in graft.css. */
const [CHART_PIXELS, GAP_PIXELS, PADDING_PIXELS, USUAL_PIXELS] = [190, 8, 8, 370];
/** Drawing may take this share of the page's time: long curves are drawn less often. */
const DRAWING_SHARE = 0.05;

export class Panel {
  /**
   * @param {object} options
   * @param {Record<string, string>} options.words pure/strings.js
   * @param {string} options.locale for numbers
   * @param {(run: string, wish: string) => Promise<boolean>} options.act
   * @param {(run: string, step: number | "hint", index: number) => string} options.pictureUrl
   * @param {() => void} options.grown is called when the panel needs another height
   */
  constructor({ words, locale, act, pictureUrl, grown = () => {} }) {
    Object.assign(this, { words, locale, act, grown });
    this.training = null;
    this.isConnected = true;
    this.notice = "";
    this.renderedAt = 0;
    this.cost = 0;
    this.chart = new Chart((reading) => this.#read(reading), (zoomedIn) => show(this.showAllButton, zoomedIn));
    this.pictures = new Pictures(words, pictureUrl);
    this.#build();
    this.observer = new ResizeObserver(() => this.#fit());
    this.observer.observe(this.chartBox);
    this.render();
  }

  /** @param {import("./pure/training.js").Training | null} training */
  show(training) {
    if (training?.run !== this.training?.run) this.notice = "";
    this.training = training;
    this.update();
  }

  connected(isConnected) {
    this.isConnected = isConnected;
    this.update();
  }

  update() {
    if (this.planned) return;
    const rested = performance.now() - this.renderedAt;
    this.planned = setTimeout(() => requestAnimationFrame(() => this.render()), Math.max(0, this.cost / DRAWING_SHARE - rested));
  }

  remove() {
    clearTimeout(this.planned);
    clearTimeout(this.noticeTimer);
    this.observer.disconnect();
    this.element.remove();
  }

  /** The least height in pixels at which nothing is cut off; a guess until the page has laid it out. */
  get height() {
    const parts = [...this.element.children].filter((part) => !part.hidden);
    if (!this.element.offsetHeight) return USUAL_PIXELS;
    const heights = parts.map((part) => (part === this.chartSection ? CHART_PIXELS : part.offsetHeight));
    return heights.reduce((sum, height) => sum + height, 0) + GAP_PIXELS * (parts.length - 1) + 2 * PADDING_PIXELS;
  }

  // ------------------------------------------------------------ building

  #build() {
    const { words } = this;
    this.element = element("section", { class: "graft-panel", "aria-label": words.panel, onpointerdown: (event) => event.stopPropagation() });
    this.chartSection = this.#buildChart();
    this.element.append(this.#buildHead(), this.#buildTiles(), this.chartSection, this.pictures.element, this.#buildActions());
  }

  #buildHead() {
    this.dot = element("span", { class: "graft-dot", "aria-hidden": "true" });
    this.title = element("span", { class: "graft-title", role: "status" });
    this.left = element("span", { class: "graft-left" });
    this.bar = element("div", { class: "graft-bar-fill" });
    this.progress = element("div", { class: "graft-bar", role: "progressbar", "aria-label": this.words.progress, "aria-valuemin": 0 }, this.bar);
    this.message = element("p", { class: "graft-message", role: "alert", hidden: true });
    return element("header", { class: "graft-head" }, element("div", { class: "graft-line" }, this.dot, this.title, this.left), this.progress, this.message);
  }

  #buildTiles() {
    const { words } = this;
    const tile = (name, title) => {
      const value = element("dd", {});
      const box = element("div", { class: "graft-tile", title }, element("dt", {}, name), value);
      return { box, value };
    };
    this.tiles = {
      loss: tile(words.loss, words.lossHelp), heldOut: tile(words.heldOut, words.heldOutHelp), rate: tile(words.rate, words.rateHelp),
      speed: tile(words.speed, words.speedHelp), device: tile(words.vram, ""), main: tile(words.ram, ""),
    };
    return element("dl", { class: "graft-tiles" }, ...Object.values(this.tiles).map((each) => each.box));
  }

  #buildChart() {
    const { words } = this;
    this.empty = element("p", { class: "graft-empty" });
    this.reading = element("output", { class: "graft-reading", hidden: true });
    this.chartBox = element(
      "div",
      { class: "graft-chart", tabindex: 0, role: "group", "aria-label": words.chart, onkeydown: (event) => this.#keyPressed(event), onblur: () => this.chart.point(null) },
      this.chart.element, this.empty, this.reading,
    );
    return element("div", { class: "graft-chart-section" }, this.#buildLegend(), this.chartBox);
  }

  #buildLegend() {
    const { words } = this;
    const item = (kind, text) => element("span", { class: `graft-key graft-key-${kind}` }, text);
    const smoothing = element("input", {
      type: "range", min: 0, max: 100, value: 50, class: "graft-smoothing", "aria-label": words.smoothing, title: words.smoothing,
      oninput: (event) => this.chart.set({ smoothing: event.target.value / 100 }),
    });
    const log = element("button", {
      type: "button", class: "graft-small", "aria-pressed": "false", title: words.logarithmicHelp,
      onclick: (event) => {
        this.chart.set({ log: !this.chart.log });
        event.currentTarget.setAttribute("aria-pressed", String(this.chart.log));
      },
    }, words.logarithmic);
    this.showAllButton = element("button", { type: "button", class: "graft-small", hidden: true, title: words.showAllHelp, onclick: () => this.chart.showAll() }, words.showAll);
    return element(
      "div", { class: "graft-legend" }, item("raw", words.raw), item("mean", words.smoothed), item("held", words.heldOutLoss),
      element("span", { class: "graft-space" }), this.showAllButton, smoothing, log,
    );
  }

  #buildActions() {
    const button = (wish) => element("button", { type: "button", class: `graft-action graft-${wish}`, title: this.words[`${wish}Help`], onclick: () => this.#wish(wish) }, this.words[wish]);
    this.buttons = Object.fromEntries(ACTIONS.map((wish) => [wish, button(wish)]));
    this.confirmation = element("span", { class: "graft-confirmation", role: "status" });
    return element("footer", { class: "graft-actions" }, ...Object.values(this.buttons), this.confirmation);
  }

  // ------------------------------------------------------------ showing

  render() {
    const began = performance.now();
    this.#renderAll();
    this.planned = undefined;
    this.renderedAt = performance.now();
    this.cost = this.renderedAt - began;
  }

  #renderAll() {
    const figures = this.training?.figures;
    const phase = figures?.phase ?? "waiting";
    this.element.dataset.phase = phase;
    this.#renderHead(figures, phase);
    this.#renderTiles(figures);
    this.chart.show(this.training);
    say(this.empty, this.#emptyText(phase));
    this.pictures.show(this.training);
    this.#renderActions(figures, phase);
    this.#grow();
  }

  #renderHead(figures, phase) {
    const { words, locale } = this;
    const steps = !figures?.until_step
      ? ""
      : filled(figures.step < figures.until_step ? words.stepOf : words.stepOnly, { step: whole(figures.step, locale), total: whole(figures.until_step, locale) });
    const parts = [words[phase], steps];
    say(this.title, parts.filter(Boolean).join(" · "));
    say(this.left, figures?.seconds_left == null ? "" : filled(words.left, { time: duration(figures.seconds_left) }));
    this.bar.style.width = `${figures?.until_step ? (100 * figures.step) / figures.until_step : 0}%`;
    this.progress.setAttribute("aria-valuemax", String(figures?.until_step ?? 0));
    this.progress.setAttribute("aria-valuenow", String(figures?.step ?? 0));
    const message = !this.isConnected && this.training?.goingOn ? words.disconnected : (figures?.message ?? "");
    say(this.message, message);
    show(this.message, Boolean(message));
  }

  #renderTiles(figures) {
    const { tiles, training, words } = this;
    const smooth = this.chart.data === training ? this.chart.smooth : undefined;
    say(tiles.loss.value, figure(training?.curve.length ? (smooth?.at(-1) ?? training.curve.mean.at(-1)) : undefined));
    say(tiles.heldOut.value, figure(training?.heldOut.loss.at(-1)));
    say(tiles.rate.value, figure(figures?.learning_rate, 3));
    say(tiles.speed.value, speed(figures?.steps_per_second, words));
    for (const kind of ["device", "main"]) this.#renderMemory(tiles[kind], figures?.memory?.[kind], kind === "main");
  }

  #renderMemory(tile, memory, always) {
    show(tile.box, always || Boolean(memory));
    const { now, peak } = memory ?? {};
    say(tile.value, nowAndPeak(now, peak));
    tile.box.title = filled(this.words.memoryHelp, { peak: bytes(peak) });
  }

  #emptyText(phase) {
    if (this.training && (this.training.curve.length || this.training.heldOut.step.length)) return "";
    return phase === "waiting" ? this.words.waitingHint : this.words.chartEmpty;
  }

  #renderActions(figures, phase) {
    const running = phase === "running" && this.isConnected;
    const asked = figures?.wishes ?? [];
    for (const wish of ACTIONS) {
      const button = this.buttons[wish];
      const pending = running && asked.includes(wish);
      button.disabled = !running || pending || (wish === "sample" && !figures.can_sample);
      say(button, this.words[pending ? `${wish}Asked` : wish]);
      button.title = this.words[wish === "sample" && running && !figures.can_sample ? "cannotSample" : `${wish}Help`];
    }
    this.#noteSaved(figures);
    say(this.confirmation, this.notice);
  }

  /** "Saved at step 120" appears when a checkpoint is new, and goes after a while. */
  #noteSaved(figures) {
    const saved = figures ? `${figures.run} ${figures.saved_step}` : "";
    const isNew = figures && this.savedBefore?.startsWith(figures.run) && this.savedBefore !== saved;
    this.savedBefore = saved;
    if (isNew) this.#note(filled(this.words.saved, { step: whole(figures.saved_step, this.locale) }));
  }

  #note(text) {
    this.notice = text;
    clearTimeout(this.noticeTimer);
    this.noticeTimer = setTimeout(() => {
      this.notice = "";
      this.update();
    }, CONFIRMED_MILLISECONDS);
  }

  #grow() {
    const { height } = this;
    if (height === this.lastHeight) return;
    this.lastHeight = height;
    this.element.style.minHeight = `${height}px`;
    this.grown();
  }

  #fit() {
    this.chart.resize(Math.max(120, this.chartBox.clientWidth), Math.max(80, this.chartBox.clientHeight));
    this.pictures.fit();
  }

  // ------------------------------------------------------------ acting

  async #wish(wish) {
    const { run } = this.training ?? {};
    if (!run) return;
    this.buttons[wish].disabled = true;
    try {
      if (!(await this.act(run, wish))) this.#note(this.words.refused);
    } catch {
      this.#note(this.words.unreachable);
    }
    this.update();
  }

  #keyPressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.chart.key(event.key)) return;
    event.preventDefault();
    event.stopPropagation();
  }

  #read(reading) {
    show(this.reading, Boolean(reading));
    if (!reading) return;
    const { words, locale } = this;
    const steps = reading.from < reading.step ? `${words.steps} ${whole(reading.from, locale)}–${whole(reading.step, locale)}` : `${words.step} ${whole(reading.step, locale)}`;
    const lines = [steps, `${words.loss} ${figure(reading.loss, 5)}`, `${words.smoothed} ${figure(reading.smoothed, 5)}`];
    if (reading.heldOut) lines.push(`${words.heldOutLoss} ${figure(reading.heldOut.loss, 5)} (${words.step} ${whole(reading.heldOut.step, locale)})`);
    lines.push(`${words.rate} ${figure(reading.rate, 3)}`);
    this.reading.dataset.side = reading.side;
    this.reading.replaceChildren(...lines.map((line) => element("span", {}, line)));
  }
}
