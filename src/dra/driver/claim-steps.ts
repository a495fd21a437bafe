import type { BoardUsers } from "./board-users.ts";
import { ClaimError } from "./claim.ts";
import type { ClaimStore } from "./claim-store.ts";
import type { ClaimReference } from "./grpc.ts";
import { inTurns } from "./in-turns.ts";
import { isGone } from "./inventory.ts";
import type { Boards, Machine } from "./machine.ts";
import { createPartition, destroyPartition } from "./partitions.ts";
import { overlap, type PreparedClaim, type PreparedDevice, sameDevices } from "./prepared-claim.ts";

/** Throws `Abandoned` once nobody waits for the claim of this UID: no further step of it may begin. */
export type GoOn = (claimUid: string) => void;
export const always: GoOn = () => undefined;

/** A claim was left as it stands. */
export class Abandoned extends Error {
  constructor() {
    super("the call was cancelled");
  }
}

/**
 * The steps by which claims come to exist and go, one by one: each is in the checkpoint before the next one begins. Only one
 * caller at a time.
 */
export interface ClaimSteps {
  /** The claim's entry: an old one that holds good, or a new one that conflicts with none of `users`, among which it is then. */
  begin(wanted: ClaimReference, devices: PreparedDevice[], users: BoardUsers, goOn: GoOn): Promise<PreparedClaim>;
  /** Brings about what the entries list. @returns the failures by UID; those claims are undone, or left as they stand. */
  complete(begun: readonly PreparedClaim[], goOn: GoOn): Promise<ReadonlyMap<string, unknown>>;
  /** Undoes claims: their partitions, their specs, their entries. @returns the failures by UID. */
  undo(claims: readonly PreparedClaim[], goOn: GoOn): Promise<ReadonlyMap<string, Error>>;
}

/** A device of a claim could not be set back, because its board is gone: what was left there is forgotten. */
export type OnForgotten = (claim: ClaimReference, device: PreparedDevice, why: Error) => void;

/** Files that are written or removed at the same time. */
const filesAtOnce = 64;

