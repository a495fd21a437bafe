import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { gangSpec } from "../../src/api/gang.ts";
import { atOnce } from "../../src/gang/in-slices.ts";
import { type GangState, newGangState } from "../../src/gang/lifecycle/state.ts";
import { type PlanUnit, plan } from "../../src/gang/plan.ts";
import { choosePreemption } from "../../src/gang/preemption.ts";
import { gangVictim, podVictim, type Victim } from "../../src/gang/victims.ts";
import type { ClusterModel } from "../../src/topology/model.ts";
import type { BudgetRecord, PodRecord } from "../../src/topology/records.ts";
import { driver, gangRecord, podRecord } from "../builders.ts";
import { allocatedClaim, clusterOf, gangIn } from "../support/cluster.ts";

/** Nodes of 4 GPUs and 4 cores in racks; others run there; a newcomer of priority 5 wants in. */
interface Case {
  racks: number[];
  others: Other[];
  wants: { count: number; gpus: number; cores: number; rack: boolean };
  budgets: { covers: number[]; allows: number }[];
}

interface Other {
  priority: number;
  /** The node of each of its pods. */
  nodes: number[];
  gpus: number;
  cores: number;
  createdAtMs: number;
  single: boolean;
}

const cases: fc.Arbitrary<Case> = fc.record({
  racks: fc.array(fc.integer({ min: 1, max: 2 }), { minLength: 1, maxLength: 3 }),
  others: fc.array(
    fc.record({
      priority: fc.constantFrom(0, 1, 1, 2, 5, 6),
      nodes: fc.array(fc.nat(5), { minLength: 1, maxLength: 3 }),
      gpus: fc.integer({ min: 1, max: 3 }),
      cores: fc.integer({ min: 0, max: 2 }),
      createdAtMs: fc.nat(2),
      single: fc.boolean(),
    }),
    { minLength: 3, maxLength: 6 },
  ),
  wants: fc.record({
    count: fc.integer({ min: 1, max: 3 }),
    gpus: fc.integer({ min: 2, max: 4 }),
    cores: fc.constantFrom(0, 1, 3),
    rack: fc.boolean(),
  }),
  budgets: fc.array(
    fc.record({ covers: fc.uniqueArray(fc.nat(5), { minLength: 1, maxLength: 3 }), allows: fc.nat(3) }),
    { maxLength: 2 },
  ),
});

interface Running {
  id: string;
  other: Other;
  pods: { record: PodRecord; node: string; devices: string[] }[];
}

/** Who finds devices and cores where it wants to be. */
function settle({ racks, others, budgets }: Case): Running[] {
  const nodes = nodesOf(racks);
  const gpus = new Map(nodes.map(({ name }) => [name, 0]));
  const cores = new Map(nodes.map(({ name }) => [name, 0]));
  return others.flatMap((other, number) => {
    const id = `other-${number}`;
    const homes = (other.single ? other.nodes.slice(0, 1) : other.nodes).map(
      (node) => nodes[node % nodes.length]!.name,
    );
    const fits = [...new Set(homes)].every((node) => {
      const { length } = homes.filter((home) => home === node);
      return gpus.get(node)! + length * other.gpus <= 4 && cores.get(node)! + length * other.cores <= 4;
    });
    if (!fits) return [];
    const pods = homes.map((node, index) => {
      const first = gpus.get(node)!;
      gpus.set(node, first + other.gpus);
      cores.set(node, cores.get(node)! + other.cores);
      const name = `${id}-${index}`;
      const record = podRecord(name, {
        nodeName: node,
        priority: other.priority,
        createdAtMs: other.createdAtMs,
        bindMarker: true,
        requests: { cpu: other.cores * 1000, pods: 1 },
        labels: Object.fromEntries(
          budgets.flatMap(({ covers }, budget) => (covers.includes(number) ? [[`budget-${budget}`, "yes"]] : [])),
        ),
        ...(other.single ? {} : { gang: id, index }),
        claims: other.gpus === 0 ? [] : [{ name: "gpu", claimName: `${name}-gpu` }],
      });
      return { record, node, devices: Array.from({ length: other.gpus }, (_, i) => `gpu-${first + i}`) };
    });
    return [{ id, other, pods }];
  });
}

