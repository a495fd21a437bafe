import { fork } from "node:child_process";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, describe, expect, onTestFinished, test, vi } from "vitest";
import { decodeCheckpoint, encodeCheckpoint } from "../../../../src/dra/driver/checkpoint.ts";
import { openFileLock } from "../../../../src/dra/driver/file-lock.ts";
import type { Machine } from "../../../../src/dra/driver/machine.ts";
import { createReconciler } from "../../../../src/dra/driver/reconcile.ts";
import { startUpkeep } from "../../../../src/dra/driver/upkeep.ts";
import { systemTiming } from "../../../../src/kube/timing.ts";
import { claimObject, type DriverScene, node, openScene, referenceTo } from "../../../support/driver.ts";
import { createVirtualTiming } from "../../../support/virtual-timing.ts";

/** Two processes of the driver on one node, as while its pod is replaced: one folder, one lock, two memories. */

const soon = { timeout: 20_000 };

const opened: DriverScene[] = [];
afterEach(async () => {
  for (const made of opened.splice(0).reverse()) await made.remove();
});

async function pair(type = "dgx-h100"): Promise<{ old: DriverScene; young: DriverScene }> {
  const old = await openScene(type, { locked: true });
  const young = await openScene(type, { locked: true, folder: old.folder });
  opened.push(old, young);
  return { old, young };
}

/** The API server that both ask. */
function allocate({ old, young }: { old: DriverScene; young: DriverScene }, name: string, ...results: string[]): void {
  const claim = claimObject(name, results);
  for (const { claims } of [old, young]) claims.set(name, claim);
}

async function inCheckpoint({ checkpoint }: DriverScene): Promise<string[]> {
  const reading = decodeCheckpoint(await readFile(checkpoint));
  if (reading.kind !== "sound") throw new Error(reading.why);
  return reading.checkpoint.claims.map(({ name, state }) => `${name} ${state}`).toSorted();
}

