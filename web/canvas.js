// What all panels on nodes share with ComfyUI's canvas.

import { app } from "../../scripts/app.js";

export const rootGraph = () => app.rootGraph ?? app.graph;

/** Make room for what a panel has got; a node that is large enough stays as it is. */
export function grow(node) {
  const needed = node.computeSize()[1];
  if (needed <= node.size[1] || window.LiteGraph.vueNodesMode) return; // Nodes 2.0 lays itself out
  node.setSize([node.size[0], needed]);
  app.canvas.setDirty(true, true);
}

/** Let the mouse wheel zoom the canvas over a panel too, in both render modes. */
export function zoomCanvas(event) {
  event.preventDefault();
  event.stopPropagation();
  app.canvas.processMouseWheel(event);
}
