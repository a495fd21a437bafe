import fc from "fast-check";
import type { ClusterTopologySpec } from "../../src/api/cluster-topology.ts";
import type { GangConstraint, GangSpec } from "../../src/api/gang.ts";
import type { Device, DeviceRequest } from "../../src/api/kubernetes.ts";
import type { PlacedPod } from "../../src/api/placement.ts";
import type { PlacementGroupConstraint } from "../../src/api/placement-group.ts";
import type { GangRequest, PlanUnit } from "../../src/gang/plan.ts";
import { type ClusterModel, createClusterModel, type HeldPod } from "../../src/topology/model.ts";
import type { PodRecord } from "../../src/topology/records.ts";
import {
  attributes,
  deviceClass,
  deviceClasses,
  driver,
  exactly,
  gpu,
  migBoard,
  migProfiles,
  nodeRecord,
  partition,
  podRecord,
  sliceRecord,
} from "../builders.ts";
import { allocatedClaim, claimRecord } from "./cluster.ts";
import {
  leftOf,
  type OracleDevice,
  type OracleLevel,
  type OracleLinks,
  type OracleNode,
  type OraclePlace,
  type OraclePod,
  type OracleRequest,
  type OracleRule,
  type OracleTraffic,
  putPod,
} from "./plan-oracle.ts";

/** A cluster of at most 6 nodes and a unit of at most 8 pods, as plain data that fast-check can shrink. */
export interface Case {
  nodes: CaseNode[];
  gangs: CaseGang[];
  groupRules: CaseRule[];
  /** Bytes that the first role hands to the second; 0: no pairing. */
  kvBytes: number;
  /** Whose the gang is that runs beside the unit's own. */
  neighbourIn: "team" | "others";
  /** Devices that several nodes reach: all nodes, or those with an SSD. */
  common: CaseCommon;
}

interface CaseCommon {
  count: number;
  reach: "all" | "ssd";
  /** Partitions of one board, which may overlap; given in parts; or in pairs. */
  kind: "plain" | "board" | "parts" | "paired";
}

export interface CaseNode {
  zone: string | undefined;
  rack: string | undefined;
  island: string | undefined;
  ssd: boolean;
  tainted: boolean;
  cpu: number;
  memory: number;
  pods: number;
  hardware: HardwareName;
  /** Devices that others hold, one bit each; those that fit together. */
  used: number;
  /** Those of them that a gang beside the unit's own holds. */
  theirs: number;
  down: "" | "cordoned" | "not ready";
  /** Whose whole GPUs it has. */
  maker: "NVIDIA" | "AMD";
  /** The first GPU is. */
  deviceTainted: boolean;
}

interface CaseGang {
  podSets: CasePodSet[];
  rules: CaseRule[];
}

interface CasePodSet {
  count: number;
  minCount: number;
  cpu: number;
  memory: number;
  tolerates: boolean;
  wantsSsd: boolean;
  toleratesDevices: boolean;
  asks: readonly string[];
  match: "numa" | "pair" | undefined;
  outer: { size: number; level: OracleLevel };
  inner: { size: number; level: OracleLevel };
  /** Leading pods that run on the first node already, each with so many devices that are held there. */
  pinned: number;
  pinnedDevices: number;
}

interface CaseRule {
  type: "colocate" | "spread";
  level: OracleLevel;
  mode: "required" | "preferred";
  maxSkew: number;
  /** Of all pod sets (roles), or of the first alone. */
  first: boolean;
}

interface Hardware {
  /** NUMA node and NVLink domain of each. */
  gpus: readonly string[];
  boards: number;
  /** Devices that are given in parts. */
  shared: number;
}

const hardware: Readonly<Record<HardwareName, Hardware>> = {
  none: { gpus: [], boards: 0, shared: 0 },
  two: { gpus: ["00", "11"], boards: 0, shared: 0 },
  /** PCIe cards in bridged pairs. */
  bridged: { gpus: ["00", "00", "11", "11"], boards: 0, shared: 0 },
  /** Bridges cross NUMA nodes. */
  crossed: { gpus: ["00", "01", "10", "11"], boards: 0, shared: 0 },
  island: { gpus: ["0-", "00", "10", "10"], boards: 0, shared: 0 },
  mig: { gpus: [], boards: 1, shared: 0 },
  boards: { gpus: [], boards: 2, shared: 0 },
  mixed: { gpus: ["00", "00"], boards: 1, shared: 0 },
  shared: { gpus: ["00"], boards: 0, shared: 2 },
};

type HardwareName = "none" | "two" | "bridged" | "crossed" | "island" | "mig" | "boards" | "mixed" | "shared";

