/** A workflow's groups, one beside the other on the canvas, put into rows: a picture of them is as wide as it is high, and can be read. */

const [GAP, MARGIN] = [60, 30];

/** @returns {object} a copy whose groups end below their last node and stand in rows of about the same width */
export function wrapped(workflow) {
  const copy = structuredClone(workflow);
  const groups = copy.groups.map((group) => ({ group, nodes: copy.nodes.filter((node) => holds(group.bounding, node.pos)) }));
  for (const { group, nodes } of groups) group.bounding[3] = Math.max(...nodes.map((node) => node.pos[1] + node.size[1])) + MARGIN - group.bounding[1];
  let top = 0;
  for (const row of rowsOf(groups)) {
    let left = 0;
    for (const each of row) {
      move(each, left - each.group.bounding[0], top - each.group.bounding[1]);
      left += each.group.bounding[2] + GAP;
    }
    top += Math.max(...row.map(({ group }) => group.bounding[3])) + GAP;
  }
  return copy;
}

/** What the groups take, with an edge around it. */
export function extent({ groups }, edge) {
  const right = Math.max(...groups.map(({ bounding }) => bounding[0] + bounding[2]));
  const bottom = Math.max(...groups.map(({ bounding }) => bounding[1] + bounding[3]));
  return { x: -edge, y: -edge, width: right + 2 * edge, height: bottom + 2 * edge };
}

/** As many rows as bring the picture nearest to a square. */
function rowsOf(groups) {
  const tried = groups.map((_, index) => split(groups, index + 1));
  return tried.reduce((best, rows) => (unevenness(rows) < unevenness(best) ? rows : best));
}

function split(groups, count) {
  const target = groups.reduce((sum, { group }) => sum + group.bounding[2] + GAP, 0) / count;
  const rows = [[]];
  let used = 0;
  for (const each of groups) {
    const width = each.group.bounding[2] + GAP;
    if (rows.at(-1).length && used + width / 2 > target && rows.length < count) {
      rows.push([]);
      used = 0;
    }
    rows.at(-1).push(each);
    used += width;
  }
  return rows;
}

function unevenness(rows) {
  const width = Math.max(...rows.map((row) => row.reduce((sum, { group }) => sum + group.bounding[2] + GAP, 0)));
  const height = rows.reduce((sum, row) => sum + Math.max(...row.map(({ group }) => group.bounding[3])) + GAP, 0);
  return Math.abs(Math.log(width / height));
}

function move({ group, nodes }, right, down) {
  group.bounding = [group.bounding[0] + right, group.bounding[1] + down, group.bounding[2], group.bounding[3]];
  for (const node of nodes) node.pos = [node.pos[0] + right, node.pos[1] + down];
}

function holds([left, top, width, height], [x, y]) {
  return x >= left && x < left + width && y >= top && y < top + height;
}
