/** The sidebar tab that lists the trainings on disk: compares their curves, opens their workflows, copies their settings, deletes them. */

import { Chart } from "../chart/chart.js";
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
    this.chart = new Chart();
    this.#build();
    this.observer = new ResizeObserver(() => this.chart.resize(Math.max(120, this.chartBox.clientWidth), 180));
    this.observer.observe(this.chartBox);
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
    const names = new Set(this.runs.map((run) => run.name));
    for (const name of this.drawn.keys()) if (!names.has(name)) this.drawn.delete(name);
    this.#list();
    this.#draw();
  }

  close() {
    this.observer.disconnect();
    this.element.remove();
  }

  #build() {
    const { words } = this;
    this.message = element("p", { class: "graft-message", role: "alert", hidden: true });
    this.hint = element("p", { class: "graft-empty" }, words.runsPick);
    this.chartBox = element("div", { class: "graft-chart graft-runs-chart" }, this.chart.element, this.hint);
    this.list = element("ul", { class: "graft-runs-list" });
    const again = element("button", { type: "button", class: "graft-small", onclick: () => this.refresh() }, words.runsRefresh);
    const head = element("div", { class: "graft-line" }, element("span", { class: "graft-title" }, words.runs), again);
    this.element = element("section", { class: "graft-panel graft-runs", "aria-label": words.runsHelp }, head, this.message, this.chartBox, this.list);
  }

  #list() {
    const empty = element("li", { class: "graft-runs-none" }, this.words.runsEmpty);
    this.list.replaceChildren(...(this.runs.length ? this.runs.map((run) => this.#item(run)) : [empty]));
  }

  #item(run) {
    const { words, locale } = this;
    const name = shortName(run);
    const tick = element("input", {
      type: "checkbox", "aria-label": filled(words.runsCompare, { name }), checked: this.drawn.has(run.name), onchange: (event) => this.#tick(run, event.target.checked),
    });
    const facts = [
      filled(words.runsSteps, { steps: whole(run.steps, locale) }), `${words.heldOutLoss} ${figure(run.held_out)}`, bytes(run.size_bytes),
      new Date(run.used_at * 1000).toLocaleDateString(locale), filled(words.runsBase, { base: run.base }), ...(run.in_use ? [words.runsInUse] : []),
    ];
    const picture = run.has_picture
      ? element("img", { src: this.url(`/graft/runs/${run.name}/picture`), alt: filled(words.runsPicture, { name }), class: "graft-runs-picture" })
      : element("span", { class: "graft-runs-picture" });
    const text = element("div", { class: "graft-runs-text" }, element("label", {}, tick, element("b", {}, name)), element("div", {}, facts.join(" · ")), this.#actions(run));
    const item = element("li", { class: "graft-runs-item" }, picture, text);
    item.style.setProperty("--graft-run", this.drawn.get(run.name)?.color ?? "transparent");
    return item;
  }

  #actions(run) {
    const { words } = this;
    const workflow = element("button", { type: "button", class: "graft-small", disabled: !run.has_workflow, onclick: () => this.#open(run) }, words.runsWorkflow);
    const settings = element("button", { type: "button", class: "graft-small", onclick: (event) => this.#copy(run, event.currentTarget) }, words.runsSettings);
    const remove = element("button", { type: "button", class: "graft-small", disabled: run.in_use, onclick: (event) => this.#delete(run, event.currentTarget) }, words.runsDelete);
    return element("div", { class: "graft-runs-actions" }, workflow, settings, remove);
  }

  async #tick(run, ticked) {
    if (!ticked) this.drawn.delete(run.name);
    else await this.#try(async () => this.drawn.set(run.name, { ...asTraining(await this.get(`/graft/runs/${run.name}`)), color: this.#freeColor() }));
    this.#list();
    this.#draw();
  }

  #freeColor() {
    const used = new Set([...this.drawn.values()].map((each) => each.color));
    return COLORS.find((color) => !used.has(color)) ?? COLORS[this.drawn.size % COLORS.length];
  }

  #draw() {
    const [first, ...others] = this.drawn.values();
    show(this.hint, !first);
    this.chart.element.style.setProperty("--graft-loss", first?.color ?? COLORS[0]);
    this.chart.others = first ? others : [];
    this.chart.show(first ?? null);
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
