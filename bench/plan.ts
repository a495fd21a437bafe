import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { cpus, loadavg } from "node:os";
import process from "node:process";
import { text } from "node:stream/consumers";
import { parseArgs } from "node:util";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { counterfactualSteps } from "../src/gang/counterfactuals.ts";
import { warmUp } from "../src/gang/fit.ts";
import { type PlanResult, type PlanUnit, plan } from "../src/gang/plan.ts";
import type { ClusterModel } from "../src/topology/model.ts";
import { createRandom } from "../test/simulation/random.ts";
import { threadCpuMs } from "./cpu.ts";
import { type ChoiceTiming, choices, measureChoice } from "./making-room.ts";
import { createFiller, forgetGang, pendingGang, uniformCluster } from "./scene.ts";

/** Fewer plans give no figure, however long they take. */
const fewest = 20;

const ladder = [10, 100, 1000, 5000, 20_000, 100_000];

const help = `usage: npm run bench -- plan [FLAGS]

Times plan() on simulated fleets of 8-GPU nodes, 16 to a rack and 8 racks to a block, empty and with 50 % and 95 % of
the GPUs held. Between two plans the last one is held and an older one is given back, so that every plan meets changes.
  tp8         2 pods of 4 GPUs that share an NVLink domain
  pdSet       a PlacementGroup of 32 GPUs in one block: 2 prefill gangs of 8 GPUs, 1 decode gang of 2 pods of 8 GPUs
  gang512     64 pods of 8 GPUs, every 8 in one rack, one block preferred
  infeasible  16 pods of 8 GPUs and one of 4 in one rack of 128 GPUs: each part has a place, all together have none
  explained   the same, and what would make room for it: the planner finds that out in slices, of at least one step
  newShape    tp8 with a CPU request that no gang had before: nothing of it is known yet
And with all GPUs held but fragments, what the planner does for tp8 and gang512 that found no room, in steps of which each
may be the last of a turn of its event loop:
  victims     who is preempted, if all that run have a lower priority
  room        which nodes are drained

  --nodes N,…   these rungs of the ladder only (default ${ladder.join(",")})
  --samples N   plans per figure (default 200)
  --seconds N   how long a figure may take; it rests on ${fewest} plans at least, and says on how many if on fewer than asked (default 30)
  --seed N      decides which nodes are in use (default 1)
`;

const loads = [0, 0.5, 0.95];
const kinds = ["tp8", "pdSet", "gang512", "infeasible", "explained", "newShape"] as const;
type Kind = (typeof kinds)[number];
/** Those for which room is made. */
const refusedKinds = ["tp8", "gang512"] as const;

/** Plans that are held at a time; the oldest is given back. */
const heldAtATime = 4;

interface Timing {
  p50Ms: number;
  p99Ms: number;
  /** Time that the thread had a core. */
  ownP50Ms: number;
  ownP99Ms: number;
  placed: boolean;
  samples: number;
  /** Of `explained`: steps per gang, and how long one takes. */
  steps?: { perGang: number; p50Ms: number; p99Ms: number; mostMs: number; ownMostMs: number };
}

/** One size of cluster. `timings`: load in percent → kind → times. */
interface Rung {
  nodes: number;
  buildSeconds: number;
  /** Reading all devices, as the planner does before it is ready, and the first plan after that. */
  warmUpMs: number;
  firstPlanMs: number;
  heapMb: number;
  rssMb: number;
  timings: Record<string, Record<Kind, Timing>>;
  /** `victims tp8` and so on → times. */
  makingRoom: Record<string, ChoiceTiming>;
}

