import type { GangPlacement, GangSpec, GangStatus, PreemptedUnit } from "../../api/gang.ts";
import type { ResourceClaimConsumer } from "../../api/kubernetes.ts";
import type { PlacedClaim, PlacedPod, Placement, Rejection } from "../../api/placement.ts";
import { equalJson } from "../../topology/equal.ts";
import type { ClaimRecord, PodRecord } from "../../topology/records.ts";
import { slotKey } from "../members.ts";
import { hasAllClaims, isGuardOf } from "./claims.ts";
import type { AvoidedNodes, Trial } from "./refusals.ts";

/** A Gang as the lifecycle knows it. `problems` is non-empty when the spec breaks a rule that the API server cannot check. */
export interface GangRecord {
  namespace: string;
  name: string;
  uid: string;
  generation: number;
  resourceVersion: string;
  deleting: boolean;
  createdAtMs: number;
  labels: Readonly<Record<string, string>>;
  spec: GangSpec;
  problems: readonly string[];
  status: GangStatus;
  /** `status.reservedAt`; absent while nothing is reserved. */
  reservedAtMs?: number;
}

/** A `bind` call of kube-scheduler that is held open until the gang is committed or revoked. */
interface Arrival {
  node: string;
  /** Identifies the call: a retry of kube-scheduler replaces the older call of the same pod. */
  call: number;
}

/** One gang: what the API server said of it, and the little that is only known here. */
export interface GangState {
  readonly key: string;
  gang?: GangRecord;
  /** pod UID → member. */
  pods: Map<string, PodRecord>;
  /** claim name → claim of a member, or one that still carries our guard. */
  claims: Map<string, ClaimRecord>;
  /** pod UID → held bind call. */
  arrivals: Map<string, Arrival>;
  /** pod UID → node: bindings that the API server confirmed and the watch has not shown yet. */
  bound: Map<string, string>;
  /** effect id → effect under way. */
  inFlight: Map<string, Effect>;
  /** effect id → when it may be tried again, after failures, what the last one said, and if it may have passed all the same. */
  pace: Map<string, { attempts: number; notBeforeMs: number; message: string; mayHavePassed: boolean }>;
  /** The planner's answer until the Gang's status carries it. Its devices are held. */
  proposal?: GangPlacement;
  /** Who has to leave before the proposal can be reserved; absent: nobody. */
  preempting?: readonly PreemptedUnit[];
  /** UIDs of pods that the API server has evicted, which the watch may not have shown yet. */
  evicted: Set<string>;
  /** Evictions that were refused again and again have been told. */
  evictionTold?: true;
  /** When all that had to leave had left, and the devices were not free yet. */
  vacatedSinceMs?: number;
  /** Says where the pods of a recreated Gang run, and may have been written or not. */
  unanswered?: StatusWrite;
  /** A plan was asked for and has not been answered. */
  planning: boolean;
  /** The last refusal: tried again when capacity was freed after `capacityVersion`, or the members changed. */
  rejection?: GangRejection;
  /** When it was last told what would make room for it. */
  outlookAtMs?: number;
  /** No new plan before this time: grows with every revoked or refused attempt. */
  replanAtMs: number;
  /** pod UID → claim that was made for it and does not exist, since when, and how often the pod was told. */
  claimless: ReadonlyMap<string, { claim: string; sinceMs: number; told: number }>;
  /** Since when members wait although there is no Gang. */
  goneSinceMs?: number;
  /** When the committed gang was first seen unfinished. */
  bindingSinceMs?: number;
  /** pod UID → released member that has not arrived at the barrier yet. */
  trials: Map<string, Trial>;
  avoided: AvoidedNodes;
  /** pod UID → since when what runs on the node of its place leaves it no room, and whether it is planned anew. */
  crowded: ReadonlyMap<string, { sinceMs: number; isOver: boolean }>;
  /** Slots of places to which nobody returns, as of the last look: the others of the PlacementGroup are elsewhere. */
  outlying?: ReadonlySet<string>;
  /** Slots of places with a device, as of the last look, that is gone or that their members may not be given for its taints. */
  spoiled?: ReadonlySet<string>;
  /** When the members of the present reservation were let go: their time counts from here, not from the wait before. */
  releasedAtMs?: number;
  /** The lowest priority of the members, as of the last look at their places. */
  priority?: number;
  /** pod UID → why it is left out although it carries the gang's label, as it was last told. */
  strays?: ReadonlyMap<string, string>;
  /** When a member of the reserved placement was first seen missing. */
  missingSinceMs?: number;
  /** Since when all members are at the barrier and some node has no room for its own any more. */
  squeezedSinceMs?: number;
  /** When the gang was first seen incomplete with its present members: statuses are written once members stop coming. */
  incomplete?: { members: string; sinceMs: number };
}

