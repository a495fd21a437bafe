import { type Environment, Optional } from "@marcbachmann/cel-js";
import { Duration, UnsignedInt } from "@marcbachmann/cel-js/evaluator";
import { maxCost } from "./cost.ts";
import { celCompare, celEqual, entriesOf } from "./values.ts";

/**
 * Functions on lists and sets: https://kubernetes.io/docs/reference/using-api/cel/#kubernetes-list-library and the
 * extensions `lists` (version 3) and `sets` of cel-go.
 */
export function registerLists(environment: Environment): void {
  const add = (signature: string, handler: (...values: never[]) => unknown) =>
    environment.registerFunction(signature, handler);
  add("list<A>.isSorted(): bool", (list: unknown[]) =>
    list.every((each, i) => i === 0 || celCompare(list[i - 1], each) <= 0),
  );
  add("list<A>.min(): A", (list: unknown[]) => extreme(list, "min", -1));
  add("list<A>.max(): A", (list: unknown[]) => extreme(list, "max", 1));
  for (const type of ["int", "uint", "double", "google.protobuf.Duration"]) {
    add(`list<${type}>.sum(): ${type}`, sum);
  }
  add("list<A>.first(): optional<A>", (list: unknown[]) => Optional.of(list[0]));
  add("list<A>.last(): optional<A>", (list: unknown[]) => Optional.of(list.at(-1)));
  add("list.unwrapOpt(): list<dyn>", (list: Optional[]) =>
    list.flatMap((each) => (each.hasValue() ? [each.value()] : [])),
  );
  add("OptionalNamespace.ofNonZeroValue(A): optional<A>", (_: unknown, value: unknown) =>
    isZero(value) ? Optional.none() : Optional.of(value),
  );
  add("list<A>.indexOf(A): int", (list: unknown[], value: unknown) =>
    BigInt(list.findIndex((each) => celEqual(each, value))),
  );
  add("list<A>.lastIndexOf(A): int", (list: unknown[], value: unknown) =>
    BigInt(list.findLastIndex((each) => celEqual(each, value))),
  );
  add("list<A>.slice(int, int): list<A>", slice);
  add("list<A>.distinct(): list<A>", distinct);
  add("list<A>.sort(): list<A>", (list: unknown[]) => list.toSorted(celCompare));
  add("list<A>.reverse(): list<A>", (list: unknown[]) => list.toReversed());
  add("list.flatten(): list<dyn>", (list: unknown[]) => list.flat());
  add("list.flatten(int): list<dyn>", (list: unknown[], depth: bigint) => {
    if (depth < 0n) throw new Error("level must be non-negative");
    return list.flat(Number(depth));
  });
  namespace(environment, "lists", class Lists {}).registerFunction(
    "Lists.range(int): list<int>",
    (_: unknown, end: bigint) => {
      if (end > maxCost) throw new Error("operation cancelled: actual cost limit exceeded");
      return Array.from({ length: Math.max(0, Number(end)) }, (_, index) => BigInt(index));
    },
  );
  registerSets(namespace(environment, "sets", class Sets {}));
}

function registerSets(environment: Environment): void {
  const contains = (list: unknown[], part: unknown[]) => part.every((each) => includes(list, each));
  const add = (name: string, handler: (a: unknown[], b: unknown[]) => boolean) =>
    environment.registerFunction(`Sets.${name}(list<A>, list<A>): bool`, (_: unknown, a: unknown[], b: unknown[]) =>
      handler(a, b),
    );
  add("contains", contains);
  add("equivalent", (a, b) => contains(a, b) && contains(b, a));
  add("intersects", (a, b) => a.some((each) => includes(b, each)));
}

/** `name.function(…)`: the library knows methods of a constant, cel-go a function with a dot in its name. */
export function namespace(environment: Environment, name: string, marker: new () => object): Environment {
  environment.registerType(marker.name, { ctor: marker, fields: {} });
  environment.registerConstant(name, marker.name, new marker());
  return environment;
}

function isZero(value: unknown): boolean {
  const empty = (Array.isArray(value) ? value : entriesOf(value))?.length === 0;
  return empty || value === null || value === false || value === "" || celEqual(value, 0n);
}

function includes(list: readonly unknown[], value: unknown): boolean {
  return list.some((each) => celEqual(each, value));
}

function extreme(list: readonly unknown[], name: string, sign: 1 | -1): unknown {
  if (list.length === 0) throw new Error(`${name} called on empty list`);
  return list.reduce((best, each) => (Math.sign(celCompare(each, best)) === sign ? each : best));
}

function sum(list: unknown[]): unknown {
  const [first] = list;
  if (first === undefined) return 0n;
  if (typeof first === "bigint") return (list as bigint[]).reduce((total, each) => total + each, 0n);
  if (typeof first === "number") return (list as number[]).reduce((total, each) => total + each, 0);
  if (first instanceof UnsignedInt) {
    return new UnsignedInt((list as UnsignedInt[]).reduce((total, each) => total + BigInt(Number(each.valueOf())), 0n));
  }
  if (first instanceof Duration) {
    const nanos = (list as Duration[]).reduce(
      (total, each) => total + each.seconds * 1_000_000_000n + BigInt(each.nanos),
      0n,
    );
    return new Duration(nanos / 1_000_000_000n, Number(nanos % 1_000_000_000n));
  }
  throw new Error("no such overload");
}

function slice(list: unknown[], start: bigint, end: bigint): unknown[] {
  const wrong = start < 0n || end < 0n || start > end || end > list.length;
  if (wrong) throw new Error(`cannot slice(${start}, ${end}), list is length ${list.length}`);
  return list.slice(Number(start), Number(end));
}

function distinct(list: unknown[]): unknown[] {
  const found: unknown[] = [];
  for (const each of list) if (!includes(found, each)) found.push(each);
  return found;
}
