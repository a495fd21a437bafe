import type { DeviceAttribute } from "../api/kubernetes.ts";
import type { DeviceEntry, NodeInventory, NodeUsage } from "./inventory.ts";

/** Counts up for ever, so that a forgotten number never comes back with another meaning. */
let nextNumber = 0;
const maxKnown = 4096;
const numbers = new Map<string, number>();

interface Known {
  readonly plain: number | undefined;
  readonly withValues: Map<string, number>;
}

const remembered = new WeakMap<NodeInventory, Known>();

/**
 * A number that is the same for nodes whose devices differ in nothing but their names and in the values of text
 * attributes, where equal values stand in equal places: as many pods fit on both, if as much is in use, whatever the
 * devices are called. `values`: names, without domain, of attributes whose values have to be the same as well.
 * Undefined: the node is like no other, since pools are incomplete or other nodes can reach its devices.
 */
export function likeness(inventory: NodeInventory, values: readonly string[]): number | undefined {
  let known = remembered.get(inventory);
  if (known === undefined) {
    const incomparable = inventory.wide || inventory.problems.length > 0;
    known = { plain: incomparable ? undefined : numberOf(plainText(inventory)), withValues: new Map() };
    remembered.set(inventory, known);
  }
  if (known.plain === undefined || values.length === 0) return known.plain;
  const key = values.join();
  let number = known.withValues.get(key);
  if (number === undefined) {
    number = numberOf(`${known.plain} ${key} ${valuesText(inventory, values)}`);
    known.withValues.set(key, number);
  }
  return number;
}

function numberOf(text: string): number {
  let number = numbers.get(text);
  if (number === undefined) {
    if (numbers.size >= maxKnown) numbers.clear();
    number = nextNumber++;
    numbers.set(text, number);
  }
  return number;
}

function plainText({ devices, counterCapacity }: NodeInventory): string {
  /** attribute, with domain → text → its number in order of appearance */
  const places = new Map<string, Map<string, number>>();
  const attributeText = (driver: string, name: string, value: DeviceAttribute): string => {
    if (value.string === undefined) return `${name}=${JSON.stringify(value)}`;
    const qualified = name.includes("/") ? name : `${driver}/${name}`;
    const known = places.get(qualified) ?? new Map<string, number>();
    places.set(qualified, known);
    const place = known.get(value.string) ?? known.size;
    known.set(value.string, place);
    return `${name}#${place}`;
  };
  const deviceText = ({ driver, device, reachable, group, counters }: DeviceEntry): string => {
    const attributes = Object.entries(device.attributes ?? {}).map(([name, value]) =>
      attributeText(driver, name, value),
    );
    const rest = [driver, reachable, group, counters, device.capacity, device.taints, device.allowMultipleAllocations];
    return `${attributes.sort().join()} ${JSON.stringify(rest)}`;
  };
  return `${counterCapacity.join()};${devices.map(deviceText).join(";")}`;
}

function valuesText({ devices }: NodeInventory, values: readonly string[]): string {
  const wanted = devices.map(({ device }) =>
    Object.entries(device.attributes ?? {}).filter(([name]) => values.includes(name.slice(name.indexOf("/") + 1))),
  );
  return JSON.stringify(wanted);
}

/** What is held on a node, as a text that is the same for like nodes in the same use; undefined where a device is held twice, which only a fault elsewhere can make. */
export function useText({ used, shares, consumed }: NodeUsage): string | undefined {
  let text = "";
  let bits = 0;
  for (let device = 0; device < used.length; device++) {
    if (used[device]! > 1) return undefined;
    bits = bits * 2 + used[device]!;
    if (device % 32 !== 31) continue;
    text += `${bits},`;
    bits = 0;
  }
  return shares.length === 0 ? `${text}${bits}` : `${text}${bits} ${shares.join()} ${consumed.join()}`;
}