export async function planBench(args: string[]): Promise<void> {
  const { values } = parseArgs({
    args,
    options: {
      help: { type: "boolean", short: "h" },
      nodes: { type: "string" },
      samples: { type: "string", default: "200" },
      seconds: { type: "string", default: "30" },
      seed: { type: "string", default: "1" },
      "this-process": { type: "boolean" },
    },
  });
  if (values.help === true) {
    process.stdout.write(help);
    return;
  }
  const numbers = (["samples", "seconds", "seed"] as const).map((flag) => [flag, positive(flag, values[flag])]);
  const sizes = Object.fromEntries(numbers) as Sizes;
  const asked = values.nodes?.split(",").map((each) => positive("nodes", each)) ?? ladder;
  if (values["this-process"] === true) {
    process.stdout.write(JSON.stringify(measureRung(asked[0]!, sizes)));
    return;
  }
  const rungs: Rung[] = [];
  for (const nodes of asked) rungs.push(await rungOf(nodes, sizes));
  report(rungs, sizes);
}

function positive(flag: string, text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 1) throw new Error(`--${flag} is ${text}; give a whole number above 0`);
  return value;
}

interface Sizes {
  samples: number;
  seconds: number;
  seed: number;
}

/** In a process of its own, so that its memory is its own, and V8 is told what `bin/kllama` tells it for the planner. */
async function rungOf(nodes: number, sizes: Sizes): Promise<Rung> {
  const flags = Object.entries({ nodes, ...sizes }).flatMap(([flag, value]) => [`--${flag}`, `${value}`]);
  const command = [
    ...plannerFlags(),
    "--max-old-space-size=12000",
    process.argv[1]!,
    "plan",
    ...flags,
    "--this-process",
  ];
  const child = spawn(process.execPath, command, { stdio: ["ignore", "pipe", "inherit"] });
  const [output, code] = await Promise.all([text(child.stdout), once(child, "close").then(([status]) => status)]);
  if (code !== 0) throw new Error(`the rung of ${nodes} nodes ended with exit code ${code}`);
  return JSON.parse(output) as Rung;
}

function plannerFlags(): string[] {
  const script = readFileSync(new URL("../bin/kllama", import.meta.url), "utf8");
  const command = /^exec "\$node" (--.*?) "\$root/m.exec(script)?.[1];
  if (command === undefined) throw new Error("bin/kllama has no line that starts Node for the planner");
  return command.split(" ");
}

function measureRung(nodes: number, { samples, seconds, seed }: Sizes): Rung {
  const begun = performance.now();
  const tell = (what: string): void => {
    const seconds = Math.round((performance.now() - begun) / 1000);
    process.stderr.write(`${nodes} nodes, after ${seconds} s: ${what}\n`);
  };
  tell("build");
  const model = uniformCluster(nodes);
  const buildSeconds = (performance.now() - begun) / 1000;
  const bench = createBench(model);
  tell("warm-up");
  const warmUpBegun = performance.now();
  warmUp(model.view);
  const warmUpMs = performance.now() - warmUpBegun;
  const firstPlanMs = bench.planned("tp8").ms;
  bench.giveBack();
  const filler = createFiller(model, createRandom(seed));
  const timings: Rung["timings"] = {};
  for (const load of loads) {
    filler.fillTo(load);
    // Tens of thousands of objects in a moment: V8 would copy them twice while plans are measured, 20 to 30 ms each time.
    collectGarbage();
    const entries = kinds.map((kind): [Kind, Timing] => {
      tell(`${Math.round(load * 100)} % held, ${kind}`);
      return [kind, bench.measure(kind, samples, seconds)];
    });
    timings[`${Math.round(load * 100)}`] = Object.fromEntries(entries) as Record<Kind, Timing>;
  }
  filler.fillTo(1);
  collectGarbage();
  const makingRoom: Rung["makingRoom"] = {};
  for (const kind of refusedKinds) {
    for (const choice of choices) {
      tell(`all held, ${choice} ${kind}`);
      makingRoom[`${choice} ${kind}`] = measureChoice(
        model,
        choice,
        () => bench.unit(kind),
        Math.ceil(samples / 10),
        seconds,
      );
    }
  }
  const { heapMb, rssMb } = memory();
  return { nodes, buildSeconds, warmUpMs, firstPlanMs, heapMb, rssMb, timings, makingRoom };
}

