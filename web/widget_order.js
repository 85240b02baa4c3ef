// Lays out the widgets of a node.  The array `node.widgets` keeps its order: ComfyUI saves values by their index in it,
// and restores them without those of widgets that it does not save.

/**
 * Draw the chart before all other widgets, and leave no room for advanced widgets that are folded away: the classic
 * canvas asks each widget itself whether it is one.  In Nodes 2.0, the style sheet places the chart.
 */
export function layOut(node) {
  for (const widget of node.widgets.filter(({ options }) => options?.advanced)) widget.advanced = true;
  const shown = (widget) => !widget.hidden && (node.showAdvanced || !widget.advanced);
  const order = (widget) => (widget.panel?.chart ? 0 : 1);
  node.getLayoutWidgets = () => node.widgets.filter(shown).sort((one, other) => order(one) - order(other));
  node.setSize([node.size[0], node.computeSize()[1]]);
}
