import { describe, expect, test } from "vitest";
import type { LLMCluster } from "../../../src/api/llm-cluster.ts";
import { happenings, invalidStatus, nextStatus, type Observed } from "../../../src/serving/status.ts";
import { gang, llmCluster, pod, statefulSet, summary } from "./builders.ts";

const startMs = Date.parse("2026-01-01T00:00:00Z");

const degraded = "Degraded=False/AsExpected";
const notReady = "Ready=False/MembersNotReady";

interface Row {
  what: string;
  observed: Observed;
  ready: string;
  conditions: string[];
  says?: string;
}

const rows: Row[] = [
  {
    what: "nothing exists yet",
    observed: { templateSettled: true, pods: [] },
    ready: "0/2",
    conditions: [notReady, "Progressing=True/CreatingPods", degraded],
    says: "llama-3-70b-a-0 does not exist yet",
  },
  {
    what: "pods wait for a placement: the Gang's explanation is told",
    observed: {
      statefulSet: statefulSet(),
      templateSettled: true,
      pods: [pod(0, { ready: false }), pod(1, { ready: false })],
      gang: gang("nvlink-domain r1: needs 8 GPUs, 5 free"),
    },
    ready: "0/2",
    conditions: [notReady, "Progressing=True/WaitingForPlacement", degraded],
    says: "nvlink-domain r1: needs 8 GPUs, 5 free",
  },
  {
    what: "one of two is ready: an instance with a missing member does not serve",
    observed: {
      statefulSet: statefulSet(),
      templateSettled: true,
      pods: [pod(0), pod(1, { ready: false, node: "node-2" })],
    },
    ready: "1/2",
    conditions: [notReady, "Progressing=True/StartingPods", degraded],
    says: "llama-3-70b-a-1 is not ready on node-2",
  },
  {
    what: "all are ready",
    observed: { statefulSet: statefulSet(), templateSettled: true, pods: [pod(1), pod(0)] },
    ready: "2/2",
    conditions: ["Ready=True/AllMembersReady", "Progressing=False/Complete", degraded],
  },
  {
    what: "a ready pod on its way out does not count",
    observed: { statefulSet: statefulSet(), templateSettled: true, pods: [pod(0), pod(1, { deleting: true })] },
    ready: "1/2",
    conditions: [notReady, "Progressing=True/CreatingPods", degraded],
    says: "llama-3-70b-a-1 is being deleted",
  },
  {
    what: "a pod of a StatefulSet that had the name before does not count",
    observed: { statefulSet: statefulSet(), templateSettled: true, pods: [pod(0), pod(1, { setUid: "older" })] },
    ready: "1/2",
    conditions: [notReady, "Progressing=True/CreatingPods", degraded],
  },
  {
    what: "a surplus pod has no rank and does not count",
    observed: { statefulSet: statefulSet(), templateSettled: true, pods: [pod(0), pod(2)] },
    ready: "1/2",
    conditions: [notReady, "Progressing=True/CreatingPods", degraded],
  },
  {
    what: "members of an earlier revision still serve while the update begins",
    observed: {
      statefulSet: statefulSet(),
      templateSettled: true,
      pods: [pod(0, { revision: "old" }), pod(1, { revision: "old" })],
    },
    ready: "2/2",
    conditions: ["Ready=True/AllMembersReady", "Progressing=True/Updating", degraded],
  },
  {
    what: "the API server refuses the new spec while the old pods serve",
    observed: {
      statefulSet: statefulSet(),
      templateSettled: true,
      pods: [pod(0), pod(1)],
      problem: { reason: "InvalidSpec", message: "spec.devices.matchAttribute: bad" },
    },
    ready: "2/2",
    conditions: ["Ready=True/AllMembersReady", "Progressing=False/InvalidSpec", "Degraded=True/InvalidSpec"],
    says: "spec.devices.matchAttribute: bad",
  },
  {
    what: "somebody else's object has the name",
    observed: {
      templateSettled: true,
      pods: [],
      problem: { reason: "NameConflict", message: "Service x is not ours" },
    },
    ready: "0/2",
    conditions: [notReady, "Progressing=True/NameConflict", "Degraded=True/NameConflict"],
  },
];

