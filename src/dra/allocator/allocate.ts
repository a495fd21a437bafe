import type { Consumption, NodeInventory, NodeUsage } from "../../topology/inventory.ts";
import { candidatesOf } from "./candidates.ts";
import type { CompiledClaim } from "./claim.ts";
import { type AllocationFailure, explainFailure, findShortage, unknownPools } from "./failure.ts";
import { budgetUsedUp, createSearch, type Search, type SearchOptions, solve } from "./search.ts";

export type { AllocationFailure } from "./failure.ts";

/** Devices per claim, parallel to the claims given; within a claim by request, then by device index. */
export interface DeviceChoice {
  readonly claims: readonly ClaimDevices[];
}

interface ClaimDevices {
  readonly devices: readonly ChosenDevice[];
}

export interface ChosenDevice {
  readonly request: string;
  readonly device: number;
  /** Administrator's access: the device is not held. */
  readonly admin?: true;
  /** Not the whole device but a share of it, which takes so much. */
  readonly share?: Consumption;
}

export interface AllocateOptions {
  /**
   * All devices of the call share the value of each attribute (fully qualified). `value` pins it, in the form of
   * `attributeValue`: the value that devices chosen before, here or on other nodes, have.
   */
  readonly together?: readonly { readonly attribute: string; readonly value?: string }[];
  /** Attributes that name islands, broad to narrow; devices of one request come from as few and as small ones as fit. */
  readonly islands?: readonly string[];
  /** Devices of this node that the same gang already has: where the fit is equally good, new ones come from their islands. */
  readonly near?: readonly number[];
  /** Device trials after which the search gives up with reason `BudgetExceeded`. */
  readonly budget?: number;
}

const defaultIslands = [
  "gpu.kllama.ai/nvlinkDomain",
  "resource.kubernetes.io/numaNode",
  "resource.kubernetes.io/pcieRoot",
];
const defaultBudget = 5_000;

/**
 * Chooses devices for all claims of one pod on one node. Complete up to the budget, deterministic; `usage` is not
 * touched. Quality is that of the first answer of an ordered depth-first search: whole GPUs from the smallest island
 * that holds them, partitions on GPUs already cut.
 */
export function allocateOnNode(
  inventory: NodeInventory,
  usage: NodeUsage,
  claims: readonly CompiledClaim[],
  options: AllocateOptions = {},
): DeviceChoice | AllocationFailure {
  const search = createSearch(inventory, usage, [{ claims, together: options.together ?? [] }], {
    islands: options.islands ?? defaultIslands,
    near: options.near ?? [],
    budget: options.budget ?? defaultBudget,
  });
  const failure = run(search);
  return failure ?? answer(search, claims);
}

/** One of several pods that are allocated together. */
export interface PodToAllocate {
  readonly claims: readonly CompiledClaim[];
  readonly options: Pick<AllocateOptions, "together" | "islands">;
}

/**
 * Chooses devices for all claims of several pods of one node at once, none of them with administrator's access. Finds
 * an answer where pods that choose one after the other take what the next one needs; complete up to the budget.
 * @returns per pod what it gets, and how many devices were tried
 */
export function allocateTogether(
  inventory: NodeInventory,
  usage: NodeUsage,
  pods: readonly PodToAllocate[],
  budget = defaultBudget,
): { readonly choices: readonly DeviceChoice[] | AllocationFailure; readonly trials: number } {
  const search = searchFor(inventory, usage, pods, { budget });
  const failure = run(search);
  return { choices: failure ?? choicesOf(search, pods), trials: search.trials };
}

/** The search that `allocateTogether` makes, with the wishes of a larger one. */
export function searchFor(
  inventory: NodeInventory,
  usage: NodeUsage,
  pods: readonly PodToAllocate[],
  wishes: Pick<SearchOptions, "budget" | "accept" | "apart">,
): Search {
  const claims = pods.map((pod) => ({ claims: pod.claims, together: pod.options.together ?? [] }));
  const islands = pods.find(({ options }) => options.islands)?.options.islands ?? defaultIslands;
  return createSearch(inventory, usage, claims, { ...wishes, islands, near: [] });
}

/** What each pod gets by the answer that stands in the search. */
export function choicesOf(search: Search, pods: readonly PodToAllocate[]): DeviceChoice[] {
  const all = answer(
    search,
    pods.flatMap((pod) => pod.claims),
  ).claims;
  let next = 0;
  return pods.map((pod) => {
    next += pod.claims.length;
    return { claims: all.slice(next - pod.claims.length, next) };
  });
}

/** Undefined: an answer is found, and stands in the search. */
function run(search: Search): AllocationFailure | undefined {
  try {
    const shortage = shortageBefore(search);
    if (shortage !== undefined) return shortage;
    if (solve(search, 0)) return undefined;
  } catch (thrown) {
    if (thrown === budgetUsedUp) return budgetFailure(search);
    throw thrown;
  }
  return explainFailure(search);
}

/** What no search is needed for. */
export function shortageBefore(search: Search): AllocationFailure | undefined {
  return unknownPools(search) ?? (search.steps.length > 1 ? findShortage(search) : undefined);
}

export function isAllocationFailure(value: object): value is AllocationFailure {
  return "reason" in value;
}

/**
 * Devices of the node that a request of the claim selects with any of its alternatives, whoever holds them: indices,
 * ascending.
 */
export function matchingDevices(inventory: NodeInventory, claim: CompiledClaim, request: number): readonly number[] {
  const alternatives = claim.requests[request]?.alternatives ?? [];
  const [only] = alternatives;
  if (alternatives.length === 1 && only !== undefined) return candidatesOf(inventory, claim, only).usable;
  const devices = new Set(alternatives.flatMap((alternative) => candidatesOf(inventory, claim, alternative).usable));
  return [...devices].sort((a, b) => a - b);
}

function answer({ steps, taken }: Search, claims: readonly CompiledClaim[]): DeviceChoice {
  const devices: ChosenDevice[][] = claims.map(() => []);
  const requestOf = (step: number): number => steps[step]!.request;
  const sorted = [...taken].sort((a, b) => requestOf(a.step) - requestOf(b.step) || a.device - b.device);
  for (const { step, choice, device } of sorted) {
    const { claim, choices } = steps[step]!;
    const { alternative, candidates } = choices[choice]!;
    const share = candidates.shares.get(device);
    const admin = alternative.adminAccess ? ({ admin: true } as const) : {};
    devices[claim]!.push({ request: alternative.name, device, ...admin, ...(share === undefined ? {} : { share }) });
  }
  return { claims: devices.map((list) => ({ devices: list })) };
}

function budgetFailure({ inventory, steps, budget }: Search): AllocationFailure {
  const needed = steps.reduce((sum, { choices }) => sum + choices[0]!.alternative.count, 0);
  return {
    reason: "BudgetExceeded",
    message: `node ${inventory.node}: no devices found within ${budget} trials; a larger budget may find some`,
    needed,
    available: 0,
    resource: steps[0]?.choices[0]?.alternative.className ?? "devices",
  };
}
