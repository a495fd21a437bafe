/**
 * What an evaluation may cost, in CEL's units (`k8s.io/api/resource/v1`: CELSelectorExpressionMaxCost). Counted much as
 * cel-go counts (`interpreter/runtimecost.go`): one unit per name, field and call, ten per list and thirty per map that
 * is made, and the sizes of what calls return. It stops expressions that would keep the planner busy; the last units
 * are not those of cel-go.
 */
export const maxCost = 1_000_000;

let spent = 0;

/** Runs one evaluation; throws when it costs too much, even where the expression would hide the error. */
export function withCostLimit<T>(evaluate: () => T): T {
  spent = 0;
  const result = evaluate();
  if (spent > maxCost) throw tooCostly();
  return result;
}

/** Adds to the cost of the evaluation under way; throws when it is too much. */
export function spend(cost: number): void {
  spent += cost;
  if (spent > maxCost) throw tooCostly();
}

function tooCostly(): Error {
  return new Error("operation cancelled: actual cost limit exceeded");
}

/** Cost of a node of the syntax tree by its operator, beside what its operands cost. */
export function costOf(op: string, result: unknown): number {
  switch (op) {
    case "value":
    case "&&":
    case "||":
    case "?:":
      return 0;
    case "list":
      return 10;
    case "map":
      return 30;
    default:
      return 1 + sizeOf(result);
  }
}

/** A tenth per character, one per element. */
function sizeOf(result: unknown): number {
  if (typeof result === "string") return Math.floor(result.length / 10);
  return Array.isArray(result) ? result.length : 0;
}
