/** The buttons by which a person acts on a training. Each says itself what came of it, so that the panel keeps its height. */

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
   * @param {(text: string) => void} complain gets what went wrong
   */
  constructor(words, locale, act, complain) {
    Object.assign(this, { words, locale, act, complain });
    this.saved = "";
    this.buttons = Object.fromEntries(WISHES.map((wish) => [wish, this.#button(wish)]));
    this.element = element("footer", { class: "graft-actions", "aria-live": "polite" }, ...Object.values(this.buttons));
  }

  /**
   * @param {object | undefined} figures of the newest event
   * @param {boolean} isRunning and can be reached
   */
  show(figures, isRunning) {
    const isSaved = figures && figures.run === this.run && figures.saved_step !== this.savedStep;
    if (figures?.run !== this.run) this.#confirm("");
    Object.assign(this, { run: figures?.run, savedStep: figures?.saved_step });
    if (isSaved) this.#confirm(filled(this.words.saved, { step: whole(figures.saved_step, this.locale) }));
    for (const wish of WISHES) this.#showButton(wish, isRunning, figures ?? {});
  }

  remove() {
    clearTimeout(this.timer);
  }

  #showButton(wish, isRunning, { wishes = [], can_sample: canSample }) {
    const isAsked = isRunning && wishes.includes(wish);
    const isImpossible = isRunning && wish === "sample" && !canSample;
    this.buttons[wish].disabled = !isRunning || isAsked || isImpossible;
    this.buttons[wish].title = this.words[isImpossible ? "cannotSample" : `${wish}Help`];
    say(this.buttons[wish], (wish === "save" && !isAsked && this.saved) || this.words[isAsked ? `${wish}Asked` : wish]);
  }

  #button(wish) {
    return element("button", { type: "button", class: `graft-action graft-${wish}`, onclick: () => this.#wish(wish) }, this.words[wish]);
  }

  async #wish(wish) {
    if (!this.run) return;
    this.buttons[wish].disabled = true;
    try {
      if (!(await this.act(this.run, wish))) this.complain(this.words.refused);
    } catch {
      this.complain(this.words.unreachable);
    }
  }

  /** "Saved at step 120" stands on the button for a while. */
  #confirm(text) {
    clearTimeout(this.timer);
    this.saved = text;
    if (!text) return;
    this.timer = setTimeout(() => {
      this.saved = "";
      say(this.buttons.save, this.words.save);
    }, CONFIRMED_MILLISECONDS);
  }
}
