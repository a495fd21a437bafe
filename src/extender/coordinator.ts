import type { PlacedPod, Placement, Rejection, RejectionReason } from "../api/placement.ts";
import { type Batch, type BatchHolds, createBatch } from "../gang/batch.ts";
import { namespaceOf } from "../gang/keys.ts";
import { isGuard } from "../gang/lifecycle/claims.ts";
import { createReleaseWindow, type ReleaseWindow } from "../gang/lifecycle/release-window.ts";
import {
  type Context,
  type Effect,
  type GangRecord,
  type GangState,
  heldPods,
  isForgettable,
  type LifecycleEvent,
  memberKey,
  newGangState,
  type Outcome,
  releasedPods,
} from "../gang/lifecycle/state.ts";
import { step } from "../gang/lifecycle/step.ts";
import { slotKey, validateGang } from "../gang/members.ts";
import { expectedWorkload } from "../gang/workload.ts";
import type { PlacementGroupRecord } from "../kube/project.ts";
import type { ClusterModel, HeldPod } from "../topology/model.ts";
import type { ClaimRecord, NodeRecord, PodRecord, Resources } from "../topology/records.ts";
import { createDoubts, doubtKey } from "./doubts.ts";
import type { WriteEffect, Written } from "./effects.ts";
import { createFreshness } from "./freshness.ts";
import {
  createHeldPlaces,
  defaultLimits,
  type HeldPlaces,
  limitFaults,
  type PlannerLimits,
  placementFault,
} from "./limits.ts";
import { byQueueOrder, groupOf, priorityOf, type Queued, roleIn, unitFor } from "./pending-plans.ts";
import { createSingles, type Singles } from "./singles.ts";

/** What the coordinator tells the outside. */
export interface CoordinatorPorts {
  /** Starts a write; its result comes back through `written`. Must not call back synchronously. */
  write(effect: WriteEffect, owner: string): void;
  event(
    subject: { kind: "Gang" | "Pod"; namespace: string; name: string; uid: string },
    event: { reason: string; note: string; warning: boolean },
  ): void;
  answer(call: number, error: string | undefined): void;
  nowMs(): number;
  nowIso(): string;
  /** Calls `flush` once, after `delayMs`. */
  schedule(delayMs: number): void;
  planned(outcome: "placed" | "rejected", milliseconds: number, explored: number, reason: string): void;
  /** kube-scheduler does not let a pod go where it was planned. */
  planRefused(what: { pod: string; node: string; message: string }): void;
  /** Something that kllama should have been asked for came past it. */
  bypassed(how: Bypass): void;
}

/**
 * `ungated`: a pod with claims on managed devices that has no gate. `unmarked`: a pod with a gang's label that kube-scheduler
 * binds without asking. `bound`: a member that somebody else bound.
 */
type Bypass = "ungated" | "unmarked" | "bound";

/**
 * Owns the model of the cluster and the state of every gang, and turns what is observed into effects. Everything is
 * synchronous: between reading the model and taking devices in it nothing else can run, which is what keeps a device
 * from being given twice by one planner.
 */
export interface Coordinator {
  observeNode(node: NodeRecord): void;
  observeNodeGone(name: string): void;
  observePod(pod: PodRecord): void;
  observePodGone(uid: string): void;
  observeClaim(claim: ClaimRecord): void;
  observeClaimGone(claim: { namespace: string; name: string; uid: string }): void;
  observeGang(gang: GangRecord): void;
  observeGangGone(gang: { namespace: string; name: string; uid: string }): void;
  observeGroup(key: string, group: PlacementGroupRecord | undefined): void;
  /** Topology, device classes or slices changed in the model. */
  observeInventory(): void;
  written(
    effect: WriteEffect,
    owner: string,
    result: { outcome: Outcome; gang?: GangRecord; pod?: PodRecord; claim?: ClaimRecord },
  ): void;
  /** @returns what answers the call: the gang's key, or the pod's own; undefined when nobody knows the pod. */
  arrive(podUid: string, node: string, call: number): string | undefined;
  leave(podUid: string, call: number): void;
  /** The node that a member may go to now; undefined while it has none. */
  plannedNode(podUid: string): string | undefined;
  gangOf(podUid: string): string | undefined;
  /** It asks for the marker of members and belongs to no gang (any more): it may go to any node. */
  goesAlone(podUid: string): boolean;
  state(key: string): GangState | undefined;
  /** Gangs that are known, by UID, as the API server gave them. */
  gangs(): ReadonlyMap<string, GangRecord>;
  /** What was known of an object is wrong: the next record of it is believed, be it older. */
  distrust(uid: string): void;
  /** Decides for everything that changed. Called once per turn of the event loop, and when a timer is due. */
  flush(): void;
  /** Starts deciding: before, the world is only watched. */
  activate(): void;
  stats(): { gangs: number; arrivals: number; planning: number; released: number; awaitingRelease: number };
}

