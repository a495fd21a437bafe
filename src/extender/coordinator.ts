import type { GangPhase } from "../api/gang.ts";
import { claimFinalizer } from "../api/names.ts";
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
  newGangState,
  type Outcome,
  releasedPods,
  waitsForRoom,
} from "../gang/lifecycle/state.ts";
import { observe, step } from "../gang/lifecycle/step.ts";
import { validateGang } from "../gang/members.ts";
import type { PlacementGroupRecord } from "../kube/project.ts";
import type { ClusterModel } from "../topology/model.ts";
import type { BudgetRecord, ClaimRecord, NodeRecord, PodRecord } from "../topology/records.ts";
import { createAlarms } from "./alarms.ts";
import { createClaimWatchers } from "./claim-watchers.ts";
import { devicesFree } from "./devices-free.ts";
import { createDoubts } from "./doubts.ts";
import type { WriteEffect, Written } from "./effects.ts";
import { createFreshness } from "./freshness.ts";
import { createGangGroups } from "./gang-groups.ts";
import { createGangHolds } from "./gang-holds.ts";
import { outlyingPlaces } from "./group-places.ts";
import { createHeldPlaces, defaultLimits, type HeldPlaces, type PlannerLimits } from "./limits.ts";
import { leavesRoom, leavesRoomForAll } from "./node-room.ts";
import { createOutlooks, type Outlooks } from "./outlooks.ts";
import { priorityOf } from "./pending-plans.ts";
import { createPlanQueue } from "./plan-queue.ts";
import type { CoordinatorPorts } from "./ports.ts";
import { createPreemptions } from "./preemptions.ts";
import { createRoomMaker } from "./room-maker.ts";
import { createSingles, type Singles } from "./singles.ts";
import { isSpoiled } from "./spoiled-places.ts";
import { createUnknownDevices } from "./unknown-devices.ts";

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
  /** A PodDisruptionBudget; undefined: it is gone. */
  observeBudget(key: string, budget: BudgetRecord | undefined): void;
  /** Device classes or slices changed in the model. */
  observeInventory(): void;
  /** A ClusterTopology changed in the model: Gangs may be right, or wrong, that were not. */
  observeTopology(): void;
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
  /** Holds what the gang's state says, whatever the ledger has for it. */
  rehold(key: string): void;
  /** Decides for everything that changed. Called once per turn of the event loop, and when a timer is due. */
  flush(): void;
  /** Starts deciding: before, the world is only watched. */
  activate(): void;
  stats(): {
    gangs: number;
    arrivals: number;
    planning: number;
    draining: number;
    released: number;
    awaitingRelease: number;
  };
}

interface Entry {
  state: GangState;
  events: LifecycleEvent[];
  /** The gang's phase when it last decided. */
  decided?: GangPhase | undefined;
}

/** Writes that answer one bind call belong to the call. */
const callOwner = "call:";

/** A replica that stands by takes in what is news so often. */
const standbyMs = 1_000;

/** Who is not bound so long after the release will hardly be bound by keeping others waiting. */
const releasePatienceMs = 30_000;

