import type { DeviceTaint, DeviceToleration, ResourceClaimSpec } from "../../api/kubernetes.ts";
import { attributeValue, type Consumption, type DeviceEntry, type NodeInventory } from "../../topology/inventory.ts";
import { consumptionOf } from "./capacity.ts";
import type { CompiledAlternative, CompiledClaim } from "./claim.ts";
import { anatomyOf } from "./order.ts";

/** What a node has for one alternative of a request, whoever holds it: device indices, ascending. */
export interface Candidates {
  /** Selected, tolerable and allocatable. */
  readonly usable: readonly number[];
  /** Selected, yet never given: a taint of theirs, `key:effect`, is not tolerated. */
  readonly withheld: readonly { readonly device: number; readonly taint: string }[];
  /** What one share takes, per selected device that can be shared. */
  readonly shares: ReadonlyMap<number, Consumption>;
  /** Every usable device is a GPU of its own or takes nearly all of one; else some are partitions. */
  readonly whole: boolean;
  /** First selector that failed on a device, with the reason; the device counts as not selected. */
  readonly error?: string;
  /** Devices selected that the claim may not have: of drivers which are not managed, or which are where it is left to others. */
  readonly foreign: number;
}

/** Share of a GPU's counters beyond which little is left for others; steers the order of trials only. */
const nearlyAll = 0.75;
const maxShapes = 256;
/** Per inventory, by the selection's key. Selection depends on nothing else, so claims share it. */
const remembered = new WeakMap<NodeInventory, Map<string, Candidates>>();

/** Devices of the node that an alternative of the claim selects. */
export function candidatesOf(
  inventory: NodeInventory,
  claim: CompiledClaim,
  alternative: CompiledAlternative,
): Candidates {
  let known = remembered.get(inventory);
  if (known === undefined || known.size > maxShapes) {
    known = new Map();
    remembered.set(inventory, known);
  }
  let candidates = known.get(alternative.selectionKey);
  if (candidates === undefined) {
    candidates = select(inventory, claim, alternative);
    known.set(alternative.selectionKey, candidates);
  }
  return candidates;
}

function select(inventory: NodeInventory, claim: CompiledClaim, alternative: CompiledAlternative): Candidates {
  const usable: number[] = [];
  const withheld: { device: number; taint: string }[] = [];
  const shares = new Map<number, Consumption>();
  let foreign = 0;
  let error: string | undefined;
  for (const entry of inventory.devices) {
    if (!entry.reachable) continue;
    const verdict = selects(alternative, entry);
    if (verdict === false) continue;
    if (claim.managedDrivers.has(entry.driver) === claim.left) foreign += "error" in verdict ? 0 : 1;
    else if ("error" in verdict) error ??= `${verdict.error} (device ${entry.key})`;
    else {
      if (entry.shared !== undefined) shares.set(entry.index, verdict);
      const taint = obstacle(entry, alternative.tolerations);
      if (taint === undefined) usable.push(entry.index);
      else withheld.push({ device: entry.index, taint });
    }
  }
  const { shares: parts } = anatomyOf(inventory);
  const whole = usable.every((device) => parts[device]! >= nearlyAll);
  return { usable, withheld, shares, whole, foreign, ...(error === undefined ? {} : { error }) };
}

/**
 * What the request would take of the device, or false when it does not select it. An expression that fails on a device
 * does not select it. kube-scheduler gives up the whole pod when its search meets such a device; leaving the device out
 * is as safe, and the error is told when the claim finds no place.
 */
function selects(alternative: CompiledAlternative, entry: DeviceEntry): Consumption | false | { error: string } {
  for (const selector of alternative.selectors) {
    const verdict = selector.matches(entry);
    if (verdict === false) return false;
    if (verdict !== true) return { error: `${JSON.stringify(selector.text)}: ${verdict.error}` };
  }
  if (entry.shared === undefined && alternative.capacity.size === 0) return noConsumption;
  try {
    return consumptionOf(alternative.capacity, entry.device.capacity) ?? false;
  } catch (error) {
    return { error: error instanceof Error ? error.message : String(error) };
  }
}

const noConsumption: Consumption = new Map();

/**
 * Would a claim like that not be given the device, for its taints?
 * @param request name of the request that it was given for; of an alternative `request/alternative`
 */
export function isWithheld(entry: DeviceEntry, { devices }: ResourceClaimSpec, request: string): boolean {
  const [name, alternative] = request.split("/");
  const found = devices?.requests?.find((each) => each.name === name);
  const wanted = found?.exactly ?? found?.firstAvailable?.find((each) => each.name === alternative);
  return obstacle(entry, wanted?.tolerations ?? []) !== undefined;
}

/** The first taint that is not tolerated. */
function obstacle(entry: DeviceEntry, tolerations: readonly DeviceToleration[]): string | undefined {
  const taint = (entry.device.taints ?? []).find((t) => forbids(t) && !tolerations.some((one) => tolerates(one, t)));
  return taint && `${taint.key}:${taint.effect}`;
}

function forbids(taint: DeviceTaint): boolean {
  return taint.effect === "NoSchedule" || taint.effect === "NoExecute";
}

/** `k8s.io/dynamic-resource-allocation/resourceclaim`: ToleratesTaint. */
function tolerates(toleration: DeviceToleration, taint: DeviceTaint): boolean {
  if ((toleration.effect ?? "") !== "" && toleration.effect !== taint.effect) return false;
  if ((toleration.key ?? "") !== "" && toleration.key !== taint.key) return false;
  if (toleration.operator === "Exists") return true;
  const equal = (toleration.operator ?? "Equal") === "Equal";
  return equal && (toleration.value ?? "") === (taint.value ?? "");
}

/** Value of one attribute per device, as small numbers; -1 where a device lacks it. */
export interface AttributeColumn {
  readonly values: Int32Array;
  readonly numberOf: ReadonlyMap<string, number>;
}

const columns = new WeakMap<NodeInventory, Map<string, AttributeColumn>>();

export function attributeColumn(inventory: NodeInventory, attribute: string): AttributeColumn {
  let known = columns.get(inventory);
  if (known === undefined || known.size > maxShapes) {
    known = new Map();
    columns.set(inventory, known);
  }
  let column = known.get(attribute);
  if (column === undefined) {
    column = readColumn(inventory, attribute);
    known.set(attribute, column);
  }
  return column;
}

function readColumn(inventory: NodeInventory, attribute: string): AttributeColumn {
  const values = new Int32Array(inventory.devices.length).fill(-1);
  const numberOf = new Map<string, number>();
  for (const entry of inventory.devices) {
    const value = attributeValue(entry, attribute);
    if (value === undefined) continue;
    const number = numberOf.get(value) ?? numberOf.size;
    numberOf.set(value, number);
    values[entry.index] = number;
  }
  return { values, numberOf };
}
