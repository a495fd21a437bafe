import { type Environment, Optional } from "@marcbachmann/cel-js";
import { formatText } from "./format.ts";
import { celCompare, entriesOf } from "./values.ts";

/** The part of the library's checker, evaluator and scopes that macros use; its version is pinned. */
interface Node {
  readonly op: string;
  readonly args: unknown;
}
interface Checker {
  check(node: Node, scope: Scope): Type;
  getType(name: string): Type;
  readonly dynType: Type;
  createError(code: string, message: string, node: Node): Error;
}
interface Type {
  readonly kind: string;
  readonly name: string;
  readonly valueType?: Type;
  readonly keyType?: Type;
  isDynOrBool(): boolean;
}
interface Evaluator {
  run(node: Node, scope: Scope): unknown;
}
interface Scope {
  forkWithVariable(name: string, type: Type): Scope;
  reuse(parent: Scope): Scope;
  setIterValue(value: unknown, evaluator: Evaluator): Scope;
}
interface MacroCall {
  readonly ast: Node;
  readonly args: readonly Node[];
  readonly receiver: Node;
}

/** Reads the body of a macro for one key and value. */
type Body = (key: unknown, value: unknown) => unknown;
type Fold = (entries: readonly (readonly [unknown, unknown])[], bodies: readonly Body[]) => unknown;

/**
 * The macros that the library lacks: comprehensions with two variables
 * (https://pkg.go.dev/github.com/google/cel-go/ext#TwoVarComprehensions), `sortBy`, `optMap`, `optFlatMap`, and `format`,
 * whose arguments may be of different types.
 */
export function registerMacros(environment: Environment): void {
  const two = (name: string, bodies: 1 | 2, type: string, fold: Fold) => {
    const signature = `list.${name}(${Array(bodies + 2)
      .fill("ast")
      .join(", ")}): dyn`;
    environment.registerFunction(signature, ((call: MacroCall) => twoVariables(call, type, fold)) as never);
  };
  two("all", 1, "bool", (entries, [test]) => quantified(entries, test!, false) === undefined);
  two("exists", 1, "bool", (entries, [test]) => quantified(entries, test!, true) !== undefined);
  two("existsOne", 1, "bool", (entries, [test]) => entries.filter(([k, v]) => isTrue(test!(k, v))).length === 1);
  two("transformList", 1, "list<dyn>", (entries, [map]) => entries.map(([k, v]) => map!(k, v)));
  two("transformList", 2, "list<dyn>", (entries, [test, map]) =>
    entries.filter(([k, v]) => isTrue(test!(k, v))).map(([k, v]) => map!(k, v)),
  );
  two("transformMap", 1, "map<dyn, dyn>", (entries, [map]) => new Map(entries.map(([k, v]) => [k, map!(k, v)])));
  two(
    "transformMap",
    2,
    "map<dyn, dyn>",
    (entries, [test, map]) => new Map(entries.filter(([k, v]) => isTrue(test!(k, v))).map(([k, v]) => [k, map!(k, v)])),
  );
  two("transformMapEntry", 1, "map<dyn, dyn>", (entries, [map]) => merged(entries.map(([k, v]) => map!(k, v))));
  two("transformMapEntry", 2, "map<dyn, dyn>", (entries, [test, map]) =>
    merged(entries.filter(([k, v]) => isTrue(test!(k, v))).map(([k, v]) => map!(k, v))),
  );
  for (const name of ["optMap", "optFlatMap"]) {
    environment.registerFunction(`optional.${name}(ast, ast): dyn`, ((call: MacroCall) =>
      optionalMap(call, name)) as never);
  }
  environment.registerFunction("list.sortBy(ast, ast): list<dyn>", sortBy as never);
  environment.registerFunction("string.format(ast): string", format as never);
}

/** As with one variable: an error counts only when no other entry decides. */
function quantified(entries: readonly (readonly [unknown, unknown])[], test: Body, wanted: boolean) {
  let failure: unknown;
  for (const entry of entries) {
    try {
      if (isTrue(test(entry[0], entry[1])) === wanted) return entry;
    } catch (error) {
      failure ??= error;
    }
  }
  if (failure !== undefined) throw failure;
  return undefined;
}

function isTrue(value: unknown): boolean {
  if (typeof value === "boolean") return value;
  throw new Error("predicate must return bool");
}

function merged(maps: readonly unknown[]): Map<unknown, unknown> {
  const result = new Map<unknown, unknown>();
  for (const [key, value] of maps.flatMap((map) => entriesOf(map) ?? [])) {
    if (result.has(key)) throw new Error(`insert failed: key ${String(key)} already exists`);
    result.set(key, value);
  }
  return result;
}

