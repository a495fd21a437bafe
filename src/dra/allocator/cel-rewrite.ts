import { RE2JS } from "re2js";

/**
 * The seam where the CEL library's reading of three constructs is replaced by cel-go's. It touches the parsed tree
 * that the library hands out (its version is pinned, and the table of expressions in the tests guards the seam):
 *
 * - `has(e.f)`: the library allows no index inside e, and `has(device.attributes["d"].f)` is the usual guard;
 * - `k in m`: an absent domain reads as an empty map, yet it is not in the map;
 * - `s.matches(p)`: RE2 instead of a backtracking engine, which a pattern could keep busy for ever.
 */
export interface ParsedNode {
  op: string;
  args: unknown;
  readonly meta: { check: CheckNode; evaluate: EvaluateNode };
  clone(op: { name: string; check: CheckNode; evaluate: EvaluateNode }, args: unknown): ParsedNode;
  setMeta(key: string, value: unknown): ParsedNode;
}

type CheckNode = (checker: unknown, node: ParsedNode, context: unknown) => unknown;
type EvaluateNode = (evaluator: Evaluator, node: ParsedNode, context: unknown) => unknown;
interface Evaluator {
  run(node: ParsedNode, context: unknown): unknown;
}

/** Adapts a tree in place, before it is checked. `parse` makes nodes of small expressions. */
export function adaptToKubernetes(root: ParsedNode, parse: (text: string) => ParsedNode): void {
  for (const node of descendants(root)) {
    if (node.op === "call") adaptHas(node, parse);
    else if (node.op === "in") adaptIn(node);
    else if (node.op === "rcall") adaptMatches(node);
  }
}

function descendants(root: ParsedNode): ParsedNode[] {
  const found: ParsedNode[] = [];
  const visit = (value: unknown): void => {
    if (Array.isArray(value)) value.forEach(visit);
    else if (isNode(value)) {
      found.push(value);
      visit(value.args);
    }
  };
  visit(root);
  return found;
}

function isNode(value: unknown): value is ParsedNode {
  return typeof value === "object" && value !== null && "op" in value && "setMeta" in value;
}

/** `has(e.f)` becomes `e[?"f"].hasValue()`: an error in e stays an error, an absent f is false. */
function adaptHas(node: ParsedNode, parse: (text: string) => ParsedNode): void {
  const [name, args] = node.args as [string, ParsedNode[]];
  const selection = args[0];
  if (name !== "has" || args.length !== 1 || selection?.op !== ".") return;
  const [operand, field] = selection.args as [ParsedNode, string];
  const template = parse(`x[?${JSON.stringify(field)}].hasValue()`);
  const access = (template.args as [string, ParsedNode, unknown[]])[1];
  (access.args as ParsedNode[])[0] = operand;
  node.setMeta("macro", undefined).setMeta("async", undefined).setMeta("alternate", template);
}

/** Asks the map itself, not its reading of absent keys. */
function adaptIn(node: ParsedNode): void {
  const [key, container] = node.args as [ParsedNode, ParsedNode];
  const { check, evaluate } = node.meta;
  node.setMeta("macro", {
    typeCheck: (checker: unknown, _macro: unknown, context: unknown) => check(checker, node, context),
    evaluate(evaluator: Evaluator, _macro: unknown, context: unknown) {
      const held = evaluator.run(container, context);
      return held instanceof Map ? held.has(evaluator.run(key, context)) : evaluate(evaluator, node, context);
    },
  });
}

/** A pattern that is written out is compiled here, so that a fault in it refuses the expression. */
function adaptMatches(node: ParsedNode): void {
  const args = node.args as [string, ParsedNode, ParsedNode[]];
  const [pattern] = args[2];
  if (args[0] !== "matches" || args[2].length !== 1) return;
  args[0] = "matchesRe2";
  if (pattern?.op === "value" && typeof pattern.args === "string") RE2JS.compile(pattern.args);
}
