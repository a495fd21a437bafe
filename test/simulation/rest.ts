import type { Gang } from "../../src/api/gang.ts";
import type { Node, Pod, ResourceClaim } from "../../src/api/kubernetes.ts";
import { gangLabel, podSetLabel, schedulingGroup } from "../../src/api/names.ts";
import { invariants, placedDevices, type Witness } from "./invariants.ts";
import { devicesOf, namespace } from "./parts.ts";
import { cpuOf, isOver, isReady } from "./scheduler.ts";
import { type GangSketch, nodeCpu, unitsOf } from "./sketch.ts";

/** What must be true once nothing moves any more and nothing fails. */
export function judgeRest(witness: Witness, gangs: readonly GangSketch[]): void {
  const { store } = witness;
  const pods = [...store.all("pods").values()] as unknown as Pod[];
  const claims = [...store.all("resourceclaims").values()] as unknown as ResourceClaim[];
  judgeLeaks(witness, pods, claims);
  const judged = new Map<string, GangAtRest>();
  for (const sketch of gangs) {
    const gang = store.get("gangs", `${namespace}/${sketch.name}`) as unknown as Gang | undefined;
    const members = pods.filter((pod) => pod.metadata.labels?.[gangLabel] === sketch.name);
    const atRest = judgeGangAtRest(witness, sketch, gang, members, claims);
    if (atRest !== undefined) judged.set(sketch.name, atRest);
  }
  judgeGroup(witness, judged, claims);
  for (const [name, atRest] of judged) judgeWaiting(witness, name, atRest, judged, claims);
}

/** A gang that is whole and may preempt does not wait beside gangs that may be preempted and leave it room enough. */
function judgeWaiting(
  witness: Witness,
  name: string,
  { phase, complete, lacking }: GangAtRest,
  all: ReadonlyMap<string, GangAtRest>,
  claims: readonly ResourceClaim[],
): void {
  const { gangs } = witness.sketch;
  const sketch = gangs.find((each) => each.name === name);
  if (sketch === undefined || phase !== "Pending" || !complete || sketch.neverPreempts === true) return;
  if (isRuled(sketch) || sketch.role !== undefined || sketch.leader) return;
  const lower = gangs.filter((each) => {
    const below = (each.priority ?? 0) < (sketch.priority ?? 0);
    return (
      below && each.minAvailable === undefined && each.role === undefined && all.get(each.name)?.phase === "Scheduled"
    );
  });
  const names = new Set(lower.map((each) => each.name));
  if (names.size > 0 && roomFor(witness, sketch, claims, names) >= lacking) {
    witness.fail(invariants.worth, `gang ${name} waits although ${[...names]} are of lower priority`);
  }
}

interface GangAtRest {
  phase: string;
  /** All members that it needs exist. */
  complete: boolean;
  /** Members that it needs and that are not bound. */
  lacking: number;
}

function judgeLeaks(witness: Witness, pods: readonly Pod[], claims: readonly ResourceClaim[]): void {
  const live = new Map(pods.map((pod) => [pod.metadata.uid, pod]));
  for (const claim of claims) {
    const { name, ownerReferences = [], deletionTimestamp } = claim.metadata;
    if (ownerReferences.length === 0) {
      if (claim.status?.allocation !== undefined)
        witness.fail(invariants.leak, `claim ${name} holds devices for nobody`);
      continue;
    }
    const owner = live.get(ownerReferences[0]?.uid ?? "");
    // A claim that somebody deletes stays for as long as its pod runs.
    if (deletionTimestamp !== undefined && owner?.spec.nodeName === undefined) {
      witness.fail(invariants.leak, `claim ${name} is being deleted for ever`);
    }
    if (owner === undefined) witness.fail(invariants.leak, `claim ${name} has lost its pod`);
    for (const { apiGroup, uid } of claim.status?.reservedFor ?? []) {
      if (apiGroup === schedulingGroup) witness.fail(invariants.leak, `a guard is left on claim ${name}`);
      else if (!live.has(uid)) witness.fail(invariants.leak, `claim ${name} is reserved for a pod that is gone`);
    }
    if (claim.status?.allocation !== undefined && owner?.spec.nodeName === undefined && owner !== undefined) {
      if (owner.metadata.labels?.[gangLabel] !== undefined) {
        witness.fail(
          invariants.whole,
          `claim ${name} of pod ${owner.metadata.name}, which is not bound, holds devices`,
        );
      }
    }
  }
}