interface Entry {
  state: GangState;
  events: LifecycleEvent[];
  /** The placement that the model holds for this gang, by identity. */
  held?: readonly PlacedPod[] | undefined;
}

/** Writes that answer one bind call belong to the call. */
const callOwner = "call:";

/** As long as kube-scheduler waits for a bind call: who is not bound then will not be bound by waiting for others. */
const releasePatienceMs = 30_000;

/** Planning may not hold the event loop for longer than this before others get their turn. */
const planningSliceMs = 25;

export function createCoordinator(
  model: ClusterModel,
  managedDrivers: ReadonlySet<string>,
  ports: CoordinatorPorts,
  limits: PlannerLimits = defaultLimits,
): Coordinator {
  const window: ReleaseWindow = createReleaseWindow(limits.releasedPods, releasePatienceMs);
  const heldPlaces: HeldPlaces = createHeldPlaces();
  const entries = new Map<string, Entry>();
  const groups = new Map<string, PlacementGroupRecord>();
  const gangOfPod = new Map<string, string>();
  /** namespace/claim → gang keys that look at it. */
  const gangsOfClaim = new Map<string, Set<string>>();
  const fresh = createFreshness();
  const doubts = createDoubts(model);
  const dirty = new Set<string>();
  const wantsPlan = new Set<string>();
  /** Those that asked for a plan in this round. */
  const asked = new Set<string>();
  /** Gangs that were refused: freed capacity is news for them. */
  const refused = new Set<string>();
  const alarms = createAlarms();
  let active = false;
  let flushing = false;
  let scheduledAtMs = Number.POSITIVE_INFINITY;
  let seenCapacity = -1;

  const singles: Singles = createSingles(
    model,
    managedDrivers,
    { ...ports, write },
    () => touch(),
    (owner) => doubts.releasing(owner),
  );

  function write(effect: WriteEffect, owner: string): void {
    doubts.sent(effect, owner);
    ports.write(effect, owner);
  }

  function entry(key: string): Entry {
    let found = entries.get(key);
    if (found === undefined) {
      found = { state: newGangState(key), events: [] };
      entries.set(key, found);
    }
    return found;
  }

  function tell(key: string, event: LifecycleEvent): void {
    entry(key).events.push(event);
    dirty.add(key);
    touch();
  }

  /** Asks for a flush at the end of this turn, so that a burst of watch events costs one decision per gang. */
  function touch(delayMs = 0): void {
    if (!active || flushing) return;
    const atMs = ports.nowMs() + delayMs;
    if (scheduledAtMs <= atMs) return;
    scheduledAtMs = atMs;
    ports.schedule(delayMs);
  }

  function watchClaim(namespace: string, name: string, key: string): void {
    const claimKey = `${namespace}/${name}`;
    const known = gangsOfClaim.get(claimKey) ?? new Set();
    if (known.has(key)) return;
    gangsOfClaim.set(claimKey, known.add(key));
    const claim = model.claim(namespace, name);
    if (claim !== undefined) tell(key, { type: "claim", claim });
  }

  function observePod(pod: PodRecord): void {
    if (pod.resourceVersion !== undefined && !fresh.accept(pod.uid, pod.resourceVersion)) return;
    model.upsertPod(pod);
    const key = pod.gang === undefined ? undefined : `${pod.namespace}/${pod.gang}`;
    const before = gangOfPod.get(pod.uid);
    if (before !== undefined && before !== key) leaveGang(pod.uid, before);
    if (key === undefined) {
      singles.observePod(pod);
      return;
    }
    singles.forget(pod.uid);
    gangOfPod.set(pod.uid, key);
    if (before === undefined) noteBypass(pod);
    noteBinding(pod, key);
    tell(key, { type: "pod", pod });
    for (const { claimName } of pod.claims) if (claimName !== undefined) watchClaim(pod.namespace, claimName, key);
  }

  /** Once per pod, as it is when it is first seen or joins the gang. */
  function noteBypass(pod: PodRecord): void {
    if (!pod.bindMarker && pod.nodeName === undefined && !pod.terminal) ports.bypassed("unmarked");
  }

  /** Bound without our write, while its gang was not committed: by a scheduler without the extender, or by hand. */
  function noteBinding(pod: PodRecord, key: string): void {
    const state = entries.get(key)?.state;
    const before = state?.pods.get(pod.uid);
    if (before === undefined || before.nodeName !== undefined || pod.nodeName === undefined) return;
    const phase = state?.gang?.status.phase;
    if (phase !== "Binding" && phase !== "Scheduled" && state?.bound.has(pod.uid) !== true) ports.bypassed("bound");
  }

  function leaveGang(uid: string, key: string): void {
    gangOfPod.delete(uid);
    tell(key, { type: "podGone", uid });
  }

  function observePodGone(uid: string): void {
    fresh.forget(uid);
    model.removePod(uid);
    singles.forget(uid);
    const key = gangOfPod.get(uid);
    if (key !== undefined) leaveGang(uid, key);
    touch();
  }

  /**
   * A recreated member waits for the devices that its gang holds until the claim of its predecessor lets go of them, and
   * after a restart nothing else ties that claim to the gang.
   */
  function tellHolders(devices: readonly { driver: string; pool: string; device: string }[] = []): void {
    for (const { driver, pool, device } of devices) {
      for (const holder of model.holdersOf(driver, pool, device)) {
        if (holder.startsWith("hold:")) dirty.add(holder.slice("hold:".length));
      }
    }
  }

  function observeClaim(claim: ClaimRecord): void {
    if (!fresh.accept(claim.uid, claim.resourceVersion)) return;
    const before = model.claim(claim.namespace, claim.name);
    model.upsertClaim(claim);
    if (claim.allocation === undefined) tellHolders(before?.allocation?.devices?.results);
    tellHolders(doubts.settle(claim.uid, claim.resourceVersion));
    for (const consumer of claim.reservedFor) {
      if (isGuard(consumer)) watchClaim(claim.namespace, claim.name, `${claim.namespace}/${consumer.name}`);
    }
    for (const key of gangsOfClaim.get(`${claim.namespace}/${claim.name}`) ?? []) tell(key, { type: "claim", claim });
    singles.observeClaim(claim);
    touch();
  }

  function observeClaimGone(claim: { namespace: string; name: string; uid: string }): void {
    fresh.forget(claim.uid);
    const before = model.claim(claim.namespace, claim.name);
    model.removeClaim(claim.uid);
    tellHolders(before?.allocation?.devices?.results);
    tellHolders(doubts.settle(claim.uid, undefined));
    const claimKey = `${claim.namespace}/${claim.name}`;
    const successor = model.claim(claim.namespace, claim.name);
    for (const key of gangsOfClaim.get(claimKey) ?? []) {
      if (!namesClaim(key, claim.name)) gangsOfClaim.get(claimKey)?.delete(key);
      tell(
        key,
        successor === undefined ? { type: "claimGone", name: claim.name } : { type: "claim", claim: successor },
      );
    }
    if (gangsOfClaim.get(claimKey)?.size === 0) gangsOfClaim.delete(claimKey);
    singles.observeClaimGone(claim);
    touch();
  }

  /** A claim that a member names may be created again under its name. */
  function namesClaim(key: string, claimName: string): boolean {
    const found = entries.get(key);
    const news = (found?.events ?? []).flatMap((event) => (event.type === "pod" ? [event.pod] : []));
    return [...(found?.state.pods.values() ?? []), ...news].some((pod) =>
      pod.claims.some((reference) => reference.claimName === claimName),
    );
  }

  function observeGang(gang: GangRecord): void {
    if (!fresh.accept(gang.uid, gang.resourceVersion)) return;
    const key = `${gang.namespace}/${gang.name}`;
    const before = entries.get(key)?.state.gang?.status.phase;
    tell(key, {
      type: "gang",
      gang: { ...gang, problems: problemsOf(gang) },
    });
    touchGroup(gang, gang.status.phase !== before);
  }

  function observeGangGone(gang: { namespace: string; name: string; uid: string }): void {
    fresh.forget(gang.uid);
    tell(`${gang.namespace}/${gang.name}`, { type: "gangGone", uid: gang.uid });
  }

  /** What one gang of a group does may be what the others wait for: that it is placed, above all. */
  function touchGroup(gang: GangRecord, moved: boolean): void {
    if (groups.size === 0) return;
    for (const other of entries.values()) {
      const sibling = other.state.gang;
      if (sibling === undefined || sibling.namespace !== gang.namespace) continue;
      if (groupNamed(other.state) === undefined) continue;
      if (moved && other.state.rejection !== undefined) tell(other.state.key, { type: "groupChanged" });
      else dirty.add(other.state.key);
    }
  }

  function groupNamed(state: GangState): PlacementGroupRecord | undefined {
    if (groups.size === 0 || state.gang === undefined) return undefined;
    const { namespace, spec } = state.gang;
    if (spec.placementGroup !== undefined) return groups.get(`${namespace}/${spec.placementGroup}`);
    return groupOf(
      state,
      [...groups.values()].filter((group) => group.namespace === namespace),
    );
  }

  function groupMembers(group: PlacementGroupRecord): GangState[] {
    return [...entries.values()].map((e) => e.state).filter((state) => roleIn(group, state) !== undefined);
  }

  /** The barrier of a PlacementGroup: its base set commits only when every gang that it needs is complete at it. */
  function groupReady(state: GangState): boolean {
    const group = groupNamed(state);
    if (group === undefined) return state.gang?.spec.placementGroup === undefined;
    const members = groupMembers(group).map((member) => (member.key === state.key ? state : member));
    return group.spec.members.every((role) => {
      const there = members.filter((member) => roleIn(group, member) === role.role && isAtBarrier(member));
      return there.length >= role.minInstances;
    });
  }

  function context(): Context {
    return {
      nowMs: ports.nowMs(),
      nowIso: ports.nowIso,
      capacityVersion: model.capacityVersion,
      nodeFits,
      devicesFree,
      groupReady,
      mayRelease,
    };
  }

  function mayRelease(state: GangState, pods: number): boolean {
    const group = groupNamed(state);
    const companions = group === undefined ? [] : groupMembers(group).map(({ key }) => key);
    return window.request(state.key, pods, companions, ports.nowMs());
  }

  /** After each decision: who is bound, revoked or gone makes room for others. */
  function trackRelease(state: GangState): void {
    window.occupy(state.key, releasedPods(state), ports.nowMs());
    if (state.gang?.status.phase !== "Reserved") window.withdraw(state.key);
  }

  function admitReleases(): void {
    const order = (a: string, b: string): number => {
      const [first, second] = [entries.get(a)?.state, entries.get(b)?.state];
      return first === undefined || second === undefined ? 0 : byQueueOrder(queued(first), queued(second));
    };
    for (const key of window.admit(order, ports.nowMs())) dirty.add(key);
  }

  function nodeFits(name: string): boolean {
    const node = model.node(name);
    return node?.ready === true && !node.unschedulable;
  }

  function devicesFree(state: GangState, placed: PlacedPod, pod: PodRecord): boolean {
    const own = new Set([`hold:${state.key}`]);
    for (const { claimName } of pod.claims) {
      const claim = claimName === undefined ? undefined : model.claim(pod.namespace, claimName);
      if (claim === undefined) continue;
      own.add(`claim:${claim.uid}`).add(`hold:${doubtKey(claim.uid)}`);
      // Whoever shares the claim shares its devices.
      for (const { uid } of claim.reservedFor) own.add(`pod:${uid}`);
    }
    return placed.claims.every((claim) =>
      claim.devices.every(({ driver, pool, device, shareID, adminAccess }) => {
        const holders = adminAccess === true ? [] : model.holdersOf(driver, pool, device, shareID);
        return holders.every((holder) => own.has(holder));
      }),
    );
  }

  function decideFor(key: string): void {
    const found = entries.get(key);
    if (found === undefined) return;
    const events = found.events;
    found.events = [];
    const result = step(found.state, events, context());
    found.state = result.state;
    holdInModel(found);
    for (const effect of result.effects) perform(found.state, effect);
    trackRelease(found.state);
    alarms.set(key, result.wakeAtMs);
    if (found.state.rejection === undefined) refused.delete(key);
    else refused.add(key);
    if (isForgettable(found.state) && found.events.length === 0) entries.delete(key);
  }

  function holdInModel(found: Entry): void {
    const held = heldPods(found.state);
    if (held === found.held || (held.length === 0 && (found.held ?? []).length === 0)) return;
    const { key } = found.state;
    if ((found.held ?? []).length > 0) doubts.releasing(key);
    found.held = held;
    holdPlaces(found.state, held);
  }

  function holdPlaces(state: GangState, pods: readonly PlacedPod[]): void {
    const { key } = state;
    heldPlaces.set(key, pods.length);
    model.hold(
      key,
      namespaceOf(key),
      pods.map((placed) => toHeldPod(state, placed)),
    );
  }

  function perform(state: GangState, effect: Effect): void {
    if (effect.type === "plan") wantsPlan.add(state.key);
    else if (effect.type === "answer") ports.answer(effect.call, effect.error);
    else if (effect.type === "planRefused") ports.planRefused(effect);
    else if (effect.type === "event") reportEvent(state, effect.reason, effect.note, effect.warning);
    else write(effect, state.key);
  }

  function reportEvent(state: GangState, reason: string, note: string, warning: boolean): void {
    const { gang } = state;
    if (gang === undefined) return;
    const { namespace, name, uid } = gang;
    ports.event({ kind: "Gang", namespace, name, uid }, { reason, note, warning });
  }

  /**
   * Plans gangs and single pods in queue order, in one batch: nothing of it is carried out before its end, so that
   * earlier ones can still make room for later ones.
   * @returns false when time was up before the queue was empty.
   */
  function planWaiting(): boolean {
    asked.clear();
    const startMs = ports.nowMs();
    const inTime = (): boolean => ports.nowMs() - startMs <= planningSliceMs;
    const gangs = [...wantsPlan].map((key) => entries.get(key)?.state).filter((state) => state !== undefined);
    for (const { key } of gangs) asked.add(key);
    const queue = [...gangs.map(queued), ...singles.waiting()].sort(byQueueOrder);
    // Most turns ask for no plan: they need no look at what the cluster's pods ask for either.
    if (queue.length === 0) return true;
    const decided = new Map<string, Placement>();
    const holds: BatchHolds = {
      take(gang, placement) {
        if (singles.take(gang, placement)) return;
        const key = `${gang.namespace}/${gang.name}`;
        decided.set(key, placement);
        doubts.releasing(key);
        holdForNow(key, [...withoutPlaces(gang.placed, placement.pods), ...placement.pods]);
      },
      giveBack(gang) {
        if (singles.giveBack(gang)) return;
        const key = `${gang.namespace}/${gang.name}`;
        decided.delete(key);
        holdForNow(key, entries.get(key)?.held ?? []);
      },
      inTime,
    };
    const batch = createBatch(model, holds, { workload: expectedWorkload(model) });
    const unmoved: string[] = [];
    let done = true;
    for (const each of queue) {
      if (!inTime()) {
        done = false;
        break;
      }
      if ("uid" in each) singles.planOne(each.uid, batch);
      else if (wantsPlan.has(each.key)) unmoved.push(...planOne(each.state, batch));
    }
    for (const key of new Set([...decided.keys(), ...unmoved])) acceptPlan(key, decided.get(key));
    return done;
  }

  function holdForNow(key: string, pods: readonly PlacedPod[]): void {
    const state = entries.get(key)?.state;
    if (state !== undefined) holdPlaces(state, pods);
  }

  /** @returns gangs that were planned; those that got nothing new keep what they have. */
  function planOne(state: GangState, batch: Batch): string[] {
    const group = groupNamed(state);
    const members = group === undefined ? [] : groupMembers(group);
    const answer = unitFor(state, group, members, readyAmong(members), nodeFits);
    wantsPlan.delete(state.key);
    if (state.gang === undefined) return [];
    if ("waiting" in answer) {
      refuse(state, "WaitingForPlacementGroup", answer.waiting);
      return [];
    }
    if (overLimit(answer.keys)) return [];
    const startMs = ports.nowMs();
    const result = batch.plan(answer.unit);
    const milliseconds = ports.nowMs() - startMs;
    for (const key of answer.keys) wantsPlan.delete(key);
    if ("plans" in result) {
      ports.planned("placed", milliseconds, result.explored, "");
      return answer.keys;
    }
    ports.planned("rejected", milliseconds, result.explored, result.rejections[0]?.reason ?? "");
    for (const key of answer.keys) refuseOne(key, result.rejections);
    return [];
  }

  /** Refuses the gangs of a unit if one of them is over a limit of this installation. */
  function overLimit(keys: readonly string[]): boolean {
    const states = keys.map((key) => entries.get(key)?.state).filter((state) => state !== undefined);
    const faults = limitFaults(states, heldPlaces, limits);
    if (faults.every((fault) => fault === undefined)) return false;
    for (const [i, state] of states.entries()) {
      wantsPlan.delete(state.key);
      const fault = faults[i] ?? {
        reason: "WaitingForPlacementGroup" as const,
        message: "another gang of the PlacementGroup is over a limit",
      };
      refuse(state, fault.reason, fault.message);
    }
    return true;
  }

  /** Whoever asked is answered, even if only others of its group are at fault: it asks for nothing until then. */
  function refuseOne(key: string, rejections: readonly Rejection[]): void {
    const rejection = rejections.find((each) => keyOf(each) === key);
    if (rejection !== undefined) {
      tell(key, { type: "rejected", rejection, capacityVersion: model.capacityVersion });
      return;
    }
    const names = rejections.map(({ gang }) => gang).join(", ");
    const message = `is placed together with ${names}, which cannot be placed now`;
    refuse(entry(key).state, "WaitingForPlacementGroup", message);
  }

  /**
   * Gangs of a group become complete one by one. Those that were refused, for want of the others or of room, are still
   * ready when their members are the same; they do not ask again by themselves. Also one that was refused a moment ago,
   * so that it keeps its turn.
   */
  function readyAmong(members: readonly GangState[]): ReadonlySet<string> {
    const refused = members.filter((member) => member.rejection?.members === memberKey(member));
    return new Set([...wantsPlan, ...asked, ...refused.map((member) => member.key)]);
  }

  /** Takes the devices in the model at once: the next plan of this turn sees them taken. */
  function acceptPlan(key: string, placement: Placement | undefined): void {
    const state = entries.get(key)?.state;
    if (placement !== undefined && placement.pods.length > 0) {
      const fault = state === undefined ? undefined : placementFault(state, placement);
      if (state !== undefined && fault !== undefined) {
        holdForNow(key, entries.get(key)?.held ?? []);
        refuse(state, fault.reason, fault.message);
        return;
      }
      tell(key, { type: "planned", placement });
      decideFor(key);
      return;
    }
    if (state !== undefined) refuse(state, "InsufficientDevices", "the members beyond minCount wait for room");
  }

  function refuse(state: GangState, reason: RejectionReason, message: string): void {
    const { namespace, name } = state.gang ?? { namespace: "", name: "" };
    const rejection = { gang: name, namespace, reason, message, blocking: [], counterfactuals: [] };
    tell(state.key, { type: "rejected", rejection, capacityVersion: model.capacityVersion });
  }

  function flush(): void {
    scheduledAtMs = Number.POSITIVE_INFINITY;
    if (!active) return;
    flushing = true;
    tellHolders(doubts.expire(ports.nowMs()));
    wakeRefused();
    for (const key of alarms.due(ports.nowMs())) dirty.add(key);
    // Decisions ask for plans and plans for decisions; each round needs news, so this ends.
    let inTime = true;
    do {
      const keys = [...dirty];
      dirty.clear();
      for (const key of keys) decideFor(key);
      const singlesInTime = singles.flush();
      if (dirty.size === 0) admitReleases();
      if (dirty.size === 0) inTime = planWaiting() && singlesInTime;
    } while ((dirty.size > 0 || singles.isDirty()) && inTime);
    flushing = false;
    if (inTime) scheduleNext();
    else touch();
  }

  /** Freed capacity is news for every gang that was refused. */
  function wakeRefused(): void {
    if (model.capacityVersion === seenCapacity) return;
    seenCapacity = model.capacityVersion;
    for (const key of refused) dirty.add(key);
    singles.wakeRefused();
  }

  function scheduleNext(): void {
    const nowMs = ports.nowMs();
    const next =
      model.capacityVersion !== seenCapacity || dirty.size > 0
        ? nowMs
        : Math.min(alarms.next(), singles.wakeAtMs(), window.nextMs(nowMs), doubts.next());
    if (next !== Number.POSITIVE_INFINITY) touch(Math.max(0, next - nowMs));
  }

  function written(
    effect: WriteEffect,
    owner: string,
    result: Omit<Written, "gang" | "pod" | "claim"> & { gang?: GangRecord; pod?: PodRecord; claim?: ClaimRecord },
  ): void {
    if (result.gang !== undefined) observeGang(result.gang);
    if (result.pod !== undefined) observePod(result.pod);
    if (result.claim !== undefined) observeClaim(result.claim);
    doubts.answered(effect, result.outcome, ports.nowMs());
    if (effect.type === "tellPod" && isTrouble(effect) && result.outcome.ok) {
      const { reason, message } = effect;
      ports.event({ kind: "Pod", ...effect.pod }, { reason, note: message, warning: true });
    }
    if (owner.startsWith(callOwner)) {
      const { outcome } = result;
      ports.answer(Number(owner.slice(callOwner.length)), outcome.ok ? undefined : outcome.message);
      return;
    }
    if (singles.written(effect, owner, result.outcome)) return;
    if (!entries.has(owner)) return;
    tell(owner, { type: "done", effect, outcome: result.outcome });
    if (effect.type !== "writeStatus" || !result.outcome.ok || effect.transition === "") return;
    const found = entries.get(owner)?.state;
    const phase = effect.status.phase;
    if (found === undefined || phase === "Reserved" || phase === "Binding") return;
    if (effect.transition === "Pending") return;
    const note =
      effect.status.explanation ?? effect.status.conditions?.find((c) => c.type === "Scheduled")?.message ?? "";
    reportEvent(found, `Gang${effect.transition}`, note, phase !== "Scheduled");
  }

  return {
    observeNode(node) {
      const before = model.node(node.name);
      model.upsertNode(node);
      if (before?.ready !== node.ready || before.unschedulable !== node.unschedulable) touchNode(node.name);
      touch();
    },
    observeNodeGone(name) {
      model.removeNode(name);
      touchNode(name);
      touch();
    },
    observePod,
    observePodGone,
    observeClaim,
    observeClaimGone,
    observeGang,
    observeGangGone,
    observeGroup(key, group) {
      if (group === undefined) groups.delete(key);
      else groups.set(key, group);
      for (const gangKey of entries.keys()) tell(gangKey, { type: "groupChanged" });
    },
    observeInventory() {
      for (const { state } of entries.values()) if (state.gang !== undefined) revalidate(state.gang);
      touch();
    },
    written,
    arrive(podUid, node, call) {
      const key = gangOfPod.get(podUid);
      if (key !== undefined) tell(key, { type: "arrived", podUid, node, call });
      return key ?? bindAlone(podUid, node, call);
    },
    leave(podUid, call) {
      const key = gangOfPod.get(podUid);
      if (key !== undefined) tell(key, { type: "left", podUid, call });
    },
    plannedNode(podUid) {
      const key = gangOfPod.get(podUid);
      const found = key === undefined ? undefined : entries.get(key)?.state;
      const pod = found?.pods.get(podUid);
      if (found === undefined || pod === undefined || found.proposal !== undefined) return undefined;
      return heldPods(found).find((placed) => placed.pod === pod.name)?.node;
    },
    gangOf: (podUid) => gangOfPod.get(podUid),
    goesAlone,
    state: (key) => entries.get(key)?.state,
    gangs() {
      const gangs = [...entries.values()].map(({ state }) => state.gang).filter((gang) => gang !== undefined);
      return new Map(gangs.map((gang) => [gang.uid, { ...gang, problems: [] }]));
    },
    distrust: fresh.reset,
    flush,
    activate() {
      active = true;
      for (const key of entries.keys()) dirty.add(key);
      singles.activate();
      touch();
    },
    stats() {
      let arrivals = 0;
      for (const { state } of entries.values()) arrivals += state.arrivals.size;
      const { pods: released, waiting: awaitingRelease } = window.stats(ports.nowMs());
      return { gangs: entries.size, arrivals, planning: wantsPlan.size, released, awaitingRelease };
    },
  };

  function goesAlone(podUid: string): boolean {
    return !gangOfPod.has(podUid) && model.pod(podUid)?.bindMarker === true;
  }

  /** A pod that was released from its gang: kube-scheduler has chosen its node, and waits for nobody. */
  function bindAlone(podUid: string, node: string, call: number): string | undefined {
    const pod = model.pod(podUid);
    if (pod === undefined || !goesAlone(podUid)) return undefined;
    const { namespace, name, uid } = pod;
    write({ type: "bind", id: `bind/${uid}`, pod: { namespace, name, uid }, node }, `${callOwner}${call}`);
    return `pod:${uid}`;
  }

  function problemsOf(gang: GangRecord): string[] {
    const fabric = model.view.fabric(gang.spec.topology);
    if (fabric !== undefined) return validateGang(gang.spec, fabric.spec);
    return [`spec.topology: there is no ClusterTopology ${gang.spec.topology}; create it or use "default"`];
  }

  function touchNode(name: string): void {
    for (const [key, { held }] of entries) if (held?.some((placed) => placed.node === name)) dirty.add(key);
  }

  function revalidate(gang: GangRecord): void {
    const problems = problemsOf(gang);
    if (problems.join() !== gang.problems.join()) {
      tell(`${gang.namespace}/${gang.name}`, { type: "gang", gang: { ...gang, problems } });
    }
  }
}

