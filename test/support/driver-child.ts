import { join } from "node:path";
import process from "node:process";
import type { ResourceClaim } from "../../src/api/kubernetes.ts";
import type { Gpu } from "../../src/dra/driver/inventory.ts";
import { openSimulatedMachine } from "../../src/simulator/machine.ts";
import { openScene } from "./driver.ts";
import { act, type Deed } from "./driver-life.ts";

/**
 * A driver in a process of its own, to be killed inside: opens what its predecessor left, does its deeds, and dies of SIGKILL
 * right after that many effects on disk and boards.
 */
export interface Life {
  folder: string;
  gpus: readonly Gpu[];
  claims: readonly ResourceClaim[];
  deeds: readonly Deed[];
  dieAfter: number;
}

const life = JSON.parse(process.argv[2] ?? "") as Life;
let left = life.dieAfter;
const onEffect = (): void => {
  left -= 1;
  if (left === 0) process.kill(process.pid, "SIGKILL");
};
const machine = await openSimulatedMachine(life.gpus, join(life.folder, "machine.json"), onEffect);
const driver = await openScene("", { folder: life.folder, machine, onEffect });
for (const claim of life.claims) driver.claims.set(claim.metadata.name, claim);
for (const deed of life.deeds) await act(driver, deed);
process.exit(0);
