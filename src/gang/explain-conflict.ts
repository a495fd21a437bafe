import type { Rejection, RejectionReason, Conflict as Told } from "../api/placement.ts";
import type { ModelView } from "../topology/model.ts";
import type { Conflict } from "./conflict.ts";
import type { ShapeTable } from "./fit.ts";
import type { PreparedUnit } from "./prepare.ts";
import { breadthOf, type Rule, type Slot } from "./problem.ts";
import { describeShape, plural } from "./shape-text.ts";
import { type Shortage, sharedLevel, shortages } from "./shortage.ts";
import { taintedText } from "./tainted-text.ts";
import { unlabelledText } from "./unlabelled.ts";

/** What stands in the way of a gang, before it is said of whom. */
export interface Verdict extends Pick<Rejection, "message" | "blocking" | "conflict"> {
  readonly reason: RejectionReason;
}

/** Several pods have no place together: names the smallest set that has none, what is short, and where it comes closest. */
export function conflictVerdict(view: ModelView, prepared: PreparedUnit, conflict: Conflict): Verdict {
  const { slots, rules } = conflict;
  const level = sharedLevel(conflict)?.ref.level.name ?? broadestLevel(rules);
  const short = shortages(view, prepared, conflict);
  const texts = [...new Set(rules.map(ruleText))];
  const wanted = texts.length > 0 ? ` with ${texts.slice(0, 6).join(", ")}` : "";
  const what = short.flatMap(({ resource }) => (resource === "pods" ? [] : [resource]));
  const lack = what.length > 0 ? ` for want of ${what.join(" or ")}` : "";
  return {
    reason: "NoDomainFits",
    message: `${podsText(prepared, slots)} ${slots.length === 1 ? "has no place" : "have no place together"}${wanted}${lack}${sizeText(conflict)}${closestText(prepared, level, short[0]!)}${unspreadText(view, prepared, conflict)}${taintedText(view, tablesOf(prepared, slots))}`,
    blocking: short.map(({ resource, needed, available, domain }) => {
      return { level, ...(domain !== undefined && { domain }), resource, needed, available };
    }),
    conflict: conflictOf(conflict),
  };
}

/** The conflict by names. */
export function conflictOf({ slots, rules, size }: Conflict): Told {
  return { pods: slots.map(({ pod }) => pod.name), rules: [...new Set(rules.map(ruleText))], size };
}

/** `pod set ranks in one rack` */
export function ruleText({ kind, title, ref }: Rule): string {
  return `${title} ${kind === "spread" ? "spread over" : "in one"} ${ref.level.name}`;
}

function podsText(prepared: PreparedUnit, slots: readonly Slot[]): string {
  const counts = Map.groupBy(slots, (slot) => prepared.tableOf(slot, []).shape);
  return [...counts].map(([shape, { length }]) => `${plural(length, "pod")} of ${describeShape(shape)}`).join(" and ");
}

function sizeText({ slots, size }: Conflict): string {
  if (slots.length === 1) return "";
  if (size === "smallest") return ", though any fewer pods have one";
  const unsure = "fewer pods may have none either: the search for them used up its budget";
  return size === "irreducible" ? `, though without any one of them they have one (${unsure})` : ` (${unsure})`;
}

function closestText(prepared: PreparedUnit, level: string, { domain, without, available }: Shortage): string {
  if (available === 0) return "";
  const but = `all fit but ${podsText(prepared, without)}`;
  return domain === undefined ? `; ${but}` : `; ${level} ${domain} comes closest: ${but}`;
}

/** Nodes that have room and lie in no domain of a level over which the pods are to be spread. */
function unspreadText(view: ModelView, prepared: PreparedUnit, { slots, rules }: Conflict): string {
  const table = prepared.tableOf(slots[0]!, []);
  const levels = new Set(rules.filter(({ kind }) => kind === "spread").map(({ ref }) => ref));
  return [...levels].map((ref) => unlabelledText(view, ref, table)).join("");
}

function tablesOf(prepared: PreparedUnit, slots: readonly Slot[]): ShapeTable[] {
  return [...new Set(slots.map((slot) => prepared.tableOf(slot, [])))];
}

/** The level that the conflict is about; without rules the cluster itself. */
function broadestLevel(rules: readonly Rule[]): string {
  return rules.toSorted((a, b) => breadthOf(a) - breadthOf(b))[0]?.ref.level.name ?? "cluster";
}
