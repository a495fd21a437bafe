import type { GangSpec } from "../api/gang.ts";
import type { PlacedPod, PlacementCost } from "../api/placement.ts";
import type { PlacementGroupSpec } from "../api/placement-group.ts";
import type { Fabric } from "../topology/fabric.ts";
import { deviceKey } from "../topology/held.ts";
import { attributeValue, type DeviceEntry } from "../topology/inventory.ts";
import type { ModelView } from "../topology/model.ts";
import {
  assumesFigures,
  isGpuFabric,
  type LevelLink,
  type Link,
  linkMilliseconds,
  linksOf,
  productOf,
  slowest,
} from "./links.ts";
import { deviceLevelOn, type LevelRef, levelsOf } from "./problem.ts";

/** Where one pod is: its node and the devices there, by index. */
export interface PodPlace {
  readonly podSet: string;
  readonly index: number;
  readonly node: number;
  readonly devices: readonly number[];
  /** Tells apart who sends to whom; pods of one tensor-parallel group are one end. */
  readonly end?: number;
}

/** Where a placed pod is; undefined: its node is gone. Devices that the node no longer publishes are left out. */
export function podPlace(
  view: ModelView,
  { podSet, index, node: name, claims }: Pick<PlacedPod, "podSet" | "index" | "node" | "claims">,
): PodPlace | undefined {
  const node = view.indexOf(name);
  if (node === undefined) return undefined;
  const { indexOf } = view.inventory(node);
  const placed = claims.flatMap((claim) => claim.devices);
  // Network cards that kube-scheduler gave it besides compute nothing. A cluster's dump does not tell what is managed there.
  const own = placed.filter(({ driver }) => view.managedDrivers.has(driver));
  const devices = (own.length > 0 ? own : placed).flatMap(
    ({ driver, pool, device }) => indexOf.get(deviceKey(driver, pool, device)) ?? [],
  );
  return { podSet, index, node, devices };
}

/** What one step of a tensor-parallel group sums over its ranks: 8192 tokens × 1024 features × 2 bytes. */
const allReduceBytes = 16 * 1024 * 1024;
export const defaultKvBytes = 1e9;

/** The link over which a set of pods reach one another: that of the narrowest level that all share. */
function narrowestLink(view: ModelView, fabric: Fabric, pods: readonly PodPlace[]): LevelLink {
  const { peers, bandwidth } = gpusOf(view, pods);
  const joins = (ref: LevelRef) => (peers || !isGpuFabric(ref)) && shares(view, ref, pods);
  return linksOf(fabric, joins, bandwidth).at(-1)!;
}

/** The narrowest of the usable levels that all pods share. */
export function narrowestShared(
  view: ModelView,
  fabric: Fabric,
  pods: readonly PodPlace[],
  usable: (ref: LevelRef) => boolean,
): LevelRef | undefined {
  return levelsOf(fabric).findLast((ref) => usable(ref) && shares(view, ref, pods));
}

/**
 * How fast the pods' GPUs reach each other where they are joined directly, and whether they can be: with partitions they
 * cannot, nor where an end has no GPU. A device is a GPU unless its `type` says otherwise.
 */
export function gpusOf(view: ModelView, pods: readonly PodPlace[]): { peers: boolean; bandwidth: number } {
  const products = new Set<string>();
  const ends = new Map<number, boolean>();
  let whole = true;
  for (const { node, devices, end = 0 } of pods) {
    const inventory = view.inventory(node);
    const types = devices.map((device) => typeOf(inventory.devices[device]!));
    for (const [i, device] of devices.entries())
      if (isGpu(types[i])) products.add(productOf(inventory.devices[device]!));
    whole &&= !types.includes("string:mig");
    ends.set(end, ends.get(end) === true || types.some(isGpu));
  }
  return { peers: whole && [...ends.values()].every((has) => has), bandwidth: slowest(products) };
}

function typeOf(device: DeviceEntry): string | undefined {
  return attributeValue(device, `${device.driver}/type`);
}

function isGpu(type: string | undefined): boolean {
  return type === undefined || type === "string:gpu";
}

/** A ring all-reduce over so many ranks: every rank sends its part on, twice around; undefined: nobody knows the link. */
export function ringMilliseconds(link: Link, ranks: number): number | undefined {
  if (ranks < 2) return 0;
  const transfer = linkMilliseconds(link, (2 * (ranks - 1) * allReduceBytes) / ranks);
  return transfer === undefined ? undefined : transfer + ((2 * (ranks - 1) - 1) * (link.microseconds ?? 0)) / 1000;
}

/** The tensor-parallel group of a pod within its gang: its narrowest slice, else its pod set. */
export function ringOf(spec: GangSpec, { podSet, index }: Pick<PodPlace, "podSet" | "index">): string {
  const size = podSetOf(spec, podSet)?.slices?.at(-1)?.size;
  return size === undefined ? podSet : `${podSet}[${Math.floor(index / size)}]`;
}