function createBench(model: ClusterModel) {
  let made = 0;
  const held: { key: string; unit: PlanUnit }[] = [];

  /** Holds what was planned, as the planner does in the same turn. */
  const hold = (unit: PlanUnit, result: PlanResult): void => {
    if (!("plans" in result)) {
      for (const gang of unit.gangs) forgetGang(model, gang);
      return;
    }
    for (const { placement, requests } of result.plans) {
      const { namespace, gang, pods } = placement;
      const key = `${namespace}/${gang}`;
      model.hold(
        key,
        namespace,
        pods.map((placed) => ({ placed, requests: requests.get(placed.pod)! })),
      );
      held.push({ key, unit: { gangs: unit.gangs.filter(({ name }) => name === gang) } });
    }
  };
  const giveBack = (atMost: number): void => {
    while (held.length > atMost) {
      const { key, unit } = held.shift()!;
      model.release(key);
      for (const gang of unit.gangs) forgetGang(model, gang);
    }
  };
  let steps: { ms: number; ownMs: number }[] = [];
  const explain = (unit: PlanUnit): void => {
    const outlook = counterfactualSteps(model, unit);
    for (let done = false; !done; ) {
      const onCore = threadCpuMs();
      const begun = performance.now();
      done = outlook.next().done === true;
      steps.push({ ms: performance.now() - begun, ownMs: threadCpuMs() - onCore });
    }
  };
  const planned = (kind: Kind): { ms: number; ownMs: number; placed: boolean } => {
    const unit = unitOf(model, kind, made++);
    const onCore = threadCpuMs();
    const begun = performance.now();
    const result = plan(model, unit);
    if (kind === "explained") explain(unit);
    const ms = performance.now() - begun;
    const ownMs = threadCpuMs() - onCore;
    hold(unit, result);
    giveBack(heldAtATime);
    return { ms, ownMs, placed: "plans" in result };
  };
  return {
    planned,
    unit: (kind: Kind): PlanUnit => unitOf(model, kind, made++),
    giveBack: () => giveBack(0),
    measure(kind: Kind, asked: number, seconds: number): Timing {
      let placed = 0;
      const times: number[] = [];
      const ownTimes: number[] = [];
      // The first plans after a change of load meet many changed nodes at once: they are part of no steady state.
      for (let warm = 0; warm < 3; warm++) planned(kind);
      steps = [];
      const end = performance.now() + seconds * 1000;
      while (times.length < asked && (times.length < fewest || performance.now() < end)) {
        // What cannot be placed changes nothing: something else has to.
        if (kind === "infeasible" || kind === "explained") planned("tp8");
        const { ms, ownMs, placed: found } = planned(kind);
        times.push(ms);
        ownTimes.push(ownMs);
        if (found) placed++;
      }
      giveBack(0);
      for (const list of [times, ownTimes]) list.sort((a, b) => a - b);
      return {
        p50Ms: quantile(times, 0.5),
        p99Ms: quantile(times, 0.99),
        ownP50Ms: quantile(ownTimes, 0.5),
        ownP99Ms: quantile(ownTimes, 0.99),
        placed: placed === times.length,
        samples: times.length,
        ...(steps.length > 0 && { steps: stepTimes(steps, times.length) }),
      };
    },
  };
}

function stepTimes(steps: readonly { ms: number; ownMs: number }[], gangs: number): NonNullable<Timing["steps"]> {
  const times = steps.map(({ ms }) => ms).sort((a, b) => a - b);
  return {
    perGang: Math.round(steps.length / gangs),
    p50Ms: quantile(times, 0.5),
    p99Ms: quantile(times, 0.99),
    mostMs: times.at(-1) ?? 0,
    ownMostMs: Math.max(...steps.map(({ ownMs }) => ownMs)),
  };
}

