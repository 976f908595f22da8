/** The panel of one Train Steps node: what its training does, and the buttons to act on it. Draws at most once per frame. */

import { element } from "../dom.js";
import { Actions } from "./actions.js";
import { Curves } from "./curves.js";
import { Head } from "./head.js";
import { Pictures } from "./pictures.js";
import { Tiles } from "./tiles.js";

/** As in graft.css. */
const [CURVES_PIXELS, GAP_PIXELS, PADDING_PIXELS, USUAL_PIXELS] = [190, 8, 8, 370];
/** Narrower than any node: the page is still putting the panel in its place. */
const LEAST_WIDTH_PIXELS = 160;
/** Drawing may take this share of the page's time: long curves are drawn less often. */
const DRAWING_SHARE = 0.05;
const COMPLAINT_MILLISECONDS = 8000;

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
    Object.assign(this, { words, grown });
    this.complaint = "";
    this.training = null;
    this.isConnected = true;
    this.renderedAt = 0;
    this.cost = 0;
    this.head = new Head(words, locale);
    this.tiles = new Tiles(words);
    this.curves = new Curves(words, locale);
    this.pictures = new Pictures(words, pictureUrl);
    this.actions = new Actions(words, locale, act, (text) => this.#complain(text));
    const parts = [this.head, this.tiles, this.curves, this.pictures, this.actions];
    const ownKeys = { onpointerdown: (event) => event.stopPropagation(), onkeydown: keepKeys };
    this.element = element("section", { class: "graft-panel", "aria-label": words.panel, ...ownKeys }, ...parts.map((part) => part.element));
    /** The least height in pixels at which nothing is cut off; a guess until the page has laid the panel out. */
    this.height = USUAL_PIXELS;
    this.observer = new ResizeObserver(() => this.#measure());
    this.observer.observe(this.element);
    this.render();
  }

  /** @param {import("../pure/training.js").Training | null} training */
  show(training) {
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
    clearTimeout(this.complaintTimer);
    this.observer.disconnect();
    this.actions.remove();
    this.curves.remove();
    this.element.remove();
  }

  render() {
    const began = performance.now();
    const { training, isConnected } = this;
    const figures = training?.figures;
    const phase = figures?.phase ?? "waiting";
    this.element.dataset.phase = phase;
    this.head.show(figures, phase, training?.goingOn && !isConnected ? this.words.disconnected : this.complaint || figures?.message);
    this.curves.show(training);
    this.tiles.show(training, this.curves.loss);
    this.pictures.show(training);
    this.actions.show(figures, phase === "running" && isConnected);
    this.#measure();
    this.planned = undefined;
    this.renderedAt = performance.now();
    this.cost = this.renderedAt - began;
  }

  /** It stands there for a while; then the training's own words do again. */
  #complain(text) {
    clearTimeout(this.complaintTimer);
    this.complaint = text;
    if (text) this.complaintTimer = setTimeout(() => this.#complain(""), COMPLAINT_MILLISECONDS);
    this.update();
  }

  /** Another height needs another node; what is not laid out yet, in its width and by our style sheet, tells nothing. */
  #measure() {
    if (this.element.offsetWidth < LEAST_WIDTH_PIXELS || getComputedStyle(this.element).display !== "flex") return;
    const parts = [...this.element.children].filter((part) => !part.hidden);
    const heights = parts.map((part) => (part === this.curves.element ? CURVES_PIXELS : part.offsetHeight));
    const height = heights.reduce((sum, each) => sum + each, 0) + GAP_PIXELS * (parts.length - 1) + 2 * PADDING_PIXELS;
    if (height === this.height) return;
    this.height = height;
    this.element.style.minHeight = `${height}px`;
    this.grown();
  }
}

/** A key pressed in the panel is for the panel: Delete must not remove the node. What goes with Ctrl or Cmd stays ComfyUI's. */
function keepKeys(event) {
  if (!event.ctrlKey && !event.metaKey) event.stopPropagation();
}
