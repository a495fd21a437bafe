import { createHash } from "node:crypto";
import { z } from "zod";
import { isClaimUid } from "./cdi.ts";
import type { PreparedClaim } from "./prepared-claim.ts";

/**
 * The checkpoint file: a first line with format, version and SHA-256 of all bytes that follow it, then one JSON document.
 * The checksum is over the stored bytes, so a field that a later version adds never makes an old file look broken.
 */

export interface Checkpoint {
  /** Of the kernel that was running: after a reboot nothing that was prepared exists any more. */
  bootId: string;
  claims: PreparedClaim[];
}

/** What a file turned out to be; all but `sound` has to be put aside. */
export type CheckpointReading = { kind: "sound"; checkpoint: Checkpoint } | { kind: "corrupt" | "newer"; why: string };

const format = "kllama-checkpoint";
const version = 1;

/** Unknown fields are kept: the file may come from a later release of the same version. */
const body = z.looseObject({
  bootId: z.string(),
  claims: z.array(
    z.looseObject({
      namespace: z.string(),
      name: z.string(),
      // It becomes a file name.
      uid: z.string().refine(isClaimUid, "is not a UID"),
      state: z.enum(["Started", "Completed", "Aborted"]),
      devices: z.array(
        z.looseObject({
          request: z.string(),
          pool: z.string(),
          device: z.string(),
          adminAccess: z.boolean(),
          gpu: z.looseObject({
            uuid: z.string(),
            minor: z.int(),
            pciBusID: z.string(),
            cudaComputeCapability: z.string().optional(),
            cudaDriverVersion: z.string().optional(),
            amd: z
              .looseObject({ target: z.string(), card: z.int(), renderMinor: z.int(), deviceId: z.string() })
              .optional(),
          }),
          timeSlice: z.enum(["Default", "Short", "Medium", "Long"]).optional(),
          mps: z.looseObject({}).optional(),
          access: z
            .looseObject({
              nodes: z.array(z.looseObject({ path: z.string() })),
              mounts: z.array(z.string()).optional(),
              references: z.array(z.string()),
            })
            .optional(),
          partition: z
            .looseObject({
              profile: z.string(),
              profileId: z.int(),
              start: z.int(),
              size: z.int(),
              before: z.array(z.int()).optional(),
              gpuInstance: z.int().optional(),
              computeInstance: z.int().optional(),
              uuid: z.string().optional(),
              standing: z.literal(true).optional(),
            })
            .optional(),
        }),
      ),
    }),
  ),
});

export function encodeCheckpoint(checkpoint: Checkpoint): string {
  const document = `${JSON.stringify(checkpoint)}\n`;
  return `${JSON.stringify({ format, version, sha256: sha256(Buffer.from(document)) })}\n${document}`;
}

/** Never throws, whatever the bytes are. */
export function decodeCheckpoint(bytes: Buffer): CheckpointReading {
  const end = bytes.indexOf(0x0a);
  const header = parseJson(bytes.subarray(0, Math.max(end, 0)));
  if (typeof header !== "object" || header === null || !("format" in header) || header.format !== format) {
    return { kind: "corrupt", why: "the first line is not that of a checkpoint" };
  }
  const { version: found, sha256: sum } = header as { version?: unknown; sha256?: unknown };
  if (typeof found === "number" && found > version) {
    return { kind: "newer", why: `version ${found} is newer than ${version}` };
  }
  const document = bytes.subarray(end + 1);
  if (found !== version || sum !== sha256(document)) return { kind: "corrupt", why: "the checksum does not match" };
  const parsed = body.safeParse(parseJson(document));
  if (parsed.success) return { kind: "sound", checkpoint: parsed.data as Checkpoint };
  const [issue] = parsed.error.issues;
  return { kind: "corrupt", why: `${issue?.path.join(".")}: ${issue?.message}` };
}

function parseJson(bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString("utf8"));
  } catch {
    return undefined;
  }
}

function sha256(bytes: Buffer): string {
  return createHash("sha256").update(bytes).digest("hex");
}
