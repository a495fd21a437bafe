import fc from "fast-check";
import { expect, test } from "vitest";
import type {
  Device,
  DeviceConstraint,
  DeviceRequest,
  ExactDeviceRequest,
  ResourceClaimSpec,
} from "../../src/api/kubernetes.ts";
import { allocateOnNode, isAllocationFailure } from "../../src/dra/allocator/allocate.ts";
import { compileClaim, isClaimProblem } from "../../src/dra/allocator/claim.ts";
import {
  assembleInventory,
  changeUsage,
  emptyUsage,
  type NodeInventory,
  type NodeUsage,
} from "../../src/topology/inventory.ts";
import { claimSpec, deviceClass, driver, gpu, migBoard, migSlices, nodeRecord, sliceRecord } from "../builders.ts";

/**
 * The allocator against an oracle that tries everything and reads the specs itself, without CEL, caches, order or
 * signatures. One rule is checked in one way only: `fits`, on plain facts of devices.
 */

/** What the oracle knows of a device. */
interface Facts {
  type: "gpu" | "mig";
  numa?: number;
  rail?: number;
  parent?: string;
  tainted: boolean;
}

const selections = {
  any: { expression: "true", selects: () => true },
  gpu: { expression: `device.attributes["${driver}"].type == "gpu"`, selects: (facts: Facts) => facts.type === "gpu" },
  mig: { expression: `device.attributes["${driver}"].type == "mig"`, selects: (facts: Facts) => facts.type === "mig" },
  numa0: {
    expression: `has(device.attributes["${driver}"].numa) && device.attributes["${driver}"].numa == 0`,
    selects: (facts: Facts) => facts.numa === 0,
  },
  rail1: {
    expression: `device.attributes["${driver}"].?rail.orValue(9) == 1`,
    selects: (facts: Facts) => facts.rail === 1,
  },
} as const;
type Selection = keyof typeof selections;

const factOf: Record<string, (facts: Facts) => number | string | undefined> = {
  [`${driver}/numa`]: ({ numa }) => numa,
  [`${driver}/rail`]: ({ rail }) => rail,
  [`${driver}/parentUUID`]: ({ parent }) => parent,
};
const attribute = fc.constantFrom(...Object.keys(factOf));

interface Alternative {
  selection: Selection;
  count: number;
  all: boolean;
  tolerant: boolean;
}
interface Case {
  inventory: NodeInventory;
  usage: NodeUsage;
  facts: Facts[];
  claims: {
    requests: Alternative[][];
    constraints: { kind: "match" | "distinct"; attribute: string; requests: string[] }[];
  }[];
  together: string | undefined;
}

/** `rare` in one of `of` cases, else undefined. */
function seldom<T>(rare: fc.Arbitrary<T>, of: number): fc.Arbitrary<T | undefined> {
  return fc.oneof({ weight: of - 1, arbitrary: fc.constant(undefined) }, { weight: 1, arbitrary: rare });
}

const plainGpu = fc.record({
  numa: fc.constantFrom(0, 0, 0, 1, 1, 1, undefined),
  rail: fc.constantFrom(0, 0, 1, 1, 2, 2, undefined),
  tainted: fc.constantFrom(false, false, false, true),
});

const alternative: fc.Arbitrary<Alternative> = fc.record({
  selection: fc.constantFrom<Selection>("any", "any", "gpu", "gpu", "gpu", "mig", "numa0", "rail1"),
  count: fc.constantFrom(1, 1, 1, 2, 2, 3),
  all: fc.constantFrom(false, false, false, false, false, false, false, false, true),
  tolerant: fc.constantFrom(true, true, false),
});

const claim = fc.record({
  requests: fc.array(
    fc.oneof(
      { weight: 4, arbitrary: fc.tuple(alternative).map((one): Alternative[] => one) },
      { weight: 1, arbitrary: fc.tuple(alternative, alternative).map((one): Alternative[] => one) },
    ),
    { minLength: 1, maxLength: 2 },
  ),
  constraints: fc.array(
    fc.record({
      kind: fc.constantFrom("match" as const, "match" as const, "distinct" as const),
      attribute,
      requests: fc.constantFrom<string[]>([], ["r0"], ["r1"], ["r0/s1"], ["r0", "r1"]),
    }),
    { maxLength: 1 },
  ),
});

type Profiles = NonNullable<Parameters<typeof migBoard>[1]>;
const profiles = fc.constantFrom<Profiles>(["3g"], ["4g", "2g"], ["7g", "3g"], ["2g"]);
const boards = fc.oneof(fc.constant<Profiles[]>([]), fc.array(profiles, { minLength: 1, maxLength: 2 }));

