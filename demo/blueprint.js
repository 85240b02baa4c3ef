// Runs in ComfyUI's page: makes one node of the open graph, with the given widgets and outputs on it.
// inputs: [{label, slots: [[type, widget], ...]}]; outputs: [{label, type, output}]; width in pixels.
async ({ inputs, outputs, width }) => {
  const { app } = window;
  const note = app.graph.nodes.find(({ type }) => type === "MarkdownNote");
  if (note) app.graph.remove(note);
  const { subgraph, node } = app.graph.convertToSubgraph(new Set([...app.graph.nodes, ...app.graph.groups]));
  const of = (type) => subgraph.nodes.find((each) => each.type === type);
  for (const input of [...subgraph.inputs]) subgraph.removeInput(input); // ComfyUI has chosen some by itself
  for (const { label, slots } of inputs) {
    const found = slots.map(([type, name]) => [of(type), of(type).inputs.find((input) => input.widget?.name === name)]);
    const input = subgraph.addInput(label, String(found[0][1].type));
    for (const [inner, slot] of found) input.connect(slot, inner);
  }
  for (const { label, type, output } of outputs) {
    const inner = of(type);
    const slot = inner.outputs[output];
    subgraph.addOutput(label, String(slot.type)).connect(slot, inner);
  }
  await new Promise((resolve) => setTimeout(resolve, 1000)); // the widgets are made by ComfyUI meanwhile
  node.pos = [0, 0];
  node.setSize([width, node.computeSize()[1]]);
  return JSON.stringify(app.canvas._serializeItems([node]));
}
