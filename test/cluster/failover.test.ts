import process from "node:process";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import type { KubernetesObject } from "../../src/api/kubernetes.ts";
import type { PlannerTermSpec } from "../../src/api/planner-term.ts";
import type { Child } from "../../src/cli/system/children.ts";
import { eventually } from "../../src/kube/eventually.ts";
import { uniformFleet } from "../../src/simulator/fleet.ts";
import { type AcceptedWrite, acceptedWrites } from "../support/audit-log.ts";
import { follow } from "../support/follow.ts";
import { type Observer, observe } from "../support/observer.ts";
import { queuedMs } from "../support/queued.ts";
import { type Stack, startReplica, startStack } from "../support/stack.ts";
import { claimTemplate, create, createNamespace, gang, member } from "../support/workloads.ts";

const namespace = "failover";
const terms = "/apis/scheduling.kllama.ai/v1alpha1/plannerterms";

/** Leaders that are paused, one after the other; `npm run split-brain` pauses 20. */
const splitBrains = Number(process.env["KLLAMA_SPLIT_BRAINS"] ?? "1");

let stack: Stack;
let seen: Observer;

beforeAll(async () => {
  stack = await startStack({ fleet: uniformFleet({ nodes: 32 * splitBrains }), nodeAgents: false, auditLog: true });
  seen = await observe(stack.admin);
  await createNamespace(stack.admin, namespace);
  await create(stack.admin, namespace, claimTemplate("four", 4));
});

afterEach(async () => {
  await seen.inStep();
  expect(seen.violations()).toEqual([]);
});

afterAll(async () => {
  await seen?.stop();
  await stack?.stop();
});

describe("a planner killed with SIGKILL", () => {
  test("and restarted in its pod is ready in a new term, without waiting for its own Lease", async () => {
    const before = await currentTerm();
    await stack.planner.kill("SIGKILL");
    const startedMs = performance.now();
    await stack.planner.start();
    const readyMs = performance.now() - startedMs - queuedMs([stack.planner.pid ?? 0]);
    expect(await currentTerm()).toEqual({ holder: before.holder, epoch: before.epoch + 1 });
    // The Lease lasts for 15 s, and this is without the time in line for a core. What a start takes is judged over the many of kills.test.ts.
    expect(readyMs).toBeLessThan(10_000);
  });
});

describe("a leader that is paused past its Lease while it has writes under way", () => {
  test("is replaced by the replica that stands by, writes nothing when it wakes, and ends", {
    timeout: 60_000 + splitBrains * 180_000,
  }, async () => {
    const { planner } = stack;
    let leader = { pid: planner.pid as number, exited: () => planner.exited() };
    let successor: Child | undefined;
    for (let round = 1; round <= splitBrains; round++) {
      successor = await startReplica(stack, `kllama-planner-${round}`);
      await splitBrain(leader, `round-${round}`);
      const { pid, exited } = successor;
      leader = { pid: pid as number, exited: () => exited };
    }
    await successor?.stop();
  });
});

/** The other process that runs succeeds the leader. */
async function splitBrain(leader: { pid: number; exited(): Promise<unknown> }, round: string): Promise<void> {
  const gangs = Array.from({ length: 12 }, (_, index) => `${round}-g${index}`);
  const first = await currentTerm();
  const fromAt = new Date().toISOString();
  const paused = aWriteOf(first.holder, fromAt).then(() => process.kill(leader.pid, "SIGSTOP"));
  await Promise.all([paused, createGangs(gangs.slice(0, 8))]);
  const pausedAt = new Date().toISOString();
  // However much it has done by then, there is work for the other.
  await createGangs(gangs.slice(8));

  const term = await follow<KubernetesObject & { spec: PlannerTermSpec }>(stack.admin, terms);
  await term.until("the other replica has a term", (items) =>
    [...items.values()].some(({ spec }) => spec.epoch === first.epoch + 1) ? true : undefined,
  );
  await term.stop();
  const successor = await currentTerm();
  expect(successor.holder).not.toBe(first.holder);
  await aWriteOf(successor.holder, pausedAt);

  const awokeAt = new Date().toISOString();
  process.kill(leader.pid, "SIGCONT");
  await leader.exited();
  await everyGangReserved(gangs);
  expect(await fencedWrites(first.holder, awokeAt), round).toEqual([]);
}

async function createGangs(names: readonly string[]): Promise<void> {
  for (const name of names) {
    const members = Array.from({ length: 4 }, (_, rank) => member(name, "ranks", rank, "four"));
    const spec = { podSets: [{ name: "ranks", count: 4 }] };
    await create(stack.admin, namespace, gang(name, spec), ...members);
  }
}

async function everyGangReserved(names: readonly string[]): Promise<void> {
  const gangs = await follow<KubernetesObject & { status?: { placement?: object } }>(
    stack.admin,
    `/apis/scheduling.kllama.ai/v1alpha1/namespaces/${namespace}/gangs`,
  );
  await gangs.until("all are placed", (items) =>
    names.every((name) => items.get(`${namespace}/${name}`)?.status?.placement !== undefined) ? true : undefined,
  );
  await gangs.stop();
}

async function currentTerm(): Promise<PlannerTermSpec> {
  return (await stack.admin.request<{ spec: PlannerTermSpec }>("GET", `${terms}/kllama-planner`)).spec;
}

/** The audit log sends no events: it is read until it tells of a write by that planner's pod since then, but to its term. */
async function aWriteOf(holder: string, since: string): Promise<void> {
  const missing = async (): Promise<string | undefined> => {
    const writes = await fencedWrites(holder, since);
    return writes.some(({ what }) => !what.includes(" plannerterms")) ? undefined : "none";
  };
  await eventually(`a write of planner ${holder}`, missing, { timeoutMs: 60_000 });
}

/** What the API server let a planner's pod write since then, but for what no fence is for: events, and nominated nodes, which are hints. */
async function fencedWrites(holder: string, since: string): Promise<AcceptedWrite[]> {
  const writes = await acceptedWrites(stack.plane, since);
  return writes.filter(({ podUid, what }) => podUid === holder && !/ (events|pods\/status)$/.test(what));
}
