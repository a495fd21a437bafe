import { bindMarker, memberMarker } from "../api/names.ts";
import {
  type AllocateOptions,
  type AllocationFailure,
  allocateOnNode,
  type DeviceChoice,
} from "../dra/allocator/allocate.ts";
import {
  asGiven,
  type ClaimProblem,
  type CompiledClaim,
  type Given,
  isClaimProblem,
  leavesOpen,
} from "../dra/allocator/claim.ts";
import { changeUsage, type NodeInventory, type NodeUsage } from "../topology/inventory.ts";
import { levelValue } from "../topology/levels.ts";
import { matchesNodeSelector } from "../topology/node-selector.ts";
import type { ClaimRecord, NodeRecord, PodRecord } from "../topology/records.ts";
import { nodeRefusal } from "./node-match.ts";

/** What makes two pods interchangeable for the planner: equal wishes, requests and claims. */
export interface Shape {
  readonly key: string;
  /** A pod of the shape: its selectors and tolerations stand for all. */
  readonly pod: PodRecord;
  /** Resource → amount, `pods` included, marker resources left out; zero amounts left out. */
  readonly demands: readonly (readonly [resource: string, amount: number])[];
  /** Claims that still need devices. */
  readonly claims: readonly CompiledClaim[];
  /** Claims that have devices already: they tie the pod to nodes. */
  readonly allocated: readonly ClaimRecord[];
  /** How devices for one pod are to be chosen on a node. */
  optionsOn(node: NodeRecord): AllocateOptions;
  /** Nodes with equal values have equal `optionsOn`. */
  bindingOn(node: NodeRecord): string;
  /** Shapes of one key ask the same of devices, whatever else they ask for. */
  readonly deviceKey: string;
  /**
   * Attributes, without domain, that the selectors of its claims read; undefined: how many devices a node has for it
   * depends on more than what `likeness` compares.
   */
  readonly reads: readonly string[] | undefined;
  /** Devices that one pod needs at least, without those that kube-scheduler gives it. */
  readonly devices: number;
  /**
   * One request for devices of one kind, and one for such as kube-scheduler gives: pods that choose one after the other
   * waste none, unless they are partitions.
   */
  readonly simple: boolean;
  /** Devices of an administrator's access are not held. */
  readonly admin: boolean;
  /** It depends on the node which alternative of a request, or how many devices, a pod gets. */
  readonly open: boolean;
}

/** Devices of one pod share the value of the attribute, except on nodes that have one of the labels. */
export interface Alone {
  readonly attribute: string;
  readonly unlessLabels: readonly string[];
}

/** A device attribute whose value earlier choices have fixed. */
export interface Together {
  readonly attribute: string;
  readonly value: string;
}

/** More slots than this on one node are not told apart. */
export const maxSlotsPerNode = 1024;

const markers: ReadonlySet<string> = new Set([bindMarker, memberMarker]);

/** What a pod asks of a node, as kube-scheduler counts it. */
export function demandsOf(pod: Pick<PodRecord, "requests">): [resource: string, amount: number][] {
  const demands: [string, number][] = [["pods", 1]];
  for (const [name, amount] of Object.entries(pod.requests)) {
    if (amount > 0 && !markers.has(name) && name !== "pods") demands.push([name, amount]);
  }
  return demands.sort(([a], [b]) => (a < b ? -1 : 1));
}

/** How often the demands fit beside what is used. A node that does not report `pods` has no limit on their number. */
export function roomFor(
  demands: Shape["demands"],
  allocatable: NodeRecord["allocatable"],
  used: Readonly<Record<string, number>>,
): number {
  let room = maxSlotsPerNode;
  for (const [name, amount] of demands) {
    const total = allocatable[name] ?? (name === "pods" ? maxSlotsPerNode : 0);
    room = Math.min(room, Math.floor((total - (used[name] ?? 0)) / amount));
  }
  return Math.max(0, room);
}

export function takeDevices(inventory: NodeInventory, usage: NodeUsage, choice: DeviceChoice, by: 1 | -1): void {
  for (const claim of choice.claims) {
    for (const { device, admin, share } of claim.devices) {
      if (admin === undefined) changeUsage(inventory, usage, device, by, share);
    }
  }
}

/** Does the node admit pods of the shape at all, however much is free? Undefined: yes. */
export function shapeRefusal(shape: Shape, node: NodeRecord): string | undefined {
  const refusal = nodeRefusal(shape.pod, node);
  if (refusal) return refusal;
  const elsewhere = shape.allocated.some(
    ({ allocation }) => allocation?.nodeSelector && !matchesNodeSelector(allocation.nodeSelector, node),
  );
  return elsewhere ? "cannot reach devices that its claims have already" : undefined;
}

