/** Numbers as people read them. */

const MISSING = "–";

/** Four digits that count: 0.1234, 12.34, 1.2e-5. */
export function figure(value, digits = 4) {
  if (!isNumber(value)) return MISSING;
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-3) return shortExponent(value.toExponential(Math.min(digits, 3) - 1));
  return size >= 10 ** (digits - 1) ? value.toFixed(0) : Number(value.toPrecision(digits)).toString();
}

function shortExponent(text) {
  return text.replace(/\.?0+e/, "e").replace("e+", "e");
}

/** Whole steps with thousands apart. */
export function whole(value, locale = "en") {
  return isNumber(value) ? Math.round(value).toLocaleString(locale) : MISSING;
}

/** For an axis: 0.05, 1500 as 1.5k, 2e-5. */
export function tick(value) {
  if (!isNumber(value)) return MISSING;
  const size = Math.abs(value);
  if (size >= 1e6) return `${Number((value / 1e6).toPrecision(4))}M`;
  if (size >= 1e4) return `${Number((value / 1e3).toPrecision(4))}k`;
  return size > 0 && size < 1e-3 ? shortExponent(value.toExponential(1)) : Number(value.toPrecision(4)).toString();
}

/** The figures of an evenly divided axis, with as many decimals each: 0.08, 0.10, 0.12. */
export function ticks(values) {
  const texts = values.map(tick);
  if (texts.some((text) => /[ekM]/.test(text))) return texts;
  const decimals = Math.max(0, ...texts.map((text) => text.split(".")[1]?.length ?? 0));
  return values.map((value) => (value === 0 ? "0" : value.toFixed(decimals)));
}

/** 7 s, 3:05 (minutes), 2:03:05 (hours), 3 d 4 h. */
export function duration(seconds) {
  if (!isNumber(seconds) || seconds < 0) return MISSING;
  const total = Math.round(seconds);
  if (total < 60) return `${total} s`;
  if (total >= 86400) return `${Math.floor(total / 86400)} d ${Math.floor((total % 86400) / 3600)} h`;
  const [hours, minutes, rest] = [Math.floor(total / 3600), Math.floor((total % 3600) / 60), total % 60];
  return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

/** 512 MB, 23.4 GB (in powers of 1024, as graphics cards are sold). */
export function bytes(value) {
  if (!isNumber(value)) return MISSING;
  const gigabytes = value / 1024 ** 3;
  return gigabytes >= 0.9995 ? `${gigabytes.toFixed(1)} GB` : `${Math.round(value / 1024 ** 2)} MB`;
}

/** 16.1 / 21.3 GB: in use, and at the most. */
export function nowAndPeak(now, peak) {
  if (!isNumber(now) || !isNumber(peak)) return bytes(isNumber(now) ? now : peak);
  const [left, right] = [bytes(now), bytes(peak)];
  return left.slice(-2) === right.slice(-2) ? `${left.slice(0, -3)} / ${right}` : `${left} / ${right}`;
}

/** 3.1 steps/s, or 2.5 s/step where a step takes longer than a second. */
export function speed(stepsPerSecond, words) {
  if (!isNumber(stepsPerSecond) || stepsPerSecond <= 0) return MISSING;
  return stepsPerSecond >= 1 ? `${figure(stepsPerSecond, 3)} ${words.stepsPerSecond}` : `${figure(1 / stepsPerSecond, 3)} ${words.secondsPerStep}`;
}

function two(value) {
  return String(value).padStart(2, "0");
}

function isNumber(value) {
  return typeof value === "number" && Number.isFinite(value);
}
