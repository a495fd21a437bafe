import type { ClusterTopologySpec, TopologyLevel } from "../api/cluster-topology.ts";
import type { GangConstraint, GangPodSet, GangSpec } from "../api/gang.ts";
import { podIndexLabels, podSetLabel } from "../api/names.ts";
import { type Blocking, lack, type PlacedPod, type RejectionReason } from "../api/placement.ts";
import type { ClusterModel } from "../topology/model.ts";
import { compareNatural } from "../topology/natural-order.ts";
import type { PodRecord } from "../topology/records.ts";
import { ownPods } from "./owners.ts";

/** Which live pod fills which slot of a gang. */
export interface MemberSlots {
  /** `podSet/index` → pod. */
  slots: Map<string, PodRecord>;
  /** Pod sets that lack pods for their `minCount`. */
  missing: { podSet: string; needed: number; present: number }[];
  /** Members that cannot be given a slot, each as a sentence with its remedy. */
  problems: string[];
  /** The same with their pods, and pods of others that carry the label, with which nothing is wrong for the gang. */
  leftOut: LeftOut[];
}

/** A pod with the gang's label that has no slot, and why. */
export interface LeftOut {
  readonly pod: PodRecord;
  readonly message: string;
}

export function slotKey(podSet: string, index: number): string {
  return `${podSet}/${index}`;
}

export function minCountOf(podSet: GangPodSet): number {
  return Math.min(podSet.minCount ?? podSet.count, podSet.count);
}

/**
 * Gives every live member its slot; whose pods are members says `ownPods`. A pod keeps the slot it has in `placed`; else
 * its index label says; pods without one fill free slots in natural order of their names, those first whose place is held.
 * Of rivals for a slot the one wins that has it, then one that runs, then the older one.
 */
export function assignSlots(spec: GangSpec, pods: readonly PodRecord[], placed: readonly PlacedPod[]): MemberSlots {
  const slots = new Map<string, PodRecord>();
  const faults: LeftOut[] = [];
  const strangers: LeftOut[] = [];
  const placedByName = new Map(placed.map((each) => [each.pod, each]));
  const { podsOf, homeless } = podSetsOf(spec, pods);
  for (const podSet of spec.podSets) {
    const slotOf = ({ name }: PodRecord): PlacedPod | undefined => {
      const held = placedByName.get(name);
      return held?.podSet === podSet.name ? held : undefined;
    };
    const claimOf = (pod: PodRecord): number => (slotOf(pod) !== undefined ? 2 : pod.nodeName !== undefined ? 1 : 0);
    const own = ownPods(podSet.name, minCountOf(podSet), podsOf.get(podSet.name) ?? [], (pod) => claimOf(pod) > 0);
    strangers.push(...own.strangers);
    const unnumbered: PodRecord[] = [];
    for (const pod of inOrderOfClaim(own.members, claimOf)) {
      const index = slotOf(pod)?.index ?? pod.index;
      if (index === undefined) {
        unnumbered.push(pod);
        continue;
      }
      const key = slotKey(podSet.name, index);
      const rival = slots.get(key);
      if (index >= podSet.count) faults.push({ pod, message: indexTooLarge(pod, index, podSet) });
      else if (rival === undefined) slots.set(key, pod);
      else {
        const [winner, loser] =
          claimOf(pod) === claimOf(rival) && pod.createdAtMs < rival.createdAtMs ? [pod, rival] : [rival, pod];
        slots.set(key, winner);
        faults.push({ pod: loser, message: duplicateIndex(loser, winner, index, podSet) });
      }
    }
    const free = unnumbered.length > 0 ? freeSlots(podSet, slots, placed) : [];
    for (const pod of unnumbered) {
      const index = free.shift();
      if (index === undefined) faults.push({ pod, message: noSlotLeft(pod, podSet) });
      else slots.set(slotKey(podSet.name, index), pod);
    }
  }
  faults.push(...homeless);
  const problems = faults.map(({ message }) => message);
  return { slots, problems, leftOut: [...faults, ...strangers], missing: missingMembers(spec, slots) };
}

