// Table of the songs of a dataset node, to listen and to edit.

import { zoomCanvas } from "../canvas.js";
import { hint, songServer } from "./server.js";
import { createSongTable } from "./table.js";

const WIDGET = "sidestep_songs";
const MARGIN = 10;
const WIDTH = 620; // of a new node, so that a caption can be read
const TABLES = { // height in pixels
  SideStepBuildDataset: 300,
  SideStepAnalyzeSongs: 300,
  SideStepSplitSongs: 300,
  SideStepCaptionSongs: 300,
  SideStepPreprocessAudioFolder: 200,
};

/** Add the table to a node that has songs. */
export function addSongTable(node) {
  const height = TABLES[node.comfyClass];
  if (!height) return;
  const table = createSongTable({ hint: hint(), height, server: songServer });
  const widget = node.addDOMWidget(WIDGET, "SIDESTEP_SONGS", table.element, {
    serialize: false,
    hideOnZoom: false,
    margin: MARGIN,
    getMinHeight: () => height + 2 * MARGIN,
  });
  widget.serialize = false; // options.serialize keeps it out of the prompt, this one out of the workflow file
  table.element.addEventListener("wheel", scrollOrZoom);
  const { onExecuted, onConfigure, onRemoved } = node;
  node.onExecuted = function (output) {
    onExecuted?.apply(this, arguments);
    this.showsAgain(output.sidestep?.[0]);
  };
  node.showsAgain = function (output) {
    const key = output?.preview;
    if (!key || key === this.properties.songs) return;
    // Saved with the workflow: after a reload, ComfyUI may have the node's result cached and not send it again.
    this.properties.songs = key;
    table.show(key);
  };
  node.onConfigure = function () {
    onConfigure?.apply(this, arguments);
    if (typeof this.properties.songs === "string") table.show(this.properties.songs);
  };
  node.onRemoved = function () {
    table.stop();
    onRemoved?.apply(this, arguments);
  };
  node.setSize([Math.max(WIDTH, node.size[0]), node.computeSize()[1]]);
}

/** Scroll lists and texts with the wheel; zoom the canvas elsewhere. */
function scrollOrZoom(event) {
  const scrolls = event.target.closest("textarea, .sidestep-list, .sidestep-reasons");
  if (scrolls && scrolls.scrollHeight > scrolls.clientHeight) event.stopPropagation();
  else zoomCanvas(event);
}
