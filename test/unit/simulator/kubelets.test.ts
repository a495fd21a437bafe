import { describe, expect, test } from "vitest";
import { type BoundPod, boundPod, observedClaim } from "../../../src/simulator/observed.ts";
import { isViolation } from "../../../src/simulator/problems.ts";
import { boardsOf, claimOf, openKubelets, podOf, shown } from "../../support/kubelets.ts";

const uid = (name: string): string => podOf(name, []).uid;

/** Two quarters of gpu-0 that lie side by side, and one that overlaps the second. */
const quarterA = "gpu-0-mig-2g20gb-14-0";
const quarterB = "gpu-0-mig-2g20gb-14-2";
const eighth = "gpu-0-mig-1g10gb-19-3";

describe("a pod starts", () => {
  test.each(["claim first", "pod first"])("%s", async (order) => {
    const { kubelets, upon } = openKubelets();
    const claim = claimOf("c", ["gpu-1"], ["a"]);
    const pod = podOf("a", ["c"]);
    if (order === "pod first") {
      expect(shown(await upon(() => kubelets.podChanged(pod)))).toEqual(["NotAllocated a"]);
      expect(shown(await upon(() => kubelets.claimChanged(claim)))).toEqual(["start a"]);
    } else {
      const decisions = await upon(
        () => kubelets.claimChanged(claim),
        () => kubelets.podChanged(pod),
      );
      expect(shown(decisions)).toEqual(["start a"]);
    }
    expect(kubelets.preparedClaims()).toBe(1);
    expect(kubelets.waiting()).toEqual([]);
  });

  test("when the driver has prepared its claim, not before", async () => {
    const { kubelets, upon, prepared } = openKubelets();
    const seen: string[] = [];
    const decisions = await upon(
      () => kubelets.claimChanged(claimOf("c", ["gpu-1"], ["a"])),
      () => kubelets.podChanged(podOf("a", ["c"])),
      () => seen.push(`${prepared.length} prepared, ${kubelets.preparedClaims()} known`),
    );
    expect(seen).toEqual(["0 prepared, 0 known"]);
    expect(shown(decisions)).toEqual(["start a"]);
    expect(prepared.map(({ name, state }) => [name, state])).toEqual([["c", "Completed"]]);
  });

  test("only once, however often it changes", async () => {
    const { kubelets, upon, prepared } = openKubelets();
    const decisions = await upon(
      () => kubelets.claimChanged(claimOf("c", ["gpu-1"], ["a"])),
      () => kubelets.podChanged(podOf("a", ["c"])),
      () => kubelets.podChanged(podOf("a", ["c"])),
    );
    expect(shown(decisions)).toEqual(["start a"]);
    expect(await upon(() => kubelets.podChanged(podOf("a", ["c"], { marked: true })))).toEqual([]);
    expect(await upon(() => kubelets.claimChanged(claimOf("c", ["gpu-1"], ["a"])))).toEqual([]);
    expect(prepared).toHaveLength(1);
  });

  test("with all of its claims, not before", async () => {
    const { kubelets, upon } = openKubelets();
    const decisions = await upon(
      () => kubelets.claimChanged(claimOf("c", ["gpu-0"], ["a"])),
      () => kubelets.podChanged(podOf("a", ["c", "d"])),
    );
    expect(shown(decisions)).toEqual(["NotAllocated a"]);
    expect(kubelets.preparedClaims()).toBe(0);
    expect(shown(await upon(() => kubelets.claimChanged(claimOf("d", ["gpu-1"], ["a"]))))).toEqual(["start a"]);
  });

  test("beside others that share its claim, and the claim stays prepared for the last of them", async () => {
    const { kubelets, upon, prepared, drivers } = openKubelets();
    const decisions = await upon(
      () => kubelets.claimChanged(claimOf("c", [quarterA], ["a", "b", "late"])),
      () => kubelets.podChanged(podOf("a", ["c"])),
      () => kubelets.podChanged(podOf("b", ["c"])),
    );
    expect(shown(decisions)).toEqual(["start a", "start b"]);
    expect(shown(await upon(() => kubelets.podChanged(podOf("late", ["c"]))))).toEqual(["start late"]);
    expect(prepared).toHaveLength(1);
    await upon(
      () => kubelets.podGone(uid("a"), true),
      () => kubelets.podGone(uid("late"), true),
    );
    expect([kubelets.preparedClaims(), drivers.partitions()]).toEqual([1, 1]);
    await upon(() => kubelets.podGone(uid("b"), true));
    expect([kubelets.preparedClaims(), drivers.partitions()]).toEqual([0, 0]);
  });

  test("when the reservation arrives", async () => {
    const { kubelets, upon } = openKubelets();
    await upon(() => kubelets.podChanged(podOf("a", ["c"])));
    const other = await upon(() => kubelets.claimChanged(claimOf("c", ["gpu-0"], ["other"])));
    expect(shown(other)).toEqual(["NotReserved a"]);
    expect(shown(await upon(() => kubelets.claimChanged(claimOf("c", ["gpu-0"], ["a"]))))).toEqual(["start a"]);
  });

  test("at once with a claim that only other drivers serve", async () => {
    const { kubelets, upon, prepared } = openKubelets();
    const claim = claimOf("c", [], ["a"]);
    claim.object.status!.allocation!.devices!.results = [
      { request: "nic", driver: "net.example", pool: "n1", device: "eth0" },
    ];
    const decisions = await upon(
      () => kubelets.claimChanged(claim),
      () => kubelets.podChanged(podOf("a", ["c"])),
    );
    expect(shown(decisions)).toEqual(["start a"]);
    expect(prepared).toEqual([]);
  });

  test("not if it goes while the driver prepares: that is undone", async () => {
    const { kubelets, upon, drivers, prepared } = openKubelets();
    const decisions = await upon(
      () => kubelets.claimChanged(claimOf("c", [quarterA], ["a"])),
      () => kubelets.podChanged(podOf("a", ["c"])),
      () => kubelets.podGone(uid("a"), true),
    );
    expect(decisions).toEqual([]);
    expect(prepared).toHaveLength(1);
    expect([kubelets.preparedClaims(), drivers.partitions()]).toEqual([0, 0]);
  });
});

