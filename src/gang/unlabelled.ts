import { matchingDevices } from "../dra/allocator/allocate.ts";
import type { DeviceLevel } from "../topology/fabric.ts";
import type { ModelView } from "../topology/model.ts";
import type { ShapeTable } from "./fit.ts";
import { type LevelRef, valuesInside } from "./problem.ts";
import { plural } from "./shape-text.ts";

/** `; 2 nodes with room lack the labels of rack (…)`: nodes that pods could use but that are in no domain of the level. */
export function unlabelledText(view: ModelView, ref: LevelRef, table: ShapeTable): string {
  if (ref.kind === "device") return untoldText(view, ref.level, table);
  const { slots, admits } = table;
  const { name, nodeLabels, domainOf, inside } = ref.level;
  const missing = view.nodes.filter((node) => {
    if (!node || domainOf[node.index]! >= 0) return false;
    if (!inside) return slots[node.index]! > 0;
    const devices = admits[node.index] === 1 && view.inventory(node.index).devices.length > 0;
    return devices && valuesInside(view, node.index, inside.attribute).length === 0;
  }).length;
  if (missing === 0) return "";
  const lack = missing === 1 ? "lacks" : "lack";
  const labels = `the labels of ${name} (${nodeLabels.slice(0, 2).join(", ")})`;
  if (!inside) return `; ${plural(missing, "node")} with room ${lack} ${labels}`;
  return `; ${plural(missing, "node")} ${lack} ${labels}, and devices that tell ${inside.attribute}`;
}

/** `; devices of 2 nodes do not tell …`: those that some request would have, on nodes where none is in a domain of the level. */
function untoldText(view: ModelView, { attribute }: DeviceLevel, { shape, admits }: ShapeTable): string {
  const untold = view.nodes.filter((node) => {
    if (!node || admits[node.index] !== 1 || valuesInside(view, node.index, attribute).length > 0) return false;
    const inventory = view.inventory(node.index);
    return shape.claims.some((claim) => claim.requests.some((_, i) => matchingDevices(inventory, claim, i).length > 0));
  }).length;
  return untold === 0 ? "" : `; devices of ${plural(untold, "node")} do not tell ${attribute}`;
}
