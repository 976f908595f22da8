/** The top of a panel: what the training does, how far it is, and what there is to know about it. */

import { element, say, show } from "../dom.js";
import { duration, whole } from "../pure/format.js";
import { filled } from "../pure/strings.js";

export class Head {
  constructor(words, locale) {
    Object.assign(this, { words, locale });
    this.title = element("span", { class: "graft-title", role: "status" });
    this.left = element("span", { class: "graft-left" });
    this.fill = element("div", { class: "graft-bar-fill" });
    this.bar = element("div", { class: "graft-bar", role: "progressbar", "aria-label": words.progress, "aria-valuemin": 0 }, this.fill);
    this.message = element("p", { class: "graft-message", hidden: true });
    const line = element("div", { class: "graft-line" }, element("span", { class: "graft-dot", "aria-hidden": "true" }), this.title, this.left);
    this.element = element("header", { class: "graft-head" }, line, this.bar, this.message);
  }

  /**
   * @param {object | undefined} figures of the newest event
   * @param {string} phase
   * @param {string | undefined} problem to be told instead of the phase's note
   */
  show(figures, phase, problem) {
    const { step = 0, until_step: until = 0, seconds_left: seconds } = figures ?? {};
    say(this.title, [this.words[phase], this.#steps(step, until)].filter(Boolean).join(" · "));
    say(this.left, seconds == null ? "" : filled(this.words.left, { time: duration(seconds) }));
    this.fill.style.width = `${until ? (100 * step) / until : 0}%`;
    this.bar.setAttribute("aria-valuemax", String(until));
    this.bar.setAttribute("aria-valuenow", String(step));
    this.#tell(problem, this.words[`${phase}Note`] ?? "");
  }

  #steps(step, until) {
    if (!until) return "";
    const values = { step: whole(step, this.locale), total: whole(until, this.locale) };
    return filled(step < until ? this.words.stepOf : this.words.stepOnly, values);
  }

  /** A problem is said at once to those who listen to the page; a note waits. */
  #tell(problem, note) {
    this.message.setAttribute("role", problem ? "alert" : "note");
    this.message.dataset.kind = problem ? "problem" : "note";
    say(this.message, problem || note);
    show(this.message, Boolean(problem || note));
  }
}
