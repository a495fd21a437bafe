import type { GangSpec } from "../api/gang.ts";
import type { PlacedPod, PlacementCost } from "../api/placement.ts";
import type { PlacementGroupSpec } from "../api/placement-group.ts";
import type { Fabric } from "../topology/fabric.ts";
import { deviceKey } from "../topology/held.ts";
import { attributeValue } from "../topology/inventory.ts";
import type { ModelView } from "../topology/model.ts";
import { type LevelLink, linkMilliseconds, linksOf } from "./links.ts";
import { deviceLevelOn, type LevelRef, levelsOf } from "./problem.ts";

/** Where one pod is: its node and the devices there, by index. */
export interface PodPlace {
  readonly podSet: string;
  readonly index: number;
  readonly node: number;
  readonly devices: readonly number[];
}

/** Where a placed pod is; undefined: its node is gone. Devices that the node no longer publishes are left out. */
export function podPlace(
  view: ModelView,
  { podSet, index, node: name, claims }: Pick<PlacedPod, "podSet" | "index" | "node" | "claims">,
): PodPlace | undefined {
  const node = view.indexOf(name);
  if (node === undefined) return undefined;
  const { indexOf } = view.inventory(node);
  const devices = claims.flatMap((claim) =>
    claim.devices.flatMap((each) => indexOf.get(deviceKey(each.driver, each.pool, each.device)) ?? []),
  );
  return { podSet, index, node, devices };
}

/** What one step of a tensor-parallel group sums over its ranks: 8192 tokens × 1024 features × 2 bytes. */
const allReduceBytes = 16 * 1024 * 1024;
const defaultKvBytes = 1e9;

/** The link over which a set of pods reach one another: that of the narrowest level that all share. */
function narrowestLink(view: ModelView, fabric: Fabric, pods: readonly PodPlace[]): LevelLink {
  const peers = !pods.some((pod) => usesPartition(view, pod));
  const joins = (ref: LevelRef) => (peers || !/nvlink/i.test(ref.level.name)) && shares(view, ref, pods);
  return linksOf(fabric, joins).at(-1)!;
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

/** Partitions of a GPU reach no peer, whatever the GPU itself could. */
function usesPartition(view: ModelView, { node, devices }: PodPlace): boolean {
  return devices.some((device) => {
    const entry = view.inventory(node).devices[device]!;
    return attributeValue(entry, `${entry.driver}/type`) === "string:mig";
  });
}

/** Tensor-parallel groups of a gang: the narrowest slices, else whole pod sets; those with several devices. */
function parallelGroups(spec: GangSpec, pods: readonly PodPlace[]): { name: string; pods: PodPlace[] }[] {
  const groups = new Map<string, PodPlace[]>();
  for (const pod of pods) {
    const size = spec.podSets.find(({ name }) => name === pod.podSet)?.slices?.at(-1)?.size;
    const name = size === undefined ? pod.podSet : `${pod.podSet}[${Math.floor(pod.index / size)}]`;
    groups.set(name, [...(groups.get(name) ?? []), pod]);
  }
  return [...groups]
    .map(([name, members]) => ({ name, pods: members }))
    .filter((group) => group.pods.reduce((sum, { devices }) => sum + devices.length, 0) > 1);
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
  const byLink: PlacementCost["byLink"] = [];
  for (const group of parallelGroups(spec, pods)) {
    const ranks = group.pods.reduce((sum, { devices }) => sum + devices.length, 0);
    const { ref, link } = narrowestLink(view, fabric, group.pods);
    const transfer = linkMilliseconds(link, (2 * (ranks - 1) * allReduceBytes) / ranks);
    if (transfer === undefined) continue;
    const milliseconds = transfer + ((2 * (ranks - 1) - 1) * (link.microseconds ?? 0)) / 1000;
    byLink.push({
      from: group.name,
      to: group.name,
      level: ref?.level.name ?? "beyond",
      milliseconds: round(milliseconds),
    });
  }
  const assumes =
    byLink.length > 0
      ? [
          `one ring all-reduce of ${allReduceBytes / 1024 / 1024} MiB per tensor-parallel group over the narrowest level that its devices share`,
        ]
      : [];
  return total(byLink, assumes);
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
  const byLink: PlacementCost["byLink"] = [];
  for (const to of receivers) {
    const { ref, link } = narrowestLink(view, fabric, [...from.pods, ...to.pods]);
    const milliseconds = linkMilliseconds(link, bytes);
    if (milliseconds === undefined) continue;
    byLink.push({
      from: from.name,
      to: to.name,
      level: ref?.level.name ?? "beyond",
      milliseconds: round(milliseconds),
    });
  }
  return total(
    byLink,
    byLink.length > 0 ? [`KV cache of ${bytes} bytes per request, one stream per pair of gangs`] : [],
  );
}

function addCosts(a: PlacementCost, b: PlacementCost): PlacementCost {
  return total([...a.byLink, ...b.byLink], [...a.assumes, ...b.assumes]);
}

function total(byLink: PlacementCost["byLink"], assumes: string[]): PlacementCost {
  return { totalMs: round(byLink.reduce((sum, { milliseconds }) => sum + milliseconds, 0)), byLink, assumes };
}

/** Microseconds are more than the assumptions carry. */
function round(milliseconds: number): number {
  return Math.round(milliseconds * 1000) / 1000;
}
