import { describe, expect, test } from "vitest";
import type { KubernetesObject } from "../../../src/api/kubernetes.ts";
import { readCluster } from "../../../src/serving/validate.ts";
import { llmCluster } from "./builders.ts";

const raw = (spec: unknown, name = "llama"): KubernetesObject => ({ metadata: { name }, spec }) as KubernetesObject;
const minimal = { image: "vllm:v1", tensorParallelSize: 8, replicas: 2, gpusPerPod: 4 };

describe("readCluster", () => {
  test("fills the defaults of an object stored without them", () => {
    const read = readCluster(raw(minimal));
    expect(read).toMatchObject({
      cluster: {
        spec: {
          port: 8000,
          startupTimeoutSeconds: 600,
          devices: { deviceClassName: "gpu.kllama.ai" },
          placement: { topology: "default" },
          podDisruptionBudget: { enabled: true, minAvailable: 1 },
        },
      },
    });
  });

  test("keeps metadata and status", () => {
    const cluster = { ...llmCluster(), status: { ready: "1/2" } };
    expect(readCluster(cluster)).toEqual({ cluster });
  });

  test.each([
    { what: "no spec", object: raw(undefined), says: [/^spec\.image: /, /^spec\.replicas: /] },
    { what: "a field of the wrong type", object: raw({ ...minimal, replicas: "2" }), says: [/^spec\.replicas: /] },
    {
      what: "a name too long for the pods of a StatefulSet",
      object: raw(minimal, "a".repeat(53)),
      says: [/^metadata\.name: 53 characters, .*at most 52; create it again under a shorter name$/],
    },
    {
      what: "a name no Service can have",
      object: raw(minimal, "70b.llama"),
      says: [/^metadata\.name: its Services need/],
    },
    {
      what: "a product that does not come out",
      object: raw({ ...minimal, gpusPerPod: 8 }),
      says: [/^spec\.tensorParallelSize: 8, but replicas × gpusPerPod = 2 × 8 = 16; make them equal$/],
    },
    {
      what: "a variable set twice",
      object: raw({ ...minimal, env: [1, 2, 3].map((n) => ({ name: n === 2 ? "B" : "A", value: "" })) }),
      says: [/^spec\.env: A is set more than once; keep one entry$/],
    },
  ])("$what is refused with field and remedy", ({ object, says }) => {
    const read = readCluster(object);
    const problems = "problems" in read ? read.problems : [];
    for (const pattern of says) expect(problems).toContainEqual(expect.stringMatching(pattern));
  });

  test("52 characters are allowed", () => {
    expect(readCluster(raw(minimal, "a".repeat(52)))).toHaveProperty("cluster");
  });
});
