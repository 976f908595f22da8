/** The trainings of a server, kept up to date: events as they come, the history where some were missed, everything again after a reconnect. */

import { Training } from "./training.js";

export const MOST_TRAININGS = 24;
/** Events that wait for a history; beyond that the oldest go, and the history is asked for once more. */
export const MOST_WAITING = 1000;
const RETRY_MILLISECONDS = 1000;

export class Live {
  /**
   * @param {object} server
   * @param {(path: string) => Promise<any>} server.get JSON of a route; rejects where there is no answer
   * @param {(path: string) => Promise<boolean>} server.post whether the server accepted
   * @param {(training: Training) => void} changed is told of every change
   * @param {(action: () => void, milliseconds: number) => void} later
   */
  constructor(server, changed, later = setTimeout) {
    this.server = server;
    this.changed = changed;
    this.later = later;
    /** @type {Map<string, Training>} oldest first */
    this.trainings = new Map();
    this.asking = new Map();
  }

  /** An event has come. */
  receive(event) {
    const training = this.trainings.get(event.run);
    if (!training) this.#meet(event);
    else if (this.asking.has(event.run)) this.#wait(event);
    else this.#apply(training, event);
  }

  /** After a start or a reconnect: everything that the server still knows. */
  async refresh() {
    const { runs } = await this.server.get("/graft/live");
    for (const figures of runs) {
      if (!this.trainings.has(figures.run)) this.#add(figures.run);
    }
    this.#endForgotten(new Set(runs.map((figures) => figures.run)));
    await Promise.all(runs.map((figures) => this.catchUp(figures.run)));
  }

  /** Fetches a training's history; events that come meanwhile wait and follow on it. */
  async catchUp(run) {
    if (this.asking.has(run)) return;
    this.asking.set(run, []);
    try {
      const history = await this.server.get(`/graft/live/${run}`);
      this.#complete(run, history);
    } catch (error) {
      this.asking.delete(run);
      if (error?.status === 404) this.#end(this.trainings.get(run));
      else this.later(() => this.trainings.get(run)?.goingOn && this.catchUp(run), RETRY_MILLISECONDS);
    }
  }

  /** @returns {Promise<boolean>} whether it will be fulfilled */
  wish(run, wish) {
    return this.server.post(`/graft/live/${run}/wishes/${wish}`);
  }

  #wait(event) {
    const waiting = this.asking.get(event.run);
    waiting.push(event);
    if (waiting.length > MOST_WAITING) waiting.shift();
  }

  #complete(run, history) {
    const training = this.trainings.get(run);
    const waiting = this.asking.get(run) ?? [];
    this.asking.delete(run);
    if (!training) return;
    training.applyHistory(history);
    const found = waiting.map((event) => training.applyEvent(event));
    this.changed(training);
    if (found.includes("gap")) this.later(() => this.catchUp(run), RETRY_MILLISECONDS);
  }

  /** A run that begins brings along what earlier ones have measured: that is in its history only. */
  #apply(training, event) {
    const wasPreparing = training.figures.phase === "preparing";
    const found = training.applyEvent(event);
    if (found === "stale") return;
    this.changed(training);
    if (found === "gap" || (wasPreparing && event.phase !== "preparing")) this.catchUp(event.run);
  }

  #meet(event) {
    const training = this.#add(event.run);
    training.sequence = event.sequence - 1;
    if (event.sequence > 1) this.catchUp(event.run);
    this.#apply(training, event);
  }

  #add(run) {
    const training = new Training(run);
    this.trainings.set(run, training);
    const ended = [...this.trainings.values()].filter((known) => !known.goingOn);
    if (this.trainings.size > MOST_TRAININGS && ended.length) this.trainings.delete(ended[0].run);
    return training;
  }

  /** A server that was started again does not know what ran before: that has ended. */
  #endForgotten(known) {
    for (const training of this.trainings.values()) {
      if (!known.has(training.run)) this.#end(training);
    }
  }

  #end(training) {
    if (!training?.goingOn) return;
    training.figures = { ...training.figures, phase: "cancelled", wishes: [] };
    this.changed(training);
  }
}
