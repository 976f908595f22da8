/** Which node of the open workflow a training belongs to. Inside subgraphs an id is a path: "3:7" is node 7 in the subgraph node 3. */

import { isOfWorkflow } from "./training.js";

/** @returns {object | undefined} the node at an id such as "7" or "3:7", from the outermost graph on */
export function nodeAt(graph, id) {
  const path = String(id).split(":");
  const last = path.pop();
  let inner = graph;
  for (const part of path) inner = found(inner, part)?.subgraph;
  return inner ? found(inner, last) : undefined;
}

/** Ids are numbers in one frontend and texts in another. */
function found(graph, id) {
  return graph?.getNodeById?.(id) ?? graph?.getNodeById?.(Number(id)) ?? undefined;
}

/**
 * The panels that show a training.
 * @param {import("./training.js").Training} training
 * @param {object} graph the outermost
 * @param {Map<object, object>} panels by node
 */
export function panelsOf(training, graph, panels) {
  const { node, workflow } = training.figures;
  if (!graph || node === undefined || !isOfWorkflow({ workflow }, graph.id)) return [];
  const panel = panels.get(nodeAt(graph, node));
  return panel ? [panel] : [];
}