/** Units that a device given in parts has. */
const allUnits = 4;

const nodeLevel = fc.constantFrom<OracleLevel>("zone", "rack", "island", "host");
const anyLevel = fc.constantFrom<OracleLevel>("zone", "rack", "rack", "island", "host", "host", "numa", "pair");
const often = { nil: undefined, freq: 6 };
const label = (...values: string[]) => fc.option(fc.constantFrom(...values), often);

const caseNode: fc.Arbitrary<CaseNode> = fc.record({
  zone: label("z1", "z2"),
  rack: label("r1", "r2"),
  island: fc.option(fc.constantFrom("i1", "i2"), { nil: undefined, freq: 1 }),
  ssd: fc.boolean(),
  tainted: fc.constantFrom(false, false, true),
  cpu: fc.integer({ min: 1, max: 8 }),
  memory: fc.integer({ min: 2, max: 6 }),
  pods: fc.constantFrom(1, 3, 110),
  hardware: fc.constantFrom(...(Object.keys(hardware) as CaseNode["hardware"][])),
  used: fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 31 })),
  theirs: fc.constantFrom(0, 0, 31),
  down: fc.constantFrom("" as const, "" as const, "" as const, "" as const, "cordoned" as const, "not ready" as const),
  maker: fc.constantFrom("NVIDIA" as const, "NVIDIA" as const, "AMD" as const),
  deviceTainted: fc.constantFrom(false, false, true),
});

/**
 * What one pod asks for, one claim each; `a+b`: two requests of one claim; `a|b`: the first available; `share3`: 3 units of a
 * device that is given in parts; `wide`: a device that several nodes reach.
 */
const asks: readonly (readonly string[])[] = [
  [],
  ["1 gpu"],
  ["1 gpu"],
  ["2 gpu"],
  ["2 gpu"],
  ["3 gpu"],
  ["1 even"],
  ["1 gpu+1 even"],
  ["1 gpu", "1 gpu"],
  ["1 1g"],
  ["1 2g"],
  ["1 3g"],
  ["1 part"],
  ["2 part"],
  ["1 1g", "1 2g"],
  ["1 gpu+1 1g"],
  ["2 gpu|1 2g"],
  ["1 even|1 part"],
  ["all gpu"],
  ["1 amd"],
  ["2 amd"],
  ["2 amd|1 even"],
  ["1 share1"],
  ["1 share3"],
  ["1 gpu", "1 share1"],
  ["1 wide"],
  ["1 fast"],
  ["1 gpu", "1 wide"],
  ["1 gpu|1 wide"],
];

const casePodSet: fc.Arbitrary<CasePodSet> = fc.record({
  count: fc.integer({ min: 1, max: 4 }),
  minCount: fc.constantFrom(9, 9, 9, 1, 2),
  cpu: fc.integer({ min: 1, max: 2 }),
  memory: fc.integer({ min: 0, max: 2 }),
  tolerates: fc.boolean(),
  wantsSsd: fc.constantFrom(false, false, false, true),
  toleratesDevices: fc.constantFrom(false, false, true),
  asks: fc.constantFrom(...asks),
  match: fc.constantFrom(undefined, undefined, undefined, "numa" as const, "pair" as const),
  outer: fc.record({ size: fc.constantFrom(0, 0, 2, 4), level: nodeLevel }),
  inner: fc.record({ size: fc.constantFrom(0, 0, 1, 2, 3), level: anyLevel }),
  pinned: fc.constantFrom(0, 0, 0, 1),
  pinnedDevices: fc.integer({ min: 0, max: 1 }),
});

const caseRule = (levels: fc.Arbitrary<OracleLevel>): fc.Arbitrary<CaseRule> =>
  fc
    .record({
      type: fc.constantFrom("colocate" as const, "colocate" as const, "spread" as const),
      level: levels,
      mode: fc.constantFrom("required" as const, "required" as const, "preferred" as const),
      maxSkew: fc.integer({ min: 1, max: 2 }),
      first: fc.boolean(),
    })
    .map((rule) => {
      const inside = rule.level === "numa" || rule.level === "pair";
      return inside ? { ...rule, type: "colocate" as const } : rule;
    });

const caseGang: fc.Arbitrary<CaseGang> = fc.record({
  podSets: fc.array(casePodSet, { minLength: 1, maxLength: 2 }),
  rules: fc.oneof(fc.constant<CaseRule[]>([]), fc.array(caseRule(anyLevel), { maxLength: 2 })),
});

export const freeNode: fc.Arbitrary<CaseNode> = caseNode.map((node) => ({ ...node, used: 0, down: "" as const }));

