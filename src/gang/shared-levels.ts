import type { NodeLevel } from "../topology/fabric.ts";
import type { PreparedUnit } from "./prepare.ts";

/** Levels of node labels that required rules name, narrow to broad. */
export function sharedLevels({ rules, base }: PreparedUnit): NodeLevel[] {
  const levels = new Set<NodeLevel>();
  for (const { kind, required, ref, setOf } of rules) {
    const concerns = kind === "colocate" && required && base.some((slot) => setOf(slot) !== undefined);
    if (concerns && ref.kind === "node") levels.add(ref.level);
  }
  return [...levels].sort((a, b) => b.index - a.index);
}
