import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import type { ResourceClaim } from "../../api/kubernetes.ts";
import { driverName } from "../../api/names.ts";
import { claimOfFile, claimOfSpec } from "./cdi.ts";
import { type CheckpointReading, decodeCheckpoint } from "./checkpoint.ts";
import { allocatedDevices, ClaimError } from "./claim.ts";
import { namesIn, setAside } from "./durable-files.ts";
import type { ClaimReference } from "./grpc.ts";
import { deviceTable } from "./inventory.ts";
import type { GpuInstance, Machine } from "./machine.ts";
import { type PreparedClaim, type PreparedPartition, preparedDevice } from "./prepared-claim.ts";
import { writtenRequest } from "./written-spec.ts";

/** What is known at the start, and how to find out the rest when the checkpoint does not say. */

export interface Memory {
  claims: readonly PreparedClaim[];
  /** Present: the checkpoint cannot tell; `rebuildClaims` has to, before anything is prepared. */
  lost?: Lost;
}

export interface Lost {
  why: string;
  /** Absent: nothing is there. */
  kind?: "corrupt" | "newer" | "unreadable";
}

/** 10,000 claims have 10 MB. */
const maxBytes = 64 * 2 ** 20;

/** Reads the checkpoint and changes nothing. One from before the last boot says that nothing exists. Never rejects. */
export async function readMemory(checkpoint: string, cdiFolder: string, bootId: string): Promise<Memory> {
  const reading = await readCheckpoint(checkpoint);
  if (reading === undefined) return withoutCheckpoint(cdiFolder);
  if (reading.kind !== "sound") return { claims: [], lost: reading };
  return { claims: reading.checkpoint.bootId === bootId ? reading.checkpoint.claims : [] };
}

/** Puts aside what is in the checkpoint's place and is none. @returns its new name, if there was anything. */
export async function putAside(checkpoint: string): Promise<string | undefined> {
  const reading = await readCheckpoint(checkpoint);
  // Another process of this driver may have written a sound one meanwhile.
  return reading === undefined || reading.kind === "sound" ? undefined : setAside(checkpoint, reading.kind);
}

type Reading = CheckpointReading | { kind: "unreadable"; why: string };

/** undefined: there is none. */
async function readCheckpoint(path: string): Promise<Reading | undefined> {
  try {
    const there = await stat(path);
    // Whoever reads a pipe waits for ever.
    if (!there.isFile()) return { kind: "unreadable", why: "it is no file" };
    if (there.size > maxBytes) return { kind: "corrupt", why: `it has ${there.size} bytes` };
    return decodeCheckpoint(await readFile(path));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    return { kind: "unreadable", why: (error as Error).message };
  }
}

async function withoutCheckpoint(cdiFolder: string): Promise<Memory> {
  try {
    const specs = (await namesIn(cdiFolder)).filter((file) => claimOfFile(file) !== undefined);
    return specs.length === 0 ? { claims: [] } : { claims: [], lost: { why: "it does not exist, but CDI specs do" } };
  } catch (error) {
    return { claims: [], lost: { why: `it does not exist, and ${(error as Error).message}` } };
  }
}

export interface RebuildOptions {
  cdiFolder: string;
  pool: string;
  machine: Machine;
  readClaim(namespace: string, name: string): Promise<ResourceClaim | undefined>;
}

/**
 * Finds out what is prepared from CDI specs, the API server and the boards: a claim is prepared when its spec is there, the
 * API server says that it holds devices of this node, and its partitions exist. What a board does not tell is taken from the
 * spec: a claim that nobody accounts for would be worse. Rejects while the API server does not answer, nothing is known of
 * the machine's devices, or a claim may hold some of a board that could not be read.
 */
export async function rebuildClaims(options: RebuildOptions): Promise<PreparedClaim[]> {
  const { unread } = options.machine.inventory();
  if (unread !== undefined) throw new Error(`the devices of node ${options.pool} could not be read yet: ${unread}`);
  const found: PreparedClaim[] = [];
  for (const file of await namesIn(options.cdiFolder)) {
    const uid = claimOfFile(file);
    if (uid === undefined) continue;
    const spec = await readJson(join(options.cdiFolder, file));
    const reference = claimOfSpec(spec, uid);
    if (reference === undefined) continue;
    const claim = await options.readClaim(reference.namespace, reference.name);
    const rebuilt = claim === undefined ? undefined : await rebuild(options, reference, claim, spec);
    if (rebuilt !== undefined) found.push(rebuilt);
  }
  return found;
}

async function rebuild(
  { machine, pool }: RebuildOptions,
  reference: ClaimReference,
  claim: ResourceClaim,
  spec: unknown,
): Promise<PreparedClaim | undefined> {
  const { gpus, incomplete } = machine.inventory();
  const table = deviceTable(gpus);
  if (incomplete === true) refuseMissing(claim, reference, pool, table);
  let allocated: ReturnType<typeof allocatedDevices>;
  try {
    // A device that broke since is still this claim's.
    allocated = allocatedDevices(claim, reference, pool, { devices: table, losses: {} });
  } catch (error) {
    if (error instanceof ClaimError) return undefined;
    throw error;
  }
  const devices = allocated.map((each) => preparedDevice(each, pool));
  for (const [index, device] of devices.entries()) {
    const { request, partition, gpu } = device;
    const rank = devices.slice(0, index).filter((other) => other.request === request).length;
    const written = writtenRequest(spec, reference.uid, request);
    if (partition !== undefined && !(await findPartition(machine, gpu.uuid, partition, written?.visible[rank]))) {
      return undefined;
    }
    // Whoever serves MPS may have ended, or a node of the host be gone: the container that runs has what it was given.
    const access = await machine.access(device).catch(() => written?.access ?? { nodes: [], references: [] });
    if (access.nodes.length + access.references.length > 0) device.access = access;
  }
  return { ...reference, state: "Completed", devices };
}

/** Throws when the claim may hold a device of a board that could not be read: it would lose what is there. */
function refuseMissing(
  { metadata, status }: ResourceClaim,
  { uid }: ClaimReference,
  pool: string,
  devices: ReadonlyMap<string, unknown>,
): void {
  const results = metadata.uid === uid ? (status?.allocation?.devices?.results ?? []) : [];
  const missing = results.find(
    (result) => result.driver === driverName && result.pool === pool && !devices.has(result.device),
  );
  if (missing === undefined) return;
  throw new Error(
    `not all boards of node ${pool} could be read, and a prepared claim has device ${missing.device}, which is not among them`,
  );
}

/** Fills in what the board says of the partition, which its spec calls `written`; false: it does not exist. */
async function findPartition(
  machine: Machine,
  gpuUuid: string,
  partition: PreparedPartition,
  written: string | undefined,
): Promise<boolean> {
  if (partition.standing === true) return true;
  let instances: readonly GpuInstance[];
  try {
    instances = await machine.gpuInstances(gpuUuid);
  } catch {
    // By its UUID it is found again when the board answers.
    if (written !== undefined) Object.assign(partition, { before: [], uuid: written });
    return written !== undefined;
  }
  const live = instances.find(
    ({ profileId, start, uuid }) =>
      profileId === partition.profileId &&
      start === partition.start &&
      uuid !== undefined &&
      uuid === (written ?? uuid),
  );
  if (live?.uuid === undefined) return false;
  Object.assign(partition, { before: [], gpuInstance: live.id, uuid: live.uuid });
  return true;
}

/** undefined: not JSON, or no file. */
async function readJson(path: string): Promise<unknown> {
  if (!(await stat(path)).isFile()) return undefined;
  const text = await readFile(path, "utf8");
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
