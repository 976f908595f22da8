/** Round numbers for an axis, and the range that it shows. */

const MANTISSAS = [1, 2, 2.5, 5, 10];

/** The smallest of 1, 2, 2.5, 5 times a power of ten that is at least `least`; `whole` without 2.5. */
export function niceStep(least, whole = false) {
  const power = 10 ** Math.floor(Math.log10(least));
  const found = MANTISSAS.filter((mantissa) => !whole || Number.isInteger(mantissa)).find((mantissa) => mantissa * power >= least * (1 - 1e-9));
  return found * power;
}

/** About `count` round numbers within [low, high]; `whole` for steps. */
export function linearTicks(low, high, count, whole = false) {
  if (!(high > low)) return [low];
  const step = Math.max(niceStep((high - low) / count, whole), whole ? 1 : 0);
  const ticks = [];
  for (let index = Math.ceil(low / step - 1e-9); index * step <= high * (1 + 1e-12) + step * 1e-9; index++) ticks.push(Number((index * step).toPrecision(12)));
  return ticks;
}

/** Round numbers on a logarithmic axis: powers of ten, with 2 and 5 between where there are few of them. */
export function logTicks(low, high, count) {
  const decades = Math.log10(high / low);
  if (decades < 0.7) return linearTicks(low, high, count);
  const mantissas = decades * 3 <= count * 1.5 ? [1, 2, 5] : [1];
  const stride = Math.max(1, Math.ceil(decades / count));
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
    if (mantissas.length === 1 && power % stride !== 0) continue;
    for (const mantissa of mantissas) {
      const value = Number((mantissa * 10 ** power).toPrecision(12));
      if (value >= low * (1 - 1e-9) && value <= high * (1 + 1e-9)) ticks.push(value);
    }
  }
  return ticks;
}

/**
 * What a vertical axis shows: everything in `firm`, and of the noisy `loose` what lies between its 1st and 99th hundredth.
 * @returns {[number, number]}
 */
export function axisRange(firm, loose, log) {
  const usable = (values) => values.filter((value) => Number.isFinite(value) && (!log || value > 0));
  const sorted = usable(loose).sort((left, right) => left - right);
  const ends = sorted.length ? [sorted[Math.floor(0.01 * (sorted.length - 1))], sorted[Math.ceil(0.99 * (sorted.length - 1))]] : [];
  const all = [...usable(firm), ...ends];
  if (!all.length) return log ? [0.1, 1] : [0, 1];
  return padded(smallest(all), largest(all), log);
}

function padded(low, high, log) {
  if (log) {
    const factor = high > low ? (high / low) ** 0.05 : 1.5;
    return [low / factor, high * factor];
  }
  const margin = high > low ? 0.05 * (high - low) : Math.abs(high) * 0.1 || 0.5;
  const bottom = low - margin;
  return [low >= 0 && bottom < 0 ? 0 : bottom, high + margin];
}

function smallest(values) {
  return values.reduce((found, value) => Math.min(found, value), Infinity);
}

function largest(values) {
  return values.reduce((found, value) => Math.max(found, value), -Infinity);
}