export function createCoordinator(
  model: ClusterModel,
  managedDrivers: ReadonlySet<string>,
  ports: CoordinatorPorts,
  limits: PlannerLimits = defaultLimits,
  preempts = true,
): Coordinator {
  const window: ReleaseWindow = createReleaseWindow(limits.releasedPods, releasePatienceMs);
  const heldPlaces: HeldPlaces = createHeldPlaces();
  const entries = new Map<string, Entry>();
  const groups = createGangGroups(
    () => [...entries.values()].map(({ state }) => state),
    (node, pods) => leavesRoomForAll(model, node, pods),
    (group, members) => outlyingPlaces(model, group, members),
  );
  const gangOfPod = new Map<string, string>();
  const keyOfGang = new Map<string, string>(); // by UID
  /** By UID, as observed: a replica that does not lead decides nothing, and so applies nothing to its states. */
  const observedGangs = new Map<string, GangRecord>();
  const budgets = new Map<string, BudgetRecord>();
  const gangsOfClaim = createClaimWatchers();
  const fresh = createFreshness();
  const doubts = createDoubts(model);
  const holds = createGangHolds(model, heldPlaces, doubts);
  const unknown = createUnknownDevices(model);
  const dirty = new Set<string>();
  /** Gangs that were refused, or lack room at their places: freed capacity is news for them. */
  const refused = new Set<string>();
  const alarms = createAlarms();
  /** Of the present decision. */
  let asksForRelease: string | undefined;
  let active = false;
  let flushing = false;
  let scheduledAtMs = Number.POSITIVE_INFINITY;
  let seenCapacity = -1;

  const singles: Singles = createSingles(
    model,
    { ...ports, write },
    () => touch(),
    (owner) => doubts.releasing(owner),
  );
  const stateOf = (key: string): GangState | undefined => entries.get(key)?.state;
  const stateWith = (uid: string): GangState | undefined => {
    const state = stateOf(keyOfGang.get(uid) ?? "");
    return state?.gang?.uid === uid ? state : undefined;
  };
  const preemptions = createPreemptions(model, stateWith);
  const makeRoom = createRoomMaker({
    model,
    groups,
    states: () => [...entries.values()].map(({ state }) => state),
    stateOf,
    budgets: () => [...budgets.values()],
    nowMs: ports.nowMs,
  });
  const queue = createPlanQueue({
    model,
    ports,
    limits,
    places: heldPlaces,
    holds,
    groups,
    singles,
    stateOf,
    nodeFits,
    makeRoom: preempts ? makeRoom : () => undefined,
    tell,
    refused: (unit) => outlooks.refused(unit),
    decide: decideFor,
  });
  const outlooks: Outlooks = createOutlooks({ model, nowMs: ports.nowMs, stateOf, tell, turn: queue.turn });

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
    if (flushing) return;
    const afterMs = active ? delayMs : standbyMs;
    const atMs = ports.nowMs() + afterMs;
    if (scheduledAtMs <= atMs) return;
    scheduledAtMs = atMs;
    ports.schedule(afterMs);
  }

  function watchClaim(namespace: string, name: string, key: string): void {
    if (!gangsOfClaim.add(`${namespace}/${name}`, key)) return;
    const claim = model.claim(namespace, name);
    if (claim !== undefined) tell(key, { type: "claim", claim });
  }

  function observePod(pod: PodRecord): void {
    const name = `pod ${pod.namespace}/${pod.name}`;
    if (pod.resourceVersion !== undefined && !fresh.accept(pod.uid, pod.resourceVersion, name)) return;
    const known = model.pod(pod.uid);
    // What it had it may have kept longer than its claim: nothing else tells those who wait for that.
    if (pod.terminal) lookAgain(model.holdersBeside(`pod:${pod.uid}`));
    model.upsertPod(pod);
    unknown.review(pod);
    const key = pod.gang === undefined ? undefined : `${pod.namespace}/${pod.gang}`;
    const before = gangOfPod.get(pod.uid);
    if (before !== undefined && before !== key) leaveGang(pod.uid, before);
    if (key === undefined) {
      singles.observePod(pod);
      if (known !== undefined && known.nodeName === undefined && pod.nodeName !== undefined) wakeAbove(pod.priority);
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
    lookAgain(model.holdersBeside(`pod:${uid}`));
    model.removePod(uid);
    unknown.forget(uid);
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
    for (const { driver, pool, device } of devices) lookAgain(model.holdersOf(driver, pool, device));
  }

  function lookAgain(holders: readonly string[]): void {
    for (const holder of holders) {
      if (!holder.startsWith("hold:")) continue;
      dirty.add(holder.slice("hold:".length));
      touch();
    }
  }

  function observeClaim(claim: ClaimRecord): void {
    if (!fresh.accept(claim.uid, claim.resourceVersion, `claim ${claim.namespace}/${claim.name}`)) return;
    const before = model.claim(claim.namespace, claim.name);
    model.upsertClaim(claim);
    unknown.reviewUsers(claim);
    if (claim.allocation === undefined) tellHolders(before?.allocation?.devices?.results);
    const bare = claim.allocation === undefined && claim.finalizers.includes(claimFinalizer);
    tellHolders(doubts.settle(claim.uid, claim.resourceVersion, bare));
    for (const consumer of claim.reservedFor) {
      if (isGuard(consumer)) watchClaim(claim.namespace, claim.name, `${claim.namespace}/${consumer.name}`);
    }
    for (const key of gangsOfClaim.of(`${claim.namespace}/${claim.name}`)) tell(key, { type: "claim", claim });
    singles.observeClaim(claim);
    touch();
  }

  function observeClaimGone(claim: { namespace: string; name: string; uid: string }): void {
    fresh.forget(claim.uid);
    const before = model.claim(claim.namespace, claim.name);
    model.removeClaim(claim.uid);
    if (before !== undefined) unknown.reviewUsers(before);
    tellHolders(before?.allocation?.devices?.results);
    tellHolders(doubts.settle(claim.uid, undefined));
    const claimKey = `${claim.namespace}/${claim.name}`;
    const successor = model.claim(claim.namespace, claim.name);
    for (const key of gangsOfClaim.of(claimKey)) {
      if (!namesClaim(key, claim.name)) gangsOfClaim.remove(claimKey, key);
      tell(
        key,
        successor === undefined ? { type: "claimGone", name: claim.name } : { type: "claim", claim: successor },
      );
    }
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
    const key = `${gang.namespace}/${gang.name}`;
    if (!fresh.accept(gang.uid, gang.resourceVersion, `gang ${key}`)) return;
    keyOfGang.set(gang.uid, key);
    observedGangs.set(gang.uid, gang);
    const before = entries.get(key)?.state.gang?.status.phase;
    tell(key, {
      type: "gang",
      gang: { ...gang, problems: problemsOf(gang) },
    });
    touchGroup(gang, gang.status.phase !== before);
  }

  function observeGangGone(gang: { namespace: string; name: string; uid: string }): void {
    fresh.forget(gang.uid);
    keyOfGang.delete(gang.uid);
    observedGangs.delete(gang.uid);
    tell(`${gang.namespace}/${gang.name}`, { type: "gangGone", uid: gang.uid });
  }

  /** What one gang of a group does may be what the others wait for: that it is placed, above all. */
  function touchGroup(gang: GangRecord, moved: boolean): void {
    if (groups.size === 0) return;
    for (const other of entries.values()) {
      const sibling = other.state.gang;
      if (sibling === undefined || sibling.namespace !== gang.namespace) continue;
      if (groups.of(other.state) === undefined) continue;
      if (moved && other.state.rejection !== undefined) tell(other.state.key, { type: "companionMoved" });
      else dirty.add(other.state.key);
    }
  }

  /** Gangs that belong to the PlacementGroup as it is known now. */
  function gangsOf(group: string): string[] {
    return [...entries.values()].flatMap(({ state }) => {
      const own = groups.of(state);
      return own !== undefined && `${own.namespace}/${own.name}` === group ? [state.key] : [];
    });
  }

  function context(): Context {
    return {
      nowMs: ports.nowMs(),
      nowIso: ports.nowIso,
      capacityVersion: model.capacityVersion,
      manages: (driver) => managedDrivers.has(driver),
      sharersOf: ({ namespace, name }) => model.sharersOf(namespace, name),
      nodeFits,
      leavesRoom: (node, pod) => leavesRoom(model, node, pod),
      leavesRoomForAll: (node, pods) => leavesRoomForAll(model, node, pods),
      devicesFree: (state, placed, pod) => devicesFree(model, state, placed, pod),
      isSpoiled: (placed, pod) => isSpoiled(model, placed, pod),
      groupReady: groups.isReady,
      outlying: groups.outlying,
      mayRelease,
      condemned: preemptions.condemned,
      leaving: preemptions.leaving,
    };
  }

  function mayRelease(state: GangState, pods: number): boolean {
    asksForRelease = state.key;
    const companions = groups.companions(state).map(({ key }) => key);
    return window.request(state.key, pods, companions, ports.nowMs());
  }

  /** After each decision: who is bound, revoked or gone makes room for others. */
  function trackRelease(state: GangState): void {
    window.occupy(state.key, releasedPods(state), ports.nowMs(), (state.gang?.status.attempts ?? 0) > 0);
    if (state.gang?.status.phase !== "Reserved" && asksForRelease !== state.key) window.withdraw(state.key);
  }

  function admitReleases(): void {
    // Not by age: who is let in, gives its places up and comes back would stand before those that waited meanwhile.
    const priority = (key: string): number => priorityOf(entry(key).state);
    for (const key of window.admit((a, b) => priority(b) - priority(a), ports.nowMs())) dirty.add(key);
  }

  function nodeFits(name: string): boolean {
    const node = model.node(name);
    return node?.ready === true && !node.unschedulable;
  }

  /** A gang that decides looks at the others of its group: what is news of these has to be known by then. */
  function takeIn(key: string): void {
    const found = entries.get(key);
    if (found === undefined || found.events.length === 0) return;
    found.state = observe(found.state, found.events, context());
    found.events = [];
  }

  /** Who stands by decides nothing; but it keeps what is, not all that was, for as long as it stands by. */
  function takeInAll(): void {
    for (const key of dirty) {
      takeIn(key);
      const state = stateOf(key);
      if (state !== undefined) holds.settle(state);
      forgetIfOver(key);
    }
    dirty.clear();
  }

  function decideFor(key: string): void {
    const found = entries.get(key);
    if (found === undefined) return;
    const events = found.events;
    found.events = [];
    const phase = found.decided;
    asksForRelease = undefined;
    const result = step(found.state, events, context());
    found.state = result.state;
    holds.settle(found.state);
    unknown.reviewGang(key);
    for (const effect of result.effects) perform(found.state, effect);
    trackRelease(found.state);
    found.decided = found.state.gang?.status.phase;
    trackPreemption(found.state, phase);
    alarms.set(key, result.wakeAtMs);
    if (waitsForRoom(found.state)) refused.add(key);
    else refused.delete(key);
    forgetIfOver(key);
  }

  function forgetIfOver(key: string): void {
    const found = entries.get(key);
    if (found === undefined || found.events.length > 0 || !isForgettable(found.state)) return;
    entries.delete(key);
    gangsOfClaim.forget(key);
  }

  /** Those that wait for others are told what these do, and those that could not preempt anybody who runs now. */
  function trackPreemption(state: GangState, before: GangPhase | undefined): void {
    for (const victim of preemptions.track(state)) dirty.add(victim);
    const phase = state.gang?.status.phase;
    if (phase === before) return;
    for (const waiting of preemptions.waiting()) dirty.add(waiting);
    if (phase === "Scheduled") wakeAbove(Math.max(...[...state.pods.values()].map(({ priority }) => priority)));
  }

  /** Refused gangs of higher priority may preempt now what they could not before. */
  function wakeAbove(priority: number): void {
    if (!preempts) return;
    for (const key of refused) {
      const state = entries.get(key)?.state;
      if (state !== undefined && priorityOf(state) > priority) tell(key, { type: "preemptionPossible" });
    }
  }

  function observeBudget(key: string, budget: BudgetRecord | undefined): void {
    const before = budgets.get(key);
    if (budget === undefined) budgets.delete(key);
    else budgets.set(key, budget);
    const allows = (each: BudgetRecord | undefined) => each?.disruptionsAllowed ?? Number.POSITIVE_INFINITY;
    if (allows(budget) > allows(before)) wakeAbove(Number.NEGATIVE_INFINITY);
    touch();
  }

  function perform(state: GangState, effect: Effect): void {
    if (effect.type === "plan") queue.ask(state.key);
    else if (effect.type === "answer") ports.answer(effect.call, effect.error);
    else if (effect.type === "planRefused") ports.planRefused(effect);
    else if (effect.type === "event" && effect.pod !== undefined) ports.event({ kind: "Pod", ...effect.pod }, effect);
    else if (effect.type === "event") reportEvent(state, effect.reason, effect.note, effect.warning);
    else write(effect, state.key);
  }

  function reportEvent(state: GangState, reason: string, note: string, warning: boolean): void {
    const { gang } = state;
    if (gang === undefined) return;
    const { namespace, name, uid } = gang;
    ports.event({ kind: "Gang", namespace, name, uid }, { reason, note, warning });
  }

  function flush(): void {
    scheduledAtMs = Number.POSITIVE_INFINITY;
    if (!active) {
      takeInAll();
      return;
    }
    flushing = true;
    tellHolders(doubts.expire(ports.nowMs()));
    wakeRefused();
    for (const key of preemptions.waiting()) dirty.add(key);
    for (const key of alarms.due(ports.nowMs())) dirty.add(key);
    // Decisions ask for plans and plans for decisions; each round needs news, so this ends.
    let inTime = true;
    do {
      const keys = [...dirty];
      dirty.clear();
      for (const key of keys) takeIn(key);
      for (const key of keys) decideFor(key);
      const singlesInTime = singles.flush();
      if (dirty.size === 0) admitReleases();
      if (dirty.size === 0) inTime = queue.planAll() && singlesInTime;
    } while ((dirty.size > 0 || singles.isDirty()) && inTime);
    if (inTime) outlooks.work();
    flushing = false;
    if (inTime) tellUnknown();
    if (inTime) scheduleNext();
    else touch();
  }

  /** Once all have decided: what gangs hold tells of their members' devices. */
  function tellUnknown(): void {
    for (const { pod, note } of unknown.news()) {
      ports.event({ kind: "Pod", ...pod }, { reason: "DevicesUnknown", note, warning: true });
    }
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
        : Math.min(
            alarms.next(),
            singles.wakeAtMs(),
            window.nextMs(nowMs),
            doubts.next(),
            queue.nextMs(),
            outlooks.nextMs(),
          );
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
    if (phase === "Preempting") ports.preempted(effect.status.preempting ?? []);
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
      const before = gangsOf(key);
      groups.set(key, group);
      for (const gangKey of new Set([...before, ...gangsOf(key)])) tell(gangKey, { type: "groupChanged" });
    },
    observeInventory: () => touch(),
    observeTopology() {
      for (const { state } of entries.values()) if (state.gang !== undefined) revalidate(state.gang);
      touch();
    },
    observeBudget,
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
      if (found.gang?.status.phase === "Preempting") return undefined;
      return heldPods(found).find((placed) => placed.pod === pod.name)?.node;
    },
    gangOf: (podUid) => gangOfPod.get(podUid),
    goesAlone,
    state: stateOf,
    gangs: () => observedGangs,
    distrust: fresh.reset,
    rehold(key) {
      const state = stateOf(key);
      if (state !== undefined) holds.renew(state);
      touch();
    },
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
      const { size: planning, draining } = queue;
      return { gangs: entries.size, arrivals, planning, draining, released, awaitingRelease };
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
    for (const key of holds.onNode(name)) dirty.add(key);
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