function unitOf(model: ClusterModel, kind: Kind, number: number): PlanUnit {
  const name = `${kind.toLowerCase()}-${number}`;
  const inOneDomain = [{ size: 2, level: "nvlink-domain" }];
  if (kind === "tp8")
    return { gangs: [pendingGang(model, name, { ranks: { count: 2, gpus: 4, slices: inOneDomain } })] };
  if (kind === "newShape") {
    const ranks = { count: 2, gpus: 4, slices: inOneDomain, cpu: 1000 + number };
    return { gangs: [pendingGang(model, name, { ranks })] };
  }
  if (kind === "gang512") {
    const ranks = { count: 64, gpus: 8, slices: [{ size: 8, level: "rack" }] };
    const constraints = [{ type: "colocate" as const, level: "block", mode: "preferred" as const }];
    return { gangs: [pendingGang(model, name, { ranks }, { constraints })] };
  }
  if (kind === "infeasible" || kind === "explained") {
    const constraints = [{ type: "colocate" as const, level: "rack", mode: "required" as const }];
    const podSets = { ranks: { count: 16, gpus: 8 }, router: { count: 1, gpus: 4 } };
    return { gangs: [pendingGang(model, name, podSets, { constraints })] };
  }
  const gangs = [
    pendingGang(model, `${name}-prefill-0`, { ranks: { count: 1, gpus: 8 } }, { role: "prefill" }),
    pendingGang(model, `${name}-prefill-1`, { ranks: { count: 1, gpus: 8 } }, { role: "prefill" }),
    pendingGang(model, `${name}-decode-0`, { ranks: { count: 2, gpus: 8 } }, { role: "decode" }),
  ];
  const spec = {
    topology: "default",
    members: [
      { role: "prefill", minInstances: 2 },
      { role: "decode", minInstances: 1 },
    ],
    constraints: [{ type: "colocate" as const, level: "block", mode: "required" as const }],
    pairing: [{ from: "prefill", to: "decode", bytesPerRequest: 2e9 }],
  };
  return { gangs, placementGroup: { namespace: "bench", name, spec } };
}

function quantile(sorted: readonly number[], q: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))] ?? 0;
}

/** V8 gives back the memory of what is gone in other threads, on which plans would wait: seconds, with gigabytes. Nothing tells when it is over. */
const sweepMs = 3_000;

function collectGarbage(): void {
  setFlagsFromString("--expose-gc");
  (runInNewContext("gc") as () => void)();
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, sweepMs);
}

/** After a garbage collection, so that what is counted is what is kept. */
function memory(): { heapMb: number; rssMb: number } {
  collectGarbage();
  const { heapUsed, rss } = process.memoryUsage();
  return { heapMb: Math.round(heapUsed / 2 ** 20), rssMb: Math.round(rss / 2 ** 20) };
}