function isTrouble({ reason }: Extract<WriteEffect, { type: "tellPod" }>): boolean {
  return reason === "GangNotFound" || reason === "ClaimMissing";
}

interface Alarms {
  set(key: string, atMs: number | undefined): void;
  /** Keys whose time has come; they are forgotten. */
  due(nowMs: number): string[];
  /** No alarm is due before this time; it may be early, never late. */
  next(): number;
}

/** One alarm per gang. Most are moved long before they ring, so only the earliest is kept in order. */
function createAlarms(): Alarms {
  const times = new Map<string, number>();
  let earliestMs = Number.POSITIVE_INFINITY;
  return {
    set(key, atMs) {
      if (atMs === undefined) {
        times.delete(key);
        return;
      }
      times.set(key, atMs);
      earliestMs = Math.min(earliestMs, atMs);
    },
    due(nowMs) {
      if (nowMs < earliestMs) return [];
      const due: string[] = [];
      earliestMs = Number.POSITIVE_INFINITY;
      for (const [key, atMs] of times) {
        if (atMs <= nowMs) due.push(key);
        else earliestMs = Math.min(earliestMs, atMs);
      }
      for (const key of due) times.delete(key);
      return due;
    },
    next: () => earliestMs,
  };
}

function queued(state: GangState): Queued & { state: GangState } {
  const { key } = state;
  return { key, priority: priorityOf(state), createdAtMs: state.gang?.createdAtMs ?? 0, state };
}

