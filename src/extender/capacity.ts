import type { CapacityAnswer } from "../api/capacity.ts";
import { type Placement, type Rejection, rejectionOf } from "../api/placement.ts";
import { type Batch, createBatch } from "../gang/batch.ts";
import { counterfactualsOf } from "../gang/counterfactuals.ts";
import { gangStates } from "../gang/lifecycle/gang-states.ts";
import type { GangRecord, GangState } from "../gang/lifecycle/state.ts";
import { assignSlots, problemsText } from "../gang/members.ts";
import type { GangRequest, PlanUnit } from "../gang/plan.ts";
import { expectedWorkload } from "../gang/workload.ts";
import type { PlacementGroupRecord } from "../kube/project.ts";
import type { ClusterModel } from "../topology/model.ts";
import type { ClaimRecord, PodRecord, Resources } from "../topology/records.ts";
import {
  byQueueOrder,
  groupOf,
  lonePod,
  priorityOf,
  type Queued,
  refusalOf,
  roleIn,
  unitFor,
  type Wait,
} from "./pending-plans.ts";

/** Something that is to be placed whole, and that does not exist yet: an LLMCluster's gang, a group's, single pods. */
export interface Question extends Pick<CapacityAnswer, "kind" | "namespace" | "name"> {
  readonly gangs: readonly GangRecord[];
  readonly groups: readonly PlacementGroupRecord[];
  readonly pods: readonly PodRecord[];
  readonly claims: readonly ClaimRecord[];
}

export interface CapacityLimits {
  /** Copies after which no more are tried. */
  readonly copies: number;
  /** Gangs of the question's namespace are called by name where they would make room; default: nobody is. */
  readonly names?: boolean;
  /** Search budget of each plan; default: the planner's own. */
  readonly budget?: number;
  /** False: no further plan is begun. */
  inTime(): boolean;
}

/** Why a copy has no place. */
interface Refusal {
  readonly stoppedBy: "room" | "budget" | "time";
  readonly rejections: readonly Rejection[];
}

/**
 * How often the question's work can be placed whole on what the model has free: planned by the planner itself, copy
 * after copy, until one has no place or a limit is reached. The model is as before when it returns: what is held
 * meanwhile is given back, and counts for nobody as freed.
 */
export function capacityOf(model: ClusterModel, question: Question, limits: CapacityLimits): CapacityAnswer {
  let answer: CapacityAnswer | undefined;
  model.attempt(() => {
    const trial = createTrial(model, question, limits);
    try {
      answer = placeCopies(trial, question, limits.copies);
    } finally {
      trial.end();
    }
    return undefined;
  });
  return answer!;
}

function placeCopies(trial: Trial, question: Question, limit: number): CapacityAnswer {
  const { kind, namespace, name } = question;
  const answer = { kind, namespace, name };
  const copies: Copy[] = [];
  const placements = () => copies.map((copy) => withoutSuffix(copy, trial.placementsOf(copy)).map(withoutClaimNames));
  while (copies.length < limit) {
    const copy = copyOf(question, copies.length + 1);
    const refusal = trial.place(copy);
    if (refusal !== undefined) {
      const rejections = withoutSuffix(copy, refusal.rejections.map(withRemedy));
      return {
        ...answer,
        copies: copies.length,
        stoppedBy: refusal.stoppedBy,
        placements: placements(),
        rejections: [...rejections],
      };
    }
    copies.push(copy);
  }
  return { ...answer, copies: copies.length, stoppedBy: "limit", placements: placements(), rejections: [] };
}

// ---- Copies: the same work in namespaces of their own --------------------------------------------------------------

interface Copy {
  /** Behind the namespace of everything in the copy: nothing of the cluster is there, and nothing there is told of. */
  readonly suffix: string;
  readonly states: ReadonlyMap<string, GangState>;
  readonly groups: readonly PlacementGroupRecord[];
  readonly pods: readonly PodRecord[];
  readonly claims: readonly ClaimRecord[];
}

function copyOf(question: Question, number: number): Copy {
  const suffix = ` (copy ${number})`;
  const apart = <T extends { namespace: string }>(record: T): T => ({
    ...record,
    namespace: record.namespace + suffix,
  });
  const unlike = <T extends { uid: string }>(record: T): T => ({ ...record, uid: record.uid + suffix });
  const [gangs, pods, claims] = [question.gangs.map(apart), question.pods.map(apart), question.claims.map(apart)];
  const copy = { gangs: gangs.map(unlike), pods: pods.map(unlike), claims: claims.map(unlike) };
  return { ...copy, suffix, groups: question.groups.map(apart), states: gangStates(copy) };
}

