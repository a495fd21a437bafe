import type { Gang } from "../../src/api/gang.ts";
import type { Node, Pod, ResourceClaim } from "../../src/api/kubernetes.ts";
import { gangLabel } from "../../src/api/names.ts";
import type { PlacedPod } from "../../src/api/placement.ts";
import { plannerAccount } from "../support/api-double/rules.ts";
import type { Commit, Store } from "../support/api-double/store.ts";
import { devicesOf, namespace, nodeOfClaim } from "./parts.ts";
import { isOver, isReady as isUp } from "./scheduler.ts";
import { rackOf, type Sketch, unitsOf } from "./sketch.ts";

/** What the watchers of a world may ask. */
export interface Witness {
  store: Store;
  sketch: Sketch;
  nowMs(): number;
  after(delayMs: number, happen: () => void): void;
  /** Nothing fails, and a planner leads. */
  calm(): boolean;
  /** pod UID → devices that it uses now. */
  prepared(): ReadonlyMap<string, readonly string[]>;
  /** Hears of every request when its process decides on it, long before it arrives. */
  onSent(hear: (request: { path: string; body?: unknown }) => void): void;
  /** Pods for which kube-scheduler ever called `bind`. */
  called(): ReadonlySet<string>;
  /** Objects that a user damaged on purpose: their pods may be bound without devices. */
  damaged(uid: string | undefined): boolean;
  fail(invariant: string, message: string): void;
}

export const invariants = {
  oneHolder: "no device is held twice",
  onPaper: "no Gang says that it holds what another holds",
  committed: "no member is bound before its gang is committed",
  atBarrier: "a gang is committed only when every member has arrived",
  baseSet: "a PlacementGroup starts with its base set, or not at all",
  soon: "a committed gang is bound whole within 5 s",
  current: "a commit rests on the Gang as it is",
  reserved: "a member is bound where its devices are",
  kept: "a bound pod keeps its devices",
  rules: "what is placed satisfies every required constraint",
  inTime: "a gang that was not committed in time holds nothing",
  answer: "an answer of success means bound",
  alive: "nothing crashes",
  rest: "everything comes to rest",
  whole: "at rest everything is whole or nothing",
  leak: "nothing is leaked",
  room: "nobody waits beside free room",
  lower: "only those of lower priority make room, once it is decided",
  worth: "nobody waits who could preempt",
  idle: "an idle cluster causes no writes",
} as const;

/** A planner whose watch died without a word learns only after so long that a Gang is gone, and binds its members. */
const straggleMs = 160_000;

const holding: ReadonlySet<string> = new Set(["Reserved", "Binding", "Scheduled"]);

