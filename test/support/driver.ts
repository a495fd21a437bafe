import { randomUUID } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { readdir, readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ResourceClaim } from "../../src/api/kubernetes.ts";
import { driverName } from "../../src/api/names.ts";
import { specFile } from "../../src/dra/driver/cdi.ts";
import type { OnForgotten } from "../../src/dra/driver/claim-steps.ts";
import { type ClaimStore, createClaimStore } from "../../src/dra/driver/claim-store.ts";
import type { CallState } from "../../src/dra/driver/dra-server.ts";
import type { OnEffect } from "../../src/dra/driver/durable-files.ts";
import { openFileLock } from "../../src/dra/driver/file-lock.ts";
import type { ClaimReference } from "../../src/dra/driver/grpc.ts";
import type { Machine } from "../../src/dra/driver/machine.ts";
import { createPreparation, type Preparation, type PreparationOptions } from "../../src/dra/driver/preparation.ts";
import type { PreparedClaim } from "../../src/dra/driver/prepared-claim.ts";
import { type Memory, readMemory } from "../../src/dra/driver/recovery.ts";
import { openSimulatedMachine } from "../../src/simulator/machine.ts";

/** One node's driver without kubelet and API server: what it prepares lies in a folder of its own. */

export const node = "node-1";

/** A call whose caller always waits for the answer. */
export const awaited: CallState = { cancelled: false, once: () => undefined };

/** `["gpus gpu-0", "other gpu-1 admin"]`: request, device, and whether an administrator has it beside others. */
export function claimObject(
  name: string,
  results: readonly string[],
  more: { uid?: string; pool?: string; deleting?: boolean; config?: object[] } = {},
): ResourceClaim {
  const { uid = randomUUID(), pool = node, config } = more;
  return {
    metadata: {
      name,
      namespace: "team",
      uid,
      ...(more.deleting === true ? { deletionTimestamp: "2026-01-01T00:00:00Z" } : {}),
    },
    spec: {},
    status: {
      allocation: {
        devices: {
          results: results.map((text) => {
            const [request = "", device = "", admin] = text.split(" ");
            const adminAccess = admin === "admin" ? { adminAccess: true } : {};
            return { request, driver: driverName, pool, device, ...adminAccess };
          }),
          ...(config === undefined ? {} : { config: config as never }),
        },
      },
    },
  };
}

export function referenceTo({ metadata }: ResourceClaim): ClaimReference {
  return { namespace: metadata.namespace ?? "", name: metadata.name, uid: metadata.uid ?? "" };
}

export interface DriverScene {
  folder: string;
  cdiFolder: string;
  checkpoint: string;
  machine: Machine;
  /** What was known at the start. */
  memory: Memory;
  store: ClaimStore;
  preparation: Preparation;
  /** Name → what the API server says. */
  claims: Map<string, ResourceClaim>;
  /** Claims that were prepared anew, in order. */
  prepared: PreparedClaim[];
  /** Prepares claims that the API server has. @returns CDI device IDs, or the error, by claim name. */
  prepare(...names: string[]): Promise<Record<string, string[] | string>>;
  /** @returns the error by claim name, empty if all went well. */
  unprepare(...names: string[]): Promise<Record<string, string>>;
  specs(): Promise<string[]>;
  /** Text of the claim's CDI spec. */
  spec(name: string): Promise<string>;
  remove(): Promise<void>;
}

/** Told of every step that changes disk or board as it begins; the next one waits for what `after` returns. */
export interface StepHooks {
  before(step: string): void;
  after(step: string): Promise<void>;
}

function stepwise<T extends object>(object: T, names: readonly (keyof T & string)[], hooks: StepHooks): T {
  const steps = names.map((name) => [
    name,
    async (...args: unknown[]): Promise<unknown> => {
      hooks.before(name);
      const result: unknown = await (object[name] as (...args: unknown[]) => Promise<unknown>)(...args);
      await hooks.after(name);
      return result;
    },
  ]);
  return { ...object, ...Object.fromEntries(steps) };
}

/**
 * Opened again on the same folder it is the driver after a restart; with `locked`, one that runs beside others there. `type`
 * counts unless there is a `machine`.
 */
export async function openScene(
  type: string,
  options: {
    folder?: string;
    onEffect?: OnEffect;
    bootId?: string;
    /** Default: `cdi` in the folder. */
    cdiFolder?: string;
    machine?: Machine;
    locked?: boolean;
    hooks?: StepHooks;
    /** In place of what the API server says of `claims`. */
    readClaim?: PreparationOptions["readClaim"];
    onForgotten?: OnForgotten;
  } = {},
): Promise<DriverScene> {
  const {
    folder = mkdtempSync(join(tmpdir(), "kllama-driver-")),
    onEffect = () => undefined,
    bootId = "boot",
    hooks = { before: () => undefined, after: async () => undefined },
  } = options;
  const { cdiFolder = join(folder, "cdi") } = options;
  const checkpoint = join(folder, "checkpoint.json");
  const machine = stepwise(
    options.machine ?? (await simulated(type, folder, onEffect)),
    ["createGpuInstance", "createComputeInstance", "destroyGpuInstance", "setTimeSlice"],
    hooks,
  );
  const memory = await readMemory(checkpoint, cdiFolder, bootId);
  const files = createClaimStore({ checkpoint, cdiFolder, bootId, onEffect }, memory.claims);
  const store = stepwise(files, ["save", "writeSpec", "restoreSpec", "removeSpec"], hooks);
  const claims = new Map<string, ResourceClaim>();
  const prepared: PreparedClaim[] = [];
  const preparation = createPreparation({
    pool: node,
    machine,
    store,
    readClaim: options.readClaim ?? (async (_, name) => claims.get(name)),
    ...(options.onForgotten === undefined ? {} : { onForgotten: options.onForgotten }),
    onPrepared: (claim) => void prepared.push(claim),
    ...(options.locked === true ? { lock: await openFileLock(join(folder, "serialize.lock")) } : {}),
  });
  const references = (names: readonly string[]): ClaimReference[] =>
    names.map((name) => {
      const claim = claims.get(name);
      if (claim === undefined) throw new Error(`the test has no claim ${name}`);
      return referenceTo(claim);
    });
  return {
    ...{ folder, cdiFolder, checkpoint, machine, memory, store, preparation, claims, prepared },
    async prepare(...names) {
      const wanted = references(names);
      const answers = await preparation.prepare(wanted, awaited);
      return Object.fromEntries(
        wanted.map(({ name, uid }) => {
          const { error, devices } = answers[uid]!;
          return [name, error || devices.flatMap(({ cdi_device_ids }) => cdi_device_ids)];
        }),
      );
    },
    async unprepare(...names) {
      const wanted = references(names);
      const answers = await preparation.unprepare(wanted, awaited);
      return Object.fromEntries(wanted.map(({ name, uid }) => [name, answers[uid]!.error]));
    },
    spec: (name) => readFile(join(cdiFolder, specFile(claims.get(name)?.metadata.uid ?? "")), "utf8"),
    specs: async () => (await readdir(cdiFolder)).toSorted(),
    async remove() {
      await preparation.idle();
      await machine.close();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** Fleets are read by those alone who need one: a driver that is killed right after its start has its machine told. */
async function simulated(type: string, folder: string, onEffect: OnEffect): Promise<Machine> {
  const { machineGpus } = await import("./machine-gpus.ts");
  return openSimulatedMachine(machineGpus(type), join(folder, "machine.json"), onEffect);
}