/** Answers are plain JSON. */
function withoutSuffix<T>({ suffix }: Copy, answer: T): T {
  return JSON.parse(JSON.stringify(answer).replaceAll(suffix, "")) as T;
}

/** No claim exists yet: it goes by its name in the pod, as `kllama plan` has it. */
function withoutClaimNames(placement: Placement): Placement {
  const pods = placement.pods.map((pod) => ({
    ...pod,
    claims: pod.claims.map((claim) => ({ ...claim, claim: claim.reference })),
  }));
  return { ...placement, pods };
}

function withRemedy(rejection: Rejection): Rejection {
  if (rejection.reason !== "WaitingForMembers") return rejection;
  const remedy = "give its pods and their claim templates as well, or the StatefulSet or LLMCluster that makes them";
  return { ...rejection, message: `${rejection.message}; ${remedy}` };
}

// ---- The trial: what copies hold -----------------------------------------------------------------------------------

interface Trial {
  /** Places a copy beside those before. What it got before it failed stays held. @returns undefined: it has its place. */
  place(copy: Copy): Refusal | undefined;
  placementsOf(copy: Copy): Placement[];
  /** Gives everything back. */
  end(): void;
}

type Waiting = Queued & ({ readonly state: GangState } | { readonly pod: PodRecord });

function createTrial(model: ClusterModel, question: Question, { names, budget, inTime }: CapacityLimits): Trial {
  const claims = new Map<string, ClaimRecord>();
  const sharers = new Map<string, PodRecord[]>();
  const states = new Map<string, GangState>();
  const requests = new Map<string, Resources>();
  const placed = new Map<string, Placement>();
  const holdKey = (gang: string) => `capacity of ${gang}`;

  const seenBy = (each: ClusterModel): ClusterModel => withWork(each, claims, sharers);
  const named = new Set(names === true ? [question.namespace] : []);
  const batch: Batch = createBatch(
    seenBy(model),
    {
      take(gang, placement) {
        const key = keyOf(gang);
        const state = states.get(key);
        if (state !== undefined) {
          const { pods, domains, cost } = placement;
          state.proposal = { pods, domains, costMs: cost.totalMs };
        }
        placed.set(key, placement);
        const pods = placement.pods.map((pod) => ({
          placed: pod,
          requests: requests.get(`${gang.namespace}/${pod.pod}`) ?? {},
        }));
        model.hold(holdKey(key), gang.namespace, pods);
      },
      giveBack(gang) {
        const key = keyOf(gang);
        delete states.get(key)?.proposal;
        placed.delete(key);
        model.release(holdKey(key));
      },
      inTime,
    },
    // The planner's own idea of what is to come: it would place the copies just so.
    { workload: expectedWorkload(model), ...(budget === undefined ? {} : { budget }) },
  );

  function enter(copy: Copy): void {
    for (const claim of copy.claims) claims.set(keyOf(claim), claim);
    for (const [key, state] of copy.states) states.set(key, state);
    for (const pod of copy.pods) {
      requests.set(keyOf(pod), pod.requests);
      for (const { claimName, templateName } of pod.claims) {
        if (claimName === undefined || templateName !== undefined) continue;
        const key = `${pod.namespace}/${claimName}`;
        sharers.set(key, [...(sharers.get(key) ?? []), pod]);
      }
    }
  }

  const nodeFits = (name: string): boolean => {
    const node = model.node(name);
    return node?.ready === true && !node.unschedulable;
  };

  /** What is planned together with it, or why it has to wait for others of the copy. */
  function unitOf(each: Waiting, copy: Copy): { unit: PlanUnit } | Wait {
    if ("pod" in each) return { unit: { gangs: [lonePod(each.pod)] } };
    const group = groupNamed(copy, each.state);
    const all = [...copy.states.values()];
    const members = group === undefined ? [] : all.filter((state) => roleIn(group, state) !== undefined);
    return unitFor(each.state, group, members, new Set(members.map(({ key }) => key)), nodeFits);
  }

  /** @returns "later": others of the copy have to be placed first. */
  function placeOne(each: Waiting, copy: Copy): Refusal | "later" | undefined {
    if ("state" in each && each.state.proposal !== undefined) return undefined;
    if (!inTime()) return { stoppedBy: "time", rejections: [] };
    const answer = unitOf(each, copy);
    if ("waiting" in answer) return "later";
    const { unit } = answer;
    const result = batch.plan(unit);
    if (!("rejections" in result)) return undefined;
    const stoppedBy = result.budgetExceeded ? "budget" : "room";
    // Nobody asks what would make room for one more, and what others of the same copy have is nobody else's to leave.
    if (placed.size > 0) return { stoppedBy, rejections: result.rejections };
    const counterfactuals = [...counterfactualsOf(model, unit, { named, seenBy }, inTime)];
    return { stoppedBy, rejections: result.rejections.map((each) => ({ ...each, counterfactuals })) };
  }

  function place(copy: Copy): Refusal | undefined {
    enter(copy);
    for (let left = queueOf(copy); left.length > 0; ) {
      const later: Waiting[] = [];
      for (const each of left) {
        const outcome = placeOne(each, copy);
        if (outcome === "later") later.push(each);
        else if (outcome !== undefined) return outcome;
      }
      if (later.length === left.length) return stuck(later, (each) => unitOf(each, copy));
      left = later;
    }
    return undefined;
  }

  return {
    place(copy) {
      const faults = faultsOf(copy);
      return faults.length > 0 ? { stoppedBy: "room", rejections: faults } : place(copy);
    },
    placementsOf: (copy) => queueOf(copy).flatMap(({ key }) => placed.get(key) ?? []),
    end() {
      for (const key of placed.keys()) model.release(holdKey(key));
    },
  };
}