/** Judges every commit. */
export function watchInvariants(witness: Witness): void {
  const { store } = witness;
  const holder = new Map<string, string>(); // unit -> claim
  const gangOf = new Map<string, string | undefined>(); // pod UID -> gang, also of pods that are gone
  const onPaper = new Map<string, string>(); // unit -> gang
  const deleted = new Map<string, number>(); // gang name -> when, if it held places
  const decided = new Map<string, number>(); // UID of who makes room -> highest priority of whom for
  const committed = new Map<string, { uid: string; endedAtMs?: number }>(); // gang name -> last commit
  const readyWhenSent = new Map<string, ReadonlySet<string>>(); // gang name -> gangs at the barrier when its commit was decided
  const unfit = new Map<string, number>(); // node -> when it was last seen gone, or refusing pods

  witness.onSent(noteCommit);
  store.onCommit((commit) => {
    if (commit.resource === "nodes") noteNode(commit);
    if (commit.resource === "pods" && commit.user === plannerAccount) judgeEviction(commit);
    if (commit.resource === "resourceclaims") judgeClaim(commit);
    else if (commit.resource === "gangs") judgeGang(commit);
    else if (commit.resource === "pods") judgePod(commit);
  });

  const unitsIn = (devices: readonly string[]) => devices.flatMap((device) => unitsOf(witness.sketch, device));

  function judgeClaim({ type, object, previous, user }: Commit): void {
    const now = type === "DELETED" ? [] : unitsIn(devicesOf(object as unknown as ResourceClaim));
    const before = previous === undefined ? [] : unitsIn(devicesOf(previous as unknown as ResourceClaim));
    const { name } = object.metadata;
    for (const unit of before) if (holder.get(unit) === name) holder.delete(unit);
    for (const unit of now) {
      const other = holder.get(unit);
      if (other !== undefined) witness.fail(invariants.oneHolder, `${unit} is held by claims ${other} and ${name}`);
      holder.set(unit, name);
    }
    const { reservedFor = [] } = (object as unknown as ResourceClaim).status ?? {};
    if (now.length > 0 && reservedFor.length === 0 && user === plannerAccount) {
      witness.fail(invariants.leak, `the planner leaves claim ${name} allocated and unused: nobody will deallocate it`);
    }
    if (now.length === 0 && before.length > 0 && type !== "DELETED" && user === plannerAccount) judgeClearing(object);
    if (now.length > 0 && before.length === 0) {
      judgeUse(object as unknown as ResourceClaim, new Set(now));
      judgePaper(object as unknown as ResourceClaim, now);
    }
  }

  /** A pod that the planner ends: of a gang that has given up its places, or fails whole, or named by a decision. */
  function judgeEviction({ object, previous }: Commit): void {
    const { metadata } = object as unknown as Pod;
    if (metadata.deletionTimestamp === undefined || previous?.metadata.deletionTimestamp !== undefined) return;
    if (decided.has(metadata.uid ?? "")) return;
    const name = metadata.labels?.[gangLabel];
    const phase = (store.get("gangs", `${namespace}/${name}`) as unknown as Gang | undefined)?.status?.phase;
    const since = (committed.get(name ?? "")?.endedAtMs ?? Number.NEGATIVE_INFINITY) + straggleMs;
    if (phase === "Preempted" || phase === "Binding" || witness.nowMs() <= since) return;
    witness.fail(invariants.lower, `pod ${metadata.name} is ended while its gang is ${phase}`);
  }

  function judgeClearing({ metadata: { name, ownerReferences = [] } }: Commit["object"]): void {
    const owner = podWith(ownerReferences[0]?.uid ?? "");
    if (owner?.spec.nodeName === undefined || isOver(owner) || witness.damaged(owner.metadata.uid)) return;
    if (owner.metadata.deletionTimestamp === undefined) {
      witness.fail(invariants.kept, `the planner empties claim ${name} of pod ${owner.metadata.name}, which is bound`);
    }
  }

  /** Places that Gangs hold are not for others. */
  function judgePaper(claim: ResourceClaim, units: readonly string[]): void {
    const gang = gangOf.get(claim.metadata.ownerReferences?.[0]?.uid ?? "");
    for (const unit of units) {
      const other = onPaper.get(unit);
      if (other === undefined || other === gang) continue;
      witness.fail(invariants.onPaper, `${unit} is given to claim ${claim.metadata.name}, and Gang ${other} holds it`);
    }
  }

  /** Also devices of pods that still run although their claim is gone or was emptied. */
  function judgeUse(claim: ResourceClaim, devices: ReadonlySet<string>): void {
    const owner = claim.metadata.ownerReferences?.[0]?.uid;
    for (const [uid, used] of witness.prepared()) {
      if (uid === owner || !unitsIn(used).some((unit) => devices.has(unit))) continue;
      const pod = podWith(uid);
      // Force-deleted: its kubelet ends it before it prepares anything else. Damaged before the API says that it runs:
      // nothing there tells that it uses devices.
      if (pod === undefined || (witness.damaged(uid) && pod.status?.phase !== "Running")) continue;
      witness.fail(
        invariants.oneHolder,
        `claim ${claim.metadata.name} takes devices that pod ${pod.metadata.name} still uses`,
      );
    }
  }

  function podWith(uid: string): Pod | undefined {
    return ([...store.all("pods").values()] as unknown as Pod[]).find((pod) => pod.metadata.uid === uid);
  }

  function judgeGang({ type, object, previous }: Commit): void {
    const gang = object as unknown as Gang & { metadata: { uid: string } };
    const { name, uid } = gang.metadata;
    const phase = gang.status?.phase ?? "Pending";
    const known = committed.get(name);
    write(gang, type === "DELETED" || !holding.has(phase) ? [] : (gang.status?.placement?.pods ?? []));
    if (type === "DELETED") {
      if (holding.has(phase)) deleted.set(name, witness.nowMs());
      if (known?.uid === uid) known.endedAtMs = witness.nowMs();
      return;
    }
    const before = (previous as unknown as Gang | undefined)?.status?.phase ?? "Pending";
    if (phase === "Binding" || phase === "Scheduled") committed.set(name, { uid });
    else if (known?.uid === uid) committed.delete(name);
    if (phase === "Preempting" && before !== "Preempting") noteDecision(gang);
    if (phase === "Preempted" && before !== "Preempted") judgePreempted(gang);
    if (phase === "Binding" && before !== "Binding") judgeCommit(gang);
    if (phase === "Reserved" && before !== "Reserved") {
      judgePlan(gang);
      watchDeadline(witness, gang);
    }
    if (holding.has(phase)) judgePlaces(gang, previous as unknown as Gang | undefined);
  }

  function noteDecision({ metadata: { name }, status }: Gang): void {
    const { priority = 0, neverPreempts } = witness.sketch.gangs.find((each) => each.name === name) ?? {};
    if (neverPreempts) witness.fail(invariants.lower, `gang ${name} preempts although it never may`);
    for (const { uid } of status?.preempting ?? []) decided.set(uid, Math.max(decided.get(uid) ?? 0, priority));
  }

  function judgePreempted({ metadata: { name, uid } }: Gang): void {
    const above = decided.get(uid ?? "");
    const { priority = 0 } = witness.sketch.gangs.find((each) => each.name === name) ?? {};
    if (above !== undefined && above > priority) return;
    witness.fail(invariants.lower, `gang ${name} of priority ${priority} is preempted, decided for ${above}`);
  }

  /** What the Gang says that it holds. */
  function write(gang: Gang, pods: readonly PlacedPod[]): void {
    const { name } = gang.metadata;
    for (const [unit, other] of onPaper) if (other === name) onPaper.delete(unit);
    for (const unit of unitsIn(placedDevices(pods))) {
      const other = onPaper.get(unit);
      if (other !== undefined && other !== name) {
        witness.fail(invariants.onPaper, `${unit} is held by Gang ${other} and written into Gang ${name}`);
      }
      onPaper.set(unit, name);
    }
  }

  /** Every role of its group has enough gangs that are committed or whole at the barrier. */
  function judgeBaseSet(gang: Gang): void {
    const { placementGroup } = gang.spec;
    if (placementGroup === undefined || store.get("placementgroups", `${namespace}/${placementGroup}`) === undefined)
      return;
    for (const role of ["prefill", "decode"] as const) {
      const sketches = witness.sketch.gangs.filter((each) => each.role === role);
      const before = readyWhenSent.get(gang.metadata.name);
      if (sketches.some(({ name }) => isReady(name) || before?.has(name) === true)) continue;
      witness.fail(invariants.baseSet, `gang ${gang.metadata.name} is committed without any gang of role ${role}`);
    }
  }

  /** Also one that was deleted a while ago: the planner's watch may be dead. */
  function isReady(name: string): boolean {
    if (witness.nowMs() - (deleted.get(name) ?? Number.NEGATIVE_INFINITY) <= straggleMs) return true;
    const gang = store.get("gangs", `${namespace}/${name}`) as unknown as Gang | undefined;
    const phase = gang?.status?.phase;
    if (phase === "Binding" || phase === "Scheduled") return true;
    return phase === "Reserved" && (gang?.status?.placement?.pods ?? []).every(({ pod }) => hasArrived(pod));
  }

  function hasArrived(name: string): boolean {
    const called = witness.called();
    return [...lastPods(name)].some((pod) => called.has(pod.metadata.uid ?? "") || pod.spec.nodeName !== undefined);
  }

  function judgeCommit(gang: Gang): void {
    judgeBaseSet(gang);
    judgeRack(gang, gang.status?.placement?.pods ?? []);
    watchBinding(witness, gang);
    const { name, generation } = gang.metadata;
    if (gang.status?.observedGeneration !== generation) {
      witness.fail(
        invariants.current,
        `gang ${name} is committed as of generation ${gang.status?.observedGeneration} in ${generation}`,
      );
    }
    for (const { pod: name } of gang.status?.placement?.pods ?? []) {
      if (!hasArrived(name))
        witness.fail(invariants.atBarrier, `gang ${gang.metadata.name} is committed without ${name} at the barrier`);
    }
  }

  /** The pod of that name and those before it. */
  function* lastPods(name: string): Iterable<Pod> {
    for (const commit of store.since("pods", 0)) {
      if (commit.object.metadata.name === name) yield commit.object as unknown as Pod;
    }
  }

  /**
   * Which gangs were at the barrier when the planner sent a commit. Gangs of a group are committed by one write each: what somebody does
   * to one while the other's is on its way no planner can know, nor take back.
   */
  function noteCommit({ path, body }: { path: string; body?: unknown }): void {
    if ((body as Gang | undefined)?.status?.phase !== "Binding") return;
    const name = /\/gangs\/([^/]+)\/status$/.exec(path)?.[1];
    if (name === undefined) return;
    const ready = witness.sketch.gangs.filter((each) => isReady(each.name));
    readyWhenSent.set(name, new Set(ready.map((each) => each.name)));
  }

  function noteNode({ type, object }: Commit): void {
    const refuses = (node: Node): boolean => !isUp(node) || node.spec?.unschedulable === true;
    const { name } = object.metadata;
    if (type === "DELETED" || refuses(object as unknown as Node)) unfit.set(name, Number.POSITIVE_INFINITY);
    else if (unfit.get(name) === Number.POSITIVE_INFINITY) unfit.set(name, witness.nowMs());
  }

  /** Also one that is back, as a planner whose watch died may not know. */
  function wasUnfit(node: string): boolean {
    return witness.nowMs() - (unfit.get(node) ?? Number.NEGATIVE_INFINITY) <= straggleMs;
  }

  /** Where other gangs of the group have places; undefined: there is no group that has to be in one rack. */
  function rackMates({ metadata: { name }, spec: { placementGroup } }: Gang): PlacedPod[] | undefined {
    if (placementGroup === undefined || witness.sketch.group?.rack !== "required") return undefined;
    if (store.get("placementgroups", `${namespace}/${placementGroup}`) === undefined) return undefined;
    const mates = ([...store.all("gangs").values()] as unknown as Gang[]).filter(
      (other) => other.spec.placementGroup === placementGroup && other.metadata.name !== name && holds(other),
    );
    return mates.flatMap(({ status }) => status?.placement?.pods ?? []);
  }

  /** Whatever was planned when: nobody is bound in another rack than those of its group that run. */
  function judgeRack(gang: Gang, places: readonly PlacedPod[]): void {
    const joining = new Set(places.map(({ pod }) => pod));
    const own = (gang.status?.placement?.pods ?? []).filter(({ pod }) => !joining.has(pod));
    const mates = rackMates(gang);
    if (mates === undefined) return;
    const racks = new Set([...own, ...mates].filter(isManned).map(({ node }) => rackOf(witness.sketch, node)));
    if (racks.size === 0) return;
    const stray = places.find(({ node }) => !racks.has(rackOf(witness.sketch, node)));
    if (stray === undefined) return;
    const { name } = gang.metadata;
    witness.fail(
      invariants.rules,
      `${stray.pod} of gang ${name} is to run on ${stray.node}, its group in ${[...racks]}`,
    );
  }

  function isManned({ pod: name, node }: PlacedPod): boolean {
    const pod = store.get("pods", `${namespace}/${name}`) as unknown as Pod | undefined;
    return pod?.spec.nodeName === node && pod.metadata.deletionTimestamp === undefined && !isOver(pod);
  }

  function judgePlan(gang: Gang): void {
    const pods = gang.status?.placement?.pods ?? [];
    const own = new Set<string>();
    for (const unit of unitsIn(placedDevices(pods))) {
      if (own.has(unit)) witness.fail(invariants.oneHolder, `gang ${gang.metadata.name} plans ${unit} twice`);
      own.add(unit);
    }
  }

  /** Places that are new in the Gang's status keep its rules and those of its group, beside those that it has. */
  function judgePlaces(gang: Gang, previous: Gang | undefined): void {
    const placeOf = ({ podSet, index, node }: PlacedPod): string => `${podSet}/${index} ${node}`;
    const old = new Set((holds(previous) ? (previous?.status?.placement?.pods ?? []) : []).map(placeOf));
    const pods = gang.status?.placement?.pods ?? [];
    const { name } = gang.metadata;
    // Of a Gang that was deleted and created again pods run where the one before was placed.
    const fresh = pods.filter((pod) => !old.has(placeOf(pod)) && !runsThere(pod));
    if (fresh.length === 0) return;
    const whole = (what: string, places: readonly PlacedPod[], domainOf: (node: string) => string): void => {
      const domains = new Set(places.map(({ node }) => domainOf(node)));
      if (domains.size > 1) witness.fail(invariants.rules, `${what} is planned for ${[...domains].sort()}`);
    };
    const rack = (node: string): string => rackOf(witness.sketch, node);
    for (const { podSet, index } of fresh) {
      for (const { size } of gang.spec.podSets.find((each) => each.name === podSet)?.slices ?? []) {
        const slice = (place: PlacedPod) => place.podSet === podSet && sameSlice(place.index, index, size);
        whole(`slice ${Math.floor(index / size)} of gang ${name}`, pods.filter(slice), rack);
      }
    }
    for (const { level } of gang.spec.constraints ?? []) {
      whole(`gang ${name}`, pods, level === "rack" ? rack : (node) => node);
    }
    const mates = rackMates(gang);
    if (mates === undefined) return;
    const manned = mates.filter(isManned);
    // A place where nobody runs binds nobody once its node is gone or refuses pods: it may stay so, and nobody can know in
    // which rack it comes back. Nor does it while others of the group run elsewhere. Whoever returns to it is judged then.
    const binding = manned.length > 0 ? manned : mates.filter(({ node }) => !wasUnfit(node));
    whole(`group ${gang.spec.placementGroup}`, [...pods, ...binding], rack);
  }

  function runsThere({ pod: name, node }: PlacedPod): boolean {
    return (store.get("pods", `${namespace}/${name}`) as unknown as Pod | undefined)?.spec.nodeName === node;
  }

  function judgePod({ type, object, previous }: Commit): void {
    const pod = object as unknown as Pod;
    const node = pod.spec.nodeName;
    if (type === "ADDED") gangOf.set(pod.metadata.uid ?? "", pod.metadata.labels?.[gangLabel]);
    if (
      type === "DELETED" ||
      node === undefined ||
      (previous as unknown as Pod | undefined)?.spec.nodeName !== undefined
    )
      return;
    const gang = pod.metadata.labels?.[gangLabel];
    if (gang !== undefined) judgeBinding(pod, gang);
    for (const { resourceClaimName } of pod.status?.resourceClaimStatuses ?? []) {
      const claim = store.get("resourceclaims", `${namespace}/${resourceClaimName}`) as unknown as
        | ResourceClaim
        | undefined;
      if (claim !== undefined && nodeOfClaim(claim) === node) continue;
      if (witness.damaged(pod.metadata.uid)) continue;
      witness.fail(
        invariants.reserved,
        `pod ${pod.metadata.name} is bound to ${node} and claim ${resourceClaimName} to ${claim === undefined ? "nothing" : nodeOfClaim(claim)}`,
      );
    }
  }

  function judgeBinding(pod: Pod, gang: string): void {
    const held = store.get("gangs", `${namespace}/${gang}`) as unknown as Gang | undefined;
    const place = held?.status?.placement?.pods.find((each) => each.pod === pod.metadata.name);
    // Also of members without claims, which nothing but the planner's word keeps to its node.
    if (holds(held) && place !== undefined && place.node !== pod.spec.nodeName) {
      witness.fail(
        invariants.rules,
        `pod ${pod.metadata.name} is bound to ${pod.spec.nodeName}, placed on ${place.node}`,
      );
    }
    if (held?.status?.phase === "Scheduled" && place !== undefined) judgeRack(held, [place]);
    const last = committed.get(gang);
    if (last !== undefined && witness.nowMs() - (last.endedAtMs ?? witness.nowMs()) <= straggleMs) return;
    const phase = (store.get("gangs", `${namespace}/${gang}`) as unknown as Gang | undefined)?.status?.phase;
    witness.fail(
      invariants.committed,
      `pod ${pod.metadata.name} is bound while its gang is ${phase ?? "not committed"}`,
    );
  }
}

