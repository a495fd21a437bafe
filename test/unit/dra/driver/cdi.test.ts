import { describe, expect, test } from "vitest";
import {
  cdiSpec,
  claimOfFile,
  claimOfSpec,
  isClaimUid,
  partlyShown,
  specFile,
} from "../../../../src/dra/driver/cdi.ts";
import { allocatedDevices } from "../../../../src/dra/driver/claim.ts";
import { deviceTable } from "../../../../src/dra/driver/inventory.ts";
import { type PreparedClaim, preparedDevice } from "../../../../src/dra/driver/prepared-claim.ts";
import { claimObject, node, referenceTo } from "../../../support/driver.ts";
import { machineGpus } from "../../../support/machine-gpus.ts";

const uid = "11111111-1111-4111-8111-111111111111";

function prepared(type: string, results: string[]): PreparedClaim {
  const claim = claimObject("c", results, { uid });
  const allocated = allocatedDevices(claim, referenceTo(claim), node, {
    devices: deviceTable(machineGpus(type)),
    losses: {},
  });
  return { ...referenceTo(claim), state: "Completed", devices: allocated.map((each) => preparedDevice(each, node)) };
}

test("one CDI device per request carries the whole environment, in rank order", () => {
  const [first, second, third] = machineGpus("dgx-h100").map((gpu) => gpu.uuid);
  expect(cdiSpec(prepared("dgx-h100", ["b gpu-2", "a gpu-1", "a gpu-0"]))).toEqual({
    cdiVersion: "0.6.0",
    kind: "gpu.kllama.ai/claim",
    annotations: { "gpu.kllama.ai/claim": "team/c" },
    devices: [
      {
        name: `${uid}-a`,
        containerEdits: {
          env: [
            `IREE_DEVICE=cuda://${first},cuda://${second}`,
            `CUDA_VISIBLE_DEVICES=${first},${second}`,
            "NVIDIA_VISIBLE_DEVICES=void",
            "KLLAMA_DEVICE_TARGETS=sm_90,sm_90",
            "KLLAMA_DEVICE_CUDA=12.8",
          ],
        },
      },
      {
        name: `${uid}-b`,
        containerEdits: {
          env: [
            `IREE_DEVICE=cuda://${third}`,
            `CUDA_VISIBLE_DEVICES=${third}`,
            "NVIDIA_VISIBLE_DEVICES=void",
            "KLLAMA_DEVICE_TARGETS=sm_90",
            "KLLAMA_DEVICE_CUDA=12.8",
          ],
        },
      },
    ],
  });
});

test("a partition is CUDA's device 0, visible by its own UUID", () => {
  const claim = prepared("dgx-a100-mig", ["m gpu-0-mig-1g10gb-19-3"]);
  claim.devices[0]!.partition!.uuid = "MIG-1";
  const [device] = cdiSpec(claim).devices;
  expect(device?.containerEdits.env).toEqual(
    expect.arrayContaining(["IREE_DEVICE=cuda://0", "CUDA_VISIBLE_DEVICES=MIG-1", "KLLAMA_DEVICE_TARGETS=sm_80"]),
  );
});

test("of several partitions IREE gets the one that CUDA shows a process; the others stand where one may be told to look", () => {
  const claim = prepared("dgx-a100-mig", [
    "m gpu-0-mig-1g10gb-19-3",
    "m gpu-1-mig-1g10gb-19-0",
    "n gpu-2-mig-1g10gb-19-0",
  ]);
  for (const [index, device] of claim.devices.entries()) device.partition!.uuid = `MIG-${index + 1}`;
  expect(
    cdiSpec(claim).devices.map(({ containerEdits: { env } }) =>
      env.filter((text) => !/^(NVIDIA|KLLAMA_DEVICE_CUDA)/.test(text)),
    ),
  ).toEqual([
    ["IREE_DEVICE=cuda://0", "CUDA_VISIBLE_DEVICES=MIG-1,MIG-2", "KLLAMA_DEVICE_TARGETS=sm_80"],
    ["IREE_DEVICE=cuda://0", "CUDA_VISIBLE_DEVICES=MIG-3", "KLLAMA_DEVICE_TARGETS=sm_80"],
  ]);
  expect(partlyShown(claim)).toEqual(["m"]);
  expect(partlyShown(prepared("dgx-h100", ["a gpu-0", "a gpu-1"]))).toEqual([]);
});

test("a spec tells its claim; others' files and contents do not", () => {
  const spec = cdiSpec(prepared("dgx-h100", ["a gpu-0"]));
  expect(claimOfFile(specFile(uid))).toBe(uid);
  expect(claimOfSpec(spec, uid)).toEqual({ namespace: "team", name: "c", uid });
  for (const other of [null, 7, {}, { annotations: {} }, { annotations: { "gpu.kllama.ai/claim": "a/b/c" } }]) {
    expect(claimOfSpec(other, uid)).toBeUndefined();
  }
  for (const file of ["nvidia.yaml", `${specFile(uid)}.tmp`, specFile("../../etc/passwd"), specFile("")]) {
    expect(claimOfFile(file)).toBeUndefined();
  }
});

describe("only a UUID becomes a file name", () => {
  test.for([
    [uid, true],
    ["ABCDEF00-1111-4111-8111-111111111111", false],
    ["", false],
    ["..", false],
    [`${uid}/..`, false],
    [`../${uid}`, false],
    [`${uid}\n`, false],
    ["__proto__", false],
  ] as const)("%j: %s", ([text, expected]) => {
    expect(isClaimUid(text)).toBe(expected);
  });
});
