/** One training as the page knows it: present figures, curve and held-out losses, built from a history and the events that follow it. */

import { Curve } from "./curve.js";

export const MOST_HELD_OUT = 2048;
const GOING_ON = new Set(["preparing", "running"]);

export class Training {
  constructor(run) {
    this.run = run;
    this.figures = { run, phase: "preparing", step: 0, until_step: 0, wishes: [], picture_steps: [], memory: {} };
    this.curve = new Curve();
    this.heldOut = { step: [], loss: [] };
    this.sequence = -1;
    /** Grows with every change of what is drawn. */
    this.version = 0;
  }

  get goingOn() {
    return GOING_ON.has(this.figures.phase);
  }

  /** Everything up to some event; replaces what was known. */
  applyHistory(history) {
    this.curve.clear();
    this.heldOut = { step: [], loss: [] };
    for (const point of history.points) this.curve.add(point);
    this.#addHeldOut(history.held_out);
    this.#take(history);
  }

  /**
   * Takes the next event.
   * @returns {"applied" | "stale" | "gap"} stale: known already. Gap: events are missing before it, the history must be asked for.
   */
  applyEvent(event) {
    if (event.sequence <= this.sequence) return "stale";
    const isNext = event.sequence === this.sequence + 1;
    if (event.point) this.curve.add(event.point);
    this.#addHeldOut(event.held_out);
    this.#take(event);
    return isNext ? "applied" : "gap";
  }

  #take(message) {
    const { points, point, held_out, ...figures } = message;
    this.figures = figures;
    this.sequence = message.sequence;
    this.version++;
  }

  #addHeldOut(pairs) {
    for (const [step, loss] of pairs) {
      const last = this.heldOut.step.length - 1;
      if (last >= 0 && step <= this.heldOut.step[last]) continue;
      this.heldOut.step.push(step);
      this.heldOut.loss.push(loss);
    }
    if (this.heldOut.step.length > MOST_HELD_OUT) this.#thinHeldOut();
  }

  #thinHeldOut() {
    const last = this.heldOut.step.length - 1;
    const kept = (_, index) => index % 2 === 0 || index === last;
    this.heldOut = { step: this.heldOut.step.filter(kept), loss: this.heldOut.loss.filter(kept) };
  }
}

/** Whether a training belongs to this workflow: by its id, or unknown because a script has queued it. */
export function isOfWorkflow(figures, workflowId) {
  return !figures.workflow || !workflowId || figures.workflow === workflowId;
}
