import type { GangPodSet } from "../api/gang.ts";
import { type Blocking, lack, type PlacedPod, type RejectionReason } from "../api/placement.ts";
import type { PlacementGroupSpec } from "../api/placement-group.ts";
import type { Given } from "../dra/allocator/claim.ts";
import type { Fabric } from "../topology/fabric.ts";
import { deviceKey } from "../topology/held.ts";
import { builtInTopology } from "../topology/levels.ts";
import { type ClusterModel, holdSlot } from "../topology/model.ts";
import type { ClaimRecord, PodRecord } from "../topology/records.ts";
import { type FitCache, fitCache, type ShapeTable } from "./fit.ts";
import { onlyWaits } from "./keys.ts";
import { isLeft, tiesToNode } from "./left-claims.ts";
import { slowestFabric } from "./links.ts";
import {
  assignSlots,
  claimsReady,
  gangFaults,
  lackingClaims,
  type MemberSlots,
  minCountOf,
  problemsText,
  slotKey,
} from "./members.ts";
import type { GangRequest, PlanUnit } from "./plan.ts";
import type { OwnHold, Pin, Rule, Slot } from "./problem.ts";
import { gangRules, placementGroupFaults, placementGroupRules } from "./rules.ts";
import type { Alone } from "./shape.ts";
import { sharingFault, sharingRules, withBorrowing } from "./shared-claims.ts";

/** A gang that can be searched a place for. */
interface PreparedGang {
  readonly request: GangRequest;
  readonly fabric: Fabric;
  /** In the unit's PlacementGroup. */
  readonly role: string | undefined;
}

/** A unit in the planner's terms. */
export interface PreparedUnit {
  readonly gangs: readonly PreparedGang[];
  /** Slots that must all be placed: what the gangs lack for their `minCount`. */
  readonly base: readonly Slot[];
  /** Slots that are placed when they fit, in the order in which they are tried; each entry goes together. */
  readonly surplus: readonly (readonly Slot[])[];
  readonly pins: readonly Pin[];
  readonly rules: readonly Rule[];
  /** Topology of the PlacementGroup, else of the first gang. */
  readonly fabric: Fabric;
  /** `given`: what each of its claims is to get of what it asks for. */
  tableOf(slot: Slot, alone: readonly Alone[], given?: readonly Given[]): ShapeTable;
}

/** Why a gang cannot even be searched a place for. */
export interface Obstacle {
  readonly gang: GangRequest;
  readonly reason: RejectionReason;
  readonly message: string;
  /** What is not there; empty: nothing is short, the message says what has to be corrected. */
  readonly blocking: readonly Blocking[];
}

/** Checks a unit and brings it into the planner's terms. Gangs come in order of namespace and name, whatever the input. */
export function prepareUnit(model: ClusterModel, unit: PlanUnit): PreparedUnit | Obstacle[] {
  const requests = unit.gangs.toSorted((a, b) => (gangKey(a) < gangKey(b) ? -1 : 1));
  const obstacles = requests.flatMap((request) => specObstacle(model, request) ?? []);
  const group = unit.placementGroup;
  const groupFabric = group && model.view.fabric(group.spec.topology);
  const inGroup = requests.filter(({ apart }) => !apart);
  if (group) obstacles.push(...groupObstacles(model, inGroup, group, groupFabric));
  if (obstacles.length > 0) return obstacles;

  const cache = fitCache(model);
  const tables = new Map<Slot, Map<string, ShapeTable>>();
  const gangs = requests.map((request) => ({
    request,
    fabric: model.view.fabric(request.spec.topology)!,
    role: roleOf(request),
  }));
  const parts = gangs.map((gang, i) => memberSlots(model, gang, i));
  const base: Slot[] = [];
  const surplus: Slot[][] = [];
  const pins: Pin[] = [];
  const sharing: Rule[] = [];
  for (const [i, part] of parts.entries()) {
    if ("reason" in part) {
      obstacles.push(part);
      continue;
    }
    const slots = [...part.base, ...part.surplus.flat()];
    for (const slot of slots) {
      const fault = slotFault(model, slot, gangs[slot.gang]!, cache);
      if (fault) obstacles.push(fault);
    }
    base.push(...part.base);
    surplus.push(...part.surplus);
    pins.push(...part.pins);
    const isTied = (claim: ClaimRecord) => tiesToNode(model, claim, cache);
    sharing.push(...sharingRules(i, gangs[i]!.request, slots, gangs[i]!.fabric, isTied));
  }
  if (obstacles.length > 0) return oncePerGang(obstacles);
  const rules = [...sharing, ...gangs.flatMap(({ request, fabric }, i) => gangRules(i, request.spec, fabric))];
  if (group)
    rules.push(
      ...groupRules(
        model,
        group.spec,
        gangs.map(({ role }) => role),
      ),
    );
  return {
    gangs,
    base,
    surplus,
    pins,
    rules,
    fabric: groupFabric ?? gangs[0]!.fabric,
    tableOf(slot, alone, given) {
      const known = tables.get(slot) ?? new Map<string, ShapeTable>();
      tables.set(slot, known);
      const key = JSON.stringify([alone, given]);
      const table = known.get(key) ?? tableFor(slot, gangs[slot.gang]!.fabric, cache, alone, given);
      known.set(key, table);
      return table;
    },
  };
}

