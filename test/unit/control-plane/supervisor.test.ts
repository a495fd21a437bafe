import { spawn } from "node:child_process";
import { access, mkdir, mkdtemp, readFile, rm } from "node:fs/promises";
import { createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, expect, onTestFinished, test } from "vitest";
import {
  type Supervisor,
  type SupervisorConfiguration,
  startSupervisor,
} from "../../../tools/control-plane/supervisor-client.ts";

let root: string;
let server: Server;
const supervisors: Supervisor[] = [];
/** Each process under test calls here first; its connection closes when it is dead, however it died. */
let calls: AsyncIterator<Socket>;

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), "kllama-test-"));
  server = createServer();
  const queue = arrivals(server);
  calls = queue;
  await new Promise<void>((resolve) => server.listen(join(root, "life.sock"), resolve));
});
afterEach(async () => {
  await Promise.all(supervisors.splice(0).map((supervisor) => supervisor.end()));
  server.close();
  await rm(root, { recursive: true, force: true });
});

/** Ended with the test, also when that fails. */
function supervise(more: Partial<SupervisorConfiguration> = {}): Supervisor {
  const supervisor = startSupervisor({ stopOrder: [], graceMs: longMs, removeDir: null, ...more });
  supervisors.push(supervisor);
  return supervisor;
}

/** For whoever is to be killed; and for whoever is to end by himself, however long a busy machine takes with it. */
const [shortMs, longMs] = [200, 20_000];

async function* arrivals(from: Server): AsyncGenerator<Socket> {
  const waiting: Socket[] = [];
  let wake = () => {};
  from.on("connection", (socket) => {
    waiting.push(socket);
    wake();
  });
  for (;;) {
    const socket = waiting.shift();
    if (socket !== undefined) yield socket;
    else await new Promise<void>((resolve) => (wake = resolve));
  }
}

async function arrival(): Promise<{ dead: Promise<void> }> {
  const { value } = (await calls.next()) as { value: Socket };
  value.on("error", () => {});
  value.resume();
  return { dead: new Promise((resolve) => value.once("close", () => resolve())) };
}

/** A process that says that it lives; `deaf` ignores SIGTERM. */
function living(name: string, deaf = false) {
  const code = `${deaf ? "process.on('SIGTERM', () => {});" : ""} require('net').connect(${JSON.stringify(join(root, "life.sock"))}); setInterval(() => {}, 1e6)`;
  return { name, command: process.execPath, args: ["-e", code], cwd: root, logPath: join(root, `${name}.log`) };
}

const exists = (path: string) =>
  access(path).then(
    () => true,
    () => false,
  );

test("stop waits for the end, and a deaf process is killed after the grace", async () => {
  const [patient, hasty] = [supervise(), supervise({ graceMs: shortMs })];
  const polite = await patient.start(living("polite"));
  await arrival();
  const deaf = await hasty.start(living("deaf", true));
  await arrival();
  await patient.stop("polite");
  expect(await polite.exited).toEqual({ code: null, signal: "SIGTERM" });
  await hasty.stop("deaf");
  expect(await deaf.exited).toEqual({ code: null, signal: "SIGKILL" });
  await hasty.stop("deaf");
});

test("a name is in use as long as its process runs, and a kill frees it", async () => {
  const supervisor = supervise();
  const first = await supervisor.start(living("one"));
  await expect(supervisor.start(living("one"))).rejects.toThrow("one is running already");
  await supervisor.signal("one", "SIGKILL");
  expect(await first.exited).toEqual({ code: null, signal: "SIGKILL" });
  await expect(supervisor.signal("one", "SIGKILL")).rejects.toThrow("one is not running");
  const second = await supervisor.start(living("one"));
  expect(second.pid).not.toBe(first.pid);
  await supervisor.end();
  expect(await second.exited).toEqual({ code: null, signal: "SIGTERM" });
});

test("a command that does not exist, and one that ends at once with its output", async () => {
  const supervisor = supervise();
  await expect(supervisor.start({ ...living("x"), command: "/no/such/thing" })).rejects.toThrow("ENOENT");
  const short = await supervisor.start({
    ...living("y"),
    command: "/bin/sh",
    args: ["-c", "echo out; echo err >&2; exit 3"],
  });
  expect(await short.exited).toEqual({ code: 3, signal: null });
  expect(await readFile(join(root, "y.log"), "utf8")).toBe("out\nerr\n");
});

test("the groups end one after the other", async () => {
  const supervisor = supervise({ stopOrder: [["b"], ["a"]] });
  const ends: string[] = [];
  for (const name of ["a", "b", "c"]) {
    const run = await supervisor.start(living(name));
    await arrival();
    void run.exited.then(() => ends.push(name));
  }
  await supervisor.end();
  expect(ends).toEqual(["b", "a", "c"]);
});

test("after kill -9 of the owner no process is left, and its directory is gone", async () => {
  const data = join(root, "data");
  await mkdir(data);
  const client = fileURLToPath(new URL("../../../tools/control-plane/supervisor-client.ts", import.meta.url));
  const code = `
    const { startSupervisor } = await import(${JSON.stringify(client)});
    const supervisor = startSupervisor({ stopOrder: [["a"]], graceMs: ${shortMs}, removeDir: ${JSON.stringify(data)} });
    await supervisor.start(${JSON.stringify(living("a"))});
    await supervisor.start(${JSON.stringify(living("b", true))});`;
  const owner = spawn(process.execPath, ["--input-type=module", "-e", code], { stdio: "inherit" });
  onTestFinished(() => void owner.kill("SIGKILL"));
  const processes = [await arrival(), await arrival()];
  owner.kill("SIGKILL");
  await Promise.all(processes.map(({ dead }) => dead));
  await expect.poll(() => exists(data), { timeout: 25_000, interval: 20 }).toBe(false);
});

test("after kill -9 of the supervisor its owner ends the processes and removes the directory", async () => {
  const data = join(root, "data");
  await mkdir(data);
  const supervisor = supervise({ removeDir: data });
  const parent = living("parent");
  // Its parent is the supervisor.
  const run = await supervisor.start({
    ...parent,
    args: ["-e", `console.log(String(process.ppid)); ${parent.args[1]}`],
  });
  const { dead } = await arrival();
  process.kill(Number(await readFile(parent.logPath, "utf8")), "SIGKILL");
  expect(await run.exited).toEqual({ code: null, signal: "SIGKILL" });
  await dead;
  await supervisor.end();
  expect(await exists(data)).toBe(false);
  await expect(supervisor.start(parent)).rejects.toThrow("process that runs the control plane");
});
