import { describe, expect, test } from "vitest";
import type { CounterUse, Hardware } from "../../../src/simulator/device-ledger.ts";
import {
  type BoundPod,
  boundPod,
  createPreparation,
  type Decision,
  isViolation,
  type ObservedClaim,
  observedClaim,
} from "../../../src/simulator/preparation.ts";

/** Nodes `n1` and `n2` with `gpu-0`, `gpu-1`, and two halves of `gpu-0` that draw on the same two slices. */
function hardware(faults: { down?: string[]; lost?: string[] } = {}): Hardware {
  const devices: Record<string, CounterUse[]> = {
    "gpu-0": [{ counter: "slices", amount: 2 }],
    "gpu-0-half-a": [{ counter: "slices", amount: 1 }],
    "gpu-0-half-b": [{ counter: "slices", amount: 1 }],
    "gpu-0-third": [{ counter: "slices", amount: 1 }],
    "gpu-1": [],
  };
  return {
    isDown: (node) => faults.down?.includes(node) ?? false,
    isLost: (node, device) => faults.lost?.includes(`${node}/${device}`) ?? false,
    counters: (node, device) => (["n1", "n2"].includes(node) ? devices[device] : undefined),
    capacity: () => 2,
  };
}

let version = 0;
const next = (): number => ++version;

function pod(name: string, claims: string[], fields: Partial<BoundPod> = {}): BoundPod {
  return {
    uid: `uid-${name}`,
    namespace: "ns",
    name,
    node: "n1",
    resourceVersion: next(),
    terminal: false,
    marked: false,
    claims: claims.map((claim) => ({ name: claim, claimName: claim })),
    ...fields,
  };
}

function claim(name: string, devices: string[], users: string[], fields: Partial<ObservedClaim> = {}): ObservedClaim {
  return {
    uid: `uid-${name}`,
    namespace: "ns",
    name,
    resourceVersion: next(),
    devices: devices.map((device) => ({ pool: "n1", device })),
    reservedFor: users.map((user) => `uid-${user}`),
    ...fields,
  };
}

/** `start a`, `DeviceInUse b` */
function shown(decisions: readonly Decision[]): string[] {
  return decisions.map((d) => `${d.type === "start" ? "start" : d.problem.kind} ${d.pod.name}`);
}

describe("a pod starts", () => {
  test.each(["claim first", "pod first"])("%s", (order) => {
    const preparation = createPreparation(hardware());
    const steps = [
      () => preparation.claimChanged(claim("c", ["gpu-1"], ["a"])),
      () => preparation.podChanged(pod("a", ["c"])),
    ];
    const decisions = (order === "pod first" ? steps.toReversed() : steps).flatMap((step) => step());
    expect(shown(decisions)).toEqual(order === "pod first" ? ["NotAllocated a", "start a"] : ["start a"]);
    expect(preparation.preparedClaims()).toBe(1);
    expect(preparation.waiting()).toEqual([]);
  });

  test("only once, however often it changes", () => {
    const preparation = createPreparation(hardware());
    preparation.claimChanged(claim("c", ["gpu-1"], ["a"]));
    expect(shown(preparation.podChanged(pod("a", ["c"])))).toEqual(["start a"]);
    expect(preparation.podChanged(pod("a", ["c"], { marked: true }))).toEqual([]);
    expect(preparation.claimChanged(claim("c", ["gpu-1"], ["a"]))).toEqual([]);
  });

  test("with all of its claims, not before", () => {
    const preparation = createPreparation(hardware());
    preparation.claimChanged(claim("c", ["gpu-0"], ["a"]));
    expect(shown(preparation.podChanged(pod("a", ["c", "d"])))).toEqual(["NotAllocated a"]);
    expect(preparation.preparedClaims()).toBe(0);
    expect(shown(preparation.claimChanged(claim("d", ["gpu-1"], ["a"])))).toEqual(["start a"]);
  });

  test("beside others that share its claim, and the claim stays prepared for the last of them", () => {
    const preparation = createPreparation(hardware());
    preparation.claimChanged(claim("c", ["gpu-0"], ["a", "b"]));
    expect(shown(preparation.podChanged(pod("a", ["c"])))).toEqual(["start a"]);
    expect(shown(preparation.podChanged(pod("b", ["c"])))).toEqual(["start b"]);
    preparation.podGone("uid-a", true);
    expect(preparation.preparedClaims()).toBe(1);
    preparation.podGone("uid-b", true);
    expect(preparation.preparedClaims()).toBe(0);
  });

  test("when the reservation arrives", () => {
    const preparation = createPreparation(hardware());
    preparation.podChanged(pod("a", ["c"]));
    expect(shown(preparation.claimChanged(claim("c", ["gpu-0"], ["other"])))).toEqual(["NotReserved a"]);
    expect(shown(preparation.claimChanged(claim("c", ["gpu-0"], ["a"])))).toEqual(["start a"]);
  });
});