describe("double use is seen", () => {
  test.each<[string, string[], string[], string, string]>([
    ["the same device", ["gpu-1"], ["gpu-1"], "DeviceInUse", "device n1/gpu-1 is in use by claim ns/c"],
    ["a partition of a GPU in use", ["gpu-0"], [quarterA], "CounterExceeded", `device n1/${quarterA} is in use by`],
    ["a GPU with a partition in use", [quarterA], ["gpu-0"], "CounterExceeded", "device n1/gpu-0 is in use by"],
    ["one partition too many", [quarterA, quarterB], [eighth], "CounterExceeded", `device n1/${eighth} is in use by`],
    [
      "too many of one engine",
      ["gpu-0-mig-1g10gb-me-20-0"],
      ["gpu-0-mig-1g10gb-me-20-1"],
      "CounterExceeded",
      "insufficient resources for profile 20",
    ],
    ["twice in one claim", [], ["gpu-1", "gpu-1"], "DeviceInUse", "claim ns/d: holds gpu-1 twice"],
    ["overlap in one claim", [], ["gpu-0", quarterA], "CounterExceeded", "claim ns/d: holds gpu-0 and"],
    ["an invented device", [], ["gpu-9"], "UnknownDevice", "claim ns/d: node n1 has no device gpu-9"],
  ])("%s", async (_, first, second, kind, refusal) => {
    const { kubelets, upon } = openKubelets();
    const [decision] = await upon(
      () => kubelets.claimChanged(claimOf("c", first, ["a"])),
      () => kubelets.podChanged(podOf("a", ["c"])),
      () => kubelets.claimChanged(claimOf("d", second, ["b"])),
      () => kubelets.podChanged(podOf("b", ["d"])),
    ).then((decisions) => decisions.filter(({ type }) => type === "problem"));
    expect(decision).toMatchObject({ final: false, problem: { kind, claim: "d" } });
    expect(decision?.type === "problem" && isViolation(decision.problem)).toBe(true);
    expect(decision?.type === "problem" && decision.problem.refusal).toContain(refusal);
    expect(kubelets.waiting()).toHaveLength(1);
  });

  test("between two claims of one pod", async () => {
    const { kubelets, upon } = openKubelets();
    const decisions = await upon(
      () => kubelets.claimChanged(claimOf("c", ["gpu-1"], ["a"])),
      () => kubelets.claimChanged(claimOf("d", ["gpu-1"], ["a"])),
      () => kubelets.podChanged(podOf("a", ["c", "d"])),
    );
    expect(shown(decisions)).toEqual(["DeviceInUse a"]);
    // As on a real node, what could be prepared stays so until the pod is gone.
    expect(kubelets.preparedClaims()).toBe(1);
    await upon(() => kubelets.podGone(uid("a"), true));
    expect(kubelets.preparedClaims()).toBe(0);
  });

  test("on another node than the pod's, also when it is prepared there for another pod", async () => {
    const { kubelets, upon } = openKubelets();
    const decisions = await upon(
      () => kubelets.claimChanged(claimOf("c", ["gpu-1"], ["a", "b"], { pool: "n2" })),
      () => kubelets.podChanged(podOf("a", ["c"], { node: "n2" })),
      () => kubelets.podChanged(podOf("b", ["c"])),
    );
    expect(shown(decisions).toSorted()).toEqual(["WrongNode b", "start a"]);
  });

  test("also when the first pod's claim is gone: the pod still runs", async () => {
    const { kubelets, upon } = openKubelets();
    await upon(
      () => kubelets.claimChanged(claimOf("c", ["gpu-1"], ["a"])),
      () => kubelets.podChanged(podOf("a", ["c"])),
    );
    const [decision] = await upon(
      () => kubelets.claimGone("ns", "c"),
      () => kubelets.claimChanged(claimOf("d", ["gpu-1"], ["b"])),
      () => kubelets.podChanged(podOf("b", ["d"])),
    );
    expect(decision).toMatchObject({
      problem: {
        kind: "DeviceInUse",
        holders: [uid("c")],
        message: "device n1/gpu-1 is in use by claim ns/c of pod a",
        refusal: "device n1/gpu-1 is in use by claim ns/c",
      },
    });
  });

  test("the same names on two nodes are two devices", async () => {
    const { kubelets, upon } = openKubelets();
    const decisions = await upon(
      () => kubelets.claimChanged(claimOf("c", ["gpu-0"], ["a"])),
      () => kubelets.claimChanged(claimOf("d", ["gpu-0"], ["b"], { pool: "n2" })),
      () => kubelets.podChanged(podOf("a", ["c"])),
      () => kubelets.podChanged(podOf("b", ["d"], { node: "n2" })),
    );
    expect(shown(decisions).toSorted()).toEqual(["start a", "start b"]);
  });

  test.each<[string, Partial<BoundPod> | undefined]>([
    ["gone", undefined],
    ["failed", { terminal: true }],
  ])("and ends when the first pod is %s", async (_, end) => {
    const { kubelets, upon } = openKubelets();
    await upon(
      () => kubelets.claimChanged(claimOf("c", ["gpu-1"], ["a"])),
      () => kubelets.podChanged(podOf("a", ["c"])),
      () => kubelets.claimChanged(claimOf("d", ["gpu-1"], ["b"])),
      () => kubelets.podChanged(podOf("b", ["d"])),
    );
    const decisions = await upon(() =>
      end === undefined ? kubelets.podGone(uid("a"), true) : kubelets.podChanged(podOf("a", ["c"], end)),
    );
    expect(shown(decisions)).toEqual(["start b"]);
    expect(kubelets.waiting()).toEqual([]);
  });

  test("not by an administrator's claim, which looks at a device in use", async () => {
    const { kubelets, upon } = openKubelets();
    const decisions = await upon(
      () => kubelets.claimChanged(claimOf("c", ["gpu-1"], ["a"])),
      () => kubelets.claimChanged(claimOf("admin", ["gpu-1"], ["b"], { adminAccess: true })),
      () => kubelets.podChanged(podOf("a", ["c"])),
      () => kubelets.podChanged(podOf("b", ["admin"])),
    );
    expect(shown(decisions)).toEqual(["start a", "start b"]);
  });
});

