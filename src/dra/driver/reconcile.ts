import { rm } from "node:fs/promises";
import { join } from "node:path";
import type { ResourceClaim } from "../../api/kubernetes.ts";
import { driverName } from "../../api/names.ts";
import type { Timing } from "../../kube/timing.ts";
import { claimOfFile, isHalfWritten } from "./cdi.ts";
import type { ReadClaim } from "./claim-reads.ts";
import type { ClaimStore } from "./claim-store.ts";
import { namesIn } from "./durable-files.ts";
import type { Preparation } from "./preparation.ts";
import type { PreparedClaim } from "./prepared-claim.ts";

/** What one pass put right. */
export interface Repairs {
  /** Claims that were undone: half prepared, half undone, or without a claim in the API. */
  undone: number;
  /** CDI specs that belonged to nobody, or that nobody finished. */
  strays: number;
}

/** Each failure is of one thing: all others were put right. */
export type Pass = Repairs & { failures: readonly Error[] };

export interface ReconcilerOptions {
  preparation: Preparation;
  store: ClaimStore;
  cdiFolder: string;
  timing: Pick<Timing, "nowMs" | "sleep">;
  readClaim: ReadClaim;
  /** A prepared claim as the API server has it now. */
  onPresent(claim: PreparedClaim, object: ResourceClaim): void;
  /** Looks for partitions that are nobody's. */
  findForeign(): Promise<void>;
}

/**
 * How long a prepared claim has to be gone from the API before it is undone: until then the kubelet may yet say that its pod
 * is over. Less than the time between two passes.
 */
const goneMs = 240_000;
/** An API server that fails so often in a row is not asked for the rest in this pass. */
const maxFailedReads = 3;
/** Of a read for which the kubelet's calls wait. */
const readLimitMs = 2_000;

type Attempt = (work: () => Promise<void>) => Promise<boolean>;

/**
 * Makes disk and boards agree with the checkpoint, and the checkpoint with the API server. Claims whose preparation was cut
 * short are undone: the kubelet asks again. A prepared claim that the API server no longer knows, or has allocated without any of
 * its devices here, is undone when a later pass finds it so, too. What fails keeps nothing else from being done. Never rejects.
 */
export function createReconciler(options: ReconcilerOptions): () => Promise<Pass> {
  const { preparation, store, timing } = options;
  /** UID of a claim → when a pass first found it gone. */
  let goneSince: ReadonlyMap<string, number> = new Map();

  return async () => {
    const failures: Error[] = [];
    const attempt: Attempt = async (work) => {
      try {
        await work();
        return true;
      } catch (error) {
        failures.push(error as Error);
        return false;
      }
    };
    const repairs: Repairs = { undone: 0, strays: 0 };
    // Outside of the queue: the API server may take its time.
    goneSince = await lookForGone(attempt);
    const isOver = ({ state, uid }: PreparedClaim): boolean =>
      state !== "Completed" || timing.nowMs() - (goneSince.get(uid) ?? Number.POSITIVE_INFINITY) >= goneMs;
    await attempt(() =>
      preparation.exclusively(async () => {
        const over = await stillOver([...store.claims.values()].filter(isOver), attempt);
        const notUndone = await preparation.undo(over);
        repairs.undone = over.length - notUndone.size;
        failures.push(...notUndone.values());
        for (const claim of store.claims.values()) {
          if (claim.state === "Completed") await attempt(() => store.restoreSpec(claim));
        }
        await attempt(async () => {
          repairs.strays = await removeStrays(attempt);
        });
        await attempt(options.findForeign);
      }),
    );
    return { ...repairs, failures };
  };

  /** Of a claim that could not be read it is known what was known before. */
  async function lookForGone(attempt: Attempt): Promise<ReadonlyMap<string, number>> {
    const nowMs = timing.nowMs();
    const gone = new Map<string, number>();
    let failedReads = 0;
    for (const claim of [...store.claims.values()].filter(({ state }) => state === "Completed")) {
      const before = goneSince.get(claim.uid);
      let isGone = before !== undefined;
      const look = async (): Promise<void> => {
        const object = await options.readClaim(claim.namespace, claim.name);
        isGone = !holdsDevices(object, claim);
        if (object !== undefined && !isGone) options.onPresent(claim, object);
      };
      if (failedReads < maxFailedReads) failedReads = (await attempt(look)) ? 0 : failedReads + 1;
      if (isGone) gone.set(claim.uid, before ?? nowMs);
    }
    return gone;
  }

  /**
   * Without those that hold devices again: since they were read one may have been allocated anew, and prepared. Nothing is prepared now.
   * What cannot be read is left for the next pass.
   */
  async function stillOver(over: readonly PreparedClaim[], attempt: Attempt): Promise<PreparedClaim[]> {
    const found = over.filter(({ state }) => state !== "Completed");
    for (const claim of over.filter(({ state }) => state === "Completed")) {
      const look = async (): Promise<void> => {
        if (!holdsDevices(await readSoon(claim), claim)) found.push(claim);
      };
      if (!(await attempt(look))) break;
    }
    return found;
  }

  async function readSoon({ namespace, name }: PreparedClaim): Promise<ResourceClaim | undefined> {
    const done = new AbortController();
    const error = new Error(`claim ${namespace}/${name}: not read within ${readLimitMs / 1_000} s`);
    void timing.sleep(readLimitMs, done.signal).then(() => done.abort(error));
    try {
      return await options.readClaim(namespace, name, done.signal);
    } finally {
      done.abort();
    }
  }

  async function removeStrays(attempt: Attempt): Promise<number> {
    const names = await namesIn(options.cdiFolder);
    const strays = names.flatMap((file) => claimOfFile(file) ?? []).filter((uid) => !store.claims.has(uid));
    // Nothing is being written now: whoever began the halves was killed.
    const halves = names.filter(isHalfWritten);
    let removed = 0;
    for (const uid of strays) if (await attempt(() => store.removeSpec(uid))) removed++;
    for (const file of halves) {
      if (await attempt(() => rm(join(options.cdiFolder, file), { force: true }))) removed++;
    }
    return removed;
  }
}

/** The API server has this very claim, and one of the devices that were prepared for it is still its own. */
function holdsDevices(object: ResourceClaim | undefined, { uid, devices }: PreparedClaim): boolean {
  if (object?.metadata.uid !== uid) return false;
  const results = object.status?.allocation?.devices?.results ?? [];
  return results.some(
    ({ driver, pool, device }) =>
      driver === driverName && devices.some((prepared) => prepared.pool === pool && prepared.device === device),
  );
}
