/** The sidebar tab that lists the trainings on disk: compares their curves, opens their workflows, copies their settings, deletes them. */

import { Curves } from "../panel/curves.js";
import { element, say, show } from "../dom.js";
import { bytes, figure, whole } from "../pure/format.js";
import { COLORS, asTraining, settingsText, shortName } from "../pure/runs.js";
import { filled } from "../pure/strings.js";

const SURE_MILLISECONDS = 4000;

export class RunsBrowser {
  /**
   * @param {object} options
   * @param {Record<string, string>} options.words
   * @param {string} options.locale
   * @param {(path: string) => Promise<any>} options.get JSON
   * @param {(path: string) => Promise<string>} options.remove resolves to what went wrong, or to nothing
   * @param {(path: string) => string} options.url
   * @param {(workflow: object) => void} options.open
   */
  constructor(options) {
    Object.assign(this, options);
    /** @type {Map<string, object>} name -> what the chart draws, in the order in which they were ticked */
    this.drawn = new Map();
    this.curves = new Curves(this.words, this.locale, this.words.runsPick);
    this.#build();
    this.#draw();
    this.refresh();
  }

  async refresh() {
    try {
      this.runs = (await this.get("/graft/runs")).runs;
      this.#note("");
    } catch {
      this.runs = [];
      this.#note(this.words.unreachable);
    }
    show(this.curves.element, this.runs.length);
    const names = new Set(this.runs.map((run) => run.name));
    for (const name of this.drawn.keys()) if (!names.has(name)) this.drawn.delete(name);
    this.#list();
    this.#draw();
  }

  close() {
    this.curves.remove();
    this.element.remove();
  }

  #build() {
    const { words } = this;
    this.message = element("p", { class: "graft-message", role: "alert", hidden: true });
    this.list = element("ul", { class: "graft-runs-list" });
    const again = element("button", { type: "button", class: "graft-small", onclick: () => this.refresh() }, words.runsRefresh);
    const head = element("div", { class: "graft-line" }, element("span", { class: "graft-title" }, words.runs), again);
    const parts = [head, this.message, this.curves.element, this.list];
    this.element = element("section", { class: "graft-panel graft-runs", "aria-label": words.runsHelp }, ...parts);
  }

  #list() {
    const none = this.message.hidden ? [element("li", { class: "graft-runs-none" }, this.words.runsEmpty)] : [];
    this.list.replaceChildren(...(this.runs.length ? this.runs.map((run) => this.#item(run)) : none));
  }

  #item(run) {
    const { words } = this;
    const name = shortName(run);
    const tick = element("input", {
      type: "checkbox", "aria-label": filled(words.runsCompare, { name }), checked: this.drawn.has(run.name),
      onchange: (event) => this.#tick(run, event.target.checked),
    });
    const picture = run.has_picture
      ? element("img", { src: this.url(`/graft/runs/${run.name}/picture`), alt: filled(words.runsPicture, { name }), class: "graft-runs-picture" })
      : element("span", { class: "graft-runs-picture" });
    const label = element("label", {}, tick, element("b", {}, name));
    const text = element("div", { class: "graft-runs-text" }, label, ...this.#facts(run).map((fact) => element("span", {}, fact)));
    const item = element("li", { class: "graft-runs-item" }, picture, text, this.#actions(run));
    item.style.setProperty("--graft-run", this.drawn.get(run.name)?.color ?? "transparent");
    return item;
  }

  #facts(run) {
    const { words, locale } = this;
    const base = filled(run.base_blocks ? words.runsBaseBlocks : words.runsBase, { base: run.base, blocks: run.base_blocks });
    const facts = [filled(words.runsSteps, { steps: whole(run.steps, locale) }), `${words.heldOutLoss} ${figure(run.held_out)}`, bytes(run.size_bytes)];
    return [...facts, new Date(run.used_at * 1000).toLocaleDateString(locale), base, ...(run.in_use ? [words.runsInUse] : [])];
  }

  #actions(run) {
    const { words } = this;
    const button = (text, act, disabled = false) =>
      element("button", { type: "button", class: "graft-small", disabled, onclick: (event) => act.call(this, run, event.currentTarget) }, text);
    return element(
      "div", { class: "graft-runs-actions" }, button(words.runsWorkflow, this.#open, !run.has_workflow), button(words.runsSettings, this.#copy),
      button(words.runsDelete, this.#delete, run.in_use),
    );
  }

  async #tick(run, ticked) {
    if (!ticked) this.drawn.delete(run.name);
    else await this.#try(() => this.#add(run.name));
    this.#list();
    this.#draw();
  }

  async #add(name) {
    const answer = await this.get(`/graft/runs/${name}`);
    this.drawn.set(name, { ...asTraining(answer), color: this.#freeColor() });
  }

  #freeColor() {
    const used = new Set([...this.drawn.values()].map((each) => each.color));
    return COLORS.find((color) => !used.has(color)) ?? COLORS[this.drawn.size % COLORS.length];
  }

  #draw() {
    const [first, ...others] = this.drawn.values();
    this.curves.element.style.setProperty("--graft-loss", first?.color ?? COLORS[0]);
    this.curves.show(first ?? null, others);
  }

  async #open(run) {
    await this.#try(async () => this.open(await this.get(`/graft/runs/${run.name}/workflow`)));
  }

  async #copy(run, button) {
    await this.#try(async () => {
      await navigator.clipboard.writeText(settingsText(await this.get(`/graft/runs/${run.name}`)));
      say(button, this.words.runsCopied);
    });
  }

  /** The first press asks, the second within a few seconds deletes. */
  async #delete(run, button) {
    if (button.dataset.sure === undefined) {
      button.dataset.sure = "";
      say(button, this.words.runsDeleteSure);
      setTimeout(() => {
        delete button.dataset.sure;
        say(button, this.words.runsDelete);
      }, SURE_MILLISECONDS);
      return;
    }
    const wrong = await this.remove(`/graft/runs/${run.name}`).catch(() => this.words.unreachable);
    await this.refresh();
    if (wrong) this.#note(wrong);
  }

  async #try(action) {
    try {
      await action();
      this.#note("");
    } catch {
      this.#note(this.words.unreachable);
    }
  }

  #note(text) {
    say(this.message, text);
    show(this.message, Boolean(text));
  }
}
