import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, readdir, readFile, rename, stat, utimes, writeFile } from "node:fs/promises";
import { createConnection, createServer } from "node:net";
import { join } from "node:path";
import { credentials, makeClientConstructor } from "@grpc/grpc-js";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { type DeviceHealthMessage, healthServices, type RegistrationStatus } from "../../../../src/dra/driver/grpc.ts";
import { watchHealth } from "../../../../src/dra/driver/health.ts";
import { type KubeletSockets, openKubeletSockets } from "../../../../src/dra/driver/kubelet-sockets.ts";
import { socketPaths } from "../../../../src/dra/driver/socket-files.ts";
import { hasSuccessor } from "../../../../src/dra/driver/successor.ts";
import { systemTiming } from "../../../../src/kube/timing.ts";
import { claimObject, type DriverScene, node, openScene, referenceTo } from "../../../support/driver.ts";
import { connectKubelet, type KubeletClient } from "../../../support/kubelet-client.ts";

let driver: DriverScene;
let sockets: KubeletSockets;
let kubelet: KubeletClient;
const statuses: RegistrationStatus[] = [];
const soon = { timeout: 10_000 };
const pathOf = (name: string): string => join(driver.folder, name);
const draPath = (): string => pathOf("plugins/gpu.kllama.ai/dra.sock");
const registrationPath = (): string => pathOf("plugins_registry/gpu.kllama.ai-reg.sock");

function open(folder = driver.folder, podUid?: string): Promise<KubeletSockets> {
  const { prepare, unprepare } = driver.preparation;
  const health = (send: (devices: DeviceHealthMessage[]) => void) =>
    watchHealth(driver.machine, node, systemTiming, send);
  return openKubeletSockets(folder, podUid, { prepare, unprepare, watchHealth: health }, (status) =>
    statuses.push(status),
  );
}

beforeEach(async () => {
  statuses.length = 0;
  driver = await openScene("h100-pcie");
  sockets = await open();
  kubelet = connectKubelet(registrationPath(), draPath());
});

afterEach(async () => {
  kubelet.close();
  await sockets.close();
  await driver.remove();
});

test("a socket that somebody removed or replaced is missed, so that the process can be started anew", async () => {
  expect(await sockets.missing()).toBeUndefined();
  for (const path of [draPath(), registrationPath()]) {
    await rename(path, `${path}.away`);
    expect(await sockets.missing()).toBe(`socket ${path} is gone`);
    await writeFile(path, "");
    expect(await sockets.missing()).toBe(`socket ${path} is gone`);
    await rename(`${path}.away`, path);
    expect(await sockets.missing()).toBeUndefined();
  }
});

test("the registration names driver, socket and versions, the preferred one first", async () => {
  expect(await kubelet.getInfo()).toEqual({
    type: "DRAPlugin",
    name: "gpu.kllama.ai",
    endpoint: draPath(),
    supported_versions: ["v1.DRAPlugin", "v1beta1.DRAPlugin", "v1.DRAResourceHealth", "v1alpha1.DRAResourceHealth"],
  });
  await kubelet.notify({ plugin_registered: false, error: "no such version" });
  expect(statuses).toEqual([{ plugin_registered: false, error: "no such version" }]);
});

test.for(["v1.DRAPlugin", "v1beta1.DRAPlugin"])("%s prepares and unprepares", async (version) => {
  const claim = claimObject("c", ["gpus gpu-0"]);
  driver.claims.set("c", claim);
  const reference = referenceTo(claim);
  const device = {
    request_names: ["gpus"],
    pool_name: node,
    device_name: "gpu-0",
    cdi_device_ids: [`gpu.kllama.ai/claim=${reference.uid}-gpus`],
  };
  expect(await kubelet.prepare([reference], version)).toEqual({ [reference.uid]: { devices: [device], error: "" } });
  expect(await kubelet.unprepare([reference], version)).toEqual({ [reference.uid]: { error: "" } });
});

