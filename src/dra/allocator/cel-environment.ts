import { Environment } from "@marcbachmann/cel-js";
import { RE2JS } from "re2js";
import { parseNano } from "../../topology/quantity.ts";
import { compareSemver, parseLenientSemver, parseSemver, Semver } from "./semver.ts";

/** A Kubernetes quantity in billionths. */
export class Quantity {
  readonly nano: bigint;

  constructor(nano: bigint) {
    this.nano = nano;
  }
}

/** The variable `device` of a selector; missing domains read as empty maps, as upstream. */
export class CelDevice {
  readonly driver: string;
  readonly allowMultipleAllocations: boolean;
  readonly attributes: Map<string, Map<string, unknown>>;
  readonly capacity: Map<string, Map<string, Quantity>>;

  constructor(
    driver: string,
    allowMultipleAllocations: boolean,
    attributes: Map<string, Map<string, unknown>>,
    capacity: Map<string, Map<string, Quantity>>,
  ) {
    this.driver = driver;
    this.allowMultipleAllocations = allowMultipleAllocations;
    this.attributes = attributes;
    this.capacity = capacity;
  }
}

const quantityType = "kubernetes.Quantity";
const semverType = "kubernetes.Semver";
const nanoPerUnit = 1_000_000_000n;

/**
 * CEL with Kubernetes' environment for device selectors (`k8s.io/dynamic-resource-allocation/cel`): the variable
 * `device`, the quantity and semver libraries, and the list and string functions that the CEL library lacks.
 * A function that is not here makes an expression fail to compile, with its name.
 */
export function deviceEnvironment(): Environment {
  const environment = new Environment({ enableOptionalTypes: true });
  registerTypes(environment);
  registerQuantities(environment);
  registerSemver(environment);
  registerLists(environment);
  registerStrings(environment);
  environment.registerVariable("device", "kubernetes.DRADevice");
  return environment;
}

function registerTypes(environment: Environment): void {
  environment.registerType(quantityType, { ctor: Quantity, fields: {} });
  environment.registerType(semverType, { ctor: Semver, fields: {} });
  environment.registerType("kubernetes.DRADevice", {
    ctor: CelDevice,
    fields: {
      driver: "string",
      allowMultipleAllocations: "bool",
      attributes: "map<string, map<string, dyn>>",
      capacity: `map<string, map<string, ${quantityType}>>`,
    },
  });
}

/** https://kubernetes.io/docs/reference/using-api/cel/#kubernetes-quantity-library */
function registerQuantities(environment: Environment): void {
  const add = (signature: string, handler: (...values: never[]) => unknown) =>
    environment.registerFunction(signature, handler);
  add(`quantity(string): ${quantityType}`, (text: string) => new Quantity(parseNano(text)));
  add("isQuantity(string): bool", (text: string) => succeeds(() => parseNano(text)));
  add(`sign(${quantityType}): int`, (q: Quantity) => BigInt(compareNano(q.nano, 0n)));
  add(`${quantityType}.isInteger(): bool`, (q: Quantity) => q.nano % nanoPerUnit === 0n);
  add(`${quantityType}.asInteger(): int`, (q: Quantity) => {
    if (q.nano % nanoPerUnit !== 0n) throw new Error("cannot convert value to integer");
    return q.nano / nanoPerUnit;
  });
  add(`${quantityType}.asApproximateFloat(): double`, (q: Quantity) => Number(q.nano) / 1e9);
  add(`${quantityType}.isGreaterThan(${quantityType}): bool`, (a: Quantity, b: Quantity) => a.nano > b.nano);
  add(`${quantityType}.isLessThan(${quantityType}): bool`, (a: Quantity, b: Quantity) => a.nano < b.nano);
  add(`${quantityType}.compareTo(${quantityType}): int`, (a: Quantity, b: Quantity) =>
    BigInt(compareNano(a.nano, b.nano)),
  );
  add(
    `${quantityType}.add(${quantityType}): ${quantityType}`,
    (a: Quantity, b: Quantity) => new Quantity(a.nano + b.nano),
  );
  add(`${quantityType}.add(int): ${quantityType}`, (a: Quantity, b: bigint) => new Quantity(a.nano + b * nanoPerUnit));
  add(
    `${quantityType}.sub(${quantityType}): ${quantityType}`,
    (a: Quantity, b: Quantity) => new Quantity(a.nano - b.nano),
  );
  add(`${quantityType}.sub(int): ${quantityType}`, (a: Quantity, b: bigint) => new Quantity(a.nano - b * nanoPerUnit));
  environment.registerOperator(`${quantityType} == ${quantityType}`, (a: Quantity, b: Quantity) => a.nano === b.nano);
}

