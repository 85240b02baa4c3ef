// What another part of the page asks the tab Listen to open: "run/ID" or "comparison/ID".

class Wanted extends EventTarget {
  #source = "";

  ask(source) {
    this.#source = source;
    this.dispatchEvent(new Event("change"));
  }

  /** What was asked for since the last time. */
  take() {
    const source = this.#source;
    this.#source = "";
    return source;
  }
}

export const wanted = new Wanted();
