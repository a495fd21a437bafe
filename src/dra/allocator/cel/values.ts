import { Optional } from "@marcbachmann/cel-js";
import { UnsignedInt } from "@marcbachmann/cel-js/evaluator";
import { compareSemver, Semver } from "./semver.ts";

/** A Kubernetes quantity in billionths. */
export class Quantity {
  readonly nano: bigint;

  constructor(nano: bigint) {
    this.nano = nano;
  }
}

/** Equality of CEL values: numbers by value whatever their type, lists and maps by content. */
export function celEqual(a: unknown, b: unknown): boolean {
  if (a === b) return true;
  const [numberA, numberB] = [numeric(a), numeric(b)];
  // biome-ignore lint/suspicious/noDoubleEquals: compares a bigint with a number by value
  if (numberA !== undefined && numberB !== undefined) return numberA == numberB;
  if (isList(a) && isList(b)) return a.length === b.length && a.every((each, i) => celEqual(each, b[i]));
  if (a instanceof Optional && b instanceof Optional) {
    return a.hasValue() === b.hasValue() && (!a.hasValue() || celEqual(a.value(), b.value()));
  }
  if (a instanceof Quantity && b instanceof Quantity) return a.nano === b.nano;
  if (a instanceof Semver && b instanceof Semver) return compareSemver(a, b) === 0;
  const [mapA, mapB] = [entriesOf(a), entriesOf(b)];
  if (mapA === undefined || mapB === undefined || mapA.length !== mapB.length) return false;
  return mapA.every(([key, value]) => mapB.some(([other, its]) => celEqual(key, other) && celEqual(value, its)));
}

/** -1, 0 or 1; throws when CEL has no order between the two. */
export function celCompare(a: unknown, b: unknown): number {
  const [left, right] = [ordered(a), ordered(b)];
  const comparable = typeof left === typeof right || (isNumeric(left) && isNumeric(right));
  if (left === undefined || right === undefined || !comparable) throw new Error("no such overload");
  return left < right ? -1 : left > right ? 1 : 0;
}

function ordered(value: unknown): number | bigint | string | undefined {
  if (typeof value === "boolean") return Number(value);
  if (typeof value === "string") return value;
  if (value instanceof Uint8Array) return String.fromCharCode(...value);
  return numeric(value) ?? (hasMilliseconds(value) ? Number(value.valueOf()) : undefined);
}

/** Dates, and the library's durations. */
function hasMilliseconds(value: unknown): value is { valueOf(): number } {
  return ["[object Date]", "[object google.protobuf.Duration]"].includes(Object.prototype.toString.call(value));
}

function isNumeric(value: unknown): boolean {
  return typeof value === "number" || typeof value === "bigint";
}

function numeric(value: unknown): number | bigint | undefined {
  if (typeof value === "number" || typeof value === "bigint") return value;
  return value instanceof UnsignedInt ? (value.valueOf() as unknown as bigint) : undefined;
}

function isList(value: unknown): value is unknown[] {
  return Array.isArray(value) || value instanceof Uint8Array;
}

/** Keys and values of a map in either of the library's forms; undefined: it is no map. */
export function entriesOf(value: unknown): [unknown, unknown][] | undefined {
  if (value instanceof Map) return [...value];
  if (typeof value !== "object" || value === null || Array.isArray(value)) return undefined;
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null ? Object.entries(value) : undefined;
}
