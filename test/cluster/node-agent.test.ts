import { existsSync } from "node:fs";
import { readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import type { ResourceSlice } from "../../src/api/kubernetes.ts";
import { specFile } from "../../src/dra/driver/cdi.ts";
import type { DeviceHealthMessage } from "../../src/dra/driver/grpc.ts";
import { createClient, type KubeClient } from "../../src/kube/client.ts";
import { loadConnection } from "../../src/kube/connection.ts";
import { installManifests } from "../../src/kube/install.ts";
import { type ControlPlane, startControlPlane } from "../../tools/control-plane/control-plane.ts";
import { referenceTo } from "../support/driver.ts";
import {
  allocateClaim,
  createDriverNode,
  type DriverNode,
  type DriverProcess,
  readClaim,
} from "../support/driver-node.ts";
import { type Followed, follow } from "../support/follow.ts";

/** The compiled driver against a real API server, under its own account; the test speaks for the kubelet. */

let plane: ControlPlane;
let admin: KubeClient;
let slices: Followed<ResourceSlice>;
const nodes: DriverNode[] = [];

async function node(name: string, type: string): Promise<DriverNode> {
  const made = await createDriverNode(plane, admin, name, type);
  nodes.push(made);
  return made;
}

const slicesOf = ({ name }: DriverNode): ResourceSlice[] =>
  [...slices.items.values()].filter(({ spec }) => spec.nodeName === name);
const soon = { timeout: 30_000, interval: 50 };

beforeAll(async () => {
  plane = await startControlPlane({ components: [] });
  admin = createClient(await loadConnection({ kubeconfigPath: plane.admin.path }));
  await installManifests(admin, ["deploy/rbac.yaml", "deploy/device-classes.yaml"]);
  await admin.request("POST", "/api/v1/namespaces", { body: { metadata: { name: "team" } } });
  slices = await follow(admin, "/apis/resource.k8s.io/v1/resourceslices");
});

afterAll(async () => {
  for (const made of nodes) await made.remove();
  await slices?.stop();
  await admin?.close();
  await plane?.stop();
});

describe("slices", () => {
  test("appear when the driver starts, and again at once when the kubelet wipes them", async () => {
    const driver = await node("wiped", "dgx-a100-mig");
    await driver.start();
    await vi.waitFor(() => expect(slicesOf(driver)).toHaveLength(5), soon);
    const before = slicesOf(driver);
    expect(before.every(({ spec }) => spec.pool.generation === 1 && spec.pool.resourceSliceCount === 5)).toBe(true);
    expect(before[0]?.metadata.ownerReferences?.[0]).toMatchObject({ kind: "Node", name: "wiped", controller: true });
    await admin.request("DELETE", "/apis/resource.k8s.io/v1/resourceslices", {
      query: { fieldSelector: "spec.nodeName=wiped" },
    });
    const old = new Set(before.map(({ metadata }) => metadata.uid));
    await vi.waitFor(() => {
      expect(slicesOf(driver).filter(({ metadata }) => !old.has(metadata.uid))).toHaveLength(5);
    }, soon);
  });

  test("stay over a restart without a write", async () => {
    const driver = await node("restarted", "dgx-h100");
    await driver.start();
    await vi.waitFor(() => expect(slicesOf(driver)).toHaveLength(1), soon);
    const [before] = slicesOf(driver);
    await driver.kill("SIGTERM");
    expect(existsSync(driver.draSocket)).toBe(false);
    await driver.start();
    const kubelet = driver.connect();
    await kubelet.notify({ plugin_registered: true, error: "" });
    kubelet.close();
    await vi.waitFor(
      () => expect(driver.log().filter((line) => line.includes('"serving metrics"'))).toHaveLength(2),
      soon,
    );
    const url = /"url":"([^"]+)"/.exec(driver.log().findLast((line) => line.includes('"serving metrics"'))!)![1];
    await vi.waitFor(async () => expect((await fetch(`${url}/readyz`)).status).toBe(200), soon);
    expect(slicesOf(driver)).toEqual([before]);
    const metrics = await (await fetch(`${url}/metrics`)).text();
    expect(metrics).toContain("kllama_driver_slice_writes_total 0");
    expect(metrics).toContain('kllama_driver_devices{health="ok"} 8');
  });

  test("show a device that broke with a taint, and its health to the kubelet; both heal", async () => {
    const driver = await node("broken", "h100-pcie");
    await driver.start();
    await vi.waitFor(() => expect(slicesOf(driver)).toHaveLength(1), soon);
    const kubelet = driver.connect();
    const heard: DeviceHealthMessage[][] = [];
    const stop = kubelet.watchHealth("v1alpha1.DRAResourceHealth", (devices) => heard.push(devices));
    const breakDevices = (losses: object) =>
      writeFile(join(driver.stateFolder, "simulated-machine.json"), JSON.stringify({ instances: [], losses }));
    await breakDevices({ "gpu-1": { how: "taint", since: "2026-01-01T00:00:00Z" } });
    const taints = () => slicesOf(driver)[0]?.spec.devices?.map((device) => device.taints?.[0]?.key);
    await vi.waitFor(() => expect(taints()).toEqual([undefined, "gpu.kllama.ai/gpu-lost", undefined, undefined]), soon);
    await vi.waitFor(() => expect(heard.at(-1)?.[1]?.health).toBe("UNHEALTHY"), soon);
    await breakDevices({});
    await vi.waitFor(() => expect(taints()).toEqual([undefined, undefined, undefined, undefined]), soon);
    await vi.waitFor(() => expect(heard.at(-1)?.[1]?.health).toBe("HEALTHY"), soon);
    expect(slicesOf(driver)[0]?.spec.pool.generation).toBe(1);
    stop();
    kubelet.close();
  });
});

