/** As much of a page as the chart needs. */

class FakeElement {
  constructor(tag) {
    Object.assign(this, { tag, attributes: {}, children: [], listeners: {}, textContent: "" });
  }

  setAttribute(name, value) {
    this.attributes[name] = String(value);
  }

  append(...children) {
    this.children.push(...children);
  }

  replaceChildren(...children) {
    this.children = children;
  }

  addEventListener(name, listener) {
    this.listeners[name] = listener;
  }

  setPointerCapture() {}

  getBoundingClientRect() {
    return { left: 0, top: 0, width: 200, height: 90 };
  }

  /** Sends an event with a position; the element is drawn at half its size, as on a canvas at 50%. */
  fire(name, clientX = 0) {
    this.listeners[name]({ clientX, button: 0, pointerId: 1, stopPropagation() {} });
  }
}

globalThis.document = { createElementNS: (_, tag) => new FakeElement(tag) };