describe("what one process prepared", () => {
  test("the other knows: it refuses the device to others, answers the same, and unprepares it", async () => {
    const both = await pair();
    const { old, young } = both;
    allocate(both, "a", "gpus gpu-0");
    allocate(both, "rival", "gpus gpu-0");
    const answer = await old.prepare("a");
    expect(await young.prepare("rival")).toEqual({ rival: "device node-1/gpu-0 is in use by claim team/a" });
    expect(await young.prepare("a")).toEqual(answer);
    expect(await young.unprepare("a")).toEqual({ a: "" });
    expect(await old.prepare("rival")).toEqual({ rival: [expect.stringContaining("-gpus")] });
    expect(await young.prepare("a")).toEqual({ a: "device node-1/gpu-0 is in use by claim team/rival" });
    expect(await inCheckpoint(old)).toEqual(["rival Completed"]);
  });

  test("stays in the checkpoint when the other writes it, and what was unprepared does not come back", async () => {
    const both = await pair();
    const { old, young } = both;
    for (const [index, name] of ["a", "b", "c", "d"].entries()) allocate(both, name, `gpus gpu-${index}`);
    await old.prepare("a", "b");
    await young.prepare("c");
    await young.unprepare("a");
    await old.prepare("d");
    expect(await inCheckpoint(old)).toEqual(["b Completed", "c Completed", "d Completed"]);
    expect(await old.specs()).toHaveLength(3);
  });

  test("is a partition: the other destroys it", async () => {
    const both = await pair("dgx-a100-mig");
    const { old, young } = both;
    allocate(both, "a", "gpus gpu-0-mig-2g20gb-14-2");
    await old.prepare("a");
    const { uuid } = old.machine.inventory().gpus[0]!;
    expect(await old.machine.gpuInstances(uuid)).toHaveLength(1);
    expect(await young.unprepare("a")).toEqual({ a: "" });
    expect(await young.machine.gpuInstances(uuid)).toEqual([]);
    expect(await inCheckpoint(young)).toEqual([]);
  });

  test("calls to both at once: none is lost, and of two for one device one is refused", async () => {
    const both = await pair("dgx-a100-mig");
    const names = Array.from({ length: 24 }, (_, index) => `c${index}`);
    // Three for each of eight boards.
    for (const [index, name] of names.entries()) allocate(both, name, `gpus gpu-${index % 8}-mig-7g80gb-0-0`);
    const answers = await Promise.all(
      names.map((name, index) => [both.old, both.young][index % 2]!.prepare(name).then((answer) => answer[name]!)),
    );
    const given = names.filter((_, index) => Array.isArray(answers[index]));
    expect(new Set(given.map((name) => names.indexOf(name) % 8))).toHaveLength(8);
    expect(given).toHaveLength(8);
    expect(await inCheckpoint(both.old)).toEqual(given.map((name) => `${name} Completed`).toSorted());
    const { gpus } = both.old.machine.inventory();
    for (const { uuid } of gpus) expect(await both.old.machine.gpuInstances(uuid)).toHaveLength(1);
  });

  test("half prepared is the other's own affair while it works on it", async () => {
    const reached = Promise.withResolvers<void>();
    const go = Promise.withResolvers<void>();
    const slow = await openScene("dgx-a100-mig");
    opened.push(slow);
    const machine: Machine = {
      ...slow.machine,
      async createComputeInstance(...where) {
        reached.resolve();
        await go.promise;
        return slow.machine.createComputeInstance(...where);
      },
    };
    const old = await openScene("dgx-a100-mig", { locked: true, folder: slow.folder, machine });
    const young = await openScene("dgx-a100-mig", { locked: true, folder: slow.folder, machine: slow.machine });
    const claim = claimObject("a", ["gpus gpu-0-mig-2g20gb-14-2"]);
    old.claims.set("a", claim);
    young.claims.set("a", claim);
    const preparing = old.prepare("a");
    await reached.promise;
    const order: string[] = [];
    const reconciling = createReconciler({
      ...{ preparation: young.preparation, store: young.store, cdiFolder: young.cdiFolder, timing: systemTiming },
      readClaim: async () => claim,
      onPresent: () => undefined,
      findForeign: async () => void order.push("reconciled"),
    })();
    // It has asked for its turn.
    await new Promise((resolve) => setImmediate(resolve));
    const again = young.prepare("a").then((answer) => {
      order.push("answered");
      return answer;
    });
    go.resolve();
    const answer = await preparing;
    expect(await reconciling).toEqual({ undone: 0, strays: 0, failures: [] });
    expect(await again).toEqual(answer);
    expect(order).toEqual(["reconciled", "answered"]);
  });
});