describe("watches that lag behind one another", () => {
  test("a claim's older state, arriving late, is ignored", async () => {
    const { kubelets, upon } = openKubelets();
    const old = claimOf("c", ["gpu-1"], ["a"]);
    const decisions = await upon(
      () => kubelets.claimChanged(claimOf("c", ["gpu-0"], ["a"])),
      () => kubelets.claimChanged(old),
      () => kubelets.podChanged(podOf("a", ["c"])),
      () => kubelets.claimChanged(claimOf("d", ["gpu-1"], ["b"])),
      () => kubelets.podChanged(podOf("b", ["d"])),
    );
    expect(shown(decisions)).toEqual(["start a", "start b"]);
  });

  test.each(["before it is heard of", "while the driver prepares"])(
    "an allocation that had been replaced before the pod was bound is prepared anew: %s",
    async (when) => {
      const { kubelets, upon, prepared } = openKubelets();
      const older = claimOf("c", ["gpu-1"], ["a"]);
      const newer = claimOf("c", ["gpu-0"], ["a"]);
      const pod = podOf("a", ["c"]);
      const first = [() => kubelets.claimChanged(older), () => kubelets.podChanged(pod)];
      const replace = () => kubelets.claimChanged(newer);
      const decisions =
        when === "while the driver prepares"
          ? await upon(...first, replace)
          : [...(await upon(...first)), ...(await upon(replace))];
      expect(shown(decisions).at(-1)).toBe("start a");
      expect(prepared.at(-1)?.devices.map(({ device }) => device)).toEqual(["gpu-0"]);
      const others = await upon(
        () => kubelets.claimChanged(claimOf("d", ["gpu-1"], ["b"])),
        () => kubelets.podChanged(podOf("b", ["d"])),
      );
      expect(shown(others)).toEqual(["start b"]);
    },
  );

  test("an allocation that changes after the pod was bound is a violation", async () => {
    const { kubelets, upon } = openKubelets();
    await upon(
      () => kubelets.claimChanged(claimOf("c", ["gpu-1"], ["a"])),
      () => kubelets.podChanged(podOf("a", ["c"])),
      () => kubelets.podChanged(podOf("a", ["c"], { marked: true })),
    );
    const [decision] = await upon(() => kubelets.claimChanged(claimOf("c", ["gpu-0"], ["a"])));
    expect(decision).toMatchObject({ type: "problem", final: true, problem: { kind: "AllocationChanged" } });
  });

  test("a pod that a consistent read found gone is not revived by its past", async () => {
    const { kubelets, upon } = openKubelets();
    await upon(
      () => kubelets.claimChanged(claimOf("c", ["gpu-1"], ["a"])),
      () => kubelets.podChanged(podOf("a", ["c"])),
      () => kubelets.podGone(uid("a"), false),
    );
    expect(await upon(() => kubelets.podChanged(podOf("a", ["c"])))).toEqual([]);
    expect(kubelets.preparedClaims()).toBe(0);
  });
});