/** Pod set → its pods, and pods of none. */
function podSetsOf(spec: GangSpec, pods: readonly PodRecord[]) {
  const podsOf = new Map<string, PodRecord[]>(spec.podSets.map(({ name }) => [name, []]));
  const homeless: LeftOut[] = [];
  for (const pod of pods) {
    const own = podsOf.get(pod.podSet ?? (spec.podSets.length === 1 ? spec.podSets[0]!.name : ""));
    if (own === undefined) homeless.push({ pod, message: unknownPodSet(pod, spec) });
    else own.push(pod);
  }
  return { podsOf, homeless };
}

/** Those with the better claim first; those alike in natural order of names. */
function inOrderOfClaim(pods: readonly PodRecord[], claimOf: (pod: PodRecord) => number): PodRecord[] {
  return pods.toSorted(
    (a, b) => claimOf(b) - claimOf(a) || compareNatural(a.name, b.name) || compareNatural(a.uid, b.uid),
  );
}

function freeSlots(podSet: GangPodSet, slots: ReadonlyMap<string, PodRecord>, placed: readonly PlacedPod[]): number[] {
  const held = new Set(placed.filter((each) => each.podSet === podSet.name).map((each) => each.index));
  const free = Array.from({ length: podSet.count }, (_, index) => index).filter(
    (index) => !slots.has(slotKey(podSet.name, index)),
  );
  return [...free.filter((index) => held.has(index)), ...free.filter((index) => !held.has(index))];
}

function missingMembers(spec: GangSpec, slots: ReadonlyMap<string, PodRecord>): MemberSlots["missing"] {
  const present = new Map<string, number>();
  for (const key of slots.keys()) {
    const podSet = key.slice(0, key.lastIndexOf("/"));
    present.set(podSet, (present.get(podSet) ?? 0) + 1);
  }
  return spec.podSets
    .map((each) => ({ podSet: each.name, needed: minCountOf(each), present: present.get(each.name) ?? 0 }))
    .filter(({ needed, present: count }) => count < needed);
}

function unknownPodSet(pod: PodRecord, spec: GangSpec): string {
  const names = spec.podSets.map((each) => each.name).join(", ");
  return pod.podSet === undefined
    ? `pod ${pod.name} has no label ${podSetLabel}; the gang has several pod sets, set it to one of ${names}`
    : `pod ${pod.name} has label ${podSetLabel}=${pod.podSet}, which the gang does not have; set it to one of ${names}`;
}

function indexTooLarge(pod: PodRecord, index: number, podSet: GangPodSet): string {
  return `pod ${pod.name} has index ${index}, but pod set ${podSet.name} has count ${podSet.count}; raise the count or remove the pod`;
}

function duplicateIndex(pod: PodRecord, other: PodRecord, index: number, podSet: GangPodSet): string {
  return `pods ${other.name} and ${pod.name} of pod set ${podSet.name} both have index ${index}; give each its own ${podIndexLabels[0]}`;
}

function noSlotLeft(pod: PodRecord, podSet: GangPodSet): string {
  return `pod ${pod.name} is more than the ${podSet.count} of pod set ${podSet.name}; raise the count or remove the pod`;
}

/** Has kube-controller-manager created every claim of the pod, and is none of them on its way out? */
export function claimsReady(pod: PodRecord, model: Pick<ClusterModel, "claim">): boolean {
  return pod.claims.every(
    ({ claimName }) => claimName !== undefined && model.claim(pod.namespace, claimName)?.deleting === false,
  );
}

/** As many of the problems as a reader takes in. */
export function problemsText(problems: readonly string[]): string {
  const more = problems.length - mostProblems;
  return [...problems.slice(0, mostProblems), ...(more > 0 ? [`and ${more} more`] : [])].join("; ");
}

const mostProblems = 8;

/** What such pods wait for, in words, and how many of their claims are there. */
export function lackingClaims(pods: readonly PodRecord[], model: Pick<ClusterModel, "claim">) {
  const all = pods.flatMap((pod) =>
    pod.claims.map((reference) => {
      const claim = reference.claimName === undefined ? undefined : model.claim(pod.namespace, reference.claimName);
      return { pod, ...reference, claim };
    }),
  );
  const lacking = all.filter(({ claim }) => claim?.deleting !== false);
  const { pod, name, claimName = name, templateName, claim } = lacking[0]!;
  const source =
    templateName === undefined ? "does not exist" : `was not made from ResourceClaimTemplate ${templateName} yet`;
  const text = `pod ${pod.name}: ResourceClaim ${claimName} ${claim === undefined ? source : "is being deleted"}`;
  return { text, blocking: lack("claims", all.length, all.length - lacking.length) };
}

