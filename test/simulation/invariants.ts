import type { Gang } from "../../src/api/gang.ts";
import type { Pod, ResourceClaim } from "../../src/api/kubernetes.ts";
import { gangLabel } from "../../src/api/names.ts";
import { plannerAccount } from "../support/api-double/rules.ts";
import type { Commit, Store } from "../support/api-double/store.ts";
import { devicesOf, namespace, nodeOfClaim } from "./parts.ts";
import { rackOf, type Sketch } from "./sketch.ts";

/** What the watchers of a world may ask. */
export interface Witness {
  store: Store;
  sketch: Sketch;
  nowMs(): number;
  /** pod UID → devices that it uses now. */
  prepared(): ReadonlyMap<string, readonly string[]>;
  /** Pods for which kube-scheduler ever called `bind`. */
  called(): ReadonlySet<string>;
  /** Objects that a user damaged on purpose: their pods may be bound without devices. */
  damaged(uid: string | undefined): boolean;
  fail(invariant: string, message: string): void;
}

export const invariants = {
  oneHolder: "no device is held twice",
  committed: "no member is bound before its gang is committed",
  atBarrier: "a gang is committed only when every member has arrived",
  current: "a commit rests on the Gang as it is",
  reserved: "a member is bound where its devices are",
  rules: "what is placed satisfies every required constraint",
  answer: "an answer of success means bound",
  alive: "nothing crashes",
  rest: "everything comes to rest",
  whole: "at rest everything is whole or nothing",
  leak: "nothing is leaked",
  room: "nobody waits beside free room",
  idle: "an idle cluster causes no writes",
} as const;

/** A planner whose watch died without a word learns only after so long that a Gang is gone, and binds its members. */
const straggleMs = 160_000;

/** Judges every commit. */
export function watchInvariants(witness: Witness): void {
  const { store } = witness;
  const holder = new Map<string, string>(); // device -> claim
  const committed = new Map<string, { uid: string; endedAtMs?: number }>(); // gang name -> last commit

  store.onCommit((commit) => {
    if (commit.resource === "resourceclaims") judgeClaim(commit);
    else if (commit.resource === "gangs") judgeGang(commit);
    else if (commit.resource === "pods") judgePod(commit);
  });

  function judgeClaim({ type, object, previous, user }: Commit): void {
    const now = type === "DELETED" ? [] : devicesOf(object as unknown as ResourceClaim);
    const before = previous === undefined ? [] : devicesOf(previous as unknown as ResourceClaim);
    const { name } = object.metadata;
    for (const device of before) if (holder.get(device) === name) holder.delete(device);
    for (const device of now) {
      const other = holder.get(device);
      if (other !== undefined) witness.fail(invariants.oneHolder, `${device} is held by claims ${other} and ${name}`);
      holder.set(device, name);
    }
    const { reservedFor = [] } = (object as unknown as ResourceClaim).status ?? {};
    if (now.length > 0 && reservedFor.length === 0 && user === plannerAccount) {
      witness.fail(invariants.leak, `the planner leaves claim ${name} allocated and unused: nobody will deallocate it`);
    }
    if (now.length > 0 && before.length === 0) judgeUse(object as unknown as ResourceClaim, new Set(now));
  }

  /** Also devices of pods that still run although their claim is gone or was emptied. */
  function judgeUse(claim: ResourceClaim, devices: ReadonlySet<string>): void {
    const owner = claim.metadata.ownerReferences?.[0]?.uid;
    for (const [uid, used] of witness.prepared()) {
      if (uid === owner || !used.some((device) => devices.has(device))) continue;
      const pod = podWith(uid);
      // Force-deleted: its kubelet ends it before it prepares anything else. Damaged: nothing in the API tells of its devices.
      if (pod === undefined || witness.damaged(uid)) continue;
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
    if (type === "DELETED") {
      if (known?.uid === uid) known.endedAtMs = witness.nowMs();
      return;
    }
    const before = (previous as unknown as Gang | undefined)?.status?.phase ?? "Pending";
    if (phase === "Binding" || phase === "Scheduled") committed.set(name, { uid });
    else if (known?.uid === uid) committed.delete(name);
    if (phase === "Binding" && before !== "Binding") judgeCommit(gang);
    if (phase === "Reserved" && before !== "Reserved") judgePlacement(gang);
  }

  function judgeCommit(gang: Gang): void {
    const { name, generation } = gang.metadata;
    if (gang.status?.observedGeneration !== generation) {
      witness.fail(
        invariants.current,
        `gang ${name} is committed as of generation ${gang.status?.observedGeneration} in ${generation}`,
      );
    }
    const called = witness.called();
    for (const { pod: name } of gang.status?.placement?.pods ?? []) {
      const arrived = [...lastPods(name)].some(
        (pod) => called.has(pod.metadata.uid ?? "") || pod.spec.nodeName !== undefined,
      );
      if (!arrived)
        witness.fail(invariants.atBarrier, `gang ${gang.metadata.name} is committed without ${name} at the barrier`);
    }
  }

  /** The pod of that name and those before it. */
  function* lastPods(name: string): Iterable<Pod> {
    for (const commit of store.since("pods", 0)) {
      if (commit.object.metadata.name === name) yield commit.object as unknown as Pod;
    }
  }

  function judgePlacement(gang: Gang): void {
    const pods = gang.status?.placement?.pods ?? [];
    const own = new Set<string>();
    for (const device of pods.flatMap((pod) => pod.claims.flatMap((claim) => claim.devices))) {
      const key = `${device.pool}/${device.device}`;
      if (own.has(key)) witness.fail(invariants.oneHolder, `gang ${gang.metadata.name} plans ${key} twice`);
      own.add(key);
    }
    for (const podSet of gang.spec.podSets) {
      for (const { size, level } of podSet.slices ?? []) {
        const racks = new Map<number, string>();
        for (const { index, node } of pods.filter((pod) => pod.podSet === podSet.name)) {
          const rack = rackOf(witness.sketch, node);
          const slice = Math.floor(index / size);
          if ((racks.get(slice) ?? rack) !== rack) {
            witness.fail(invariants.rules, `slice ${slice} of gang ${gang.metadata.name} spans more than one ${level}`);
          }
          racks.set(slice, rack);
        }
      }
    }
  }

  function judgePod({ type, object, previous }: Commit): void {
    const pod = object as unknown as Pod;
    const node = pod.spec.nodeName;
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
    const last = committed.get(gang);
    if (last !== undefined && witness.nowMs() - (last.endedAtMs ?? witness.nowMs()) <= straggleMs) return;
    const phase = (store.get("gangs", `${namespace}/${gang}`) as unknown as Gang | undefined)?.status?.phase;
    witness.fail(
      invariants.committed,
      `pod ${pod.metadata.name} is bound while its gang is ${phase ?? "not committed"}`,
    );
  }
}