test("one claim's failure is that claim's alone, and an empty call is a sign of life", async () => {
  const [good, bad] = [claimObject("good", ["gpus gpu-0"]), claimObject("bad", ["gpus gpu-9"])];
  driver.claims.set("good", good).set("bad", bad);
  const answers = await kubelet.prepare([referenceTo(good), referenceTo(bad)]);
  expect(answers[good.metadata.uid!]?.error).toBe("");
  expect(answers[bad.metadata.uid!]).toEqual({ devices: [], error: "claim team/bad: node node-1 has no device gpu-9" });
  expect(await kubelet.prepare([])).toEqual({});
});

test.for(["v1.DRAResourceHealth", "v1alpha1.DRAResourceHealth"])(
  "%s tells every device at once and each change",
  async (version) => {
    const heard: DeviceHealthMessage[][] = [];
    const stop = kubelet.watchHealth(version, (devices) => heard.push(devices));
    await vi.waitFor(() => expect(heard.length).toBeGreaterThan(0), soon);
    expect(heard[0]?.map(({ device, health }) => `${device.pool_name}/${device.device_name} ${health}`)).toEqual(
      [0, 1, 2, 3].map((minor) => `node-1/gpu-${minor} HEALTHY`),
    );
    expect(Math.abs((heard[0]?.[0]?.last_updated_time ?? 0) - Date.now() / 1000)).toBeLessThan(60);
    const losses = { "gpu-2": { how: "taint", since: "2026-01-01T00:00:00Z" } };
    await writeFile(pathOf("machine.json"), JSON.stringify({ instances: [], losses }));
    await vi.waitFor(() => expect(heard.at(-1)?.[2]?.health).toBe("UNHEALTHY"), soon);
    expect(heard.at(-1)?.[2]?.message).toBe("lost since 2026-01-01T00:00:00Z");
    stop();
  },
);

test("a kubelet that does not read its health stream gets the newest when it does, and fills no memory until then", async () => {
  let send: (devices: DeviceHealthMessage[]) => void = () => undefined;
  const watched = Promise.withResolvers<void>();
  const other = await openKubeletSockets(
    pathOf("slow"),
    undefined,
    {
      prepare: async () => ({}),
      unprepare: async () => ({}),
      watchHealth(to) {
        send = to;
        watched.resolve();
        return () => undefined;
      },
    },
    () => undefined,
  );
  const { dra } = socketPaths(pathOf("slow"), undefined);
  const service = healthServices.get("v1.DRAResourceHealth")!;
  const client = new (makeClientConstructor(service, ""))(`unix:${dra}`, credentials.createInsecure());
  type Stream = NodeJS.ReadableStream & { cancel(): void };
  const stream = (client as unknown as { NodeWatchResources(request: object): Stream }).NodeWatchResources({});
  stream.on("error", () => undefined);
  await watched.promise;
  const count = 500;
  for (let index = 0; index < count; index++) {
    const device = { pool_name: node, device_name: `at-${index}` };
    const message = "x".repeat(50_000);
    send([{ device, health: "HEALTHY", last_updated_time: 0, health_check_timeout_seconds: 0, message }]);
  }
  const heard: (string | undefined)[] = [];
  stream.on("data", ({ devices }: { devices: DeviceHealthMessage[] }) => heard.push(devices[0]?.device.device_name));
  await vi.waitFor(() => expect(heard.at(-1)).toBe(`at-${count - 1}`), soon);
  expect(heard.length).toBeLessThan(count / 5);
  stream.cancel();
  client.close();
  await other.close();
});

