import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import type { ResourceClaim } from "../../../src/api/kubernetes.ts";
import { cdiSpec } from "../../../src/dra/driver/cdi.ts";
import { observedClaim } from "../../../src/simulator/observed.ts";
import { claimObject, openScene } from "../../support/driver.ts";
import { openKubelets, podOf } from "../../support/kubelets.ts";

/** The node agent of one node, with its files, and the fleet's answer to the same claims. */

const losses = { "gpu-7": { how: "taint", since: "2026-01-01T00:00:00Z" } } as const;
const configured = (parameters: object) => ({
  config: [
    {
      source: "FromClaim",
      opaque: {
        driver: "gpu.kllama.ai",
        parameters: { apiVersion: "gpu.kllama.ai/v1alpha1", kind: "DeviceConfig", ...parameters },
      },
    },
  ],
});

/** The node agent's error, or its specs, for claims prepared one after another. */
async function askNodeAgent(claims: readonly ResourceClaim[]): Promise<unknown[]> {
  const folder = mkdtempSync(join(tmpdir(), "kllama-driver-"));
  writeFileSync(join(folder, "machine.json"), JSON.stringify({ instances: [], losses }));
  const driver = await openScene("dgx-a100-mig", { folder });
  const answers: unknown[] = [];
  for (const claim of claims) {
    const { name } = claim.metadata;
    driver.claims.set(name, claim);
    const answer = (await driver.prepare(name))[name];
    answers.push(typeof answer === "string" ? answer : JSON.parse(await driver.spec(name)));
  }
  await driver.remove();
  return answers;
}

async function askFleet(claims: readonly ResourceClaim[]): Promise<unknown[]> {
  const { kubelets, upon, prepared } = openKubelets("dgx-a100-mig", { down: false, losses });
  const answers: unknown[] = [];
  for (const claim of claims) {
    const { name } = claim.metadata;
    const pod = podOf(name, [name], { namespace: "team", node: "node-1" });
    const reservedFor = [{ resource: "pods", name, uid: pod.uid }];
    const [decision] = await upon(
      () => kubelets.claimChanged(observedClaim({ ...claim, status: { ...claim.status, reservedFor } })),
      () => kubelets.podChanged(pod),
    );
    answers.push(decision?.type === "problem" ? decision.problem.refusal : cdiSpec(prepared.at(-1)!));
  }
  return answers;
}

/** Partitions get another UUID each time. */
const normal = (answer: unknown): string =>
  (typeof answer === "string" ? answer : JSON.stringify(answer)).replaceAll(/MIG-[0-9a-f-]{36}/g, "MIG-…");

test.for<[string, ResourceClaim[]]>([
  ["GPUs in rank order", [claimObject("c", ["a gpu-1", "a gpu-0", "b gpu-3"], configured({ rankOrder: ["gpu-1"] }))]],
  ["partitions", [claimObject("c", ["a gpu-0-mig-2g20gb-14-2", "a gpu-1-mig-1g10gb-19-6"])]],
  ["a GPU in use", [claimObject("c", ["a gpu-0"]), claimObject("d", ["a gpu-1", "a gpu-0"])]],
  ["memory slices in use", [claimObject("c", ["a gpu-0-mig-2g20gb-14-2"]), claimObject("d", ["a gpu-0"])]],
  [
    "engines in use",
    [claimObject("c", ["a gpu-0-mig-1g10gb-me-20-0"]), claimObject("d", ["a gpu-0-mig-1g10gb-me-20-1"])],
  ],
  ["a device twice", [claimObject("c", ["a gpu-0", "b gpu-0"])]],
  ["a device that is lost", [claimObject("c", ["a gpu-7"])]],
  ["a device that does not exist", [claimObject("c", ["a gpu-8"])]],
  ["a device of another node", [claimObject("c", ["a gpu-0"], { pool: "elsewhere" })]],
  ["a configuration that nobody understands", [claimObject("c", ["a gpu-0"], configured({ colour: "blue" }))]],
  [
    "time slices of a partition",
    [claimObject("c", ["a gpu-0-mig-1g10gb-19-0"], configured({ sharing: { strategy: "TimeSlicing" } }))],
  ],
  ["an order of devices that are not there", [claimObject("c", ["a gpu-0"], configured({ rankOrder: ["gpu-1"] }))]],
  ["a claim that is being deleted", [claimObject("c", ["a gpu-0"], { deleting: true })]],
])("%s: fleet and node agent say the same", async ([, claims]) => {
  const expected = await askNodeAgent(claims);
  expect((await askFleet(claims)).map(normal)).toEqual(expected.map(normal));
});
