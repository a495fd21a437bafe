import type {
  Device,
  DeviceAttribute,
  DeviceTaint,
  DeviceTaintRule,
  ResourceSlice,
} from "../../../src/api/kubernetes.ts";
import { migBoard } from "../../builders.ts";
import type { Random } from "./random.ts";

export const gpuDriver = "gpu.kllama.ai";
export const nicDriver = "nic.example.com";
export const nodeName = "node-1";
export const nodeLabels = { "kubernetes.io/hostname": nodeName, zone: "a", rack: "r7" };

/** Where the devices of a slice can be used; absent: on the node itself. */
type Reach = Pick<ResourceSlice["spec"], "nodeName" | "nodeSelector" | "allNodes" | "perDeviceNodeSelection">;

/** Slices of all pools of a small cluster: what the node has, what it shares with others, and what is broken. */
export function someSlices(random: Random): ResourceSlice[] {
  const makers = [plainPool, plainPool, migPool, migPool, sharedPool, networkPool, perDevicePool, splitPool];
  const count = 1 + random.below(4);
  const pools = Array.from({ length: count }, (_, index) => random.pick(makers)(random, `pool-${index}`));
  if (random.chance(5)) pools.push(largePool(random));
  const slices = pools.flat();
  return random.chance(10) ? withDefect(random, slices) : slices;
}

const own: Reach = { nodeName };

function slice(driver: string, pool: string, name: string, count: number, reach: Reach, devices: Device[]) {
  return {
    metadata: { name: `${pool}-${name}` },
    spec: { driver, pool: { name: pool, generation: 3, resourceSliceCount: count }, ...reach, devices },
  } satisfies ResourceSlice;
}

/** Whole devices in one or two slices of the node. */
function plainPool(random: Random, pool: string): ResourceSlice[] {
  const driver = random.chance(70) ? gpuDriver : nicDriver;
  const devices = Array.from({ length: 1 + random.below(6) }, (_, index) => plainDevice(random, driver, pool, index));
  return inSlices(random, driver, pool, own, devices);
}

function inSlices(random: Random, driver: string, pool: string, reach: Reach, devices: Device[]): ResourceSlice[] {
  if (random.chance(60)) return [slice(driver, pool, "a", 1, reach, devices)];
  const cut = random.below(devices.length + 1);
  const parts = [devices.slice(0, cut), devices.slice(cut)];
  return parts.map((part, index) => slice(driver, pool, "ab"[index]!, 2, reach, part));
}

function plainDevice(random: Random, driver: string, pool: string, index: number): Device {
  const name = `dev-${index}`;
  return {
    name,
    attributes: someAttributes(random, driver, pool, name, driver === gpuDriver ? "gpu" : "nic"),
    capacity: { memory: { value: random.pick(["40Gi", "80Gi", "80Gi"]) } },
    ...someTaints(random),
    ...someBinding(random),
  };
}

/** Attributes under short names, under the driver's full names and of Kubernetes' own domain; each may be missing. */
function someAttributes(random: Random, driver: string, pool: string, device: string, type: string) {
  const attributes: Record<string, DeviceAttribute> = {
    type: { string: type },
    "judge.kllama.ai/id": { string: `${pool}-${device}` },
  };
  if (random.chance(85)) attributes[random.chance(80) ? "numa" : `${driver}/numa`] = { int: random.below(2) };
  if (random.chance(85)) attributes["rail"] = random.chance(90) ? { int: random.below(3) } : { string: "0" };
  if (random.chance(80)) attributes["healthy"] = { bool: random.chance(80) };
  if (random.chance(80)) attributes["firmware"] = { version: random.pick(["1.2.3", "2.0.0", "2.0.0-rc.1"]) };
  if (random.chance(80)) attributes["resource.kubernetes.io/pcieRoot"] = { string: random.pick(["pci0", "pci1"]) };
  return attributes;
}

function someTaints(random: Random): { taints?: DeviceTaint[] } {
  if (random.chance(85)) return {};
  const taints = [someTaint(random)];
  if (random.chance(20)) taints.push({ key: "second", effect: someEffect(random) });
  return { taints };
}

const someEffect = (random: Random) => random.pick(["NoSchedule", "NoSchedule", "NoExecute", "None"] as const);

function someTaint(random: Random): DeviceTaint {
  return { key: random.pick(["broken", "drain"]), value: random.pick(["yes", ""]), effect: someEffect(random) };
}