function holds(gang: Gang | undefined): boolean {
  return holding.has(gang?.status?.phase ?? "Pending");
}

function sameSlice(a: number, b: number, size: number): boolean {
  return Math.floor(a / size) === Math.floor(b / size);
}

/** Devices of placed pods, as `pool/device`. */
export function placedDevices(pods: readonly PlacedPod[]): string[] {
  return pods.flatMap(({ claims }) =>
    claims.flatMap(({ devices }) => devices.map(({ pool, device }) => `${pool}/${device}`)),
  );
}

const bindingLimitMs = 5_000;
const lookEveryMs = 250;

/** The members that a gang was committed with are bound soon, unless somebody took them, their nodes or claims away. */
function watchBinding(witness: Witness, { metadata, status }: Gang): void {
  const { store } = witness;
  const members = (status?.placement?.pods ?? []).flatMap(({ pod: name, node }) => {
    const pod = store.get("pods", `${namespace}/${name}`) as unknown as Pod | undefined;
    return pod === undefined ? [] : [{ name, node, uid: pod.metadata.uid }];
  });
  let calmMs = 0;

  function isLate({ name, node, uid }: (typeof members)[number]): boolean {
    const pod = store.get("pods", `${namespace}/${name}`) as unknown as Pod | undefined;
    if (pod === undefined || pod.metadata.uid !== uid || pod.spec.nodeName !== undefined || witness.damaged(uid))
      return false;
    if (pod.metadata.deletionTimestamp !== undefined) return false;
    const host = store.get("nodes", node) as unknown as Node | undefined;
    return host !== undefined && isUp(host) && host.spec?.unschedulable !== true;
  }

  function look(): void {
    const gang = store.get("gangs", `${namespace}/${metadata.name}`) as unknown as Gang | undefined;
    const phase = gang?.status?.phase;
    if (gang?.metadata.uid !== metadata.uid || (phase !== "Binding" && phase !== "Scheduled")) return;
    const late = members.filter(isLate);
    if (late.length === 0) return;
    calmMs = witness.calm() ? calmMs + lookEveryMs : 0;
    if (calmMs <= bindingLimitMs) witness.after(lookEveryMs, look);
    else witness.fail(invariants.soon, `gang ${metadata.name} is committed, ${late.map(({ name }) => name)} unbound`);
  }

  witness.after(lookEveryMs, look);
}

