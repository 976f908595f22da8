/** As many points as a chart has columns, so that long curves draw fast and no spike is lost. */

/** The range [first, end) of indices whose steps lie between two values, and one more on each side so that lines leave the picture. */
export function visible(steps, from, to) {
  let first = firstAtLeast(steps, from);
  let end = firstAtLeast(steps, to);
  while (end < steps.length && steps[end] <= to) end++;
  first = Math.max(0, first - 1);
  return [first, Math.min(steps.length, end + 1)];
}

function firstAtLeast(steps, value) {
  let low = 0;
  let high = steps.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

/**
 * The lowest and highest value in each column of the chart.
 * @returns {{x: number, low: number, high: number}[]} x is the mean step of the column; few points stay as they are.
 */
export function envelope(steps, lows, highs, from, to, columns) {
  const [first, end] = visible(steps, from, to);
  if (end - first <= columns) return range(first, end).map((index) => ({ x: steps[index], low: lows[index], high: highs[index] }));
  const found = [];
  eachColumn(steps, first, end, from, to, columns, (begin, stop) => {
    let low = Infinity;
    let high = -Infinity;
    for (let index = begin; index < stop; index++) {
      low = Math.min(low, lows[index]);
      high = Math.max(high, highs[index]);
    }
    found.push({ x: (steps[begin] + steps[stop - 1]) / 2, low, high });
  });
  return found;
}

/** The mean in each column of the chart: [step, value] pairs; few points stay as they are. */
export function averages(steps, values, from, to, columns) {
  const [first, end] = visible(steps, from, to);
  if (end - first <= columns) return range(first, end).map((index) => [steps[index], values[index]]);
  const found = [];
  eachColumn(steps, first, end, from, to, columns, (begin, stop) => {
    let sum = 0;
    for (let index = begin; index < stop; index++) sum += values[index];
    found.push([(steps[begin] + steps[stop - 1]) / 2, sum / (stop - begin)]);
  });
  return found;
}

function eachColumn(steps, first, end, from, to, columns, visit) {
  const width = (to - from) / columns;
  let begin = first;
  while (begin < end) {
    const limit = from + (Math.floor((steps[begin] - from) / width) + 1) * width;
    let stop = begin + 1;
    while (stop < end && steps[stop] < limit) stop++;
    visit(begin, stop);
    begin = stop;
  }
}

function range(first, end) {
  return Array.from({ length: Math.max(0, end - first) }, (_, index) => first + index);
}
