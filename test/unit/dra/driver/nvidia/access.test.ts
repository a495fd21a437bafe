import { randomUUID } from "node:crypto";
import { expect, test } from "vitest";
import { specFile } from "../../../../../src/dra/driver/cdi.ts";
import type { Host } from "../../../../../src/dra/driver/host/host.ts";
import { nvidiaAccess } from "../../../../../src/dra/driver/nvidia/access.ts";

test("of the specs beside nvidia-ctk's, those of other claims are not read: there is one for each pod of the node", async () => {
  const read: string[] = [];
  const description = "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices: [{ name: GPU-1 }]\n";
  const host: Host = {
    names: async (path) =>
      path === "/var/run/cdi" ? ["nvidia.yaml", ...Array.from({ length: 110 }, () => specFile(randomUUID()))] : [],
    async text(path) {
      read.push(path);
      return description;
    },
    target: async () => undefined,
  };
  const gpu = { uuid: "GPU-1", minor: 0, pciBusID: "0000:1b:00.0" };
  const device = { request: "gpus", pool: "n", device: "gpu-0", adminAccess: false, gpu };
  expect(await nvidiaAccess(host, device)).toEqual({ nodes: [], references: ["nvidia.com/gpu=GPU-1"] });
  expect(read).toEqual(["/var/run/cdi/nvidia.yaml"]);
});