export type LifecycleEvent =
  | { type: "gang"; gang: GangRecord }
  | { type: "gangGone"; uid: string }
  | { type: "pod"; pod: PodRecord }
  | { type: "podGone"; uid: string }
  | { type: "claim"; claim: ClaimRecord }
  | { type: "claimGone"; name: string }
  /** Its PlacementGroup came, went or says something else. */
  | { type: "groupChanged" }
  /** Another gang of its PlacementGroup got a place, or lost it. */
  | { type: "companionMoved" }
  | { type: "planned"; placement: Placement; preempting?: readonly PreemptedUnit[] }
  /** Somebody may be preempted who could not before. */
  | { type: "preemptionPossible" }
  | { type: "rejected"; rejection: Rejection; capacityVersion: number }
  /** What would make room for the gang that was refused. */
  | { type: "outlook"; counterfactuals: readonly string[] }
  | { type: "arrived"; podUid: string; node: string; call: number }
  | { type: "left"; podUid: string; call: number }
  | { type: "done"; effect: Effect; outcome: Outcome }
  | { type: "tick" };

/**
 * What became of an effect. A conflict or a missing object is news that the watch brings; the rest is tried again, not
 * sooner than the API server asks.
 */
export type Outcome = { ok: true } | { ok: false; reason: string; message: string; retryAfterMs?: number };

const refusals = new Set(["Conflict", "NotFound", "Invalid", "BadRequest", "Unauthorized", "Forbidden", "NotLeading"]);

/** No answer is no refusal: the write may have been carried out, or be under way still. */
export function mayHavePassed(outcome: Outcome): boolean {
  return !outcome.ok && !refusals.has(outcome.reason);
}

export interface ClaimReference {
  namespace: string;
  name: string;
  uid: string;
  resourceVersion: string;
  /** Its finalizers; without delete-protection among them an allocation would leak when the claim is deleted. */
  finalizers: readonly string[];
  /** Whether it holds an allocation. */
  allocated: boolean;
}

export interface PodReference {
  namespace: string;
  name: string;
  uid: string;
}

/** Why the latest plan was refused. */
export interface GangRejection {
  reason: string;
  message: string;
  capacityVersion: number;
  /** `memberKey` then. */
  members: string;
  /** What would make room; absent: not known yet. */
  counterfactuals?: readonly string[];
}

export type StatusWrite = Extract<Effect, { type: "writeStatus" }>;

/** Reasons of the condition `gangCondition` of pods: its status is whether the pod's Gang exists. */
export type PodNews = "GangFound" | "GangNotFound" | "Released" | "ClaimMissing";

/** Everything the lifecycle may ask the shell to do. `id` names the effect within its gang: never twice at a time. */
export type Effect =
  | { type: "plan"; id: "plan" }
  | { type: "writeStatus"; id: "status"; gang: GangRecord; status: GangStatus; transition: string }
  | {
      type: "reserveClaim";
      id: string;
      claim: ClaimReference;
      placed: PlacedClaim;
      node: string;
      reservedFor: readonly ResourceClaimConsumer[];
    }
  | { type: "clearClaim"; id: string; claim: ClaimReference }
  | { type: "dropGuard"; id: string; claim: ClaimReference; reservedFor: readonly ResourceClaimConsumer[] }
  | { type: "releasePod"; id: string; pod: PodReference; node: string; nominate: boolean }
  | { type: "bind"; id: string; pod: PodReference; node: string }
  /** Deletes a bound member of a gang that fails whole. */
  | { type: "disruptPod"; id: string; pod: PodReference }
  /** Asks the Eviction API, which respects PodDisruptionBudgets. */
  | { type: "evictPod"; id: string; pod: PodReference }
  /** Tells a waiting pod's owner that its Gang or its claim does not exist, or that this is over. */
  | {
      type: "tellPod";
      id: string;
      pod: PodReference;
      status: "True" | "False";
      reason: PodNews;
      message: string;
      atIso: string;
    }
  /** kube-scheduler refused what was planned: counted and logged. */
  | { type: "planRefused"; id: string; pod: string; node: string; message: string }
  | { type: "answer"; id: string; call: number; podUid: string; error?: string }
  /** On the Gang, or on a pod. */
  | { type: "event"; id: string; reason: string; note: string; warning: boolean; pod?: PodReference };

/** What a decision may ask about the rest of the cluster, at one instant. */
export interface Context {
  /** Wall clock in milliseconds. */
  nowMs: number;
  /** The same as RFC 3339 in whole seconds; made only when something is written. */
  nowIso(): string;
  /** Grows when capacity is freed or added: a rejected gang is worth another try. */
  capacityVersion: number;
  /** kllama alone gives the driver's devices; others are kube-scheduler's to give. */
  manages(driver: string): boolean;
  /** Pods that have not ended and name the claim themselves, of this gang or not. */
  sharersOf(claim: ClaimRecord): readonly PodRecord[];
  /** The node exists, is ready and takes pods. */
  nodeFits(node: string): boolean;
  /** What runs on the node leaves room for the pod. */
  leavesRoom(node: string, pod: PodRecord): boolean;
  /** What runs on the node leaves room for all of these pods, and nobody would have to leave. */
  leavesRoomForAll(node: string, pods: readonly PodRecord[]): boolean;
  /** Nobody but the gang itself and the claims of this pod hold the devices of this slot. */
  devicesFree(state: GangState, placed: PlacedPod, pod: PodRecord): boolean;
  /** Some device of this slot is gone from its pool, or has a taint that the pod's claim does not tolerate. */
  isSpoiled(placed: PlacedPod, pod: PodRecord): boolean;
  /** Every gang of the base set of the same PlacementGroup has its members at the barrier, or is committed. */
  groupReady(state: GangState): boolean;
  /** Tells places of the gang that are not where the others of its PlacementGroup are, though its rules require that. */
  outlying(state: GangState): (place: PlacedPod) => boolean;
  /** There is room for so many of the gang among the pods that are released and not yet bound; else it is told when there is. */
  mayRelease(state: GangState, pods: number): boolean;
  /** A gang in phase Preempting, as the API server has it, counts on the room of this one. */
  condemned(state: GangState): boolean;
  /** Of what a gang in phase Preempting waits for: how much has not left, and pods without a gang that are to be evicted. */
  leaving(state: GangState): { left: number; evict: readonly PodReference[] };
}

