import { describe, expect, test } from "vitest";
import { stringify } from "yaml";
import { gangSpec } from "../../../src/api/gang.ts";
import { desired, instanceUrl } from "../../../src/serving/desired.ts";
import type { OwnedObject, StatefulSet } from "../../../src/serving/owned.ts";
import { llmCluster } from "./builders.ts";

const ofKind = <T extends OwnedObject>(objects: OwnedObject[], kind: string): T =>
  objects.find((object) => object.kind === kind) as T;

const serverOf = (objects: OwnedObject[]) =>
  ofKind<StatefulSet>(objects, "StatefulSet").spec.template.spec.containers[0] as unknown as {
    args?: string[];
    env: { name: string; value?: string; valueFrom?: unknown }[];
    resources: unknown;
  };

describe("desired", () => {
  test("Llama-3-70B, TP-8 as 2 pods × 4 GPUs, is the golden YAML", async () => {
    const cluster = llmCluster(
      {
        model: "meta-llama/Llama-3-70B",
        args: ["--tensor-parallel-size=$(TENSOR_PARALLEL_SIZE)"],
        resources: { requests: { cpu: "8", memory: "64Gi" } },
        tolerations: [{ key: "nvidia.com/gpu", operator: "Exists", effect: "NoSchedule" }],
        nodeSelector: { "kubernetes.io/arch": "arm64" },
        priorityClassName: "serving",
        devices: { selectors: ["device.attributes['gpu.kllama.ai'].productName == 'H100'"] },
        placement: { constraints: [{ level: "nvlink-domain" }] },
      },
      { labels: { app: "llama-3-70b", team: "chat" } },
    );
    const text = desired(cluster)
      .map((object) => stringify(object, { lineWidth: 0, aliasDuplicateObjects: false }))
      .join("---\n");
    expect(text).not.toMatch(/: (null|undefined|\{\}|\[\]|"")$/m);
    await expect(text).toMatchFileSnapshot("./desired-llama-3-70b.golden.yaml");
  });

  test("every object is owned and controlled by the LLMCluster and can be found by its label", () => {
    for (const object of desired(llmCluster())) {
      expect(object.metadata.ownerReferences, object.kind).toEqual([
        {
          apiVersion: "serving.ai/v1alpha1",
          kind: "LLMCluster",
          name: "llama-3-70b-a",
          uid: "11111111-2222-3333-4444-555555555555",
          controller: true,
        },
      ]);
      expect(object.metadata.labels?.["serving.ai/llm-cluster"], object.kind).toBe("llama-3-70b-a");
      expect(object.metadata.namespace).toBe("serving");
    }
  });

  test("the claim template's name changes with the devices asked for, and with nothing else", () => {
    const nameOf = (spec: Record<string, unknown>) =>
      ofKind(desired(llmCluster(spec)), "ResourceClaimTemplate").metadata.name;
    const name = nameOf({});
    expect(nameOf({ image: "vllm:v2", args: ["-v"], startupTimeoutSeconds: 5 })).toBe(name);
    const others = [
      nameOf({ gpusPerPod: 2, tensorParallelSize: 4 }),
      nameOf({ devices: { deviceClassName: "gpu.nvidia.com" } }),
      nameOf({ devices: { selectors: ["true"] } }),
      nameOf({ devices: { matchAttribute: "resource.kubernetes.io/pcieRoot" } }),
    ];
    expect(new Set([name, ...others]).size).toBe(5);
  });

  test("matchAttribute becomes a constraint over the claim's request", () => {
    const template = ofKind(
      desired(llmCluster({ devices: { matchAttribute: "resource.kubernetes.io/pcieRoot" } })),
      "ResourceClaimTemplate",
    );
    expect(template).toHaveProperty("spec.spec.devices.constraints", [
      { requests: ["gpus"], matchAttribute: "resource.kubernetes.io/pcieRoot" },
    ]);
  });

  test("the Gang is valid and carries placement, group, role and the labels a PlacementGroup may select by", () => {
    const cluster = llmCluster(
      {
        startupTimeoutSeconds: 90,
        placement: {
          topology: "dc",
          placementGroup: "llama",
          role: "prefill",
          constraints: [{ type: "colocate", level: "rack", mode: "preferred" }],
        },
      },
      { labels: { tier: "gold", "app.kubernetes.io/managed-by": "somebody" } },
    );
    const gang = ofKind(desired(cluster), "Gang") as OwnedObject & { spec: unknown };
    expect(gangSpec.parse(gang.spec)).toEqual({
      podSets: [{ name: "workers", count: 2, minCount: 2 }],
      constraints: [{ type: "colocate", level: "rack", mode: "preferred" }],
      topology: "dc",
      placementGroup: "llama",
      role: "prefill",
      scheduleTimeoutSeconds: 90,
      disruption: "All",
    });
    expect(gang.metadata.labels).toMatchObject({ tier: "gold", "app.kubernetes.io/managed-by": "kllama" });
  });

  test("the plain label role serves as role where the spec names none", () => {
    const objects = desired(llmCluster({ placement: { placementGroup: "llama" } }, { labels: { role: "decode" } }));
    expect(ofKind(objects, "Gang")).toHaveProperty("spec.role", "decode");
    expect(ofKind<StatefulSet>(objects, "StatefulSet").spec.template.metadata.labels).toMatchObject({
      role: "decode",
      "scheduling.kllama.ai/role": "decode",
      "scheduling.kllama.ai/gang": "llama-3-70b-a",
      "scheduling.kllama.ai/pod-set": "workers",
    });
  });

  test("labels other than app and role do not reach the pod template, so changing them restarts nothing", () => {
    const template = (labels: Record<string, string>) =>
      ofKind<StatefulSet>(desired(llmCluster({}, { labels })), "StatefulSet").spec.template;
    expect(template({ app: "a", team: "x" })).toEqual(template({ app: "a", team: "y", more: "z" }));
    expect(template({ app: "a" })).not.toEqual(template({ app: "b" }));
  });

  test("a variable of the user's replaces ours; ours come first, so that theirs may refer to them", () => {
    const { env } = serverOf(
      desired(
        llmCluster({
          env: [
            { name: "MASTER_PORT", value: "1" },
            { name: "ID", value: "r$(RANK)" },
          ],
        }),
      ),
    );
    expect(env.map((variable) => variable.name)).toEqual([
      "RANK",
      "WORLD_SIZE",
      "MASTER_ADDR",
      "TENSOR_PARALLEL_SIZE",
      "GPUS_PER_POD",
      "MASTER_PORT",
      "ID",
    ]);
    expect(env.find((variable) => variable.name === "MASTER_PORT")?.value).toBe("1");
  });

  test("rank 0's address is its name under the headless Service, which answers before anything is ready", () => {
    const objects = desired(llmCluster());
    expect(serverOf(objects).env).toContainEqual({
      name: "MASTER_ADDR",
      value: "llama-3-70b-a-0.llama-3-70b-a-ranks.serving.svc",
    });
    const headless = objects.find((object) => object.metadata.name === "llama-3-70b-a-ranks");
    expect(headless).toMatchObject({ kind: "Service", spec: { clusterIP: "None", publishNotReadyAddresses: true } });
    expect(ofKind<StatefulSet>(objects, "StatefulSet").spec.serviceName).toBe("llama-3-70b-a-ranks");
  });

  test("a long start does not make a reservation last longer", () => {
    const objects = desired(llmCluster({ startupTimeoutSeconds: 86_400 }));
    expect(ofKind(objects, "Gang")).toHaveProperty("spec.scheduleTimeoutSeconds", 600);
  });

  test("the disruption budget can be switched off", () => {
    const kinds = (enabled: boolean) =>
      desired(llmCluster({ podDisruptionBudget: { enabled, minAvailable: 2 } })).map((object) => object.kind);
    expect(kinds(true)).toContain("PodDisruptionBudget");
    expect(kinds(false)).not.toContain("PodDisruptionBudget");
  });

  test("any change of the spec changes the hash of the objects it touches", () => {
    const hashOf = (spec: Record<string, unknown>, kind: string) =>
      ofKind(desired(llmCluster(spec)), kind).metadata.annotations?.["serving.ai/desired-hash"];
    expect(hashOf({ image: "vllm:v2" }, "StatefulSet")).not.toBe(hashOf({}, "StatefulSet"));
    expect(hashOf({ image: "vllm:v2" }, "Gang")).toBe(hashOf({}, "Gang"));
  });

  test("the url is rank 0's Service", () => {
    expect(instanceUrl(llmCluster())).toBe("http://llama-3-70b-a.serving.svc.cluster.local");
  });
});
