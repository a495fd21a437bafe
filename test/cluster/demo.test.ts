import { type ChildProcess, spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { stringify } from "yaml";
import { z } from "zod";
import { rejectionReasons } from "../../src/api/placement.ts";
import { eventually } from "../../src/kube/eventually.ts";
import { uniformFleet } from "../../src/simulator/fleet.ts";

/** The demo as a person runs it: `bin/kllama` from some other directory. */

const name = z.string().min(1);
const device = z.object({ request: name, driver: name, pool: name, device: name });
const claim = z.object({ claim: name, devices: z.array(device) });
const pod = z.object({ pod: name, podSet: name, node: name, claims: z.array(claim) });
const link = z.object({ from: name, to: name, level: name, milliseconds: z.number() });
const cost = z.object({ totalMs: z.number(), byLink: z.array(link), assumes: z.array(name) });
const blocking = z.object({
  level: name,
  domain: name.optional(),
  resource: name,
  needed: z.number(),
  available: z.number(),
});
const outputSchema = z.object({
  placements: z.array(
    z.object({
      gang: name,
      namespace: name,
      role: name.optional(),
      placementGroup: name.optional(),
      pods: z.array(pod).min(1),
      domains: z.record(name, name),
      cost,
    }),
  ),
  rejections: z.array(
    z.object({
      gang: name,
      namespace: name,
      reason: z.enum(rejectionReasons),
      message: name,
      blocking: z.array(blocking),
      counterfactuals: z.array(name),
    }),
  ),
  stats: z.object({
    nodes: z.int(),
    devices: z.int(),
    gangs: z.int(),
    planMs: z.number(),
    explored: z.number(),
    budgetExceeded: z.boolean(),
  }),
});

const folder = mkdtempSync(join(tmpdir(), "kllama-demo-test-"));
const runs: Run[] = [];
/** For what needs no more than four machines and one gang. */
const few = join(folder, "few.yaml");
writeFileSync(few, stringify(uniformFleet({ nodes: 4 })));
const oneGang = "examples/statefulset-gang.yaml";

/** The time that it is given passes while others are tested. */
let hopeless: Run | undefined;
afterAll(async () => {
  for (const { child, ended } of runs) {
    if (child.exitCode === null) child.kill("SIGTERM");
    await ended;
  }
  rmSync(folder, { recursive: true });
});

interface Process {
  pid: number;
  started: string;
}

interface Run {
  child: ChildProcess;
  /** Everything that was seen to run below the demo. */
  processes: Map<string, Process>;
  stdout(): string;
  stderr(): string;
  /** Resolves when the demo's standard error says it, rejects when it ends before. */
  says(text: string): Promise<void>;
  ended: Promise<number | null>;
  /** Its own folder for temporary files. */
  temporary: string;
}

function start(...flags: string[]): Run {
  const temporary = mkdtempSync(join(folder, "tmp-"));
  const child = spawn(resolve("bin/kllama"), ["demo", ...flags], {
    cwd: folder,
    env: { ...process.env, TMPDIR: temporary },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const processes = new Map<string, Process>();
  const text = { stdout: "", stderr: "" };
  const waiting = new Set<() => void>();
  child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
    text.stdout += chunk;
  });
  child.stderr.setEncoding("utf8").on("data", (chunk: string) => {
    text.stderr += chunk;
    for (const found of descendants(child.pid!)) processes.set(`${found.pid} ${found.started}`, found);
    for (const look of waiting) look();
  });
  const ended = new Promise<number | null>((done) => child.once("close", (code) => done(code)));
  const run: Run = {
    child,
    processes,
    stdout: () => text.stdout,
    stderr: () => text.stderr,
    ended,
    temporary,
    says: (wanted) =>
      new Promise((done, fail) => {
        const look = (): void => {
          if (text.stderr.includes(wanted)) done();
        };
        waiting.add(look);
        look();
        void ended.then((code) => fail(new Error(`the demo ended with ${code}:\n${text.stderr}`)));
      }),
  };
  runs.push(run);
  return run;
}

/** Fields of /proc/PID/stat after the command, which may contain spaces and brackets itself. */
function stat(pid: number): { parent: number; started: string } | undefined {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, "utf8")
      .replace(/^.*\) /s, "")
      .split(" ");
    return fields[0] === "Z" ? undefined : { parent: Number(fields[1]), started: fields[19]! };
  } catch {
    return undefined;
  }
}

