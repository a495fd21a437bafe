import type {
  DeviceConstraint,
  DeviceRequest,
  DeviceSelector,
  DeviceToleration,
  ExactDeviceRequest,
  ResourceClaimSpec,
} from "../../api/kubernetes.ts";
import { type Blocking, lack, type RejectionReason } from "../../api/placement.ts";
import type { Consumption } from "../../topology/inventory.ts";
import { parseNano } from "../../topology/quantity.ts";
import type { DeviceClassRecord } from "../../topology/records.ts";
import { compileExpression, type DeviceExpression } from "./cel/expression.ts";
import { foreignDriver } from "./class-drivers.ts";

/** Why a claim cannot be planned at all, on any node: the object, the field and the remedy are named. */
export interface ClaimProblem {
  readonly reason: RejectionReason;
  readonly message: string;
  /** What is not there; empty: the claim, or a class that it names, has to be corrected. */
  readonly blocking: readonly Blocking[];
}

/** One way to satisfy a request: `exactly`, or one entry of `firstAvailable`. */
export interface CompiledAlternative {
  /** What `results[].request` says: `request` or `request/subrequest`. */
  readonly name: string;
  readonly className: string;
  readonly mode: "ExactCount" | "All";
  /** Devices wanted; with mode `All` how many these have to be, 0: any number. */
  readonly count: number;
  /** Administrator's access: devices may be in use, and are not held. */
  readonly adminAccess: boolean;
  readonly tolerations: readonly DeviceToleration[];
  /** Class selectors, then the request's own; all of them must be true. */
  readonly selectors: readonly DeviceExpression[];
  /** Capacity that is asked for, in billionths, by name as the request says it. */
  readonly capacity: Consumption;
  /** Alternatives with an equal key select the same devices. */
  readonly selectionKey: string;
  /** A driver that it asks for, when it asks for drivers that are not managed alone. */
  readonly foreignDriver?: string;
}

interface CompiledRequest {
  readonly name: string;
  readonly alternatives: readonly CompiledAlternative[];
}

interface CompiledConstraint {
  readonly kind: "match" | "distinct";
  /** Fully qualified. */
  readonly attribute: string;
  /** Per request and alternative: does the constraint cover it? */
  readonly covers: readonly (readonly boolean[])[];
}

/** A claim that can be planned. */
export interface CompiledClaim {
  /** Equal specs and classes have an equal shape: a key for caches. */
  readonly shape: string;
  readonly requests: readonly CompiledRequest[];
  readonly constraints: readonly CompiledConstraint[];
  readonly managedDrivers: ReadonlySet<string>;
  /**
   * Every device it asks for is of a driver that is not managed: kube-scheduler allocates it, and here it is only checked
   * for fit. Managed devices are none of it then, as unmanaged ones are none of other claims.
   */
  readonly left: boolean;
}

/** `k8s.io/api/resource/v1`: AllocationResultsMaxSize. */
export const maxDevicesPerClaim = 32;

/**
 * Compiles a claim's spec against its device classes. Its results may be of managed drivers alone, or of others alone. What kllama does not
 * know of, unknown fields included, is refused by its name: allocating without it would give devices that the claim
 * did not ask for.
 */
export function compileClaim(
  spec: ResourceClaimSpec,
  classes: ReadonlyMap<string, DeviceClassRecord>,
  managedDrivers: ReadonlySet<string>,
): CompiledClaim | ClaimProblem {
  try {
    const context: Context = { classes, managedDrivers };
    onlyFields(spec, "spec", ["devices"]);
    onlyFields(spec.devices ?? {}, "spec.devices", ["requests", "constraints", "config"]);
    const requests = (spec.devices?.requests ?? []).map((request, i) =>
      compileRequest(request, `spec.devices.requests[${i}]`, context),
    );
    refuseMixedDrivers(requests);
    const constraints = (spec.devices?.constraints ?? []).map((constraint, i) =>
      compileConstraint(constraint, `spec.devices.constraints[${i}]`, requests),
    );
    const least = requests.reduce((sum, { alternatives }) => sum + Math.min(...alternatives.map(leastDevices)), 0);
    if (least > maxDevicesPerClaim) {
      throw unsupported(
        `the requests need ${least} devices, a claim holds at most ${maxDevicesPerClaim}; split it into several claims`,
      );
    }
    const left = requests.some(({ alternatives }) => alternatives.some((a) => a.foreignDriver !== undefined));
    return { shape: shapeOf(requests, constraints), requests, constraints, managedDrivers, left };
  } catch (error) {
    if (error instanceof Refusal) return { reason: error.reason, message: error.message, blocking: error.blocking };
    throw error;
  }
}

