import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Agent, request } from "undici";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { CapacityOutput } from "../../src/api/capacity.ts";
import type { PlanOutput } from "../../src/api/placement.ts";
import { uniformFleet } from "../../src/simulator/fleet.ts";
import { kllama } from "../support/cli.ts";
import { isReady, useScene } from "../support/scene.ts";
import { taintByRule } from "../support/taint-rules.ts";
import { claimTemplate, gang, member, type Workload } from "../support/workloads.ts";

/** Racks of 6 and 5 nodes would be two sizes: three racks of 4, for gangs of 2, 3, 4 and 3 that each want one. */
const scene = useScene({
  fleet: uniformFleet({ nodes: 12, nodesPerRack: 4, gpusPerNode: 4 }),
  // What an administrator of 1.36 turns on for DeviceTaintRules; in 1.37 they are there anyway.
  featureGates: { DRADeviceTaintRules: true },
  extraArgs: { "kube-apiserver": ["--runtime-config=resource.k8s.io/v1beta2=true"] },
});
const { freshNamespace, apply, until, pods, claims, gangs, createGang, scheduled } = scene;

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "kllama-snapshot-"));
});
afterAll(() => rm(folder, { recursive: true }));

const refusalOf = (name: string) =>
  scene.status(name)?.conditions?.find(({ type, status }) => type === "Planned" && status === "False");

/** Gang → pod → node and devices. */
function placesOf({ placements }: PlanOutput, namespace: string) {
  const mine = placements.filter((placement) => placement.namespace === namespace);
  return Object.fromEntries(
    mine.map(({ gang: name, pods: placed }) => [
      name,
      placed.map(({ pod, node, claims: held }) => [
        pod,
        node,
        held.flatMap(({ devices }) => devices.map(({ device }) => device)).sort(),
      ]),
    ]),
  );
}

test("a snapshot replays to the placement that the planner then makes, without any secret in it", async () => {
  await freshNamespace();
  await apply(claimTemplate("four", 4), claimTemplate("two", 2));
  const inRack = { constraints: [{ level: "rack" }] };
  await createGang("running", 2, inRack);
  await scheduled("running");
  await until("the running ones are ready", () => pods().every(isReady));
  await scene.stack.planner.kill("SIGKILL");

  await createGang("three", 3, inRack);
  await createGang("four", 4, inRack);
  await createGang("large", 3, { ...inRack, podSets: [{ name: "ranks", count: 3 }] });
  await createGang("waits", 2, inRack);
  await apply(gang("lacks-pods", { podSets: [{ name: "ranks", count: 1 }] }), single("single"));
  // Each is written into its pod's status after it was made.
  const told = () => pods().filter(({ status }) => status?.resourceClaimStatuses?.length === 1).length;
  await until("all claims exist", () => [claims().length, told()].every((count) => count === 2 + 3 + 4 + 3 + 2 + 1));

  const file = join(folder, "now.json");
  const taken = await kllama("snapshot", "--kubeconfig", scene.stack.plane.admin.path, "-o", file);
  expect(taken).toEqual({ code: 0, stdout: "", stderr: "" });
  const text = await readFile(file, "utf8");
  expect(text).not.toMatch(/hunter2|managedFields|"env"|last-applied|"kind":"Secret"/);
  const again = await kllama("snapshot", "--kubeconfig", scene.stack.plane.admin.path);
  expect(withoutVersions(again.stdout)).toBe(withoutVersions(text));

  const replay = await kllama("plan", "--snapshot", file, "-o", "json");
  const replayed = JSON.parse(replay.stdout) as PlanOutput;
  expect([replay.code, replay.stderr]).toEqual([3, ""]);
  expect(JSON.parse((await kllama("plan", "--snapshot", file, "-o", "json")).stdout).placements).toEqual(
    replayed.placements,
  );

  await scene.stack.planner.start();
  const placed = replayed.placements.filter(({ gang: name }) => gangs().some(({ metadata }) => metadata.name === name));
  for (const { gang: name } of placed) await scheduled(name);
  await until("the single pod is bound", () => scene.pod("single")?.spec.nodeName);
  await until("the others say why not", () =>
    replayed.rejections.every(({ gang: name, reason }) => refusalOf(name)?.reason === reason),
  );

  const live = await kllama("snapshot", "--placements", "--kubeconfig", scene.stack.plane.admin.path);
  const now = JSON.parse(live.stdout) as PlanOutput;
  const { running, ...pending } = placesOf(now, scene.namespace());
  expect(running).toHaveLength(2);
  expect(placesOf(replayed, scene.namespace())).toEqual(pending);
  const refusals = ({ rejections }: PlanOutput) => rejections.map(({ gang: name, reason }) => [name, reason]).sort();
  expect(refusals(now)).toEqual(refusals(replayed));
  expect(refusals(now).map(([name]) => name)).toContain("lacks-pods");

  const more = join(folder, "more.yaml");
  await writeFile(more, "apiVersion: v1\nkind: Pod\nmetadata: { name: more }\nspec: { containers: [{ name: c }] }\n");
  const besides = await kllama("plan", "--snapshot", file, "-f", more, "-o", "json");
  expect(JSON.parse(besides.stdout).placements).toContainEqual(expect.objectContaining({ gang: "more" }));
});

