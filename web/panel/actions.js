/** The buttons by which a person acts on a training, and the words that confirm it. */

import { element, say } from "../dom.js";
import { whole } from "../pure/format.js";
import { filled } from "../pure/strings.js";

const WISHES = ["stop", "sample", "save"];
const CONFIRMED_MILLISECONDS = 5000;

export class Actions {
  /**
   * @param {Record<string, string>} words
   * @param {string} locale
   * @param {(run: string, wish: string) => Promise<boolean>} act resolves to whether the server has accepted
   */
  constructor(words, locale, act) {
    Object.assign(this, { words, locale, act });
    this.buttons = Object.fromEntries(WISHES.map((wish) => [wish, this.#button(wish)]));
    this.confirmation = element("span", { class: "graft-confirmation", role: "status" });
    this.element = element("footer", { class: "graft-actions" }, ...Object.values(this.buttons), this.confirmation);
  }

  /**
   * @param {object | undefined} figures of the newest event
   * @param {boolean} isRunning and can be reached
   */
  show(figures, isRunning) {
    if (figures?.run !== this.run) this.#confirm("");
    for (const wish of WISHES) this.#showButton(wish, isRunning, figures ?? {});
    const isSaved = figures?.run === this.run && figures?.saved_step !== this.savedStep;
    Object.assign(this, { run: figures?.run, savedStep: figures?.saved_step });
    if (figures && isSaved) this.#confirm(filled(this.words.saved, { step: whole(figures.saved_step, this.locale) }));
  }

  remove() {
    clearTimeout(this.timer);
  }

  #showButton(wish, isRunning, { wishes = [], can_sample: canSample }) {
    const isAsked = isRunning && wishes.includes(wish);
    const isImpossible = isRunning && wish === "sample" && !canSample;
    this.buttons[wish].disabled = !isRunning || isAsked || isImpossible;
    this.buttons[wish].title = this.words[isImpossible ? "cannotSample" : `${wish}Help`];
    say(this.buttons[wish], this.words[isAsked ? `${wish}Asked` : wish]);
  }

  #button(wish) {
    return element("button", { type: "button", class: `graft-action graft-${wish}`, onclick: () => this.#wish(wish) }, this.words[wish]);
  }

  async #wish(wish) {
    if (!this.run) return;
    this.buttons[wish].disabled = true;
    try {
      if (!(await this.act(this.run, wish))) this.#confirm(this.words.refused);
    } catch {
      this.#confirm(this.words.unreachable);
      this.buttons[wish].disabled = false;
    }
  }

  /** It goes after a while. */
  #confirm(text) {
    clearTimeout(this.timer);
    say(this.confirmation, text);
    if (text) this.timer = setTimeout(() => say(this.confirmation, ""), CONFIRMED_MILLISECONDS);
  }
}
