import { describe, expect, test } from "vitest";
import type { Pod } from "../../../src/api/kubernetes.ts";
import { projectPod } from "../../../src/kube/project.ts";

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
