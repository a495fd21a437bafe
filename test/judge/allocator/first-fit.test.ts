import { readFileSync } from "node:fs";
import { beforeAll, expect, test } from "vitest";
import { parseAllDocuments } from "yaml";
import type { DeviceClass, ResourceClaim } from "../../../src/api/kubernetes.ts";
import { poolSlices } from "../../../src/dra/driver/slices.ts";
import { node } from "../../support/driver.ts";
import { machineGpus } from "../../support/machine-gpus.ts";
import { ask, buildJudge } from "./judge.ts";

/** The driver's slices under Kubernetes' own allocator, which takes the first devices that match: what their order is good for. */

let program: string;
beforeAll(async () => {
  program = await buildJudge();
});

const classes = parseAllDocuments(readFileSync("deploy/device-classes.yaml", "utf8")).map(
  (document) => document.toJS() as DeviceClass,
);

/** Four GPUs, of which bridges join 0 with 2 and 1 with 3, as boards may be plugged in. */
const slices = poolSlices(
  { gpus: machineGpus("h100-pcie").map((gpu) => ({ ...gpu, nvlinkDomain: `bridge-${gpu.minor % 2}` })), losses: {} },
  { nodeName: node, nodeUid: "uid", generation: 1 },
);

/** Devices of claims that come one after the other; `joined`: those of a claim are to be joined by NVLink. */
function allocated(counts: readonly number[], joined = false): string[][] {
  const claims: ResourceClaim[] = [];
  for (const [index, count] of counts.entries()) {
    const constraint = { requests: ["gpus"], matchAttribute: "gpu.kllama.ai/nvlinkDomain" };
    const claim: ResourceClaim = {
      metadata: { name: `c${index}`, namespace: "team", uid: `uid-${index}` },
      spec: {
        devices: {
          requests: [
            { name: "gpus", exactly: { deviceClassName: "gpu.kllama.ai", allocationMode: "ExactCount", count } },
          ],
          ...(joined ? { constraints: [constraint] } : {}),
        },
      },
    };
    const question = { node: { metadata: { name: node, uid: "uid" } }, slices, rules: [], classes, claims: [claim] };
    const [answer] = ask(program, [{ ...question, allocated: [...claims], timeoutMs: 60_000 }]);
    const allocation = answer?.allocations?.[0];
    if (allocation === undefined) throw new Error(`${answer?.verdict} ${answer?.message}`);
    claims.push({ ...claim, status: { allocation } });
  }
  return claims.map(({ status }) =>
    (status?.allocation?.devices?.results ?? []).map(({ device }) => device).toSorted(),
  );
}

test("pairs get boards that a bridge joins, and single ones fill a pair before they break the next", () => {
  expect(allocated([2, 2])).toEqual([
    ["gpu-0", "gpu-2"],
    ["gpu-1", "gpu-3"],
  ]);
  expect(allocated([1, 1, 2])).toEqual([["gpu-0"], ["gpu-2"], ["gpu-1", "gpu-3"]]);
});

test("a pair behind a single one is torn by the order alone; asked to be joined it is not", () => {
  expect(allocated([1, 2])[1]).toEqual(["gpu-1", "gpu-2"]);
  expect(allocated([1, 2], true)[1]).toEqual(["gpu-1", "gpu-3"]);
});
