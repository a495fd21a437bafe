import { describe, expect, test } from "vitest";
import { install } from "../../src/cli/system/system.ts";
import { readManifests } from "../../src/kube/manifests.ts";
import { waitForPolicies } from "../../src/kube/policy-probes.ts";
import { uniformFleet } from "../../src/simulator/fleet.ts";
import { kllama } from "../support/cli.ts";
import { isBound, isReady, useScene } from "../support/scene.ts";
import { claimTemplate, gang, member, removeAll, withForeignGate } from "../support/workloads.ts";

/** Namespaces that are deleted, and kllama taken out, on a real control plane: six nodes with eight GPUs each. */
const nodes = 6;
const scene = useScene({ fleet: uniformFleet({ nodes, nodesPerRack: 2 }) });
const { freshNamespace, returnTo, namespace, apply, pods, claims, status, until } = scene;
const { membersOf, scheduled, createGang } = scene;

/** Claims that are guarded for the gang, or for any. */
const guarded = (gangName?: string) =>
  claims().filter((claim) =>
    claim.status?.reservedFor?.some(
      ({ resource, name }) => resource === "gangs" && (gangName === undefined || name === gangName),
    ),
  );

/** With the administrator's rights. */
const asAdmin = (line: string) => kllama(...line.split(" "), "--kubeconfig", scene.stack.plane.admin.path);

/** A gang that stays reserved: its second member cannot arrive. */
async function createReserved(name: string): Promise<void> {
  await apply(claimTemplate("eight", 8), gang(name, { podSets: [{ name: "ranks", count: 2 }] }));
  await apply(member(name, "ranks", 0, "eight"), withForeignGate(member(name, "ranks", 1, "eight")));
  await until("it is reserved", () => status(name)?.phase === "Reserved" && guarded(name).length === 2);
}

async function deleteNamespace(): Promise<void> {
  await scene.stack.admin.request("DELETE", `/api/v1/namespaces/${namespace()}`);
}

/** Does at once what the namespace controller does after five seconds: what is in the namespace is deleted. */
async function emptyNamespace(): Promise<void> {
  await deleteNamespace();
  await removeAll(scene.stack.admin, namespace());
}

/** Of what `kubectl delete -f deploy/policies.yaml` deletes. */
const policyPaths = (await readManifests(["deploy/policies.yaml"])).map(
  ({ object: { apiVersion, kind, metadata } }) => {
    const plural = kind
      .toLowerCase()
      .replace(/(policy|binding)$/, (end) => (end === "policy" ? "policies" : "bindings"));
    return `/apis/${apiVersion}/${plural}/${metadata.name}`;
  },
);

const isEmpty = () => pods().length + claims().length + scene.gangs().length === 0;

/** All GPUs can be had: nothing of what went before holds one. */
async function takeEverything(): Promise<void> {
  await freshNamespace();
  await apply(claimTemplate("eight", 8));
  await createGang("all", nodes, {}, "eight");
  await scheduled("all");
}

describe("a namespace deleted", () => {
  test("with a gang that waits, one that is reserved and one that runs: goes, and leaves nothing", async () => {
    const leaving: [phase: string, namespace: string][] = [];
    for (const phase of ["Pending", "Reserved", "Scheduled"]) {
      leaving.push([phase, await freshNamespace()]);
      if (phase === "Reserved") await createReserved("leaving");
      else {
        await apply(claimTemplate("eight", 8));
        await createGang("leaving", phase === "Pending" ? nodes + 1 : 2, {}, "eight");
      }
      await until(`it is ${phase}`, () => status("leaving")?.phase === phase);
      await deleteNamespace();
    }
    for (const [phase, left] of leaving) {
      returnTo(left);
      await until(`the namespace with a gang in ${phase} is empty`, isEmpty);
    }
    await takeEverything();
  });
});

