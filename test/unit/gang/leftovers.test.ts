import { describe, expect, test } from "vitest";
import { leftoverClaims } from "../../../src/gang/lifecycle/leftovers.ts";
import type { ClaimRecord, PodRecord } from "../../../src/topology/records.ts";
import { driver, podRecord } from "../../builders.ts";
import { allocatedClaim, clusterOf } from "../../support/cluster.ts";

/** A claim whose two devices nobody uses. */
const stranded = (more: Partial<ClaimRecord> = {}): ClaimRecord => ({
  ...allocatedClaim("c", "n1", ["gpu-0", "gpu-1"], []),
  allocatedByPlanner: true,
  ...more,
});

const results = (more: object) => ({
  devices: {
    results: [
      { request: "gpu", driver, pool: "n1", device: "gpu-0" },
      { request: "gpu", driver, pool: "n1", device: "gpu-1", ...more },
    ],
  },
});

const user = (more: Partial<PodRecord> = {}): PodRecord =>
  podRecord("p", { claims: [{ name: "gpu", claimName: "c" }], ...more });

function leftovers(claim: ClaimRecord, pods: PodRecord[] = []): string[] {
  const model = clusterOf([{ name: "n1", gpus: 8 }]);
  model.upsertClaim(claim);
  for (const pod of pods) model.upsertPod(pod);
  const { claims, pods: known } = model;
  return leftoverClaims(claims, { pods: known, managedDrivers: new Set([driver]) }).map(({ name }) => name);
}

describe("devices that nobody uses", () => {
  const yes: Record<string, [ClaimRecord, PodRecord[]?]> = {
    "no consumer, no pod": [stranded()],
    "a pod of another namespace names a claim of that name": [stranded(), [user({ namespace: "other" })]],
    "the pod that names it has ended": [stranded(), [user({ terminal: true })]],
    "other pods name other claims": [stranded(), [user({ claims: [{ name: "gpu", claimName: "d" }] })]],
    "the pod that owned it is gone": [stranded({ ownerPodUid: "gone" })],
  };
  for (const [title, [claim, pods]] of Object.entries(yes)) {
    test(`are found: ${title}`, () => expect(leftovers(claim, pods)).toEqual(["c"]));
  }
});

describe("what is somebody's, or not kllama's to judge, is left alone", () => {
  const consumers = (consumer: object) => ({ reservedFor: [{ resource: "pods", name: "x", uid: "x", ...consumer }] });
  const { allocation: _, ...unallocated } = stranded();
  const { allocatedByPlanner: __, ...allocatedByAUser } = stranded();
  const no: Record<string, [ClaimRecord, PodRecord[]?]> = {
    "it holds nothing": [unallocated],
    "a pod stands in reservedFor, be it gone: kube-controller-manager's": [stranded(consumers({}))],
    "a guard stands in reservedFor: the lifecycle's": [
      stranded(consumers({ apiGroup: "scheduling.kllama.ai", resource: "gangs" })),
    ],
    "somebody unknown stands in reservedFor": [stranded(consumers({ apiGroup: "example.com", resource: "jobs" }))],
    "it is being deleted: kube-controller-manager's": [stranded({ deleting: true })],
    "somebody else allocated it": [allocatedByAUser],
    "a device of another driver": [stranded({ allocation: results({ driver: "gpu.example.com" }) })],
    "an administrator's access": [stranded({ allocation: results({ adminAccess: true }) })],
    "an allocation without devices": [stranded({ allocation: {} })],
    "a pod that waits names it": [stranded(), [user()]],
    "a pod that runs names it": [stranded(), [user({ nodeName: "n1" })]],
    "a pod that is being deleted names it": [stranded(), [user({ deleting: true })]],
    "its owner is there and its status does not name it yet": [
      stranded({ ownerPodUid: "pod-uid" }),
      [user({ uid: "pod-uid", claims: [{ name: "gpu" }] })],
    ],
  };
  for (const [title, [claim, pods]] of Object.entries(no)) {
    test(title, () => expect(leftovers(claim, pods)).toEqual([]));
  }
});