/** One fault of a Gang, with the reason under which it is rejected. */
export interface GangFault {
  reason: Extract<RejectionReason, "InvalidGang" | "UnknownLevel" | "UnknownTopology">;
  message: string;
  /** What is not there; left out: the Gang has to be corrected. */
  blocking?: readonly Blocking[];
}

/** Faults of a Gang that no cluster can cure, each naming field, value and remedy; empty: none. */
export function validateGang(spec: GangSpec, topology: ClusterTopologySpec | undefined): string[] {
  return gangFaults(spec, topology).map(({ message }) => message);
}

/** As `validateGang`, with the reason of each. */
export function gangFaults(spec: GangSpec, topology: ClusterTopologySpec | undefined): GangFault[] {
  if (!topology) {
    const message = `spec.topology is ${spec.topology}, but there is no ClusterTopology of that name; create it or use default`;
    return [{ reason: "UnknownTopology", message, blocking: [lack(`ClusterTopology ${spec.topology}`)] }];
  }
  const { levels } = topology;
  const names = spec.podSets.map(({ name }) => name);
  const faults: GangFault[] = [];
  for (const [i, podSet] of spec.podSets.entries()) {
    if (names.indexOf(podSet.name) !== i) {
      faults.push(invalid(`spec.podSets[${i}].name ${podSet.name} is there twice; give every pod set its own name`));
    }
    faults.push(...podSetFaults(podSet, `spec.podSets[${i}]`, levels));
  }
  for (const [i, constraint] of (spec.constraints ?? []).entries()) {
    faults.push(...constraintFaults(constraint, `spec.constraints[${i}]`, levels));
    for (const name of constraint.podSets ?? []) {
      if (!names.includes(name)) {
        faults.push(invalid(`spec.constraints[${i}].podSets names ${name}; use one of ${names.join(", ")}`));
      }
    }
  }
  return faults;
}

function invalid(message: string): GangFault {
  return { reason: "InvalidGang", message };
}

function podSetFaults(podSet: GangPodSet, field: string, levels: readonly TopologyLevel[]): GangFault[] {
  const levelIndex = (name: string) => levels.findIndex((level) => level.name === name);
  const faults: GangFault[] = [];
  const { count, minCount } = podSet;
  if (minCount !== undefined && minCount > count) {
    faults.push(invalid(`${field}.minCount ${minCount} is more than count ${count}; set it to at most ${count}`));
  }
  let outer = { size: count, level: "" };
  for (const [i, slice] of (podSet.slices ?? []).entries()) {
    const at = `${field}.slices[${i}]`;
    const known = levelIndex(slice.level);
    if (known < 0) faults.push(unknownLevel(`${at}.level`, slice.level, levels));
    else if (known <= levelIndex(outer.level)) {
      faults.push(
        invalid(
          `${at}.level ${slice.level} is not narrower than ${outer.level} before it; list slices broad to narrow`,
        ),
      );
    }
    if (outer.size % slice.size !== 0) {
      const whole = i === 0 ? `count ${count}` : `the size ${outer.size} before it`;
      faults.push(invalid(`${at}.size ${slice.size} does not divide ${whole}; use a divisor of ${outer.size}`));
    }
    outer = slice;
  }
  return faults;
}

/** Faults that constraints of a Gang and of a PlacementGroup have in common. */
export function constraintFaults(
  constraint: Pick<GangConstraint, "type" | "level" | "maxSkew">,
  field: string,
  levels: readonly TopologyLevel[],
): GangFault[] {
  const faults: GangFault[] = [];
  const level = levels.find(({ name }) => name === constraint.level);
  if (!level) faults.push(unknownLevel(`${field}.level`, constraint.level, levels));
  if (level && !level.nodeLabels && constraint.type === "spread") {
    faults.push(invalid(`${field}.level ${level.name} is inside a host; spread over a level that has nodeLabels`));
  }
  if (constraint.type === "colocate" && constraint.maxSkew !== undefined) {
    faults.push(invalid(`${field}.maxSkew is for type spread; remove it or set type: spread`));
  }
  return faults;
}

function unknownLevel(field: string, level: string, levels: readonly TopologyLevel[]): GangFault {
  return {
    reason: "UnknownLevel",
    message: `${field} is ${level}, which the topology does not have; use one of ${levels.map(({ name }) => name).join(", ")}`,
  };
}
