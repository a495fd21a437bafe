import { afterEach, describe, expect, test, vi } from "vitest";
import type * as Claim from "../../../src/dra/driver/claim.ts";
import type * as Partitions from "../../../src/dra/driver/partitions.ts";
import type * as Prepared from "../../../src/dra/driver/prepared-claim.ts";
import type { PreparedDevice } from "../../../src/dra/driver/prepared-claim.ts";
import { isViolation } from "../../../src/simulator/problems.ts";
import { claimOf, openKubelets, podOf, shown } from "../../support/kubelets.ts";

/** Does the judge hold? One check of the driver is taken out at a time, and the judge has to notice. */

interface Mutation {
  overlap?: (left: PreparedDevice, right: PreparedDevice) => boolean;
  allocated?: (original: typeof Claim.allocatedDevices) => typeof Claim.allocatedDevices;
  withoutDestroy?: boolean;
}
const mutation = vi.hoisted((): { now: Mutation } => ({ now: {} }));

vi.mock("../../../src/dra/driver/prepared-claim.ts", async (original) => {
  const module = await original<typeof Prepared>();
  const overlap: typeof module.overlap = (left, right) => (mutation.now.overlap ?? module.overlap)(left, right);
  return { ...module, overlap };
});
vi.mock("../../../src/dra/driver/claim.ts", async (original) => {
  const module = await original<typeof Claim>();
  const allocatedDevices: typeof module.allocatedDevices = (...args) =>
    (mutation.now.allocated?.(module.allocatedDevices) ?? module.allocatedDevices)(...args);
  return { ...module, allocatedDevices };
});
vi.mock("../../../src/dra/driver/partitions.ts", async (original) => {
  const module = await original<typeof Partitions>();
  const destroyPartition: typeof module.destroyPartition = async (...args) => {
    if (mutation.now.withoutDestroy !== true) await module.destroyPartition(...args);
  };
  return { ...module, destroyPartition };
});

afterEach(() => {
  mutation.now = {};
});

const left = "gpu-0-mig-2g20gb-14-0";
const right = "gpu-0-mig-2g20gb-14-2";
const losses = { "gpu-2": { how: "taint", since: "2026-01-01T00:00:00Z" } } as const;

/** Pod `a` with a claim on the first devices, then pod `b` with one on the second, then `a` goes. */
async function play(first: readonly string[], second: readonly string[], pool = "n1"): Promise<string[]> {
  const { kubelets, upon } = openKubelets("dgx-a100-mig", { down: false, losses });
  const a = podOf("a", ["c"]);
  const decisions = [
    ...(await upon(
      () => kubelets.claimChanged(claimOf("c", first, ["a"])),
      () => kubelets.podChanged(a),
      () => kubelets.claimChanged(claimOf("d", second, ["b"], { pool })),
      () => kubelets.podChanged(podOf("b", ["d"])),
    )),
  ];
  const gone = await upon(() => kubelets.podGone(a.uid, true));
  for (const decision of [...decisions, ...gone]) {
    if (decision.type === "problem" && decision.problem.kind.startsWith("Wrongly")) {
      expect(isViolation(decision.problem)).toBe(true);
    }
  }
  return [...shown(decisions), "gone", ...shown(gone)];
}

