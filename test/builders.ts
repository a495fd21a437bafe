import { gangSpec } from "../src/api/gang.ts";
import type {
  Device,
  DeviceAttribute,
  DeviceRequest,
  ExactDeviceRequest,
  ResourceClaimSpec,
} from "../src/api/kubernetes.ts";
import type { Context, GangRecord } from "../src/gang/lifecycle/state.ts";
import type { DeviceClassRecord, NodeRecord, PodRecord, SliceRecord } from "../src/topology/records.ts";

/** Short ways to write the objects that tests need; every field can be overridden. */

export const driver = "gpu.kllama.ai";

export function nodeRecord(name: string, more: Partial<NodeRecord> = {}): NodeRecord {
  const allocatable = { cpu: 64_000, memory: 2 ** 40, pods: 110 };
  return { name, uid: `uid-${name}`, labels: {}, taints: [], unschedulable: false, ready: true, allocatable, ...more };
}

/** A slice of the node's own pool, which is named like the node and complete with this one slice. */
export function sliceRecord(node: string, devices: readonly Device[], more: Partial<SliceRecord> = {}): SliceRecord {
  return {
    name: `${node}-slice`,
    driver,
    pool: node,
    generation: 1,
    resourceSliceCount: 1,
    nodeName: node,
    devices,
    sharedCounters: [],
    ...more,
  };
}

/** Attributes from plain values: numbers are ints, `v1.2.3` is a version. */
export function attributes(values: Record<string, string | number | boolean>): Record<string, DeviceAttribute> {
  return Object.fromEntries(
    Object.entries(values).map(([name, value]) => {
      if (typeof value === "number") return [name, { int: value }];
      if (typeof value === "boolean") return [name, { bool: value }];
      return [name, /^v\d/.test(value) ? { version: value.slice(1) } : { string: value }];
    }),
  );
}

/** A whole GPU with the attributes that kllama's driver publishes. */
export function gpu(
  index: number,
  values: Record<string, string | number | boolean> = {},
  more: Partial<Device> = {},
): Device {
  return {
    name: `gpu-${index}`,
    attributes: attributes({ type: "gpu", index, productName: "NVIDIA H100 80GB HBM3", ...values }),
    capacity: { memory: { value: "80Gi" } },
    ...more,
  };
}

/** `count` GPUs, each with what `values` says of its index. */
export function gpus(count: number, values: (index: number) => Record<string, string | number | boolean> = () => ({})) {
  return Array.from({ length: count }, (_, index) => gpu(index, values(index)));
}

/** MIG profiles of a board with 7 compute and 8 memory slices: compute slices, memory slices, possible starts. */
export const migProfiles = {
  "1g": { compute: 1, memory: 1, starts: [0, 1, 2, 3, 4, 5, 6] },
  "2g": { compute: 2, memory: 2, starts: [0, 2, 4] },
  "3g": { compute: 3, memory: 4, starts: [0, 4] },
  "4g": { compute: 4, memory: 4, starts: [0] },
  "7g": { compute: 7, memory: 8, starts: [0] },
} as const;

/** One GPU and its partitions, as devices that share the GPU's counters. */
export function migBoard(
  index: number,
  profiles: readonly (keyof typeof migProfiles)[] = ["1g", "2g", "3g", "4g", "7g"],
) {
  const counterSet = `gpu-${index}-counters`;
  const slices = Array.from({ length: 8 }, (_, slice) => `memory-slice-${slice}`);
  const consume = (compute: number, taken: readonly string[]) => [
    { counterSet, counters: { compute: { value: `${compute}` }, ...counters(taken) } },
  ];
  const whole = gpu(index, { uuid: `GPU-${index}` }, { consumesCounters: consume(7, slices) });
  const partitions = profiles.flatMap((profile) =>
    migProfiles[profile].starts.map((start) => ({
      name: `gpu-${index}-mig-${profile}-${start}`,
      attributes: attributes({ type: "mig", profile, parentUUID: `GPU-${index}` }),
      consumesCounters: consume(migProfiles[profile].compute, slices.slice(start, start + migProfiles[profile].memory)),
    })),
  );
  return {
    counterSet: { name: counterSet, counters: { compute: { value: "7" }, ...counters(slices) } },
    devices: [whole, ...partitions],
  };
}