/** Cases of at most `nodes` nodes and `pods` pods. */
export function casesUpTo(nodes: number, pods: number): fc.Arbitrary<Case> {
  return fc
    .record({
      nodes: fc.oneof(
        fc.array(caseNode, { minLength: 1, maxLength: nodes }),
        fc.array(caseNode, { minLength: Math.min(3, nodes), maxLength: nodes }),
      ),
      gangs: fc.oneof(
        fc.array(caseGang, { minLength: 1, maxLength: 1 }),
        fc.array(caseGang, { minLength: 1, maxLength: 3 }),
      ),
      groupRules: fc.oneof(fc.constant<CaseRule[]>([]), fc.array(caseRule(nodeLevel), { maxLength: 2 })),
      kvBytes: fc.constantFrom(0, 1e9, 1e7),
      neighbourIn: fc.constantFrom("team" as const, "others" as const),
      common: fc.record({
        count: fc.constantFrom(0, 0, 1, 2, 3),
        reach: fc.constantFrom("all" as const, "ssd" as const),
        kind: fc.constant("plain" as const),
      }),
    })
    .filter(({ gangs }) => gangs.flatMap(({ podSets }) => podSets).reduce((sum, { count }) => sum + count, 0) <= pods);
}

/** What pods ask for where devices that several nodes reach are scarce, by the kind of these. */
const wideAsks: readonly (readonly string[])[] = [
  ["1 wide"],
  ["1 fast"],
  ["1 low"],
  ["2 wide"],
  ["1 any"],
  ["2 any"],
  ["1 wide+1 fast"],
  ["1 low", "1 wide"],
  ["1 gpu", "1 wide"],
  ["1 gpu|1 wide"],
  ["1 low|1 gpu"],
  ["1 even"],
  ["1 gpu"],
  ["all low"],
];
const partAsks: readonly (readonly string[])[] = [
  ["1 wide1"],
  ["1 wide2"],
  ["1 wide3"],
  ["1 fast2"],
  ["1 low3"],
  ["2 wide2"],
  ["1 gpu", "1 wide1"],
  ["1 gpu|1 low2"],
];

/**
 * Cases in which most pods want devices that several nodes reach, of all kinds; in most of them little else is in the way:
 * then one pod's choice of a device decides about another's.
 */
export function wideCasesUpTo(nodes: number, pods: number): fc.Arbitrary<Case> {
  const common = fc.record<CaseCommon>({
    count: fc.integer({ min: 1, max: commonParts.length }),
    reach: fc.constantFrom("all" as const, "ssd" as const),
    kind: fc.constantFrom("plain" as const, "board" as const, "parts" as const, "paired" as const),
  });
  const choices = fc.array(fc.nat(), { minLength: 6, maxLength: 6 });
  const roomy = fc.constantFrom(true, true, false);
  return fc.tuple(casesUpTo(nodes, pods), common, choices, roomy).map(([sample, reached, numbers, isRoomy]) => {
    const list = reached.kind === "parts" ? partAsks : wideAsks;
    const asksOf = (set: number) => list[numbers[set]! % list.length]!;
    const gangs = sample.gangs.map((gang, g): CaseGang => {
      const podSets = gang.podSets.map((podSet, p) => {
        return { ...podSet, asks: asksOf(2 * g + p), ...(isRoomy && undemanding) };
      });
      return { ...gang, podSets, rules: isRoomy ? [] : gang.rules };
    });
    const roomier = isRoomy ? { nodes: sample.nodes.map((node) => ({ ...node, ...spacious })), groupRules: [] } : {};
    return { ...sample, ...roomier, gangs, common: reached };
  });
}

const nothing = { size: 0, level: "host" as const };
const undemanding = {
  cpu: 1,
  memory: 0,
  tolerates: true,
  toleratesDevices: true,
  match: undefined,
  outer: nothing,
  inner: nothing,
  pinned: 0,
};
const spacious = { cpu: 8, memory: 6, used: 0, down: "" as const };

const links: OracleLinks = {
  beyond: [10, 50],
  zone: [20, 40],
  rack: [40, 10],
  island: [80, 4],
  numa: [200, 2],
  pair: [400, 1],
};

const numaAttribute = "resource.kubernetes.io/numaNode";
const figures = (level: OracleLevel | "beyond") =>
  links[level] && { gigabytesPerSecond: links[level][0], microseconds: links[level][1] };

const topology: ClusterTopologySpec = {
  levels: [
    { name: "zone", nodeLabels: ["zone"], ...figures("zone") },
    { name: "rack", nodeLabels: ["rack"], ...figures("rack") },
    { name: "island", nodeLabels: ["island"], deviceAttribute: numaAttribute, ...figures("island") },
    { name: "host", nodeLabels: ["kubernetes.io/hostname"] },
    { name: "numa", deviceAttribute: numaAttribute, ...figures("numa") },
    { name: "pair", deviceAttribute: `${driver}/nvlinkDomain`, ...figures("pair") },
  ],
  ...(links.beyond && { beyond: figures("beyond")! }),
};

