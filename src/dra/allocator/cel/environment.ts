import { Environment } from "@marcbachmann/cel-js";
import { parseNano } from "../../../topology/quantity.ts";
import { registerLists } from "./lists.ts";
import { registerMacros } from "./macros.ts";
import { registerNamedFormats } from "./named-formats.ts";
import { registerNetwork } from "./network.ts";
import { compareSemver, parseLenientSemver, parseSemver, Semver } from "./semver.ts";
import { registerStrings } from "./strings.ts";
import { registerUrls } from "./urls.ts";
import { celEqual, Quantity } from "./values.ts";

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
const deviceType = "kubernetes.DRADevice";
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
  registerNetwork(environment);
  registerUrls(environment);
  registerNamedFormats(environment);
  registerMacros(environment);
  environment.registerVariable("device", deviceType);
  return environment;
}

function registerTypes(environment: Environment): void {
  environment.registerType(quantityType, { ctor: Quantity, fields: {} });
  environment.registerType(semverType, { ctor: Semver, fields: {} });
  environment.registerType(deviceType, {
    ctor: CelDevice,
    fields: {
      driver: "string",
      allowMultipleAllocations: "bool",
      attributes: "map<string, map<string, dyn>>",
      capacity: `map<string, map<string, ${quantityType}>>`,
    },
  });
  environment.registerOperator("optional<A> == optional<A>", celEqual);
  environment.registerOperator(`${deviceType} == ${deviceType}`, (a: CelDevice, b: CelDevice) => a === b);
}

/** https://kubernetes.io/docs/reference/using-api/cel/#kubernetes-quantity-library */
function registerQuantities(environment: Environment): void {
  const add = (signature: string, handler: (...values: never[]) => unknown) =>
    environment.registerFunction(signature, handler);
  add(`quantity(string): ${quantityType}`, (text: string) => new Quantity(parseNano(text)));
  add("isQuantity(string): bool", (text: string) => succeeds(() => parseNano(text)));
  add(`sign(${quantityType}): int`, (q: Quantity) => BigInt(compareNano(q.nano, 0n)));
  add(`${quantityType}.isInteger(): bool`, isInteger);
  add(`${quantityType}.asInteger(): int`, (q: Quantity) => {
    if (!isInteger(q)) throw new Error("cannot convert value to integer");
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

function versionOf(text: string, lenient: boolean): Semver {
  const version = lenient ? parseLenientSemver(text) : parseSemver(text);
  if (version === undefined) throw new Error(`${JSON.stringify(text)} is not a semantic version`);
  return version;
}

/** Whole and below 2^63 - 1, where quantities are capped. */
function isInteger({ nano }: Quantity): boolean {
  return nano % nanoPerUnit === 0n && nano / nanoPerUnit < 2n ** 63n - 1n;
}

function compareNano(a: bigint, b: bigint): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

function succeeds(attempt: () => unknown): boolean {
  try {
    attempt();
    return true;
  } catch {
    return false;
  }
}
