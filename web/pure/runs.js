/** Stored runs as the runs browser shows them. */

import { Curve } from "./curve.js";

/** Told apart by most eyes, on dark and light grounds (after Okabe and Ito's palette for colour-blind readers). */
export const COLORS = ["#4c8dff", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9"];
const NAME_DIGITS = 6;

/** What was trained and the first digits of its key: "controlnet xlabs 2+0 (3f9a12)". */
export function shortName(run) {
  return `${run.kind} (${run.name.slice(0, NAME_DIGITS)})`;
}

/** Curve and held-out losses, as the chart draws them. */
export function asTraining(answer) {
  const curve = new Curve();
  for (const point of answer.points) curve.add(point);
  const heldOut = { step: [], loss: [] };
  for (const [step, loss] of answer.held_out_points) {
    heldOut.step.push(step);
    heldOut.loss.push(loss);
  }
  return { curve, heldOut };
}

/** The settings for people, one per line: "learning_rate: 0.001"; parts of them with a dot. */
export function settingsText(answer) {
  return lines(answer.inputs.settings ?? {}).join("\n");
}

function lines(value, prefix = "") {
  return Object.entries(value).flatMap(([name, inner]) =>
    inner && typeof inner === "object" && !Array.isArray(inner) ? lines(inner, `${prefix}${name}.`) : [`${prefix}${name}: ${JSON.stringify(inner)}`],
  );
}
