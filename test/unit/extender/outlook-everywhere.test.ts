import { describe, expect, test } from "vitest";
import type { CapacityOutput } from "../../../src/api/capacity.ts";
import type { Rejection } from "../../../src/api/placement.ts";
import { readWork } from "../../../src/cli/capacity/read-work.ts";
import type { ClusterState } from "../../../src/cli/cluster-state.ts";
import { assembleOrigins, ownDeviceClasses } from "../../../src/cli/plan/read-input.ts";
import { createCapacityDesk } from "../../../src/extender/capacity-desk.ts";
import { createCoordinator } from "../../../src/extender/coordinator.ts";
import type { WriteEffect } from "../../../src/extender/effects.ts";
import type { GangRecord } from "../../../src/gang/lifecycle/state.ts";
import { readDocuments } from "../../../src/kube/documents.ts";
import { createClusterModel } from "../../../src/topology/model.ts";
import { driver } from "../../builders.ts";
import { gangOf, node, plan, planFiles, runningGang, template } from "../cli/plan/support.ts";

const cluster = `${node("a")}${node("b", { spec: { unschedulable: true } })}${template("four", 4)}`;
const wants = gangOf("new", 1, "four");
const list = (text: string) => ({
  apiVersion: "v1",
  kind: "List",
  items: readDocuments("", text).objects.map(({ object }) => object),
});

async function stateOf(text: string): Promise<ClusterState> {
  const { objects } = readDocuments("input.yaml", text);
  return assembleOrigins([{ objects, planned: true, problems: [] }], await ownDeviceClasses(), false).state;
}

/** A planner at work: no API server, every write succeeds. @returns what it says of the gang, and in events */
async function live(text: string, name: string) {
  const { gangs, pods, claims, nodes, slices, deviceClasses } = await stateOf(text);
  const model = createClusterModel({ managedDrivers: [driver] });
  const writes: [WriteEffect, string][] = [];
  const events: string[] = [];
  let nowMs = 1_000_000;
  let wakeAtMs = Number.POSITIVE_INFINITY;
  const coordinator = createCoordinator(model, new Set([driver]), {
    write: (effect, owner) => void writes.push([effect, owner]),
    event: ({ name: of }, { note }) => void (of === name && events.push(note)),
    answer: () => undefined,
    nowMs: () => nowMs,
    nowIso: () => "2026-01-01T00:00:00Z",
    schedule: (delayMs) => {
      wakeAtMs = Math.min(wakeAtMs, nowMs + delayMs);
    },
    planned: () => undefined,
    planRefused: () => undefined,
    mayPlan: () => true,
    bypassed: () => undefined,
    preempted: () => undefined,
  });
  for (const each of deviceClasses) model.upsertDeviceClass(each);
  for (const each of slices) model.upsertSlice(each);
  for (const each of nodes) coordinator.observeNode(each);
  for (const each of claims) coordinator.observeClaim({ ...each, resourceVersion: "1" });
  for (const each of gangs) coordinator.observeGang({ ...each, uid: `uid-${each.name}`, resourceVersion: "1" });
  for (const each of pods) coordinator.observePod(each);
  coordinator.activate();
  let version = 1;
  let statuses = 0;
  for (let turns = 0; wakeAtMs < nowMs + 60_000; turns++) {
    if (turns > 100) throw new Error("the planner never rests");
    nowMs = Math.max(nowMs, wakeAtMs);
    wakeAtMs = Number.POSITIVE_INFINITY;
    coordinator.flush();
    for (const [effect, owner] of writes.splice(0)) {
      if (effect.type !== "writeStatus") throw new Error(`${owner} writes ${effect.type}`);
      version += 1;
      if (owner === `default/${name}`) statuses += 1;
      const gang: GangRecord = { ...effect.gang, status: effect.status, resourceVersion: `${version}` };
      coordinator.written(effect, owner, { outcome: { ok: true }, gang });
    }
  }
  const { explanation, conditions = [] } = coordinator.state(`default/${name}`)!.gang!.status;
  const desk = createCapacityDesk({
    model,
    readWork: async (body) => readWork(body),
    notReady: () => undefined,
    viewAgeMs: () => 0,
    nowMs: () => nowMs,
  });
  const { body } = await desk.answer(list(`${template("four", 4)}${wants}`), 8);
  return { explanation, conditions, events, statuses, rejections: (body as CapacityOutput).answers[0]!.rejections };
}

const sentences = ({ message, counterfactuals }: Rejection) =>
  [message, ...counterfactuals.map((text) => `it would fit ${text}`)].join("; ");

describe("what would make room is said in the same words", () => {
  test("by the Gang's status, its event, kllama plan and kllama capacity", async () => {
    const text = `${cluster}${runningGang("old", "a")}${wants}`;
    const said =
      "needs room for 1 pod of 4 gpu.kllama.ai devices; the cluster has 0 now; it would fit if gang old leaves; it would fit if 1 node returns; it would fit if 1 node becomes free";
    const status = await live(text, "new");
    expect(status.explanation).toBe(said);
    expect(status.conditions.map(({ message }) => message)).toEqual([said, said]);
    expect(status.events.at(-1)).toBe(said);
    const planned = await plan(text);
    expect(planned.rejections.map(sentences)).toEqual([said]);
    const asked = await planFiles({ "input.yaml": text }, "-f FOLDER -o json", "capacity");
    const [answer] = (JSON.parse(asked.stdout) as CapacityOutput).answers;
    expect(answer!.rejections.map(sentences)).toEqual([said]);
    const table = await planFiles({ "input.yaml": text }, "-f FOLDER --explain");
    const rows = await planFiles({ "input.yaml": text }, "-f FOLDER", "capacity");
    for (const sentence of said.split("; ").slice(2)) {
      expect(table.stdout).toContain(`    ${sentence}\n`);
      expect(rows.stdout).toContain(`      ${sentence}\n`);
    }
    // Anybody may ask the planner about any namespace: nobody is named there.
    expect(status.rejections.map(sentences)).toEqual([said.replace("gang old", "a gang with 4 devices")]);
  });

  test("without a name from another namespace, everywhere", async () => {
    const text = `${cluster}${runningGang("secret", "a", { namespace: "hidden" })}${wants}`;
    const said =
      "needs room for 1 pod of 4 gpu.kllama.ai devices; the cluster has 0 now; it would fit if a gang of another namespace with 4 devices leaves; it would fit if 1 node returns; it would fit if 1 node becomes free";
    const { explanation, events, rejections } = await live(text, "new");
    expect([explanation, events.at(-1)]).toEqual([said, said]);
    expect((await plan(text)).rejections.map(sentences)).toEqual([said]);
    expect(JSON.stringify([events, rejections])).not.toMatch(/secret|hidden/);
  });

  test("by a planner that writes a refusal twice, and then nothing more", async () => {
    const { statuses, events } = await live(`${cluster}${runningGang("old", "a")}${wants}`, "new");
    expect([statuses, events.length]).toEqual([2, 2]);
  });
});