const taint = { key: "k", value: "v", effect: "NoSchedule" };
const gibibyte = 2 ** 30;

/** The case in the planner's terms and in the oracle's. */
export interface CaseWorld {
  model: ClusterModel;
  unit: PlanUnit;
  nodes: OracleNode[];
  /** Pods that have to be placed, and those that run. */
  base: OraclePod[];
  /** Per pod set, what may be placed beyond these: the next pods by index, whole slices at a time. */
  surplus: OraclePod[][][];
  /** These and the surplus. */
  all: OraclePod[];
  required: OracleRule[];
  preferred: OracleRule[];
  /** Cost of an assignment of the pods, by what the planner says of links. */
  links: OracleLinks;
  trafficOf(pods: readonly OraclePod[]): OracleTraffic[];
}

/** How a case is told to the planner, without changing what it means. */
export interface Telling {
  /** Other names for nodes, domains, devices, gangs and pod sets; the names of pods follow from those. */
  rename?: (name: string) => string;
  order?: <T>(list: T[]) => T[];
}

export function worldOf(sample: Case, { rename = (name) => name, order = (list) => list }: Telling = {}): CaseWorld {
  const nodes = sample.nodes.map((node, i) => oracleNode(node, `n${i}`, sample.common, rename));
  const model = createClusterModel({ managedDrivers: [driver] });
  model.upsertTopology("default", topology);
  const typed = ["share", "wide"].map((type) => {
    return deviceClass(`${type}.kllama.ai`, `device.attributes["${driver}"].type == "${type}"`);
  });
  const any = deviceClass("any.kllama.ai", `device.attributes["${driver}"].type in ["gpu", "wide"]`);
  for (const each of deviceClasses(...typed, any).values()) model.upsertDeviceClass(each);
  for (const i of order([...nodes.keys()])) addToModel(model, sample.nodes[i]!, nodes[i]!);
  holdForNeighbour(model, sample, nodes);
  addCommon(model, sample.common, rename);
  const world: CaseWorld = {
    model,
    unit: { gangs: [] },
    nodes,
    base: [],
    surplus: [],
    all: [],
    required: [],
    preferred: [],
    links,
    trafficOf: (pods) => trafficOf(sample, pods),
  };
  const gangs = sample.gangs.map((gang, g) => addGang(world, gang, g, rename));
  const constraints = sample.groupRules.map((rule): PlacementGroupConstraint => {
    addRule(world, rule, (pod) => !rule.first || pod.role === "r0");
    return { ...constraintOf(rule), ...(rule.first && { roles: ["r0"] }) };
  });
  const members = gangs.map((_, g) => ({ role: `r${g}`, minInstances: 1 }));
  const pairing =
    sample.kvBytes > 0 && gangs.length > 1 ? [{ from: "r0", to: "r1", bytesPerRequest: sample.kvBytes }] : [];
  const spec = { members, topology: "default", constraints, pairing };
  world.unit = { gangs: order(gangs), placementGroup: { namespace: "team", name: "group", spec } };
  return world;
}

type Rename = NonNullable<Telling["rename"]>;

function oracleNode(node: CaseNode, plainName: string, common: Case["common"], rename: Rename): OracleNode {
  const name = rename(plainName);
  const renamed = (label: string | undefined) => (label === undefined ? undefined : rename(label));
  const { gpus, boards, shared } = hardware[node.hardware];
  const devices: OracleDevice[] = gpus.map((place, index) => ({
    name: rename(`gpu-${index}`),
    maker: node.maker,
    tainted: node.deviceTainted && index === 0,
    what: "gpu",
    index,
    numa: place[0],
    pair: place[1] === "-" ? undefined : place[1],
    board: undefined,
    compute: 0,
    memory: 0,
  }));
  for (let board = 0; board < boards; board++) devices.push(...boardDevices(gpus.length + board, board, rename));
  const held = devices.length;
  for (let i = 0; i < shared; i++)
    devices.push({ ...plain, name: rename(`share-${i}`), what: "share", units: allUnits });
  const reached = common.reach === "all" || node.ssd ? common.count : 0;
  for (let i = 0; i < reached; i++) devices.push(commonDevice(common, i, rename));
  const { ssd, tainted, cpu, memory, pods } = node;
  const [zone, rack, island] = [renamed(node.zone), renamed(node.rack), renamed(node.island)];
  const down = node.down !== "";
  const result: OracleNode = { name, zone, rack, island, ssd, tainted, down, cpu, memory, pods, devices, held: 0 };
  const left = leftOf(result);
  const anybody = { ...somebody, tolerates: true };
  for (const position of Array.from({ length: held }).keys()) {
    if ((node.used & (1 << position)) === 0) continue;
    if (putPod({ ...result, ssd: true, down: false }, left, anybody, [position], 1)) result.held |= 1 << position;
  }
  const theirs = result.held & node.theirs;
  const emptied = { cpu, pods, held: 0 };
  if (theirs === 0) return { ...result, emptied };
  const beside = { cpu, pods, held: result.held & ~theirs };
  return { ...result, cpu: cpu - neighbourCpu(node), pods: pods - 1, withoutNeighbour: beside, emptied };
}

