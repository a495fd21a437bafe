import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { ResourceClaim } from "../../api/kubernetes.ts";
import { claimOfFile, claimOfSpec } from "./cdi.ts";
import { decodeCheckpoint } from "./checkpoint.ts";
import { allocatedDevices, ClaimError } from "./claim.ts";
import { namesIn, readIfThere, setAside } from "./durable-files.ts";
import type { ClaimReference } from "./grpc.ts";
import { deviceTable } from "./inventory.ts";
import type { Machine } from "./machine.ts";
import { type PreparedClaim, type PreparedPartition, preparedDevice } from "./prepared-claim.ts";

/** What is known at the start, and how to find out the rest when the checkpoint does not say. */

export interface Memory {
  claims: readonly PreparedClaim[];
  /** Present: the checkpoint cannot tell; `rebuildClaims` has to, before anything is prepared. */
  lost?: { why: string; aside?: string };
}

/** Reads the checkpoint. One that cannot be used is put aside; one from before the last boot says that nothing exists. */
export async function readMemory(checkpoint: string, cdiFolder: string, bootId: string): Promise<Memory> {
  const bytes = await readIfThere(checkpoint);
  if (bytes === undefined) {
    const specs = (await namesIn(cdiFolder)).filter((file) => claimOfFile(file) !== undefined);
    return specs.length === 0 ? { claims: [] } : { claims: [], lost: { why: "it does not exist, but CDI specs do" } };
  }
  const reading = decodeCheckpoint(bytes);
  if (reading.kind !== "sound") {
    return { claims: [], lost: { why: reading.why, aside: await setAside(checkpoint, reading.kind) } };
  }
  return { claims: reading.checkpoint.bootId === bootId ? reading.checkpoint.claims : [] };
}

export interface RebuildOptions {
  cdiFolder: string;
  pool: string;
  machine: Machine;
  readClaim(namespace: string, name: string): Promise<ResourceClaim | undefined>;
}

/**
 * Finds out what is prepared from CDI specs, the API server and the boards: a claim is prepared when its spec is there, the
 * API server says that it holds devices of this node, and its partitions exist. Rejects while the API server does not answer.
 */
export async function rebuildClaims(options: RebuildOptions): Promise<PreparedClaim[]> {
  const found: PreparedClaim[] = [];
  for (const file of await namesIn(options.cdiFolder)) {
    const uid = claimOfFile(file);
    const reference = uid === undefined ? undefined : claimOfSpec(await readJson(join(options.cdiFolder, file)), uid);
    if (reference === undefined) continue;
    const claim = await options.readClaim(reference.namespace, reference.name);
    const rebuilt = claim === undefined ? undefined : await rebuild(options, reference, claim);
    if (rebuilt !== undefined) found.push(rebuilt);
  }
  return found;
}

async function rebuild(
  { machine, pool }: RebuildOptions,
  reference: ClaimReference,
  claim: ResourceClaim,
): Promise<PreparedClaim | undefined> {
  const { gpus } = machine.inventory();
  let allocated: ReturnType<typeof allocatedDevices>;
  try {
    // A device that broke since is still this claim's.
    allocated = allocatedDevices(claim, reference, pool, { devices: deviceTable(gpus), losses: {} });
  } catch (error) {
    if (error instanceof ClaimError) return undefined;
    throw error;
  }
  const devices = allocated.map((each) => preparedDevice(each, pool));
  for (const device of devices) {
    if (device.partition !== undefined && !(await findPartition(machine, device.gpu.uuid, device.partition))) {
      return undefined;
    }
    const access = await machine.access(device);
    if (access.nodes.length + access.references.length > 0) device.access = access;
  }
  return { ...reference, state: "Completed", devices };
}

/** Fills in what the board says of the partition; false: it does not exist. */
async function findPartition(machine: Machine, gpuUuid: string, partition: PreparedPartition): Promise<boolean> {
  if (partition.standing === true) return true;
  const live = (await machine.gpuInstances(gpuUuid)).find(
    ({ profileId, start, uuid }) =>
      profileId === partition.profileId && start === partition.start && uuid !== undefined,
  );
  if (live?.uuid === undefined) return false;
  Object.assign(partition, { before: [], gpuInstance: live.id, uuid: live.uuid });
  return true;
}

/** undefined: not JSON. */
async function readJson(path: string): Promise<unknown> {
  const text = await readFile(path, "utf8");
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