/** Rules of a PlacementGroup over gangs whose roles are given by position; none while its spec cannot be understood. */
export function groupRules(
  model: ClusterModel,
  spec: PlacementGroupSpec,
  roles: readonly (string | undefined)[],
): Rule[] {
  const fabric = model.view.fabric(spec.topology);
  const bandwidth = bandwidthFor(model, spec);
  if (fabric === undefined || placementGroupFaults(spec, fabric, bandwidth).length > 0) return [];
  return placementGroupRules(spec, roles, fabric, bandwidth);
}

function gangKey({ namespace, name }: Pick<GangRequest, "namespace" | "name">): string {
  return `${namespace}/${name}`;
}

function roleOf({ apart, role, spec }: GangRequest): string | undefined {
  return apart ? undefined : (role ?? spec.role);
}

function specObstacle(model: ClusterModel, gang: GangRequest): Obstacle | undefined {
  const faults = gangFaults(gang.spec, model.topology(gang.spec.topology));
  if (faults.length === 0) return undefined;
  const reason = faults.find((fault) => fault.reason === "InvalidGang")?.reason ?? faults[0]!.reason;
  return {
    gang,
    reason,
    message: faults.map(({ message }) => message).join("; "),
    blocking: faults.flatMap(({ blocking }) => blocking ?? []),
  };
}

function groupObstacles(
  model: ClusterModel,
  requests: readonly GangRequest[],
  group: NonNullable<PlanUnit["placementGroup"]>,
  fabric: Fabric | undefined,
): Obstacle[] {
  const all = (reason: RejectionReason, message: string, ...blocking: Blocking[]): Obstacle[] =>
    requests.map((gang) => ({ gang, reason, message, blocking }));
  if (!fabric) {
    const remedy = "create that ClusterTopology or use default";
    return all(
      "UnknownTopology",
      `PlacementGroup ${group.name} spec.topology is ${group.spec.topology}; ${remedy}`,
      lack(`ClusterTopology ${group.spec.topology}`),
    );
  }
  const faults = placementGroupFaults(group.spec, fabric, bandwidthFor(model, group.spec));
  if (faults.length > 0) return all(faults[0]!.reason, faults.map(({ message }) => message).join("; "));
  for (const { role, minInstances } of group.spec.members) {
    const present = requests.filter((gang) => roleOf(gang) === role).length;
    if (present >= minInstances) continue;
    const message = `PlacementGroup ${group.name} needs ${minInstances} gangs of role ${role}; ${present} are complete`;
    return all("WaitingForPlacementGroup", message, lack("gangs", minInstances, present));
  }
  const lost = strandedInGroup(model, requests, group);
  return lost === undefined ? [] : all("WaitingForPlacementGroup", lost, lack("nodes"));
}

/**
 * A member of some gang of the group runs on a node that does not exist now, and nobody else tells where the group has to
 * stay: see `strandedMember`.
 */
function strandedInGroup(
  model: ClusterModel,
  requests: readonly GangRequest[],
  { name, spec }: NonNullable<PlanUnit["placementGroup"]>,
): string | undefined {
  const roles = requests.map(roleOf);
  const places = requests.flatMap(({ placed, loose }, gang) =>
    placed.filter((place) => !isLoose(place, loose)).map((place) => ({ ...place, gang })),
  );
  const known = places.filter(({ node }) => model.view.indexOf(node) !== undefined);
  const open = groupRules(model, spec, roles).filter(
    ({ kind, required, setOf }) =>
      required && (kind === "spread" || !known.some((place) => setOf(place) !== undefined)),
  );
  for (const [gang, request] of requests.entries()) {
    const lost = strandedPlaces(model, request).find((place) =>
      open.some(({ setOf }) => setOf({ ...place, gang }) !== undefined),
    );
    if (lost !== undefined) return strandedText(lost, `PlacementGroup ${name}`);
  }
  return undefined;
}