/** Pods of a tensor-parallel group; 0: the spec does not have the pod set any more. */
function ringSize(spec: GangSpec, name: string): number {
  const podSet = podSetOf(spec, name);
  return podSet?.slices?.at(-1)?.size ?? podSet?.count ?? 0;
}

function podSetOf({ podSets }: GangSpec, name: string) {
  return podSets.find((podSet) => podSet.name === name);
}

/** Level → path of the domain that holds all pods; levels at which they are in several, or in none, are left out. */
export function sharedDomains(view: ModelView, fabric: Fabric, pods: readonly PodPlace[]): Record<string, string> {
  const domains: Record<string, string> = {};
  for (const ref of levelsOf(fabric)) {
    const path = sharedDomain(view, fabric, ref, pods);
    if (path !== undefined) domains[ref.level.name] = path;
  }
  return domains;
}

function sharedDomain(view: ModelView, fabric: Fabric, ref: LevelRef, pods: readonly PodPlace[]): string | undefined {
  if (pods.length === 0 || !shares(view, ref, pods)) return undefined;
  const { node } = pods[0]!;
  const inside = deviceLevelOn(ref, node);
  if (!inside) return ref.kind === "node" ? ref.level.domains[ref.level.domainOf[node]!]!.path : undefined;
  const host = fabric.nodeLevels.findLast(({ domainOf }) => domainOf[node]! >= 0);
  const value = deviceValues(view, inside.attribute, pods)[0]!;
  return `${host ? host.domains[host.domainOf[node]!]!.path : view.nodes[node]!.record.name}/${value.slice(value.indexOf(":") + 1)}`;
}

function shares(view: ModelView, ref: LevelRef, pods: readonly PodPlace[]): boolean {
  const { node } = pods[0]!;
  const inside = deviceLevelOn(ref, node);
  if (inside) {
    if (pods.some((pod) => pod.node !== node)) return false;
    const values = deviceValues(view, inside.attribute, pods);
    return values.length === 1 && values[0] !== "";
  }
  if (ref.kind === "device") return false;
  const { domainOf } = ref.level;
  return domainOf[node]! >= 0 && pods.every((pod) => domainOf[pod.node] === domainOf[node]);
}

function deviceValues(view: ModelView, attribute: string, pods: readonly PodPlace[]): string[] {
  const values = pods.flatMap(({ node, devices }) =>
    devices.map((device) => attributeValue(view.inventory(node).devices[device]!, attribute) ?? ""),
  );
  return [...new Set(values)];
}

interface ParallelGroup {
  readonly name: string;
  readonly pods: readonly PodPlace[];
  /** Pods that it has when all of the gang is placed. */
  readonly size: number;
}

/** Tensor-parallel groups of a gang that have several devices, as far as they are placed. */
function parallelGroups(spec: GangSpec, pods: readonly PodPlace[]): ParallelGroup[] {
  return [...Map.groupBy(pods, (pod) => ringOf(spec, pod))]
    .map(([name, members]) => ({ name, pods: members, size: ringSize(spec, members[0]!.podSet) }))
    .filter((group) => group.pods.reduce((sum, { devices }) => sum + devices.length, 0) > 1);
}

/** Where surplus waits, a group is summed over the pods that it has. */
function assumeWhole(groups: readonly ParallelGroup[]): string[] {
  const parts = groups.filter(({ pods, size }) => pods.length < size);
  const texts = parts.map(({ name, pods, size }) => `${name} with ${pods.length} of ${size} pods`);
  return texts.length === 0 ? [] : [`groups that are not whole as far as they are placed: ${texts.join(", ")}`];
}

/** A gang and where all of its pods are. */
export interface PlacedGang {
  readonly name: string;
  readonly role: string | undefined;
  readonly spec: GangSpec;
  readonly fabric: Fabric;
  readonly pods: readonly PodPlace[];
}

/** The PlacementGroup of a gang; `ofRole` gives its placed gangs of a role. */
interface PlacedGroup {
  readonly spec: PlacementGroupSpec;
  readonly fabric: Fabric;
  ofRole(role: string): readonly PlacedGang[];
}

/** Predicted cost of a gang's traffic: inside it, and what it sends to other roles, which is charged to the sender. */
export function placementCost(view: ModelView, gang: PlacedGang, group: PlacedGroup | undefined): PlacementCost {
  let cost = gangCost(view, gang);
  for (const pairing of group?.spec.pairing ?? []) {
    if (pairing.from !== gang.role) continue;
    cost = addCosts(cost, pairingCost(view, group!.fabric, pairing, gang, group!.ofRole(pairing.to)));
  }
  return cost;
}