describe("double use is seen", () => {
  test.each<[string, string[], string[], string]>([
    ["the same device", ["gpu-1"], ["gpu-1"], "DeviceInUse"],
    ["a partition of a GPU in use", ["gpu-0"], ["gpu-0-half-a"], "CounterExceeded"],
    ["a GPU with a partition in use", ["gpu-0-half-a"], ["gpu-0"], "CounterExceeded"],
    ["one partition too many", ["gpu-0-half-a", "gpu-0-half-b"], ["gpu-0-third"], "CounterExceeded"],
    ["twice in one claim", [], ["gpu-1", "gpu-1"], "DeviceInUse"],
    ["overlap in one claim", [], ["gpu-0", "gpu-0-half-a"], "CounterExceeded"],
    ["an invented device", [], ["gpu-7"], "UnknownDevice"],
  ])("%s", (_, first, second, kind) => {
    const preparation = createPreparation(hardware());
    preparation.claimChanged(claim("c", first, ["a"]));
    preparation.podChanged(pod("a", ["c"]));
    preparation.claimChanged(claim("d", second, ["b"]));
    const [decision] = preparation.podChanged(pod("b", ["d"]));
    expect(decision).toMatchObject({ type: "problem", final: false, problem: { kind, claim: "d" } });
    expect(decision?.type === "problem" && isViolation(decision.problem)).toBe(true);
    expect(preparation.waiting()).toHaveLength(1);
  });

  test("between two claims of one pod", () => {
    const preparation = createPreparation(hardware());
    preparation.claimChanged(claim("c", ["gpu-1"], ["a"]));
    preparation.claimChanged(claim("d", ["gpu-1"], ["a"]));
    expect(shown(preparation.podChanged(pod("a", ["c", "d"])))).toEqual(["DeviceInUse a"]);
  });

  test("on another node than the pod's", () => {
    const preparation = createPreparation(hardware());
    preparation.claimChanged(claim("c", [], ["a"], { devices: [{ pool: "n2", device: "gpu-1" }] }));
    expect(shown(preparation.podChanged(pod("a", ["c"])))).toEqual(["WrongNode a"]);
  });

  test("also when the first pod's claim is gone: the pod still runs", () => {
    const preparation = createPreparation(hardware());
    preparation.claimChanged(claim("c", ["gpu-1"], ["a"]));
    preparation.podChanged(pod("a", ["c"]));
    preparation.claimGone("ns", "c");
    preparation.claimChanged(claim("d", ["gpu-1"], ["b"]));
    const [decision] = preparation.podChanged(pod("b", ["d"]));
    expect(decision).toMatchObject({ problem: { kind: "DeviceInUse", holders: ["uid-c"] } });
    expect(decision?.type === "problem" && decision.problem.message).toBe(
      "device n1/gpu-1 is in use by claim ns/c of pod a",
    );
  });

  test("the same names on two nodes are two devices", () => {
    const preparation = createPreparation(hardware());
    preparation.claimChanged(claim("c", ["gpu-0"], ["a"]));
    preparation.claimChanged(claim("d", [], ["b"], { devices: [{ pool: "n2", device: "gpu-0" }] }));
    preparation.podChanged(pod("a", ["c"]));
    expect(shown(preparation.podChanged(pod("b", ["d"], { node: "n2" })))).toEqual(["start b"]);
  });

  test.each<[string, Partial<BoundPod> | undefined]>([
    ["gone", undefined],
    ["failed", { terminal: true }],
  ])("and ends when the first pod is %s", (_, end) => {
    const preparation = createPreparation(hardware());
    preparation.claimChanged(claim("c", ["gpu-1"], ["a"]));
    preparation.podChanged(pod("a", ["c"]));
    preparation.claimChanged(claim("d", ["gpu-1"], ["b"]));
    preparation.podChanged(pod("b", ["d"]));
    const decisions =
      end === undefined ? preparation.podGone("uid-a", true) : preparation.podChanged(pod("a", ["c"], end));
    expect(shown(decisions)).toEqual(["start b"]);
    expect(preparation.waiting()).toEqual([]);
  });
});

