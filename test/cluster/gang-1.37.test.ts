import { describe, expect, test } from "vitest";
import type { Node } from "../../src/api/kubernetes.ts";
import { uniformFleet } from "../../src/simulator/fleet.ts";
import { isBound, isReady, useScene } from "../support/scene.ts";
import { taintByRule } from "../support/taint-rules.ts";
import { claimTemplate, gang, member } from "../support/workloads.ts";

/** The same on the second version that is kept green: four nodes with eight GPUs each. See gang.test.ts for the rest. */
const scene = useScene({ version: "1.37.1", fleet: uniformFleet({ nodes: 4, nodesPerRack: 2 }) });
const { freshNamespace, apply, pods, pod, claims, gangs, status, until, inStep } = scene;
const { membersOf, scheduled, devicesOf, createGang } = scene;

describe("on Kubernetes 1.37.1", () => {
  test("the API server is of that version", async () => {
    await freshNamespace();
    const { gitVersion } = await scene.stack.admin.request<{ gitVersion: string }>("GET", "/version");
    expect(gitVersion).toMatch(/^v1\.37\.1/);
  });

  test("a gang is bound whole, on exactly the planned devices, becomes ready, and its guards go", async () => {
    await freshNamespace();
    await apply(claimTemplate("four", 4));
    await createGang("whole", 4);
    const { status } = await scheduled("whole");
    await until("all are ready", () => membersOf("whole").length === 4 && membersOf("whole").every(isReady));
    expect(status?.placement?.pods).toHaveLength(4);
    for (const placed of status?.placement?.pods ?? []) {
      expect(pod(placed.pod)?.spec.nodeName).toBe(placed.node);
      const planned = placed.claims.flatMap((claim) => claim.devices.map((d) => `${d.pool}/${d.device}`));
      expect(planned).toHaveLength(4);
      expect(devicesOf(pod(placed.pod))).toEqual(planned.sort());
    }
    await until("guards are gone", () => claims().every((claim) => claim.status?.reservedFor?.length === 1));
  });

  test("a gang with a CPU-only leader is bound whole; the leader is held to its planned node", async () => {
    await freshNamespace();
    await apply(claimTemplate("eight", 8));
    const podSets = [
      { name: "leader", count: 1 },
      { name: "ranks", count: 2 },
    ];
    await apply(
      gang("mixed", { podSets, constraints: [{ level: "rack" }] }),
      member("mixed", "leader", 0),
      member("mixed", "ranks", 0, "eight"),
      member("mixed", "ranks", 1, "eight"),
    );
    const { status } = await scheduled("mixed");
    const planned = status?.placement?.pods.map((placed) => [placed.pod, placed.node]).sort();
    expect(planned).toHaveLength(3);
    expect(
      membersOf("mixed")
        .map((each) => [each.metadata.name, each.spec.nodeName])
        .sort(),
    ).toEqual(planned);
  });

  test("of six gangs with room for two, exactly two are bound whole and the others hold nothing", async () => {
    await freshNamespace();
    await apply(claimTemplate("eight", 8));
    const names = Array.from({ length: 6 }, (_, index) => `rival-${index}`);
    await Promise.all(names.map((name) => createGang(name, 2, {}, "eight")));
    await until("two are scheduled and four refused", () => {
      const refused = gangs().filter(({ status }) =>
        status?.conditions?.some((c) => c.type === "Planned" && c.reason === "InsufficientDevices"),
      );
      return gangs().filter(({ status }) => status?.phase === "Scheduled").length === 2 && refused.length === 4;
    });
    await inStep();
    const bound = names.map((name) => membersOf(name).filter(isBound).length);
    expect(bound.filter((count) => count === 2)).toHaveLength(2);
    expect(bound.filter((count) => count === 0)).toHaveLength(4);
    expect(claims().filter((claim) => claim.status?.allocation !== undefined)).toHaveLength(4);
  });

  test("a gang goes elsewhere than to devices that a DeviceTaintRule taints, and to them when it is gone", async () => {
    await freshNamespace();
    await apply(claimTemplate("eight", 8));
    const { admin } = scene.stack;
    const { items: nodes } = await admin.request<{ items: Node[] }>("GET", "/api/v1/nodes");
    const node = nodes[0]!.metadata.name;
    const taint = { key: "drain", effect: "NoExecute" };
    const spec = { deviceSelector: { driver: "gpu.kllama.ai", pool: node }, taint };
    const gone = await taintByRule(scene, "v1", spec, 24);
    await createGang("elsewhere", 3, {}, "eight");
    await scheduled("elsewhere");
    await createGang("waits", 1, {}, "eight");
    await until("there is no room for another", () =>
      status("waits")?.conditions?.some((c) => c.type === "Planned" && c.reason === "InsufficientDevices"),
    );
    const nodesOf = (name: string) => status(name)?.placement?.pods.map((placed) => placed.node);
    expect(new Set(nodesOf("elsewhere"))).toEqual(new Set(nodes.slice(1).map(({ metadata }) => metadata.name)));
    await gone();
    await scheduled("waits");
    expect(nodesOf("waits")).toEqual([node]);
  });

  test("a single pod with a claim in an injected namespace is placed alone", async () => {
    await freshNamespace({ "scheduling.kllama.ai/inject": "enabled" });
    await apply(claimTemplate("one", 1), { ...member("none", "ranks", 0, "one"), metadata: { name: "single" } });
    await until("it is ready", () => pods().length === 1 && pods().every(isReady));
    await inStep();
    expect(devicesOf(pod("single"))).toHaveLength(1);
  });
});