describe("the checkpoint", () => {
  test("of a later version is not touched: the older process refuses, and says so", async () => {
    const both = await pair();
    const { old } = both;
    allocate(both, "a", "gpus gpu-0");
    allocate(both, "b", "gpus gpu-1");
    await old.prepare("a");
    const newer = (await readFile(old.checkpoint, "utf8")).replace('"version":1', '"version":9');
    await writeFile(old.checkpoint, newer);
    const refusal = expect.stringMatching(/version 9 is newer than 1; restart/) as string;
    expect(await old.prepare("b")).toEqual({ b: refusal });
    expect(await old.unprepare("a")).toEqual({ a: refusal });
    await expect(old.preparation.exclusively(async () => undefined)).rejects.toThrow("version 9");
    expect(await readFile(old.checkpoint, "utf8")).toBe(newer);
  });

  test("that is damaged while they run is kept aside and rebuilt when the reconciler comes: nobody has to restart them", async () => {
    const both = await pair();
    const { old, young } = both;
    allocate(both, "a", "gpus gpu-0");
    allocate(both, "b", "gpus gpu-1");
    await old.prepare("a");
    const timing = createVirtualTiming();
    const rebuilt: unknown[] = [];
    const passes: unknown[] = [];
    const { memory, preparation, store, machine, checkpoint, cdiFolder, claims } = old;
    const upkeep = startUpkeep({
      ...{ memory, preparation, store, machine, checkpoint, cdiFolder, timing, pool: node },
      readClaim: async (_, name) => claims.get(name),
      findForeign: async () => undefined,
      onPresent: () => undefined,
      onRebuilt: ({ why }, aside) => rebuilt.push([why, aside]),
      onRepairs: (repairs) => passes.push(repairs),
      onError: () => undefined,
    });
    onTestFinished(() => upkeep.stop());
    await vi.waitFor(() => expect(passes).toHaveLength(1), soon);
    await writeFile(checkpoint, "damaged");
    const refusal = expect.stringMatching(/first line is not that of a checkpoint; it is rebuilt within five minutes/);
    expect(await young.prepare("b")).toEqual({ b: refusal });
    expect(await old.unprepare("a")).toEqual({ a: refusal });
    await vi.waitFor(async () => {
      await timing.advance(300_000);
      expect(rebuilt).toHaveLength(1);
    }, soon);
    expect(rebuilt).toEqual([["the first line is not that of a checkpoint", `${checkpoint}.corrupt-1`]]);
    expect(upkeep.rebuilding()).toBeUndefined();
    expect(await young.prepare("b")).toEqual({ b: [expect.any(String)] });
    expect(await old.unprepare("a")).toEqual({ a: "" });
    expect(await inCheckpoint(young)).toEqual(["b Completed"]);
  });

  test("from before the last boot says nothing", async () => {
    const both = await pair();
    allocate(both, "a", "gpus gpu-0");
    allocate(both, "b", "gpus gpu-0");
    await both.old.prepare("a");
    const booted = await openScene("dgx-h100", { locked: true, folder: both.old.folder, bootId: "next" });
    opened.push(booted);
    booted.claims.set("b", both.old.claims.get("b")!);
    expect(await booted.prepare("b")).toEqual({ b: [expect.any(String)] });
    expect(await inCheckpoint(booted)).toEqual(["b Completed"]);
  });

  test("that is the same as before is not read into memory again", async () => {
    const { old } = await pair();
    old.claims.set("a", claimObject("a", ["gpus gpu-0"]));
    await old.prepare("a");
    const entry = old.store.claims.get(referenceTo(old.claims.get("a")!).uid);
    await old.store.reload();
    expect(old.store.claims.get(entry!.uid)).toBe(entry);
    await writeFile(old.checkpoint, encodeCheckpoint({ bootId: "boot", claims: [] }));
    await old.store.reload();
    expect(old.store.claims.size).toBe(0);
  });
});

test("a process that is killed lets go of the lock, not before, whatever its garbage collector does", async () => {
  const { old, young } = await pair();
  const path = join(old.folder, "serialize.lock");
  const code = `
    import { openFileLock } from ${JSON.stringify(fileURLToPath(new URL("../../../../src/dra/driver/file-lock.ts", import.meta.url)))};
    const lock = await openFileLock(${JSON.stringify(path)});
    setInterval(() => {}, 1000);
    await lock.hold(() => new Promise(() => setTimeout(() => { gc(); process.send("held"); }, 50)));`;
  const script = join(old.folder, "holder.mjs");
  await writeFile(script, code);
  const holder = fork(script, { execArgv: ["--expose-gc"] });
  onTestFinished(() => void holder.kill("SIGKILL"));
  await new Promise((resolve) => holder.once("message", resolve));
  let got = false;
  const waiting = (await openFileLock(path)).hold(async () => {
    got = true;
  });
  young.claims.set("a", claimObject("a", ["gpus gpu-0"]));
  const preparing = young.prepare("a");
  expect(await Promise.race([waiting, preparing, new Promise((resolve) => setTimeout(resolve, 100, "nobody"))])).toBe(
    "nobody",
  );
  expect(got).toBe(false);
  holder.kill("SIGKILL");
  await waiting;
  expect(await preparing).toEqual({ a: [expect.any(String)] });
});