/** The sums inside each tensor-parallel group: a ring all-reduce over the slowest link. */
function gangCost(view: ModelView, { fabric, spec, pods }: PlacedGang): PlacementCost {
  const what = `one ring all-reduce of ${allReduceBytes / 1024 / 1024} MiB per tensor-parallel group over the narrowest level that its devices share`;
  const bill = createBill(fabric, what);
  const groups = parallelGroups(spec, pods);
  for (const { name, pods: members } of groups) {
    const ranks = members.reduce((sum, { devices }) => sum + devices.length, 0);
    const found = narrowestLink(view, fabric, members);
    bill.add(name, name, found, ringMilliseconds(found.link, ranks), members.length > 1);
  }
  return bill.total(assumeWhole(groups));
}

/** Sums up what traffic costs, and what that rests on. */
function createBill(fabric: Fabric, what: string) {
  const byLink: PlacementCost["byLink"] = [];
  const links: LevelLink[] = [];
  const peers = new Set<string>();
  const unpriced: string[] = [];
  return {
    /** `apart`: several pods take part. */
    add(from: string, to: string, found: LevelLink, milliseconds: number | undefined, apart: boolean): void {
      const level = levelName(found);
      if (milliseconds === undefined) {
        const where = level === "beyond" ? "spec.beyond" : `level ${level} or a broader one`;
        unpriced.push(`${trafficName(from, to)}: nobody tells the bandwidth; give ${where} gigabytesPerSecond`);
        return;
      }
      links.push(found);
      if (apart) assumePeers(peers, found);
      byLink.push({ from, to, level, milliseconds: round(milliseconds) });
    },
    leaveOut(from: string, to: string, why: string): void {
      unpriced.push(`${trafficName(from, to)}: ${why}`);
    },
    total(assumes: readonly string[]): PlacementCost {
      return total(byLink, byLink.length > 0 ? [what, ...basis(fabric, links), ...peers, ...assumes] : [], unpriced);
    },
  };
}

function trafficName(from: string, to: string): string {
  return from === to ? from : `${from} → ${to}`;
}

/** Nothing in the API tells whether one pod may reach another's GPUs: containers do not by themselves. */
function assumePeers(texts: Set<string>, link: LevelLink): void {
  if (link.ref === undefined || !isGpuFabric(link.ref)) return;
  texts.add(
    `${levelName(link)}: pods reach one another's GPUs, by an IPC namespace that they share on a host, or an IMEX channel between hosts`,
  );
}

/** What handing over one request's KV cache costs to each receiver, over their narrowest common level. */
function pairingCost(
  view: ModelView,
  fabric: Fabric,
  pairing: NonNullable<PlacementGroupSpec["pairing"]>[number],
  from: PlacedGang,
  receivers: readonly PlacedGang[],
): PlacementCost {
  const bytes = pairing.bytesPerRequest ?? defaultKvBytes;
  const bill = createBill(fabric, `KV cache of ${bytes} bytes per request, one stream per pair of gangs`);
  for (const to of receivers) {
    if (to.pods.length === 0) {
      bill.leaveOut(from.name, to.name, `no pod of ${to.name} has a place`);
      continue;
    }
    const found = narrowestLink(view, fabric, [...atEnd(0, from.pods), ...atEnd(1, to.pods)]);
    bill.add(from.name, to.name, found, linkMilliseconds(found.link, bytes), true);
  }
  return bill.total([]);
}

function atEnd(end: number, pods: readonly PodPlace[]): PodPlace[] {
  return pods.map((pod) => ({ ...pod, end }));
}

function levelName({ ref }: LevelLink): string {
  return ref?.level.name ?? "beyond";
}

/** The figures that a prediction rests on, and where they come from. */
function basis(fabric: Fabric, links: readonly LevelLink[]): string[] {
  const source = assumesFigures(fabric) ? "assumed, since no ClusterTopology says" : "by the ClusterTopology";
  const texts = links.map((each) => {
    const { gigabytesPerSecond, microseconds = 0 } = each.link;
    return `${levelName(each)}: ${gigabytesPerSecond} GB/s per GPU and direction, ${microseconds} µs (${source})`;
  });
  return [...new Set(texts)];
}

function addCosts(a: PlacementCost, b: PlacementCost): PlacementCost {
  const unpriced = [...(a.unpriced ?? []), ...(b.unpriced ?? [])];
  return total([...a.byLink, ...b.byLink], [...new Set([...a.assumes, ...b.assumes])], unpriced);
}

function total(byLink: PlacementCost["byLink"], assumes: string[], unpriced: string[]): PlacementCost {
  const totalMs = round(byLink.reduce((sum, { milliseconds }) => sum + milliseconds, 0));
  return { totalMs, byLink, assumes, ...(unpriced.length > 0 && { unpriced }) };
}

/** Microseconds are more than the assumptions carry. */
function round(milliseconds: number): number {
  return Math.round(milliseconds * 1000) / 1000;
}
