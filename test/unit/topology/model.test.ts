import { describe, expect, test } from "vitest";
import type { HeldPod } from "../../../src/topology/model.ts";
import { driver, gpu, podRecord, sliceRecord } from "../../builders.ts";
import { allocatedClaim, clusterOf } from "../../support/cluster.ts";

const oneNode = () => clusterOf([{ name: "n", rack: "r", gpus: 4 }]);

function held(pod: string, device: string, index = 0): HeldPod {
  const devices = [{ request: "gpu", driver, pool: "n", device }];
  const placed = { pod, podSet: "w", index, node: "n", claims: [{ claim: "c", reference: "gpu", devices }] };
  return { placed, requests: { cpu: 1000 } };
}

const runningPod = () =>
  podRecord("p", { nodeName: "n", requests: { cpu: 500 }, claims: [{ name: "gpu", claimName: "c" }] });

describe("devices", () => {
  test("claim, running pod and hold are one holder each, and the device is free after the last", () => {
    const model = oneNode();
    const holders = () => model.holdersOf(driver, "n", "gpu-1");
    model.hold("team/g", "team", [held("p", "gpu-1")]);
    model.upsertClaim(allocatedClaim("c", "n", ["gpu-1"], ["pod-uid-p"]));
    model.upsertPod(runningPod());
    expect(holders()).toEqual(["claim:claim-uid-c", "hold:team/g", "pod:pod-uid-p"]);
    model.release("team/g");
    model.removeClaim("claim-uid-c");
    expect(holders()).toEqual(["pod:pod-uid-p"]);
    model.upsertPod({ ...runningPod(), terminal: true });
    expect(holders()).toEqual([]);
  });

  test("a running pod keeps its devices when its claim is deallocated under it", () => {
    const model = oneNode();
    model.upsertPod(runningPod());
    model.upsertClaim(allocatedClaim("c", "n", ["gpu-1"], ["pod-uid-p"]));
    const { allocation: _, ...cleared } = allocatedClaim("c", "n", [], []);
    model.upsertClaim(cleared);
    expect(model.holdersOf(driver, "n", "gpu-1")).toEqual(["pod:pod-uid-p"]);
  });

  test("administrators' access holds nothing", () => {
    const model = oneNode();
    const claim = allocatedClaim("c", "n", ["gpu-1"], []);
    for (const result of claim.allocation!.devices!.results!) result.adminAccess = true;
    model.upsertClaim(claim);
    expect(model.holdersOf(driver, "n", "gpu-1")).toEqual([]);
  });

  test("a share that claim, pod and hold name is one share, and the device is free after the last", () => {
    const model = oneNode();
    const nic = { allowMultipleAllocations: true, capacity: { bandwidth: { value: "400G" } } };
    model.upsertSlice(sliceRecord("n", [gpu(0, {}, nic)], { pool: "nics", name: "nics" }));
    const index = model.view.indexOf("n")!;
    const device = model.view.inventory(index).indexOf.get(`${driver}/nics/gpu-0`)!;
    const { shared } = model.view.inventory(index).devices[device]!;
    const sharesNow = () => [model.view.usage(index).shares[shared!.index], ...model.view.usage(index).consumed];
    const share = (shareID: string) => ({
      request: "gpu",
      driver,
      pool: "nics",
      device: "gpu-0",
      shareID,
      consumedCapacity: { bandwidth: "100G" },
    });
    const sharing = (name: string, shareID: string, podUids: string[] = []) => {
      const claim = allocatedClaim(name, "n", [], podUids);
      return { ...claim, allocation: { ...claim.allocation, devices: { results: [share(shareID)] } } };
    };
    const placed = {
      pod: "p",
      podSet: "w",
      index: 0,
      node: "n",
      claims: [{ claim: "c", reference: "gpu", devices: [share("1")] }],
    };
    model.hold("team/g", "team", [{ placed, requests: {} }]);
    model.upsertClaim(sharing("c", "1", ["pod-uid-p"]));
    model.upsertPod(runningPod());
    expect(sharesNow()).toEqual([1, 100_000_000_000n * 10n ** 9n]);
    model.upsertClaim(sharing("d", "2"));
    expect(sharesNow()).toEqual([2, 200_000_000_000n * 10n ** 9n]);
    expect(model.holdersOf(driver, "nics", "gpu-0")).toEqual([
      "claim:claim-uid-c",
      "claim:claim-uid-d",
      "hold:team/g",
      "pod:pod-uid-p",
    ]);
    expect(model.holdersOf(driver, "nics", "gpu-0", "2")).toEqual(["claim:claim-uid-d"]);
    model.upsertNode({ ...model.node("n")!, unschedulable: true });
    expect(sharesNow()).toEqual([2, 200_000_000_000n * 10n ** 9n]);
    model.release("team/g");
    model.removeClaim("claim-uid-c");
    model.removePod("pod-uid-p");
    model.removeClaim("claim-uid-d");
    expect(sharesNow()).toEqual([0, 0n]);
  });

  test("a device that two nodes reach is taken on both", () => {
    const model = clusterOf([{ name: "a" }, { name: "b" }]);
    const { nodeName: _, ...slice } = sliceRecord("net", [gpu(0)]);
    model.upsertSlice({ ...slice, allNodes: true });
    const used = () => ["a", "b"].map((name) => [...model.view.usage(model.view.indexOf(name)!).used]);
    expect(used()).toEqual([[0], [0]]);
    model.upsertClaim(allocatedClaim("c", "net", ["gpu-0"], []));
    expect(used()).toEqual([[1], [1]]);
    model.upsertSlice({ ...slice, nodeName: "b" });
    expect(used()).toEqual([[], [1]]);
    model.removeSlice(slice.name);
    expect(used()).toEqual([[], []]);
  });

  test("a claim that is deleted late does not hide its successor of the same name", () => {
    const model = oneNode();
    const old = allocatedClaim("c", "n", ["gpu-1"], []);
    model.upsertClaim(old);
    model.upsertClaim({ ...allocatedClaim("c", "n", ["gpu-2"], []), uid: "second" });
    model.removeClaim(old.uid);
    expect(model.claim("team", "c")?.uid).toBe("second");
    expect(model.holdersOf(driver, "n", "gpu-1")).toEqual([]);
  });
});

