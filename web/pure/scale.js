/** From values to pixels and back, straight or logarithmic. */

/** The closest look at a curve. */
export const SMALLEST_STEPS = 4;

export function linearScale(low, high, from, to) {
  const span = high - low || 1;
  const at = (value) => from + ((value - low) / span) * (to - from);
  at.invert = (pixel) => low + ((pixel - from) / (to - from)) * span;
  return at;
}

export function logScale(low, high, from, to) {
  const inner = linearScale(Math.log(low), Math.log(high), from, to);
  const at = (value) => inner(Math.log(Math.max(value, Number.MIN_VALUE)));
  at.invert = (pixel) => Math.exp(inner.invert(pixel));
  return at;
}

/** A part of [low, high] that keeps within it: moved by `shift` parts of its width and scaled by `factor` around `centre`. */
export function zoomed([from, to], [low, high], factor, centre = (from + to) / 2, shift = 0, smallest = 2) {
  const width = Math.min(high - low, Math.max(smallest, (to - from) * factor));
  const share = (centre - from) / (to - from || 1);
  const begin = centre - share * width + shift * width;
  const kept = Math.min(Math.max(begin, low), high - width);
  return [kept, kept + width];
}
