import { describe, expect, test } from "vitest";
import { allocatedDevices, ClaimError } from "../../../../src/dra/driver/claim.ts";
import { deviceTable } from "../../../../src/dra/driver/inventory.ts";
import { claimObject, machineGpus, node, referenceTo } from "../../../support/driver.ts";

const inventory = { devices: deviceTable(machineGpus("dgx-h100")), losses: {} };
const uid = "11111111-1111-4111-8111-111111111111";

function order(results: string[], config?: object[]): string[] {
  const claim = claimObject("c", results, config === undefined ? {} : { config });
  return allocatedDevices(claim, referenceTo(claim), node, inventory).map(
    ({ request, device }) => `${request} ${device.name}`,
  );
}

const config = (parameters: object, source = "FromClaim", driver = "gpu.kllama.ai") => ({
  source,
  opaque: { driver, parameters },
});
const ranks = (...rankOrder: string[]) => ({ apiVersion: "gpu.kllama.ai/v1alpha1", kind: "DeviceConfig", rankOrder });

describe("devices come in rank order", () => {
  test.for<[string, string[], object[] | undefined, string[]]>([
    [
      "by PCI address, not in the order of the allocation",
      ["g gpu-3", "g gpu-0", "g gpu-1"],
      undefined,
      ["g gpu-0", "g gpu-1", "g gpu-3"],
    ],
    ["a subrequest counts as its request", ["g/big gpu-1"], undefined, ["g gpu-1"]],
    [
      "as the claim's configuration says",
      ["g gpu-0", "g gpu-1", "g gpu-2"],
      [config(ranks("gpu-2", "gpu-0"))],
      ["g gpu-2", "g gpu-0", "g gpu-1"],
    ],
    [
      "the claim overrules the class",
      ["g gpu-0", "g gpu-1"],
      [config(ranks("gpu-0")), config(ranks("gpu-1"), "FromClass")],
      ["g gpu-0", "g gpu-1"],
    ],
    [
      "the later of two overrules",
      ["g gpu-0", "g gpu-1"],
      [config(ranks("gpu-0")), config(ranks("gpu-1"))],
      ["g gpu-1", "g gpu-0"],
    ],
    [
      "other drivers' configuration is theirs",
      ["g gpu-0"],
      [config({ anything: 1 }, "FromClaim", "gpu.nvidia.com")],
      ["g gpu-0"],
    ],
  ])("%s", ([, results, settings, expected]) => {
    expect(order(results, settings)).toEqual(expected);
  });
});

describe("a claim that cannot be prepared says why", () => {
  const soundClaim = claimObject("c", ["g gpu-0"], { uid });
  test.for<[string, Parameters<typeof allocatedDevices>[0], string]>([
    ["another claim of that name", claimObject("c", ["g gpu-0"]), `claim team/c: has UID`],
    ["not allocated", { ...soundClaim, status: {} }, "claim team/c: status.allocation is missing"],
    ["nothing of this driver", claimObject("c", [], { uid }), "claim team/c: holds no device of driver gpu.kllama.ai"],
    [
      "another node's device",
      claimObject("c", ["g gpu-0"], { uid, pool: "node-2" }),
      "holds device node-2/gpu-0, which is not on node node-1",
    ],
    ["unknown device", claimObject("c", ["g gpu-9"], { uid }), "node node-1 has no device gpu-9"],
    [
      "configuration with an unknown field",
      claimObject("c", ["g gpu-0"], { uid, config: [config({ ...ranks("gpu-0"), sharing: {} })] }),
      'configuration for gpu.kllama.ai (FromClaim): : Unrecognized key: "sharing"',
    ],
    [
      "configuration of another version",
      claimObject("c", ["g gpu-0"], { uid, config: [config({ ...ranks("gpu-0"), apiVersion: "v2" }, "FromClass")] }),
      "(FromClass): apiVersion",
    ],
    [
      "ranks of devices that it does not hold",
      claimObject("c", ["g gpu-0"], { uid, config: [config(ranks("gpu-1"))] }),
      "rankOrder names gpu-1, which the claim does not hold",
    ],
  ])("%s", ([, claim, message]) => {
    const read = () => allocatedDevices(claim, { namespace: "team", name: "c", uid }, node, inventory);
    expect(read).toThrow(ClaimError);
    expect(read).toThrow(message);
  });

  test("a lost device, and a partition of a lost GPU", () => {
    const losses = { "gpu-1": { how: "taint", since: "2026-01-01T00:00:00Z" } } as const;
    const mig = { devices: deviceTable(machineGpus("dgx-a100-mig")), losses };
    for (const device of ["gpu-1", "gpu-1-mig-1g10gb-19-0"]) {
      const claim = claimObject("c", [`g ${device}`]);
      expect(() => allocatedDevices(claim, referenceTo(claim), node, mig)).toThrow(
        `device ${device} is lost since 2026`,
      );
    }
  });
});