/** What a bound on transfer times may count on. */
function bandwidthFor({ view }: ClusterModel, { pairing = [] }: PlacementGroupSpec): number {
  const bound = pairing.some(({ maxTransferMilliseconds }) => maxTransferMilliseconds !== undefined);
  return bound ? slowestFabric(view) : Number.POSITIVE_INFINITY;
}

function oncePerGang(obstacles: readonly Obstacle[]): Obstacle[] {
  const seen = new Set<GangRequest>();
  return obstacles.filter(({ gang }) => !seen.has(gang) && seen.add(gang));
}

interface MemberPart {
  base: Slot[];
  surplus: Slot[][];
  pins: Pin[];
}

/** Splits the members of a gang into those that have a place, those that must get one, and surplus. */
function memberSlots(model: ClusterModel, { request }: PreparedGang, gang: number): MemberPart | Obstacle {
  const { spec } = request;
  if (request.stands) {
    return { base: [], surplus: [], pins: spec.podSets.flatMap((podSet) => pinsOf(model, request, podSet, gang)) };
  }
  const { slots, problems } = assignSlots(spec, request.pods, request.placed);
  const hindrance = strandedMember(model, request) ?? unequalSchedulers(request, slots);
  if (hindrance !== undefined) return hindrance;
  const held = ownHolds(model, request);
  const part: MemberPart = { base: [], surplus: [], pins: [] };
  const lacking: string[] = [];
  const blocking: Blocking[] = [];
  for (const podSet of spec.podSets) {
    part.pins.push(...pinsOf(model, request, podSet, gang));
    const taken = new Set(placesIn(request, podSet).map(({ index }) => index));
    const candidates: Slot[] = [];
    const unready: PodRecord[] = [];
    for (let index = 0; index < podSet.count; index++) {
      const pod = slots.get(slotKey(podSet.name, index));
      if (!pod || taken.has(index)) continue;
      if (!claimsReady(pod, model)) {
        unready.push(pod);
        continue;
      }
      const claims = pod.claims.map(({ claimName }) => model.claim(pod.namespace, claimName!)!);
      const own = held.get(slotKey(podSet.name, index));
      candidates.push({ gang, podSet: podSet.name, index, pod, claims, ...(own && { own }) });
    }
    const needed = Math.max(0, minCountOf(podSet) - taken.size);
    if (candidates.length < needed) {
      const claims = unready.length > 0 ? lackingClaims(unready, model) : undefined;
      const unclaimed = claims === undefined ? "" : `, ${unready.length} wait for their claims (${claims.text})`;
      const present = taken.size + candidates.length + unready.length;
      const all = minCountOf(podSet);
      if (present < all) blocking.push(lack("pods", all, present));
      if (claims !== undefined) blocking.push(claims.blocking);
      lacking.push(`pod set ${podSet.name} has ${present} of ${minCountOf(podSet)} pods${unclaimed}`);
    }
    part.base.push(...candidates.slice(0, needed));
    part.surplus.push(...inSlices(candidates.slice(needed), podSet.slices?.[0]?.size ?? 1));
  }
  if (lacking.length === 0) return { ...part, ...withBorrowing(part.base, part.surplus, request.placed) };
  return {
    gang: request,
    reason: "WaitingForMembers",
    message: [...lacking, problemsText(problems)].filter(Boolean).join("; "),
    blocking,
  };
}

function placesIn({ placed }: GangRequest, podSet: GangPodSet): PlacedPod[] {
  return placed.filter((each) => each.podSet === podSet.name && each.index < podSet.count);
}

function pinsOf(model: ClusterModel, request: GangRequest, podSet: GangPodSet, gang: number): Pin[] {
  const binding = placesIn(request, podSet).filter((each) => !isLoose(each, request.loose));
  return binding.flatMap((each) => pinOf(model, each, gang) ?? []);
}

/**
 * A member runs on a node that does not exist now, so nobody knows the domains that it binds the others to. The node may
 * come back with the member still on it: placing others meanwhile could break a rule for good.
 */
function strandedMember(model: ClusterModel, gang: GangRequest): Obstacle | undefined {
  const { podSets, constraints = [] } = gang.spec;
  const ruled =
    podSets.some(({ slices }) => slices !== undefined) || constraints.some(({ mode }) => mode === "required");
  if (!ruled) return undefined;
  const [lost] = strandedPlaces(model, gang);
  return (
    lost && { gang, reason: "WaitingForMembers", message: strandedText(lost, "the gang"), blocking: [lack("nodes")] }
  );
}

function strandedPlaces(model: ClusterModel, gang: GangRequest): PlacedPod[] {
  const bound = new Map(gang.pods.map((pod) => [pod.name, pod.nodeName ?? gang.bound?.get(pod.uid)]));
  return gang.placed.filter(({ pod, node }) => bound.get(pod) === node && model.view.indexOf(node) === undefined);
}

