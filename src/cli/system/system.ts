import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import {
  type ControlPlane,
  type ControlPlaneOptions,
  startControlPlane,
} from "../../../tools/control-plane/control-plane.ts";
import { freePorts } from "../../../tools/control-plane/ports.ts";
import { extenderEntries } from "../../api/extender-configuration.ts";
import type { KubeClient } from "../../kube/client.ts";
import { installManifests } from "../../kube/install.ts";
import { type Child, startChild } from "./children.ts";

/**
 * A whole system on this machine, in parts: a real control plane, what is installed on it, and kllama's processes under
 * their own accounts. The demo, cluster tests and benchmarks put it together, each in its own order.
 */

const namespace = "kllama-system";
const schedulerName = "system:kube-scheduler";

/** The planner's address and the certificates of both ends; files, as kube-scheduler and the planner read them. */
export interface ExtenderAccess {
  url: string;
  listen: string;
  serverFiles: { cert: string; key: string };
  clientFiles: { cert: string; key: string };
  authorityFile: string;
  client: { cert: string; key: string; ca: string };
}

/**
 * Everything but kube-scheduler, which has to know the planner's address and certificates first. `nodeAgents: false`:
 * also without kwok, so that pods are bound and never start.
 */
export function startBase({
  nodeAgents = true,
  ...options
}: Omit<ControlPlaneOptions, "components"> & { nodeAgents?: boolean }): Promise<ControlPlane> {
  return startControlPlane({
    ...options,
    components: ["etcd", "kube-apiserver", "kube-controller-manager", ...(nodeAgents ? (["kwok"] as const) : [])],
  });
}

/** Chooses the planner's port and issues the certificates by which planner and kube-scheduler know each other. */
export async function prepareExtender(controlPlane: ControlPlane): Promise<ExtenderAccess> {
  const folder = join(controlPlane.dataDir, "extender");
  const [[port], server, client] = await Promise.all([
    freePorts(1),
    controlPlane.issueCertificate({ commonName: "kllama-planner", ipAddresses: ["127.0.0.1"], usages: ["server"] }),
    controlPlane.issueCertificate({ commonName: schedulerName, usages: ["client"] }),
    mkdir(folder, { recursive: true, mode: 0o700 }),
  ]);
  const write = async (name: string, text: string): Promise<string> => {
    const path = join(folder, name);
    await writeFile(path, text, { mode: 0o600 });
    return path;
  };
  return {
    url: `https://127.0.0.1:${port}`,
    listen: `127.0.0.1:${port}`,
    serverFiles: {
      cert: await write("server.crt", server.certificatePem),
      key: await write("server.key", server.keyPem),
    },
    clientFiles: {
      cert: await write("client.crt", client.certificatePem),
      key: await write("client.key", client.keyPem),
    },
    authorityFile: await write("ca.crt", controlPlane.authorityPem),
    client: { cert: client.certificatePem, key: client.keyPem, ca: controlPlane.authorityPem },
  };
}

/** Starts kube-scheduler with the extender that was prepared. */
export async function startScheduler(controlPlane: ControlPlane, access: ExtenderAccess): Promise<void> {
  const { cert, key } = access.clientFiles;
  const tls = { caFile: access.authorityFile, certFile: cert, keyFile: key };
  await controlPlane.startScheduler({
    extenders: extenderEntries({ url: access.url, tls }),
    percentageOfNodesToScore: 100,
  });
}

/** What is installed on a cluster, as `kubectl apply -f` would take it: CRDs, accounts, policies, device classes. */
const simulator = "deploy/simulator/rbac.yaml";
const manifests = ["crds", "deploy/rbac.yaml", simulator, "deploy/policies.yaml", "deploy/device-classes.yaml"];

/** What a cluster without kllama needs for simulated nodes: accounts and device classes. */
const stockManifests = ["deploy/rbac.yaml", simulator, "deploy/device-classes.yaml"];

/** Installs as an administrator does. `stock`: for a cluster on which kube-scheduler allocates alone. */
export async function install(client: KubeClient, { stock = false } = {}): Promise<void> {
  const fileOf = (path: string): string => fileURLToPath(new URL(`../../../${path}`, import.meta.url));
  await installManifests(client, (stock ? stockManifests : manifests).map(fileOf));
}

const accounts = { planner: "kllama-planner", operator: "kllama-operator", "simulate-fleet": "kllama-simulator" };

/** A pod object that stands for a process outside the cluster, so that its token names it. */
export interface PodIdentity {
  name: string;
  uid: string;
}

/**
 * Path of a kubeconfig for the account under which a process of kllama runs. With a pod its token is bound to it, as a
 * token inside a cluster is.
 */
export async function kubeconfigOf(
  controlPlane: ControlPlane,
  name: keyof typeof accounts,
  pod?: PodIdentity,
): Promise<string> {
  const options = pod === undefined ? {} : { pod };
  return (await controlPlane.serviceAccountKubeconfig(namespace, accounts[name], options)).path;
}

/** Prepares a process of kllama under its own account; the function returned starts it, as often as it is called. */
export async function prepareProcess(
  controlPlane: ControlPlane,
  name: keyof typeof accounts,
  flags: readonly string[],
  pod?: PodIdentity,
): Promise<(environment?: Record<string, string>) => Child> {
  const kubeconfig = await kubeconfigOf(controlPlane, name, pod);
  const logDir = join(controlPlane.dataDir, "logs");
  return (environment = {}) => startChild({ name, flags: ["--kubeconfig", kubeconfig, ...flags], logDir, environment });
}

/** Flags of a planner that serves kube-scheduler at the address that was prepared. */
export function plannerFlags({ listen, serverFiles, authorityFile }: ExtenderAccess): string[] {
  const { cert, key } = serverFiles;
  const tls = ["--tls-cert", cert, "--tls-key", key, "--client-ca", authorityFile, "--client-name", schedulerName];
  return ["--namespace", namespace, "--listen", listen, ...tls];
}