describe("a namespace that is deleted", () => {
  test.for(["Reserved", "Binding", "Scheduled", "Revoked"])(
    "while the planner is down, killed as it had written %s: goes when it is back, and leaves nothing",
    async (phase) => {
      await freshNamespace();
      await scene.stack.planner.kill("SIGTERM");
      await scene.stack.planner.start({ KLLAMA_FAILPOINT: `writeStatus/${phase}:1` });
      await apply(claimTemplate("eight", 8));
      const spec = { podSets: [{ name: "ranks", count: 2 }], scheduleTimeoutSeconds: phase === "Revoked" ? 2 : 600 };
      await apply(gang("leaving", spec), member("leaving", "ranks", 0, "eight"));
      const last = member("leaving", "ranks", 1, "eight");
      await apply(phase === "Revoked" ? withForeignGate(last) : last);
      await scene.stack.planner.exited();
      await until("the phase is seen", () => status("leaving")?.phase === phase);
      await emptyNamespace();
      await until("its Gang is gone", () => scene.gangs().length === 0);
      await scene.stack.planner.start();
      await until("it is empty", isEmpty);
      await takeEverything();
    },
  );
});

describe("kllama taken out with gangs there", () => {
  test("what runs goes on and its namespace goes away although nothing was called", async () => {
    await freshNamespace();
    await apply(claimTemplate("eight", 8));
    await createGang("runs", 2, {}, "eight");
    await scheduled("runs");
    await until("guards are gone", () => membersOf("runs").every(isReady) && guarded().length === 0);
    await scene.stack.planner.kill("SIGKILL");
    expect(membersOf("runs").every(isReady)).toBe(true);
    await deleteNamespace();
    await until("it is empty", isEmpty);
    await scene.stack.planner.start();
    await takeEverything();
  });

  test("kllama release --all lets go of what was reserved; refused while a planner runs", async () => {
    await freshNamespace();
    await createReserved("stuck");
    const refused = await asAdmin("release --all");
    expect(refused).toMatchObject({ code: 1, stdout: "", stderr: expect.stringContaining("stop it and its replicas") });
    expect(guarded()).toHaveLength(2);
    await scene.stack.planner.kill("SIGTERM");
    await emptyNamespace();
    await until("only guarded claims are left", () => pods().length === 0 && scene.gangs().length === 0);
    expect(guarded()).toHaveLength(2);
    expect(await asAdmin(`release --all -n ${namespace()}`)).toEqual({
      code: 0,
      stdout: "claims: 2 given back, 0 left to the pods that run with them\npods: 0 let go\n",
      stderr: "",
    });
    await until("it is empty", isEmpty);
    await scene.stack.planner.start();
    await takeEverything();
  });

  test("by the steps that the documents give: what runs goes on, what was reserved is given back", async () => {
    await freshNamespace();
    await apply(claimTemplate("four", 4));
    await createGang("runs", 2);
    await scheduled("runs");
    await until("guards are gone", () => membersOf("runs").every(isReady) && guarded().length === 0);
    await createReserved("stuck");
    const { admin, planner } = scene.stack;
    await planner.kill("SIGTERM");
    for (const path of policyPaths) await admin.request("DELETE", path);
    const released = await asAdmin("release --all");
    expect(released).toMatchObject({ code: 0, stderr: "" });
    expect(released.stdout).toContain("claims: 2 given back");
    await until("nothing is guarded", () => guarded().length === 0);
    expect(membersOf("runs").every((each) => isReady(each) && isBound(each))).toBe(true);
    await emptyNamespace();
    await until("it is empty", isEmpty);
    await install(admin);
    await waitForPolicies(admin);
    await planner.start();
    await takeEverything();
  });

  // The last one: without its kind, no test can go on.
  test("its kinds deleted: what was reserved is given back, what runs goes on, and everything can be deleted", async () => {
    await freshNamespace();
    await apply(claimTemplate("four", 4));
    await createGang("runs", 2);
    await scheduled("runs");
    await until("all are ready", () => membersOf("runs").every(isReady));
    await apply(claimTemplate("eight", 8), gang("waits", { podSets: [{ name: "ranks", count: 1 }] }));
    await apply(withForeignGate(member("waits", "ranks", 0, "eight")));
    await until("it is reserved", () => status("waits")?.phase === "Reserved" && guarded("waits").length === 1);
    const crd = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/gangs.scheduling.kllama.ai";
    await scene.stack.admin.request("DELETE", crd);
    await until("nothing is guarded", () => scene.gangs().length === 0 && guarded().length === 0);
    expect(membersOf("runs").every((each) => isReady(each) && isBound(each))).toBe(true);
    expect(claims().filter((claim) => claim.status?.allocation !== undefined)).toHaveLength(2);
  });
});
