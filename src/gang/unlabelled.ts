import type { ModelView } from "../topology/model.ts";
import type { ShapeTable } from "./fit.ts";
import { type LevelRef, valuesInside } from "./problem.ts";
import { plural } from "./shape-text.ts";

/** `; 2 nodes with room lack the labels of rack (…)`: nodes that pods could use but that are in no domain of the level. */
export function unlabelledText(view: ModelView, ref: LevelRef, { slots, admits }: ShapeTable): string {
  if (ref.kind !== "node") return "";
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