function strandedText({ pod, node }: PlacedPod, who: string): string {
  return `pod ${pod} runs on node ${node}, which does not exist now: until the pod is gone or the node is back, nobody knows where ${who} has to stay`;
}

/**
 * Only one scheduler asks kllama: members of another would never arrive at the barrier. Pods with the label that have no
 * slot are no members.
 */
function unequalSchedulers(gang: GangRequest, slots: MemberSlots["slots"]): Obstacle | undefined {
  const waiting = [...slots.values()].filter(({ nodeName }) => nodeName === undefined);
  const other = waiting.find(({ schedulerName }) => schedulerName !== waiting[0]!.schedulerName);
  if (other === undefined) return undefined;
  const [one, two] = [waiting[0]!, other].map((pod) => `pod ${pod.name} has spec.schedulerName ${pod.schedulerName}`);
  return { gang, reason: "InvalidGang", message: `${one}, ${two}; give all members the same`, blocking: [] };
}

function isLoose({ podSet, index }: PlacedPod, loose: GangRequest["loose"]): boolean {
  return loose?.has(slotKey(podSet, index)) === true;
}

/** Surplus slots that belong to one outermost slice are placed together. */
function inSlices(slots: readonly Slot[], size: number): Slot[][] {
  const slices = new Map<number, Slot[]>();
  for (const slot of slots) {
    const slice = Math.floor(slot.index / size);
    slices.set(slice, [...(slices.get(slice) ?? []), slot]);
  }
  return [...slices.values()];
}

function pinOf(model: ClusterModel, placed: PlacedPod, gang: number): Pin | undefined {
  const node = model.view.indexOf(placed.node);
  return node === undefined ? undefined : { gang, podSet: placed.podSet, index: placed.index, node, placed };
}

/** Holds of the gang for slots that are to be placed anew. */
function ownHolds(model: ClusterModel, request: GangRequest): Map<string, OwnHold> {
  const key = gangKey(request);
  const holds = new Map<string, OwnHold>();
  for (const held of model.view.heldUnder(key)) {
    const node = model.view.indexOf(held.placed.node);
    if (node === undefined) continue;
    const { indexOf } = model.view.inventory(node);
    const devices = held.placed.claims
      .flatMap((claim) => claim.devices)
      // A share, and what an administrator has, is not given back for the slot's own sake.
      .filter(({ shareID, adminAccess }) => shareID === undefined && adminAccess !== true)
      .filter(({ driver, pool, device }) => {
        const holders = model.holdersOf(driver, pool, device).filter((holder) => !onlyWaits(holder));
        return holders.join() === `hold:${key}`;
      })
      .flatMap((each) => indexOf.get(deviceKey(each.driver, each.pool, each.device)) ?? []);
    holds.set(slotKey(held.placed.podSet, held.placed.index), {
      node,
      namespace: request.namespace,
      pod: held.placed.pod,
      held,
      slot: holdSlot(key, held.placed),
      devices,
    });
  }
  return holds;
}

function slotFault(
  model: ClusterModel,
  slot: Slot,
  { request, fabric }: PreparedGang,
  cache: FitCache,
): Obstacle | undefined {
  for (const claim of slot.claims) {
    if (isLeft(model, claim)) continue;
    const message = sharingFault(model, slot.pod, claim);
    if (message !== undefined) return { gang: request, reason: "UnsupportedClaim", message, blocking: [] };
  }
  const shape = cache.shape(slot.pod, ownClaims(slot), [], islandsOf(fabric));
  return "reason" in shape ? { gang: request, ...shape } : undefined;
}

/** Claims that the slot needs devices for, or has some of. */
function ownClaims({ claims, borrows }: Slot): readonly ClaimRecord[] {
  return borrows === undefined ? claims : claims.filter(({ uid }) => !borrows.has(uid));
}

/** Islands as a ClusterTopology of the user's own names them; undefined: the allocator knows the usual ones. */
function islandsOf({ spec }: Fabric): string[] | undefined {
  const attributes = new Set(spec.levels.flatMap(({ deviceAttribute }) => deviceAttribute ?? []));
  return spec === builtInTopology || attributes.size === 0 ? undefined : [...attributes];
}

function tableFor(
  slot: Slot,
  fabric: Fabric,
  cache: FitCache,
  alone: readonly Alone[],
  given?: readonly Given[],
): ShapeTable {
  const shape = cache.shape(slot.pod, ownClaims(slot), alone, islandsOf(fabric), given);
  if ("reason" in shape) throw new Error(`claims of pod ${slot.pod.name} were checked before: ${shape.message}`);
  return cache.table(shape);
}
