import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { KubernetesObject, ResourceClaim } from "../../src/api/kubernetes.ts";
import { type Child, startChild } from "../../src/cli/system/children.ts";
import { socketPaths } from "../../src/dra/driver/socket-files.ts";
import type { KubeClient } from "../../src/kube/client.ts";
import { resourcePath } from "../../src/kube/paths.ts";
import type { ControlPlane } from "../../tools/control-plane/control-plane.ts";
import { claimObject } from "./driver.ts";
import { connectKubelet, type KubeletClient } from "./kubelet-client.ts";

/** One process of the driver. */
export interface DriverProcess {
  /** Starts it (again) and waits until its sockets are open. */
  start(environment?: Record<string, string>): Promise<void>;
  /** Resolves when it is gone. */
  kill(signal: NodeJS.Signals): Promise<void>;
  /** Stops it in its tracks, or lets it go on. */
  freeze(frozen: boolean): void;
  /** Everything it logged, JSON lines. */
  log(): string[];
  /** The kubelet's side of its sockets as they are now; close it. */
  connect(): KubeletClient;
}

/** A Node of a real API server with the compiled driver beside it, under the account and token that it has in a cluster. */
export interface DriverNode extends DriverProcess {
  name: string;
  /** The kubelet's folder. */
  kubeletFolder: string;
  cdiFolder: string;
  stateFolder: string;
  draSocket: string;
  registrationSocket: string;
  /** A process with sockets of its own, beside the others: one of two in a rolling update. */
  inPod(podUid: string, more?: readonly string[]): DriverProcess;
  /** Kills the driver and removes its folders; Node and slices stay. */
  remove(): Promise<void>;
}

const namespace = "kllama-system";
/** All agents of all tests share their compiled code: each has a state folder of its own, and compiling takes a second. */
const compiled = { NODE_COMPILE_CACHE: join(tmpdir(), `kllama-test-compile-cache-${process.getuid?.() ?? 0}`) };