describe("faults", () => {
  test("nothing starts on a node that is down, and what waited starts when it is back", async () => {
    const { kubelets, upon, hardware } = openKubelets("dgx-h100", { down: true, losses: {} });
    const decisions = await upon(
      () => kubelets.claimChanged(claimOf("c", ["gpu-1"], ["a"])),
      () => kubelets.podChanged(podOf("a", ["c"])),
    );
    expect(shown(decisions)).toEqual(["NodeDown a"]);
    hardware.setState("n1", { down: false, losses: {} });
    expect(shown(await upon(() => kubelets.nodeChanged("n1")))).toEqual(["start a"]);
  });

  test("a lost device is no violation, and its pod starts when it is back", async () => {
    const losses = { "gpu-1": { how: "taint", since: "2026-01-01T00:00:00Z" } } as const;
    const { kubelets, upon, hardware } = openKubelets("dgx-h100", { down: false, losses });
    const [decision] = await upon(
      () => kubelets.claimChanged(claimOf("c", ["gpu-1"], ["a"])),
      () => kubelets.podChanged(podOf("a", ["c"])),
    );
    const refusal = "claim ns/c: device gpu-1 is lost since 2026-01-01T00:00:00Z";
    expect(decision).toMatchObject({ final: true, problem: { kind: "DeviceLost", refusal } });
    expect(decision?.type === "problem" && isViolation(decision.problem)).toBe(false);
    hardware.setState("n1", { down: false, losses: {} });
    expect(shown(await upon(() => kubelets.nodeChanged("n1")))).toEqual(["start a"]);
  });

  test("preparation fails on request, until the request is taken back", async () => {
    const { kubelets, upon } = openKubelets();
    const [decision] = await upon(
      () => kubelets.claimChanged(claimOf("c", ["gpu-1"], ["a"])),
      () => kubelets.podChanged(podOf("a", ["c"], { failPrepare: "no CDI" })),
    );
    expect(decision).toMatchObject({ final: true, problem: { kind: "PrepareFailed", message: "no CDI" } });
    expect(shown(await upon(() => kubelets.podChanged(podOf("a", ["c"]))))).toEqual(["start a"]);
  });
});