export function isClaimProblem(value: CompiledClaim | ClaimProblem): value is ClaimProblem {
  return "reason" in value;
}

interface Context {
  classes: ReadonlyMap<string, DeviceClassRecord>;
  managedDrivers: ReadonlySet<string>;
}

class Refusal extends Error {
  readonly reason: RejectionReason;
  readonly blocking: readonly Blocking[];

  constructor(reason: RejectionReason, message: string, blocking: readonly Blocking[] = []) {
    super(message);
    this.reason = reason;
    this.blocking = blocking;
  }
}

function unsupported(message: string): Refusal {
  return new Refusal("UnsupportedClaim", message);
}

const alternativeFields = [
  "deviceClassName",
  "selectors",
  "allocationMode",
  "count",
  "adminAccess",
  "tolerations",
  "capacity",
];

function compileRequest(request: DeviceRequest, path: string, context: Context): CompiledRequest {
  onlyFields(request, path, ["name", "exactly", "firstAvailable"]);
  const { name, exactly, firstAvailable } = request;
  if (exactly !== undefined) {
    onlyFields(exactly, `${path}.exactly`, alternativeFields);
    return { name, alternatives: [compileAlternative(exactly, name, `${path}.exactly`, context)] };
  }
  if (firstAvailable === undefined || firstAvailable.length === 0) {
    throw unsupported(`${path} (request ${name}) has neither exactly nor firstAvailable; set one of them`);
  }
  const alternatives = firstAvailable.map((subrequest, i) => {
    const where = `${path}.firstAvailable[${i}]`;
    onlyFields(subrequest, where, ["name", ...alternativeFields]);
    return compileAlternative(subrequest, `${name}/${subrequest.name}`, where, context);
  });
  return { name, alternatives };
}

function compileAlternative(
  wanted: ExactDeviceRequest,
  name: string,
  path: string,
  { classes, managedDrivers }: Context,
): CompiledAlternative {
  const deviceClass = classes.get(wanted.deviceClassName);
  if (deviceClass === undefined) {
    const message = `${path} (request ${name}): DeviceClass ${JSON.stringify(wanted.deviceClassName)} does not exist; create it or name another`;
    throw new Refusal("NoMatchingDevice", message, [lack(wanted.deviceClassName, wanted.count ?? 1)]);
  }
  const mode = wanted.allocationMode ?? "ExactCount";
  if (mode !== "ExactCount" && mode !== "All") {
    throw unsupported(`${path}.allocationMode (request ${name}) ${JSON.stringify(mode)} is not known; use ExactCount`);
  }
  const count = mode === "All" ? 0 : (wanted.count ?? 1);
  if (mode === "ExactCount" && !(Number.isSafeInteger(count) && count > 0)) {
    throw unsupported(`${path}.count (request ${name}) is ${count}; it must be a whole number above 0`);
  }
  const selectors = [
    ...compileSelectors(deviceClass.selectors, `DeviceClass ${deviceClass.name} spec.selectors`),
    ...compileSelectors(wanted.selectors ?? [], `${path}.selectors`),
  ];
  const tolerations = wanted.tolerations ?? [];
  const capacity = requestedCapacity(wanted, `${path}.capacity`);
  const adminAccess = wanted.adminAccess === true;
  const texts = selectors.map(({ text }) => text);
  const selectionKey = JSON.stringify([texts, tolerations, [...capacity].map(String), [...managedDrivers].sort()]);
  const foreign = foreignDriver(deviceClass, wanted.selectors, managedDrivers);
  return {
    name,
    className: deviceClass.name,
    mode,
    count,
    adminAccess,
    tolerations,
    selectors,
    capacity,
    selectionKey,
    ...(foreign === undefined ? {} : { foreignDriver: foreign }),
  };
}

/** How many devices each alternative of a claim was given, by its name. */
export type Given = Readonly<Record<string, number>>;

/** Does it depend on the node which alternative of a request, or how many devices, the claim gets? */
export function leavesOpen({ left, requests }: CompiledClaim): boolean {
  return !left && requests.some(({ alternatives: [first, ...others] }) => others.length > 0 || first!.mode === "All");
}

