import { describe, expect, test } from "vitest";
import type { Pod } from "../../../src/api/kubernetes.ts";
import { projectGang, projectPod } from "../../../src/kube/project.ts";

type Resources = NonNullable<Pod["spec"]["containers"][number]["resources"]>;

const cpu = (requests: string, more: Partial<Resources> = {}): Resources => ({ requests: { cpu: requests }, ...more });
const main = (resources: Resources) => ({ name: "main", resources });
const init = (resources: Resources) => ({ name: "init", resources });
const sidecar = (resources: Resources) => ({ name: "sidecar", resources, restartPolicy: "Always" });

/** `PodRequests` of `k8s.io/component-helpers/resource`: what kube-scheduler takes a pod to need of a node. */
describe("what a pod takes of a node is what kube-scheduler counts", () => {
  test.for([
    ["its containers together", { containers: [main(cpu("1")), main(cpu("500m"))] }, { cpu: 1500 }],
    ["the limit of what is not requested", { containers: [main({ limits: { cpu: "2" } })] }, { cpu: 2000 }],
    [
      "the request where there is a limit too",
      { containers: [main(cpu("1", { limits: { cpu: "4" } }))] },
      { cpu: 1000 },
    ],
    [
      "the largest of the init containers, when it is more",
      { initContainers: [init(cpu("3")), init(cpu("2"))], containers: [main(cpu("1"))] },
      { cpu: 3000 },
    ],
    [
      "not the init containers, when they are less",
      { initContainers: [init(cpu("1")), init(cpu("1"))], containers: [main(cpu("1500m"))] },
      { cpu: 1500 },
    ],
    [
      "sidecars beside the containers",
      { initContainers: [sidecar(cpu("1"))], containers: [main(cpu("2"))] },
      { cpu: 3000 },
    ],
    [
      "sidecars beside the init containers after them, not beside those before",
      { initContainers: [init(cpu("5")), sidecar(cpu("1")), init(cpu("5"))], containers: [main(cpu("1"))] },
      { cpu: 6000 },
    ],
    [
      "each resource by itself",
      {
        initContainers: [init({ requests: { memory: "4Gi" } })],
        containers: [main({ requests: { cpu: "1", memory: "1Gi" } })],
      },
      { cpu: 1000, memory: 4 * 2 ** 30 },
    ],
    ["overhead on top", { containers: [main(cpu("1"))], overhead: { cpu: "250m" } }, { cpu: 1250 }],
    [
      "what is stated for the whole pod, instead of its containers, and overhead on top of that",
      { containers: [main(cpu("1")), main(cpu("1"))], resources: cpu("3"), overhead: { cpu: "250m" } },
      { cpu: 3250 },
    ],
    [
      "the limit of the whole pod where neither it nor its containers request anything",
      {
        containers: [main(cpu("1"))],
        resources: { limits: { cpu: "4", memory: "1Gi" } },
      },
      { cpu: 1000, memory: 2 ** 30 },
    ],
    [
      "extended resources as they are, and no marker of kllama's",
      {
        containers: [
          main({
            limits: {
              "example.com/nic": "2",
              "scheduling.kllama.ai/bind": "1",
              "scheduling.kllama.ai/member": "1",
            },
          }),
        ],
      },
      { "example.com/nic": 2 },
    ],
  ] as const)("%s", ([, spec, requests]) => {
    const pod = { metadata: { name: "p", namespace: "team" }, spec } as unknown as Pod;
    expect(projectPod(pod).requests).toEqual({ ...requests, pods: 1 });
  });

  test("a quantity that is none is told with the pod's name", () => {
    const pod = { metadata: { name: "p", namespace: "team" }, spec: { containers: [main(cpu("lots"))] } };
    expect(() => projectPod(pod as unknown as Pod)).toThrow(/team\/p: resource cpu/);
  });
});

describe("a Gang that was read before", () => {
  const gang = (spec: object, status?: object) => ({
    metadata: { name: "g", namespace: "team" },
    spec,
    ...(status && { status }),
  });
  const podSets = [{ name: "ranks", count: 2 }];
  const spec = { podSets, topology: "default", scheduleTimeoutSeconds: 600, disruption: "All" };
  const known = projectGang(gang(spec, { phase: "Pending" }));

  test.for([
    ["is as it was", gang(spec, { phase: "Pending" })],
    ["has lost its status", gang(spec)],
    ["is in another phase", gang(spec, { phase: "Reserved", reservedAt: "2026-01-01T00:00:00Z" })],
    ["has another spec", gang({ ...spec, podSets: [{ name: "ranks", count: 3 }] }, { phase: "Pending" })],
    ["has a spec without what defaults say", gang({ podSets }, { phase: "Pending" })],
  ] as const)("and %s reads as if it was not", ([, raw]) => {
    expect(projectGang(raw, known)).toEqual(projectGang(raw));
  });

  test("and cannot be read any more is refused", () => {
    expect(() => projectGang(gang({ ...spec, podSets: [] }), known)).toThrow();
    expect(() => projectGang(gang(spec, { phase: "Lost" }), known)).toThrow();
  });

  test("keeps what is the same in it", () => {
    const { spec: read, status } = projectGang(gang(spec, { phase: "Pending" }), known);
    expect(read).toBe(known.spec);
    expect(status).toBe(known.status);
  });
});