/** @returns undefined for a gang that does not exist or is refused as invalid */
function judgeGangAtRest(
  witness: Witness,
  sketch: GangSketch,
  gang: Gang | undefined,
  members: readonly Pod[],
  claims: readonly ResourceClaim[],
): GangAtRest | undefined {
  const { name } = sketch;
  const unbound = members.filter((pod) => pod.spec.nodeName === undefined);
  if (gang === undefined || members.some((pod) => isBeyondCount(pod, sketch))) return undefined;
  const phase = gang.status?.phase ?? "Pending";
  const ranks = members.filter((pod) => pod.metadata.labels?.[podSetLabel] === "ranks");
  const lacking = sketch.minCount - ranks.filter((pod) => pod.spec.nodeName !== undefined).length;
  const complete = ranks.length >= sketch.minCount && (!sketch.leader || members.length > ranks.length);
  const atRest = { phase, complete, lacking };
  // Whether slices, or a rack that all of a group share, leave room is not to be seen by counting; and nobody is placed
  // in a group that does not exist, or of which a role has no gang.
  const counts = !isRuled(sketch) && (sketch.role === undefined || (baseStands(witness) && !sharesRack(witness)));
  if (phase === "Scheduled") {
    // Who lost its place while the gang lacks another member is planned together with that one.
    if (unbound.length > 0 && complete && counts && roomFor(witness, sketch, claims) >= unbound.length) {
      witness.fail(
        invariants.room,
        `scheduled gang ${name} rests with ${unbound.map((pod) => pod.metadata.name)} unbound beside room`,
      );
    }
  } else if (phase !== "Pending") {
    if (members.length > 0) witness.fail(invariants.rest, `gang ${name} rests in ${phase}`);
  } else if (complete && counts && sketch.role === undefined && roomFor(witness, sketch, claims) >= lacking) {
    const bound = members.length - unbound.length;
    witness.fail(
      invariants.room,
      `gang ${name} (${bound} bound) waits beside room for ${lacking} pods: ${gang.status?.explanation}`,
    );
  }
  return atRest;
}

/** Whether there is room for it is not to be seen by counting. */
function isRuled({ slice, colocate }: GangSketch): boolean {
  return slice > 1 || colocate !== undefined;
}

/** Somebody scaled the pods beyond what the Gang speaks of: it is refused as invalid until that is put right. */
function isBeyondCount(pod: Pod, sketch: GangSketch): boolean {
  const { [podSetLabel]: podSet, "apps.kubernetes.io/pod-index": index } = pod.metadata.labels ?? {};
  return Number(index) >= (podSet === "leader" ? 1 : sketch.pods);
}

/** What is free on one node, by counting devices and CPU only; places that Gangs hold count as taken. */
interface Free {
  gpus: number;
  /** Partitions; two of them are a GPU. */
  migs: number;
  /** Members. */
  cpu: number;
}

function freeNodes(
  { store, sketch }: Witness,
  claims: readonly ResourceClaim[],
  without: ReadonlySet<string> = new Set(),
): Free[] {
  const leaving = [...store.all("pods").values()].filter(({ metadata }) =>
    without.has(metadata.labels?.[gangLabel] ?? ""),
  );
  const uids = new Set(leaving.map(({ metadata }) => metadata.uid));
  const staying = claims.filter(({ metadata }) => !uids.has(metadata.ownerReferences?.[0]?.uid ?? ""));
  const taken = new Set(staying.flatMap(devicesOf).flatMap((device) => unitsOf(sketch, device)));
  const pods = [...store.all("pods").values()] as unknown as Pod[];
  for (const gang of store.all("gangs").values()) {
    const { status } = gang as unknown as Gang;
    if (without.has(gang.metadata.name)) continue;
    if (status?.phase === undefined || status.phase === "Pending") continue;
    for (const device of placedDevices(status.placement?.pods ?? []))
      for (const unit of unitsOf(sketch, device)) taken.add(unit);
  }
  const nodes = [...store.all("nodes").values()] as unknown as Node[];
  return nodes
    .filter((node) => node.spec?.unschedulable !== true && isReady(node))
    .map(({ metadata: { name } }) => {
      if (pods.some((pod) => pod.spec.nodeName === name && runsUnnamed(pod, claims)))
        return { gpus: 0, migs: 0, cpu: 0 };
      const gpus = Array.from({ length: sketch.devicesPerNode }, (_, index) => unitsOf(sketch, `${name}/gpu-${index}`));
      const used = pods
        .filter((pod) => pod.spec.nodeName === name && !isOver(pod))
        .reduce((sum, pod) => sum + cpuOf(pod), 0);
      return {
        gpus: gpus.filter((units) => !units.some((unit) => taken.has(unit))).length,
        migs: sketch.migNodes.has(name) ? gpus.flat().filter((unit) => !taken.has(unit)).length : 0,
        // A place that is held for a member takes CPU as well; be on the safe side.
        cpu: Math.floor((nodeCpu * 1_000 - used) / 2_000) - 4,
      };
    });
}