function twoVariables({ args, receiver }: MacroCall, type: string, fold: Fold) {
  const [keyName, valueName] = [variable(args[0]!), variable(args[1]!)];
  if (keyName === valueName) throw new Error(`the variables of a comprehension must differ, both are ${keyName}`);
  const bodies = args.slice(2);
  let outer: Scope;
  let inner: Scope;
  return {
    async: false,
    typeCheck(checker: Checker, _: unknown, scope: Scope): Type {
      const range = checker.check(receiver, scope);
      if (!["list", "map", "dyn"].includes(range.kind)) {
        throw checker.createError(
          "invalid_comprehension_range",
          `${range.name} cannot be range of a comprehension`,
          receiver,
        );
      }
      const keyType = range.kind === "list" ? checker.getType("int") : (range.keyType ?? checker.dynType);
      outer = scope.forkWithVariable(keyName, keyType);
      inner = outer.forkWithVariable(valueName, range.valueType ?? checker.dynType);
      for (const [i, body] of bodies.entries()) {
        const found = checker.check(body, inner);
        const isTest = type === "bool" || (bodies.length === 2 && i === 0);
        if (isTest && !found.isDynOrBool())
          throw checker.createError("no_such_overload", "predicate must be bool", body);
      }
      return checker.getType(type);
    },
    evaluate(evaluator: Evaluator, _: unknown, scope: Scope): unknown {
      const range = evaluator.run(receiver, scope);
      const entries = Array.isArray(range) ? range.map((each, i) => [BigInt(i), each] as const) : entriesOf(range);
      if (entries === undefined) throw new Error("no such overload");
      const run = (body: Node) => (key: unknown, value: unknown) => {
        const keyed = outer.reuse(scope).setIterValue(key, evaluator);
        return evaluator.run(body, inner.reuse(keyed).setIterValue(value, evaluator));
      };
      return fold(entries, bodies.map(run));
    },
  };
}

/** A list in the order of what the body makes of its values. */
function sortBy({ args, receiver }: MacroCall) {
  const name = variable(args[0]!);
  let inner: Scope;
  return {
    async: false,
    typeCheck(checker: Checker, _: unknown, scope: Scope): Type {
      const list = checker.check(receiver, scope);
      inner = scope.forkWithVariable(name, list.valueType ?? checker.dynType);
      checker.check(args[1]!, inner);
      return list;
    },
    evaluate(evaluator: Evaluator, _: unknown, scope: Scope): unknown {
      const list = evaluator.run(receiver, scope) as unknown[];
      const keyed = list.map((value) => ({
        value,
        key: evaluator.run(args[1]!, inner.reuse(scope).setIterValue(value, evaluator)),
      }));
      return keyed.sort((a, b) => celCompare(a.key, b.key)).map(({ value }) => value);
    },
  };
}

/** What the body makes of the value, if there is one. */
function optionalMap({ args, receiver }: MacroCall, name: string) {
  let inner: Scope;
  return {
    async: false,
    typeCheck(checker: Checker, _: unknown, scope: Scope): Type {
      const optional = checker.check(receiver, scope);
      inner = scope.forkWithVariable(variable(args[0]!), optional.valueType ?? checker.dynType);
      checker.check(args[1]!, inner);
      return checker.getType("optional<dyn>");
    },
    evaluate(evaluator: Evaluator, _: unknown, scope: Scope): unknown {
      const optional = evaluator.run(receiver, scope);
      if (!(optional instanceof Optional)) throw new Error("no such overload");
      if (!optional.hasValue()) return optional;
      const result = evaluator.run(args[1]!, inner.reuse(scope).setIterValue(optional.value(), evaluator));
      return name === "optMap" ? Optional.of(result) : result;
    },
  };
}

function format({ args, receiver }: MacroCall) {
  const [list] = args;
  const elements = list!.op === "list" ? (list!.args as Node[]) : undefined;
  return {
    async: false,
    typeCheck(checker: Checker, _: unknown, scope: Scope): Type {
      checker.check(receiver, scope);
      for (const each of elements ?? [list!]) checker.check(each, scope);
      // What is written out is tried now, so that a fault in it refuses the expression.
      if (elements !== undefined && [receiver, ...elements].every(({ op }) => op === "value")) {
        formatText(
          receiver.args as string,
          elements.map((each) => each.args),
        );
      }
      return checker.getType("string");
    },
    evaluate(evaluator: Evaluator, _: unknown, scope: Scope): unknown {
      const values = elements?.map((each) => evaluator.run(each, scope)) ?? evaluator.run(list!, scope);
      const text = evaluator.run(receiver, scope);
      if (typeof text !== "string" || !Array.isArray(values)) throw new Error("no such overload");
      return formatText(text, values);
    },
  };
}

function variable(node: Node): string {
  if (node.op !== "id") throw new Error("argument must be a simple name");
  return node.args as string;
}
