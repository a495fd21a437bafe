import { join } from "node:path";
import { expect, vi } from "vitest";
import type { Pod, ResourceClaim, ResourceSlice } from "../../src/api/kubernetes.ts";
import { createClient, type KubeClient } from "../../src/kube/client.ts";
import { loadConnection } from "../../src/kube/connection.ts";
import { installManifests } from "../../src/kube/install.ts";
import { claimPath, podPath } from "../../src/kube/paths.ts";
import { type ControlPlaneOptions, startControlPlane } from "../../tools/control-plane/control-plane.ts";
import { type KubeletJudge, openKubeletJudge } from "../judge/kubelet/judge.ts";
import { allocateClaim, createDriverNode, type DriverNode, reserveFor } from "./driver-node.ts";
import { type Followed, follow } from "./follow.ts";

/** A Node with the driver's folders, and the kubelet's own code as its judge. */
export interface JudgedMachine {
  driver: DriverNode;
  kubelet: KubeletJudge;
}

/** A control plane with the driver's rights and classes, and machines on which the kubelet of the same version judges. */
export interface KubeletScene {
  admin: KubeClient;
  /** Path of the administrator's. */
  kubeconfig: string;
  slicesOf(driver: DriverNode): ResourceSlice[];
  /** Its kubelet runs, the driver does not. `flags`: more of the driver's. */
  machine(type?: string, flags?: readonly string[]): Promise<JudgedMachine>;
  /**
   * A pod on the node, with one claim on these devices, reserved for it. `requests`: one container each, with that request or
   * all; `of`: a driver whose device the claim holds as well.
   */
  pod(
    on: DriverNode,
    name: string,
    results: readonly string[],
    more?: { requests?: (string | undefined)[]; of?: string; claim?: ResourceClaim },
  ): Promise<ResourceClaim>;
  /** Makes the Node one to which kube-scheduler may give pods. */
  openForPods(on: DriverNode): Promise<void>;
  /** A pod for this node, with a claim, which kube-scheduler is to place. `devices`: the claim's `spec.devices`; `requests` as above. */
  ask(
    on: DriverNode,
    name: string,
    devices: object,
    requests?: readonly (string | undefined)[],
  ): Promise<ResourceClaim>;
  /** Waits until kube-scheduler has said so of the pod. */
  until(on: DriverNode, name: string, what: "Scheduled" | "Unschedulable"): Promise<void>;
  /** Deletes the pod, and takes its claim's devices back as kube-controller-manager would. */
  giveBack(on: DriverNode, name: string): Promise<void>;
  close(): Promise<void>;
}

export const soon = { timeout: 30_000, interval: 50 };

/** The CDI device of one request. */
export function cdiIdOf(claim: ResourceClaim, request = "gpus"): string {
  return `gpu.kllama.ai/claim=${claim.metadata.uid}-${request}`;
}

export function judgedVersion(wanted: string): "1.36.3" | "1.37.1" {
  if (wanted === "1.36.3" || wanted === "1.37.1") return wanted;
  throw new Error(`KLLAMA_KUBELET=${wanted}: write 1.36.3 or 1.37.1`);
}

export async function openKubeletScene(
  version: "1.36.3" | "1.37.1",
  components: ControlPlaneOptions["components"] & object = [],
): Promise<KubeletScene> {
  const plane = await startControlPlane({ components, version });
  const admin = createClient(await loadConnection({ kubeconfigPath: plane.admin.path }));
  await installManifests(admin, ["deploy/rbac.yaml", "deploy/device-classes.yaml"]);
  const labels = { "resource.kubernetes.io/admin-access": "true" };
  await admin.request("POST", "/api/v1/namespaces", { body: { metadata: { name: "team", labels } } });
  await admin.request("POST", "/api/v1/namespaces/team/serviceaccounts", { body: { metadata: { name: "default" } } });
  const slices: Followed<ResourceSlice> = await follow(admin, "/apis/resource.k8s.io/v1/resourceslices");
  let number = 0;
  return {
    admin,
    kubeconfig: plane.admin.path,
    slicesOf: ({ name }) => [...slices.items.values()].filter(({ spec }) => spec.nodeName === name),
    async machine(type = "dgx-h100", flags = []) {
      const driver = await createDriverNode(plane, admin, `judged-${++number}`, type, flags);
      const folders = { kubelet: driver.kubeletFolder, state: join(driver.stateFolder, "kubelet") };
      const kubelet = await openKubeletJudge(version, plane.admin.path, driver.name, folders);
      await kubelet.start();
      return { driver, kubelet };
    },
    async pod(on, name, results, more = {}) {
      const claim = more.claim ?? (await allocateClaim(admin, on.name, `${on.name}-${name}`, results, more.of));
      const spec = { nodeName: on.name, ...containersWith(claim, more.requests) };
      await reserveFor(admin, claim, `${on.name}-${name}`, spec);
      return claim;
    },
    async openForPods({ name }) {
      const allocatable = { cpu: "64", memory: "512Gi", pods: "110" };
      const status = { allocatable, capacity: allocatable, conditions: [{ type: "Ready", status: "True" }] };
      await admin.request("PATCH", `/api/v1/nodes/${name}/status`, { body: { status } });
    },
    async ask(on, name, devices, requests) {
      const named = `${on.name}-${name}`;
      const claim = await admin.request<ResourceClaim>("POST", claimPath(place()), {
        body: { apiVersion: "resource.k8s.io/v1", kind: "ResourceClaim", metadata: { name: named }, spec: { devices } },
      });
      const spec = { nodeSelector: { "kubernetes.io/hostname": on.name }, ...containersWith(claim, requests) };
      await admin.request("POST", podPath(place()), {
        body: { apiVersion: "v1", kind: "Pod", metadata: { name: named }, spec },
      });
      return claim;
    },
    until: (on, name, what) =>
      vi.waitFor(async () => {
        const { spec, status } = await admin.request<Pod>("GET", podPath(place(`${on.name}-${name}`)));
        const condition = status?.conditions?.find(({ type }) => type === "PodScheduled");
        expect(spec.nodeName === undefined ? condition?.reason : "Scheduled").toBe(what);
      }, soon),
    async giveBack(on, name) {
      const named = `${on.name}-${name}`;
      await admin.request("DELETE", podPath(place(named)), { body: { gracePeriodSeconds: 0 } });
      await admin.request("PATCH", claimPath(place(named), "status"), { body: { status: { reservedFor: null } } });
      await admin.request("PATCH", claimPath(place(named), "status"), { body: { status: { allocation: null } } });
    },
    async close() {
      await slices.stop();
      await admin.close();
      await plane.stop();
    },
  };
}

const place = (name?: string) => ({ namespace: "team", name });

/** A container for each request, or one that names none of them. */
function containersWith(claim: ResourceClaim, requests: readonly (string | undefined)[] = [undefined]): object {
  const uses = requests.length === 0 ? [{}] : requests.map((request) => ({ resources: { claims: [useOf(request)] } }));
  return {
    resourceClaims: [{ name: "gpus", resourceClaimName: claim.metadata.name }],
    containers: uses.map((use, index) => ({ name: `c${index}`, image: "registry.k8s.io/pause:3.10", ...use })),
  };
}

function useOf(request: string | undefined): object {
  return { name: "gpus", ...(request === undefined ? {} : { request }) };
}