const cases: fc.Arbitrary<Case> = fc
  .record({
    plain: fc.array(plainGpu, { minLength: 3, maxLength: 8 }),
    boards,
    held: fc.array(fc.nat({ max: 7 }), { maxLength: 3 }),
    claims: fc.oneof(
      { weight: 2, arbitrary: fc.array(claim, { minLength: 1, maxLength: 1 }) },
      { weight: 1, arbitrary: fc.array(claim, { minLength: 2, maxLength: 3 }) },
    ),
    together: seldom(attribute, 6),
  })
  .map(({ plain, boards, held, claims, together }) => {
    const made = boards.map((profiles, index) => migBoard(index, profiles));
    const whole = plain.slice(0, Math.max(0, 8 - made.flatMap(({ devices }) => devices).length));
    const slices = migSlices("n", made);
    const gpus = whole.map((one, index) => plainDevice(index, one));
    const inventory = assembleInventory(nodeRecord("n"), [...slices, sliceRecord("n", gpus, { pool: "z", name: "z" })]);
    const usage = emptyUsage(inventory);
    const facts = inventory.devices.map(({ device }) => factsOf(device));
    for (const device of held) {
      if (device < facts.length && usage.used[device] === 0 && enough(inventory, usage, [device]))
        changeUsage(inventory, usage, device, 1);
    }
    return { inventory, usage, facts, claims, together };
  });

function plainDevice(
  index: number,
  { numa, rail, tainted }: { numa: number | undefined; rail: number | undefined; tainted: boolean },
): Device {
  const values = { ...(numa === undefined ? {} : { numa }), ...(rail === undefined ? {} : { rail }) };
  return gpu(100 + index, values, tainted ? { taints: [{ key: "k", effect: "NoSchedule" }] } : {});
}

function factsOf({ attributes = {}, taints = [] }: Device): Facts {
  return {
    type: attributes["type"]?.string === "mig" ? "mig" : "gpu",
    tainted: taints.length > 0,
    ...(attributes["numa"]?.int === undefined ? {} : { numa: attributes["numa"].int }),
    ...(attributes["rail"]?.int === undefined ? {} : { rail: attributes["rail"].int }),
    ...(attributes["parentUUID"]?.string === undefined ? {} : { parent: attributes["parentUUID"].string }),
  };
}

/** Do the devices' counters suffice beside what is held? */
function enough(inventory: NodeInventory, usage: NodeUsage, devices: readonly number[]): boolean {
  const sums = [...usage.counterUsed];
  for (const device of devices) {
    for (const { counter, amount } of inventory.devices[device]!.counters) sums[counter]! += amount;
  }
  return sums.every((sum, counter) => sum <= inventory.counterCapacity[counter]!);
}

/** Devices per claim and request with the alternative they are for. */
type Choice = { alternative: number; devices: number[] }[][];

/** All rules but the number of devices; once broken, more devices do not mend any of them. */
function fits({ inventory, usage, facts, claims, together }: Case, choice: Choice): boolean {
  const devices = choice.flat().flatMap((one) => one.devices);
  if (new Set(devices).size !== devices.length || devices.some((device) => usage.used[device] !== 0)) return false;
  if (!enough(inventory, usage, devices)) return false;
  if (together !== undefined && !equal(devices, together, facts)) return false;
  return choice.every((requests, c) => {
    if (requests.reduce((sum, one) => sum + one.devices.length, 0) > 32) return false;
    const allowed = requests.every(({ alternative, devices }, r) =>
      devices.every((device) => allows(claims[c]!.requests[r]![alternative]!, facts[device]!)),
    );
    return (
      allowed && claims[c]!.constraints.every((constraint) => holds(constraint, requests, claims[c]!.requests, facts))
    );
  });
}

function allows({ selection, tolerant }: Alternative, facts: Facts): boolean {
  return selections[selection].selects(facts) && (tolerant || !facts.tainted);
}

function holds(
  constraint: Case["claims"][number]["constraints"][number],
  requests: Choice[number],
  wanted: Alternative[][],
  facts: Facts[],
) {
  const covered = requests.flatMap(({ alternative, devices }, r) => {
    const names = [`r${r}`, ...(wanted[r]!.length > 1 ? [`r${r}/s${alternative}`] : [])];
    return constraint.requests.length === 0 || names.some((name) => constraint.requests.includes(name)) ? devices : [];
  });
  if (constraint.kind === "match") return equal(covered, constraint.attribute, facts);
  const values = covered.map((device) => factOf[constraint.attribute]!(facts[device]!));
  return !values.includes(undefined) && new Set(values).size === values.length;
}

function equal(devices: readonly number[], attribute: string, facts: Facts[]): boolean {
  const values = new Set(devices.map((device) => factOf[attribute]!(facts[device]!)));
  return !values.has(undefined) && values.size <= 1;
}

/** Tries every set of devices for every request, in every alternative. */
function possible(problem: Case): boolean {
  const positions = problem.claims.flatMap(({ requests }, c) =>
    requests.map((alternatives, r) => ({ c, r, alternatives })),
  );
  const choice: Choice = problem.claims.map(() => []);
  const extend = (at: number): boolean => {
    const position = positions[at];
    if (position === undefined) return true;
    const { c, r, alternatives } = position;
    return alternatives.some((alternative, a) =>
      setsFor(problem, alternative).some((devices) => {
        choice[c]![r] = { alternative: a, devices };
        if (fits(problem, choice) && extend(at + 1)) return true;
        choice[c]!.length = r;
        return false;
      }),
    );
  };
  return extend(0);
}