describe("what the judge says of a driver", () => {
  const forget: Mutation["allocated"] = (original) => (claim, wanted, pool, inventory) =>
    original(claim, wanted, pool, { ...inventory, losses: {} });
  const elsewhere: Mutation["allocated"] = (original) => (claim, wanted, _, inventory) =>
    original(claim, wanted, claim.status?.allocation?.devices?.results?.[0]?.pool ?? "", inventory);
  const dropOne: Mutation["allocated"] =
    (original) =>
    (...args) =>
      original(...args).slice(1);

  test.for<[string, Mutation, string[], string[], string, string[], string[]]>([
    [
      "that does not compare claims",
      { overlap: () => false },
      ["gpu-1"],
      ["gpu-1"],
      "n1",
      ["start a", "DeviceInUse b", "gone", "start b"],
      ["start a", "WronglyPrepared b", "gone", "start b"],
    ],
    [
      "that does not compare devices of one claim",
      { overlap: () => false },
      [],
      ["gpu-1", "gpu-1"],
      "n1",
      ["start a", "DeviceInUse b", "gone"],
      ["start a", "WronglyPrepared b", "gone"],
    ],
    [
      "that takes all partitions of a board for one",
      { overlap: (a, b) => a.gpu.uuid === b.gpu.uuid },
      [left],
      [right],
      "n1",
      ["start a", "start b", "gone"],
      ["start a", "WronglyRefused b", "gone", "start b"],
    ],
    [
      "that forgets which devices are lost",
      { allocated: forget },
      [],
      ["gpu-2"],
      "n1",
      ["start a", "DeviceLost b", "gone"],
      ["start a", "WronglyPrepared b", "gone"],
    ],
    [
      "that takes devices of other nodes for its own",
      { allocated: elsewhere },
      [],
      ["gpu-1"],
      "n2",
      ["start a", "WrongNode b", "gone"],
      ["start a", "WronglyPrepared b", "gone"],
    ],
    [
      "that prepares a part of the claim",
      { allocated: dropOne },
      [],
      ["gpu-0", "gpu-1"],
      "n1",
      ["start a", "start b", "gone"],
      ["start a", "WronglyPrepared b", "gone"],
    ],
    [
      "that leaves partitions standing",
      { withoutDestroy: true },
      [left],
      [right],
      "n1",
      ["start a", "start b", "gone"],
      ["start a", "start b", "gone", "WronglyUndone a"],
    ],
  ])("%s", async ([, change, first, second, pool, whole, mutated]) => {
    expect(await play(first, second, pool)).toEqual(whole);
    mutation.now = change;
    expect(await play(first, second, pool)).toEqual(mutated);
  });
});

describe("a refusal that the claim itself gives a reason for is no breach", () => {
  const config = (parameters: object) => [{ source: "FromClaim", opaque: { driver: "gpu.kllama.ai", parameters } }];
  const base = { apiVersion: "gpu.kllama.ai/v1alpha1", kind: "DeviceConfig" };

  test.for<[string, NonNullable<Parameters<typeof claimOf>[3]> & { devices?: string[] }, string]>([
    [
      "a field that nobody knows",
      { config: config({ ...base, rankOrders: [] }) },
      'claim ns/c: configuration for gpu.kllama.ai (FromClaim): : Unrecognized key: "rankOrders"; write apiVersion gpu.kllama.ai/v1alpha1, kind DeviceConfig',
    ],
    [
      "an order of devices that it does not hold",
      { config: config({ ...base, rankOrder: ["gpu-7"] }) },
      "claim ns/c: rankOrder names gpu-7, which the claim does not hold",
    ],
    ["its deletion", { deleting: true }, "claim ns/c: is being deleted"],
    [
      "an administrator's wish for a partition that nobody has cut",
      { adminAccess: true, devices: [left] },
      `claim ns/c: device ${left} exists only while a claim has it, which adminAccess must not change; ask for other devices`,
    ],
  ])("%s", async ([, { devices = ["gpu-1"], ...more }, refusal]) => {
    const { kubelets, upon } = openKubelets();
    const [decision] = await upon(
      () => kubelets.claimChanged(claimOf("c", devices, ["a"], more)),
      () => kubelets.podChanged(podOf("a", ["c"])),
    );
    expect(decision).toMatchObject({ final: true, problem: { kind: "PrepareFailed", claim: "c", refusal } });
    expect(decision?.type === "problem" && isViolation(decision.problem)).toBe(false);
  });

  test("but an order of its own devices is none", async () => {
    const { kubelets, upon, prepared } = openKubelets();
    const ordered = { config: config({ ...base, rankOrder: ["gpu-1", "gpu-0"] }) };
    const decisions = await upon(
      () => kubelets.claimChanged(claimOf("c", ["gpu-0", "gpu-1"], ["a"], ordered)),
      () => kubelets.podChanged(podOf("a", ["c"])),
    );
    expect(shown(decisions)).toEqual(["start a"]);
    expect(prepared[0]?.devices.map(({ device }) => device)).toEqual(["gpu-1", "gpu-0"]);
  });
});
