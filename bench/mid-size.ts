import type { ClusterTopologySpec } from "../src/api/cluster-topology.ts";
import type { PlacementGroupSpec } from "../src/api/placement-group.ts";
import type { GangRequest, PlanUnit } from "../src/gang/plan.ts";
import type { ClusterModel } from "../src/topology/model.ts";
import type { Random } from "../test/simulation/random.ts";
import { driver, emptyCluster, pendingGang } from "./scene.ts";

/** Clusters of 12 to 64 nodes and gangs that have to share them: small enough to be solved exactly, too large to try everything. */

export type Level = "block" | "rack" | "host";
export const levels = ["block", "rack", "host"] as const;

/** Free GPUs and free cores of one machine, and where it stands. */
export interface Machine {
  readonly name: string;
  readonly block: string;
  readonly rack: string;
  readonly gpus: number;
  readonly cores: number;
}

/** Equal pods; every `slice.size` of them in one domain of `slice.level`. */
interface PodsOf {
  readonly count: number;
  readonly gpus: number;
  readonly cores: number;
  readonly slice?: { readonly size: number; readonly level: Level };
}

interface GangOf {
  readonly name: string;
  readonly role?: "prefill" | "decode";
  readonly sets: readonly PodsOf[];
  /** All of its pods in one domain of this level. */
  readonly within?: Level;
}

export interface Instance {
  readonly machines: readonly Machine[];
  readonly gangs: readonly GangOf[];
  /** Gangs are one PlacementGroup: together in one domain of `within`, prefill hands so many bytes to decode. */
  readonly group?: { readonly within?: Level; readonly bytes: number };
}

export const suites = ["pdSets", "queue", "slices"] as const;
export type Suite = (typeof suites)[number];

/**
 * `pdSets`: a PlacementGroup of prefill and decode gangs. `queue`: gangs that come one after the other, each in a rack.
 * `slices`: one gang whose tensor-parallel groups each want a rack or a host, with CPU-only pods beside them.
 */
export function instanceOf(suite: Suite, random: Random): Instance {
  const machines = machinesOf(random);
  const free = machines.reduce((sum, { gpus }) => sum + gpus, 0);
  if (suite === "pdSets") return { machines, ...pdSet(random, free) };
  if (suite === "queue") return { machines: machines.map(emptyOrFull), gangs: queue(random, machines) };
  return { machines, gangs: [sliced(random, free)] };
}

function machinesOf(random: Random): Machine[] {
  const machines: Machine[] = [];
  const blocks = 2 + random.below(3);
  const wanted = 12 + random.below(53);
  for (let rack = 0; machines.length < wanted; rack++) {
    const size = Math.min(wanted - machines.length, 3 + random.below(6));
    for (let i = 0; i < size; i++) {
      const gpus = random.chance(0.3) ? 0 : random.chance(0.4) ? 8 : random.below(9);
      machines.push({
        name: `n${String(machines.length).padStart(2, "0")}`,
        block: `b${rack % blocks}`,
        rack: `b${rack % blocks}/r${rack}`,
        gpus,
        cores: random.chance(0.3) ? 8 + random.below(40) : 128,
      });
    }
  }
  return machines;
}

function emptyOrFull(machine: Machine): Machine {
  return { ...machine, gpus: machine.gpus >= 4 ? 8 : 0, cores: 128 };
}

function pdSet(random: Random, free: number): Pick<Instance, "gangs" | "group"> {
  const gangs: GangOf[] = [];
  let left = free * random.between(0.3, 1);
  const prefill = random.pick([tensorParallel(4, 1), tensorParallel(8, 1), tensorParallel(4, 2)]);
  const decode = random.pick([tensorParallel(8, 1), tensorParallel(8, 2), tensorParallel(4, 4), tensorParallel(2, 4)]);
  const withinOf = (): Pick<GangOf, "within"> => (random.chance(0.5) ? { within: "rack" } : {});
  const [prefillIn, decodeIn] = [withinOf(), withinOf()];
  for (let i = 0; i < 6 && left > 0; i++) {
    const isPrefill = i % 2 === 0;
    const set = isPrefill ? prefill : decode;
    left -= set.count * set.gpus;
    const role = isPrefill ? ("prefill" as const) : ("decode" as const);
    gangs.push({ name: `${role}-${i}`, role, sets: [set], ...(isPrefill ? prefillIn : decodeIn) });
  }
  const within = random.chance(0.4) ? { within: "block" as const } : {};
  return { gangs, group: { ...within, bytes: random.pick([1e9, 2e9, 4e8]) } };
}

function tensorParallel(gpus: number, count: number): PodsOf {
  return { count, gpus, cores: gpus * 2 };
}

