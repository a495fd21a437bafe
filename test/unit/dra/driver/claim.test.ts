import { describe, expect, test } from "vitest";
import { allocatedDevices, ClaimError } from "../../../../src/dra/driver/claim.ts";
import { deviceTable } from "../../../../src/dra/driver/inventory.ts";
import { claimObject, node, referenceTo } from "../../../support/driver.ts";
import { machineGpus } from "../../../support/machine-gpus.ts";

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

describe("sharing", () => {
  const slicing = (interval: string) => ({
    ...{ apiVersion: "gpu.kllama.ai/v1alpha1", kind: "DeviceConfig" },
    sharing: { strategy: "TimeSlicing", timeSlicingConfig: { interval } },
  });
  const shared = (results: string[], settings: object[], type = "dgx-h100") => {
    const claim = claimObject("c", results, { config: settings });
    const lookup = { devices: deviceTable(machineGpus(type)), losses: {} };
    return allocatedDevices(claim, referenceTo(claim), node, lookup).map(({ device, sharing }) => [
      device.name,
      sharing?.strategy === "TimeSlicing" ? sharing.timeSlicingConfig?.interval : sharing?.strategy,
    ]);
  };

  test("is for the requests that the configuration names; class before claim, the last one counts", () => {
    const settings = [
      { ...config(slicing("Long")), requests: ["a"] },
      config(slicing("Short"), "FromClass"),
      { ...config(slicing("Medium")), requests: ["c/big"] },
    ];
    expect(shared(["a gpu-0", "b gpu-1", "c/big gpu-2", "c/small gpu-3"], settings)).toEqual([
      ["gpu-0", "Long"],
      ["gpu-1", "Short"],
      ["gpu-2", "Medium"],
      ["gpu-3", "Short"],
    ]);
  });

  test.for<[string, object, string]>([
    ["an unknown strategy", { strategy: "Luck" }, "sharing.strategy: Invalid"],
    ["an unknown interval", slicing("Eternal").sharing, "sharing.timeSlicingConfig.interval: Invalid option"],
    ["another strategy's parameters", { strategy: "TimeSlicing", mpsConfig: {} }, 'Unrecognized key: "mpsConfig"'],
    [
      "a share beyond the whole",
      { strategy: "MPS", mpsConfig: { defaultActiveThreadPercentage: 101 } },
      "sharing.mpsConfig.defaultActiveThreadPercentage: Too big",
    ],
    [
      "a limit in bytes",
      { strategy: "MPS", mpsConfig: { defaultPinnedDeviceMemoryLimit: "10Gi" } },
      "write megabytes or gigabytes",
    ],
  ])("%s is refused", ([, sharing, error]) => {
    expect(() => shared(["a gpu-0"], [config({ ...slicing("Long"), sharing })])).toThrow(error);
  });

  test("a partition's time is its own", () => {
    expect(() => shared(["a gpu-0-mig-1g10gb-19-0"], [config(slicing("Long"))], "dgx-a100-mig")).toThrow(
      "device gpu-0-mig-1g10gb-19-0 is a partition; TimeSlicing is for whole GPUs",
    );
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
    [
      "a device of a pool with a slash in its name",
      claimObject("c", ["g gpu-0"], { uid, pool: `rack/${node}` }),
      "holds device rack/node-1/gpu-0, which is not on node node-1",
    ],
    ["unknown device", claimObject("c", ["g gpu-9"], { uid }), "node node-1 has no device gpu-9"],
    [
      "configuration with an unknown field",
      claimObject("c", ["g gpu-0"], { uid, config: [config({ ...ranks("gpu-0"), colour: {} })] }),
      'configuration for gpu.kllama.ai (FromClaim): : Unrecognized key: "colour"',
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

  test("but not a device with a taint that the claim tolerates", () => {
    const since = "2026-01-01T00:00:00Z";
    const troubles = { "gpu-1": [{ key: "xid", value: "79", since, message: "XID 79" }] } as const;
    const claim = claimObject("c", ["g gpu-1"]);
    const [device] = allocatedDevices(claim, referenceTo(claim), node, { ...inventory, troubles } as typeof inventory);
    expect(device?.device.name).toBe("gpu-1");
  });
});