function descendants(root: number): Process[] {
  const all = readdirSync("/proc")
    .filter((entry) => /^\d+$/.test(entry))
    .flatMap((entry) => {
      const found = stat(Number(entry));
      return found === undefined ? [] : [{ pid: Number(entry), ...found }];
    });
  const below = new Set([root]);
  for (let size = 0; size !== below.size; ) {
    size = below.size;
    for (const each of all) if (below.has(each.parent)) below.add(each.pid);
  }
  return all.filter((each) => below.has(each.pid) && each.pid !== root);
}

function alive(run: Run): number[] {
  return [...run.processes.values()].filter(({ pid, started }) => stat(pid)?.started === started).map(({ pid }) => pid);
}

function expectNothingLeft(run: Run): void {
  // Control plane of five and its supervisor; three processes of kllama come later.
  expect(run.processes.size).toBeGreaterThanOrEqual(6);
  expect(alive(run)).toEqual([]);
  expect(readdirSync(run.temporary)).toEqual([]);
}

describe("kllama demo --once -o json", () => {
  let run: Run;
  let output: z.output<typeof outputSchema>;
  beforeAll(async () => {
    run = start("--once", "-o", "json");
    expect(await run.ended, run.stderr()).toBe(0);
    output = outputSchema.parse(JSON.parse(run.stdout()));
  });
  const shape = (pods: z.output<typeof pod>[]): number[] =>
    pods.map((each) => each.claims.reduce((sum, { devices }) => sum + devices.length, 0));

  test("exits with 0 and prints only the placements, of every example", () => {
    const { placements, rejections, stats } = output;
    expect(rejections).toEqual([]);
    expect(placements.map((each) => `${each.namespace}/${each.gang}`)).toEqual([
      "llama-3-70b/llama-3-70b-a",
      "llama-pd/decode-1",
      "llama-pd/decode-2",
      "llama-pd/decode-3",
      "llama-pd/decode-4",
      "llama-pd/prefill-a",
      "llama-pd/prefill-b",
      "mig/small-model",
      "plain/workers",
    ]);
    expect(stats).toMatchObject({ nodes: 68, gangs: 9, budgetExceeded: false });
    expect(stats.planMs).toBeGreaterThan(0);
  });

  test("Llama-3-70B has 2 × 4 GPUs in one NVLink domain", () => {
    const placed = output.placements.find((each) => each.gang === "llama-3-70b-a");
    expect(shape(placed!.pods)).toEqual([4, 4]);
    expect(placed!.domains).toHaveProperty("nvlink-domain");
    expect(placed!.cost.byLink).toEqual([expect.objectContaining({ level: expect.stringMatching(/^nvlink/) })]);
    expect(placed!.cost.totalMs).toBe(placed!.cost.byLink[0]!.milliseconds);
  });

  test("prefill (2 × 4) and decode (2 × 2) share one NVLink domain", () => {
    const placed = output.placements.filter((each) => each.namespace === "llama-pd");
    expect(placed.map((each) => [each.role, ...shape(each.pods)])).toEqual([
      ...Array.from({ length: 4 }, () => ["decode", 2, 2]),
      ...Array.from({ length: 2 }, () => ["prefill", 4, 4]),
    ]);
    const domains = new Set(placed.map((each) => each.domains["nvlink-domain"]));
    expect([...domains]).toEqual([expect.stringContaining("sim-west")]);
  });

  test("the hand-written gang has 4 × 2 GPUs, the pod one MIG slice", () => {
    const { placements } = output;
    const workers = placements.find((each) => each.gang === "workers");
    expect(workers!.pods.map((each) => each.pod)).toEqual(["workers-0", "workers-1", "workers-2", "workers-3"]);
    expect(shape(workers!.pods)).toEqual([2, 2, 2, 2]);
    const mig = placements.find((each) => each.gang === "small-model");
    expect(mig!.pods[0]!.claims[0]!.devices).toEqual([
      expect.objectContaining({ driver: "gpu.kllama.ai", device: expect.stringMatching(/^gpu-\d-mig-1g10gb-/) }),
    ]);
  });

  test("no device stands twice, each is one of the pod's node", () => {
    const pods = output.placements.flatMap((each) => each.pods);
    const devices = pods.flatMap((each) => each.claims.flatMap((held) => held.devices));
    expect(devices).toHaveLength(8 + 2 * 8 + 4 * 4 + 8 + 1);
    expect(new Set(devices.map((each) => `${each.driver}/${each.pool}/${each.device}`)).size).toBe(devices.length);
    for (const each of pods)
      for (const held of each.claims) for (const { pool } of held.devices) expect(pool).toBe(each.node);
  });

  test("takes less than a minute from a warm cache and leaves nothing", () => {
    const secondsOf = (step: string) => Number(new RegExp(`(\\d+\\.\\d) s {2}${step}`).exec(run.stderr())?.[1]);
    // Kubernetes alone starts in half of ten seconds: where it takes longer, others have the cores.
    const slowness = Math.max(1, secondsOf("etcd, kube-apiserver") / 10);
    expect(secondsOf("everything") / slowness, run.stderr()).toBeLessThan(60);
    expectNothingLeft(run);
  });
});