test("in a rolling update the younger process publishes its devices, the older one leaves them alone until it is gone", async () => {
  const driver = await node("rolling", "dgx-a100-mig");
  const old = driver.inPod("uid-old");
  const young = driver.inPod("uid-young", ["--inventory", "simulated:h100-pcie"]);
  const said = (process: DriverProcess, text: string) => process.log().filter((line) => line.includes(text)).length;
  const wipe = () =>
    admin.request("DELETE", "/apis/resource.k8s.io/v1/resourceslices", {
      query: { fieldSelector: "spec.nodeName=rolling" },
    });
  await old.start();
  await vi.waitFor(() => expect(slicesOf(driver)).toHaveLength(5), soon);
  await young.start();
  await vi.waitFor(() => expect(said(old, "leaves the slices to it")).toBe(1), soon);
  await vi.waitFor(() => expect(slicesOf(driver).map(({ spec }) => spec.devices?.length)).toEqual([4]), soon);
  await vi.waitFor(() => expect(said(old, "slices published")).toBeGreaterThan(0), soon);
  const published = said(old, "slices published");
  await wipe();
  await vi.waitFor(() => expect(said(young, "slices published")).toBeGreaterThan(1), soon);
  await vi.waitFor(() => expect(slicesOf(driver).map(({ spec }) => spec.devices?.length)).toEqual([4]), soon);
  expect(said(old, "slices published")).toBe(published);
  // The update failed.
  await young.kill("SIGKILL");
  await vi.waitFor(() => expect(slicesOf(driver)).toHaveLength(5), soon);
  expect(said(old, "publishing slices again")).toBe(1);
});

