import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";
import { bytes, duration, figure, nowAndPeak, speed, tick, ticks, whole } from "../../web/pure/format.js";
import { STRINGS, filled, wordsFor } from "../../web/pure/strings.js";

test("figures are short and exact enough", () => {
  const found = [0.123456, 12.3456, 1234.56, 0, 0.00001234, 2e-5, -0.5, 1234567, NaN, undefined, Infinity].map((value) => figure(value));
  assert.deepEqual(found, ["0.1235", "12.35", "1235", "0", "1.23e-5", "2e-5", "-0.5", "1.23e6", "–", "–", "–"]);
});

test("ticks fit beside an axis", () => {
  assert.deepEqual([0, 0.05, 500, 1500, 15_000, 2_500_000, 2e-5].map(tick), ["0", "0.05", "500", "1500", "15k", "2.5M", "2e-5"]);
});

test("times are read at a glance", () => {
  assert.deepEqual([0.4, 59, 60, 185, 7385, 100_000, -1, null].map(duration), ["0 s", "59 s", "1:00", "3:05", "2:03:05", "1 d 3 h", "–", "–"]);
});

test("memory and speed have the unit that suits them", () => {
  assert.deepEqual([512 * 1024 ** 2, 23.4 * 1024 ** 3, undefined].map(bytes), ["512 MB", "23.4 GB", "–"]);
  const [mega, giga] = [1024 ** 2, 1024 ** 3];
  assert.deepEqual([[16.1 * giga, 21.3 * giga], [900 * mega, 2 * giga], [undefined, giga], []].map((pair) => nowAndPeak(...pair)), ["16.1 / 21.3 GB", "900 MB / 2.0 GB", "1.0 GB", "–"]);
  const { en } = STRINGS;
  assert.deepEqual([3.14159, 0.4, 0, null].map((value) => speed(value, en)), ["3.14 steps/s", "2.5 s/step", "–", "–"]);
  assert.equal(whole(12345, "en"), "12,345");
});

test("both languages say the same things with the same blanks", () => {
  const blanks = (sentence) => (sentence.match(/\{\w+\}/g) ?? []).sort();
  assert.deepEqual(Object.keys(STRINGS.zh).sort(), Object.keys(STRINGS.en).sort());
  for (const [key, sentence] of Object.entries(STRINGS.en)) {
    assert.deepEqual(blanks(STRINGS.zh[key]), blanks(sentence), key);
    assert.ok(STRINGS.zh[key] && sentence, key);
  }
});

test("every word that the panel asks for is there", () => {
  const folder = new URL("../../web/", import.meta.url);
  const files = ["", "panel/", "runs/"].flatMap((place) => readdirSync(new URL(place, folder)).map((name) => place + name)).filter((name) => name.endsWith(".js"));
  const asked = files.flatMap((name) => [...readFileSync(new URL(name, folder), "utf8").matchAll(/words\.(\w+)/g)].map((match) => match[1]));
  assert.ok(asked.length > 20);
  const built = ["stop", "sample", "save"].flatMap((wish) => [wish, `${wish}Help`, `${wish}Asked`]);
  const phases = ["waiting", "preparing", "running", "finished", "found", "stopped", "cancelled", "failed"];
  for (const key of [...asked, ...built, ...phases, "stoppedNote", "cancelledNote", "cannotSample", "chartEmpty", "waitingHint"]) assert.ok(key in STRINGS.en, key);
});

test("a language is found by its beginning, English otherwise", () => {
  assert.equal(wordsFor("zh-TW"), STRINGS.zh);
  assert.equal(wordsFor("zh"), STRINGS.zh);
  for (const locale of ["en", "fr", "", undefined, null]) assert.equal(wordsFor(locale), STRINGS.en);
});

test("blanks are filled, unknown ones stay", () => {
  assert.equal(filled("step {step} of {total}", { step: 3 }), "step 3 of {total}");
});

test("an axis has as many decimals in each of its figures", () => {
  assert.deepEqual(ticks([0, 0.05, 0.1, 0.15]), ["0", "0.05", "0.10", "0.15"]);
  assert.deepEqual(ticks([-1, 0, 1]), ["-1", "0", "1"]);
  assert.deepEqual(ticks([0, 5e-4, 1e-3]), ["0", "5e-4", "0.001"], "exponents stay as they are");
});