test("as many as capacity says are placed, and not one more", async () => {
  await freshNamespace();
  await apply(claimTemplate("four", 4));
  const spec = { podSets: [{ name: "ranks", count: 2 }], constraints: [{ level: "rack" }] };
  await createGang("running", 3, { ...spec, podSets: [{ name: "ranks", count: 3 }] });
  await scheduled("running");
  const asked = [
    claimTemplate("four", 4),
    gang("asked", spec),
    member("asked", "ranks", 0, "four"),
    member("asked", "ranks", 1, "four"),
  ];
  const [work, dump] = [join(folder, "work.json"), join(folder, "then.json")];
  await writeFile(work, JSON.stringify({ apiVersion: "v1", kind: "List", items: asked.map(inNamespace) }));
  const cluster = ["--kubeconfig", scene.stack.plane.admin.path];

  const live = await kllama("capacity", ...cluster, "-f", work, "-o", "json");
  const output = JSON.parse(live.stdout) as CapacityOutput;
  // Racks of 4 nodes: one node is left beside the gang of 3, and two gangs of 2 go into each of the others.
  expect([live.code, live.stderr, output.answers[0]?.copies, output.answers[0]?.stoppedBy]).toEqual([0, "", 4, "room"]);
  expect(output.free[0]).toMatchObject({ deviceClass: "gpu.kllama.ai", total: 48, free: 36, nodesByFree: { 4: 9 } });
  await kllama("snapshot", ...cluster, "-o", dump);
  expect((await kllama("capacity", "--snapshot", dump, "-f", work, "-o", "json")).stdout).toBe(live.stdout);

  const told = await askPlanner(await readFile(work, "utf8"));
  // A planner at work stops after its slice of time, on a slow machine after the first copy.
  const [mine] = told.answers;
  expect(mine!.copies).toBeGreaterThan(0);
  expect(["room", "time"]).toContain(mine!.stoppedBy);
  expect(mine!.placements).toEqual(output.answers[0]!.placements.slice(0, mine!.copies));
  expect(told.free).toEqual(output.free);
  expect(told.viewAgeMs).toBeGreaterThanOrEqual(0);

  for (const name of ["g1", "g2", "g3", "g4", "g5"]) await createGang(name, 2, spec);
  const phases = () =>
    gangs()
      .map(({ status }) => status?.phase)
      .sort();
  await until(
    "four are scheduled and one waits",
    () => phases().join() === "Pending,Scheduled,Scheduled,Scheduled,Scheduled,Scheduled",
  );
});

test("devices that a DeviceTaintRule taints are nobody's until it is gone; who has them keeps them", async () => {
  await freshNamespace();
  await apply(claimTemplate("four", 4));
  const inRack = { constraints: [{ level: "rack" }] };
  await createGang("before", 2, inRack);
  await scheduled("before");
  const running = () => scene.membersOf("before").map(({ metadata, spec }) => [metadata.uid, spec.nodeName]);
  const before = running();

  const spec = {
    deviceSelector: { driver: "gpu.kllama.ai", device: "gpu-0" },
    taint: { key: "drain", value: "yes", effect: "NoSchedule" },
  };
  // One of four on each of the ten nodes that are free.
  const gone = await taintByRule(scene, "v1beta2", spec, 30);
  await createGang("after", 2, inRack);
  await until("the next gang is refused", () => refusalOf("after")?.reason === "NoMatchingDevice");

  const cluster = ["--kubeconfig", scene.stack.plane.admin.path];
  const live = JSON.parse((await kllama("capacity", ...cluster, "-o", "json")).stdout) as CapacityOutput;
  expect(live.free[0]).toMatchObject({ deviceClass: "gpu.kllama.ai", total: 48, free: 30, nodesByFree: { 3: 10 } });
  const file = join(folder, "tainted.json");
  await kllama("snapshot", ...cluster, "-o", file);
  const replayed = JSON.parse((await kllama("plan", "--snapshot", file, "-o", "json")).stdout) as PlanOutput;
  expect(replayed.rejections.map(({ gang: name, reason }) => [name, reason])).toEqual([["after", "NoMatchingDevice"]]);
  expect(claims().filter(({ status }) => status?.allocation !== undefined)).toHaveLength(2);

  await gone();
  await scheduled("after");
  expect(scene.status("before")?.phase).toBe("Scheduled");
  expect([before.length, running()]).toEqual([2, before]);
});

/** What the running planner says, asked as kube-scheduler would. */
async function askPlanner(body: string): Promise<CapacityOutput & { viewAgeMs: number }> {
  const { url, client } = scene.stack.extender;
  const agent = new Agent({ connect: client });
  const headers = { "content-type": "application/json" };
  try {
    const answer = await request(`${url}/capacity`, { dispatcher: agent, method: "POST", headers, body });
    expect(answer.statusCode).toBe(200);
    return (await answer.body.json()) as CapacityOutput & { viewAgeMs: number };
  } finally {
    await agent.close();
  }
}

function inNamespace(object: Workload): Workload {
  return { ...object, metadata: { ...object.metadata, namespace: scene.namespace() } };
}

function withoutVersions(text: string): string {
  return text.replaceAll(/"(resourceVersion|renewTime)":"\d*"/g, "").replaceAll(/"lastHeartbeatTime":"[^"]*",?/g, "");
}

/** A pod without a Gang, with a password in its environment. */
function single(name: string): Workload {
  const container = {
    name: "main",
    image: "registry.k8s.io/pause:3.10",
    env: [{ name: "PASSWORD", value: "hunter2" }],
    resources: { claims: [{ name: "gpus" }] },
  };
  return {
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name },
    spec: {
      terminationGracePeriodSeconds: 0,
      schedulingGates: [{ name: "scheduling.kllama.ai/gang" }],
      containers: [container],
      resourceClaims: [{ name: "gpus", resourceClaimTemplateName: "two" }],
    },
  };
}
