/** A running mean that forgets: each step counts exp(-age / memory), and the first steps are not drawn towards zero. */

/**
 * @param {number[]} values
 * @param {number[]} counts steps behind each value
 * @param {number} memorySteps how many steps it remembers; 0 or less leaves values as they are
 * @returns {Float64Array}
 */
export function smoothed(values, counts, memorySteps) {
  const result = new Float64Array(values.length);
  let sum = 0;
  let weight = 0;
  let count = 0;
  let kept = 0;
  for (let index = 0; index < values.length; index++) {
    if (counts[index] !== count) {
      count = counts[index];
      kept = memorySteps > 0 ? Math.exp(-count / memorySteps) : 0;
    }
    sum = sum * kept + values[index] * (1 - kept);
    weight = weight * kept + (1 - kept);
    result[index] = sum / weight;
  }
  return result;
}

/** How many steps the mean remembers, for a slider from 0 to 1: nothing at 0, a fifth of all steps at 1, finer where it is small. */
export function memoryOf(slider, steps) {
  return slider <= 0 ? 0 : Math.max(1, 0.2 * slider * slider * steps);
}
