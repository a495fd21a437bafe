import { z } from "zod";
import { cdiDeviceName } from "./cdi.ts";
import type { DeviceAccess } from "./prepared-claim.ts";

/** What one request of a prepared claim was given, read back from its CDI spec. */
export interface WrittenRequest {
  /** UUIDs of the devices in rank order. */
  visible: readonly string[];
  /** Of all its devices together; CDI devices of others stand nowhere in it. */
  access: DeviceAccess;
}

/** As `cdiSpec` writes it, no more of it than is read here. */
const written = z.object({
  devices: z.array(
    z.object({
      name: z.string(),
      containerEdits: z.object({
        env: z.array(z.string()).default([]),
        deviceNodes: z
          .array(
            z.object({
              path: z.string(),
              type: z.literal("c").exactOptional(),
              major: z.int().exactOptional(),
              minor: z.int().exactOptional(),
            }),
          )
          .default([]),
        mounts: z.array(z.object({ hostPath: z.string() })).default([]),
      }),
    }),
  ),
});

/** undefined: the spec does not tell. */
export function writtenRequest(spec: unknown, claimUid: string, request: string): WrittenRequest | undefined {
  const parsed = written.safeParse(spec);
  const edits = parsed.data?.devices.find(({ name }) => name === cdiDeviceName(claimUid, request))?.containerEdits;
  const list = edits?.env.flatMap((text) => /^(?:CUDA|ROCR)_VISIBLE_DEVICES=(.+)$/.exec(text)?.[1] ?? [])[0];
  if (edits === undefined || list === undefined) return undefined;
  const mounts = edits.mounts.map(({ hostPath }) => hostPath);
  return {
    visible: list.split(","),
    access: { nodes: edits.deviceNodes, ...(mounts.length === 0 ? {} : { mounts }), references: [] },
  };
}
