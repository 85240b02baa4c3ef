// Runs in ComfyUI's page: arranges the open graph from left to right in two groups and adds the note.
// sizes: {node id: [width, height]}; trainer: the class that ends the first group.
({ sizes, trainer, titles, note }) => {
  const GAP = { x: 70, y: 40 };
  const TITLE = 30; // a node's title bar lies above its position
  const GROUP = { side: 30, top: 80, bottom: 30, between: 60 };
  const { graph, canvas } = window.app;
  const nodes = [...graph.nodes];
  const linked = (slots, end) => (slots ?? []).flatMap((slot) => slot.links ?? slot.link ?? [])
    .map((id) => graph.getNodeById(graph.links.get(id)[end]));
  const sources = (node) => linked(node.inputs, "origin_id");
  const targets = (node) => linked(node.outputs, "target_id");
  const size = (node) => sizes[node.id];

  const ancestors = (node) => [node, ...sources(node).flatMap(ancestors)];
  const training = new Set(nodes.filter((node) => node.type === trainer).flatMap(ancestors));
  const generating = new Set(nodes.filter((node) => !training.has(node)));

  // Column: how many steps before the end of the group, so that a loader stands next to what it feeds.
  const toEnd = (node, members) =>
    Math.max(0, ...targets(node).filter((next) => members.has(next)).map((next) => 1 + toEnd(next, members)));

  function arrange(members, left, top) {
    const columns = [];
    for (const node of members) (columns[toEnd(node, members)] ??= []).push(node);
    columns.reverse();
    // Of nodes that feed none of each other each is a column, or they would make a tower.
    if (columns.length === 1) columns.push(...columns.pop().map((node) => [node]));
    let x = left + GROUP.side;
    let bottom = top;
    for (const column of columns) {
      let y = top + GROUP.top + TITLE;
      for (const node of column) {
        node.pos = [x, y];
        node.setSize(size(node));
        y += size(node)[1] + TITLE + GAP.y;
      }
      bottom = Math.max(bottom, y - TITLE - GAP.y);
      x += Math.max(...column.map((node) => size(node)[0])) + GAP.x;
    }
    return [left, top, x - GAP.x + GROUP.side - left, bottom + GROUP.bottom - top];
  }

  function addGroup(title, bounds, color) {
    const group = new window.LiteGraph.LGraphGroup(title);
    group.pos = bounds.slice(0, 2);
    group.size = bounds.slice(2);
    group.color = color;
    graph.add(group);
  }

  const upper = arrange(training, 0, 0);
  const lower = arrange(generating, 0, upper[3] + GROUP.between);
  addGroup(titles[0], upper, "#3f789e");
  addGroup(titles[1], lower, "#88aa88");
  const text = window.LiteGraph.createNode("MarkdownNote");
  graph.add(text);
  text.title = note.title;
  text.pos = [upper[2] + GAP.x, GROUP.top + TITLE];
  text.size = note.size;
  text.widgets[0].value = note.text;
  canvas.setDirty(true, true);
}