export function createClaimSteps(
  boards: Boards & Pick<Machine, "inventory">,
  store: ClaimStore,
  onForgotten: OnForgotten,
): ClaimSteps {
  return { begin, complete, undo };

  async function begin(
    wanted: ClaimReference,
    devices: PreparedDevice[],
    users: BoardUsers,
    goOn: GoOn,
  ): Promise<PreparedClaim> {
    const known = store.claims.get(wanted.uid);
    if (known?.state === "Completed") {
      if (!sameDevices(known.devices, devices)) {
        throw new ClaimError(
          `claim ${wanted.namespace}/${wanted.name}: its allocation changed while it was prepared; delete the pods that use it`,
        );
      }
      await store.restoreSpec(known);
      return known;
    }
    if (known !== undefined) {
      for (const error of (await undo([known], goOn)).values()) throw error;
      users.remove(known);
    }
    goOn(wanted.uid);
    refuseOverlap(wanted, devices);
    const taken = users.conflict(devices);
    if (taken !== undefined) {
      const { device, user } = taken;
      // The pod's owner reads it, whom the names of other tenants do not concern.
      const isOwn = user.namespace === wanted.namespace;
      const who = isOwn ? `claim ${user.namespace}/${user.name}` : `a claim of another namespace, UID ${user.uid}`;
      throw new ClaimError(`device ${device.pool}/${device.device} is in use by ${who}`);
    }
    const entry: PreparedClaim = { ...wanted, state: "Started", devices };
    users.add(entry);
    return entry;
  }

  async function complete(begun: readonly PreparedClaim[], goOn: GoOn): Promise<ReadonlyMap<string, unknown>> {
    const failures = new Map<string, unknown>();
    const still = (): PreparedClaim[] => begun.filter(({ uid }) => !failures.has(uid));
    const attempt = async (claim: PreparedClaim, work: () => Promise<unknown>): Promise<void> => {
      try {
        goOn(claim.uid);
        await work();
      } catch (error) {
        failures.set(claim.uid, error);
      }
    };
    for (const claim of begun) await attempt(claim, async () => void store.claims.set(claim.uid, claim));
    if (still().length === 0) return failures;
    try {
      await store.save();
    } catch (error) {
      for (const { uid } of begun) store.claims.delete(uid);
      return new Map(begun.map(({ uid }) => [uid, error]));
    }
    for (const claim of still()) {
      await attempt(claim, async () => {
        for (const device of claim.devices) await bringAbout(device, () => goOn(claim.uid));
      });
    }
    // Boards are changed one step after another, which the checkpoint follows; files of claims know nothing of each other.
    await inTurns(still(), filesAtOnce, (claim) => attempt(claim, () => store.writeSpec(claim)));
    for (const claim of still()) await attempt(claim, async () => Object.assign(claim, { state: "Completed" }));
    const done = still();
    const broken = begun.filter(({ uid }) => failures.has(uid) && !(failures.get(uid) instanceof Abandoned));
    await undo(broken, goOn);
    if (done.length === 0) return failures;
    try {
      await store.save();
    } catch (error) {
      for (const { uid } of done) failures.set(uid, error);
      await undo(done, goOn);
    }
    return failures;
  }

  async function bringAbout(device: PreparedDevice, goOn: () => void): Promise<void> {
    const { partition, gpu, timeSlice } = device;
    goOn();
    const note = async (): Promise<void> => {
      await store.save();
      goOn();
    };
    if (partition !== undefined) await createPartition(boards, { ...device, partition }, note);
    if (timeSlice !== undefined) await boards.setTimeSlice(gpu.uuid, timeSlice);
    const access = await boards.access(device);
    if (access.nodes.length + access.references.length > 0) device.access = access;
  }

  async function undo(claims: readonly PreparedClaim[], goOn: GoOn): Promise<ReadonlyMap<string, Error>> {
    const failures = new Map<string, Error>();
    const attempt = async (claim: PreparedClaim, work: () => Promise<void>): Promise<void> => {
      if (failures.has(claim.uid)) return;
      try {
        goOn(claim.uid);
        await work();
      } catch (error) {
        failures.set(claim.uid, error as Error);
      }
    };
    for (const claim of claims) await attempt(claim, async () => undefined);
    const awaited = claims.filter(({ uid }) => !failures.has(uid));
    if (awaited.length === 0) return failures;
    try {
      for (const claim of awaited) claim.state = "Aborted";
      await store.save();
      await inTurns(awaited, filesAtOnce, (claim) => attempt(claim, () => store.removeSpec(claim.uid)));
      for (const claim of awaited) await attempt(claim, () => undoBoards(claim, () => goOn(claim.uid)));
      // Also when nobody waits any more: what is gone must not stand there.
      if (awaited.some(({ uid }) => !store.claims.has(uid))) await store.save();
    } catch (error) {
      for (const { uid } of awaited) failures.set(uid, error as Error);
    }
    return failures;
  }

  /** One device that cannot be set back keeps no other from it; what was left on a board that is gone is nobody's any more. */
  async function undoBoards(claim: PreparedClaim, goOn: () => void): Promise<void> {
    const failures: Error[] = [];
    for (const device of claim.devices) {
      goOn();
      try {
        await setBack(device);
      } catch (error) {
        if (isGone(device.gpu.uuid, boards.inventory())) onForgotten(claim, device, error as Error);
        else failures.push(error as Error);
      }
    }
    for (const failure of failures) throw failure;
    store.claims.delete(claim.uid);
  }

  async function setBack({ gpu, partition, timeSlice }: PreparedDevice): Promise<void> {
    if (timeSlice !== undefined) await boards.setTimeSlice(gpu.uuid, "Default");
    if (partition !== undefined) await destroyPartition(boards, gpu.uuid, partition);
  }
}

/** No allocator gives a claim the same silicon twice; whoever wrote it by hand may have. */
function refuseOverlap({ namespace, name }: ClaimReference, devices: readonly PreparedDevice[]): void {
  for (const [index, device] of devices.entries()) {
    const twin = devices.slice(0, index).find((other) => overlap(device, other));
    if (twin === undefined) continue;
    const what = twin.device === device.device ? `${device.device} twice` : `${twin.device} and ${device.device}`;
    throw new ClaimError(`claim ${namespace}/${name}: holds ${what}, which is the same hardware; allocate it anew`);
  }
}