describe("partitions", () => {
  test("are cut by the driver's code for a claim, and go with its pod", async () => {
    const scene = openKubelets();
    const { kubelets, upon, drivers, prepared } = scene;
    await upon(
      () => kubelets.claimChanged(claimOf("c", [quarterB, "gpu-1-mig-1g10gb-19-6"], ["a"])),
      () => kubelets.podChanged(podOf("a", ["c"])),
    );
    expect(drivers.partitions()).toBe(2);
    const [first, second] = prepared[0]!.devices;
    expect(first?.partition).toMatchObject({ profileId: 14, start: 2, size: 2, gpuInstance: 1, before: [] });
    expect([first?.gpu.uuid, second?.gpu.uuid]).toEqual(boardsOf(scene).slice(0, 2));
    expect(first?.partition?.uuid).toMatch(/^MIG-/);
    await upon(() => kubelets.podGone(uid("a"), true));
    expect(drivers.partitions()).toBe(0);
  });

  test("side by side, until the last place of the board is taken", async () => {
    const { kubelets, upon, drivers } = openKubelets();
    const places = [0, 1, 2, 3, 4, 5, 6];
    const decisions = await upon(
      ...places.map((at) => () => kubelets.claimChanged(claimOf(`c${at}`, [`gpu-0-mig-1g10gb-19-${at}`], [`p${at}`]))),
      ...places.map((at) => () => kubelets.podChanged(podOf(`p${at}`, [`c${at}`]))),
    );
    expect(shown(decisions)).toEqual(places.map((at) => `start p${at}`));
    expect(drivers.partitions()).toBe(7);
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

  test("devices of other drivers and in parts are left out, those for administration marked", () => {
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
    const devices = [
      { pool: "n1", device: "gpu-0" },
      { pool: "n1", device: "gpu-1", watched: true },
    ];
    expect(observed).toMatchObject({ devices, reservedFor: ["u1"] });
  });
});