function startHopeless(): Run {
  const examples = join(folder, "examples");
  mkdirSync(examples);
  writeFileSync(join(examples, "huge.yaml"), readFileSync(oneGang, "utf8").replaceAll("count: 2\n", "count: 9\n"));
  return start("--once", "-o", "json", "--timeout", "40", "--fleet", few, "--examples", examples);
}

/** Two demos at a time on a machine that others use as well. */
const time = { timeout: 300_000 };

test("stays up with a picture until Ctrl-C, then leaves nothing", time, async () => {
  hopeless = startHopeless();
  const run = start();
  await run.says("Ctrl-C ends everything.");
  expect(run.stdout()).toMatch(/^\n68 nodes, 368 GPUs, 49 in use\. Nodes and GPUs are simulated/);
  expect(run.stdout()).toMatch(/nvl72-\d-\d\d \[[A-I] [A-I] [A-I] [A-I]\]/);
  expect(run.stderr()).toMatch(/KUBECONFIG=\S+ \S*kubectl get gangs -A/);
  run.child.kill("SIGINT");
  expect(await run.ended, run.stderr()).toBe(0);
  expectNothingLeft(run);
});

test("ended in the middle of its start leaves nothing", time, async () => {
  const run = start();
  await run.says("… policies take effect");
  run.child.kill("SIGTERM");
  expect(await run.ended, run.stderr()).toBe(130);
  expectNothingLeft(run);
});

test("killed with SIGKILL leaves nothing running", time, async () => {
  const run = start("--fleet", few, "--examples", resolve(oneGang));
  await run.says("Ctrl-C ends everything.");
  run.child.kill("SIGKILL");
  await run.ended.catch(() => undefined);
  await eventually(
    "everything ends with the demo",
    async () => (alive(run).length === 0 ? undefined : `still running: ${alive(run).join(", ")}`),
    { timeoutMs: 60_000 },
  );
  expectNothingLeft(run);
});

test("names what cannot be placed and exits with 1", time, async () => {
  const run = hopeless ?? startHopeless();
  expect(await run.ended, run.stderr()).toBe(1);
  const { placements, rejections } = outputSchema.parse(JSON.parse(run.stdout()));
  expect(placements).toEqual([]);
  expect(rejections.map((each) => [each.namespace, each.gang])).toEqual([["plain", "workers"]]);
  expect(rejections[0]!.reason).toBe("NoMatchingDevice");
  expect(rejections[0]!.blocking).toEqual([{ level: "host", resource: "gpu.kllama.ai", needed: 9, available: 8 }]);
  expect(run.stderr()).toMatch(
    /gang plain\/workers: Pending: .*; not bound: workers-0, workers-1, workers-2, workers-3/,
  );
  expectNothingLeft(run);
});
