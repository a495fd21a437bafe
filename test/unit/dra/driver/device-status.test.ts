import { expect, test } from "vitest";
import { createDeviceStatusWriter, tellsDevices } from "../../../../src/dra/driver/device-status.ts";
import type { PreparedClaim, PreparedDevice } from "../../../../src/dra/driver/prepared-claim.ts";
import { type KubeClient, KubeError, type RequestOptions } from "../../../../src/kube/client.ts";
import { claimObject } from "../../../support/driver.ts";
import { createVirtualTiming } from "../../../support/virtual-timing.ts";

/** After the claim was prepared: preparing others goes first. */
const firstMs = 500;

const gpu = { uuid: "GPU-1", minor: 1, pciBusID: "0000:1b:00.0" };
const whole: PreparedDevice = { request: "r", pool: "n", device: "gpu-1", adminAccess: false, gpu };
const part: PreparedDevice = {
  ...whole,
  device: "gpu-1-mig-1g10gb-19-0",
  partition: { profile: "1g.10gb", profileId: 19, start: 0, size: 1, uuid: "MIG-1" },
};
const claim = (name: string, ...devices: PreparedDevice[]): PreparedClaim => ({
  ...{ namespace: "team", name, uid: `uid-${name}`, state: "Completed" },
  devices,
});

function open(answers: (Error | undefined)[]) {
  const timing = createVirtualTiming();
  const sent: { path: string; options: RequestOptions; atMs: number }[] = [];
  const errors: string[] = [];
  const client = {
    async request(_method: string, path: string, options: RequestOptions) {
      sent.push({ path, options, atMs: timing.nowMs() });
      const answer = answers.shift();
      if (answer !== undefined) throw answer;
    },
  } as unknown as KubeClient;
  const onError = (_: unknown, error: unknown) => void errors.push((error as Error).message);
  return { timing, sent, errors, writer: createDeviceStatusWriter({ client, timing, onError }) };
}

test("half a second later, one apply per claim: UUID and PCI address of each device, of a partition its own UUID and its board's", async () => {
  const { timing, sent, writer } = open([]);
  writer.push(claim("a", whole, part));
  await timing.advance(firstMs - 1);
  expect(sent).toHaveLength(0);
  await timing.advance(1);
  expect(sent).toHaveLength(1);
  expect(sent[0]?.path).toBe("/apis/resource.k8s.io/v1/namespaces/team/resourceclaims/a/status");
  const { contentType, query, body } = sent[0]!.options;
  expect({ contentType, query }).toEqual({
    contentType: "application/apply-patch+yaml",
    query: { fieldManager: "gpu.kllama.ai", force: true },
  });
  const conditions = [expect.objectContaining({ type: "Ready", status: "True", reason: "Prepared" }) as unknown];
  expect(body).toMatchObject({
    metadata: { name: "a", namespace: "team", uid: "uid-a" },
    status: {
      devices: [
        {
          ...{ driver: "gpu.kllama.ai", pool: "n", device: "gpu-1", conditions },
          data: { uuid: "GPU-1", pciBusID: "0000:1b:00.0" },
        },
        {
          ...{ driver: "gpu.kllama.ai", pool: "n", device: "gpu-1-mig-1g10gb-19-0", conditions },
          data: { uuid: "MIG-1", parentUUID: "GPU-1", pciBusID: "0000:1b:00.0" },
        },
      ],
    },
  });
  await writer.stop();
});

test("while claims keep coming it waits for them, five seconds at most; one that was undone meanwhile is not told", async () => {
  const { timing, sent, writer } = open([]);
  const startMs = timing.nowMs();
  const undone = claim("undone", whole);
  writer.push(undone);
  for (let index = 0; index < 15; index++) {
    writer.push(claim(`c${index}`, whole));
    await timing.advance(400);
  }
  expect(sent[0]!.atMs - startMs).toBe(5_000);
  undone.state = "Aborted";
  await timing.advance(firstMs);
  expect(sent).toHaveLength(16);

  const later = claim("later", whole);
  writer.push(later);
  later.state = "Aborted";
  await timing.advance(60_000);
  expect(sent).toHaveLength(16);
  await writer.stop();
});

test.for<[string, KubeError, number[], number]>([
  ["busy: later, as it says", new KubeError("busy", { status: 429, reason: "x", retryAfterMs: 7_000 }), [0, 7_000], 1],
  ["broken: a second later", new KubeError("broken", { status: 500, reason: "x" }), [0, 1_000], 1],
  ["away: a second later", new KubeError("away", { status: 0, reason: "x" }), [0, 1_000], 1],
  ["refusing: said once", new KubeError("forbidden", { status: 403, reason: "Forbidden" }), [0], 1],
  ["without the claim: nobody reads it", new KubeError("gone", { status: 404, reason: "NotFound" }), [0], 0],
  ["with another claim of that name", new KubeError("conflict", { status: 409, reason: "Conflict" }), [0], 0],
])("an API server that is %s", async ([, failure, atMs, told]) => {
  const { timing, sent, errors, writer } = open([failure]);
  const startMs = timing.nowMs();
  writer.push(claim("a", whole));
  await timing.advance(60_000);
  expect(sent.map((each) => each.atMs - startMs - firstMs)).toEqual(atMs);
  expect(errors).toHaveLength(told);
  await writer.stop();
});

test("a claim that tells its devices needs no other write; one with the UUID of a former partition does", () => {
  const { status, ...object } = claimObject("a", []);
  const telling = (uuid: string) => ({
    ...object,
    status: { ...status, devices: [{ driver: "gpu.kllama.ai", pool: "n", device: part.device, data: { uuid } }] },
  });
  expect(tellsDevices(telling("MIG-1") as never, claim("a", part))).toBe(true);
  expect(tellsDevices(telling("MIG-0") as never, claim("a", part))).toBe(false);
  expect(tellsDevices(object as never, claim("a", part))).toBe(false);
});

test("a device that two requests of the claim have, one for administration, is told once: the API server refuses it twice", async () => {
  const { timing, sent, writer } = open([]);
  writer.push(claim("a", whole, { ...whole, request: "watch", adminAccess: true }, part));
  await timing.advance(firstMs);
  const { status } = sent[0]!.options.body as { status: { devices: { device: string }[] } };
  expect(status.devices.map(({ device }) => device)).toEqual(["gpu-1", "gpu-1-mig-1g10gb-19-0"]);
});