/** https://kubernetes.io/docs/reference/using-api/cel/#kubernetes-semver-library */
function registerSemver(environment: Environment): void {
  const add = (signature: string, handler: (...values: never[]) => unknown) =>
    environment.registerFunction(signature, handler);
  add(`semver(string): ${semverType}`, (text: string) => versionOf(text, false));
  add(`semver(string, bool): ${semverType}`, versionOf);
  add("isSemver(string): bool", (text: string) => parseSemver(text) !== undefined);
  add("isSemver(string, bool): bool", (text: string, lenient: boolean) => succeeds(() => versionOf(text, lenient)));
  for (const [position, name] of ["major", "minor", "patch"].entries()) {
    add(`${semverType}.${name}(): int`, (version: Semver) => version.numbers[position]);
  }
  add(`${semverType}.isGreaterThan(${semverType}): bool`, (a: Semver, b: Semver) => compareSemver(a, b) > 0);
  add(`${semverType}.isLessThan(${semverType}): bool`, (a: Semver, b: Semver) => compareSemver(a, b) < 0);
  add(`${semverType}.compareTo(${semverType}): int`, (a: Semver, b: Semver) => BigInt(compareSemver(a, b)));
  environment.registerOperator(`${semverType} == ${semverType}`, (a: Semver, b: Semver) => compareSemver(a, b) === 0);
}

type Ordered = bigint | number | string;

/** https://kubernetes.io/docs/reference/using-api/cel/#kubernetes-list-library */
function registerLists(environment: Environment): void {
  for (const type of ["int", "double", "string"]) {
    environment.registerFunction(`list<${type}>.isSorted(): bool`, (list: Ordered[]) =>
      list.every((value, position) => position === 0 || list[position - 1]! <= value),
    );
    environment.registerFunction(`list<${type}>.min(): ${type}`, (list: Ordered[]) =>
      extreme(list, "min", (value, least) => value < least),
    );
    environment.registerFunction(`list<${type}>.max(): ${type}`, (list: Ordered[]) =>
      extreme(list, "max", (value, most) => value > most),
    );
    environment.registerFunction(`list<${type}>.indexOf(${type}): int`, (list: Ordered[], value: Ordered) =>
      BigInt(list.indexOf(value)),
    );
    environment.registerFunction(`list<${type}>.lastIndexOf(${type}): int`, (list: Ordered[], value: Ordered) =>
      BigInt(list.lastIndexOf(value)),
    );
  }
  environment.registerFunction("list<int>.sum(): int", (list: bigint[]) =>
    list.reduce((sum, value) => sum + value, 0n),
  );
  environment.registerFunction("list<double>.sum(): double", (list: number[]) =>
    list.reduce((sum, value) => sum + value, 0),
  );
}

/** What cel-go's string extension has and the CEL library lacks, and RE2 patterns: linear in time, as upstream. */
function registerStrings(environment: Environment): void {
  environment.registerFunction("string.charAt(int): string", (text: string, position: bigint) => {
    if (position < 0n || position > text.length) throw new Error(`index out of range: ${position}`);
    return text.charAt(Number(position));
  });
  environment.registerFunction("string.replace(string, string): string", (text: string, old: string, by: string) =>
    text.replaceAll(old, () => by),
  );
  environment.registerFunction("matches(string, string): bool", matchesPattern);
  environment.registerFunction("string.matchesRe2(string): bool", matchesPattern);
  environment.registerFunction("string.find(string): string", (text: string, pattern: string) => {
    const matcher = RE2JS.compile(pattern).matcher(text);
    return matcher.find() ? (matcher.group() ?? "") : "";
  });
}

function matchesPattern(text: string, pattern: string): boolean {
  return RE2JS.compile(pattern).matcher(text).find();
}

function versionOf(text: string, lenient: boolean): Semver {
  const version = lenient ? parseLenientSemver(text) : parseSemver(text);
  if (version === undefined) throw new Error(`${JSON.stringify(text)} is not a semantic version`);
  return version;
}

function compareNano(a: bigint, b: bigint): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

function extreme(list: Ordered[], name: string, better: (value: Ordered, best: Ordered) => boolean): Ordered {
  const first = list[0];
  if (first === undefined) throw new Error(`${name} called on empty list`);
  return list.reduce((best, value) => (better(value, best) ? value : best), first);
}

function succeeds(attempt: () => unknown): boolean {
  try {
    attempt();
    return true;
  } catch {
    return false;
  }
}
