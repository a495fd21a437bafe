import { rm } from "node:fs/promises";
import { join } from "node:path";
import type { ResourceClaim } from "../../api/kubernetes.ts";
import { claimOfFile, isHalfWritten } from "./cdi.ts";
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

export interface ReconcilerOptions {
  preparation: Preparation;
  store: ClaimStore;
  cdiFolder: string;
  readClaim(namespace: string, name: string): Promise<ResourceClaim | undefined>;
  /** A prepared claim as the API server has it now. */
  onPresent(claim: PreparedClaim, object: ResourceClaim): void;
  /** Looks for partitions that are nobody's. */
  findForeign(): Promise<void>;
}

/**
 * Makes disk and boards agree with the checkpoint, and the checkpoint with the API server. Claims whose preparation was cut
 * short are undone: the kubelet asks again. A prepared claim that the API server no longer knows is undone when the next
 * pass finds it gone too: until then the kubelet may yet say that its pod is over.
 */
export function createReconciler(options: ReconcilerOptions): () => Promise<Repairs> {
  const { preparation, store } = options;
  let goneBefore = new Set<string>();

  return async () => {
    const gone = new Set<string>();
    // Outside of the queue: the API server may take its time.
    for (const claim of [...store.claims.values()].filter(({ state }) => state === "Completed")) {
      const object = await options.readClaim(claim.namespace, claim.name);
      if (object?.metadata.uid === claim.uid && object.status?.allocation !== undefined)
        options.onPresent(claim, object);
      else gone.add(claim.uid);
    }
    const repairs: Repairs = { undone: 0, strays: 0 };
    await preparation.exclusively(async () => {
      const entries = [...store.claims.values()];
      const over = entries.filter(({ state, uid }) => state !== "Completed" || (gone.has(uid) && goneBefore.has(uid)));
      const failures = await preparation.undo(over);
      repairs.undone = over.length - failures.size;
      for (const claim of store.claims.values()) if (claim.state === "Completed") await store.restoreSpec(claim);
      repairs.strays = await removeStrays();
      await options.findForeign();
      for (const error of failures.values()) throw error;
    });
    goneBefore = gone;
    return repairs;
  };

  async function removeStrays(): Promise<number> {
    const names = await namesIn(options.cdiFolder);
    const strays = names.flatMap((file) => claimOfFile(file) ?? []).filter((uid) => !store.claims.has(uid));
    for (const uid of strays) await store.removeSpec(uid);
    // Nothing is being written now: whoever began these was killed.
    const halves = names.filter(isHalfWritten);
    for (const file of halves) await rm(join(options.cdiFolder, file), { force: true });
    return strays.length + halves.length;
  }
}
