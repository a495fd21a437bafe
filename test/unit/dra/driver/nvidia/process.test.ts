import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test, vi } from "vitest";
import type { DeviceHealthMessage } from "../../../../../src/dra/driver/grpc.ts";
import { claimObject, referenceTo } from "../../../../support/driver.ts";
import { connectKubelet } from "../../../../support/kubelet-client.ts";
import { startNodeAgentProcess } from "../../../../support/node-agent-process.ts";
import { fakeNvml, fakeNvmlFiles, withoutCompiler } from "../../../../support/nvml/fake.ts";

const soon = { timeout: 25_000, interval: 50 };

test.skipIf(fakeNvml === undefined)(
  `the node agent answers the kubelet while NVML does not start yet, and publishes its devices once it does${withoutCompiler}`,
  async () => {
    const host = mkdtempSync(join(tmpdir(), "kllama-host-"));
    mkdirSync(join(host, "dev"));
    for (const name of ["nvidia0", "nvidiactl", "nvidia-uvm"]) writeFileSync(join(host, "dev", name), "");
    const { env, setFaults } = fakeNvmlFiles("hgx", host);
    setFaults("slow nvmlInit_v2 600000");
    const agent = await startNodeAgentProcess(
      ["--inventory", "nvidia", "--nvml-library", fakeNvml!, "--host-root", host],
      env,
    );
    const kubelet = connectKubelet(agent.registrationSocket, agent.draSocket);
    try {
      const claim = claimObject("c", ["gpus gpu-0"]);
      agent.claims.set("c", claim);
      const { uid } = referenceTo(claim);
      const heard: DeviceHealthMessage[][] = [];
      const stop = kubelet.watchHealth("v1.DRAResourceHealth", (devices) => heard.push(devices));
      expect(await kubelet.getInfo()).toMatchObject({ name: "gpu.kllama.ai" });
      expect((await kubelet.prepare([referenceTo(claim)]))[uid]?.error).toMatch(
        /the devices of node node-1 could not be read yet: they are being read$/,
      );
      await vi.waitFor(() => expect(heard.at(-1)).toEqual([]), soon);
      setFaults();
      await vi.waitFor(() => expect(heard.at(-1)?.map(({ health }) => health)).toEqual(Array(8).fill("HEALTHY")), soon);
      expect((await kubelet.prepare([referenceTo(claim)]))[uid]?.error).toBe("");
      stop();
    } finally {
      kubelet.close();
      await agent.remove();
      rmSync(host, { recursive: true, force: true });
    }
  },
);