/** Rules for some devices of these slices, or for such as nobody has. In every third world. */
export function someRules(random: Random, slices: readonly ResourceSlice[]): DeviceTaintRule[] {
  if (random.chance(67)) return [];
  return Array.from({ length: 1 + random.below(3) }, (_, index) => {
    const { driver, pool, devices = [] } = random.pick(slices).spec;
    const names = [...devices.map(({ name }) => name), "none"];
    const deviceSelector = {
      ...(random.chance(30) ? { driver: random.chance(80) ? driver : "none.example.com" } : {}),
      ...(random.chance(50) ? { pool: random.chance(90) ? pool.name : "none" } : {}),
      ...(random.chance(70) ? { device: random.pick(names) } : {}),
    };
    const timeAdded = `2026-01-0${1 + index}T00:00:00Z`;
    return {
      metadata: { name: `rule-${index}` },
      spec: { deviceSelector, taint: { ...someTaint(random), timeAdded } },
    };
  });
}

function someBinding(random: Random): Partial<Device> {
  if (random.chance(88)) return {};
  return {
    bindsToNode: random.chance(50),
    bindingConditions: ["kllama.ai/attached"],
    bindingFailureConditions: ["kllama.ai/attach-failed"],
  };
}

/** GPUs with all their MIG partitions, which share the GPU's counters; counters in a slice of their own. */
function migPool(random: Random, pool: string): ResourceSlice[] {
  const profiles = [["3g"], ["4g", "2g"], ["7g", "3g"], ["2g"], ["1g"]] as const;
  const boards = Array.from({ length: 1 + random.below(2) }, (_, index) => migBoard(index, random.pick(profiles)));
  const devices = boards.flatMap((board) => board.devices.map((device) => withId(random, pool, device)));
  const counters = {
    ...slice(gpuDriver, pool, "counters", 2, own, []),
  };
  return [
    { ...counters, spec: { ...counters.spec, sharedCounters: boards.map(({ counterSet }) => counterSet) } },
    slice(gpuDriver, pool, "devices", 2, own, devices),
  ];
}

function withId(random: Random, pool: string, device: Device): Device {
  const attributes = { ...device.attributes, "judge.kllama.ai/id": { string: `${pool}-${device.name}` } };
  if (random.chance(60)) Object.assign(attributes, { numa: { int: random.below(2) } });
  return { ...device, attributes, ...(random.chance(50) ? {} : someTaints(random)) };
}

/** Devices of which several claims may each have a part, some of them cut from one board. */
function sharedPool(random: Random, pool: string): ResourceSlice[] {
  const counted = random.chance(30);
  const devices = Array.from({ length: 1 + random.below(3) }, (_, index): Device => {
    const name = `shared-${index}`;
    return {
      name,
      allowMultipleAllocations: random.chance(85),
      attributes: someAttributes(random, nicDriver, pool, name, "nic"),
      capacity: {},
      ...someTaints(random),
      ...(counted ? { consumesCounters: [{ counterSet: "board", counters: { lanes: { value: "2" } } }] } : {}),
    };
  });
  for (const device of devices) device.capacity = someCapacity(random, device.allowMultipleAllocations === true);
  if (!counted) return [slice(nicDriver, pool, "a", 1, own, devices)];
  const counters = slice(nicDriver, pool, "counters", 2, own, []);
  const board = { name: "board", counters: { lanes: { value: random.pick(["2", "3", "4", "8"]) } } };
  return [
    { ...counters, spec: { ...counters.spec, sharedCounters: [board] } },
    slice(nicDriver, pool, "devices", 2, own, devices),
  ];
}

/** Policies are only allowed on devices that can be shared. */
function someCapacity(random: Random, shared: boolean): NonNullable<Device["capacity"]> {
  const range = { default: "10Gi", validRange: { min: "5Gi", max: "40Gi", step: "5Gi" } };
  const open = { default: "1Gi", validRange: { min: "1Gi" } };
  const values = { default: "1", validValues: ["1", "2", "4"] };
  return {
    memory: { value: "80Gi", ...(shared && random.chance(80) ? { requestPolicy: random.pick([range, open]) } : {}) },
    ...(random.chance(60) ? { slots: { value: "4", ...(shared ? { requestPolicy: values } : {}) } } : {}),
    ...(random.chance(30)
      ? { "example.com/share": { value: "1", ...(shared ? { requestPolicy: { default: "250m" } } : {}) } }
      : {}),
  };
}