function setsFor({ facts }: Case, alternative: Alternative): number[][] {
  const selected = facts.flatMap((one, device) => (selections[alternative.selection].selects(one) ? [device] : []));
  if (alternative.all) return selected.length === 0 ? [] : [selected];
  return subsets(selected, alternative.count);
}

function subsets(of: readonly number[], size: number): number[][] {
  if (size === 0) return [[]];
  return of.flatMap((first, position) => subsets(of.slice(position + 1), size - 1).map((rest) => [first, ...rest]));
}

const classes = new Map([["any", deviceClass("any")]]);

function specOf({ requests, constraints }: Case["claims"][number]): ResourceClaimSpec {
  const exact = ({ selection, count, all, tolerant }: Alternative): ExactDeviceRequest => ({
    deviceClassName: "any",
    selectors: [{ cel: { expression: selections[selection].expression } }],
    ...(all ? { allocationMode: "All" } : { allocationMode: "ExactCount", count }),
    ...(tolerant ? { tolerations: [{ operator: "Exists" }] } : {}),
  });
  const specs = requests.map((alternatives, r): DeviceRequest => {
    if (alternatives.length === 1) return { name: `r${r}`, exactly: exact(alternatives[0]!) };
    return { name: `r${r}`, firstAvailable: alternatives.map((one, s) => ({ name: `s${s}`, ...exact(one) })) };
  });
  const names = specs.flatMap(({ name, firstAvailable = [] }) => [
    name,
    ...firstAvailable.map((sub) => `${name}/${sub.name}`),
  ]);
  return claimSpec(
    specs,
    constraints.map((one) => constraintOf(one, names)),
  );
}

function constraintOf(
  { kind, attribute, requests }: Case["claims"][number]["constraints"][number],
  names: readonly string[],
): DeviceConstraint {
  const known = requests.filter((name) => names.includes(name));
  return { ...(known.length === 0 ? {} : { requests: known }), [`${kind}Attribute`]: attribute };
}

/** What `specOf` makes of constraints that name requests which the claim does not have. */
function normalized(problem: Case): Case {
  const claims = problem.claims.map((one) => {
    const spec = specOf(one);
    const constraints = one.constraints.map((constraint, i) => ({
      ...constraint,
      requests: spec.devices?.constraints?.[i]?.requests ?? [],
    }));
    return { ...one, constraints };
  });
  return { ...problem, claims };
}

function allocate({ inventory, usage, claims, together }: Case) {
  const compiled = claims.map((one) => {
    const result = compileClaim(specOf(one), classes, new Set([driver]));
    if (isClaimProblem(result)) throw new Error(result.message);
    return result;
  });
  return allocateOnNode(inventory, usage, compiled, {
    budget: 1_000_000,
    ...(together === undefined ? {} : { together: [{ attribute: together }] }),
  });
}

/** The answer in the oracle's form. */
function toChoice(problem: Case, answer: Exclude<ReturnType<typeof allocate>, { reason: unknown }>): Choice {
  return problem.claims.map(({ requests }, c) =>
    requests.map((alternatives, r) => {
      const mine = answer.claims[c]!.devices.filter(({ request }) => request.split("/")[0] === `r${r}`);
      const alternative = Number(mine[0]?.request.split("/s")[1] ?? 0);
      expect(mine.every(({ request }) => request === mine[0]!.request)).toBe(true);
      expect(alternative).toBeLessThan(alternatives.length);
      return { alternative, devices: mine.map(({ device }) => device) };
    }),
  );
}

test("the allocator finds devices exactly when there are any, and they keep every rule", () => {
  let found = 0;
  let refused = 0;
  const property = fc.property(cases, (generated) => {
    const problem = normalized(generated);
    const before = structuredClone(problem.usage);
    const answer = allocate(problem);
    expect(problem.usage).toEqual(before);
    expect(allocate(problem)).toEqual(answer);
    if (isAllocationFailure(answer)) {
      refused += 1;
      expect(answer.reason).not.toBe("BudgetExceeded");
      expect(answer.message).not.toBe("");
      expect(possible(problem)).toBe(false);
      return;
    }
    found += 1;
    const choice = toChoice(problem, answer);
    expect(fits(problem, choice)).toBe(true);
    for (const [c, requests] of choice.entries()) {
      for (const [r, { alternative, devices }] of requests.entries()) {
        const wanted = problem.claims[c]!.requests[r]![alternative]!;
        expect(devices).toHaveLength(wanted.all ? setsFor(problem, wanted)[0]!.length : wanted.count);
        expect(devices).toEqual([...devices].sort((a, b) => a - b));
      }
    }
  });
  fc.assert(property, { numRuns: 3_000 });
  // Both answers have to be common, or the comparison says little.
  expect(Math.min(found, refused)).toBeGreaterThan(300);
});
