import type { PlacedPod } from "../api/placement.ts";
import { isBoundTo, membersOf } from "../gang/lifecycle/members.ts";
import { type GangState, heldPods } from "../gang/lifecycle/state.ts";
import { groupRules } from "../gang/prepare.ts";
import type { Rule } from "../gang/problem.ts";
import type { PlacementGroupRecord } from "../kube/project.ts";
import type { ClusterModel } from "../topology/model.ts";
import { byAge, roleIn } from "./pending-plans.ts";

/** A place of some gang of a group, on a node that exists. */
interface Seat {
  /** Position of the gang among those of the group, the oldest first. */
  readonly gang: number;
  readonly podSet: string;
  readonly index: number;
  readonly node: number;
  /** Lower counts more. */
  readonly rank: number;
}

/** Somebody runs there or is about to be bound; nobody does, and it is reserved; a member may return to it. */
const ranks = { settled: 0, reserved: 1, kept: 2 } as const;

/**
 * Places of a PlacementGroup may lie in several domains of a level of which its rules require one: a place where nobody
 * runs binds nobody while its node is gone or refuses pods, so others of the group are planned elsewhere, and then the
 * node is back. Whoever runs or is about to be bound stays, and the others have to come there; where nobody does, the
 * oldest gang that has places reserved rules, else the oldest that has any. Every other place is outlying.
 *
 * @param members gangs of the group
 * @returns whether a place of one of them is outlying
 */
export function outlyingPlaces(
  model: ClusterModel,
  group: PlacementGroupRecord,
  members: readonly GangState[],
): (own: GangState, place: PlacedPod) => boolean {
  const gangs = members.toSorted(byAge);
  const roles = gangs.map((member) => roleIn(group, member));
  const rules = groupRules(model, group.spec, roles).filter(({ kind, required }) => kind === "colocate" && required);
  if (rules.length === 0) return () => false;
  const seats = gangs.flatMap((member, gang) => seatsOf(model, member, gang));
  const ruling = rules.map((rule) => ({ rule, domains: rulingDomains(rule, seats) }));
  return (own, { podSet, index, node: name }) => {
    const gang = gangs.indexOf(own);
    const node = model.view.indexOf(name);
    if (node === undefined) return false;
    return ruling.some(({ rule, domains }) => {
      const domain = domainOf(rule, { gang, podSet, index, node });
      return domain !== undefined && domains.size > 0 && !domains.has(domain);
    });
  };
}

function rulingDomains(rule: Rule, seats: readonly Seat[]): ReadonlySet<number> {
  const known = seats.flatMap((seat) => {
    const domain = domainOf(rule, seat);
    return domain === undefined ? [] : [{ ...seat, domain }];
  });
  const [first] = known.toSorted((a, b) => a.rank - b.rank || a.gang - b.gang);
  const rules = known.filter(({ rank, gang }) => {
    return rank === first?.rank && (rank === ranks.settled || gang === first.gang);
  });
  return new Set(rules.map(({ domain }) => domain));
}

/** Undefined where the rule does not concern the seat, or no label tells its domain. */
function domainOf({ ref, setOf }: Rule, seat: Omit<Seat, "rank">): number | undefined {
  if (ref.kind !== "node" || setOf(seat) === undefined) return undefined;
  const domain = ref.level.domainOf[seat.node] ?? -1;
  return domain < 0 ? undefined : domain;
}

/** The places of a gang that count: those where nobody runs only on nodes that take pods. */
function seatsOf(model: ClusterModel, state: GangState, gang: number): Seat[] {
  if (state.gang === undefined) return [];
  const held = heldPods(state);
  const members = new Map(membersOf(state, state.gang, held));
  const unmanned = rankOf(state);
  return held.flatMap((place) => {
    const { podSet, index } = place;
    const node = model.view.indexOf(place.node);
    if (node === undefined) return [];
    const pod = members.get(place);
    if (pod !== undefined && (isBoundTo(state, pod, place.node) || state.inFlight.has(`bind/${pod.uid}`))) {
      return [{ gang, podSet, index, node, rank: ranks.settled }];
    }
    const { ready, unschedulable } = model.view.nodes[node]!.record;
    return ready && !unschedulable ? [{ gang, podSet, index, node, rank: unmanned }] : [];
  });
}

/** Of places where nobody runs. */
function rankOf({ gang, inFlight }: GangState): number {
  const phase = gang?.status.phase;
  const writing = inFlight.get("status");
  const commits = writing?.type === "writeStatus" && writing.transition === "Binding";
  if (phase === "Binding" || commits) return ranks.settled;
  return phase === "Scheduled" ? ranks.kept : ranks.reserved;
}
