/** A loss curve in bounded memory, as columns. A point is one step, or several that were merged: the server's order (nodes/live/curve.py). */

export const MOST_POINTS = 32768;

export class Curve {
  /** @param {number} most points that are kept; when they are full, each two become one. */
  constructor(most = MOST_POINTS) {
    this.most = most;
    this.clear();
  }

  clear() {
    this.step = [];
    this.count = [];
    this.mean = [];
    this.lowest = [];
    this.highest = [];
    this.rate = [];
    this.stepsPerPoint = 1;
  }

  get length() {
    return this.step.length;
  }

  get lastStep() {
    return this.length ? this.step[this.length - 1] : 0;
  }

  /**
   * Adds a point; one whose steps are all there already is passed over.
   * @param {number[]} point [last step, steps, mean, lowest, highest, learning rate]
   */
  add(point) {
    if (point[0] <= this.lastStep) return;
    const last = this.length - 1;
    if (last >= 0 && this.count[last] + point[1] <= this.stepsPerPoint) this.#set(last, joined(this.at(last), point));
    else this.#set(this.length, point);
    if (this.length > this.most) this.#halve();
  }

  /** @returns {number[]} the point in its order of numbers. */
  at(index) {
    return [this.step, this.count, this.mean, this.lowest, this.highest, this.rate].map((column) => column[index]);
  }

  #set(index, point) {
    [this.step[index], this.count[index], this.mean[index], this.lowest[index], this.highest[index], this.rate[index]] = point;
  }

  #halve() {
    const points = this.step.map((_, index) => this.at(index));
    const width = this.stepsPerPoint * 2;
    this.clear();
    this.stepsPerPoint = width;
    for (let index = 0; index < points.length; index += 2) {
      const second = points[index + 1];
      this.#set(this.length, second ? joined(points[index], second) : points[index]);
    }
  }
}

/** Two neighbouring points as one. */
export function joined(first, second) {
  const count = first[1] + second[1];
  const mean = (first[2] * first[1] + second[2] * second[1]) / count;
  return [second[0], count, mean, Math.min(first[3], second[3]), Math.max(first[4], second[4]), second[5]];
}

/** The index of the point nearest to a step; -1 where there is none. `steps` rise. */
export function nearest(steps, wanted) {
  if (!steps.length) return -1;
  let low = 0;
  let high = steps.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle] < wanted) low = middle + 1;
    else high = middle;
  }
  return low > 0 && wanted - steps[low - 1] <= steps[low] - wanted ? low - 1 : low;
}
