// The takes of the latest comparison on the node Compare Adapters.

import { app } from "../../../scripts/app.js";
import { grow, zoomCanvas } from "../canvas.js";
import { addStyles, make } from "../dom.js";
import { t } from "../words.js";
import { createPlayer } from "./player.js";
import { wanted } from "./request.js";
import { fromComparison, keep, readComparison, vote } from "./server.js";
import { use } from "./use.js";

const NODE = "SideStepCompareAdapters";
const HEIGHT = { hint: 40, frame: 160, row: 62 }; // in pixels
const WIDTH = 400; // of a new node

function addTakes(node) {
  let session = null;
  const hint = make("p", "sidestep-listen-hint",
    t("Run the workflow: the takes are played here, and in the tab Listen of the sidebar."));
  const player = createPlayer({
    vote: async (take) => fromComparison(await vote(session.id, take)),
    keep: async (take) => fromComparison(await keep(session.id, take)),
    use: async (take) => use(session.takes[take - 1]),
  });
  const element = make("div", "sidestep-listen-node", hint, player.element);
  const height = () => (session ? HEIGHT.frame + HEIGHT.row * session.takes.length : HEIGHT.hint);
  const widget = node.addDOMWidget("sidestep_takes", "SIDESTEP_TAKES", element, {
    serialize: false, hideOnZoom: false, margin: 10, getMinHeight: height,
  });
  widget.serialize = false;
  player.element.hidden = true;
  element.addEventListener("wheel", zoomCanvas);

  async function show(id) {
    const made = await readComparison(id);
    session = made && fromComparison(made);
    hint.hidden = Boolean(session);
    hint.textContent = t("The takes of the latest run are gone. Run the workflow again.");
    player.element.hidden = !session;
    if (session) await player.show(session);
    grow(node);
  }

  const { onExecuted, onConfigure, onRemoved } = node;
  node.onExecuted = function (output) {
    onExecuted?.apply(this, arguments);
    this.showsAgain(output.sidestep?.[0]);
    if (output.sidestep?.[0]?.comparison) wanted.ask(`comparison/${output.sidestep[0].comparison}`);
  };
  node.showsAgain = function (output) {
    const id = output?.comparison;
    if (typeof id !== "string" || id === session?.id) return;
    // Saved with the workflow: after a reload, ComfyUI may have the node's result cached and not send it again.
    this.properties.comparison = id;
    show(id);
  };
  node.onConfigure = function () {
    onConfigure?.apply(this, arguments);
    if (typeof this.properties.comparison === "string") show(this.properties.comparison);
  };
  node.onRemoved = function () {
    player.release();
    onRemoved?.apply(this, arguments);
  };
  node.setSize([Math.max(WIDTH, node.size[0]), node.computeSize()[1]]);
}

app.registerExtension({
  name: "sidestep.listen",
  init: () => addStyles("./listen.css", import.meta.url),
  nodeCreated(node) {
    if (node.comfyClass === NODE) addTakes(node);
  },
});