function counters(names: readonly string[]): Record<string, { value: string }> {
  return Object.fromEntries(names.map((name) => [name, { value: "1" }]));
}

/** Slices of a node with MIG boards: one with the counters, one with the devices. */
export function migSlices(node: string, boards: readonly ReturnType<typeof migBoard>[]): SliceRecord[] {
  const common = { resourceSliceCount: 2 };
  return [
    sliceRecord(node, [], { ...common, name: `${node}-a`, sharedCounters: boards.map(({ counterSet }) => counterSet) }),
    sliceRecord(
      node,
      boards.flatMap(({ devices }) => devices),
      { ...common, name: `${node}-b` },
    ),
  ];
}

export function deviceClass(name: string, ...expressions: string[]): DeviceClassRecord {
  return { name, selectors: expressions.map((expression) => ({ cel: { expression } })), config: [] };
}

/** The two classes that kllama's chart installs. */
export function deviceClasses(...more: DeviceClassRecord[]): Map<string, DeviceClassRecord> {
  const ofType = (type: string) => `device.driver == "${driver}" && device.attributes["${driver}"].type == "${type}"`;
  const all = [deviceClass("gpu.kllama.ai", ofType("gpu")), deviceClass("mig.kllama.ai", ofType("mig")), ...more];
  return new Map(all.map((one) => [one.name, one]));
}

/** `count` devices of a class, selected further by CEL expressions. */
export function exactly(
  name: string,
  count: number,
  more: Partial<ExactDeviceRequest> = {},
  ...expressions: string[]
): DeviceRequest {
  const selectors = expressions.map((expression) => ({ cel: { expression } }));
  const common = { deviceClassName: "gpu.kllama.ai", allocationMode: "ExactCount" as const, count };
  return { name, exactly: { ...common, ...(selectors.length === 0 ? {} : { selectors }), ...more } };
}

/** One MIG partition of a profile. */
export function partition(name: string, profile: string, count = 1): DeviceRequest {
  return exactly(
    name,
    count,
    { deviceClassName: "mig.kllama.ai" },
    `device.attributes["${driver}"].profile == "${profile}"`,
  );
}

export function claimSpec(
  requests: DeviceRequest[],
  constraints: NonNullable<ResourceClaimSpec["devices"]>["constraints"] = [],
): ResourceClaimSpec {
  return { devices: { requests, ...(constraints.length === 0 ? {} : { constraints }) } };
}

/** A pod that asks for one CPU and has no claims. */
export function podRecord(name: string, more: Partial<PodRecord> = {}): PodRecord {
  return {
    uid: `pod-uid-${name}`,
    namespace: "team",
    name,
    createdAtMs: 0,
    priority: 0,
    schedulerName: "default-scheduler",
    gates: [],
    bindMarker: true,
    terminal: false,
    deleting: false,
    ready: false,
    requests: { cpu: 1000 },
    claims: [],
    nodeSelector: {},
    tolerations: [],
    ...more,
  };
}

/** What a gang's lifecycle is told of the world at a time: everything fits and may go on. */
export function lifecycleContext(nowMs: number, more: Partial<Context> = {}): Context {
  return {
    nowMs,
    nowIso: () => new Date(nowMs).toISOString().replace(/\.\d+Z$/, "Z"),
    capacityVersion: 1,
    manages: (name) => name === driver,
    sharersOf: () => [],
    nodeFits: () => true,
    leavesRoom: () => true,
    leavesRoomForAll: () => true,
    devicesFree: () => true,
    isSpoiled: () => false,
    groupReady: () => true,
    outlying: () => () => false,
    mayRelease: () => true,
    condemned: () => false,
    leaving: () => ({ left: 0, evict: [] }),
    ...more,
  };
}

/** A Gang `team/g` of two pods that was not planned yet. */
export function gangRecord(more: Partial<GangRecord> = {}): GangRecord {
  return {
    namespace: "team",
    name: "g",
    uid: "gang-uid",
    generation: 1,
    resourceVersion: "1",
    deleting: false,
    createdAtMs: 0,
    labels: {},
    spec: gangSpec.parse({ podSets: [{ name: "ranks", count: 2 }] }),
    problems: [],
    status: { phase: "Pending" },
    ...more,
  };
}
