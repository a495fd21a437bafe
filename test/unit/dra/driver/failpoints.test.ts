import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { expect, test } from "vitest";
import { specFile } from "../../../../src/dra/driver/cdi.ts";
import { claimObject, referenceTo } from "../../../support/driver.ts";
import { connectKubelet, type KubeletClient } from "../../../support/kubelet-client.ts";
import { startNodeAgentProcess } from "../../../support/node-agent-process.ts";

/**
 * The node agent as it runs on a node, killed by SIGKILL inside a call of the kubelet's: it answers again soon, and the call that is
 * made again succeeds. `npm run driver-faults` dies at more steps, and holds it to two seconds on a machine that does nothing else.
 */
const all = process.env["KLLAMA_DRIVER_FAULTS"] === "all";
const mostMs = all ? 2_000 : 20_000;

/** What it is about to do, and the step after which it dies. */
const deaths: readonly (readonly ["prepare" | "unprepare", string])[] = [
  ["prepare", "board/create-gpu-instance:1"],
  ["unprepare", "board/destroy:1"],
  ...(all
    ? ([
        ["prepare", "checkpoint/rename:1"],
        ["prepare", "board/create-compute-instance:1"],
        ["prepare", "board/time-slice:1"],
        ["prepare", "spec/write:1"],
        ["prepare", "spec/rename:2"],
        ["prepare", "checkpoint/write:4"],
        ["unprepare", "checkpoint/rename:1"],
        ["unprepare", "spec/remove:1"],
        ["unprepare", "board/time-slice:1"],
        ["unprepare", "checkpoint/rename:2"],
      ] as const)
    : []),
];

const sharing = { strategy: "TimeSlicing", timeSlicingConfig: { interval: "Long" } };
const parameters = { apiVersion: "gpu.kllama.ai/v1alpha1", kind: "DeviceConfig", sharing };
const claims = [
  claimObject("part", ["gpus gpu-0-mig-2g20gb-14-2"]),
  claimObject("whole", ["gpus gpu-1"], {
    config: [{ source: "FromClaim", opaque: { driver: "gpu.kllama.ai", parameters } }],
  }),
];

test(`killed ${deaths.length} times inside a call, the node agent answers within ${mostMs / 1_000} s, and nothing is lost or left over`, async () => {
  const environment: Record<string, string> = {};
  const agent = await startNodeAgentProcess(["--inventory", "simulated:dgx-a100-mig"], environment);
  const wanted = claims.map(referenceTo);
  for (const claim of claims) agent.claims.set(claim.metadata.name, claim);
  const withKubelet = async <T>(work: (kubelet: KubeletClient) => Promise<T>): Promise<T> => {
    const kubelet = connectKubelet(agent.registrationSocket, agent.draSocket);
    try {
      return await work(kubelet);
    } finally {
      kubelet.close();
    }
  };
  const errors = async (verb: "prepare" | "unprepare"): Promise<string[]> => {
    const answers = await withKubelet((kubelet) => kubelet[verb](wanted));
    return wanted.map(({ uid }) => answers[uid]?.error ?? "not answered");
  };
  const left = () => {
    const { instances = [], timeSlices = {} } = JSON.parse(
      readFileSync(join(agent.stateFolder, "simulated-machine.json"), "utf8"),
    ) as { instances?: object[]; timeSlices?: object };
    return [readdirSync(agent.cdiFolder).toSorted(), instances.length, Object.keys(timeSlices).length];
  };
  const specs = wanted.map(({ uid }) => specFile(uid)).toSorted();
  try {
    for (const [verb, failpoint] of deaths) {
      if (verb === "unprepare") expect(await errors("prepare")).toEqual(["", ""]);
      environment["KLLAMA_FAILPOINT"] = failpoint;
      await agent.restart();
      await expect(errors(verb), failpoint).rejects.toThrow();
      delete environment["KLLAMA_FAILPOINT"];
      expect(await agent.killAndRestart(), failpoint).toBeLessThan(mostMs);
      expect(await errors(verb), failpoint).toEqual(["", ""]);
      if (verb === "prepare") expect(left(), failpoint).toEqual([specs, 1, 1]);
      expect(await errors("unprepare")).toEqual(["", ""]);
      expect(left(), failpoint).toEqual([[], 0, 0]);
    }
  } finally {
    await agent.remove();
  }
});