/** The claim as if it asked for what it was given: the alternatives taken, and where that was all devices, for as many. */
export function asGiven(claim: CompiledClaim, given: Given): CompiledClaim {
  if (!leavesOpen(claim)) return claim;
  const taken = claim.requests.map(({ alternatives }) => alternatives.findIndex(({ name }) => name in given));
  const requests = claim.requests.map(({ name, alternatives }, i): CompiledRequest => {
    const alternative = alternatives[taken[i]!]!;
    const { mode, count } = alternative;
    return { name, alternatives: [{ ...alternative, count: mode === "All" ? given[alternative.name]! : count }] };
  });
  const constraints = claim.constraints.map((constraint): CompiledConstraint => {
    return { ...constraint, covers: constraint.covers.map((covered, i) => [covered[taken[i]!]!]) };
  });
  return { ...claim, shape: shapeOf(requests, constraints), requests, constraints };
}

function compileSelectors(selectors: readonly DeviceSelector[], path: string): DeviceExpression[] {
  return selectors.map((selector, i) => {
    onlyFields(selector, `${path}[${i}]`, ["cel"]);
    const text = selector.cel?.expression;
    if (text === undefined) throw unsupported(`${path}[${i}] has no cel.expression; only CEL selectors are supported`);
    const compiled = compileExpression(text);
    if (!("problem" in compiled)) return compiled;
    throw unsupported(
      `${path}[${i}].cel.expression ${JSON.stringify(text)}: ${compiled.problem}; correct the expression`,
    );
  });
}

function requestedCapacity(wanted: ExactDeviceRequest, path: string): Map<string, bigint> {
  onlyFields(wanted.capacity ?? {}, path, ["requests"]);
  const least = new Map<string, bigint>();
  for (const [name, text] of Object.entries(wanted.capacity?.requests ?? {})) {
    try {
      least.set(name, parseNano(text));
    } catch (error) {
      throw unsupported(`${path}.requests[${name}]: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
  return least;
}

function compileConstraint(
  constraint: DeviceConstraint,
  path: string,
  requests: readonly CompiledRequest[],
): CompiledConstraint {
  onlyFields(constraint, path, ["requests", "matchAttribute", "distinctAttribute"]);
  const { matchAttribute, distinctAttribute } = constraint;
  const attribute = matchAttribute ?? distinctAttribute;
  if (attribute === undefined || (matchAttribute !== undefined && distinctAttribute !== undefined)) {
    throw unsupported(`${path} must set one of matchAttribute and distinctAttribute`);
  }
  const named = constraint.requests ?? [];
  const covers = requests.map(({ name, alternatives }) =>
    alternatives.map((alternative) => named.length === 0 || named.includes(name) || named.includes(alternative.name)),
  );
  for (const name of named) {
    const known = requests.some(
      (request) => request.name === name || request.alternatives.some((a) => a.name === name),
    );
    if (!known) throw unsupported(`${path}.requests names ${JSON.stringify(name)}, which is no request of the claim`);
  }
  return { kind: matchAttribute === undefined ? "distinct" : "match", attribute, covers };
}

/** One claim has one allocation, which kllama or kube-scheduler writes: neither may give the other's devices. */
function refuseMixedDrivers(requests: readonly CompiledRequest[]): void {
  const owned = requests.flatMap(({ alternatives }, i) =>
    alternatives.map((alternative) => ({ ...alternative, field: `spec.devices.requests[${i}]` })),
  );
  const foreign = owned.find((each) => each.foreignDriver !== undefined);
  const managed = owned.find((each) => each.foreignDriver === undefined);
  if (foreign === undefined || managed === undefined) return;
  const [theirs, ours] = [foreign, managed].map((each) => {
    return `${each.field} (request ${each.name}, DeviceClass ${each.className})`;
  });
  const message =
    `${theirs} asks for devices of driver ${foreign.foreignDriver}, which kllama does not manage, beside ${ours} ` +
    "with managed ones; make two claims of it, one for each kind";
  throw new Refusal("MixedDrivers", message);
}

function leastDevices(alternative: CompiledAlternative): number {
  return alternative.mode === "All" ? 1 : alternative.count;
}

function shapeOf(requests: readonly CompiledRequest[], constraints: readonly CompiledConstraint[]): string {
  const parts = requests.map(({ name, alternatives }) => [
    name,
    alternatives.map((a) => [a.name, a.className, a.mode, a.count, a.adminAccess, a.selectionKey]),
  ]);
  return JSON.stringify([parts, constraints]);
}

/** A field that is not known here may change what the claim asks for. */
function onlyFields(value: object, path: string, known: readonly string[]): void {
  const stranger = Object.keys(value).find((field) => !known.includes(field));
  if (stranger !== undefined) {
    throw unsupported(`${path}.${stranger} is a feature that kllama does not support; remove it from the claim`);
  }
}