/** Creates Node, agent pod and folders; the driver is not started. */
export async function createDriverNode(
  plane: ControlPlane,
  admin: KubeClient,
  name: string,
  nodeType: string,
  more: readonly string[] = [],
): Promise<DriverNode> {
  const folder = mkdtempSync(join(tmpdir(), "kllama-node-"));
  const kubeletFolder = join(folder, "kubelet");
  const cdiFolder = join(folder, "cdi");
  const stateFolder = join(folder, "state");
  await admin.request("POST", "/api/v1/nodes", {
    body: { apiVersion: "v1", kind: "Node", metadata: { name, labels: { "kubernetes.io/hostname": name } } },
  });
  const pod = await agentPod(admin, name);
  const { path } = await plane.serviceAccountKubeconfig(namespace, "kllama-node-agent", { pod });
  const flags = [
    ...["--kubeconfig", path, "--node-name", name, "--inventory", `simulated:${nodeType}`],
    ...["--kubelet-dir", kubeletFolder, "--cdi-dir", cdiFolder, "--state-dir", stateFolder],
    ...["--metrics-address", "127.0.0.1:0", ...more],
  ];
  mkdirSync(stateFolder);
  const draSocket = join(kubeletFolder, "plugins/gpu.kllama.ai/dra.sock");
  const registrationSocket = join(kubeletFolder, "plugins_registry/gpu.kllama.ai-reg.sock");
  const processes: DriverProcess[] = [];
  const processOf = (sockets: () => { dra: string; registration: string }, logDir: string, own: readonly string[]) => {
    let child: Child | undefined;
    const made: DriverProcess = {
      async start(environment = {}) {
        child = startChild({
          name: "node-agent",
          flags: [...flags, ...own],
          logDir,
          environment: { ...compiled, ...environment },
        });
        await child.ready;
      },
      async kill(signal) {
        child?.kill(signal);
        await child?.exited;
      },
      freeze: (frozen) => child?.kill(frozen ? "SIGSTOP" : "SIGCONT"),
      log: () => readFileSync(join(logDir, "kllama-node-agent.log"), "utf8").trim().split("\n"),
      connect: () => connectKubelet(sockets().registration, sockets().dra),
    };
    processes.push(made);
    return made;
  };
  return {
    ...{ name, kubeletFolder, cdiFolder, stateFolder, draSocket, registrationSocket },
    ...processOf(() => ({ dra: draSocket, registration: registrationSocket }), stateFolder, []),
    inPod(podUid, own = []) {
      const logDir = join(folder, podUid);
      mkdirSync(logDir);
      return processOf(() => socketsOfPod(kubeletFolder, podUid), logDir, ["--pod-uid", podUid, ...own]);
    },
    async remove() {
      await Promise.all(processes.map(({ kill }) => kill("SIGKILL")));
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** The sockets of the process that runs in a pod: each start gives them other names, and removes those of killed ones. */
export function socketsOfPod(kubeletFolder: string, podUid: string): { dra: string; registration: string } {
  const { registry } = socketPaths(kubeletFolder, undefined);
  const prefix = `gpu.kllama.ai-${podUid}-`;
  const [name] = readdirSync(registry).filter((each) => each.startsWith(prefix));
  if (name === undefined) throw new Error(`${registry}: no socket of pod ${podUid}`);
  return socketPaths(kubeletFolder, name.slice("gpu.kllama.ai-".length, -"-reg.sock".length));
}

/** The token of a pod on the node lets its driver write `status.devices`, and nobody else's. */
async function agentPod(admin: KubeClient, nodeName: string): Promise<{ name: string; uid: string }> {
  const name = `kllama-node-agent-${nodeName}`;
  const { metadata } = await admin.request<KubernetesObject>("POST", `/api/v1/namespaces/${namespace}/pods`, {
    body: {
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name },
      spec: {
        nodeName,
        serviceAccountName: "kllama-node-agent",
        containers: [{ name: "agent", image: "registry.k8s.io/pause:3.10" }],
      },
    },
  });
  return { name, uid: metadata.uid ?? "" };
}

const claims = (name?: string, subresource?: string): string =>
  resourcePath({
    ...{ group: "resource.k8s.io", version: "v1", resource: "resourceclaims", namespace: "team" },
    name,
    subresource,
  });

/**
 * Creates a claim and allocates it as a scheduler would. `results` as `claimObject` takes them; `of`: another driver that
 * the claim holds device `other` of as well, by request `other`.
 */
export async function allocateClaim(
  admin: KubeClient,
  nodeName: string,
  name: string,
  results: readonly string[],
  of?: string,
): Promise<ResourceClaim> {
  const { status } = claimObject(name, results, { pool: nodeName });
  if (of !== undefined) {
    status?.allocation?.devices?.results?.push({ request: "other", driver: of, pool: "other", device: "other" });
  }
  // By this the API server knows whose node it is, and that its driver may write status.devices.
  const matchFields = [{ key: "metadata.name", operator: "In", values: [nodeName] }];
  const allocation = { ...status?.allocation, nodeSelector: { nodeSelectorTerms: [{ matchFields }] } };
  const asked = [...results, ...(of === undefined ? [] : ["other "])];
  const requests = [...new Set(asked.map((text) => text.split(" ", 1)[0] ?? ""))];
  await admin.request("POST", claims(), {
    body: {
      apiVersion: "resource.k8s.io/v1",
      kind: "ResourceClaim",
      metadata: { name },
      spec: {
        devices: {
          requests: requests.map((request) => ({
            name: request,
            exactly: {
              deviceClassName: "gpu.kllama.ai",
              count: asked.filter((text) => text.startsWith(`${request} `)).length,
              ...(asked.some((text) => text.startsWith(`${request} `) && text.endsWith(" admin"))
                ? { adminAccess: true }
                : {}),
            },
          })),
        },
      },
    },
  });
  return admin.request<ResourceClaim>("PATCH", claims(name, "status"), { body: { status: { allocation } } });
}

export function readClaim(admin: KubeClient, name: string): Promise<ResourceClaim> {
  return admin.request<ResourceClaim>("GET", claims(name));
}

/** Creates the pod that uses a claim and enters it in `reservedFor`, beside others, as a scheduler would. */
export async function reserveFor(admin: KubeClient, claim: ResourceClaim, name: string, spec: object): Promise<void> {
  const { status } = await readClaim(admin, claim.metadata.name);
  const pod = await admin.request<KubernetesObject>("POST", "/api/v1/namespaces/team/pods", {
    body: { apiVersion: "v1", kind: "Pod", metadata: { name }, spec },
  });
  const reservedFor = [...(status?.reservedFor ?? []), { resource: "pods", name, uid: pod.metadata.uid }];
  await admin.request("PATCH", claims(claim.metadata.name, "status"), { body: { status: { reservedFor } } });
}
