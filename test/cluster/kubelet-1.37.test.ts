import { readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { specFile } from "../../src/dra/driver/cdi.ts";
import { cdiIdOf, type JudgedMachine, type KubeletScene, openKubeletScene, soon } from "../support/kubelet-scene.ts";

/** The same on the second version that is kept green, in short: `npm run kubelet` plays all of kubelet.test.ts on it. */

let scene: KubeletScene;
let machine: JudgedMachine;

beforeAll(async () => {
  scene = await openKubeletScene("1.37.1");
  machine = await scene.machine();
});

afterAll(async () => {
  await machine?.kubelet.close();
  await machine?.driver.remove();
  await scene?.close();
});

describe("by the kubelet of Kubernetes 1.37.1", () => {
  test("a pod is prepared, told how its devices are, and unprepared, over restarts of the kubelet and kill -9 of the driver", async () => {
    const { driver, kubelet } = machine;
    const { gitVersion } = await scene.admin.request<{ gitVersion: string }>("GET", "/version");
    expect(gitVersion).toMatch(/^v1\.37\.1/);
    await driver.start();
    const claim = await scene.pod(driver, "p", ["gpus gpu-0"]);
    const name = `${driver.name}-p`;
    const specs = () => readdir(driver.cdiFolder);
    const health = async () => (await kubelet.health(name))["c0"];
    await kubelet.prepareInTheEnd(name);
    expect(await kubelet.devices(name)).toEqual({ c0: [cdiIdOf(claim)] });
    await vi.waitFor(async () => expect(await health()).toEqual([`claim:gpus ${cdiIdOf(claim)} Healthy`]), soon);
    const hardware = join(driver.stateFolder, "simulated-machine.json");
    const losses = { "gpu-0": { how: "taint", since: "2026-01-01T00:00:00Z" } };
    await writeFile(hardware, JSON.stringify({ instances: [], losses }));
    const ill = `claim:gpus ${cdiIdOf(claim)} Unhealthy lost since 2026-01-01T00:00:00Z`;
    await vi.waitFor(async () => expect(await health()).toEqual([ill]), soon);
    await writeFile(hardware, JSON.stringify({ instances: [], losses: {} }));
    await kubelet.stop();
    await kubelet.start();
    await kubelet.prepareInTheEnd(name);
    expect(await kubelet.devices(name)).toEqual({ c0: [cdiIdOf(claim)] });
    await driver.kill("SIGKILL");
    await driver.start();
    await vi.waitFor(() => expect(scene.slicesOf(driver)).toHaveLength(1), soon);
    expect(await specs()).toEqual([specFile(claim.metadata.uid!)]);
    await kubelet.unprepareInTheEnd(name);
    expect(await kubelet.mightNeedToUnprepare(name)).toBe(false);
    expect(await specs()).toEqual([]);
  });
});
