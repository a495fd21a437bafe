import type { ResourceClaim } from "../../../src/api/kubernetes.ts";
import { classes, someClaims } from "./claims.ts";
import type { AllocationQuestion } from "./judge.ts";
import { allocateOurs, type OurAnswer } from "./ours.ts";
import { nodeLabels, nodeName, someRules, someSlices } from "./pools.ts";
import { createRandom } from "./random.ts";

/** One round: what was asked, what kllama answered, and the same narrowed to kllama's own choice. */
export interface Round {
  readonly seed: number;
  readonly question: AllocationQuestion;
  readonly ours: OurAnswer;
  /** Absent when kllama refused. */
  readonly pinned?: AllocationQuestion;
}

const roundsPerWorld = 3;
const timeoutMs = 2_000;

/** Plays pods of a small cluster one after the other; what kllama allocates in one round is in use in the next. */
export function playWorld(seed: number): Round[] {
  const random = createRandom(seed);
  const node = { metadata: { name: nodeName, uid: "node-uid", labels: nodeLabels } };
  const slices = someSlices(random);
  const allocated: ResourceClaim[] = [];
  const rounds: Round[] = [];
  // Of a number of their own: worlds without rules are the same as ever.
  const rules = someRules(createRandom(seed + 1_000_000), slices);
  for (let round = 0; round < roundsPerWorld; round++) {
    const claims = someClaims(random, round, slices);
    const question = { node, slices, rules, classes, claims, allocated: [...allocated], timeoutMs };
    const ours = allocateOurs(question);
    if (ours.verdict === "refused") {
      rounds.push({ seed, question, ours });
      continue;
    }
    const pinnedClaims = claims.map((claim, index) => pin(claim, ours.allocations[index]!));
    rounds.push({ seed, question, ours, pinned: { ...question, claims: pinnedClaims } });
    for (const [index, claim] of claims.entries()) {
      allocated.push({ ...claim, status: { allocation: ours.allocations[index]! } });
    }
  }
  return rounds;
}

/**
 * The claim narrowed to the devices that it got: upstream can satisfy it in one way only, unless it satisfies no rule.
 * `All` stays as it is, since it leaves no choice.
 */
function pin(
  claim: ResourceClaim,
  allocation: Extract<OurAnswer, { verdict: "allocated" }>["allocations"][number],
): ResourceClaim {
  const results = allocation.devices?.results ?? [];
  const idsOf = (request: string) =>
    results.filter((each) => each.request === request).map(({ pool, device }) => `${pool}-${device}`);
  const only = (request: string) => ({
    cel: { expression: `device.attributes["judge.kllama.ai"].id in ${JSON.stringify(idsOf(request))}` },
  });
  const requests = (claim.spec.devices?.requests ?? []).map((request) => {
    if (request.exactly !== undefined) return { ...request, exactly: narrowed(request.exactly, only(request.name)) };
    const chosen = request.firstAvailable!.filter(({ name }) => idsOf(`${request.name}/${name}`).length > 0);
    return { ...request, firstAvailable: chosen.map((each) => narrowed(each, only(`${request.name}/${each.name}`))) };
  });
  return { ...claim, spec: { devices: { ...claim.spec.devices, requests } } };
}

function narrowed<T extends { allocationMode?: string; selectors?: unknown[] }>(wanted: T, selector: unknown): T {
  return wanted.allocationMode === "All" ? wanted : { ...wanted, selectors: [selector, ...(wanted.selectors ?? [])] };
}
