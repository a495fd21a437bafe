import { candidatesOf } from "../dra/allocator/candidates.ts";
import { taintText } from "../dra/allocator/taint-text.ts";
import type { NodeInventory } from "../topology/inventory.ts";
import type { ModelView } from "../topology/model.ts";
import type { ShapeTable } from "./fit.ts";

/**
 * `; 2 devices have taints that are not tolerated (…)`: devices that nobody holds, and that some of the pods would be given if it
 * were not for their taints.
 */
export function taintedText(view: ModelView, tables: readonly ShapeTable[]): string {
  const taints = new Map<string, string>();
  for (const node of view.nodes) {
    if (node === undefined) continue;
    const inventory = view.inventory(node.index);
    if (!inventory.tainted) continue;
    const { used } = view.usage(node.index);
    for (const { shape } of tables.filter(({ admits }) => admits[node.index] === 1)) {
      for (const [device, taint] of withheldOn(inventory, shape.claims)) {
        if (used[device] === 0) taints.set(inventory.devices[device]!.key, taint);
      }
    }
  }
  return taintText([...taints.values()]);
}

/** Devices that some request would have and none may: index → taint. */
function withheldOn(inventory: NodeInventory, claims: ShapeTable["shape"]["claims"]): Map<number, string> {
  const candidates = claims.flatMap((claim) =>
    claim.requests.flatMap(({ alternatives }) => alternatives.map((each) => candidatesOf(inventory, claim, each))),
  );
  const usable = new Set(candidates.flatMap((each) => each.usable));
  const withheld = candidates.flatMap((each) => each.withheld.filter(({ device }) => !usable.has(device)));
  return new Map(withheld.map(({ device, taint }) => [device, taint]));
}
