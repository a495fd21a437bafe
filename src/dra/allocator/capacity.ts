import type { CapacityRequestPolicy, Device, DeviceCapacity } from "../../api/kubernetes.ts";
import type { Consumption } from "../../topology/inventory.ts";
import { nanoPerUnit, parseNano } from "../../topology/quantity.ts";

/**
 * What a request takes of each capacity of a device (`consumable_capacity.go` of
 * `k8s.io/dynamic-resource-allocation/structured`), or undefined when the device cannot give that even if nobody else
 * has any of it. What is not asked for counts with the policy's default, else with the whole capacity; what is asked
 * for is rounded up to what the policy allows. `requested`: by name as the request says it. All in billionths.
 */
export function consumptionOf(requested: Consumption, capacity: Device["capacity"] = {}): Consumption | undefined {
  for (const name of requested.keys()) if (!Object.hasOwn(capacity, name)) return undefined;
  const consumed = new Map<string, bigint>();
  for (const [name, offered] of Object.entries(capacity)) {
    const amount = amountOf(requested.get(name), offered);
    if (amount > parseNano(offered.value) || !isAllowed(amount, offered.requestPolicy)) return undefined;
    consumed.set(name, amount);
  }
  return consumed;
}

function amountOf(requested: bigint | undefined, { value, requestPolicy: policy }: DeviceCapacity): bigint {
  if (requested === undefined) return parseNano(policy?.default ?? value);
  if (policy?.validRange?.min !== undefined) return roundedToRange(requested, policy.validRange);
  return policy?.validValues?.map(parseNano).find((valid) => requested <= valid) ?? requested;
}

/** Steps count in whole units, from the least value on. */
function roundedToRange(
  requested: bigint,
  { min = "0", step }: NonNullable<CapacityRequestPolicy["validRange"]>,
): bigint {
  const least = parseNano(min);
  if (requested < least) return least;
  if (step === undefined) return requested;
  const [start, width] = [wholeUnits(least), wholeUnits(parseNano(step))];
  const above = wholeUnits(requested) - start;
  const steps = width === 0n ? 0n : (above + width - 1n) / width;
  return (start + steps * width) * nanoPerUnit;
}

function isAllowed(amount: bigint, policy: CapacityRequestPolicy | undefined): boolean {
  if (policy === undefined || (policy.default !== undefined && amount === parseNano(policy.default))) return true;
  const { validRange, validValues = [] } = policy;
  if (validRange === undefined)
    return validValues.length === 0 || validValues.some((valid) => parseNano(valid) === amount);
  const { min = "0", max, step } = validRange;
  if (max !== undefined && amount > parseNano(max)) return false;
  const width = step === undefined ? 0n : wholeUnits(parseNano(step));
  return width === 0n || (wholeUnits(amount) - wholeUnits(parseNano(min))) % width === 0n;
}

/** Rounded up, as `Quantity.Value()` does. */
function wholeUnits(nano: bigint): bigint {
  return nano > 0n ? (nano + nanoPerUnit - 1n) / nanoPerUnit : nano / nanoPerUnit;
}