/** The neighbour's pod takes a CPU where there is one to spare. */
function neighbourCpu({ cpu }: CaseNode): number {
  return cpu > 1 ? 1 : 0;
}

/** Takes devices only. */
const somebody: OraclePod = {
  name: "",
  gang: "",
  role: "",
  podSet: "",
  index: 0,
  cpu: 0,
  memory: 0,
  tolerates: true,
  wantsSsd: false,
  toleratesDevices: true,
  requests: [],
  match: undefined,
};

/** Neither a GPU nor a part of one. */
const plain = { index: 0, numa: undefined, pair: undefined, board: undefined, compute: 0, memory: 0 };

/** Compute slices, and memory slices, one bit each, of partitions of the common board. */
const commonParts = [
  { compute: 3, memory: 0b0000_1111 },
  { compute: 2, memory: 0b0000_0011 },
  { compute: 2, memory: 0b0000_1100 },
  { compute: 4, memory: 0b1111_0000 },
  { compute: 1, memory: 0b0001_0000 },
];

function commonDevice({ kind }: CaseCommon, i: number, rename: Rename): OracleDevice {
  const device = { ...plain, name: rename(`wide-${i}`), what: "wide", index: i, common: i };
  if (kind === "board") return { ...device, ...commonParts[i]! };
  if (kind === "parts") return { ...device, units: allUnits };
  return kind === "paired" ? { ...device, pair: `${i % 2}` } : device;
}

const profiles = ["1g", "2g", "3g"] as const;

function boardDevices(index: number, board: number, rename: Rename): OracleDevice[] {
  const common = { index, numa: `${board}`, pair: undefined, board };
  const whole = { ...common, name: rename(`gpu-${index}`), what: "gpu", compute: 7, memory: 255 };
  const partitions = profiles.flatMap((profile) =>
    migProfiles[profile].starts.map((start) => {
      const { compute, memory: slices } = migProfiles[profile];
      const name = rename(`gpu-${index}-mig-${profile}-${start}`);
      return { ...common, name, what: profile, compute, memory: ((1 << slices) - 1) << start };
    }),
  );
  return [whole, ...partitions];
}

function addToModel(model: ClusterModel, node: CaseNode, oracle: OracleNode): void {
  const { name, zone, rack, island, ssd, memory, tainted } = oracle;
  const { cpu, pods } = node;
  const labels = {
    "kubernetes.io/hostname": name,
    ...(zone && { zone }),
    ...(rack && { rack }),
    ...(island && { island }),
    ...(ssd && { disk: "ssd" }),
  };
  const allocatable = { cpu: cpu * 1000, memory: memory * gibibyte, pods };
  const state = { unschedulable: node.down === "cordoned", ready: node.down !== "not ready" };
  model.upsertNode(nodeRecord(name, { labels, allocatable, taints: tainted ? [taint] : [], ...state }));
  const { gpus, boards, shared } = hardware[node.hardware];
  const made = Array.from({ length: boards }, (_, board) => migBoard(gpus.length + board, [...profiles]));
  const listed = [...gpus.map((_, index) => gpu(index)), ...made.flatMap(({ devices }) => devices)];
  const own = listed.map((device, i) => withPlace(device, oracle.devices[i]!));
  const devices = [...own, ...oracle.devices.slice(own.length, own.length + shared).map(sharedDevice)];
  const counters = made.map(({ counterSet }) => counterSet);
  const resourceSliceCount = counters.length > 0 ? 2 : 1;
  if (devices.length > 0) model.upsertSlice(sliceRecord(name, devices, { resourceSliceCount }));
  if (counters.length > 0) {
    model.upsertSlice(sliceRecord(name, [], { name: `${name}-c`, resourceSliceCount, sharedCounters: counters }));
  }
  for (const [position, device] of oracle.devices.entries()) {
    if ((oracle.held & ~node.theirs & (1 << position)) === 0) continue;
    model.upsertClaim(allocatedClaim(`other-${name}-${device.name}`, name, [device.name], []));
  }
}

