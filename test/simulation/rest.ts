import type { Gang } from "../../src/api/gang.ts";
import type { Node, Pod, ResourceClaim } from "../../src/api/kubernetes.ts";
import { gangLabel, podSetLabel, schedulingGroup } from "../../src/api/names.ts";
import { invariants, type Witness } from "./invariants.ts";
import { devicesOf } from "./parts.ts";
import { cpuOf, isOver, isReady } from "./scheduler.ts";
import { type GangSketch, nodeCpu } from "./sketch.ts";

/** What must be true once nothing moves any more and nothing fails. */
export function judgeRest(witness: Witness, gangs: readonly GangSketch[]): void {
  const { store } = witness;
  const pods = [...store.all("pods").values()] as unknown as Pod[];
  const claims = [...store.all("resourceclaims").values()] as unknown as ResourceClaim[];
  judgeLeaks(witness, pods, claims);
  for (const sketch of gangs) {
    const gang = store.get("gangs", `team/${sketch.name}`) as unknown as Gang | undefined;
    const members = pods.filter((pod) => pod.metadata.labels?.[gangLabel] === sketch.name);
    judgeGangAtRest(witness, sketch, gang, members, claims);
  }
}

function judgeLeaks(witness: Witness, pods: readonly Pod[], claims: readonly ResourceClaim[]): void {
  const live = new Map(pods.map((pod) => [pod.metadata.uid, pod]));
  for (const claim of claims) {
    const { name, ownerReferences = [], deletionTimestamp } = claim.metadata;
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

function judgeGangAtRest(
  witness: Witness,
  sketch: GangSketch,
  gang: Gang | undefined,
  members: readonly Pod[],
  claims: readonly ResourceClaim[],
): void {
  const { name } = sketch;
  const unbound = members.filter((pod) => pod.spec.nodeName === undefined);
  if (gang === undefined || members.some((pod) => isBeyondCount(pod, sketch))) return;
  const phase = gang.status?.phase ?? "Pending";
  if (phase === "Scheduled") {
    if (unbound.length > 0 && sketch.slice === 1 && roomFor(witness, sketch, claims) >= unbound.length) {
      witness.fail(
        invariants.room,
        `scheduled gang ${name} rests with ${unbound.map((pod) => pod.metadata.name)} unbound beside room`,
      );
    }
    return;
  }
  if (phase !== "Pending") {
    if (members.length > 0) witness.fail(invariants.rest, `gang ${name} rests in ${phase}`);
    return;
  }
  const bound = members.length - unbound.length;
  const ranks = members.filter((pod) => pod.metadata.labels?.[podSetLabel] === "ranks");
  const lacking = sketch.minCount - ranks.filter((pod) => pod.spec.nodeName !== undefined).length;
  const complete = ranks.length >= sketch.minCount && (!sketch.leader || members.length > ranks.length);
  if (complete && sketch.slice === 1 && roomFor(witness, sketch, claims) >= lacking) {
    witness.fail(
      invariants.room,
      `gang ${name} (${bound} bound) waits beside room for ${lacking} pods: ${gang.status?.explanation}`,
    );
  }
}

/** Somebody scaled the pods beyond what the Gang speaks of: it is refused as invalid until that is put right. */
function isBeyondCount(pod: Pod, sketch: GangSketch): boolean {
  const { [podSetLabel]: podSet, "apps.kubernetes.io/pod-index": index } = pod.metadata.labels ?? {};
  return Number(index) >= (podSet === "leader" ? 1 : sketch.pods);
}

/** How many pods of the gang fit, by counting devices and CPU only; places that Gangs hold count as taken. */
function roomFor(witness: Witness, sketch: GangSketch, claims: readonly ResourceClaim[]): number {
  const { store } = witness;
  const taken = new Set(claims.flatMap(devicesOf));
  const pods = [...store.all("pods").values()] as unknown as Pod[];
  for (const gang of store.all("gangs").values()) {
    const { status } = gang as unknown as Gang;
    if (status?.phase === undefined || status.phase === "Pending") continue;
    for (const placed of status.placement?.pods ?? []) {
      for (const { pool, device } of placed.claims.flatMap((claim) => claim.devices)) taken.add(`${pool}/${device}`);
    }
  }
  let room = 0;
  for (const node of store.all("nodes").values() as Iterable<unknown>) {
    const { metadata, spec } = node as Node;
    if (spec?.unschedulable === true || !isReady(node as Node)) continue;
    const free =
      witness.sketch.devicesPerNode - [...taken].filter((each) => each.startsWith(`${metadata.name}/`)).length;
    const used = pods
      .filter((pod) => pod.spec.nodeName === metadata.name && !isOver(pod))
      .reduce((sum, pod) => sum + cpuOf(pod), 0);
    // A place that is held for a member takes CPU as well; be on the safe side.
    const cpu = Math.floor((nodeCpu * 1_000 - used) / 2_000) - 4;
    room += Math.max(0, Math.min(Math.floor(free / sketch.devices), cpu));
  }
  return room;
}