function report(rungs: readonly Rung[], sizes: Sizes): void {
  const load = loadavg()[0]!.toFixed(1);
  const lines = [
    `plan() alone, ${sizes.samples} plans per figure or "of" fewer; (no): there is no place, the time is that of the verdict`,
    `Node ${process.version}, ${cpus().length} × ${cpus()[0]?.model.trim()}, load of the machine at the end ${load}; seed ${sizes.seed}`,
    "",
    "p50 / p99 in ms by the clock",
    "",
    ...timeTable(rungs, sizes, ({ p50Ms, p99Ms }) => [p50Ms, p99Ms]),
    "",
    "p50 / p99 in ms that the planner's thread had a core: without its waits, of which other work on the machine makes many",
    "",
    ...timeTable(rungs, sizes, ({ ownP50Ms, ownP99Ms }) => [ownP50Ms, ownP99Ms]),
    "",
    "choosing who makes room, with all GPUs held: the whole choice p50 / most, and its longest step, in ms of the thread's own; in brackets: pods evicted, or nodes drained",
    "",
    ...choiceTable(rungs),
    "",
    "what would make room, step by step: ms by the clock, and the longest with a core",
    "",
    "| nodes × 8 GPUs | held | steps per gang | p50 | p99 | longest | longest with a core |",
    "|---|---|---|---|---|---|---|",
    ...rungs.flatMap(stepRows),
    "",
    "| nodes × 8 GPUs | taking in all objects, s | warm-up ms | first plan of all ms | heap MB, cluster and caches | process MB |",
    "|---|---|---|---|---|---|",
    ...rungs.map(
      ({ nodes, buildSeconds, warmUpMs, firstPlanMs, heapMb, rssMb }) =>
        `| ${nodes} | ${buildSeconds.toFixed(1)} | ${warmUpMs.toFixed(0)} | ${firstPlanMs.toFixed(0)} | ${heapMb} | ${rssMb} |`,
    ),
  ];
  process.stdout.write(`${lines.join("\n")}\n`);
  const small = rungs.find(({ nodes }) => nodes === 5000);
  const large = rungs.find(({ nodes }) => nodes === 100_000);
  const shown = small ?? rungs.at(-1)!;
  const result = {
    benchmark: "plan",
    nodes: shown.nodes,
    /** The worst of all loads. */
    p99Ms: worst(shown, "p99Ms"),
    ownP99Ms: worst(shown, "ownP99Ms"),
    /** 100,000 nodes to 5,000. */
    tp8Ratio: small && large ? worst(large, "p99Ms").tp8 / worst(small, "p99Ms").tp8 : undefined,
    tp8OwnRatio: small && large ? worst(large, "ownP99Ms").tp8 / worst(small, "ownP99Ms").tp8 : undefined,
    rungs,
    sizes: { ...sizes, loads },
    versions: { node: process.version },
    machineLoad: loadavg()[0],
    seed: sizes.seed,
  };
  process.stdout.write(`RESULT ${JSON.stringify(result)}\n`);
}

function stepRows({ nodes, timings }: Rung): string[] {
  return Object.entries(timings).flatMap(([held, { explained }]) => {
    if (explained.steps === undefined) return [];
    const { perGang, p50Ms, p99Ms, mostMs, ownMostMs } = explained.steps;
    const times = [p50Ms, p99Ms, mostMs, ownMostMs].map((ms) => ms.toFixed(1));
    return [`| ${nodes} | ${held} % | ${perGang} | ${times.join(" | ")} |`];
  });
}

function timeTable(rungs: readonly Rung[], { samples }: Sizes, times: (timing: Timing) => [number, number]): string[] {
  const cell = (timing: Timing) => {
    const [half, most] = times(timing);
    const few = timing.samples < samples ? ` of ${timing.samples}` : "";
    return `${half.toFixed(1)} / ${most.toFixed(1)}${few}${timing.placed ? "" : " (no)"}`;
  };
  return [
    `| nodes × 8 GPUs | held | ${kinds.join(" | ")} |`,
    `|---|---|${kinds.map(() => "---|").join("")}`,
    ...rungs.flatMap(({ nodes, timings }) =>
      Object.entries(timings).map(
        ([held, byKind]) => `| ${nodes} | ${held} % | ${kinds.map((kind) => cell(byKind[kind])).join(" | ")} |`,
      ),
    ),
  ];
}

function choiceTable(rungs: readonly Rung[]): string[] {
  const names = Object.keys(rungs[0]!.makingRoom);
  const cell = ({ p50Ms, mostMs, stepMostMs, found }: ChoiceTiming) =>
    `${p50Ms.toFixed(1)} / ${mostMs.toFixed(1)}, ${stepMostMs.toFixed(1)} (${found ?? "none"})`;
  return [
    `| nodes × 8 GPUs | ${names.join(" | ")} |`,
    `|---|${names.map(() => "---|").join("")}`,
    ...rungs.map(
      ({ nodes, makingRoom }) => `| ${nodes} | ${names.map((name) => cell(makingRoom[name]!)).join(" | ")} |`,
    ),
  ];
}

function worst({ timings }: Rung, figure: "p99Ms" | "ownP99Ms"): Record<Kind, number> {
  const all = Object.values(timings);
  const of = (kind: Kind) => Math.max(...all.map((byKind) => byKind[kind][figure]));
  return Object.fromEntries(kinds.map((kind) => [kind, of(kind)])) as Record<Kind, number>;
}