describe("sockets", () => {
  test("may be opened by this user alone", async () => {
    for (const path of [draPath(), registrationPath()]) expect((await stat(path)).mode & 0o777).toBe(0o600);
    for (const folder of ["plugins/gpu.kllama.ai", "plugins_registry"]) {
      expect((await stat(pathOf(folder))).mode & 0o777).toBe(0o700);
    }
  });

  test("go with a driver that is stopped", async () => {
    await sockets.close();
    for (const path of [draPath(), registrationPath()]) await expect(stat(path)).rejects.toThrow("ENOENT");
  });

  test("of a driver that was killed are taken over", async () => {
    const folder = pathOf("stale");
    await mkdir(join(folder, "plugins/gpu.kllama.ai"), { recursive: true });
    // What a killed process leaves: a socket file that nobody listens on.
    const dead = join(folder, "plugins/gpu.kllama.ai/dra.sock");
    const { execFileSync } = await import("node:child_process");
    const script = `require("net").createServer().listen(${JSON.stringify(dead)}, () => process.kill(process.pid, "SIGKILL"))`;
    expect(() => execFileSync(process.execPath, ["-e", script])).toThrow("SIGKILL");
    expect((await stat(dead)).isSocket()).toBe(true);
    const again = await open(folder);
    const other = connectKubelet(join(folder, "plugins_registry/gpu.kllama.ai-reg.sock"), dead);
    expect((await other.getInfo()).endpoint).toBe(dead);
    other.close();
    await again.close();
  });

  test("of a driver that runs are not", async () => {
    await expect(open()).rejects.toThrow("another process answers there; stop it first");
    expect((await kubelet.getInfo()).name).toBe("gpu.kllama.ai");
  });

  test("with a path that Linux cannot hold are refused with a remedy", async () => {
    await expect(open(join(driver.folder, "x".repeat(90)))).rejects.toThrow(
      "longer than 107 bytes; use a shorter --kubelet-dir",
    );
  });

  test("in a place where something else is are not taken", async () => {
    const folder = pathOf("taken");
    await mkdir(join(folder, "plugins/gpu.kllama.ai"), { recursive: true });
    await writeFile(join(folder, "plugins/gpu.kllama.ai/dra.sock"), "precious");
    await expect(open(folder)).rejects.toThrow("is not a socket");
    expect(await readFile(join(folder, "plugins/gpu.kllama.ai/dra.sock"), "utf8")).toBe("precious");
  });
});

describe("in a rolling update", () => {
  const registration = (uid: string) => pathOf(`plugins_registry/gpu.kllama.ai-${uid}-reg.sock`);
  const dra = (uid: string) => pathOf(`plugins/gpu.kllama.ai/dra-${uid}.sock`);
  const folder = (): string => pathOf("plugins/gpu.kllama.ai");
  /** What a process that is killed leaves: a socket on which nobody listens. */
  async function leaveBehind(path: string): Promise<void> {
    const program = `require("node:net").createServer().listen(process.argv[1], () => process.kill(process.pid, "SIGKILL"))`;
    await new Promise((resolve) => spawn(process.execPath, ["-e", program, path]).once("exit", resolve));
  }

  test("two processes have sockets of their own; each takes only its own away", async () => {
    const [first, second] = [await open(driver.folder, "uid-1"), await open(driver.folder, "uid-2")];
    for (const uid of ["uid-1", "uid-2"]) {
      const client = connectKubelet(registration(uid), dra(uid));
      expect((await client.getInfo()).endpoint).toBe(dra(uid));
      expect(await client.prepare([])).toEqual({});
      client.close();
    }
    await first.close();
    expect((await readdir(pathOf("plugins_registry"))).toSorted()).toEqual([
      "gpu.kllama.ai-reg.sock",
      "gpu.kllama.ai-uid-2-reg.sock",
    ]);
    expect((await readdir(folder())).toSorted()).toEqual(["dra-uid-2.sock", "dra.sock"]);
    await second.close();
    // One without a UID of its own was there all the time.
    expect((await kubelet.getInfo()).endpoint).toBe(draPath());
  });

  test("sockets of those that were killed go, others' and those of living ones stay", async () => {
    const others = [pathOf("plugins_registry/gpu.kllama.ai.example.org-reg.sock"), join(folder(), "other.sock")];
    for (const path of [registration("dead"), dra("dead"), ...others]) await leaveBehind(path);
    const young = await open(driver.folder, "young");
    for (const path of [registration("dead"), dra("dead")]) expect(existsSync(path)).toBe(false);
    for (const path of [...others, draPath(), registrationPath()]) expect(existsSync(path)).toBe(true);
    await young.close();
  });

  test("the youngest that answers is the successor of all others", async () => {
    const succeeded = (uid: string) => hasSuccessor(folder(), dra(uid));
    const old = await open(driver.folder, "old");
    const young = await open(driver.folder, "young");
    // As if a second lay between them: neighbours may have the same time.
    for (const [uid, at] of Object.entries({ old: 1, young: 2 })) await utimes(dra(uid), at, at);
    await utimes(draPath(), 0, 0);
    expect([await succeeded("old"), await succeeded("young")]).toEqual([true, false]);
    await young.close();
    expect(await succeeded("old")).toBe(false);
    await leaveBehind(dra("young"));
    expect(await succeeded("old")).toBe(false);
    await old.close();
  });

  test("a call that is under way when the process is told to end is answered, and health streams end", async () => {
    const go = Promise.withResolvers<void>();
    const begun = Promise.withResolvers<void>();
    const ended = await openKubeletSockets(
      pathOf("ending"),
      "uid",
      {
        async prepare() {
          begun.resolve();
          await go.promise;
          return { a: { devices: [], error: "" } };
        },
        unprepare: async () => ({}),
        watchHealth: (send) => watchHealth(driver.machine, node, systemTiming, send),
      },
      () => undefined,
    );
    const paths = socketPaths(pathOf("ending"), "uid");
    const client = connectKubelet(paths.registration, paths.dra);
    const heard = Promise.withResolvers<void>();
    client.watchHealth("v1.DRAResourceHealth", () => heard.resolve());
    const answer = client.prepare([{ namespace: "n", name: "a", uid: "a" }]);
    await Promise.all([begun.promise, heard.promise]);
    const closing = ended.close();
    go.resolve();
    expect(await answer).toEqual({ a: { devices: [], error: "" } });
    await closing;
    expect(existsSync(paths.dra)).toBe(false);
    client.close();
  });
});