function withoutPlaces(pods: readonly PlacedPod[], taken: readonly PlacedPod[]): PlacedPod[] {
  const slots = new Set(taken.map(({ podSet, index }) => slotKey(podSet, index)));
  return pods.filter(({ podSet, index }) => !slots.has(slotKey(podSet, index)));
}

function keyOf(subject: { namespace: string; gang: string }): string {
  return `${subject.namespace}/${subject.gang}`;
}

function isAtBarrier(state: GangState): boolean {
  const { phase, placement } = state.gang?.status ?? {};
  if (phase === "Binding" || phase === "Scheduled") return true;
  if (phase !== "Reserved") return false;
  const byName = new Map([...state.pods.values()].filter((pod) => !pod.deleting).map((pod) => [pod.name, pod]));
  return (placement?.pods ?? []).every((placed) => {
    const pod = byName.get(placed.pod);
    return pod !== undefined && (pod.nodeName !== undefined || state.arrivals.get(pod.uid)?.node === placed.node);
  });
}

function toHeldPod(state: GangState, placed: PlacedPod): HeldPod {
  for (const pod of state.pods.values()) {
    if (pod.name === placed.pod) return { placed, requests: pod.requests, podUid: pod.uid };
  }
  const nothing: Resources = {};
  return { placed, requests: nothing };
}