/** Devices that several nodes can reach: all of them, or those that a selector matches. */
function networkPool(random: Random, pool: string): ResourceSlice[] {
  const devices = Array.from({ length: 1 + random.below(4) }, (_, index) =>
    plainDevice(random, nicDriver, pool, index),
  );
  return inSlices(random, nicDriver, pool, someReach(random), devices);
}

function someReach(random: Random): Reach {
  return random.pick<Reach>([
    { allNodes: true },
    {
      nodeSelector: {
        nodeSelectorTerms: [{ matchExpressions: [{ key: "zone", operator: "In", values: ["a", "b"] }] }],
      },
    },
    {
      nodeSelector: { nodeSelectorTerms: [{ matchExpressions: [{ key: "rack", operator: "NotIn", values: ["r7"] }] }] },
    },
    {
      nodeSelector: {
        nodeSelectorTerms: [{ matchFields: [{ key: "metadata.name", operator: "In", values: [nodeName] }] }],
      },
    },
    { nodeName: "node-2" },
  ]);
}

/** Every device says itself where it can be used; counters are shared with devices that the node does not reach. */
function perDevicePool(random: Random, pool: string): ResourceSlice[] {
  const devices = Array.from({ length: 2 + random.below(4) }, (_, index): Device => {
    const { perDeviceNodeSelection: __, ...reach } = random.chance(60) ? { nodeName } : someReach(random);
    const device = { ...plainDevice(random, gpuDriver, pool, index), ...reach };
    return {
      ...device,
      consumesCounters: [{ counterSet: "fabric", counters: { ports: { value: `${1 + random.below(2)}` } } }],
    };
  });
  const counters = slice(gpuDriver, pool, "counters", 2, { allNodes: true }, []);
  const fabric = { name: "fabric", counters: { ports: { value: `${2 + random.below(4)}` } } };
  return [
    { ...counters, spec: { ...counters.spec, sharedCounters: [fabric] } },
    slice(gpuDriver, pool, "devices", 2, { perDeviceNodeSelection: true }, devices),
  ];
}

/** One pool with a slice for each of two nodes. */
function splitPool(random: Random, pool: string): ResourceSlice[] {
  const devices = Array.from({ length: 4 }, (_, index) => plainDevice(random, gpuDriver, pool, index));
  return [
    slice(gpuDriver, pool, "a", 2, own, devices.slice(0, 2)),
    slice(gpuDriver, pool, "b", 2, random.chance(50) ? { nodeName: "node-2" } : someReach(random), devices.slice(2)),
  ];
}

/** More devices than a claim may hold. */
function largePool(random: Random): ResourceSlice[] {
  const devices = Array.from(
    { length: 31 + random.below(5) },
    (_, index): Device => ({
      name: `many-${index}`,
      attributes: { type: { string: "many" }, "judge.kllama.ai/id": { string: `large-many-${index}` } },
    }),
  );
  return [slice(gpuDriver, "large", "a", 1, own, devices)];
}

/** A pool that is being replaced, that is not all there, or that contradicts itself. */
function withDefect(random: Random, slices: ResourceSlice[]): ResourceSlice[] {
  const victim = random.pick(slices);
  const { pool } = victim.spec;
  const change = (spec: Partial<ResourceSlice["spec"]>) => ({ ...victim, spec: { ...victim.spec, ...spec } });
  const replaced = (by: ResourceSlice) => slices.map((each) => (each === victim ? by : each));
  const newer = { ...pool, generation: pool.generation + 1 };
  const defects = [
    () => replaced(change({ pool: newer })),
    () => [...slices, { ...change({ pool: newer, devices: [] }), metadata: { name: "newer" } }],
    () => [...slices, { ...change({ pool: { ...pool, generation: 1 } }), metadata: { name: "older" } }],
    () => slices.map((each) => (each.spec.pool.name === pool.name ? incomplete(each) : each)),
    () => slices.filter((each) => each !== victim),
    () => replaced(change({ devices: [...(victim.spec.devices ?? []), ...(victim.spec.devices ?? []).slice(0, 1)] })),
    () => replaced(change({ devices: (victim.spec.devices ?? []).map(withUnknownCounter) })),
  ];
  return random.pick(defects)();
}

function incomplete(slice: ResourceSlice): ResourceSlice {
  const { pool } = slice.spec;
  return { ...slice, spec: { ...slice.spec, pool: { ...pool, resourceSliceCount: pool.resourceSliceCount + 1 } } };
}

function withUnknownCounter(device: Device): Device {
  return { ...device, consumesCounters: [{ counterSet: "none", counters: { lanes: { value: "1" } } }] };
}
