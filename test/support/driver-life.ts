import { rm } from "node:fs/promises";
import { watchForeignPartitions } from "../../src/dra/driver/foreign-partitions.ts";
import { startUpkeep } from "../../src/dra/driver/upkeep.ts";
import { systemTiming } from "../../src/kube/timing.ts";
import { type DriverScene, node } from "./driver.ts";

/** What a driver that was just started tells of its upkeep. */
export interface Awakening {
  /** Each time that it says that the checkpoint was rebuilt: why, and where the old one is kept. */
  rebuilt: { why: string; aside: string | undefined }[];
  undone: number;
  strays: number;
}

/** The upkeep of a driver at its start, as the node agent does it: rebuilds a lost checkpoint, and reconciles once. */
export async function awaken(driver: DriverScene): Promise<Awakening> {
  const { memory, preparation, store, checkpoint, cdiFolder, claims } = driver;
  const machine = watchForeignPartitions(driver.machine, () => store.claims.values(), systemTiming);
  const rebuilt: Awakening["rebuilt"] = [];
  const { promise, resolve, reject } = Promise.withResolvers<Awakening>();
  const upkeep = startUpkeep({
    ...{ memory, preparation, store, machine, checkpoint, cdiFolder, timing: systemTiming, pool: node },
    readClaim: async (_, name) => claims.get(name),
    findForeign: machine.findForeign,
    onPresent: () => undefined,
    onRebuilt: ({ why }, aside) => void rebuilt.push({ why, aside }),
    onRepairs: (repairs) => resolve({ ...repairs, rebuilt }),
    onError: (part, error) => reject(new Error(`${part}: ${String(error)}`)),
  });
  try {
    return await promise;
  } finally {
    await upkeep.stop();
  }
}

/** One thing that is asked of a driver, claims by name; or that befalls it. */
export type Deed =
  | { awaken: true }
  | { loseCheckpoint: true }
  | { prepare: readonly string[] }
  | { unprepare: readonly string[] };

/** Rejects when a claim fails. */
export async function act(driver: DriverScene, deed: Deed): Promise<void> {
  if ("awaken" in deed) return void (await awaken(driver));
  if ("loseCheckpoint" in deed) return rm(driver.checkpoint);
  const answers = "prepare" in deed ? await driver.prepare(...deed.prepare) : await driver.unprepare(...deed.unprepare);
  const failed = Object.values(answers).find((answer) => typeof answer === "string" && answer !== "");
  if (failed !== undefined) throw new Error(String(failed));
}
