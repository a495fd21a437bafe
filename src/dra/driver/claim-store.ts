import { join } from "node:path";
import { cdiSpec, specFile } from "./cdi.ts";
import { encodeCheckpoint } from "./checkpoint.ts";
import { type OnEffect, readIfThere, removeFile, replaceFile } from "./durable-files.ts";
import type { PreparedClaim } from "./prepared-claim.ts";

/** The claims that this node holds prepared: in memory, in the checkpoint file, and as CDI specs. */
export interface ClaimStore {
  /** By UID. Changed in place by whoever prepares; `save` makes it last. */
  readonly claims: Map<string, PreparedClaim>;
  /** Writes all claims to the checkpoint; it is on the disk when this resolves. */
  save(): Promise<void>;
  /** Writes the claim's CDI spec unless the file says just that. */
  writeSpec(claim: PreparedClaim): Promise<void>;
  removeSpec(claimUid: string): Promise<void>;
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
  const effect = (what: string) => (step: string) => options.onEffect(`${what}/${step}`);
  return {
    claims: byUid,
    async save() {
      const content = encodeCheckpoint({ bootId, claims: [...byUid.values()] });
      await replaceFile(checkpoint, content, { durable: true, onEffect: effect("checkpoint") });
    },
    async writeSpec(claim) {
      const path = join(cdiFolder, specFile(claim.uid));
      const content = `${JSON.stringify(cdiSpec(claim))}\n`;
      const known = await readIfThere(path);
      if (known?.toString("utf8") === content) return;
      // Not durable: a reboot ends the containers, and their claims are prepared anew.
      await replaceFile(path, content, { durable: false, onEffect: effect("spec") });
    },
    removeSpec: (claimUid) => removeFile(join(cdiFolder, specFile(claimUid)), effect("spec")),
  };
}
