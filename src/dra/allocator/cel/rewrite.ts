import { RE2JS } from "re2js";
import { costOf, spend } from "./cost.ts";
import { Semver } from "./semver.ts";

/**
 * The seam where the CEL library's reading of three constructs is replaced by cel-go's. It touches the parsed tree
 * that the library hands out (its version is pinned, and the table of expressions in the tests guards the seam):
 *
 * - `has(e.f)`: the library allows no index inside e, and `has(device.attributes["d"].f)` is the usual guard;
 * - `a == b`: a version a equals no value of another type: that fails, whatever b turns out to be on the device;
 * - `k in m`: an absent domain reads as an empty map, yet it is not in the map;
 * - `s.matches(p)`: RE2 instead of a backtracking engine, which a pattern could keep busy for ever.
 */
export interface ParsedNode {
  op: string;
  args: unknown;
  readonly input: string;
  readonly start: number;
  readonly end: number;
  /** Of an operator, once it is checked. */
  handle?: Operate;
  readonly meta: { check: CheckNode; evaluate: EvaluateNode; macro?: unknown; alternate?: unknown };
  clone(op: { name: string; check: CheckNode; evaluate: EvaluateNode }, args: unknown): ParsedNode;
  setMeta(key: string, value: unknown): ParsedNode;
}

type CheckNode = (checker: unknown, node: ParsedNode, context: unknown) => unknown;
type EvaluateNode = (evaluator: Evaluator, node: ParsedNode, context: unknown) => unknown;
type Evaluator = unknown;
/** What an operator does with the values of its operands, left and right; node and evaluator follow. */
type Operate = (left: unknown, right: unknown, ...rest: unknown[]) => unknown;

/** Adapts a tree in place, before it is checked. `parse` makes nodes of small expressions. */
export function adaptToKubernetes(root: ParsedNode, parse: (text: string) => ParsedNode): void {
  for (const node of descendants(root)) {
    if (node.op === "call") adaptHas(node, parse);
    else if (node.op === "in") adaptIn(node);
    else if (node.op === "==") adaptEquality(node);
    else if (node.op === "rcall") adaptMatches(node);
    else if (node.op === "value") refuseOverflow(node, root);
  }
}

/** Makes the evaluation of a checked tree count what it costs. */
export function countCost(root: ParsedNode): void {
  for (const node of descendants(root)) {
    const { evaluate, macro, alternate } = node.meta;
    if (macro !== undefined || alternate !== undefined) continue;
    node.setMeta("evaluate", (evaluator: Evaluator, self: ParsedNode, context: unknown) => {
      const result = evaluate(evaluator, self, context);
      spend(costOf(node.op, result));
      return result;
    });
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

export function isNode(value: unknown): value is ParsedNode {
  return typeof value === "object" && value !== null && "op" in value && "setMeta" in value;
}

/** `has(e.f)` becomes `e[?"f"].hasValue()`: an error in e stays an error, an absent f is false. */
function adaptHas(node: ParsedNode, parse: (text: string) => ParsedNode): void {
  const [name, args] = node.args as [string, ParsedNode[]];
  const selection = args[0];
  if (name !== "has" || args.length !== 1 || selection?.op !== ".") return;
  const [operand, field] = selection.args as [ParsedNode, string];
  if (operand.op === "id" && operand.args === "device" && !deviceFields.has(field)) {
    throw new Error(`undefined field '${field}'`);
  }
  const template = parse(`x[?${JSON.stringify(field)}].hasValue()`);
  const access = (template.args as [string, ParsedNode, unknown[]])[1];
  (access.args as ParsedNode[])[0] = operand;
  node.setMeta("macro", undefined).setMeta("async", undefined).setMeta("alternate", template);
}

const conversions: ReadonlySet<string> = new Set(["int", "uint", "double", "bool", "duration", "timestamp"]);

/** Conversions of values that are written out, as source texts: cel-go makes them while it compiles. */
export function constantConversions(root: ParsedNode): string[] {
  return descendants(root).flatMap((node) => {
    if (node.op !== "call") return [];
    const [name, [only, ...more]] = node.args as [string, ParsedNode[]];
    const literal = only?.op === "-_" ? (only.args as ParsedNode) : only;
    const constant = literal?.op === "value" && more.length === 0 && conversions.has(name);
    return constant ? [node.input.slice(node.start, node.end)] : [];
  });
}

const deviceFields: ReadonlySet<string> = new Set(["driver", "allowMultipleAllocations", "attributes", "capacity"]);

/** Whole numbers have 64 bits; only below a minus may one be 2^63. */
function refuseOverflow(node: ParsedNode, root: ParsedNode): void {
  if (typeof node.args !== "bigint" || node.args < 2n ** 63n) return;
  const negated = descendants(root).some(({ op, args }) => op === "-_" && args === node);
  if (node.args > 2n ** 63n || !negated) throw new Error(`invalid int literal: ${node.args}`);
}

/** Asks the map itself, not its reading of absent keys. */
function adaptIn(node: ParsedNode): void {
  adaptOperator(node, (isIn) => (key, container, ...rest) => {
    return container instanceof Map ? container.has(key) : isIn(key, container, ...rest);
  });
}

/** The library finds values of different types different; cel-go's version on the left refuses any other type (`!=` does not). */
function adaptEquality(node: ParsedNode): void {
  adaptOperator(node, (equals) => (left, right, ...rest) => {
    if (left instanceof Semver && !(right instanceof Semver)) {
      throw new Error('no such overload: a version equals versions only, compare it with semver("1.2.3")');
    }
    return equals(left, right, ...rest);
  });
}

/** Wraps what a binary operator does with the values of its operands, which the check of the node decides. */
function adaptOperator(node: ParsedNode, adapt: (operate: Operate) => Operate): void {
  const { check } = node.meta;
  node.setMeta("check", (checker: unknown, self: ParsedNode, context: unknown) => {
    const type = check(checker, self, context);
    self.handle = adapt(self.handle!);
    return type;
  });
}

/** A pattern that is written out is compiled here, so that a fault in it refuses the expression. */
function adaptMatches(node: ParsedNode): void {
  const args = node.args as [string, ParsedNode, ParsedNode[]];
  const [pattern] = args[2];
  if (!["matches", "find", "findAll"].includes(args[0])) return;
  if (args[0] === "matches" && args[2].length === 1) args[0] = "matchesRe2";
  if (pattern?.op === "value" && typeof pattern.args === "string") RE2JS.compile(pattern.args);
}