describe("nextStatus", () => {
  test.each(rows)("$what", ({ observed, ready, conditions, says = "" }) => {
    const status = nextStatus(llmCluster(), observed, startMs);
    expect(status.ready).toBe(ready);
    expect(summary(status.conditions)).toEqual(conditions);
    expect(status.conditions?.map((condition) => condition.message).join("\n")).toContain(says);
    expect(status).toMatchObject({ observedGeneration: 1, gang: "llama-3-70b-a" });
    expect(status.url).toBe("http://llama-3-70b-a.serving.svc.cluster.local");
  });

  test("is equal to the one before when nothing has changed, however much time passes within the startup timeout", () => {
    for (const { observed } of rows) {
      const first = nextStatus(llmCluster(), observed, startMs);
      const later = nextStatus({ ...llmCluster(), status: first }, observed, startMs + 599_000);
      expect(later).toEqual(first);
    }
  });

  test("a condition keeps its time while its status stays, though reason and message change", () => {
    const waiting = {
      statefulSet: statefulSet(),
      templateSettled: true,
      pods: [pod(0, { ready: false }), pod(1, { ready: false })],
    };
    const starting = {
      statefulSet: statefulSet(),
      templateSettled: true,
      pods: [pod(0), pod(1, { ready: false, node: "n" })],
    };
    const first = nextStatus(llmCluster(), waiting, startMs);
    const second = nextStatus({ ...llmCluster(), status: first }, starting, startMs + 5_000);
    expect(second.conditions?.[1]).toMatchObject({
      reason: "StartingPods",
      lastTransitionTime: "2026-01-01T00:00:00Z",
    });
    const done = { statefulSet: statefulSet(), templateSettled: true, pods: [pod(0), pod(1)] };
    const third = nextStatus({ ...llmCluster(), status: second }, done, startMs + 7_900);
    expect(third.conditions?.[0]).toMatchObject({ status: "True", lastTransitionTime: "2026-01-01T00:00:07Z" });
  });

  describe("startup timeout", () => {
    const stuck: Observed = {
      statefulSet: statefulSet(),
      templateSettled: true,
      pods: [pod(0), pod(1, { ready: false, node: "node-2" })],
    };
    const degradedAfter = (cluster: LLMCluster, delayMs: number) => {
      const status = nextStatus(cluster, stuck, startMs);
      return nextStatus({ ...cluster, status }, stuck, startMs + delayMs).conditions?.[2];
    };

    test("is 600 s by default and its message says so in words", () => {
      expect(degradedAfter(llmCluster(), 599_999)?.status).toBe("False");
      const condition = degradedAfter(llmCluster(), 600_000);
      expect(condition).toMatchObject({ status: "True", reason: "StartupTimeout" });
      expect(condition?.message).toMatch(/^Startup timeout: not Ready within 600 s; .*llama-3-70b-a-1 is not ready/);
    });

    test("is the spec's", () => {
      expect(degradedAfter(llmCluster({ startupTimeoutSeconds: 5 }), 5_000)?.status).toBe("True");
    });

    test("ends when the instance becomes Ready, and begins anew when it is lost again", () => {
      const cluster = llmCluster();
      const late = nextStatus({ ...cluster, status: nextStatus(cluster, stuck, startMs) }, stuck, startMs + 700_000);
      const healthy = { statefulSet: statefulSet(), templateSettled: true, pods: [pod(0), pod(1)] };
      const ready = nextStatus({ ...cluster, status: late }, healthy, startMs + 800_000);
      expect(ready.conditions?.[2]).toMatchObject({ status: "False", lastTransitionTime: "2026-01-01T00:13:20Z" });
      const lost = nextStatus({ ...cluster, status: ready }, stuck, startMs + 900_000);
      expect(lost.conditions?.[2]?.status).toBe("False");
      const lostLong = nextStatus({ ...cluster, status: lost }, stuck, startMs + 1_500_000);
      expect(lostLong.conditions?.[2]?.status).toBe("True");
    });
  });

  test("a long instance names four members and counts the rest", () => {
    const cluster = llmCluster({ replicas: 8, gpusPerPod: 1 });
    const message = nextStatus(cluster, { templateSettled: true, pods: [] }, startMs).conditions?.[0]?.message;
    expect(message).toMatch(/^0 of 8 pods are ready: .*llama-3-70b-a-3 does not exist yet, 4 more$/);
  });
});

test("an LLMCluster that cannot be read is Degraded with all its problems", () => {
  const status = invalidStatus(llmCluster(), ["metadata.name: too long", "spec.image: missing"], startMs);
  expect(summary(status.conditions)).toEqual([
    "Ready=False/InvalidSpec",
    "Progressing=False/InvalidSpec",
    "Degraded=True/InvalidSpec",
  ]);
  expect(status.conditions?.[2]?.message).toBe("metadata.name: too long; spec.image: missing");
});

describe("happenings", () => {
  const waiting = {
    statefulSet: statefulSet(),
    templateSettled: true,
    pods: [pod(0, { ready: false }), pod(1, { ready: false })],
  };
  const done = { statefulSet: statefulSet(), templateSettled: true, pods: [pod(0), pod(1)] };
  const reasons = (before: Observed | undefined, after: Observed, delayMs = 1000) => {
    const cluster = llmCluster();
    const first = before && nextStatus(cluster, before, startMs);
    const second = nextStatus({ ...cluster, ...(first && { status: first }) }, after, startMs + delayMs);
    return happenings(first, second).map(({ type, reason }) => `${type} ${reason}`);
  };

  test.each([
    { what: "first sight", before: undefined, after: waiting, told: ["Normal WaitingForPlacement"] },
    { what: "nothing new", before: waiting, after: waiting, told: [] },
    { what: "another explanation", before: waiting, after: { ...waiting, gang: gang("other") }, told: [] },
    { what: "ready", before: waiting, after: done, told: ["Normal AllMembersReady"] },
    {
      what: "a member lost",
      before: done,
      after: { statefulSet: statefulSet(), templateSettled: true, pods: [pod(0)] },
      told: ["Warning MembersNotReady", "Normal CreatingPods"],
    },
  ])("$what", ({ before, after, told }) => {
    expect(reasons(before, after)).toEqual(told);
  });

  test("the startup timeout is told once", () => {
    expect(reasons(waiting, waiting, 600_000)).toEqual(["Warning StartupTimeout"]);
  });
});
