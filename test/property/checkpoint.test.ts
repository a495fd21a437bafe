import fc from "fast-check";
import { expect, test } from "vitest";
import { decodeCheckpoint, encodeCheckpoint } from "../../src/dra/driver/checkpoint.ts";
import type { PreparedClaim } from "../../src/dra/driver/prepared-claim.ts";

const gpu = {
  uuid: "GPU-1",
  minor: 0,
  pciBusID: "0000:1b:00.0",
  cudaComputeCapability: "8.0.0",
  cudaDriverVersion: "12.8.0",
};
const partition = { profile: "1g.10gb", profileId: 19, start: 3, size: 1, before: [1], gpuInstance: 2, uuid: "MIG-1" };
const device = { request: "gpus", pool: "node-1", device: "gpu-0", adminAccess: false, gpu };

const claim = fc.record({
  namespace: fc.string(),
  name: fc.string(),
  uid: fc.uuid(),
  state: fc.constantFrom("Started" as const, "Completed" as const, "Aborted" as const),
  devices: fc.array(fc.constantFrom(device, { ...device, partition }), { maxLength: 3 }),
});
const checkpoints = fc.record({ bootId: fc.string(), claims: fc.array(claim, { maxLength: 4 }) });

/** What a disk, a crash or a person may do to a file. */
const damage = fc.oneof(
  fc.nat().map((at) => (bytes: Buffer) => bytes.subarray(0, at % bytes.length)),
  fc.tuple(fc.nat(), fc.integer({ min: 1, max: 255 })).map(([at, by]) => (bytes: Buffer) => {
    const copy = Buffer.from(bytes);
    copy[at % copy.length]! ^= by;
    return copy;
  }),
  fc.tuple(fc.nat(), fc.nat()).map(([from, length]) => (bytes: Buffer) => {
    const copy = Buffer.from(bytes);
    return copy.fill(0, from % copy.length, Math.min(copy.length, (from % copy.length) + 1 + (length % 512)));
  }),
  fc.tuple(fc.nat(), fc.uint8Array({ minLength: 1 })).map(([at, more]) => (bytes: Buffer) => {
    const place = at % bytes.length;
    return Buffer.concat([bytes.subarray(0, place), more, bytes.subarray(place)]);
  }),
  fc.uint8Array().map((other) => () => Buffer.from(other)),
);

test("a checkpoint reads as it was written; damaged in any way it is called corrupt, and nothing throws", () => {
  fc.assert(
    fc.property(checkpoints, damage, (checkpoint: { bootId: string; claims: PreparedClaim[] }, harm) => {
      const sound = Buffer.from(encodeCheckpoint(checkpoint));
      expect(decodeCheckpoint(sound)).toEqual({ kind: "sound", checkpoint });
      const harmed = harm(sound);
      if (!harmed.equals(sound)) expect(decodeCheckpoint(harmed).kind).not.toBe("sound");
    }),
    { numRuns: 400 },
  );
});

test("a later version's file is called newer, and a later release's fields are kept", () => {
  const text = encodeCheckpoint({ bootId: "b", claims: [] });
  expect(decodeCheckpoint(Buffer.from(text.replace('"version":1', '"version":2'))).kind).toBe("newer");
  const claims = [
    {
      namespace: "n",
      name: "c",
      uid: "00000000-0000-4000-8000-000000000000",
      state: "Completed",
      devices: [],
      later: { field: 1 },
    },
  ];
  const later = { bootId: "b", claims, another: true } as never;
  expect(decodeCheckpoint(Buffer.from(encodeCheckpoint(later)))).toEqual({ kind: "sound", checkpoint: later });
});