/** Name of the gang that runs beside the unit's own. */
export const neighbour = "neighbour";

function holdForNeighbour(model: ClusterModel, sample: Case, nodes: readonly OracleNode[]): void {
  const held = nodes.flatMap(({ name, devices, held: taken, withoutNeighbour }, i): HeldPod[] => {
    if (!withoutNeighbour) return [];
    const theirs = taken & ~withoutNeighbour.held;
    const claimed = [...devices.entries()].flatMap(([position, device]) =>
      (theirs & (1 << position)) === 0 ? [] : { request: "a", driver, pool: name, device: device.name },
    );
    const claims = [{ claim: `${neighbour}-${i}`, reference: "c0", devices: claimed }];
    const cpu = neighbourCpu(sample.nodes[i]!);
    const placed = { pod: `${neighbour}-${i}`, podSet: "s0", index: i, node: name, claims };
    return [{ placed, requests: cpu > 0 ? { cpu: cpu * 1000 } : {} }];
  });
  const namespace = sample.neighbourIn;
  if (held.length > 0) model.hold(`${namespace}/${neighbour}`, namespace, held);
}

function sharedDevice({ name, index, what }: OracleDevice): Device {
  return {
    name,
    attributes: attributes({ type: what, index }),
    allowMultipleAllocations: true,
    capacity: { units: { value: `${allUnits}` } },
  };
}

/** Devices of a pool of their own, which all nodes reach or those with an SSD. */
function addCommon(model: ClusterModel, common: CaseCommon, rename: Rename): void {
  const { count, reach, kind } = common;
  if (count === 0) return;
  const devices = Array.from({ length: count }, (_, index): Device => {
    const { name, pair, compute, memory } = commonDevice(common, index, rename);
    if (kind === "parts") return sharedDevice({ ...plain, name, index, what: "wide" });
    const more = pair === undefined ? {} : { nvlinkDomain: `bridge ${pair}` };
    const device = { name, attributes: attributes({ type: "wide", index, ...more }) };
    if (kind !== "board") return device;
    const taken = memorySlices.filter((_, slice) => (memory & (1 << slice)) !== 0);
    const counters = { compute: { value: `${compute}` }, ...ofEach(taken) };
    return { ...device, consumesCounters: [{ counterSet: "board", counters }] };
  });
  const hasSsd = { key: "disk", operator: "In" as const, values: ["ssd"] };
  const where =
    reach === "all" ? { allNodes: true } : { nodeSelector: { nodeSelectorTerms: [{ matchExpressions: [hasSsd] }] } };
  const resourceSliceCount = kind === "board" ? 2 : 1;
  const { nodeName: _, ...slice } = sliceRecord("wide", devices, { resourceSliceCount });
  model.upsertSlice({ ...slice, ...where });
  if (kind !== "board") return;
  const sharedCounters = [{ name: "board", counters: { compute: { value: "7" }, ...ofEach(memorySlices) } }];
  model.upsertSlice({ ...slice, ...where, name: "wide-c", devices: [], sharedCounters });
}

const memorySlices = Array.from({ length: 8 }, (_, slice) => `memory-slice-${slice}`);

function ofEach(names: readonly string[]): Record<string, { value: string }> {
  return Object.fromEntries(names.map((name) => [name, { value: "1" }]));
}

const deviceTaint = { key: "bad", effect: "NoSchedule" as const };

function withPlace(device: Device, { name, numa, pair, index, maker, tainted }: OracleDevice): Device {
  const more = attributes({
    index,
    ...(maker === "AMD" && { productName: "AMD Instinct MI300X OAM" }),
    ...(numa !== undefined && { [numaAttribute]: Number(numa) }),
    ...(pair !== undefined && { nvlinkDomain: `bridge ${pair}` }),
  });
  const taints = tainted === true ? { taints: [deviceTaint] } : {};
  return { ...device, ...taints, name, attributes: { ...device.attributes, ...more } };
}

