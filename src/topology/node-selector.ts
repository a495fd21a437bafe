import type { NodeSelector, NodeSelectorRequirement } from "../api/kubernetes.ts";
import type { NodeRecord } from "./records.ts";

/** `core/v1` NodeSelector: terms are alternatives, requirements of a term hold together; an empty term matches nothing. */
export function matchesNodeSelector(selector: NodeSelector, node: Pick<NodeRecord, "name" | "labels">): boolean {
  return selector.nodeSelectorTerms.some((term) => {
    const expressions = term.matchExpressions ?? [];
    const fields = term.matchFields ?? [];
    if (expressions.length + fields.length === 0) return false;
    return (
      expressions.every((each) => matchesRequirement(each, node.labels[each.key])) &&
      fields.every((each) => each.key === "metadata.name" && matchesRequirement(each, node.name))
    );
  });
}

function matchesRequirement({ operator, values = [] }: NodeSelectorRequirement, value: string | undefined): boolean {
  switch (operator) {
    case "In":
      return value !== undefined && values.includes(value);
    case "NotIn":
      return value === undefined || !values.includes(value);
    case "Exists":
      return value !== undefined;
    case "DoesNotExist":
      return value === undefined;
    case "Gt":
    case "Lt":
      return comparesAs(operator, value, values[0]);
    default:
      return false;
  }
}

function comparesAs(operator: "Gt" | "Lt", value: string | undefined, bound: string | undefined): boolean {
  if (value === undefined || bound === undefined || !isInteger(value) || !isInteger(bound)) return false;
  return operator === "Gt" ? BigInt(value) > BigInt(bound) : BigInt(value) < BigInt(bound);
}

function isInteger(text: string): boolean {
  return /^[+-]?\d+$/.test(text);
}
