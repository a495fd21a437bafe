import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { cpus, loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { parseArgs } from "node:util";
import { claimObject, referenceTo } from "../test/support/driver.ts";

import { type NodeAgentProcess, startNodeAgentProcess } from "../test/support/node-agent-process.ts";
import { connectDriver, type KubeletConnection } from "./kubelet-connection.ts";

const help = `usage: npm run bench -- driver [FLAGS]

Times the node agent's calls as the kubelet makes them: a process of its own on a simulated machine, over its socket, with
an API server that answers at once.
  1, 8, 32 GPUs    one claim of so many whole GPUs at a time
  1, 32 parts      one claim of so many partitions, which are cut for it and go with it
  110 pods         a call each for 110 claims of one GPU, all at once
  kill -9          until the driver, started again at once, tells the kubelet what it is

  --samples N   calls per figure; of the 110 pods, rounds of 110 (default 100)
`;

const podsAtOnce = 110;
/** On each machine. */
const kills = 10;

interface Row {
  what: string;
  /** Node type of the fleet below. */
  type: "gpus" | "parts";
  /** Claims of one round, each the names of its devices; a claim is a call. */
  claims: readonly (readonly string[])[];
}

const gpus = (count: number): string[] => Array.from({ length: count }, (_, index) => `gpu-${index}`);
/** Partitions of one memory slice: seven on a board. */
const parts = (count: number): string[] =>
  Array.from({ length: count }, (_, index) => `gpu-${Math.floor(index / 7)}-mig-1g10gb-19-${index % 7}`);

const rows: readonly Row[] = [
  { what: "1 GPU", type: "gpus", claims: [gpus(1)] },
  { what: "8 GPUs", type: "gpus", claims: [gpus(8)] },
  { what: "32 GPUs", type: "gpus", claims: [gpus(32)] },
  { what: `${podsAtOnce} pods at once, 1 GPU each`, type: "gpus", claims: gpus(podsAtOnce).map((gpu) => [gpu]) },
  { what: "1 partition, cut", type: "parts", claims: [parts(1)] },
  { what: "32 partitions, cut", type: "parts", claims: [parts(32)] },
];

interface Times {
  p50Ms: number;
  p99Ms: number;
}

interface Measured {
  prepare: Times;
  unprepare: Times;
  /** Processor time per claim, preparing and unpreparing. */
  cpuMs: { agent: number; benchmark: number };
}

interface Memory {
  firstStartMb: number;
  startMb: number;
  peakMb: number;
}

export async function driverBench(args: string[]): Promise<void> {
  const { values } = parseArgs({
    args,
    options: { samples: { type: "string", default: "100" }, help: { type: "boolean", short: "h", default: false } },
  });
  if (values.help) return void process.stdout.write(help);
  const samples = Number(values.samples);
  if (!Number.isInteger(samples) || samples < 1)
    throw new Error(`--samples ${values.samples}: give a whole number from 1`);
  const loadBefore = loadavg()[0] ?? 0;
  const results: ({ what: string } & Measured)[] = [];
  const memory: Record<string, Memory> = {};
  const againMs: number[] = [];
  for (const type of ["gpus", "parts"] as const) {
    await withAgent(type, async (agent) => {
      const firstStartMb = agent.memory().nowMb;
      await agent.restart();
      const startMb = agent.memory().nowMb;
      for (let kill = 0; kill < kills; kill++) againMs.push(await agent.killAndRestart());
      const driver = await connectDriver(agent.draSocket);
      for (const row of rows.filter((each) => each.type === type)) {
        await measure(agent, driver, row, 3);
        results.push({ what: row.what, ...(await measure(agent, driver, row, samples)) });
        process.stderr.write(`${row.what}: done\n`);
      }
      driver.close();
      memory[type] = { firstStartMb, startMb, peakMb: agent.memory().peakMb };
    });
  }
  const machine = `${cpus().length} × ${cpus()[0]?.model ?? "?"}`;
  const load = [loadBefore, loadavg()[0] ?? 0].map((each) => Number(each.toFixed(1)));
  const again = timesOf(againMs);
  const table = [
    `${samples} calls each (110 pods: rounds), Node ${process.version}, ${machine}, load average ${load.join(" to ")}`,
    "",
    "| claim | prepare p50 / p99 ms | unprepare p50 / p99 ms | processor ms per claim, both: agent | benchmark |",
    "|---|---|---|---|---|",
    ...results.map(
      ({ what, prepare, unprepare, cpuMs }) =>
        `| ${what} | ${cell(prepare)} | ${cell(unprepare)} | ${cpuMs.agent.toFixed(2)} | ${cpuMs.benchmark.toFixed(2)} |`,
    ),
    "",
    "| after kill -9 | p50 / most ms |",
    "|---|---|",
    `| GetInfo is answered | ${cell({ ...again, p99Ms: Math.max(...againMs) })} |`,
    "",
    "| machine | RSS at the first start MB | at later starts MB | most ever, under this load MB |",
    "|---|---|---|---|",
    ...Object.entries(memory).map(
      ([type, { firstStartMb, startMb, peakMb }]) =>
        `| ${types[type as Row["type"]].what} | ${[firstStartMb, startMb, peakMb].map((mb) => mb.toFixed(0)).join(" | ")} |`,
    ),
  ];
  process.stdout.write(`${table.join("\n")}\n`);
  const missed = missedBars(results, memory, Math.max(...againMs));
  process.stdout.write(`\n${missed.length === 0 ? "all bars met" : `missed: ${missed.join("; ")}`}\n`);
  if (missed.length > 0) process.exitCode = 1;
  const commit = { node: process.version, machine, load, samples };
  process.stdout.write(`RESULT ${JSON.stringify({ benchmark: "driver", ...commit, results, memory, againMs })}\n`);
}

/** What the node agent has to keep to on a machine that does nothing else. */
const bars = { p99Ms: 100, againMs: 2_000, rssMb: 120 } as const;

/** The bars that were missed, in words. Cutting a board has none: how long that takes is the board's affair. */
function missedBars(
  results: readonly ({ what: string } & Measured)[],
  memory: Readonly<Record<string, Memory>>,
  againMs: number,
): string[] {
  const whole = new Set(rows.filter(({ type }) => type === "gpus").map(({ what }) => what));
  const slow = results.filter(({ what, prepare }) => whole.has(what) && prepare.p99Ms > bars.p99Ms);
  const large = Object.entries(memory).filter(([, { peakMb }]) => peakMb > bars.rssMb);
  return [
    ...slow.map(({ what, prepare }) => `${what}: p99 ${prepare.p99Ms.toFixed(1)} ms of ${bars.p99Ms}`),
    ...(againMs > bars.againMs ? [`after kill -9: ${againMs.toFixed(0)} ms of ${bars.againMs}`] : []),
    ...large.map(([type, { peakMb }]) => `${type}: ${peakMb.toFixed(0)} MB of ${bars.rssMb}`),
  ];
}

/** Prepares and unprepares the row's claims, `rounds` times; each claim is new. */
async function measure(
  agent: NodeAgentProcess,
  driver: KubeletConnection,
  { claims }: Row,
  rounds: number,
): Promise<Measured> {
  const prepareMs: number[] = [];
  const unprepareMs: number[] = [];
  const cpuMs = { agent: agent.cpuMs(), benchmark: ownCpuMs() };
  for (let round = 0; round < rounds; round++) {
    agent.claims.clear();
    const references = claims.map((devices, index) => {
      const name = `claim-${index}`;
      const claim = claimObject(
        name,
        devices.map((device) => `gpus ${device}`),
      );
      agent.claims.set(name, claim);
      return referenceTo(claim);
    });
    prepareMs.push(...(await driver.callAll("prepare", references)));
    unprepareMs.push(...(await driver.callAll("unprepare", references)));
  }
  const perClaim = (before: number, now: number): number => (now - before) / (rounds * claims.length);
  return {
    prepare: timesOf(prepareMs),
    unprepare: timesOf(unprepareMs),
    cpuMs: { agent: perClaim(cpuMs.agent, agent.cpuMs()), benchmark: perClaim(cpuMs.benchmark, ownCpuMs()) },
  };
}

function ownCpuMs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

function timesOf(milliseconds: readonly number[]): Times {
  const sorted = milliseconds.toSorted((a, b) => a - b);
  const at = (share: number): number => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0;
  return { p50Ms: at(0.5), p99Ms: at(0.99) };
}

const cell = ({ p50Ms, p99Ms }: Times): string => `${p50Ms.toFixed(1)} / ${p99Ms.toFixed(1)}`;

const types = {
  gpus: { what: `${podsAtOnce} whole GPUs`, slots: podsAtOnce, nodeType: "dgx-h100" },
  parts: { what: "8 boards to be cut up", slots: 8, nodeType: "dgx-a100-mig" },
} as const;

/** No machine has 110 GPUs: this one has the fleet's GPUs in more slots than there are. */
async function withAgent(type: Row["type"], use: (agent: NodeAgentProcess) => Promise<void>): Promise<void> {
  const { slots, nodeType } = types[type];
  const folder = mkdtempSync(join(tmpdir(), "kllama-bench-"));
  const fleet = join(folder, "fleet.yaml");
  const text = readFileSync("fleets/default.yaml", "utf8");
  const places = Array.from({ length: slots }, (_, index) => {
    const bus = (index + 1).toString(16).padStart(2, "0");
    return `      - { pciBusID: "0000:${bus}:00.0", pcieRoot: "pci0000:${bus}", numaNode: 0 }\n`;
  });
  const one = new RegExp(`(  - name: ${nodeType}\n(?:    .*\n)*?    slots:\n)(?:      .*\n)+`);
  writeFileSync(
    fleet,
    text.replace(one, (_, head: string) => head + places.join("")),
  );
  const agent = await startNodeAgentProcess(["--inventory", `simulated:${nodeType}`, "--fleet", fleet]);
  try {
    await use(agent);
  } finally {
    await agent.remove();
    rmSync(folder, { recursive: true });
  }
}
