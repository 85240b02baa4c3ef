// What another part of the page asks a tab of the sidebar to open.

class Wanted extends EventTarget {
  #source = "";

  ask(source) {
    this.#source = source;
    this.dispatchEvent(new Event("change"));
  }

  /** What is asked for, without taking it. */
  get source() {
    return this.#source;
  }

  /** What was asked for since the last time. */
  take() {
    const source = this.#source;
    this.#source = "";
    return source;
  }
}

/** Of Listen: "run/ID" or "comparison/ID". */
export const wanted = new Wanted();

/** Of Runs: the id of a run to compare with others. */
export const wantedRun = new Wanted();