function addGang(world: CaseWorld, gang: CaseGang, g: number, rename: Rename): GangRequest {
  const name = rename(`g${g}`);
  const pods: PodRecord[] = [];
  const placed: PlacedPod[] = [];
  const podSets = gang.podSets.map((podSet, p): GangSpec["podSets"][number] => {
    const set = rename(`s${p}`);
    const { count, minCount } = podSet;
    const slices = slicesOf(podSet);
    const surplus = new Map<number, OraclePod[]>();
    for (let index = 0; index < count; index++) {
      const pod = oraclePod(podSet, { gang: name, role: `r${g}`, podSet: set, index });
      const pin = index < podSet.pinned ? pinOf(world, podSet, placed) : undefined;
      if (pin) pod.pinned = pin;
      if (pin) placed.push(placedPod(world, pod, pin));
      const slice = Math.floor(index / (slices[0]?.size ?? 1));
      if (index < minCount) world.base.push(pod);
      else surplus.set(slice, [...(surplus.get(slice) ?? []), pod]);
      world.all.push(pod);
      pods.push(podOf(world, podSet, pod));
    }
    if (surplus.size > 0) world.surplus.push([...surplus.values()]);
    for (const { size, level } of slices) {
      const covers = (pod: OraclePod) => pod.gang === name && pod.podSet === set;
      const part = (pod: OraclePod) => `${Math.floor(pod.index / size)}`;
      world.required.push({ type: "colocate", level, maxSkew: 1, required: true, covers, part });
    }
    return { name: set, count, minCount: Math.min(count, minCount), ...(slices.length > 0 && { slices }) };
  });
  const constraints = gang.rules.map((rule): GangConstraint => {
    addRule(world, rule, (pod) => pod.gang === name && (!rule.first || pod.podSet === rename("s0")));
    return { ...constraintOf(rule), ...(rule.first && { podSets: [rename("s0")] }) };
  });
  const role = `r${g}`;
  const fixed = { topology: "default", scheduleTimeoutSeconds: 600, disruption: "All" as const };
  const spec: GangSpec = { podSets, constraints, role, ...fixed };
  return { namespace: "team", name, spec, priority: 0, createdAtMs: 0, pods, placed };
}

/** Slices that the API accepts: sizes that divide, levels from broad to narrow. */
function slicesOf({ count, outer, inner }: CasePodSet): { size: number; level: OracleLevel }[] {
  const slices = outer.size > 0 && count % outer.size === 0 ? [outer] : [];
  const around = slices[0]?.size ?? count;
  const order = topology.levels.map(({ name }) => name);
  const narrower = slices.length === 0 || order.indexOf(inner.level) > order.indexOf(outer.level);
  if (inner.size > 0 && around % inner.size === 0 && narrower) slices.push(inner);
  return slices;
}

type PodPlace = Pick<OraclePod, "gang" | "role" | "podSet" | "index">;

function oraclePod(casePodSet: CasePodSet, place: PodPlace): OraclePod {
  const { cpu, memory, tolerates, wantsSsd, toleratesDevices, match } = casePodSet;
  const requests = casePodSet.asks.flatMap((text, claim) =>
    text.split("+").map((request): OracleRequest => ({ claim, alternatives: request.split("|").map(parseAsk) })),
  );
  const name = `${place.gang}-${place.podSet}-${place.index}`;
  return { name, ...place, cpu, memory, tolerates, wantsSsd, toleratesDevices, requests, match };
}

function parseAsk(text: string): OracleRequest["alternatives"][number] {
  const [count, asked] = text.split(" ");
  const [, shared, units] = /^(share|wide|fast|low)(\d)$/.exec(asked!) ?? [];
  return { what: shared ?? asked!, count: count === "all" ? "all" : Number(count), units: Number(units ?? 0) };
}

/** DeviceClass that gives what is asked for. */
export function classNameOf(what: string): string {
  if (what === "gpu" || what === "even" || what === "amd") return "gpu.kllama.ai";
  if (what === "share") return "share.kllama.ai";
  if (what === "any") return "any.kllama.ai";
  return what === "wide" || what === "fast" || what === "low" ? "wide.kllama.ai" : "mig.kllama.ai";
}

/** The pod runs on the first node, on devices that are held there and that no other pin has. */
function pinOf({ nodes }: CaseWorld, { pinnedDevices }: CasePodSet, placed: readonly PlacedPod[]): OraclePlace {
  const has = new Set(placed.flatMap(({ claims }) => claims.flatMap(({ devices }) => devices.map((d) => d.device))));
  const held = [...nodes[0]!.devices.entries()].filter(
    ([position, { name }]) => (nodes[0]!.held & (1 << position)) !== 0 && !has.has(name),
  );
  return { node: 0, devices: held.slice(0, pinnedDevices).map(([position]) => position) };
}

function placedPod({ nodes }: CaseWorld, pod: OraclePod, pin: OraclePlace): PlacedPod {
  const node = nodes[pin.node]!;
  const devices = pin.devices.map((position) => {
    return { request: "a", driver, pool: node.name, device: node.devices[position]!.name };
  });
  const claims = devices.length > 0 ? [{ claim: `${pod.name}-0`, reference: "c0", devices }] : [];
  return { pod: pod.name, podSet: pod.podSet, index: pod.index, node: node.name, claims };
}

