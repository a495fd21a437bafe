import process from "node:process";
import type { ResourceClaim } from "../../src/api/kubernetes.ts";
import { openScene } from "./driver.ts";
import { act, type Deed } from "./driver-life.ts";

/**
 * A driver in a process of its own, to be killed inside: opens what its predecessor left, does its deeds, and dies of SIGKILL
 * right after that many effects on disk and boards.
 */
export interface Life {
  folder: string;
  type: string;
  claims: readonly ResourceClaim[];
  deeds: readonly Deed[];
  dieAfter: number;
}

const life = JSON.parse(process.argv[2] ?? "") as Life;
let left = life.dieAfter;
const driver = await openScene(life.type, {
  folder: life.folder,
  onEffect: () => {
    left -= 1;
    if (left === 0) process.kill(process.pid, "SIGKILL");
  },
});
for (const claim of life.claims) driver.claims.set(claim.metadata.name, claim);
for (const deed of life.deeds) await act(driver, deed);
process.exit(0);