function nodesOf(racks: readonly number[]) {
  const more = { allocatable: { cpu: 4000, memory: 2 ** 40, pods: 110 } };
  return racks.flatMap((size, rack) =>
    Array.from({ length: size }, (_, i) => ({ name: `r${rack}-${i}`, zone: "z", rack: `r${rack}`, gpus: 4, more })),
  );
}

/** A cluster in which only these run. */
function clusterWith({ racks }: Case, running: readonly Running[]) {
  const model = clusterOf(nodesOf(racks));
  const victims = running.map((each) => moveIn(model, each));
  return { model, victims };
}

function moveIn(model: ClusterModel, { id, other, pods }: Running): Victim {
  for (const { record, node, devices } of pods) {
    if (devices.length > 0) model.upsertClaim(allocatedClaim(`${record.name}-gpu`, node, devices, [record.uid]));
    model.upsertPod(record);
  }
  if (other.single) return podVictim(model, pods[0]!.record);
  const placed = pods.map(({ record, node, devices }, index) => ({
    pod: record.name,
    podSet: "ranks",
    index,
    node,
    claims: record.claims.map(({ claimName }) => ({
      claim: claimName!,
      reference: "gpu",
      devices: devices.map((device) => ({ request: "gpu", driver, pool: node, device })),
    })),
  }));
  model.hold(
    `team/${id}`,
    "team",
    placed.map((each, index) => ({
      placed: each,
      requests: pods[index]!.record.requests,
      podUid: pods[index]!.record.uid,
    })),
  );
  const spec = gangSpec.parse({ podSets: [{ name: "ranks", count: pods.length }] });
  const status = { phase: "Scheduled" as const, placement: { pods: placed } };
  const gang = gangRecord({ namespace: "team", name: id, uid: id, spec, status, createdAtMs: other.createdAtMs });
  const state: GangState = { ...newGangState(`team/${id}`), gang };
  for (const { record } of pods) state.pods.set(record.uid, record);
  return gangVictim(model, id, [state]);
}

function newcomer(model: ClusterModel, { wants: { count, gpus, cores, rack } }: Case, priority = 5): PlanUnit {
  const constraints = rack ? [{ type: "colocate" as const, level: "rack", mode: "required" as const }] : [];
  const more = { priority, requests: { cpu: cores * 1000, pods: 1 } };
  return { gangs: [gangIn(model, "new", { w: { count, gpus, more } }, { constraints })] };
}

function budgetRecords({ budgets }: Case): BudgetRecord[] {
  return budgets.map(({ allows }, budget) => ({
    namespace: "team",
    name: `budget-${budget}`,
    selector: { matchLabels: { [`budget-${budget}`]: "yes" } },
    disruptionsAllowed: allows,
    sparesReadyOnly: false,
  }));
}

/** What a set costs, as the order says it: smaller is cheaper, compared from the first number on. */
function price(leaving: readonly Running[]): number[] {
  const pods = leaving.flatMap((each) => each.pods);
  return [
    Math.max(...leaving.map(({ other }) => other.priority)),
    pods.length,
    pods.reduce((sum, { devices }) => sum + devices.length, 0),
    leaving.length,
    -Math.min(...leaving.map(({ other }) => other.createdAtMs)),
  ];
}

function isCheaper(a: readonly number[], b: readonly number[]): boolean {
  const at = a.findIndex((value, i) => value !== b[i]);
  return at >= 0 && a[at]! < b[at]!;
}

