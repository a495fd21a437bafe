import fc from "fast-check";
import { expect, test } from "vitest";
import { type LLMCluster, llmClusterSpec } from "../../src/api/llm-cluster.ts";
import { covers } from "../../src/serving/covers.ts";
import { desired } from "../../src/serving/desired.ts";
import type { StatefulSet } from "../../src/serving/owned.ts";
import { readCluster } from "../../src/serving/validate.ts";

const labels = fc.dictionary(fc.constantFrom("app", "role", "team", "tier"), fc.constantFrom("a", "b"));

const cluster = fc
  .record({
    replicas: fc.integer({ min: 1, max: 16 }),
    gpusPerPod: fc.integer({ min: 1, max: 8 }),
    labels,
    nodeSelector: fc.option(labels, { nil: undefined }),
    env: fc.uniqueArray(fc.constantFrom("RANK", "MASTER_ADDR", "A", "B"), { maxLength: 4 }),
    level: fc.option(fc.constantFrom("rack", "nvlink-domain"), { nil: undefined }),
    selectors: fc.option(fc.array(fc.constantFrom("true", "false"), { maxLength: 2 }), { nil: undefined }),
  })
  .map(
    ({ replicas, gpusPerPod, labels, nodeSelector, env, level, selectors }): LLMCluster => ({
      metadata: { name: "llama", namespace: "serving", uid: "uid", labels },
      spec: llmClusterSpec.parse({
        image: "vllm:v1",
        replicas,
        gpusPerPod,
        tensorParallelSize: replicas * gpusPerPod,
        nodeSelector,
        env: env.map((name) => ({ name, value: "1" })),
        devices: { selectors },
        placement: { constraints: level === undefined ? undefined : [{ level }] },
      }),
    }),
  );

/** The same value with every map's keys in the opposite order, as another encoder may deliver it. */
function turned<T>(value: T): T {
  if (Array.isArray(value)) return value.map(turned) as T;
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      .reverse()
      .map(([key, field]) => [key, turned(field)]),
  ) as T;
}

test("desired depends on what the LLMCluster says, not on how it is written down", () => {
  fc.assert(
    fc.property(cluster, (object) => {
      expect(desired(turned(object))).toEqual(desired(object));
      expect(covers(desired(turned(object)), desired(object))).toBe(true);
    }),
  );
});

test("every rank learns its ordinal and the size of its world, each variable stands once, and all is plain JSON", () => {
  fc.assert(
    fc.property(cluster, (object) => {
      expect(readCluster(object)).toHaveProperty("cluster");
      const objects = desired(object);
      expect(JSON.parse(JSON.stringify(objects))).toStrictEqual(objects);
      const set = objects.find(({ kind }) => kind === "StatefulSet") as StatefulSet;
      const env = (set.spec.template.spec.containers[0] as unknown as { env: { name: string; value?: string }[] }).env;
      const names = env.map(({ name }) => name);
      expect(new Set(names).size).toBe(names.length);
      expect(names).toEqual(expect.arrayContaining(["RANK", "MASTER_ADDR"]));
      expect(env.find(({ name }) => name === "WORLD_SIZE")?.value).toBe(String(set.spec.replicas));
      expect(env.find(({ name }) => name === "TENSOR_PARALLEL_SIZE")?.value).toBe(
        String(object.spec.replicas * object.spec.gpusPerPod),
      );
    }),
  );
});
