import { join } from "node:path";
import { cdiSpec, specFile } from "./cdi.ts";
import { decodeCheckpoint, encodeCheckpoint } from "./checkpoint.ts";
import { type OnEffect, readIfThere, removeFile, replaceFile } from "./durable-files.ts";
import { fileError } from "./file-error.ts";
import type { PreparedClaim } from "./prepared-claim.ts";

/** The claims that this node holds prepared: in memory, in the checkpoint file, and as CDI specs. */
export interface ClaimStore {
  /** By UID. Changed in place by whoever prepares; `save` makes it last. */
  readonly claims: Map<string, PreparedClaim>;
  /** Writes all claims to the checkpoint; it is on the disk when this resolves. */
  save(): Promise<void>;
  /** Writes the claim's CDI spec. */
  writeSpec(claim: PreparedClaim): Promise<void>;
  /** Writes the claim's CDI spec unless the file says just that. */
  restoreSpec(claim: PreparedClaim): Promise<void>;
  removeSpec(claimUid: string): Promise<void>;
  /**
   * Takes over what another process of this driver has written meanwhile. Rejects, and keeps what it has, when that cannot
   * be used: with CheckpointDamaged if it has to be rebuilt.
   */
  reload(): Promise<void>;
}

/** Somebody damaged the checkpoint while processes of this driver share it. */
export class CheckpointDamaged extends Error {
  readonly why: string;
  constructor(checkpoint: string, why: string) {
    super(`checkpoint ${checkpoint}: ${why}; it is rebuilt within five minutes`);
    this.why = why;
  }
}

export interface StoreOptions {
  /** File of the checkpoint. */
  checkpoint: string;
  cdiFolder: string;
  bootId: string;
  onEffect: OnEffect;
}

export function createClaimStore(options: StoreOptions, claims: readonly PreparedClaim[]): ClaimStore {
  const { checkpoint, cdiFolder, bootId } = options;
  const byUid = new Map(claims.map((claim) => [claim.uid, claim]));
  /** As this process knows the file. */
  let known = encodeCheckpoint({ bootId, claims: [...claims] });
  const effect = (what: string) => (step: string) => options.onEffect(`${what}/${step}`);
  const specPath = (claimUid: string) => join(cdiFolder, specFile(claimUid));
  const specText = (claim: PreparedClaim) => `${JSON.stringify(cdiSpec(claim))}\n`;

  async function writeSpec(claim: PreparedClaim): Promise<void> {
    const path = specPath(claim.uid);
    // Not durable: a reboot ends the containers, and their claims are prepared anew.
    await replaceFile(path, specText(claim), { durable: false, onEffect: effect("spec") }).catch((error: Error) => {
      throw fileError(`claim ${claim.namespace}/${claim.name}: CDI spec ${path} cannot be written`, error);
    });
  }

  return {
    claims: byUid,
    async save() {
      const content = encodeCheckpoint({ bootId, claims: [...byUid.values()] });
      await replaceFile(checkpoint, content, { durable: true, onEffect: effect("checkpoint") }).catch(
        (error: Error) => {
          throw fileError(`checkpoint ${checkpoint} cannot be written`, error);
        },
      );
      known = content;
    },
    writeSpec,
    async restoreSpec(claim) {
      // Whatever keeps it from being read, it is replaced.
      const there = await readIfThere(specPath(claim.uid)).catch(() => undefined);
      if (there?.toString("utf8") !== specText(claim)) await writeSpec(claim);
    },
    async removeSpec(claimUid) {
      const path = specPath(claimUid);
      await removeFile(path, effect("spec")).catch((error: Error) => {
        throw fileError(`CDI spec ${path} cannot be removed`, error);
      });
    },
    async reload() {
      const bytes = await readIfThere(checkpoint);
      const content = bytes?.toString("utf8");
      if (bytes === undefined || content === undefined || content === known) return;
      const reading = decodeCheckpoint(bytes);
      if (reading.kind !== "sound") {
        if (reading.kind === "corrupt") throw new CheckpointDamaged(checkpoint, reading.why);
        // Who wrote it goes on with it.
        throw new Error(`checkpoint ${checkpoint}: ${reading.why}; restart the node agent that is to stay`);
      }
      // From before the last boot: nobody has written since.
      if (reading.checkpoint.bootId !== bootId) return;
      byUid.clear();
      for (const claim of reading.checkpoint.claims) byUid.set(claim.uid, claim);
      known = content;
    },
  };
}