describe("a claim", () => {
  test("is prepared, tells its hardware in status.devices, and is unprepared", async () => {
    const driver = await node("plain", "dgx-a100-mig");
    await driver.start();
    const partition = "gpu-2-mig-3g40gb-9-4";
    const claim = await allocateClaim(
      admin,
      "plain",
      "plain",
      ["whole gpu-0", `part ${partition}`],
      "other.example.org",
    );
    const { uid } = referenceTo(claim);
    // Another driver of the claim has told its part.
    const others = { driver: "other.example.org", pool: "other", device: "other", data: { what: "theirs" } };
    await admin.request("PATCH", "/apis/resource.k8s.io/v1/namespaces/team/resourceclaims/plain/status", {
      body: { status: { devices: [others] } },
    });
    const kubelet = driver.connect();
    const answers = await kubelet.prepare([referenceTo(claim)]);
    expect(answers[uid]?.error).toBe("");
    expect(answers[uid]?.devices.flatMap((device) => device.cdi_device_ids).toSorted()).toEqual([
      `gpu.kllama.ai/claim=${uid}-part`,
      `gpu.kllama.ai/claim=${uid}-whole`,
    ]);
    await vi.waitFor(async () => {
      const { status } = await readClaim(admin, "plain");
      expect(status?.devices).toEqual(
        expect.arrayContaining([
          expect.objectContaining(others),
          expect.objectContaining({
            device: "gpu-0",
            conditions: [expect.objectContaining({ type: "Ready", status: "True" })],
            data: { uuid: expect.stringMatching(/^GPU-/), pciBusID: "0000:07:00.0" },
          }),
          expect.objectContaining({
            device: partition,
            data: expect.objectContaining({
              uuid: expect.stringMatching(/^MIG-/),
              parentUUID: expect.stringMatching(/^GPU-/),
            }),
          }),
        ]),
      );
    }, soon);
    expect(await kubelet.unprepare([referenceTo(claim)])).toEqual({ [uid]: { error: "" } });
    expect(await readdir(driver.cdiFolder)).toEqual([]);
    kubelet.close();
  });

  test("survives kill -9 of the driver: it can be found again, gives the same answer, and the device is still taken", async () => {
    const driver = await node("killed", "dgx-h100");
    await driver.start();
    const claim = await allocateClaim(admin, "killed", "killed", ["gpus gpu-0"]);
    const rival = await allocateClaim(admin, "killed", "rival", ["gpus gpu-0"]);
    const first = driver.connect();
    const answer = await first.prepare([referenceTo(claim)]);
    first.close();
    await driver.kill("SIGKILL");
    expect(existsSync(driver.draSocket)).toBe(true);
    // Resolves once both sockets are open again.
    await driver.start();
    const second = driver.connect();
    expect(await second.getInfo()).toMatchObject({ name: "gpu.kllama.ai", endpoint: driver.draSocket });
    expect(await second.prepare([referenceTo(claim)])).toEqual(answer);
    const refused = await second.prepare([referenceTo(rival)]);
    expect(refused[rival.metadata.uid!]?.error).toBe("device killed/gpu-0 is in use by claim team/killed");
    second.close();
  });

  test("is found again when the checkpoint is damaged; an event says so", async () => {
    const driver = await node("damaged", "dgx-h100");
    await driver.start();
    const claim = await allocateClaim(admin, "damaged", "damaged", ["gpus gpu-5"]);
    const { uid } = referenceTo(claim);
    const kubelet = driver.connect();
    await kubelet.prepare([referenceTo(claim)]);
    kubelet.close();
    await driver.kill("SIGKILL");
    const checkpoint = join(driver.stateFolder, "checkpoint.json");
    await writeFile(checkpoint, "not a checkpoint");
    await driver.start();
    await vi.waitFor(async () => expect(await readFile(checkpoint, "utf8")).toContain(uid), soon);
    await vi.waitFor(async () => expect(await readdir(driver.cdiFolder)).toEqual([specFile(uid)]), soon);
    await vi.waitFor(async () => {
      const events = await admin.request<{ items: { reason: string; note: string }[] }>(
        "GET",
        "/apis/events.k8s.io/v1/events",
      );
      const [event, ...more] = events.items.filter(({ reason }) => reason === "CheckpointRebuilt");
      expect(event?.note).toMatch(/first line is not that of a checkpoint.*kept as .*corrupt-1\. 1 prepared claims/);
      expect(more).toEqual([]);
    }, soon);
  });

  test("of another node cannot be told about: the token speaks for its own node", async () => {
    const [mine, other] = [await node("mine", "h100-pcie"), await node("other", "h100-pcie")];
    await mine.start();
    const claim = await allocateClaim(admin, other.name, "elsewhere", ["gpus gpu-0"]);
    const kubelet = mine.connect();
    const answers = await kubelet.prepare([referenceTo(claim)]);
    expect(answers[claim.metadata.uid!]?.error).toContain("holds device other/gpu-0, which is not on node mine");
    kubelet.close();
  });
});

test("the driver starts without an API server and publishes when one answers", async () => {
  const driver = await node("patient", "h100-pcie");
  const server = plane.component("kube-apiserver");
  await server.kill("SIGSTOP");
  await driver.start();
  const kubelet = driver.connect();
  expect((await kubelet.getInfo()).name).toBe("gpu.kllama.ai");
  kubelet.close();
  await server.kill("SIGCONT");
  await vi.waitFor(() => expect(slicesOf(driver)).toHaveLength(1), { timeout: 60_000, interval: 100 });
});