/** About as many whole machines as are free, in gangs that each want a rack. */
function queue(random: Random, machines: readonly Machine[]): GangOf[] {
  const free = new Map<string, number>();
  for (const { rack, gpus } of machines) if (gpus >= 4) free.set(rack, (free.get(rack) ?? 0) + 1);
  // Cut from the racks themselves, so that most suites fit, then come in any order.
  const sizes = [...free.values()].flatMap((size) => cut(random, size));
  const order = sizes.map((size) => ({ size, at: random.next() })).sort((a, b) => a.at - b.at);
  return order.map(({ size }, i) => ({
    name: `gang-${i}`,
    sets: [{ count: size, gpus: 8, cores: 16 }],
    within: "rack" as const,
  }));
}

/** All of a rack, in one to three parts. */
function cut(random: Random, size: number): number[] {
  if (size < 2 || random.chance(0.3)) return [size];
  const first = 1 + random.below(size - 1);
  return [first, ...cut(random, size - first)];
}

function sliced(random: Random, free: number): GangOf {
  const gpus = random.pick([2, 4, 4, 8]);
  const size = random.pick([2, 2, 4]);
  const slice = { size, level: gpus * size <= 8 && random.chance(0.5) ? ("host" as const) : ("rack" as const) };
  const groups = Math.max(1, Math.floor((free * random.between(0.3, 0.95)) / (gpus * size)));
  const ranks = { count: Math.min(groups, 12) * size, gpus, cores: random.pick([4, 8, 12]), slice };
  const routers = { count: 1 + random.below(4), gpus: 0, cores: random.pick([4, 16, 32]) };
  return { name: "sliced", sets: [ranks, routers], ...(random.chance(0.3) && { within: "block" as const }) };
}

/** Figures of the links that every instance has; `beyond`: between ends that share no level. */
const links = {
  beyond: { gigabytesPerSecond: 10, microseconds: 50 },
  block: { gigabytesPerSecond: 25, microseconds: 20 },
  rack: { gigabytesPerSecond: 50, microseconds: 10 },
  host: { gigabytesPerSecond: 400, microseconds: 2 },
};

const hostname = "kubernetes.io/hostname";
const labelOf: Record<Level, string> = { block: "block", rack: "rack", host: hostname };
const topology: ClusterTopologySpec = {
  levels: levels.map((name) => ({ name, nodeLabels: [labelOf[name]], ...links[name] })),
  beyond: links.beyond,
};

/** The instance as the planner knows clusters. */
export interface Scene {
  readonly model: ClusterModel;
  readonly unit: PlanUnit;
}

export function sceneOf({ machines, gangs, group }: Instance): Scene {
  const model = emptyCluster();
  model.upsertTopology("default", topology);
  for (const machine of machines) addMachine(model, machine);
  const requests = gangs.map((gang) => requestOf(model, gang));
  if (group === undefined) return { model, unit: { gangs: requests } };
  const roles = (["prefill", "decode"] as const).map((role) => ({
    role,
    minInstances: gangs.filter((gang) => gang.role === role).length,
  }));
  const spec: PlacementGroupSpec = {
    topology: "default",
    members: roles.filter(({ minInstances }) => minInstances > 0),
    constraints: group.within ? [{ type: "colocate", level: group.within, mode: "required" }] : [],
    pairing: roles[1]!.minInstances > 0 ? [{ from: "prefill", to: "decode", bytesPerRequest: group.bytes }] : [],
  };
  return { model, unit: { gangs: requests, placementGroup: { namespace: "bench", name: "group", spec } } };
}

function addMachine(model: ClusterModel, { name, block, rack, gpus, cores }: Machine): void {
  model.upsertNode({
    name,
    uid: name,
    labels: { block, rack, [hostname]: name },
    taints: [],
    unschedulable: false,
    ready: true,
    allocatable: { cpu: cores * 1000, memory: 2 ** 44, pods: 1000 },
  });
  const devices = Array.from({ length: gpus }, (_, index) => ({
    name: `gpu-${index}`,
    attributes: { type: { string: "gpu" }, productName: { string: "NVIDIA H100 80GB HBM3" } },
  }));
  const pool = { driver, pool: name, generation: 1, resourceSliceCount: 1, nodeName: name, sharedCounters: [] };
  model.upsertSlice({ name: `${name}-gpus`, ...pool, devices });
}

function requestOf(model: ClusterModel, { name, role, sets, within }: GangOf): GangRequest {
  const podSets = Object.fromEntries(
    sets.map(({ count, gpus, cores, slice }, i) => [
      `s${i}`,
      { count, gpus, cpu: cores * 1000, ...(slice && { slices: [slice] }) },
    ]),
  );
  const constraints = within ? [{ type: "colocate" as const, level: within, mode: "required" as const }] : [];
  return pendingGang(model, name, podSets, { constraints, ...(role && { role }) });
}

/** Equal pods that talk to one another: a slice, or a pod set without slices. */
export interface Bundle {
  readonly gang: number;
  readonly set: number;
  /** Of how many the bundle is in its set. */
  readonly part: number;
  readonly pods: PodsOf;
  readonly count: number;
  readonly within: Level | undefined;
}