describe("watches that lag behind one another", () => {
  test("a claim's older state, arriving late, is ignored", () => {
    const preparation = createPreparation(hardware());
    const old = claim("c", ["gpu-1"], ["a"]);
    preparation.claimChanged(claim("c", ["gpu-0"], ["a"]));
    preparation.claimChanged(old);
    preparation.podChanged(pod("a", ["c"]));
    preparation.claimChanged(claim("d", ["gpu-1"], ["b"]));
    expect(shown(preparation.podChanged(pod("b", ["d"])))).toEqual(["start b"]);
  });

  test("prepared from an allocation that had been replaced before the pod was bound: prepared anew", () => {
    const preparation = createPreparation(hardware());
    preparation.claimChanged(claim("c", ["gpu-1"], ["a"]));
    const newer = claim("c", ["gpu-0"], ["a"]);
    preparation.podChanged(pod("a", ["c"]));
    expect(shown(preparation.claimChanged(newer))).toEqual(["start a"]);
    preparation.claimChanged(claim("d", ["gpu-1"], ["b"]));
    expect(shown(preparation.podChanged(pod("b", ["d"])))).toEqual(["start b"]);
  });

  test("an allocation that changes after the pod was bound is a violation", () => {
    const preparation = createPreparation(hardware());
    preparation.claimChanged(claim("c", ["gpu-1"], ["a"]));
    preparation.podChanged(pod("a", ["c"]));
    preparation.podChanged(pod("a", ["c"], { marked: true }));
    const [decision] = preparation.claimChanged(claim("c", ["gpu-0"], ["a"]));
    expect(decision).toMatchObject({ type: "problem", final: true, problem: { kind: "AllocationChanged" } });
  });

  test("a pod that a consistent read found gone is not revived by its past", () => {
    const preparation = createPreparation(hardware());
    preparation.claimChanged(claim("c", ["gpu-1"], ["a"]));
    preparation.podChanged(pod("a", ["c"]));
    preparation.podGone("uid-a", false);
    expect(preparation.podChanged(pod("a", ["c"]))).toEqual([]);
    expect(preparation.preparedClaims()).toBe(0);
  });
});

describe("faults", () => {
  test("nothing starts on a node that is down, and what waited starts when it is back", () => {
    const down = ["n1"];
    const preparation = createPreparation(hardware({ down }));
    preparation.claimChanged(claim("c", ["gpu-1"], ["a"]));
    expect(shown(preparation.podChanged(pod("a", ["c"])))).toEqual(["NodeDown a"]);
    down.pop();
    expect(shown(preparation.nodeChanged("n1"))).toEqual(["start a"]);
  });

  test("a lost device is no violation", () => {
    const preparation = createPreparation(hardware({ lost: ["n1/gpu-1"] }));
    preparation.claimChanged(claim("c", ["gpu-1"], ["a"]));
    const [decision] = preparation.podChanged(pod("a", ["c"]));
    expect(decision).toMatchObject({ final: true, problem: { kind: "DeviceLost" } });
    expect(decision?.type === "problem" && isViolation(decision.problem)).toBe(false);
  });

  test("preparation fails on request, until the request is taken back", () => {
    const preparation = createPreparation(hardware());
    preparation.claimChanged(claim("c", ["gpu-1"], ["a"]));
    const [decision] = preparation.podChanged(pod("a", ["c"], { failPrepare: "no CDI" }));
    expect(decision).toMatchObject({ final: true, problem: { kind: "PrepareFailed", message: "no CDI" } });
    expect(shown(preparation.podChanged(pod("a", ["c"])))).toEqual(["start a"]);
  });
});

describe("what is read of raw objects", () => {
  const raw = {
    metadata: { name: "p", namespace: "ns", uid: "u", resourceVersion: "7" },
    spec: {
      nodeName: "n1",
      containers: [],
      resourceClaims: [
        { name: "named", resourceClaimName: "shared" },
        { name: "made", resourceClaimTemplateName: "t" },
        { name: "unneeded", resourceClaimTemplateName: "t" },
        { name: "coming", resourceClaimTemplateName: "t" },
      ],
    },
    status: { resourceClaimStatuses: [{ name: "made", resourceClaimName: "p-made-x" }, { name: "unneeded" }] },
  };

  test("claims by name, generated, not needed and not there yet", () => {
    expect(boundPod(raw)?.claims).toEqual([
      { name: "named", claimName: "shared" },
      { name: "made", claimName: "p-made-x" },
      { name: "coming" },
    ]);
  });

  test("pods that are unbound or without claims are none of its business", () => {
    expect(boundPod({ ...raw, spec: { containers: [], resourceClaims: raw.spec.resourceClaims } })).toBeUndefined();
    expect(boundPod({ ...raw, spec: { nodeName: "n1", containers: [] } })).toBeUndefined();
  });

  test("devices of other drivers, in parts and for administration are left out", () => {
    const result = { request: "r", driver: "gpu.kllama.ai", pool: "n1", device: "gpu-0" };
    const observed = observedClaim({
      metadata: { name: "c", namespace: "ns", uid: "u", resourceVersion: "9" },
      spec: {},
      status: {
        allocation: {
          devices: {
            results: [
              result,
              { ...result, driver: "net" },
              { ...result, device: "link", shareID: "s" },
              { ...result, device: "gpu-1", adminAccess: true },
            ],
          },
        },
        reservedFor: [
          { resource: "pods", name: "p", uid: "u1" },
          { apiGroup: "scheduling.kllama.ai", resource: "gangs", name: "g", uid: "u2" },
        ],
      },
    });
    expect(observed).toMatchObject({ devices: [{ pool: "n1", device: "gpu-0" }], reservedFor: ["u1"] });
  });
});
