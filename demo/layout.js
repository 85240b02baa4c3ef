// Runs in ComfyUI's page: arranges the open graph as columns in two groups, the note at the top left.
// groups: [{title, color, columns: [{width, types}]}]; heights: {node id: height}; note: {title, height, text};
// collapsed: types of nodes shown as their title.
({ groups, heights, note, collapsed }) => {
  const GAP = { x: 50, y: 20 };
  const TITLE = 30; // a node's title bar lies above its position
  const GROUP = { side: 20, top: 50, bottom: 20, between: 30 };
  const { graph, canvas } = window.app;
  const text = window.LiteGraph.createNode("MarkdownNote");
  graph.add(text);
  text.title = note.title;
  text.widgets[0].value = note.text;
  const height = (node) => (node === text ? note.height : node.flags.collapsed ? 0 : heights[node.id]);

  function arrange({ title, color, columns }, left) {
    let x = left + GROUP.side;
    let bottom = 0;
    for (const { width, types } of columns) {
      let y = GROUP.top + TITLE;
      for (const type of types) {
        const node = graph.nodes.find((each) => each.type === type);
        if (!node) continue; // the demo's own
        node.pos = [x, y];
        node.flags.collapsed = collapsed.includes(type);
        node.setSize([width, height(node)]);
        y += height(node) + TITLE + GAP.y;
      }
      bottom = Math.max(bottom, y - TITLE - GAP.y);
      x += width + GAP.x;
    }
    const group = new window.LiteGraph.LGraphGroup(title);
    group.pos = [left, 0];
    group.size = [x - GAP.x + GROUP.side - left, bottom + GROUP.bottom];
    group.color = color;
    graph.add(group);
    return left + group.size[0] + GROUP.between;
  }

  groups.reduce((left, group) => arrange(group, left), 0);
  canvas.setDirty(true, true);
}