/** The price of the cheapest set, by trying every one of them in a cluster that never knew its pods. */
function cheapestPrice(sample: Case, running: readonly Running[]): number[] | undefined {
  let best: number[] | undefined;
  for (let bits = 1; bits < 2 ** running.length; bits++) {
    const leaving = running.filter((_, i) => (bits >> i) & 1);
    if (leaving.some(({ other }) => other.priority >= 5)) continue;
    const overdrawn = sample.budgets.some(({ allows }, budget) => covered(leaving, budget) > allows);
    const twice = leaving.some(({ pods }) => pods.some(({ record }) => Object.keys(record.labels ?? {}).length > 1));
    if (overdrawn || twice || (best !== undefined && !isCheaper(price(leaving), best))) continue;
    const { model } = clusterWith(
      sample,
      running.filter((each) => !leaving.includes(each)),
    );
    if ("plans" in plan(model, newcomer(model, sample))) best = price(leaving);
  }
  return best;
}

function covered(leaving: readonly Running[], budget: number): number {
  return leaving.flatMap(({ pods }) => pods).filter(({ record }) => record.labels?.[`budget-${budget}`]).length;
}

describe("who has to leave", () => {
  test("is the cheapest set of those that may and that make room, and there is none exactly when there is none", () => {
    const seen = { placed: 0, none: 0, one: 0, several: 0 };
    fc.assert(
      fc.property(cases, (sample) => {
        const running = settle(sample);
        const { model, victims } = clusterWith(sample, running);
        const unit = newcomer(model, sample);
        if ("plans" in plan(model, unit)) {
          seen.placed++;
          return;
        }
        const found = atOnce(
          choosePreemption(model, unit, victims, { budgets: budgetRecords(sample) }, { tries: 1000 }),
        );
        const best = cheapestPrice(sample, running);
        if (found === undefined) {
          expect(best).toBeUndefined();
          seen.none++;
          return;
        }
        const leaving = found.victims.map((victim) => running[victims.indexOf(victim)]!);
        expect(price(leaving)).toEqual(best);
        expect(found.cheapest).toBe(true);
        seen[leaving.length > 1 ? "several" : "one"]++;
        // The places are free once they are gone, and the model is as it was.
        const rest = clusterWith(
          sample,
          running.filter((each) => !leaving.includes(each)),
        );
        for (const { placement } of found.plans) {
          for (const { claims } of placement.pods) {
            for (const { pool, device } of claims.flatMap(({ devices }) => devices)) {
              expect(rest.model.holdersOf(driver, pool, device)).toEqual([]);
            }
          }
        }
        expect(plan(model, unit)).toHaveProperty("rejections");
      }),
      { numRuns: 400 },
    );
    expect(Math.min(...Object.values(seen))).toBeGreaterThan(15);
  });

  test("few tries still give a set that makes room and of which nobody could stay", () => {
    fc.assert(
      fc.property(cases, fc.integer({ min: 8, max: 20 }), (sample, tries) => {
        const running = settle({ ...sample, budgets: [] });
        const { model, victims } = clusterWith(sample, running);
        const unit = newcomer(model, sample);
        if ("plans" in plan(model, unit)) return;
        const found = atOnce(choosePreemption(model, unit, victims, {}, { tries }));
        if (found === undefined) return;
        expect(found.victims.every(({ priority }) => priority < 5)).toBe(true);
        const stay = (gone: readonly Victim[]) => running.filter((_, i) => !gone.includes(victims[i]!));
        const fitsWithout = (gone: readonly Victim[]) => {
          const rest = clusterWith(sample, stay(gone));
          return "plans" in plan(rest.model, newcomer(rest.model, sample));
        };
        expect(fitsWithout(found.victims)).toBe(true);
        if (found.cheapest) {
          for (const one of found.victims)
            expect(fitsWithout(found.victims.filter((each) => each !== one))).toBe(false);
        }
      }),
      { numRuns: 150 },
    );
  });
});