export function bundlesOf({ gangs }: Instance): Bundle[] {
  return gangs.flatMap(({ sets }, gang) =>
    sets.flatMap((pods, set) => {
      const size = pods.slice?.size ?? pods.count;
      return Array.from({ length: pods.count / size }, (_, part) => {
        return { gang, set, part, pods, count: size, within: pods.slice?.level };
      });
    }),
  );
}

/** Milliseconds of a ring all-reduce of 16 MiB over the devices of a bundle, at a link; 0 where there is nobody to talk to. */
export function ringMs({ pods, count }: Bundle, level: Level | "beyond"): number {
  const ranks = pods.gpus * count;
  if (ranks < 2) return 0;
  const { gigabytesPerSecond, microseconds } = links[level];
  return (2 * (ranks - 1) * 2 ** 24) / ranks / (gigabytesPerSecond * 1e6) + (2 * (ranks - 1) * microseconds) / 1000;
}

/** Milliseconds in which one gang hands so many bytes to another. */
export function streamMs(bytes: number, level: Level | "beyond"): number {
  const { gigabytesPerSecond, microseconds } = links[level];
  return bytes / (gigabytesPerSecond * 1e6) + microseconds / 1000;
}

/** Pairs of gangs of which the first hands KV cache to the second. */
export function pairsOf({ gangs, group }: Instance): [from: number, to: number][] {
  if (group === undefined) return [];
  const of = (role: string) => [...gangs.keys()].filter((gang) => gangs[gang]!.role === role);
  return of("prefill").flatMap((from) => of("decode").map((to): [number, number] => [from, to]));
}

/** The domain of a machine at a level. */
export function domainOf(machine: Machine, level: Level): string {
  return level === "host" ? machine.name : machine[level];
}

/** Per bundle: machine → pods there. */
export type Assignment = readonly ReadonlyMap<number, number>[];

/** What is wrong with an assignment; undefined: it fits and keeps all rules. */
export function faultOf(instance: Instance, assignment: Assignment): string | undefined {
  const bundles = bundlesOf(instance);
  const gpus = instance.machines.map((machine) => machine.gpus);
  const cores = instance.machines.map((machine) => machine.cores);
  for (const [i, { pods, count }] of bundles.entries()) {
    let placed = 0;
    for (const [machine, n] of assignment[i]!) {
      placed += n;
      gpus[machine]! -= n * pods.gpus;
      cores[machine]! -= n * pods.cores;
    }
    if (placed !== count) return `bundle ${i} has ${placed} of ${count} pods`;
  }
  const over = instance.machines.findIndex((_, i) => gpus[i]! < 0 || cores[i]! < 0);
  if (over >= 0) return `${instance.machines[over]!.name} is given more than it has`;
  const apart = rulesOf(instance, bundles).find(
    ({ level, members }) =>
      !shares(
        instance,
        level,
        members.map((i) => assignment[i]!),
      ),
  );
  return apart && `bundles ${apart.members.join()} are not in one ${apart.level}`;
}

/** Bundles that have to be in one domain of a level. */
export function rulesOf(
  { gangs, group }: Instance,
  bundles: readonly Bundle[],
): { level: Level; members: readonly number[] }[] {
  const all = [...bundles.keys()];
  const ofGangs = gangs.flatMap(({ within }, gang) =>
    within ? [{ level: within, members: all.filter((i) => bundles[i]!.gang === gang) }] : [],
  );
  const ofSlices = bundles.flatMap(({ within }, i) => (within ? [{ level: within, members: [i] }] : []));
  const ofGroup = group?.within ? [{ level: group.within, members: all }] : [];
  return [...ofGroup, ...ofGangs, ...ofSlices];
}

function shares({ machines }: Instance, level: Level, maps: readonly ReadonlyMap<number, number>[]): boolean {
  const domains = new Set(maps.flatMap((map) => [...map.keys()].map((i) => domainOf(machines[i]!, level))));
  return domains.size === 1;
}

/** Predicted milliseconds of all rings and streams, by the narrowest level that all pods of each share. */
export function costOf(instance: Instance, assignment: Assignment): number {
  const bundles = bundlesOf(instance);
  const levelOf = (members: readonly number[]) =>
    levels.findLast((level) =>
      shares(
        instance,
        level,
        members.map((i) => assignment[i]!),
      ),
    ) ?? "beyond";
  let total = 0;
  for (const [i, bundle] of bundles.entries()) total += ringMs(bundle, levelOf([i]));
  for (const [from, to] of pairsOf(instance)) {
    const members = [...bundles.keys()].filter((i) => bundles[i]!.gang === from || bundles[i]!.gang === to);
    total += streamMs(instance.group!.bytes, levelOf(members));
  }
  return total;
}
