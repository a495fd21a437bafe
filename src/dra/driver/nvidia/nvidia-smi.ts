import { execFile } from "node:child_process";
import { promisify } from "node:util";
import type { TimeSlice } from "../device-configuration.ts";
import type { BoardReading, LinkReading, Reading } from "./reading.ts";

/**
 * What `nvidia-smi` tells where NVML cannot be loaded. Its output has no partitions' UUIDs and no placements, so boards in
 * MIG mode are left out.
 */

const execute = promisify(execFile);
/** What a program that can be killed takes to end, and more. */
const dyingMs = 1_000;

/** Why no other program is started: one hangs in the kernel, where the next one would hang beside it. */
let hanging: Error | undefined;

/** Rejects when the program fails, takes longer than `limitMs`, or is `ended`; whether or not a signal ends it then. */
async function run(program: string, args: readonly string[], limitMs: number, ended?: AbortSignal): Promise<string> {
  if (hanging !== undefined) throw hanging;
  const signal = ended === undefined ? {} : { signal: ended };
  const limits = { timeout: limitMs, killSignal: "SIGKILL", maxBuffer: 64 * 1024 * 1024, ...signal } as const;
  const execution = execute(program, args, limits);
  const hangs = new Error(`${program} was killed after ${limitMs / 1_000} s and does not end: it hangs in the kernel`);
  return await new Promise((resolve, reject) => {
    const giveUp = (): void => {
      hanging = hangs;
      reject(hangs);
    };
    // Counted from when it was killed, which a process that got no core meanwhile does late.
    let timer = setTimeout(() => {
      timer = setTimeout(giveUp, dyingMs);
    }, limitMs);
    const over = (): void => {
      clearTimeout(timer);
      if (hanging === hangs) hanging = undefined;
    };
    execution.finally(over).then(({ stdout }) => resolve(stdout), reject);
  });
}

/** Rejects when the program is not there, fails, takes longer than `limitMs`, or is `ended`. */
export async function readNvidiaSmi(program: string, limitMs: number, ended?: AbortSignal): Promise<Reading> {
  const ask = (...args: string[]): Promise<string> => run(program, args, limitMs, ended);
  const document = await ask("-q", "-x");
  const capabilities = await ask("--query-gpu=uuid,compute_cap", "--format=csv,noheader");
  // Machines without any link have nothing to show.
  const topology = await ask("topo", "-m").catch(() => "");
  return parseNvidiaSmi(document, capabilities, topology);
}

const timeSlices: readonly TimeSlice[] = ["Default", "Short", "Medium", "Long"];

/** NVML has no call for this; `nvidia-smi compute-policy` numbers the intervals from 0. */
export async function setTimeSlice(
  program: string,
  limitMs: number,
  gpuUuid: string,
  interval: TimeSlice,
): Promise<void> {
  const args = ["compute-policy", "-i", gpuUuid, `--set-timeslice=${timeSlices.indexOf(interval)}`];
  await run(program, args, limitMs);
}

/** `nvidia-smi -q -x`, `--query-gpu=uuid,compute_cap` and `topo -m` → what they say. Throws on anything else. */
export function parseNvidiaSmi(document: string, capabilities: string, topology: string): Reading {
  const capability = new Map(
    capabilities.split("\n").map((line) => {
      const [uuid = "", value = ""] = line.split(",").map((cell) => cell.trim());
      return [uuid, value] as const;
    }),
  );
  const gpus = [...document.matchAll(/<gpu id="([^"]+)">(.*?)<\/gpu>/gs)];
  const links = linksOf(
    topology,
    gpus.map(([, busId = ""]) => busId),
  );
  const boards = gpus.flatMap(([, busId = "", gpu = ""], index): BoardReading[] => {
    if (tag(tag(gpu, "mig_mode"), "current_mig") === "Enabled") return [];
    const uuid = tag(gpu, "uuid");
    const [major = Number.NaN, minor = Number.NaN] = (capability.get(uuid) ?? "").split(".").map(Number);
    const number = Number(tag(gpu, "minor_number") || Number.NaN);
    const [, mebibytes] = /^(\d+) MiB$/.exec(tag(tag(gpu, "fb_memory_usage"), "total")) ?? [];
    if (!uuid.startsWith("GPU-") || !Number.isInteger(number) || Number.isNaN(minor) || mebibytes === undefined) {
      throw new Error(`nvidia-smi: GPU ${busId}: uuid, minor_number, compute_cap or memory is missing`);
    }
    return [
      {
        uuid,
        minor: number,
        name: tag(gpu, "product_name"),
        brand: tag(gpu, "product_brand"),
        architecture: tag(gpu, "product_architecture"),
        computeCapability: [major, minor],
        memoryBytes: Number(mebibytes) * 2 ** 20,
        busId,
        links: links[index] ?? [],
      },
    ];
  });
  const driverVersion = tag(document, "driver_version");
  if (driverVersion === "") throw new Error("nvidia-smi -q -x: driver_version is missing");
  const cuda = tag(document, "cuda_version");
  if (!/^\d+\.\d+$/.test(cuda)) {
    throw new Error(`nvidia-smi -q -x: cuda_version is ${JSON.stringify(cuda)}; install NVIDIA's driver with libcuda`);
  }
  return {
    driverVersion,
    cudaDriverVersion: `${cuda}.0`,
    boards,
    lost: [],
    unreadable: [],
    isPartial: true,
  };
}

/** Content of the first element of that name; "" if there is none. */
function tag(xml: string, name: string): string {
  return new RegExp(`<${name}>(.*?)</${name}>`, "s").exec(xml)?.[1]?.trim() ?? "";
}

/**
 * Rows `GPU0  X  NV18 …` of the matrix, by GPU. It names pairs, not switches; pairs are enough: boards behind NVSwitch
 * have a link to every other.
 */
function linksOf(topology: string, busIds: readonly string[]): LinkReading[][] {
  return busIds.map((_, gpu) => {
    // The heading has the same names; only a row has an X where the GPU meets itself.
    const rows = topology.split("\n").map((line) => line.trim().split(/\s+/));
    const cells = rows.find(([name, ...row]) => name === `GPU${gpu}` && row[gpu] === "X")?.slice(1) ?? [];
    return busIds.flatMap((busId, peer) => (/^NV\d+$/.test(cells[peer] ?? "") ? [{ busId }] : []));
  });
}