const deadlineLookMs = 1_000;
/** Time to give everything back once the deadline has passed. */
const givingBackMs = 10_000;
/** What a gang has at least whose members kube-scheduler has tried before. */
const leastTimeMs = 15_000;
/** What bindings have at least. */
const finishMs = 10_000;

/** Once it is reserved a gang is committed and bound by its deadline, or has given everything back a little later. */
function watchDeadline(witness: Witness, { metadata, spec }: Gang): void {
  const { store } = witness;
  let fromMs = witness.nowMs();
  let lateMs = 0;
  const patience = Math.max(leastTimeMs, spec.scheduleTimeoutSeconds * 1_000) + finishMs;

  function look(): void {
    const gang = store.get("gangs", `${namespace}/${metadata.name}`) as unknown as Gang | undefined;
    const phase = gang?.status?.phase ?? "Pending";
    if (gang === undefined || gang.metadata.uid !== metadata.uid) return;
    if (gang.metadata.generation !== metadata.generation) return;
    if (gang.metadata.deletionTimestamp !== undefined || !["Reserved", "Binding", "Revoked"].includes(phase)) return;
    witness.after(deadlineLookMs, look);
    const members = ([...store.all("pods").values()] as unknown as Pod[]).filter(
      (pod) => pod.metadata.labels?.[gangLabel] === metadata.name,
    );
    // The time counts from the release, which may come late: others are released first. And who is deleted on a node that
    // is lost never goes.
    const isGated = members.some(({ spec: { schedulingGates = [] } }) => schedulingGates.length > 0);
    if (phase === "Reserved" && isGated) fromMs = witness.nowMs();
    if (witness.nowMs() < fromMs + patience || members.some(isStuck)) return;
    lateMs = witness.calm() ? lateMs + deadlineLookMs : 0;
    if (lateMs > givingBackMs) witness.fail(invariants.inTime, `gang ${metadata.name} is still ${phase}`);
  }

  function isStuck({ spec: { nodeName } }: Pod): boolean {
    if (nodeName === undefined) return false;
    const node = store.get("nodes", nodeName) as unknown as Node | undefined;
    return node === undefined || !isUp(node);
  }

  witness.after(deadlineLookMs, look);
}