/** It runs with devices that its claims do not name any more: what is free on its node is nobody's. */
function runsUnnamed({ metadata, status }: Pod, claims: readonly ResourceClaim[]): boolean {
  if (status?.phase !== "Running") return false;
  return (status.resourceClaimStatuses ?? []).some(({ resourceClaimName }) => {
    const claim = claims.find((each) => each.metadata.name === resourceClaimName);
    return claim?.status?.allocation === undefined && metadata.deletionTimestamp === undefined;
  });
}

/** @returns whether there was room for one more member; what it takes is gone then. */
function take(nodes: readonly Free[], { kind, devices }: GangSketch): boolean {
  const node = nodes.find((free) => free.cpu > 0 && free[kind] >= devices);
  if (node === undefined) return false;
  node.cpu -= 1;
  // To be on the safe side a partition takes its GPU, and a GPU two partitions.
  node.gpus -= devices;
  node.migs -= kind === "gpus" ? 2 * devices : devices;
  return true;
}

/** How many pods of the gang fit. */
function roomFor(
  witness: Witness,
  sketch: GangSketch,
  claims: readonly ResourceClaim[],
  without?: ReadonlySet<string>,
): number {
  const nodes = freeNodes(witness, claims, without);
  let room = 0;
  while (take(nodes, sketch)) room += 1;
  return room;
}

function groupStands({ store, sketch: { group } }: Witness): boolean {
  return group !== undefined && store.get("placementgroups", `${namespace}/${group.name}`) !== undefined;
}

/** Members beyond `minCount` are placed only beside a base set. */
function baseStands(witness: Witness): boolean {
  const { store, sketch } = witness;
  const isThere = (name: string): boolean => {
    const gang = store.get("gangs", `${namespace}/${name}`) as unknown as Gang | undefined;
    return gang?.status?.phase === "Scheduled";
  };
  return (
    groupStands(witness) &&
    ["prefill", "decode"].every((role) => sketch.gangs.some((each) => each.role === role && isThere(each.name)))
  );
}

function sharesRack({ sketch: { group } }: Witness): boolean {
  return group?.rack === "required";
}

/** A group that is complete and fits, all of it at once, is placed. */
function judgeGroup(
  witness: Witness,
  members: ReadonlyMap<string, GangAtRest>,
  claims: readonly ResourceClaim[],
): void {
  const { sketch } = witness;
  if (!groupStands(witness) || sharesRack(witness)) return;
  const grouped = sketch.gangs.filter(({ role, name }) => role !== undefined && members.has(name));
  const isPending = ({ name }: GangSketch) => members.get(name)?.phase === "Pending";
  const complete = grouped.filter((gang) => !isPending(gang) || members.get(gang.name)?.complete === true);
  if (["prefill", "decode"].some((role) => !complete.some((gang) => gang.role === role))) return;
  const waiting = complete.filter(isPending);
  if (waiting.length === 0 || waiting.some(isRuled)) return;
  const nodes = freeNodes(witness, claims);
  const fits = waiting.every((gang) =>
    Array.from({ length: Math.max(0, members.get(gang.name)?.lacking ?? 0) }).every(() => take(nodes, gang)),
  );
  if (fits)
    witness.fail(invariants.room, `gangs ${waiting.map(({ name }) => name)} of a group wait beside room for all`);
}