/** How devices of a pod of the shape are chosen on a node, if earlier pods have fixed values of attributes. */
export function optionsFor({ optionsOn }: Shape, node: NodeRecord, together: readonly Together[]): AllocateOptions {
  const options = optionsOn(node);
  return together.length === 0 ? options : { ...options, together: [...(options.together ?? []), ...together] };
}

/** Chooses devices for one pod of the shape; those of earlier pods may have fixed values of attributes. */
export function chooseDevices(
  shape: Shape,
  node: NodeRecord,
  inventory: NodeInventory,
  usage: NodeUsage,
  together: readonly Together[] = [],
): DeviceChoice | AllocationFailure {
  return allocateOnNode(inventory, usage, shape.claims, optionsFor(shape, node, together));
}

/**
 * The shape of a pod whose claims exist. `alone`: what all devices of this one pod have in common.
 * `islands`: attributes that name islands inside a host, broad to narrow; undefined: the allocator's own.
 * `given`: what each claim that still needs devices is to get of what it asks for; undefined: whatever is there.
 */
export function shapeOf(
  pod: PodRecord,
  claims: readonly ClaimRecord[],
  compiler: { compile(claim: ClaimRecord): CompiledClaim | ClaimProblem },
  alone: readonly Alone[],
  islands: readonly string[] | undefined,
  given?: readonly Given[],
): Shape | ClaimProblem {
  const pending: CompiledClaim[] = [];
  const allocated: ClaimRecord[] = [];
  for (const claim of claims) {
    if (claim.allocation) {
      allocated.push(claim);
      continue;
    }
    const compiled = compiler.compile(claim);
    if (isClaimProblem(compiled)) {
      return { ...compiled, message: `ResourceClaim ${claim.name}: ${compiled.message}` };
    }
    pending.push(given ? asGiven(compiled, given[pending.length]!) : compiled);
  }
  const demands = demandsOf(pod);
  const key = JSON.stringify([
    demands,
    Object.entries(pod.nodeSelector).sort(([a], [b]) => (a < b ? -1 : 1)),
    pod.nodeAffinity ?? null,
    pod.tolerations,
    pod.avoidedNodes ?? null,
    pending.map(({ shape }) => shape),
    allocated.map(({ uid, allocation }) => [uid, allocation?.nodeSelector ?? null]),
    alone,
    islands ?? null,
  ]);
  const deviceKey = JSON.stringify([pending.map(({ shape }) => shape), alone, islands ?? null]);
  const options: AllocateOptions = { together: alone, ...(islands && { islands }) };
  const optionsOn = (node: NodeRecord): AllocateOptions => {
    const binding = alone.filter(({ unlessLabels }) => levelValue(unlessLabels, node) === undefined);
    return binding.length === alone.length ? options : { ...options, together: binding };
  };
  const bindingOn = (node: NodeRecord): string =>
    alone.map(({ unlessLabels }) => (levelValue(unlessLabels, node) === undefined ? "1" : "0")).join("");
  return {
    key,
    pod,
    demands,
    claims: pending,
    allocated,
    optionsOn,
    bindingOn,
    deviceKey,
    reads: attributesRead(pending),
    devices: leastDevices(pending.filter(({ left }) => !left)),
    ...kindOf(pending),
  };
}

function kindOf(claims: readonly CompiledClaim[]): Pick<Shape, "simple" | "admin" | "open"> {
  const alternativesOf = (some: readonly CompiledClaim[]) =>
    some.flatMap(({ requests }) => requests.flatMap(({ alternatives }) => alternatives));
  const single = (left: boolean) => alternativesOf(claims.filter((claim) => claim.left === left)).length <= 1;
  const matching = claims.every(({ constraints }) => constraints.every(({ kind }) => kind === "match"));
  return {
    simple: single(false) && single(true) && matching,
    admin: alternativesOf(claims).some(({ adminAccess }) => adminAccess),
    open: claims.some(leavesOpen),
  };
}

/** Devices that the claims need at least. */
function leastDevices(claims: readonly CompiledClaim[]): number {
  return claims
    .flatMap((claim) => claim.requests)
    .reduce((sum, { alternatives }) => sum + Math.min(...alternatives.map(({ count }) => Math.max(1, count))), 0);
}

function attributesRead(claims: readonly CompiledClaim[]): string[] | undefined {
  const names = new Set<string>();
  for (const { alternatives } of claims.flatMap((claim) => claim.requests)) {
    for (const { selectors, adminAccess } of alternatives) {
      // Administrators' access takes nothing: there would be no end of pods.
      if (adminAccess) return undefined;
      for (const { reads } of selectors) {
        if (reads === undefined) return undefined;
        for (const name of reads) names.add(name);
      }
    }
  }
  return claims.some(({ requests }) => requests.length > 0) ? [...names].sort() : undefined;
}
