/** The pictures that a training makes on its way: hints above, pictures below, and a slider through the steps. */

import { element, say, show } from "../dom.js";
import { filled } from "../pure/strings.js";

const MOST_COLUMNS = 4;

export class Pictures {
  constructor(words, urlOf) {
    Object.assign(this, { words, urlOf });
    this.steps = [];
    this.shown = -1;
    this.follows = true;
    this.#build();
  }

  get isEmpty() {
    return this.steps.length === 0;
  }

  /** @param {import("../pure/training.js").Training | null} training */
  show(training) {
    const { picture_steps: steps = [], picture_count: count = 0, hint_count: hints = 0 } = training?.figures ?? {};
    if (training?.run !== this.run) Object.assign(this, { run: training?.run, follows: true, drawn: "" });
    this.steps = steps;
    this.columns = Math.min(MOST_COLUMNS, count);
    this.hintCount = Math.min(hints, this.columns);
    show(this.element, !this.isEmpty);
    if (this.isEmpty) return;
    if (this.follows || !steps.includes(this.shown)) this.shown = steps.at(-1);
    this.#draw();
  }

  #build() {
    this.label = element("span", { class: "graft-picture-step" });
    this.slider = element("input", {
      type: "range", min: 0, value: 0, step: 1, class: "graft-picture-slider", "aria-label": this.words.pictureStep, oninput: () => this.#moved(),
    });
    this.cells = element("div", { class: "graft-cells" });
    this.element = element(
      "div", { class: "graft-pictures", hidden: true },
      element("div", { class: "graft-picture-line" }, element("span", {}, this.words.pictures), this.slider, this.label), this.cells,
    );
  }

  #moved() {
    const index = Number(this.slider.value);
    this.shown = this.steps[index];
    this.follows = index === this.steps.length - 1;
    this.#draw();
  }

  #draw() {
    this.slider.max = String(this.steps.length - 1);
    this.slider.value = String(this.steps.indexOf(this.shown));
    this.slider.disabled = this.steps.length < 2;
    const text = this.shown === 0 ? this.words.before : filled(this.words.stepOnly, { step: this.shown });
    this.slider.setAttribute("aria-valuetext", text);
    say(this.label, text);
    const drawn = `${this.run} ${this.shown} ${this.columns} ${this.hintCount}`;
    if (drawn === this.drawn) return;
    this.drawn = drawn;
    this.element.style.setProperty("--graft-columns", String(this.columns || 1));
    const numbers = Array.from({ length: this.columns }, (_, index) => index);
    const hints = numbers.slice(0, this.hintCount).map((index) => this.#cell("hint", index, filled(this.words.hint, { number: index + 1 })));
    const made = numbers.map((index) => this.#cell(this.shown, index, filled(this.words.picture, { number: index + 1, step: this.shown })));
    this.cells.replaceChildren(...hints, ...made);
  }

  #cell(step, index, text) {
    const url = this.urlOf(this.run, step, index);
    return element("a", { href: url, target: "_blank", rel: "noopener", title: text, class: "graft-cell" }, element("img", { src: url, alt: text, draggable: "false" }));
  }
}