describe("node resources", () => {
  test("a hold and its bound pod count once, with what the pod asks", () => {
    const model = oneNode();
    const used = () => model.view.nodes[model.view.indexOf("n")!]!.load.used;
    model.hold("team/g", "team", [held("p", "gpu-1")]);
    expect(used()).toEqual({ cpu: 1000, pods: 1 });
    model.upsertPod(runningPod());
    expect(used()).toEqual({ cpu: 500, pods: 1 });
    model.removePod("pod-uid-p");
    expect(used()).toEqual({ cpu: 1000, pods: 1 });
    model.release("team/g");
    expect(used()).toEqual({});
  });

  test("a pod counts as one pod, also where its requests say so, as those of live pods do", () => {
    const model = oneNode();
    model.upsertPod({ ...runningPod(), requests: { cpu: 500, pods: 1 } });
    expect(model.view.nodes[model.view.indexOf("n")!]!.load.used).toEqual({ cpu: 500, pods: 1 });
  });

  test("what ran on a node is counted when the node comes back", () => {
    const model = oneNode();
    const node = model.node("n")!;
    model.upsertPod(runningPod());
    model.removeNode("n");
    model.upsertNode(node);
    expect(model.view.nodes[model.view.indexOf("n")!]!.load.used).toEqual({ cpu: 500, pods: 1 });
  });
});

describe("versions", () => {
  test("replacing a hold by the same frees nothing", () => {
    const model = oneNode();
    model.hold("team/g", "team", [held("p", "gpu-1")]);
    const { capacityVersion } = model;
    model.hold("team/g", "team", [held("p", "gpu-1")]);
    model.hold("team/g", "team", [held("p", "gpu-1"), held("q", "gpu-2", 1)]);
    expect(model.capacityVersion).toBe(capacityVersion);
    model.hold("team/g", "team", [held("p", "gpu-1")]);
    expect(model.capacityVersion).toBeGreaterThan(capacityVersion);
  });

  test("a claim that takes over what a hold had frees nothing", () => {
    const model = oneNode();
    model.hold("team/g", "team", [held("p", "gpu-1")]);
    model.upsertClaim(allocatedClaim("c", "n", ["gpu-1"], []));
    const { capacityVersion, version } = model;
    model.upsertPod(runningPod());
    expect(model.capacityVersion).toBe(capacityVersion + 1); // the pod asks for less CPU than was held
    expect(model.version).toBeGreaterThan(version);
  });
});