function podOf({ model }: CaseWorld, podSet: CasePodSet, pod: OraclePod): PodRecord {
  const constraints = podSet.match
    ? [{ matchAttribute: podSet.match === "numa" ? numaAttribute : `${driver}/nvlinkDomain` }]
    : [];
  const claims = podSet.asks.map((text, i) => {
    const requests = text.split("+").map((request, r) => requestOf(`r${r}`, request, podSet.toleratesDevices));
    const claimName = `${pod.name}-${i}`;
    const spec = { devices: { requests, ...(constraints.length > 0 && { constraints }) } };
    if (!pod.pinned) model.upsertClaim(claimRecord(claimName, requests, { spec }));
    return { name: `c${i}`, claimName };
  });
  return podRecord(pod.name, {
    gang: pod.gang,
    podSet: pod.podSet,
    index: pod.index,
    requests: { cpu: pod.cpu * 1000, ...(pod.memory > 0 && { memory: pod.memory * gibibyte }) },
    tolerations: pod.tolerates ? [{ key: "k", operator: "Exists" }] : [],
    nodeSelector: pod.wantsSsd ? { disk: "ssd" } : {},
    claims,
  });
}

function requestOf(name: string, text: string, tolerates: boolean): DeviceRequest {
  const alternatives = text
    .split("|")
    .map((each, i) => askedFor(i === 0 && !text.includes("|") ? name : `a${i}`, each))
    .map((each): DeviceRequest => {
      const tolerations = tolerates ? [{ key: deviceTaint.key, operator: "Exists" as const }] : [];
      return { ...each, exactly: { ...each.exactly!, tolerations } };
    });
  if (alternatives.length === 1) return alternatives[0]!;
  return { name, firstAvailable: alternatives.map((each) => ({ ...each.exactly!, name: each.name })) };
}

function askedFor(name: string, text: string): DeviceRequest {
  const { what, count, units } = parseAsk(text);
  const deviceClassName = classNameOf(what);
  const more = {
    deviceClassName,
    ...(units > 0 && { capacity: { requests: { units: `${units}` } } }),
    ...(count === "all" && { allocationMode: "All" as const }),
  };
  const selector = selectorOf(what);
  if (selector !== undefined) return exactly(name, count === "all" ? 0 : count, more, selector);
  if (deviceClassName !== "mig.kllama.ai" || what === "part") return exactly(name, count === "all" ? 0 : count, more);
  return partition(name, what, count === "all" ? 0 : count);
}

function selectorOf(what: string): string | undefined {
  if (what === "amd") return `device.attributes["${driver}"].productName.startsWith("AMD")`;
  if (what === "even" || what === "fast") return `device.attributes["${driver}"].index % 2 == 0`;
  return what === "low" ? `device.attributes["${driver}"].index < 2` : undefined;
}

function constraintOf({ type, level, mode, maxSkew }: CaseRule) {
  return { type, level, mode, ...(type === "spread" && { maxSkew }) };
}

function addRule(world: CaseWorld, { type, level, mode, maxSkew }: CaseRule, covers: OracleRule["covers"]): void {
  const required = mode === "required";
  (required ? world.required : world.preferred).push({ type, level, maxSkew, required, covers, part: () => "" });
}

/** Who talks to whom: the narrowest slices, else pod sets, among themselves; the first role to the second. */
function trafficOf({ gangs, kvBytes }: Case, pods: readonly OraclePod[]): OracleTraffic[] {
  const rings = new Map<string, number[]>();
  for (const [i, { gang, podSet, index }] of pods.entries()) {
    const size = slicesOf(gangs[Number(gang.slice(1))]!.podSets[Number(podSet.slice(1))]!).at(-1)?.size;
    const key = `${gang}/${podSet}/${size === undefined ? "" : Math.floor(index / size)}`;
    rings.set(key, [...(rings.get(key) ?? []), i]);
  }
  const traffic: OracleTraffic[] = [...rings.values()].map((list) => {
    return { gang: pods[list[0]!]!.gang, pods: list, ends: list.map(() => ""), bytes: 2 ** 24, ring: true };
  });
  const ends = [...pods.keys()].filter((i) => pods[i]!.role === "r0" || pods[i]!.role === "r1");
  const sender = pods.find(({ role }) => role === "r0");
  if (kvBytes > 0 && gangs.length > 1 && sender) {
    traffic.push({ gang: sender.gang, pods: ends, ends: ends.map((i) => pods[i]!.gang), bytes: kvBytes, ring: false });
  }
  return traffic;
}