/** The model with claims that exist nowhere yet, in place of those that do: a question is about its own work alone. */
function withWork(
  model: ClusterModel,
  claims: ReadonlyMap<string, ClaimRecord>,
  sharers: ReadonlyMap<string, readonly PodRecord[]>,
): ClusterModel {
  const work: Pick<ClusterModel, "claim" | "sharersOf"> = {
    claim: (namespace, name) => claims.get(`${namespace}/${name}`),
    sharersOf: (namespace, name) => sharers.get(`${namespace}/${name}`) ?? [],
  };
  return Object.assign(Object.create(model) as ClusterModel, work);
}

function queueOf({ states, pods }: Copy): Waiting[] {
  const gangs = [...states.values()].map((state) => ({
    state,
    key: state.key,
    priority: priorityOf(state),
    createdAtMs: state.gang!.createdAtMs,
  }));
  const singles = pods.filter(({ gang }) => gang === undefined);
  return [...gangs, ...singles.map((pod) => ({ ...queuedPod(pod), pod }))].sort(byQueueOrder);
}

function queuedPod(pod: PodRecord): Queued {
  return { key: keyOf(pod), priority: pod.priority, createdAtMs: pod.createdAtMs };
}

function groupNamed({ groups }: Copy, state: GangState): PlacementGroupRecord | undefined {
  const { namespace, spec } = state.gang!;
  const near = groups.filter((group) => group.namespace === namespace);
  return spec.placementGroup === undefined
    ? groupOf(state, near)
    : near.find(({ name }) => name === spec.placementGroup);
}

/** Members that no plan could give a slot. */
function faultsOf({ states }: Copy): Rejection[] {
  return [...states.values()].flatMap((state) => {
    const { problems } = assignSlots(state.gang!.spec, [...state.pods.values()], []);
    return problems.length === 0
      ? []
      : [rejectionOf(state.gang!, { reason: "InvalidGang", message: problemsText(problems) })];
  });
}

/** What waits for its group waits in vain once nobody joins it any more. */
function stuck(later: readonly Waiting[], unitOf: (each: Waiting) => { unit: PlanUnit } | Wait): Refusal {
  const rejections = later.flatMap((each) => {
    const answer = unitOf(each);
    if (!("state" in each) || !("waiting" in answer)) return [];
    return [rejectionOf(each.state.gang!, refusalOf(answer))];
  });
  return { stoppedBy: "room", rejections };
}

function keyOf({ namespace, name }: Pick<GangRequest, "namespace" | "name">): string {
  return `${namespace}/${name}`;
}
