import { describe, expect, test } from "vitest";
import { kubeconfigOf } from "../../src/cli/system/system.ts";
import { createClient } from "../../src/kube/client.ts";
import { loadConnection } from "../../src/kube/connection.ts";
import { uniformFleet } from "../../src/simulator/fleet.ts";
import { isReady, useScene } from "../support/scene.ts";
import { claimTemplate, gang, member, type Workload } from "../support/workloads.ts";

/** Claims that several pods share, and devices that several claims share, on a real control plane. */
const scene = useScene({ fleet: uniformFleet({ nodes: 4, nodesPerRack: 2 }) });
const { freshNamespace, apply, drop, pod, claims, status, until, membersOf, scheduled } = scene;

const claim = (name: string, count: number): Workload => ({
  apiVersion: "resource.k8s.io/v1",
  kind: "ResourceClaim",
  metadata: { name },
  spec: { devices: { requests: [{ name: "gpus", exactly: { deviceClassName: "gpu.kllama.ai", count } }] } },
});

/** A member that names the claim itself. */
function sharing(gangName: string, index: number, claimName: string): Workload {
  const pod = member(gangName, "ranks", index, "unused");
  return {
    ...pod,
    spec: { ...(pod["spec"] as object), resourceClaims: [{ name: "gpus", resourceClaimName: claimName }] },
  };
}

describe("two members that name one claim", () => {
  test("run on one node with its devices, and a recreated one comes back while the other runs", async () => {
    await freshNamespace();
    await apply(claim("both", 4));
    await apply(gang("pair", { podSets: [{ name: "ranks", count: 2 }] }));
    await apply(sharing("pair", 0, "both"), sharing("pair", 1, "both"));
    await scheduled("pair");
    await until("both are ready", () => membersOf("pair").length === 2 && membersOf("pair").every(isReady));
    const [node, ...others] = new Set(membersOf("pair").map(({ spec }) => spec.nodeName));
    expect(others).toEqual([]);
    const consumers = () =>
      claims()[0]
        ?.status?.reservedFor?.map(({ name }) => name)
        .sort();
    await until("the guard is gone", () => consumers()?.join() === "pair-ranks-0,pair-ranks-1");
    expect(claims()[0]?.status?.allocation?.devices?.results).toHaveLength(4);

    const before = pod("pair-ranks-1")?.metadata.uid;
    await drop(sharing("pair", 1, "both"));
    await until("the pod is gone", () => pod("pair-ranks-1") === undefined);
    await apply(sharing("pair", 1, "both"));
    const again = await until("it runs again", () => {
      const found = pod("pair-ranks-1");
      return found !== undefined && found.metadata.uid !== before && isReady(found) ? found : undefined;
    });
    expect(again.spec.nodeName).toBe(node);
  });

  test("of two gangs: who came first has it, and the other is refused and says why", async () => {
    await freshNamespace();
    const alone = (name: string) => gang(name, { podSets: [{ name: "ranks", count: 1 }] });
    await apply(claim("contested", 1), alone("two"), sharing("two", 0, "contested"));
    await scheduled("two");
    await apply(alone("one"), sharing("one", 0, "contested"));
    const why = "ResourceClaim contested is shared by gang one and gang two, which came first";
    await until("one is refused", () => status("one")?.explanation?.includes(why));
    const consumers = () => claims()[0]?.status?.reservedFor?.map(({ name }) => name);
    await until("the claim is left to the first", () => consumers()?.join() === "two-ranks-0");
    await drop(sharing("two", 0, "contested"));
    await drop(gang("two", {}));
    await scheduled("one");
  });
});

test("a device for all nodes is given in parts, which kube-scheduler and the API server accept", async () => {
  await freshNamespace();
  const slice = {
    apiVersion: "resource.k8s.io/v1",
    kind: "ResourceSlice",
    metadata: { name: "fabric" },
    spec: {
      driver: "gpu.kllama.ai",
      pool: { name: "fabric", generation: 1, resourceSliceCount: 1 },
      allNodes: true,
      devices: [
        {
          name: "link",
          allowMultipleAllocations: true,
          attributes: { type: { string: "link" } },
          capacity: { bandwidth: { value: "400G", requestPolicy: { default: "200G", validRange: { min: "50G" } } } },
        },
      ],
    },
  };
  const deviceClass = {
    apiVersion: "resource.k8s.io/v1",
    kind: "DeviceClass",
    metadata: { name: "link" },
    spec: {
      selectors: [
        {
          cel: {
            expression: `device.driver == "gpu.kllama.ai" && device.attributes["gpu.kllama.ai"].type == "link"`,
          },
        },
      ],
    },
  };
  const { admin, plane } = scene.stack;
  const connection = await loadConnection({ kubeconfigPath: await kubeconfigOf(plane, "simulate-fleet") });
  const simulator = createClient(connection, { userAgent: "test" });
  await admin.request("POST", "/apis/resource.k8s.io/v1/deviceclasses", { body: deviceClass });
  await simulator.request("POST", "/apis/resource.k8s.io/v1/resourceslices", { body: slice });
  await apply(claimTemplate("link", 1, "link"));
  const spread = { constraints: [{ type: "spread", level: "host" }] };
  await scene.createGang("linked", 2, spread, "link");
  await scheduled("linked");
  expect(new Set(membersOf("linked").map(({ spec }) => spec.nodeName)).size).toBe(2);
  const results = claims().flatMap((each) => each.status?.allocation?.devices?.results ?? []);
  expect(results.map(({ device, consumedCapacity }) => [device, consumedCapacity])).toEqual([
    ["link", { bandwidth: "200G" }],
    ["link", { bandwidth: "200G" }],
  ]);
  await scene.createGang("late", 1, {}, "link");
  await until("the third finds nothing left", () => status("late")?.explanation?.includes("link"));
  await simulator.request("DELETE", "/apis/resource.k8s.io/v1/resourceslices/fabric");
  await admin.request("DELETE", "/apis/resource.k8s.io/v1/deviceclasses/link");
  await simulator.close();
});
