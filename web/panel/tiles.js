/** The figures of a training, side by side. */

import { element, say, show } from "../dom.js";
import { bytes, figure, nowAndPeak, speed } from "../pure/format.js";
import { filled } from "../pure/strings.js";

export class Tiles {
  constructor(words) {
    this.words = words;
    this.values = {};
    this.boxes = {};
    const names = { loss: words.loss, heldOut: words.heldOut, rate: words.rate, speed: words.speed, device: words.vram, main: words.ram };
    this.element = element("dl", { class: "graft-tiles" }, ...Object.entries(names).map(([kind, name]) => this.#tile(kind, name)));
  }

  /**
   * @param {import("../pure/training.js").Training | null} training
   * @param {number | undefined} loss the running mean
   */
  show(training, loss) {
    const figures = training?.figures;
    say(this.values.loss, figure(loss));
    say(this.values.heldOut, figure(training?.heldOut.loss.at(-1)));
    say(this.values.rate, figure(figures?.learning_rate, 3));
    say(this.values.speed, speed(figures?.steps_per_second, this.words));
    this.#memory("device", figures?.memory?.device);
    this.#memory("main", figures?.memory?.main);
    show(this.boxes.device, Boolean(figures?.memory?.device));
  }

  #memory(kind, { now, peak } = {}) {
    say(this.values[kind], nowAndPeak(now, peak));
    this.boxes[kind].title = filled(this.words.memoryHelp, { peak: bytes(peak) });
  }

  #tile(kind, name) {
    this.values[kind] = element("dd", {});
    this.boxes[kind] = element("div", { class: "graft-tile", title: this.words[`${kind}Help`] ?? "" }, element("dt", {}, name), this.values[kind]);
    return this.boxes[kind];
  }
}