export interface StepResult {
  state: GangState;
  effects: Effect[];
  /** Step again at this time even if nothing happens. */
  wakeAtMs?: number;
}

/** @returns the state of a gang of which nothing is known yet. */
export function newGangState(key: string): GangState {
  return {
    key,
    pods: new Map(),
    claims: new Map(),
    arrivals: new Map(),
    bound: new Map(),
    inFlight: new Map(),
    pace: new Map(),
    claimless: new Map(),
    trials: new Map(),
    avoided: new Map(),
    crowded: new Map(),
    evicted: new Set(),
    planning: false,
    replanAtMs: 0,
  };
}

/** Capacity that is freed is news for it. */
export function waitsForRoom({ rejection, crowded }: GangState): boolean {
  return rejection !== undefined || crowded.size > 0;
}

/**
 * @returns true once nothing is left to know or to do, so that the shell may forget the gang. A claim that it named may be
 * there for years, and others may use it by now.
 */
export function isForgettable(state: GangState): boolean {
  return (
    state.gang === undefined &&
    state.pods.size === 0 &&
    ![...state.claims.values()].some(({ reservedFor }) => reservedFor.some((each) => isGuardOf(state.key, each))) &&
    state.arrivals.size === 0 &&
    state.inFlight.size === 0
  );
}

/**
 * The slots that the gang holds in the ledger: the plan that is on its way into the status, else the status itself.
 * A revoked or pending gang holds nothing; its claims hold their devices until they are cleared.
 */
export function heldPods(state: GangState): readonly PlacedPod[] {
  if (state.gang === undefined || state.gang.deleting) return [];
  if (state.proposal !== undefined) return state.proposal.pods;
  if (holdsPlaces(state.gang)) return state.gang.status.placement?.pods ?? [];
  // Where the pods of a Gang run that was deleted and created again is on its way into its status: when it arrives some
  // of them may have ended, and their places must not have been given to others.
  const writing = state.inFlight.get("status") ?? unansweredWrite(state);
  return writing?.type === "writeStatus" && writing.status.phase === "Scheduled"
    ? (writing.status.placement?.pods ?? [])
    : [];
}

/** Places that the Gang's status says it holds, and that a plan on its way into it gives up: nobody's until it is written. */
export function placesGivenUp(state: GangState, planned: readonly PlacedPod[]): PlacedPod[] {
  if (state.gang === undefined || state.gang.deleting || !holdsPlaces(state.gang)) return [];
  const written = state.gang.status.placement?.pods ?? [];
  if (planned === written) return [];
  const next = new Map(planned.map((place) => [slotKey(place.podSet, place.index), place]));
  return written.filter((place) => !equalJson(place, next.get(slotKey(place.podSet, place.index))));
}

function holdsPlaces({ status: { phase } }: GangRecord): boolean {
  return phase === "Preempting" || phase === "Reserved" || phase === "Binding" || phase === "Scheduled";
}

/** A status write that may still come to pass: nobody answered it, and the Gang is as it was. */
export function unansweredWrite({ gang, unanswered }: GangState): StatusWrite | undefined {
  const current = unanswered?.gang.uid === gang?.uid && unanswered?.gang.resourceVersion === gang?.resourceVersion;
  return current ? unanswered : undefined;
}

/** Members that kube-scheduler has on its hands: released, by a write that may still be under way, and not bound. */
export function releasedPods(state: GangState): number {
  const phase = state.gang?.status.phase;
  if (phase !== "Reserved" && phase !== "Binding" && phase !== "Scheduled") return 0;
  let count = 0;
  for (const pod of state.pods.values()) {
    if (!pod.bindMarker || pod.nodeName !== undefined || state.bound.has(pod.uid) || pod.terminal || pod.deleting)
      continue;
    if (pod.gates.length === 0 || state.inFlight.has(`release/${pod.uid}`)) count += 1;
  }
  return count;
}

/** Identifies the present members and whether they can be planned: when it changes, a refused gang is worth another plan. */
export function memberKey(state: GangState): string {
  const keys = [...state.pods.values()].map((pod) => (hasAllClaims(pod, state.claims) ? pod.uid : `${pod.uid}?`));
  return keys.sort().join(",");
}
