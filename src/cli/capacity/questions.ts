import type { CapacityAnswer } from "../../api/capacity.ts";
import type { Rejection } from "../../api/placement.ts";
import type { Question } from "../../extender/capacity.ts";
import { groupOf, roleIn } from "../../extender/pending-plans.ts";
import { gangStates } from "../../gang/lifecycle/gang-states.ts";
import type { GangState } from "../../gang/lifecycle/state.ts";
import type { PodRecord } from "../../topology/records.ts";
import { orphanRejection } from "../placements.ts";
import type { PlanInput } from "../plan/input.ts";

export interface Questions {
  readonly questions: readonly Question[];
  /** What can be said without asking: objects that ask for something impossible. */
  readonly answers: readonly CapacityAnswer[];
  /** What is not asked about, and why. */
  readonly notes: readonly string[];
}

type Named = Pick<CapacityAnswer, "kind" | "namespace" | "name">;

interface Draft extends Named {
  readonly gangs: GangState[];
  readonly singles: PodRecord[];
}

/**
 * Takes an input apart into things that are placed whole: what one object of the input asks for, such as an LLMCluster,
 * a Gang with its pods or a StatefulSet; gangs of one PlacementGroup together.
 */
export function questionsOf(input: PlanInput): Questions {
  const { state, sources, refused } = input;
  const states = gangStates(state);
  const drafts = new Map<string, Draft>();
  const notes: string[] = [];
  const draftOf = ({ kind, namespace, name }: Named): Draft => {
    const key = `${kind} ${namespace}/${name}`;
    const draft = drafts.get(key) ?? { kind, namespace, name, gangs: [], singles: [] };
    drafts.set(key, draft);
    return draft;
  };
  for (const [key, gang] of states) {
    if (refused.has(key)) continue;
    const group = groupNamed(state.groups, gang);
    const title = group ? { ...group, kind: "PlacementGroup" } : sources.get(`Gang ${key}`)!;
    if (isPlaced(gang)) notes.push(`${titleOf(title)} is not asked about: Gang ${key} has a place already`);
    else draftOf(title).gangs.push(gang);
  }
  const orphans = new Map<string, CapacityAnswer>();
  for (const pod of state.pods) {
    const gang = `${pod.namespace}/${pod.gang}`;
    if (pod.nodeName !== undefined || pod.terminal || pod.deleting) continue;
    if (pod.gang === undefined) draftOf(sources.get(`Pod ${pod.namespace}/${pod.name}`)!).singles.push(pod);
    else if (!states.has(gang) && !refused.has(gang)) orphans.set(gang, refusal(orphanRejection(pod)));
  }
  return {
    questions: [...drafts.values()].map((draft) => questionOf(draft, input)),
    answers: [...[...refused.values()].map(refusal), ...orphans.values()],
    notes,
  };
}

function titleOf({ kind, namespace, name }: Named): string {
  return `${kind} ${namespace}/${name}`;
}

/** Members of it run, or hold places. */
function isPlaced({ gang, pods }: GangState): boolean {
  return gang?.status.placement !== undefined || [...pods.values()].some(({ nodeName }) => nodeName !== undefined);
}

function groupNamed(groups: PlanInput["state"]["groups"], state: GangState) {
  const named = state.gang?.spec.placementGroup;
  const near = groups.filter((group) => group.namespace === state.gang?.namespace);
  if (named === undefined) return groupOf(state, near);
  return near.find((group) => group.name === named && roleIn(group, state) !== undefined);
}

function questionOf({ gangs, singles, ...title }: Draft, { state }: PlanInput): Question {
  const pods = [...gangs.flatMap((gang) => [...gang.pods.values()]), ...singles];
  const named = new Set(
    pods.flatMap(({ namespace, claims }) => claims.map(({ claimName }) => `${namespace}/${claimName}`)),
  );
  return {
    ...title,
    gangs: gangs.map(({ gang }) => gang!),
    groups: state.groups,
    pods,
    claims: state.claims.filter(({ namespace, name }) => named.has(`${namespace}/${name}`)),
  };
}

function refusal(rejection: Rejection): CapacityAnswer {
  const { namespace, gang: name } = rejection;
  return { kind: "Gang", namespace, name, copies: 0, stoppedBy: "room", placements: [], rejections: [rejection] };
}