describe("whatever is sent to the socket", () => {
  const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
  const frame = (type: number, length: number, payload = Buffer.alloc(0)): Buffer =>
    Buffer.concat([Buffer.from([length >> 16, length >> 8, length, type, 0, 0, 0, 0, 1]), payload]);
  test.for<[string, Buffer]>([
    ["nothing", Buffer.alloc(0)],
    ["random bytes", Buffer.from(Array.from({ length: 500 }, (_, i) => (i * 7919) % 256))],
    ["HTTP/1.1", Buffer.from("POST /v1.DRAPlugin HTTP/1.1\r\nHost: x\r\n\r\n")],
    ["a bare preface", Buffer.from(preface)],
    ["half a frame", Buffer.concat([Buffer.from(preface), frame(4, 0), frame(1, 100).subarray(0, 5)])],
    ["a frame that is too long", Buffer.concat([Buffer.from(preface), frame(4, 0), frame(0, 0xffffff)])],
    [
      "headers that do not decode",
      Buffer.concat([Buffer.from(preface), frame(4, 0), frame(1, 4, Buffer.from([255, 255, 255, 255]))]),
    ],
  ])("%s: calls are answered afterwards", async ([, bytes]) => {
    for (let round = 0; round < 20; round++) {
      const connection = createConnection(draPath());
      await new Promise<void>((resolve) => {
        connection.on("error", () => resolve());
        connection.on("close", () => resolve());
        connection.end(bytes, () => setImmediate(() => connection.destroy()));
      });
    }
    expect(await kubelet.prepare([])).toEqual({});
  });
});

test("a folder's server that does not speak gRPC is somebody's, too", async () => {
  const folder = pathOf("foreign");
  await mkdir(join(folder, "plugins/gpu.kllama.ai"), { recursive: true });
  const server = createServer().listen(join(folder, "plugins/gpu.kllama.ai/dra.sock"));
  await new Promise((resolve) => server.once("listening", resolve));
  await expect(open(folder)).rejects.toThrow("another process answers there");
  server.close();
});
